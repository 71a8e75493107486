"""Gangs to the scheduler: all slots at once, one item an attempt, no second attempts, and none waits for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.played import Played

from hooke.base.errors import UsageError
from hooke.journal.events import RetryPlanned
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.run_state import SKIPS_BEFORE_RESERVING
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace


@task
def one(x):
    return x


@task
def train(x):
    return x


@task
def add(*xs):
    return 0


@pipeline
def two_gangs():
    return train(1), train(2)


@pipeline
def gang_and_map(items):
    return train(1), one.map(range(items))


@pipeline
def gangs_of(widths):
    return [task(name=f"gang{width}")(_same)(at) for at, width in enumerate(widths)]


def _same(x):
    return x


def gang(ranks, **more):
    return NodePlan(ranks=ranks, **more)


def test_two_gangs_of_three_run_one_after_the_other_on_four_slots():
    played = Played(two_gangs, slots=4, plans={"train": gang(3)})
    first = played.decide()
    assert [submit.node for submit in first] == [0]
    played.finish(first[0])
    assert [submit.node for submit in played.decide()] == [1]


def test_a_gang_takes_cpus_and_memory_for_each_rank():
    played = Played(two_gangs, slots=8, plans={"train": gang(3, memory=100)})
    played.capacity(8, 8.0, memory=500)
    (first,) = played.decide()
    assert first.memory == 100
    played.finish(first)
    played.capacity(8, 5.0, memory=1000)
    assert len(played.decide()) == 1
    played.capacity(8, 6.0, memory=1000)
    assert played.decide() == []


def test_what_ran_out_of_memory_grows_as_far_as_all_ranks_have_room():
    played = Played(two_gangs, slots=4, plans={"train": gang(4, memory=100)})
    played.capacity(4, 4.0, memory=600)
    (first,) = played.decide()
    played.fail(first, "OutOfMemory")
    again = [submit for submit in played.decide() if submit.node == first.node]
    assert [submit.memory for submit in again] == [150]
    (said,) = [effect.reason for effect in played.other if isinstance(effect, RetryPlanned)]
    assert "for each rank" in said


def test_a_gang_is_passed_a_bounded_number_of_times():
    played = Played(gang_and_map, 1000, slots=4, plans={"train": gang(4), "one": NodePlan(timeout_s=1e6)})
    played.capacity(3)
    running = played.decide()  # too small for the gang
    played.capacity(4)
    started = 0
    for _ in range(200):
        new = played.decide()
        running += new
        started += len(new)
        if any(submit.node == 0 for submit in new):
            break
        played.finish(running.pop(0))
    assert any(submit.node == 0 for submit in running)
    assert started <= SKIPS_BEFORE_RESERVING * 4 + 5


def test_a_gang_wider_than_the_place_is_now_keeps_nobody_from_it():
    played = Played(gang_and_map, 60, slots=2, plans={"train": gang(3), "one": NodePlan(timeout_s=1e6)})
    assert {submit.node for submit in played.play_on()} == {1}
    played.capacity(3)
    assert [submit.node for submit in played.decide()] == [0]


def test_the_items_of_a_map_of_gangs_are_gangs_each():
    @pipeline
    def many():
        return train.map(range(3))

    played = Played(many, slots=5, plans={"train": gang(2)})
    assert [(submit.lo, submit.hi) for submit in played.decide()] == [(0, 1), (1, 2)]


def test_a_gang_that_runs_long_gets_no_second_one():
    @pipeline
    def many():
        return train.map(range(6))

    played = Played(many, slots=4, plans={"train": gang(2)})
    waiting = played.decide()
    for submit in waiting:
        played.started(submit)
    while len(waiting) > 1:
        played.finish(waiting.pop(0), seconds=0.1)
        new = played.decide()
        for submit in new:
            played.started(submit)
        waiting += new
    played.now = 1000.0
    assert played.decide() == []
    assert played.state.next_due() is None


def test_a_gang_runs_again_as_a_whole():
    played = Played(two_gangs, slots=3, plans={"train": gang(3, retries=1)})
    (first,) = played.decide()
    played.fail(first, "WorkerDied", rank=2, ranks=3)
    played.decide()
    (said,) = [effect.reason for effect in played.other if isinstance(effect, RetryPlanned)]
    assert said == "rank 2 of 3: WorkerDied: no; try 2 of 2"
    played.now = 10.0
    assert played.state.next_due() is not None


@pytest.mark.needs("cpu")
@settings(deadline=None)  # each example traces a pipeline
@given(
    widths=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    slots=st.integers(5, 8),
    order=st.randoms(use_true_random=False),
)
def test_no_gang_begins_in_part_and_all_end(widths, slots, order):
    plans = {f"gang{width}": NodePlan(ranks=width) for width in widths}
    played = Played(gangs_of, widths, slots=slots, plans=plans)
    running = played.decide()
    seen = list(running)
    while running:
        assert sum(max(1, widths[submit.node]) for submit in running) <= slots
        played.finish(running.pop(order.randrange(len(running))))
        new = played.decide()
        running += new
        seen += new
    assert sorted(submit.node for submit in seen) == list(range(len(widths)))
    assert played.state.status == "finished"


# -- what is declared --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"gang": 0}, {"gang": True}, {"gang": 2.0}, {"gang": 2, "results": "some"}, {"results": "all"}],
)
def test_a_wrong_gang_is_refused(options):
    with pytest.raises(UsageError, match=r"@task got (gang|results)="):
        task(**options)(_same)


def test_outside_a_run_a_gang_is_one_of_one():
    assert task(gang=4)(_same)(7) == 7
    every = task(gang=4, results="all")(_same)
    assert every(7) == [7]
    assert every.map([7, 8]) == [[7], [8]]


def test_size_and_results_of_a_gang_are_part_of_its_key():
    def key(**options):
        declared = task(**options)(_same) if options else task(_same)
        return GraphKeys(trace(pipeline(name="p")(lambda: declared(1))), run="r").nodes[0].key

    keys = [key(), key(gang=1), key(gang=2), key(gang=2, results="all")]
    assert len(set(keys)) == len(keys)
    assert key(gang=2) == key(gang=2)
    assert key(cpus=2) == key()
