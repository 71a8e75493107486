"""`hooke replay` as it is typed: a stranger's trace, a service's own arrivals, and errors that name the fix."""

from __future__ import annotations

import json
import random
import time

import pytest
from tests.cli.conftest import Desk

from hooke.journal.service_events import BatchSize, BatchWindow, MethodBatches
from hooke.project.folder import Project
from hooke.services.arrival_log import ArrivalLog
from hooke.services.service_runs import ServiceRun
from hooke.services.supervisor.service_folder import ServiceDescriptor, ServiceFolder
from hooke.serving.service import service, service_of

pytestmark = pytest.mark.needs("processes")
NAMES = ["Hooke", "constant", "Kubernetes HPA", "Knative KPA", "KEDA", "Ray Serve"]


def trace(desk: Desk) -> None:
    chance, at, lines = random.Random(1), 0.0, ["time,prompt"]
    while at < 900:
        at += chance.expovariate(120 if at % 300 < 60 else 30)
        lines.append(f"{at:.3f},{chance.randint(1, 9)}")
    desk.write("requests.csv", "\n".join(lines))


@pytest.mark.long
def test_a_trace_of_a_stranger(desk: Desk) -> None:
    trace(desk)
    asked = ("replay", "--trace", "requests.csv", "--slo", "p99 < 500ms", "--start-time", "10s")
    done = desk.hooke(*asked)
    assert done.code == 0, done.err
    assert "for 99 %, the SLO" in done.out
    facts = json.loads(desk.hooke(*asked, "--json", "--replicas", "1:12").out)
    points = {one["autoscaler"]: one for one in facts["points"] if one["goal"] == 99.0}
    assert sorted(points) == sorted(NAMES)
    assert points["Hooke"]["kept"]
    kept = [one["hours"] for one in points.values() if one["kept"]]
    assert points["Hooke"]["hours"] <= min(kept) * 1.05


def test_the_arrivals_of_a_service(desk: Desk) -> None:
    @service
    class Slow:
        def predict(self, x: int) -> int:
            return x

    project = Project.find(desk.write("slow.py", ""))
    project.create()
    declared = service_of(Slow)
    with ServiceRun(project, declared, entry="slow.py:Slow", shown={}, replicas=(1, 8)) as run:
        for at in range(12):
            size = BatchSize(100, 100, 5.0, 0.25)
            predict = MethodBatches(method="predict", sizes=(size,))
            run.window(
                BatchWindow(at=time.time() + at, seconds=5.0, methods=(predict,), requests=100, busy_s=5.0)
            )
    folder = ServiceFolder.of(project, declared.name)
    folder.create()
    folder.write_record(ServiceDescriptor(service="Slow", target="slow.py", run=run.id, pid=1))
    log, chance = ArrivalLog(folder.arrivals), random.Random(2)
    for second in range(1200):
        log.add(1_700_000_000 + second, chance.randint(10, 60))
    log.end_block()
    log.flush()
    done = desk.hooke("replay", "Slow")
    assert done.code == 2
    assert "declares no SLO" in done.err
    done = desk.hooke("replay", "Slow", "--slo", "p99 < 500ms", "--json")
    assert done.code == 0, done.err
    station = json.loads(done.out)["station"]
    assert station["rate"] == pytest.approx(20.0)
    assert station["wait_s"] == pytest.approx(0.45)


@pytest.mark.long
def test_errors_name_the_fix(desk: Desk) -> None:
    desk.write("requests.csv", "time\n1.5\nsoon\n")
    for asked, why in (
        (("--trace", "requests.csv"), 'add --slo "p99 < 500ms"'),
        (("--trace", "requests.csv", "--slo", "p99 < 1s"), "requests.csv:3: 'soon' is not a time"),
        (("--trace", "none.csv", "--slo", "p99 < 1s"), "none.csv cannot be read"),
        (("--trace", "requests.csv", "--slo", "p99 < 10ms"), "cannot keep p99 < 10.0 ms"),
    ):
        done = desk.hooke("replay", *asked)
        assert done.code == 2, asked
        assert why in done.err
