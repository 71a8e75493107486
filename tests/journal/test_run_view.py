from __future__ import annotations

import random

import msgspec
import pytest
from tests.journal.histories import ref

from hooke.base.errors import OutOfMemory
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    CodeSeen,
    Failure,
    ItemsFound,
    MapExpanded,
    NodePlanned,
    RetryPlanned,
    RunFinished,
    RunStarted,
    StopRequested,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.run_view import RunView

BEGUN = RunStarted(at=100.0, run="r", pipeline="p", entry="f.py:p", shown={"months": "12"}, place="local")


def started(attempt, node=0, lo=0, hi=1, *, at, worker="w1", **facts):
    return AttemptStarted(at=at, attempt=attempt, node=node, lo=lo, hi=hi, worker=worker, **facts)


def finished(attempt, node=0, lo=0, hi=1, *, at, seconds=1.0, peak=None, expanded=None):
    return AttemptFinished(
        at=at,
        attempt=attempt,
        node=node,
        lo=lo,
        hi=hi,
        ref=ref(attempt),
        worker="w1",
        seconds=seconds,
        cpu_s=seconds / 2,
        peak_bytes=peak,
        expanded=expanded,
    )


def failed(attempt, node=0, lo=0, hi=1, *, at, done=0, kind="TaskError", **facts):
    failure = Failure(kind=kind, message="it broke", error_type="ValueError", **facts)
    kept = ref(attempt) if done else None
    return AttemptFailed(
        at=at, attempt=attempt, node=node, lo=lo, hi=hi, failure=failure, done=done, ref=kept, seconds=0.5
    )


def counts(view, task):
    row = next(row for row in view.rows(view.last_at) if row.task == task)
    return {name: getattr(row, name) for name in ("items", "waiting", "running", "cached", "done", "failed")}


def test_a_history_from_start_to_end():
    view = RunView()
    assert view.status == "new"
    assert view.resume_command == "hooke runs"  # there is nothing to continue
    assert view.row(0.0).status == "new"
    for event in [
        BEGUN,
        CodeSeen(at=100.0, digest="d", name="features", kind="function", text="def features(): ..."),
        NodePlanned(at=100.0, node=0, task="features", key="a", kind="map", items=10, memory=2**30),
        NodePlanned(at=100.0, node=1, task="train", key="b", parents=(0,), cpus=2.0),
        CapacityChanged(at=100.0, slots=2, cpus=2.0),
        WorkerStarted(at=100.1, worker="w1"),
        WorkerStarted(at=100.1, worker="w2"),
        ItemsFound(at=100.2, node=0, lo=0, hi=3, ref=ref(77), seconds=9.0),
        started(1, lo=3, hi=5, at=101.0, worker="w1"),
        started(2, lo=5, hi=6, at=101.0, worker="w2"),
    ]:
        view.apply(event)
    assert view.status == "running"
    assert counts(view, "features") == {
        "items": 10,
        "waiting": 4,
        "running": 3,
        "cached": 3,
        "done": 0,
        "failed": 0,
    }
    assert view.busy == 2
    assert view.remaining(101.0).untimed == ("features", "train")

    view.apply(finished(1, lo=3, hi=5, at=105.0, seconds=4.0, peak=2**28))
    view.apply(failed(2, lo=5, hi=6, at=105.0))
    assert counts(view, "features")["failed"] == 1
    view.apply(RetryPlanned(at=105.0, node=0, lo=5, hi=6, number=2, due=106.0, reason="try 2"))
    assert counts(view, "features") == {
        "items": 10,
        "waiting": 5,
        "running": 0,
        "cached": 3,
        "done": 2,
        "failed": 0,
    }
    row = view.rows(105.0)[0]
    assert (row.item_s, row.seconds, row.saved_s, row.attempts, row.failures) == (2.0, 4.5, 9.0, 2, 1)
    assert row.rate == pytest.approx(2 / 4, rel=0.1)
    assert row.remaining_s == pytest.approx(5 * 2.0 / 2)
    assert row.peak_bytes == 2**28
    assert row.limit_bytes == 2**30
    assert row.state == "partly"
    left = view.remaining(105.0)
    assert left.seconds == pytest.approx(5.0)
    assert left.untimed == ("train",)

    view.apply(started(3, lo=5, hi=10, at=106.0, number=2))
    assert view.rows(108.0)[0].remaining_s == pytest.approx(5 * 2.0 - 2.0)
    view.apply(finished(3, lo=5, hi=10, at=116.0, seconds=10.0))
    assert counts(view, "features") == {
        "items": 10,
        "waiting": 0,
        "running": 0,
        "cached": 3,
        "done": 7,
        "failed": 0,
    }
    assert view.rows(116.0)[0].state == "done"
    view.apply(started(4, node=1, at=117.0))
    view.apply(finished(4, node=1, at=120.0, seconds=3.0))
    view.apply(WorkerStopped(at=120.0, worker="w2", cause="retired"))
    assert set(view.workers) == {"w1"}
    view.apply(RunFinished(at=121.0, status="finished", output=ref(5), seconds=21.0))
    assert view.status == "finished"
    assert view.seconds(999.0) == pytest.approx(21.0)
    assert view.remaining(121.0) is None
    assert view.output == ref(5)
    assert view.error() is None
    assert view.code["d"].name == "features"
    summary = view.row(999.0)
    assert (summary.items, summary.cached, summary.done, summary.failed, summary.waiting) == (11, 3, 8, 0, 0)
    assert summary.parameters == {"months": "12"}
    assert msgspec.json.decode(msgspec.json.encode([summary, *view.rows(999.0)]))


