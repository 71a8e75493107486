"""Ray on hosts that share nothing but TCP: TLS and a token between them, an S3 store, the project's code on the driver's alone."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
from tests.engines.dask.test_dask_hosts import GANG
from tests.engines.local.faults import wait_until
from tests.engines.ray.ray_lab import PORT, RayLab, ray_lab

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Event,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.reader import read

pytestmark = [
    pytest.mark.needs("hosts"),
    pytest.mark.timeout(1200),
]

STORM = """
    from hooke import pipeline, task
    from project_library.numbers import squared

    @task(retries=3)
    def square(x):
        import time
        print("squaring", x, flush=True)
        time.sleep(1.0)
        return squared(x)

    @task
    def collect(values):
        return sum(values)

    @pipeline
    def squares(n: int = 80):
        return collect(square.map(range(n)))
"""


def events_of(here: RayLab) -> list[Event]:
    runs = list((here.driver.project / ".hooke" / "runs").glob("squares*"))
    return [event for run in runs for segment in read(run) for event in segment.events]


def hosts_of(events: list[Event]) -> dict[str, str]:
    return {event.worker: event.host for event in events if isinstance(event, WorkerStarted)}


def squared(here: RayLab) -> Counter[str]:
    """Items by the host that has done them."""
    events = events_of(here)
    where = hosts_of(events)
    return Counter(
        where[event.worker] for event in events if isinstance(event, AttemptFinished) and not event.node
    )


def ends(here: RayLab) -> set[str]:
    return {event.cause for event in events_of(here) if isinstance(event, WorkerStopped)}


def is_encrypted(here: RayLab) -> bool:
    script = f"import ssl; print(ssl.get_server_certificate(({here.head.address!r}, {PORT})))"
    shown = here.driver.run([sys.executable, "-c", script])
    return ssl.PEM_cert_to_DER_cert(shown.strip()) == ssl.PEM_cert_to_DER_cert(here.keys["node.pem"].decode())


def a_gang_of_a_rank_on_each_of_two_nodes_meets(here: RayLab) -> None:
    (here.driver.project / "gang.py").write_text(textwrap.dedent(GANG), "utf-8")
    ranks = json.loads(here.hooke("run", "gang.py", "--on", "lab", "--json"))["result"]
    address = ranks[0][1]
    assert address in [host.address for host in here.nodes.values()]
    assert ranks == [[21, address, "0", "1"], [10, address, "0", "1"]]


def test_one_node_is_drained_then_one_is_killed_one_cut_off_for_30_s_one_frozen_and_one_joins() -> None:
    with ray_lab(STORM, "one", "two", "three") as here:
        assert is_encrypted(here)
        a_gang_of_a_rank_on_each_of_two_nodes_meets(here)
        running = here.driver.popen(
            [sys.executable, "-m", "hooke", "run", "job.py", "--on", "lab", "--json"],
            env=here.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: all(squared(here)[name] >= 2 for name in here.nodes), "all to work", within_s=180)
        here.drain(here.nodes["three"])
        wait_until(lambda: "its Ray node is drained" in ends(here), "the drain", within_s=60)
        assert not [event for event in events_of(here) if isinstance(event, AttemptFailed)]
        here.nodes["one"].kill()
        with here.cut_for(30.0, here.nodes["two"]):
            here.nodes["three"].freeze()
            here.join("four")
            wait_until(lambda: squared(here)["four"] > 0, "the new node to work", within_s=180)
        printed, complained = running.communicate(timeout=240)
        assert running.returncode == 0, complained
        assert json.loads(printed)["result"] == sum(x * x for x in range(80))

        events = events_of(here)
        done = Counter(
            e.lo for e in events if isinstance(e, AttemptFinished) and e.hi == e.lo + 1 and not e.node
        )
        assert set(done) == set(range(80))
        assert max(done.values()) == 1, "recorded once, however often it ran"
        finished = {e.lo: e.at for e in events if isinstance(e, AttemptFinished) and not e.node}
        begun_again = [
            e
            for e in events
            if isinstance(e, AttemptStarted) and not e.node and e.at > finished[e.lo] and e.twin_of is None
        ]
        assert begun_again == [], "what was durably finished does not run again"
        story = here.hooke("show")
        for name in ("one", "two"):
            workers = "|".join(worker for worker, host in hosts_of(events).items() if host == name)
            assert re.search(rf"worker ({workers}) is gone: its host ray-\d+ on {name} is gone", story)
