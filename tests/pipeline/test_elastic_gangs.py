"""Elastic gangs to the scheduler: as many ranks as there is room for, changed at checkpoints, and never waited for in vain."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.played import Played

from hooke.base.errors import UsageError
from hooke.fleets.remaining_work import remaining_work
from hooke.journal.events import GANG_RESIZED, RetryPlanned
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import LASTS_S, LOOK_S, SETTLED_S, UNBORN_S, Abandon, NodePlan, Resize
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import parse_resources, task
from hooke.pipeline.trace import trace


@task
def one(x):
    return x


@task
def train(x):
    return x


@pipeline
def alone():
    return train(1)


@pipeline
def two():
    return train(1), train(2)


@pipeline
def with_one():
    return train(1), one(1)


@pipeline
def with_map(items):
    return train(1), one.map(range(items))


def elastic(least, most, **more):
    return NodePlan(ranks=most, least_ranks=least, **more)


def played(pipe, *args, least=1, most=4, slots=4, **plan):
    return Played(pipe, *args, slots=slots, plans={"train": elastic(least, most, **plan)})


def resizes(play):
    """What is asked of gangs, at the next look."""
    play.now += LOOK_S
    before = len(play.other)
    play.decide()
    return [(each.attempt, each.ranks) for each in play.other[before:] if isinstance(each, Resize)]


def settle(play, times=1):
    play.now += SETTLED_S * times + LASTS_S


def resize(play, submit):
    play.fail(submit, GANG_RESIZED)
    return play.decide()


@pytest.mark.parametrize(("slots", "ranks"), [(1, 1), (3, 3), (4, 4), (9, 4)])
def test_it_begins_with_as_many_ranks_as_there_is_room_for(slots, ranks):
    (first,) = played(alone, slots=slots).decide()
    assert first.ranks == ranks


def test_it_waits_for_the_fewest():
    play = played(alone, least=2, slots=1)
    assert play.decide() == []
    play.capacity(2)
    assert [each.ranks for each in play.decide()] == [2]


def test_resources_bound_the_ranks_and_the_fewest_get_everything():
    play = played(alone, cpus=2.0, memory=100)
    play.capacity(4, cpus=8.0, memory=250)
    assert [each.ranks for each in play.decide()] == [2]
    play = played(alone, cpus=3.0)
    play.capacity(4, cpus=2.0)
    assert [each.ranks for each in play.decide()] == [1]


def test_it_grows_when_there_has_been_room_for_a_while():
    play = played(alone, slots=1)
    (first,) = play.decide()
    play.started(first)
    play.now += SETTLED_S
    play.capacity(3)
    assert resizes(play) == []  # there is room, but only just now
    play.now += LASTS_S
    assert resizes(play) == [(first.attempt, 3)]
    assert resizes(play) == []
    assert [each.ranks for each in resize(play, first)] == [3]
    assert not [each for each in play.other if isinstance(each, RetryPlanned)]


def test_room_that_goes_again_before_the_checkpoint_is_taken_back():
    play = played(alone, slots=1)
    (first,) = play.decide()
    play.started(first)
    play.capacity(2)
    resizes(play)
    settle(play)
    assert resizes(play) == [(first.attempt, 2)]
    play.capacity(1)
    assert resizes(play) == [(first.attempt, 1)]


def test_it_makes_way_for_what_waits_and_keeps_the_fewest():
    play = played(with_map, 100, least=2)
    first = play.decide()[0]
    assert (first.node, first.ranks) == (0, 4)
    play.started(first)
    resizes(play)
    settle(play)
    assert resizes(play) == [(first.attempt, 2)]
    again = resize(play, first)
    assert [(each.node, each.ranks) for each in again] == [(0, 2), (1, 0), (1, 0)]


def test_it_makes_way_for_no_more_than_waits():
    play = played(with_one)
    first, *rest = play.decide()
    assert not rest
    play.started(first)
    resizes(play)
    settle(play)
    assert resizes(play) == [(first.attempt, 3)]
    assert [(each.node, each.ranks) for each in resize(play, first)] == [(0, 3), (1, 0)]


def test_it_does_not_shrink_for_what_would_have_no_room_either_way():
    play = Played(with_one, slots=4, plans={"train": elastic(2, 4), "one": NodePlan(cpus=4.0)})
    (first,) = play.decide()
    play.started(first)
    resizes(play)
    settle(play)
    assert resizes(play) == []


def test_what_has_no_room_beside_it_keeps_no_gang_small():
    play = Played(with_one, slots=1, plans={"train": elastic(1, 2), "one": NodePlan(cpus=2.0)})
    (first,) = play.decide()
    play.started(first)
    play.capacity(2)
    resizes(play)
    settle(play)
    assert resizes(play) == [(first.attempt, 2)]


def test_a_second_gang_gets_its_fewest_and_both_grow_alike():
    play = played(two)
    (first,) = play.decide()
    play.started(first)
    resizes(play)
    settle(play)
    assert resizes(play) == [(first.attempt, 3)]
    again, second = resize(play, first)
    assert (again.ranks, second.ranks) == (3, 1)
    play.started(again)
    play.started(second)
    play.capacity(8)
    resizes(play)
    settle(play, times=2)
    assert resizes(play) == [(again.attempt, 4), (second.attempt, 4)]


def test_each_change_makes_the_next_one_wait_twice_as_long():
    play = played(alone, slots=1)
    (now,) = play.decide()
    for times in (1, 2, 4, 8):
        play.started(now)
        play.capacity(1 if now.ranks > 1 else 2)
        resizes(play)
        play.now += SETTLED_S * times - 3 * LOOK_S
        assert resizes(play) == []
        assert len(resizes(play)) == 1
        (now,) = resize(play, now)


def test_a_gang_that_lacks_room_before_it_begins_goes_on_with_less():
    play = played(alone)
    (first,) = play.decide()
    play.capacity(2)
    (again,) = play.decide()
    assert [each.attempt for each in play.other if isinstance(each, Abandon)] == [first.attempt]
    assert again.ranks == 2
    play.now += UNBORN_S  # no machine has room for both
    (last,) = play.decide()
    assert last.ranks == 1
    play.now += 10 * UNBORN_S
    assert play.decide() == []
    assert play.state.next_due() is None


def test_a_lost_machine_costs_no_retry_and_a_rank_that_dies_does():
    play = played(alone, slots=2)
    (now,) = play.decide()
    for _ in range(4):  # as many as it may have ranks
        play.started(now)
        play.fail(now, "WorkerDied", host_lost=True)
        play.capacity(1)
        (now,) = play.decide()
        assert now.ranks == 1
    reasons = [each for each in play.other if isinstance(each, RetryPlanned)]
    assert all(each.counted == 0 and "as many ranks as there is room for" in each.reason for each in reasons)
    play.fail(now, "WorkerDied", host_lost=True)
    play.decide()
    assert play.state.status == "failed"
    play = played(alone, slots=2)
    (now,) = play.decide()
    play.fail(now, "WorkerDied", signal=9)
    play.decide()
    assert play.state.status == "failed"


def test_a_rank_that_dies_goes_on_with_the_places_that_are_left():
    play = played(with_one, slots=2, retries=1)
    (first,) = play.decide()
    play.started(first)
    play.fail(first, "WorkerDied", signal=9)
    (other,) = play.decide()  # it takes a place while the gang waits for its retry
    assert other.node == 1
    play.now += 1.0
    assert [(each.node, each.ranks, each.number) for each in play.decide()] == [(0, 1, 2)]


def test_a_timeout_is_of_all_parts_between_checkpoints():
    play = played(alone, timeout_s=20.0)
    (first,) = play.decide()
    play.started(first)
    play.now += 15.0
    (again,) = resize(play, first)
    play.started(again)
    play.now += 4.0
    play.decide()
    assert not [each for each in play.other if isinstance(each, Abandon)]
    play.now += 1.5
    play.state.decide(play.now)
    assert [each.timed_out for each in play.state.decide(play.now) if isinstance(each, Abandon)] == [True]


def test_what_remains_tells_how_many_workers_it_could_use_and_needs():
    play = played(alone, slots=2)
    (left,) = remaining_work(play.state, 0.0)
    (first,) = play.decide()
    play.started(first)
    (left,) = remaining_work(play.state, 1.0)
    assert (left.running, left.ready, left.slots) == (2, 2, 2)
    play.fail(first, GANG_RESIZED)
    play.capacity(0)
    (left,) = remaining_work(play.state, 1.0)
    assert (left.running, left.ready, left.slots) == (0, 4, 1)


@pytest.mark.needs("cpu")
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 4)).filter(lambda pair: pair[0] < pair[1]),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, 6), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_whatever_comes_and_goes_gangs_stay_within_their_bounds_and_all_end(sizes, slots, chance):
    @pipeline
    def gangs():
        return [task(name=f"gang{at}")(_same)(at) for at in range(len(sizes))], one.map(range(5))

    plans = {f"gang{at}": elastic(least, most) for at, (least, most) in enumerate(sizes)}
    play = Played(gangs, slots=slots[0], plans=plans)
    running, most_slots = {}, slots[0]
    for step in range(200):
        for submit in play.decide():
            running[submit.attempt] = submit
            if submit.node < len(sizes):
                least, most = sizes[submit.node]
                assert least <= submit.ranks <= most
        for each in play.other:
            if isinstance(each, Abandon):
                running.pop(each.attempt, None)
        asked = {each.attempt: each.ranks for each in play.other if isinstance(each, Resize)}
        for attempt, ranks in asked.items():
            if attempt in running:
                least, most = sizes[running[attempt].node]
                assert least <= ranks <= most
        if play.state.status is not None:
            break
        held = sum(max(1, each.ranks) for each in running.values())
        assert held <= most_slots
        at_the_end = step > 100
        most_slots = max(held, 4 if at_the_end else slots[min(step // 10, len(slots) - 1)])
        play.capacity(most_slots)
        for submit in list(running.values()):
            what = 0.45 if at_the_end else chance.random()
            if what < 0.3:
                play.started(submit)
            elif what < 0.4 and asked.get(submit.attempt, submit.ranks) != submit.ranks:
                play.fail(submit, GANG_RESIZED)
                del running[submit.attempt]
            elif what < 0.5:
                play.finish(submit)
                del running[submit.attempt]
        play.now += chance.choice((0.1, 1.0, 10.0))
    assert play.state.status == "finished"


def _same(x):
    return x


@pytest.mark.parametrize(
    ("gang", "says"),
    [
        ((0, 4), "two of them, such as gang=(1, 4)"),
        ((4, 1), "gang=(1, 4), the smaller number first"),
        ((2, 2), "gang=2 for so many"),
        (("1", "4"), "two of them"),
        ("1-4", "two of them"),
        ((1, 2, 3), "two of them"),
        ((True, 4), "two of them"),
        ([1, 4], "two of them"),
        ((1, 2.5), "two of them"),
    ],
)
def test_what_is_no_range_is_refused(gang, says):
    with pytest.raises(UsageError) as refused:
        parse_resources({"gang": gang})
    assert repr(gang) in str(refused.value)
    assert says in refused.value.fix


def test_results_of_all_ranks_are_refused():
    with pytest.raises(UsageError, match="results='all'") as refused:
        parse_resources({"gang": (1, 4), "results": "all"})
    assert "how many ranks it ends with" in refused.value.fix


def test_the_bounds_are_part_of_the_key_and_the_ranks_that_happen_are_not():
    @pipeline
    def declared(gang):
        return task(name="train", gang=gang)(_same)(1)

    keys = [
        GraphKeys(trace(declared, (gang,)), run="r").nodes[0].key
        for gang in ((1, 4), (1, 4), (1, 3), (2, 4), 4)
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