def test_results_by_node_say_which_object_holds_which_items():
    view = RunView.fold(
        [
            BEGUN,
            NodePlanned(node=0, task="f", key="a", kind="map", items=10),
            ItemsFound(node=0, lo=0, hi=4, ref=ref(1), start=20),
            started(2, lo=4, hi=10, at=1.0),
            failed(2, lo=4, hi=10, at=2.0, done=2),
        ]
    )
    assert list(view.results(0)) == [(0, 4, ref(1), 20), (4, 6, ref(2), 0)]
    assert counts(view, "f") == {"items": 10, "waiting": 3, "running": 0, "cached": 4, "done": 2, "failed": 1}


def test_a_failed_run_tells_its_error_and_the_next_command():
    view = RunView.fold(
        [
            BEGUN,
            NodePlanned(node=0, task="f", key="a"),
            NodePlanned(node=1, task="g", key="b", parents=(0,)),
            started(1, at=101.0),
            failed(1, at=102.0, kind="OutOfMemory", signal=9, peak_bytes=2**31, arguments="month=3"),
            RunFinished(at=103.0, status="failed", node=0, message="it broke"),
        ]
    )
    assert view.status == "failed"
    error = view.error()
    assert type(error) is OutOfMemory
    assert "f(month=3) failed" in error.what
    assert "SIGKILL" in error.why
    assert error.next == "hooke logs r f"
    rows = view.rows(103.0)
    assert [row.state for row in rows] == ["failed", "waiting"]
    assert rows[0].error == "ValueError: it broke"
    assert view.row(103.0).message == "it broke"


def test_a_stopped_run_has_no_error_of_its_own():
    view = RunView.fold(
        [
            BEGUN,
            NodePlanned(node=0, task="f", key="a"),
            started(1, at=101.0),
            StopRequested(at=102.0, by="Ctrl-C"),
            failed(1, at=102.5),
            RunFinished(at=103.0, status="stopped"),
        ]
    )
    assert (view.status, view.stopping_by, view.error()) == ("stopped", "Ctrl-C", None)


def test_an_unfinished_run_without_its_driver_is_lost():
    view = RunView.fold([BEGUN, NodePlanned(at=100.0, node=0, task="f", key="a"), started(1, at=104.0)])
    assert view.status == "running"
    view.driver_alive(True)
    assert view.status == "running"
    assert view.seconds(110.0) == pytest.approx(10.0)
    view.driver_alive(False)
    assert view.status == "lost"
    assert view.seconds(9999.0) == pytest.approx(4.0)
    view.apply(RunFinished(at=105.0, status="finished"))
    assert view.status == "finished"


