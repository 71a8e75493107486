"""Second attempts beside stuck ones, on real workers. Judged by the journal: how long anything took is nobody's promise."""

from __future__ import annotations

import pytest
from tests.engines.faults import Faults, events_of, gone

from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted

pytestmark = pytest.mark.heavy

STUCK = """
    @task(CACHE)
    def measured(x: int, stuck_s: float) -> int:
        note(f"{x}.pid", os.getpid())
        if x == 7 and len((HERE / "7.pid").read_text().split()) == 1:
            time.sleep(stuck_s)
        time.sleep(0.05)
        return 10 * x

    @pipeline
    def job(stuck_s: float = 60.0, n: int = 12):
        return measured.map(range(n), stuck_s=stuck_s)
"""


def test_a_stuck_item_has_a_second_attempt_and_its_first_result_is_recorded_once(faults: Faults) -> None:
    faults.source(STUCK.replace("CACHE", ""))
    run = faults.go(on="local:3")
    assert run.result() == [10 * x for x in range(12)]
    started, finished = events_of(run, AttemptStarted), events_of(run, AttemptFinished)
    (second,) = [event for event in started if event.twin_of is not None]
    (first,) = [event for event in started if event.attempt == second.twin_of]
    assert (first.lo, first.hi) == (second.lo, second.hi)
    assert first.lo <= 7 < first.hi
    assert first.worker != second.worker
    assert first.attempt not in {event.attempt for event in finished}, "it would have slept for a minute"
    recorded = sorted(item for event in finished for item in range(event.lo, event.hi))
    assert recorded == list(range(12))
    assert events_of(run, AttemptFailed) == []
    (row,) = run.tasks()
    assert (row.twins, row.twins_won, row.done, row.running) == (1, 1, 12, 0)
    stuck, _ = faults.pids("7.pid")
    gone([stuck])
    again = faults.go(on="local:3")
    assert again.result() == run.result()
    assert events_of(again, AttemptStarted) == [], "the store has each item"


def test_a_task_that_is_declared_impure_is_never_repeated(faults: Faults) -> None:
    faults.source(STUCK.replace("CACHE", "cache=False"))
    run = faults.go(on="local:3", stuck_s=3.0)
    assert run.result() == [10 * x for x in range(12)]
    assert [event for event in events_of(run, AttemptStarted) if event.twin_of is not None] == []
    assert len(faults.pids("7.pid")) == 1
