"""What `hooke replay` reads and replays."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.generation.test_token_law import windows
from tests.serving.openai.paged_model import Paged

from hooke.autoscaling.replay import Station
from hooke.base.errors import UsageError
from hooke.project.folder import Project
from hooke.services.arrival_log import ArrivalLog
from hooke.services.replay_report import read_trace, recorded_service, replay_frontier
from hooke.services.service_runs import ServiceRun
from hooke.services.supervisor.service_folder import ServiceDescriptor, ServiceFolder, find_service
from hooke.serving.service import service_of


@pytest.mark.parametrize("data", [b"\xff\xfe1\n2\n", b"1\n" + b"1" * 200_000])
def test_a_file_that_is_no_csv_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "requests.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"requests\.csv is not a CSV"):
        read_trace(path)


def test_what_is_more_than_ten_days_old_is_not_replayed() -> None:
    counts = np.zeros(11 * 86_400, dtype=np.int64)
    counts[:1000] = 5
    with pytest.raises(UsageError, match="0 requests are too few"):
        replay_frontier(counts, Station(rate=20.0, wait_s=0.45), low=1, high=4)


def test_what_is_asked_of_a_service_that_need_not_run_names_its_own_command(tmp_path: Path) -> None:
    project = Project.at(tmp_path)
    project.create()
    with pytest.raises(UsageError, match="no service was served here yet"):
        find_service(project, "", verb="replay", running=False)
    for name in ("A", "B"):
        folder = ServiceFolder.of(project, name)
        folder.create()
        folder.write_record(ServiceDescriptor(service=name, target="a.py", run="r", pid=1))
    with pytest.raises(UsageError, match="there are 2 services") as refused:
        find_service(project, "", verb="replay", running=False)
    assert "hooke replay A" in str(refused.value)


@pytest.mark.needs("cpu")
def test_of_a_language_model_the_log_of_tokens_is_replayed(tmp_path: Path) -> None:
    project, declared = Project.at(tmp_path), service_of(Paged)
    project.create()
    with ServiceRun(project, declared, entry="paged.py:Paged", shown={}, replicas=(1, 4)) as run:
        for each in windows(1):
            limits = (16, 512, 8192, 8192, 16)
            run.window(msgspec.structs.replace(each, answers=10, answer_tokens=300, token_limits=limits))
    folder = ServiceFolder.of(project, declared.name)
    folder.create()
    folder.write_record(ServiceDescriptor(service=declared.name, target="paged.py", run=run.id, pid=1))
    with pytest.raises(UsageError, match="is for whole answers"):
        recorded_service(project, folder, "p99 < 500ms")
    with pytest.raises(UsageError, match="declares no SLO") as refused:
        recorded_service(project, folder, None)
    assert "p95 first < 2s" in str(refused.value)
    slo = "p95 first < 2s, each < 100ms"
    assert not recorded_service(project, folder, slo).counts.size
    log, chance = ArrivalLog(folder.arrivals_of(declared)), np.random.default_rng(2)
    for second in range(600):
        log.add(1_700_000_000 + second, int(chance.poisson(5)) * 30)
    log.end_block()
    log.flush()
    told = recorded_service(project, folder, slo)
    assert told.prompt is not None and 0 < told.prompt < 1
    assert told.station.rate > 100, "tokens, not requests"
    found = replay_frontier(told.counts, told.station, low=1, high=4, prompt=told.prompt)
    assert found.unit == "tokens"
    assert 0.9 * told.counts.sum() < found.arrived <= told.counts.sum(), "without the seconds that warm it up"
    assert {one.autoscaler for one in found.points} == {"Hooke", "constant", "KEDA"}