def test_a_resume_keeps_what_was_done_by_key_and_begins_edited_nodes_anew():
    before = [
        BEGUN,
        NodePlanned(node=0, task="f", key="a", kind="map", items=4),
        NodePlanned(node=1, task="g", key="b", kind="map", items=4),
        WorkerStarted(worker="w1"),
        started(1, node=0, lo=0, hi=3, at=101.0),
        finished(1, node=0, lo=0, hi=3, at=104.0, seconds=3.0),
        started(2, node=1, lo=0, hi=2, at=104.0),
        finished(2, node=1, lo=0, hi=2, at=105.0),
        started(3, node=0, lo=3, hi=4, at=105.0),
    ]
    after = [
        RunStarted(at=500.0, run="r", pipeline="p", entry="f.py:p", resumed=True),
        NodePlanned(node=0, task="new", key="n"),
        NodePlanned(node=1, task="f", key="a", kind="map", items=4),
        NodePlanned(node=2, task="g", key="edited", kind="map", items=4),
        ItemsFound(at=500.5, node=1, lo=0, hi=3, ref=ref(1), source="journal"),
    ]
    view = RunView.fold([*before, *after])
    assert list(view.tasks) == ["new", "f", "g"]
    assert not view.workers
    assert view.busy == 0
    assert view.resumed == 1
    assert counts(view, "f") == {"items": 4, "waiting": 1, "running": 0, "cached": 0, "done": 3, "failed": 0}
    assert counts(view, "g") == {"items": 4, "waiting": 4, "running": 0, "cached": 0, "done": 0, "failed": 0}
    assert view.seconds(502.0) == pytest.approx(5.0 + 2.0)
    assert view.tasks["f"].seconds == 3.0
    assert view.tasks["f"].item_s == 1.0


def test_a_dynamic_map_has_no_length_until_it_is_expanded():
    events = [
        BEGUN,
        NodePlanned(node=0, task="f", key="a", kind="map", items=None),
        NodePlanned(node=1, task="g", key="b", kind="map", items=None, parents=(0,)),
        started(1, lo=0, hi=0, at=101.0, expand=True),
    ]
    view = RunView.fold(events)
    assert counts(view, "f") == {
        "items": None,
        "waiting": None,
        "running": 0,
        "cached": 0,
        "done": 0,
        "failed": 0,
    }
    assert view.rows(101.0)[0].state == "running"
    broken = RunView.fold([*events, failed(1, lo=0, hi=0, at=102.0)])
    assert counts(broken, "f")["failed"] == 1
    assert broken.rows(102.0)[0].state == "failed"
    view.apply(finished(1, lo=0, hi=0, at=102.0, expanded=MapExpanded(node=0, items=1000)))
    assert counts(view, "f")["waiting"] == 1000
    assert view.tasks["f"].item_s is None
    # A map that follows it item by item is never expanded itself.
    view.apply(started(2, node=1, lo=0, hi=5, at=103.0))
    assert counts(view, "g")["items"] == 1000


def test_a_cached_result_makes_what_lies_before_it_not_needed():
    view = RunView.fold(
        [
            BEGUN,
            NodePlanned(node=0, task="load", key="a"),
            NodePlanned(node=1, task="clean", key="b", parents=(0,)),
            NodePlanned(node=2, task="train", key="c", parents=(1,)),
            NodePlanned(node=3, task="score", key="d", parents=(1, 2)),
        ]
    )
    view.apply(ItemsFound(node=2, lo=0, hi=1, ref=ref(1)))
    assert [row.state for row in view.rows(101.0)] == ["waiting", "waiting", "cached", "waiting"]
    view.apply(ItemsFound(node=3, lo=0, hi=1, ref=ref(2)))
    assert [row.state for row in view.rows(101.0)] == ["not needed", "not needed", "cached", "cached"]
    assert view.row(101.0).waiting == 0
    assert view.remaining(101.0).seconds == 0.0
    assert view.remaining(101.0).untimed == ()


def test_late_and_double_answers_do_not_count_twice():
    view = RunView.fold(
        [
            BEGUN,
            NodePlanned(node=0, task="f", key="a", kind="map", items=4),
            started(1, lo=0, hi=2, at=101.0),
            finished(1, lo=0, hi=2, at=102.0),
            finished(1, lo=0, hi=2, at=103.0),
            started(1, lo=0, hi=2, at=101.0),
            finished(7, lo=1, hi=3, at=104.0),
            finished(8, node=99, at=104.0),
            started(9, node=99, at=104.0),
            ItemsFound(at=105.0, node=99, lo=0, hi=1, ref=ref(1)),
        ]
    )
    assert view.nodes[0].settled_count == 3
    assert counts(view, "f")["done"] == 3


