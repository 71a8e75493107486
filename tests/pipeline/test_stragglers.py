"""Second attempts: who gets one, when, and what becomes of the two."""

import pytest
from tests.pipeline.played import REF, Played

from hooke.journal.events import CapacityChanged, RetryPlanned, StopRequested
from hooke.pipeline.node_state import Abandon, Finish, LookedUp, NodePlan, StragglerLimit
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task

ITEMS = 6


@task
def one(x):
    return x


@task
def two(x):
    return x


@pipeline
def mapped():
    return one.map(range(ITEMS))


@pipeline
def many():
    return one.map(range(40))


@pipeline
def beside():
    return one.map(range(ITEMS)), two(1)


@pipeline
def called():
    return [one(x) for x in range(ITEMS)]


class Late(Played):
    """All items of a map but the first are done in 5 s each; that one began at 0 and runs still."""

    def __init__(self, wanted=mapped, *, plan=None, slots=2, until_s=9.0, **kwargs):
        super().__init__(wanted, slots=slots, plans={"one": plan or NodePlan()}, **kwargs)
        waiting = self.decide()
        for submit in waiting:
            self.started(submit)
        self.first = waiting.pop(0)
        while waiting:
            self.finish(waiting.pop(0), seconds=5.0)
            for submit in self.decide():
                self.started(submit)
                waiting.append(submit)
        self.now = until_s
        assert self.decide() == []

    def twin(self):
        """Let it become a straggler; the second attempt, which has begun."""
        self.now = 10.0
        (twin,) = self.decide()
        self.started(twin)
        return twin


def said(run, kind):
    return [effect for effect in run.other if isinstance(effect, kind)]


def test_an_attempt_that_runs_twice_as_long_as_the_slowest_item_gets_a_second_one_beside_it():
    run = Late()
    assert run.state.next_due() == 10.0
    twin = run.twin()
    assert (twin.node, twin.lo, twin.hi, twin.twin_of) == (0, 0, 1, run.first.attempt)
    assert twin.attempt != run.first.attempt
    assert (twin.number, twin.expand) == (1, False)
    assert run.decide() == []
    assert run.state.next_due() is None, "there is nothing to wake up for: there is no third attempt"
    run.now = 1000.0
    assert run.decide() == []


@pytest.mark.parametrize("second", [True, False])
def test_the_first_result_wins_and_the_other_attempt_is_abandoned(second):
    run = Late()
    twin = run.twin()
    winner, loser = (twin, run.first) if second else (run.first, twin)
    run.finish(winner)
    assert run.decide() == []
    assert run.other == [Abandon(loser.attempt), Finish("finished")]
    assert len(run.state.nodes[0].done) == ITEMS
    run.finish(loser)  # late
    assert run.state.ignored == 1
    assert not run.state.running


@pytest.mark.parametrize("kind", ["TaskError", "WorkerDied", "TimedOut", "OutOfMemory"])
@pytest.mark.parametrize("second", [True, False])
def test_a_failure_while_the_other_attempt_runs_is_not_one_of_the_item(second, kind):
    run = Late()
    twin = run.twin()
    failing, other = (twin, run.first) if second else (run.first, twin)
    run.fail(failing, kind, retryable=False)
    assert run.decide() == []
    assert run.state.failure is None
    assert run.other == []
    run.finish(other)
    assert run.decide() == []
    assert run.state.status == "finished"


def test_what_the_last_of_two_attempts_comes_to_is_what_the_item_comes_to():
    run = Late(plan=NodePlan(retries=1))
    twin = run.twin()
    run.fail(run.first)
    run.fail(twin)
    assert run.decide() == []
    (planned,) = said(run, RetryPlanned)
    assert planned.number == 2, "two failures, one try"
    run.now = planned.due
    (again,) = run.decide()
    assert (again.lo, again.twin_of) == (0, None)
    run.fail(again)
    run.decide()
    assert run.state.status == "failed"


