"""Short calls that follow the one whose result they need: which may, how many, in which slots, and what is taken back."""

import pytest
from tests.pipeline.played import Played, found

from hooke.journal.events import StopRequested
from hooke.pipeline.node_state import Abandon, LookedUp, NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.slots import FollowLines
from hooke.pipeline.task import task


@task
def link(*xs):
    return sum(xs)


@task
def other(*xs):
    return sum(xs)


@pipeline
def chain(links=100):
    x = link(0)
    for _ in range(links - 1):
        x = link(x)
    return x


@pipeline
def chain_and_others(links=100, others=1):
    x = link(0)
    for _ in range(links - 1):
        x = link(x)
    return x, [other(x, each) for each in range(others)], [other(each) for each in range(others)]


@pipeline
def chain_with_another_task():
    return link(other(link(link(0))))


@pipeline
def fan():
    x = link(link(0))
    return [link(x, each) for each in range(20)]


@pipeline
def joined():
    a, b = link(link(0), 1), link(link(0), 2)
    return link(link(a, b))


def played(drawn, *args, seconds=0.0001, **how):
    """A run whose engine lets calls follow, after its first call took so long."""
    run = Played(drawn, *args, **how)
    run.state.follows = True
    first, *_ = run.decide()
    run.finish(first, seconds)
    return run


def after(submits):
    return [(submit.node, submit.after) for submit in submits]


def test_a_chain_goes_ahead_as_far_as_tickets_go():
    run = played(chain)
    first, *followers = run.decide()
    assert (first.node, first.after) == (1, None)
    assert after(followers) == [(2 + at, first.attempt + at) for at in range(64)]
    run.finish(first, 0.0001)
    (next_one,) = run.decide()
    assert (next_one.node, next_one.after) == (66, followers[-1].attempt)


@pytest.mark.parametrize(("seconds", "ahead"), [(0.001, 20), (0.004, 5), (0.0049, 4), (0.005, 0), (1.0, 0)])
def test_what_follows_takes_20_ms(seconds, ahead):
    run = played(chain, seconds=seconds)
    assert len(run.decide()) == 1 + ahead


def test_without_the_engines_word_nothing_follows():
    run = Played(chain)
    first, *_ = run.decide()
    run.finish(first, 0.0001)
    assert len(run.decide()) == 1


def test_a_task_that_was_never_measured_follows_none():
    run = played(chain_with_another_task)
    assert [submit.node for submit in run.decide()] == [1]


@pytest.mark.parametrize("plan", [NodePlan(memory=1 << 30), NodePlan(cpus=2.0), NodePlan(ranks=1)])
def test_what_asks_for_something_else_follows_none(plan):
    run = Played(chain_with_another_task, slots=4, plans={"other": plan})
    run.state.follows = True
    run.state._short.measured(run.graph.nodes[2], 0.0001)
    (first,) = run.decide()
    run.finish(first, 0.0001)
    assert [submit.node for submit in run.decide()] == [1]


def test_of_a_fan_one_follows_and_the_others_go_where_there_is_room():
    run = played(fan)
    first, follower = run.decide()
    assert (follower.node, follower.after) == (2, first.attempt)
    run.finish(first, 0.0001)
    assert {submit.after for submit in run.decide()} == {None}


def test_what_needs_two_that_run_follows_none_and_then_the_last():
    run = played(joined, slots=1)
    nodes = [each.task.name for each in run.graph.nodes]
    assert nodes == ["link"] * 6
    submits = run.decide()
    assert 4 not in [submit.node for submit in submits]
    running = dict.fromkeys(submits)
    while not any(submit.node == 4 for submit in running):
        run.finish(next(iter(running)), 0.0001)
        running.pop(next(iter(running)))
        running |= dict.fromkeys(run.decide())
    assert run.state.nodes[4].missing <= 1


def test_what_is_ready_goes_before_what_follows():
    run = played(chain_and_others, 100, 3, slots=1)
    (second,) = run.decide()
    assert second.after is None
    run.finish(second, 0.0001)
    submits = run.decide()
    assert all(submit.after is None for submit in submits)