def test_the_rate_is_of_late_and_the_whole_once_done():
    view = RunView.fold([BEGUN, NodePlanned(node=0, task="f", key="a", kind="map", items=1000)])
    at, item = 100.0, 0
    for count, step in ((300, 0.1), (600, 0.025)):
        for _ in range(count):
            view.apply(started(item + 1, lo=item, hi=item + 1, at=at))
            at += step
            view.apply(finished(item + 1, lo=item, hi=item + 1, at=at, seconds=step))
            item += 1
        if count == 300:
            assert view.tasks["f"].rate(at) == pytest.approx(10.0, rel=0.02)
    early = view.tasks["f"].rate(at)
    assert 15.0 < early < 40.0
    assert view.tasks["f"].rate(at + 60) < early / 5
    view.apply(started(5000, lo=900, hi=1000, at=at))
    view.apply(finished(5000, lo=900, hi=1000, at=at + 5.0, seconds=5.0))
    assert view.tasks["f"].rate(at + 1e6) == pytest.approx(1000 / (at + 5.0 - 100.0))


def test_the_longest_chain_bounds_what_remains():
    view = RunView.fold(
        [
            BEGUN,
            CapacityChanged(slots=100, cpus=100.0),
            *[NodePlanned(node=n, task="step", key=str(n), parents=(n - 1,) if n else ()) for n in range(10)],
            started(1, node=0, at=100.0),
            finished(1, node=0, at=102.0, seconds=2.0),
        ]
    )
    assert view.remaining(102.0).seconds == pytest.approx(9 * 2.0)


def test_no_estimate_stands_still():
    """What remains falls while attempts run, and is not known once one is overdue by more than it."""
    view = RunView.fold(
        [
            BEGUN,
            CapacityChanged(slots=2, cpus=2.0),
            NodePlanned(node=0, task="fit", key="a"),
            NodePlanned(node=1, task="fit", key="b"),
            NodePlanned(node=2, task="score", key="c", parents=(1,)),
            started(1, node=0, at=100.0),
            finished(1, node=0, at=110.0, seconds=10.0),
            started(2, node=1, at=110.0),
        ]
    )
    assert [view.remaining(at).seconds for at in (110.0, 114.0, 118.0)] == pytest.approx([10.0, 6.0, 2.0])
    assert view.remaining(121.0).untimed == ("score",)
    assert view.remaining(121.0).seconds == 0.0, "at least nothing left would stand still until it ends"
    assert [view.rows(at)[0].remaining_s for at in (114.0, 121.0)] == [pytest.approx(6.0), None]
    view.apply(started(3, node=2, at=122.0))
    view.apply(finished(3, node=2, at=122.5, seconds=0.5))
    assert view.remaining(130.0) is None


def test_an_attempt_that_takes_longer_than_the_others_makes_the_estimate_grow():
    view = RunView.fold(
        [
            BEGUN,
            CapacityChanged(slots=1, cpus=1.0),
            NodePlanned(node=0, task="fit", kind="map", items=6, key="a"),
            started(1, lo=0, hi=1, at=100.0),
            finished(1, lo=0, hi=1, at=110.0, seconds=10.0),
            started(2, lo=1, hi=2, at=110.0),
        ]
    )
    # Of four that wait and the one that runs, with means of 10, 10, 10, 11 and 15 seconds.
    said = [view.rows(at)[0].remaining_s for at in (110.0, 115.0, 120.0, 122.0, 130.0)]
    assert said == pytest.approx([50.0, 45.0, 40.0, 44.0, 60.0])
    assert view.remaining(130.0).seconds == pytest.approx(60.0)