def test_the_attempt_that_goes_on_alone_gets_no_third_one_and_the_next_try_may_have_a_second():
    run = Late(plan=NodePlan(retries=1))
    twin = run.twin()
    run.fail(run.first)
    run.now = 500.0
    assert run.decide() == []
    run.fail(twin)
    run.decide()
    run.now = 600.0
    (again,) = run.decide()
    run.started(again)
    run.now = 610.0
    (its_twin,) = run.decide()
    assert its_twin.twin_of == again.attempt
    assert its_twin.number == again.number == 2


def test_an_impure_task_gets_none():
    run = Late(plan=NodePlan(repeatable=False))
    assert run.state.next_due() is None
    run.now = 1000.0
    assert run.decide() == []


@pytest.mark.parametrize(("slots", "cpus"), [(1, 2.0), (2, 1.0)])
def test_none_without_room_until_there_is_some(slots, cpus):
    run = Late()
    run.capacity(slots, cpus)
    run.now = 1000.0
    assert run.decide() == []
    assert run.state.next_due() is None, "an event must make room first"
    run.capacity(2)
    assert [twin.twin_of for twin in run.decide()] == [run.first.attempt]


def test_calls_get_none():
    run = Played(called, slots=4)
    waiting = run.decide()
    first = waiting.pop(0)
    run.started(first)
    while waiting:
        run.finish(waiting.pop(0), seconds=0.1)
        waiting += run.decide()
    run.now = 1000.0
    assert run.decide() == []
    assert run.state.next_due() is None


def test_an_attempt_that_has_not_begun_is_no_straggler():
    run = Played(mapped, slots=ITEMS)
    submits = run.decide()
    for submit in submits[1:]:
        run.finish(submit)
    run.now = 1000.0
    assert run.decide() == []


def test_before_half_of_a_map_is_done_nobody_knows_what_is_usual():
    run = Played(mapped, slots=ITEMS + 1)
    submits = run.decide()
    for submit in submits:
        run.started(submit)
    for submit in submits[:2]:
        run.finish(submit, seconds=1.0)
    run.now = 100.0
    assert run.decide() == []
    run.finish(submits[2], seconds=1.0)
    assert [twin.twin_of for twin in run.decide()] == [submit.attempt for submit in submits[3:]]


def test_no_more_than_the_free_slots_and_the_longest_overdue_first():
    run = Played(mapped, slots=4)
    begun = run.decide()
    for submit in begun:
        run.started(submit)
    run.now = 1.0
    for submit in (begun[0], begun[1]):
        run.finish(submit, seconds=1.0)
    late = run.decide()
    for submit in late:
        run.started(submit)
    run.finish(late[0], seconds=1.0)
    run.now = 100.0
    (twin,) = run.decide()
    assert twin.twin_of == begun[2].attempt


def test_what_is_ready_goes_first():
    run = Played(beside, slots=3, cpus=3.0, plans={"two": NodePlan(cpus=3.0)})
    submits = run.decide()
    first = next(submit for submit in submits if submit.node == 0)
    for submit in submits:
        run.started(submit)
    waiting = [submit for submit in submits if submit is not first]
    while waiting:
        run.finish(waiting.pop(), seconds=1.0)
        waiting += run.decide()
    run.now = 100.0
    assert run.decide() == [], "the wide call waits for room, and a second attempt would take it"
    run.finish(first)
    assert [submit.node for submit in run.decide()] == [1]


def test_an_item_that_was_long_in_an_earlier_run_is_waited_for():
    run = Late(plan=NodePlan(expected_s={0: 60.0}))
    assert run.state.next_due() == 120.0
    run.now = 119.0
    assert run.decide() == []
    run.now = 120.0
    assert len(run.decide()) == 1


def test_each_of_two_attempts_has_the_whole_timeout():
    run = Late(plan=NodePlan(timeout_s=15.0))
    twin = run.twin()
    assert run.state.next_due() == 15.0
    run.now = 15.0
    assert run.state.decide(run.now) == [Abandon(run.first.attempt, timed_out=True)]
    run.fail(run.first, "TimedOut")
    assert run.decide() == []
    assert run.state.next_due() == 25.0
    run.now = 25.0
    assert run.state.decide(run.now) == [Abandon(twin.attempt, timed_out=True)]
    run.fail(twin, "TimedOut")
    run.decide()
    assert run.state.status == "failed"