def test_a_line_takes_one_slot_and_leaves_it_when_it_ends():
    run = played(chain, 10, slots=1)
    submits = run.decide()
    assert len(submits) == 9
    for submit in submits[:-1]:
        run.finish(submit, 0.0001)
        assert run.state._room.taken == 1
        assert run.decide() == []
    run.finish(submits[-1], 0.0001)
    assert run.state._room.taken == 0
    run.decide()
    assert run.state.status == "finished"


def test_a_failure_takes_back_what_follows_and_that_is_none_of_its_tries():
    run = played(chain, plans={"link": NodePlan(retries=1)})
    first, *followers = run.decide()
    run.fail(first)
    assert run.decide() == []
    abandoned = [effect for effect in run.other if isinstance(effect, Abandon)]
    assert {each.attempt for each in abandoned} == {each.attempt for each in followers}
    run.finish(followers[0])  # too late
    run.now = 10.0
    again, *others = run.decide()
    assert (again.node, again.number, again.after) == (1, 2, None)
    assert [(each.node, each.number) for each in others] == [(2 + at, 1) for at in range(64)]
    assert {each.attempt for each in others}.isdisjoint(each.attempt for each in followers)


def test_a_failure_in_the_midst_leaves_what_runs_before_it():
    run = played(chain, plans={"link": NodePlan(retries=1)})
    first, second, *followers = run.decide()
    run.fail(second)
    run.decide()
    assert set(run.state.running) == {first.attempt}
    run.finish(first, 0.0001)
    assert run.state._room.taken == 0
    run.now = 10.0
    assert [submit.node for submit in run.decide()][:2] == [2, 3]
    assert len(followers) == 63


def test_what_another_process_computes_takes_back_what_follows():
    run = played(chain)
    first, *_ = run.decide()
    run.tell(LookedUp(first.node, held=True, attempt=first.attempt))
    assert run.state.running == {}
    assert run.state._room.taken == 0


def test_what_was_found_wakes_what_was_to_follow():
    run = played(chain)
    first, *followers = run.decide()
    run.tell(found(first.node, 0, 1), LookedUp(first.node, attempt=first.attempt))
    submits = run.decide()
    assert (submits[0].node, submits[0].after) == (followers[0].node, None)


def test_one_that_must_not_follow_waits_for_its_input_and_its_number_is_used_again():
    run = played(chain)
    first, second, *followers = run.decide()
    for each in (second, *followers):
        run.state.unfollow(each)
    assert set(run.state.running) == {first.attempt}
    run.decide()
    run.finish(first, 0.0001)
    submits = run.decide()
    assert (submits[0].node, submits[0].attempt, submits[0].after) == (second.node, second.attempt, None)


def test_nothing_follows_while_the_place_must_shrink():
    run = played(chain, 10)
    run.decide()
    run.capacity(0)
    before = len(run.submits)
    run.finish(run.submits[1], 0.0001)
    run.decide()
    assert len(run.submits) == before


def test_a_stop_ends_what_follows():
    run = played(chain)
    submits = run.decide()
    run.tell(StopRequested(by="me"))
    run.decide()
    abandoned = [effect.attempt for effect in run.other if isinstance(effect, Abandon)]
    assert sorted(abandoned) == sorted(each.attempt for each in submits)


def test_lines_keep_together_in_whatever_order_their_attempts_end():
    lines = FollowLines()
    lines.begin(1)
    for attempt in (2, 3, 4):
        lines.begin(attempt)
        lines.join(attempt, attempt - 1)
    assert (lines.behind(1), lines.length(4), len(lines)) == ([2, 3, 4], 3, 3)
    assert not lines.end(2)
    assert (lines.behind(1), lines.length(4), len(lines)) == ([3, 4], 2, 2)
    assert not lines.end(1)
    assert (lines.behind(3), lines.length(4), len(lines)) == ([4], 1, 1)
    assert not lines.end(4)
    assert lines.end(3)
    assert lines.open() == []