def test_a_task_that_waits_for_workers_has_no_estimate_and_one_between_two_attempts_keeps_its_workers():
    view = RunView.fold(
        [
            BEGUN,
            CapacityChanged(slots=2, cpus=2.0),
            NodePlanned(node=0, task="fit", kind="map", items=6, key="a"),
            started(1, lo=0, hi=1, at=100.0),
            started(2, lo=1, hi=2, at=100.0),
            finished(1, lo=0, hi=1, at=110.0, seconds=10.0),
        ]
    )
    # The other worker's attempt is at its end, and four items are left for both.
    assert view.rows(110.0)[0].remaining_s == pytest.approx(20.0)
    view.apply(started(3, lo=2, hi=3, at=110.01))
    assert view.rows(110.01)[0].remaining_s == pytest.approx(20.0, rel=0.01)
    view.apply(finished(2, lo=1, hi=2, at=110.02, seconds=10.0))
    assert view.rows(110.02)[0].remaining_s == pytest.approx(20.0, rel=0.01)
    # No second attempt comes: the worker has other tasks.
    assert view.rows(112.0)[0].remaining_s == pytest.approx(38.0, rel=0.01)
    view.apply(finished(3, lo=2, hi=3, at=120.0, seconds=10.0))
    assert view.rows(120.0)[0].remaining_s is not None
    assert [view.rows(at)[0].remaining_s for at in (121.5, 130.0)] == [None, None]


def test_a_task_that_was_never_timed_makes_the_others_no_estimate():
    view = RunView.fold(
        [
            BEGUN,
            NodePlanned(node=0, task="load", key="a"),
            NodePlanned(node=1, task="fit", key="b", parents=(0,)),
            NodePlanned(node=2, task="load", key="c", parents=(1,)),
            started(1, node=0, at=100.0),
            finished(1, node=0, at=100.4, seconds=0.4),
            started(2, node=1, at=101.0),
        ]
    )
    assert view.remaining(101.1).seconds == pytest.approx(0.4)
    assert view.remaining(102.0).seconds == 0.0
    assert view.remaining(160.0).untimed == ("fit",)


@pytest.mark.needs("cpu")
def test_counts_add_up_over_random_histories():
    """Chunks that start, finish, fail in the middle, are retried and found, in any order: every item is counted once."""
    for seed in range(150):
        chance = random.Random(seed)
        size = chance.randrange(1, 60)
        view = RunView.fold([BEGUN, NodePlanned(node=0, task="f", key="a", kind="map", items=size)])
        running, at = {}, 100.0
        done, found, broken = set(), set(), set()
        for attempt in range(1, 80):
            at += 1.0
            move = chance.random()
            if move < 0.4:
                lo = chance.randrange(size)
                hi = min(size, lo + chance.randrange(1, 8))
                busy = {i for a, b in running.values() for i in range(a, b)}
                if set(range(lo, hi)) & (busy | done | found):
                    continue
                running[attempt] = (lo, hi)
                broken -= set(range(lo, hi))
                view.apply(started(attempt, lo=lo, hi=hi, at=at))
            elif move < 0.5:
                i = chance.randrange(size)
                if any(a <= i < b for a, b in running.values()):
                    continue
                found |= {i} - done
                broken.discard(i)
                view.apply(ItemsFound(at=at, node=0, lo=i, hi=i + 1, ref=ref(attempt)))
            elif running:
                number = chance.choice(list(running))
                lo, hi = running.pop(number)
                if move < 0.8:
                    done |= set(range(lo, hi))
                    view.apply(finished(number, lo=lo, hi=hi, at=at))
                else:
                    good = chance.randrange(lo, hi)
                    done |= set(range(lo, good))
                    broken.add(good)
                    view.apply(failed(number, lo=lo, hi=hi, at=at, done=good - lo))
                    if chance.random() < 0.5:
                        broken.discard(good)
                        view.apply(
                            RetryPlanned(at=at, node=0, lo=good, hi=good + 1, number=2, due=at, reason="")
                        )
            going = sum(b - a for a, b in running.values())
            assert counts(view, "f") == {
                "items": size,
                "waiting": size - len(done) - len(found) - len(broken) - going,
                "running": going,
                "cached": len(found),
                "done": len(done),
                "failed": len(broken),
            }


TWO_AT_ONCE = [
    BEGUN,
    NodePlanned(at=100.0, node=0, task="f", key="a", kind="map", items=10),
    CapacityChanged(at=100.0, slots=4, cpus=4.0),
    started(1, lo=0, hi=6, at=100.0, worker="w1"),
    finished(1, lo=0, hi=6, at=106.0, seconds=6.0),
    started(2, lo=6, hi=10, at=106.0, worker="w1"),
    started(3, lo=6, hi=10, at=120.0, worker="w2", twin_of=2),
]