def test_none_for_an_attempt_whose_timeout_comes_first():
    run = Late(plan=NodePlan(timeout_s=8.0), until_s=7.0)
    assert run.state.next_due() == 8.0
    run.now = 9.0
    assert run.state.decide(run.now) == [Abandon(run.first.attempt, timed_out=True)]


def test_a_stop_ends_both():
    run = Late()
    twin = run.twin()
    run.tell(StopRequested(by="test"))
    run.decide()
    assert run.other == [Abandon(run.first.attempt), Abandon(twin.attempt), Finish("stopped")]


def test_a_stop_that_comes_with_the_result_ends_the_beaten_one():
    run = Late()
    twin = run.twin()
    run.finish(twin)
    run.tell(StopRequested(by="test"))
    run.decide()
    assert run.other == [Abandon(run.first.attempt), Finish("stopped")]


def test_after_a_failure_nothing_new_starts_and_what_is_beaten_goes_all_the_same():
    run = Played(mapped, slots=4)
    submits = run.decide()
    for submit in submits:
        run.started(submit)
    for submit in submits[1:]:
        run.finish(submit, seconds=1.0)
    last = run.decide()
    run.finish(last[0], seconds=1.0)
    run.started(last[1])
    run.now = 100.0
    twins = run.decide()
    assert [twin.twin_of for twin in twins] == [submits[0].attempt, last[1].attempt]
    run.fail(last[1])
    run.fail(twins[1])
    assert run.decide() == []
    assert run.state.status is None, "the others may finish"
    run.finish(twins[0])
    run.decide()
    assert run.other == [Abandon(submits[0].attempt), Finish("failed")]


def test_a_second_attempt_that_is_withdrawn_leaves_the_first():
    run = Late()
    twin = run.twin()
    run.tell(LookedUp(0, attempt=twin.attempt))
    assert run.decide() == []
    run.finish(run.first)
    run.decide()
    assert run.other == [Finish("finished")]


def test_fewer_slots_leave_both_running():
    run = Late()
    twin = run.twin()
    run.tell(CapacityChanged(slots=0, cpus=0.0))
    assert run.decide() == []
    run.finish(twin)
    run.decide()
    assert run.state.status == "finished"


def test_a_chunk_is_measured_by_its_items():
    usual = StragglerLimit()
    for items, seconds in ((1, 0.2), (1, 0.1), (10, 4.0)):
        assert usual.limit_s(0, 10, {}) is None
        usual.measured(items, seconds)
    assert usual.limit_s(0, 10, {}) == pytest.approx(2 * 10 * 0.4)
    assert usual.limit_s(0, 1, {}) == 1.0, "no attempt is a straggler in its first second"
    assert usual.limit_s(0, 10, {3: 2.4, 50: 99.0}) == pytest.approx(2 * (9 * 0.4 + 2.4))


def test_a_second_attempt_at_a_chunk_runs_the_whole_of_it():
    run = Played(many, slots=2)
    state = run.state.nodes[0]
    for submit in run.decide():
        run.finish(submit, seconds=0.001)
    chunk, *rest = run.decide()
    run.started(chunk)
    for submit in rest:
        run.finish(submit, seconds=0.001)
    while more := run.decide():
        for submit in more:
            run.finish(submit, seconds=0.001)
    run.now = 1.0
    (twin,) = run.decide()
    assert (twin.lo, twin.hi) == (chunk.lo, chunk.hi)
    assert twin.hi - twin.lo > 1
    run.fail(chunk)
    assert (len(state.done), state.taken.count) == (40 - (twin.hi - twin.lo), twin.hi - twin.lo)
    run.fail(twin, done=1)
    assert state.done.cut(twin.lo, twin.lo + 1) == [(twin.lo, twin.lo + 1, REF, 0)]
