"""Second attempts beside stuck ones, on real workers. Judged by the journal: how long anything took is nobody's promise."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.engines.local.faults import Faults, events_of, gone

from hooke import Fleet
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted
from hooke.journal.occupancy import skewed_items

pytestmark = pytest.mark.needs("processes")

STUCK = """
    @task(observe=FalseCACHE)
    def measured(x: int, stuck_s: float) -> int:
        note(f"{x}.pid", os.getpid())
        if x == 7 and len((HERE / "7.pid").read_text().split()) == 1:
            time.sleep(stuck_s)
        time.sleep(0.2)
        return 10 * x

    @pipeline
    def job(stuck_s: float = 60.0, n: int = 12):
        return measured.map(range(n), stuck_s=stuck_s)
"""


@pytest.mark.long
@pytest.mark.parametrize("on", ["local:3", "dask:3"])
def test_a_stuck_item_has_a_second_attempt_and_its_first_result_is_recorded_once(
    faults: Faults, on: str
) -> None:
    faults.source(STUCK.replace("CACHE", ""))
    run = faults.go(on=on)
    assert run.result() == [10 * x for x in range(12)]
    started, finished = events_of(run, AttemptStarted), events_of(run, AttemptFinished)
    seconds = [event for event in started if event.twin_of is not None]
    (second,) = [event for event in seconds if event.lo == 7]
    (first,) = [event for event in started if event.attempt == second.twin_of]
    assert (first.lo, first.hi) == (second.lo, second.hi)
    assert (first.lo, first.hi) == (7, 8), "items of 200 ms go one to an attempt"
    assert first.worker != second.worker
    assert first.attempt not in {event.attempt for event in finished}, "it would have slept for a minute"
    recorded = sorted(item for event in finished for item in range(event.lo, event.hi))
    assert recorded == list(range(12))
    assert events_of(run, AttemptFailed) == []
    (row,) = run.tasks()
    assert (row.twins, row.done, row.running) == (len(seconds), 12, 0)
    assert row.twins_won
    stuck, _ = faults.pids("7.pid")
    gone([stuck])
    shown = subprocess.run(
        [sys.executable, "-m", "hooke", "show", run.id],
        cwd=faults.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"measured[7]: a second attempt, {second.attempt}, because {first.attempt} is slow" in shown
    assert f"measured: attempt {second.attempt} finished first; {first.attempt} is abandoned" in shown
    again = faults.go(on=on)
    assert again.result() == run.result()
    assert events_of(again, AttemptStarted) == [], "the store has each item"


@pytest.mark.long
def test_a_task_that_is_declared_impure_is_never_repeated(faults: Faults) -> None:
    faults.source(STUCK.replace("CACHE", ", cache=False"))
    run = faults.go(on="local:3", stuck_s=3.0)
    assert run.result() == [10 * x for x in range(12)]
    assert [event for event in events_of(run, AttemptStarted) if event.twin_of is not None] == []
    assert len(faults.pids("7.pid")) == 1


SKEWED = """
    @task(cache=False)
    def measured(x: int) -> int:
        time.sleep(2.5 if x == 9 else 0.3)  # longer than an order takes, also on a busy machine
        return x

    @pipeline
    def job():
        return measured.map(range(12))
"""


def test_on_dask_the_longest_goes_first_once_it_is_known_and_is_named(faults: Faults) -> None:
    """Of a map whose items differ much: the next run begins with the longest, and `hooke show` says which it is."""
    faults.source(SKEWED)
    with Fleet("dask", workers=2) as fleet:
        runs = [faults.run(on=fleet) for _ in range(2)]
    first, second = (
        [event.lo <= 9 < event.hi for event in events_of(run, AttemptStarted)].index(True) for run in runs
    )
    assert first > 2
    assert second < 2
    (longest,) = skewed_items(runs[0].journal)
    assert (longest.task, longest.item) == ("measured", 9)