def test_items_that_two_attempts_run_are_counted_once():
    view = RunView.fold(TWO_AT_ONCE)
    going = {"items": 10, "waiting": 0, "running": 4, "cached": 0, "done": 6, "failed": 0}
    assert counts(view, "f") == going
    assert view.busy == 2
    (row,) = view.rows(120.0)
    assert (row.attempts, row.twins, row.twins_won) == (3, 1, 0)


@pytest.mark.parametrize(("winner", "won"), [(2, 0), (3, 1)])
def test_the_first_of_two_attempts_ends_both(winner, won):
    view = RunView.fold([*TWO_AT_ONCE, finished(winner, lo=6, hi=10, at=125.0, seconds=4.0)])
    assert counts(view, "f") == {
        "items": 10,
        "waiting": 0,
        "running": 0,
        "cached": 0,
        "done": 10,
        "failed": 0,
    }
    assert view.busy == 0
    (row,) = view.rows(125.0)
    assert (row.twins, row.twins_won, row.state) == (1, won, "done")
    assert row.item_s == 1.0, "of what finished alone"
    assert view.results(0).cut(6, 10)[0][2] == ref(winner)


@pytest.mark.parametrize("first", [2, 3])
def test_the_failure_of_one_of_two_attempts_is_not_that_of_their_items(first):
    last = 5 - first
    broke = AttemptFailed(
        at=121.0, attempt=first, node=0, lo=6, hi=10, failure=Failure(kind="TaskError", message="no"), done=1
    )
    view = RunView.fold([*TWO_AT_ONCE, broke])
    assert counts(view, "f")["running"] == 4
    assert counts(view, "f")["failed"] == 0
    assert view.failure is None
    assert view.busy == 1
    view.apply(failed(last, lo=6, hi=10, at=122.0, done=2))
    assert counts(view, "f") == {"items": 10, "waiting": 1, "running": 0, "cached": 0, "done": 8, "failed": 1}
    assert view.failure is not None
    assert view.failure.attempt == last


def test_a_resumed_run_knows_nothing_of_the_two_that_its_driver_left():
    again = [msgspec.structs.replace(event, at=event.at + 100.0) for event in TWO_AT_ONCE[:3]]
    view = RunView.fold([*TWO_AT_ONCE, *again, started(20, lo=6, hi=10, at=210.0)])
    assert counts(view, "f")["running"] == 4
    view.apply(finished(20, lo=6, hi=10, at=211.0))
    (row,) = view.rows(211.0)
    assert (row.done, row.twins, row.twins_won) == (10, 1, 0)


def test_a_journal_of_before_there_were_second_attempts_is_read():
    old = {"event": "attempt_started", "at": 1.0, "attempt": 3, "node": 0, "lo": 0, "hi": 1}
    assert msgspec.convert(old, AttemptStarted).twin_of is None


@pytest.mark.needs("cpu")
def test_a_map_of_a_million_items_costs_its_attempts():
    view = RunView.fold([BEGUN, NodePlanned(node=0, task="f", key="a", kind="map", items=1_000_000)])
    chunks = list(range(0, 1_000_000, 50))
    random.Random(1).shuffle(chunks)
    for attempt, lo in enumerate(chunks):
        view.apply(started(attempt, lo=lo, hi=lo + 50, at=101.0 + attempt))
        view.apply(finished(attempt, lo=lo, hi=lo + 50, at=101.5 + attempt))
    assert counts(view, "f")["done"] == 1_000_000


def test_what_is_left_of_short_calls_takes_as_long_as_the_last_ones_did():
    """Two slots that work a tenth of the time: the driver needs 5 ms for a call that takes 1 ms."""
    view = RunView()
    for event in [
        BEGUN,
        *(NodePlanned(at=100.0, node=node, task="short", key=f"k{node}") for node in range(1000)),
        CapacityChanged(at=100.0, slots=2, cpus=2.0),
    ]:
        view.apply(event)
    for number in range(400):
        end = 100.0 + 0.005 * (number + 1)
        view.apply(started(number + 1, node=number, at=end - 0.001))
        view.apply(finished(number + 1, node=number, at=end, seconds=0.001))
    assert view.remaining(102.0).seconds == pytest.approx(600 * 0.005, rel=0.05)
    assert view.remaining(104.0).seconds == pytest.approx(600 * 0.001 / 2), (
        "no call ends: nothing is known of a pace"
    )
