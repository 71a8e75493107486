"""What the scheduler decides: demand, readiness, order, places, failures, ends."""

import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.played import REF, Played, found, pieces

from hooke.fleets.remaining_work import remaining_work
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure, RetryPlanned, StopRequested
from hooke.pipeline.graph import pruned_nodes
from hooke.pipeline.node_state import Abandon, Finish, LookedUp, NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.retries import held_until
from hooke.pipeline.run_state import SKIPS_BEFORE_RESERVING
from hooke.pipeline.task import task


@task
def one(x):
    return x


@task
def two(x):
    return x


@task
def wide(x):
    return x


@task
def listed(x):
    return [x]


@task
def add(*xs):
    return sum(xs)


@pipeline
def chain():
    return two(one(1))


@pipeline
def mapped(items):
    return add(one.map(range(items)))


@pipeline
def stepped(items):
    return two.map(one.map(range(items)))


@pipeline
def dynamic():
    return add(two.map(one.map(listed(1))))


@pipeline
def fanned(calls):
    return add(*(one(each) for each in range(calls)))


# -- demand ------------------------------------------------------------------------------------------


def test_a_chain_runs_from_its_beginning_to_its_end():
    run = Played(chain)
    assert pieces(run.play_on()) == [(0, 0, 1), (1, 0, 1)]
    assert run.state.status == "finished"
    assert run.other == [Finish("finished")]


def test_what_is_found_asks_nothing_of_its_ancestors():
    run = Played(chain, stored=lambda node: [found(1, 0, 1)] if node == 1 else [])
    assert run.decide() == []
    assert run.lookups == [1]
    assert run.state.status == "finished"


@pytest.mark.needs("cpu")
@given(
    above=st.lists(st.sets(st.integers(0, 9), max_size=3), min_size=2, max_size=10),
    stored=st.sets(st.integers(0, 9)),
    late=st.sets(st.integers(0, 9)),
)
def test_nothing_runs_that_only_finished_nodes_would_use(above, stored, late):
    """`late` are found when they are submitted, since another run finished them meanwhile."""

    @pipeline
    def random_graph():
        made = []
        for parents in above:
            made.append(add(*(made[parent] for parent in parents if parent < len(made))))
        return made[-1]

    run = Played(random_graph, stored=lambda node: [found(node, 0, 1)] if node in stored else [])
    nodes, graph, waiting = run.state.nodes, run.graph, run.decide()
    while waiting:
        submit = waiting.pop(0)
        if submit.node in late:
            run.tell(found(submit.node, 0, 1), LookedUp(submit.node, attempt=submit.attempt))
        else:
            run.finish(submit)
        needless = pruned_nodes(graph, graph.roots(), lambda node: nodes[node].complete)
        running = {attempt.node for attempt in run.state.running.values()}
        for node in range(len(nodes)):
            over = nodes[node].complete or (node in needless and node not in running)
            assert run.state.is_over(node) == over
        new = run.decide()
        assert not needless.intersection(each.node for each in new)
        waiting += new
    assert run.state.status == "finished"


@pipeline
def pairs(count):
    return [two(one(number)) for number in range(count)]


def functions_called(count, stored):
    """How many functions the scheduler calls in a run of so many pairs of nodes; every other pair is stored."""
    called = 0

    def note(_frame, event, _argument):
        nonlocal called
        called += event == "call"

    sys.setprofile(note)
    try:
        Played(pairs, count, stored=stored).play_on()
    finally:
        sys.setprofile(None)
    return called


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_a_node_costs_as_much_however_many_there_are(step):
    def stored(node):
        return [found(node, 0, 1)] if node % 2 and node // 2 % step == 0 else []

    few, many = functions_called(50, stored) / 50, functions_called(400, stored) / 400
    assert many < 1.2 * few


def test_a_task_called_for_its_effect_alone_runs():
    @pipeline
    def effects():
        one(1)
        return two(2)

    run = Played(effects)
    assert {node for node, _, _ in pieces(run.play_on())} == {0, 1}


def test_an_empty_pipeline_is_finished_at_once():
    @pipeline
    def nothing():
        return 5

    run = Played(nothing)
    assert run.decide() == []
    assert run.state.status == "finished"


def test_an_empty_map_is_finished_without_an_attempt():
    run = Played(mapped, 0)
    assert pieces(run.play_on()) == [(1, 0, 1)]
    assert run.state.status == "finished"


def test_no_more_is_asked_for_than_the_missing_items():
    run = Played(mapped, 10, stored=lambda node: [found(0, 0, 4), found(0, 5, 10)] if node == 0 else [])
    assert pieces(run.play_on()) == [(0, 4, 5), (1, 0, 1)]


# -- readiness ---------------------------------------------------------------------------------------


def test_a_map_in_step_starts_an_item_as_soon_as_its_input_is_done():
    run = Played(stepped, 3, slots=1)
    (first,) = run.decide()
    assert pieces([first]) == [(0, 0, 1)]
    run.finish(first, seconds=10)
    assert pieces(run.decide()) == [(1, 0, 1)]  # deeper, so before the other items of the first map


def test_a_map_in_step_with_two_waits_for_both():
    @pipeline
    def both():
        return add.map(one.map(range(2)), two.map(range(2)))

    run = Played(both, slots=4)
    submits = run.play_on(seconds=10)
    for submit in submits:
        if submit.node == 2:
            before = submits[: submits.index(submit)]
            for item in range(submit.lo, submit.hi):
                assert {s.node for s in before if s.lo <= item < s.hi} >= {0, 1}
    assert run.state.status == "finished"


def test_one_item_of_a_map_may_be_used_before_the_others_are_done():
    @pipeline
    def first_only():
        items = one.map(range(5))
        return two(items[1])

    run = Played(first_only, slots=1)
    order = pieces(run.play_on(seconds=10))
    assert order.index((1, 0, 1)) == 2  # right after items 0 and 1


def test_a_list_is_read_before_the_items_of_a_dynamic_map_run():
    run = Played(dynamic, slots=4)
    (reader,) = run.decide()
    assert reader.node == 0
    run.finish(reader)
    (expansion,) = run.decide()
    assert (expansion.node, expansion.expand, expansion.lo, expansion.hi) == (1, True, 0, 0)
    run.expanded(expansion, 3)
    assert {submit.node for submit in run.play_on()} == {1, 2, 3}
    assert run.state.status == "finished"


def test_a_dynamic_map_of_nothing_finishes():
    run = Played(dynamic)
    run.finish(*run.decide())
    run.expanded(*run.decide(), 0)
    assert pieces(run.play_on()) == [(3, 0, 1)]
    assert run.state.status == "finished"


def test_after_the_list_is_read_its_items_are_looked_for():
    run = Played(dynamic)
    run.finish(*run.decide())
    before = len(run.lookups)
    run.expanded(*run.decide(), 2)
    run.decide()
    assert set(run.lookups[before:]) == {1, 2}


# -- places ------------------------------------------------------------------------------------------


def test_never_more_attempts_than_slots():
    run = Played(mapped, 100, slots=3)
    assert len(run.decide()) == 3
    assert run.decide() == []


def test_nothing_starts_without_capacity_and_all_goes_on_when_it_is_back():
    run = Played(mapped, 10, slots=0)
    assert run.decide() == []
    run.capacity(2)
    assert len(run.decide()) == 2
    run.capacity(0)
    run.finish(run.submits[0])
    assert run.decide() == []
    run.capacity(1)
    assert run.decide() == []  # the other one still runs
    run.finish(run.submits[1])
    assert len(run.decide()) == 1


@pytest.mark.parametrize(
    ("plan", "at_once"),
    [(NodePlan(cpus=2), 2), (NodePlan(cpus=4), 1), (NodePlan(cpus=99), 1), (NodePlan(cpus=0.5), 4)],
)
def test_cpus_are_shared_and_what_asks_for_more_than_there_is_runs_alone(plan, at_once):
    run = Played(mapped, 10, slots=4, cpus=4, plans={"one": plan})
    assert len(run.decide()) == at_once


def test_memory_is_shared():
    run = Played(mapped, 10, plans={"one": NodePlan(memory=600)})
    run.capacity(4, memory=1000)
    assert len(run.decide()) == 1


def test_a_wide_task_is_not_passed_for_ever():
    @pipeline
    def crowded(items):
        return [wide(two(0)), one.map(range(items))]

    run = Played(crowded, 1000, slots=4, plans={"wide": NodePlan(cpus=4), "one": NodePlan(timeout_s=1e9)})
    waiting = run.decide()
    assert sorted(submit.node for submit in waiting) == [0, 2, 2, 2]
    waiting.sort(key=lambda submit: submit.node)
    passed = 0
    while waiting[-1].node != 1:
        run.finish(waiting.pop(0))
        waiting += run.decide()
        passed += 1
        assert passed < (SKIPS_BEFORE_RESERVING + 3) * 4


def test_a_wide_task_leaves_the_rest_of_the_place_to_others_at_first():
    @pipeline
    def crowded(items):
        return [wide(two(0)), one.map(range(items))]

    run = Played(crowded, 1000, slots=4, plans={"wide": NodePlan(cpus=4), "one": NodePlan(timeout_s=1e9)})
    first = next(submit for submit in run.decide() if submit.node == 0)
    run.finish(first)
    assert [submit.node for submit in run.decide()] == [2]


# -- order -------------------------------------------------------------------------------------------


def test_the_longest_items_go_first_where_durations_are_known():
    expected = {0: 0.1, 1: 9.0, 2: 0.001, 3: 3.0}
    run = Played(mapped, 5, slots=1, plans={"one": NodePlan(expected_s=expected)})
    assert [lo for node, lo, _ in pieces(run.play_on()) if node == 0] == [1, 3, 0, 2, 4]


def test_chunks_grow_with_what_was_measured():
    run = Played(mapped, 100_000, slots=2)
    sizes = [hi - lo for node, lo, hi in pieces(run.play_on(seconds=0.00001)) if node == 0]
    assert sizes[:2] == [1, 1]
    assert max(sizes) > 10_000
    assert sum(sizes) == 100_000
    assert len(sizes) < 100


def test_a_chunk_that_ends_at_its_limit_leaves_the_rest_to_others():
    run = Played(mapped, 100, slots=2, plans={"one": NodePlan(usual_s=0.001)})
    first, second = run.decide()
    assert [(each.lo, each.hi) for each in (first, second)] == [(0, 17), (17, 31)]
    assert first.limit_s == second.limit_s > 0
    run.finish(msgspec.structs.replace(first, hi=3), seconds=3.0)
    (third,) = run.decide()
    assert (third.lo, third.hi, third.limit_s) == (3, 4, 0.0)  # what was measured counts from now on
    run.finish(second, seconds=0.001)
    run.finish(third)
    assert [piece for piece in pieces(run.play_on()) if piece[:2] == (0, 4)]
    assert run.state.status == "finished"


def test_orders_of_first_chunks_may_have_started_a_worker():
    """Else the rest of a short map would be one chunk for each slot."""
    run = Played(mapped, 240, slots=4, plans={"one": NodePlan(usual_s=0.01)})
    run.now += 0.3
    for submit in run.decide():
        run.finish(submit, 0.01 * (submit.hi - submit.lo))
    sizes = [submit.hi - submit.lo for submit in run.decide()]
    assert len(sizes) == 4
    assert max(sizes) <= 10


def test_an_order_costs_what_passes_beyond_its_work():
    """From the decision to the answer: where that is long, chunks are fewer."""

    def chunks(order_s):
        run, done = Played(mapped, 100_000, slots=2), 0
        waiting = run.decide()
        while waiting:
            submit = waiting.pop(0)
            seconds = 1e-6 * (submit.hi - submit.lo)
            run.now += order_s + seconds
            run.finish(submit, seconds)
            done += submit.node == 0
            waiting += run.decide()
        return done

    assert chunks(0.01) < chunks(0.0001) / 1.5


def test_items_with_a_timeout_go_one_by_one():
    run = Played(mapped, 20, plans={"one": NodePlan(timeout_s=5)})
    assert {hi - lo for node, lo, hi in pieces(run.play_on(seconds=0.00001)) if node == 0} == {1}


# -- failures ----------------------------------------------------------------------------------------


def test_a_failure_without_retries_ends_the_run_when_what_runs_has_ended():
    run = Played(mapped, 2)
    first, second = run.decide()
    run.fail(first)
    assert run.decide() == []
    assert run.state.status is None
    run.finish(second)
    run.decide()
    assert run.state.status == "failed"
    assert run.state.failure.attempt == first.attempt


def test_a_failed_run_waits_for_nothing_but_what_runs():
    run = Played(mapped, 3, slots=3, plans={"one": NodePlan(retries=1)})
    retried, fatal, _running = run.decide()
    run.fail(retried)
    run.fail(fatal, retryable=False)
    run.now = 100.0
    run.decide()
    assert run.state.next_due() is None  # else the runner spins on a retry that will not come


def test_retries_are_spent_and_no_more():
    run = Played(chain, plans={"one": NodePlan(retries=2)})
    for number in (1, 2, 3):
        (submit,) = run.decide()
        assert submit.number == number
        run.fail(submit)
        run.now = run.state.next_due() or run.now
    run.decide()
    assert run.state.status == "failed"
    assert [e.number for e in run.other if isinstance(e, RetryPlanned)] == [2, 3]


def test_a_try_that_ends_in_more_memory_spends_no_retry():
    run = Played(chain, plans={"one": NodePlan(memory=100, retries=1)})
    run.capacity(2, memory=400)
    for memory, kind in ((100, "OutOfMemory"), (200, "OutOfMemory"), (400, "TaskError")):
        (submit,) = run.decide()
        assert submit.memory == memory
        run.fail(submit, kind)
        run.now = run.state.next_due() or run.now
    (again,) = run.decide()
    assert (again.node, again.number, run.state.failure) == (submit.node, 4, None)
    run.fail(again)
    run.decide()
    assert run.state.status == "failed"


def test_a_retry_waits_for_its_time():
    run = Played(chain, plans={"one": NodePlan(retries=1)})
    run.fail(*run.decide(), delay_s=30.0)
    assert run.decide() == []
    assert run.state.next_due() == 30.0
    (left, after) = remaining_work(run.state, 10.0)
    assert (left.ready, left.waiting, left.retry_s) == (0, 1, [20.0])
    assert (after.waiting, after.retry_s) == (1, [])
    run.now = 30.0
    assert len(run.decide()) == 1


def test_an_item_that_waits_for_its_retry_is_not_started_by_other_news():
    run = Played(stepped, 4, slots=1, plans={"two": NodePlan(retries=1)})
    run.finish(*run.decide())
    (submit,) = run.decide()
    assert submit.node == 1
    run.fail(submit, delay_s=50.0)
    run.decide()
    run.tell(LookedUp(1))  # looked again, for whatever reason
    assert all(submit.node == 0 for submit in run.decide())


def test_permanent_failures_are_not_retried():
    run = Played(chain, plans={"one": NodePlan(retries=5)})
    run.fail(*run.decide(), retryable=False)
    run.decide()
    assert run.state.status == "failed"


def test_what_a_failed_chunk_finished_stays_finished():
    run = Played(mapped, 100, slots=1, plans={"one": NodePlan(retries=1)})
    run.finish(*run.decide(), seconds=0.0001)
    (chunk,) = run.decide()
    assert (chunk.lo, chunk.hi) == (1, 9)
    run.fail(chunk, done=3)
    run.now = 100.0
    assert run.state.nodes[0].done.items.contains(0, 4)
    after = pieces(run.play_on())
    assert (0, 4, 5) in after  # the one that failed goes alone
    assert all(lo >= 4 for node, lo, _ in after if node == 0)
    assert run.state.status == "finished"


def test_a_death_is_traced_to_its_item_before_anybody_is_blamed():
    run = Played(mapped, 100, slots=1)
    run.finish(*run.decide(), seconds=0.0001)
    (chunk,) = run.decide()
    run.fail(chunk, "WorkerDied")
    suspects = []
    while len(suspects) < chunk.hi - chunk.lo:
        (alone,) = run.decide()
        suspects.append((alone.lo, alone.hi))
        run.finish(alone, seconds=0.0001)
    assert suspects == [(item, item + 1) for item in range(chunk.lo, chunk.hi)]
    assert "each runs alone" in run.other[0].reason


def test_a_death_of_one_item_counts_as_its_failure():
    run = Played(chain, plans={"one": NodePlan(retries=1)})
    run.fail(*run.decide(), "WorkerDied")
    run.now = 10.0
    run.fail(*run.decide(), "WorkerDied")
    run.decide()
    assert run.state.status == "failed"


def test_reading_a_list_is_retried_too():
    run = Played(dynamic, plans={"one": NodePlan(retries=1)})
    run.finish(*run.decide())
    run.fail(*run.decide())
    run.now = 10.0
    (again,) = run.decide()
    assert (again.expand, again.number) == (True, 2)


def test_an_attempt_over_its_time_is_given_up():
    run = Played(chain, plans={"one": NodePlan(timeout_s=5.0)})
    (submit,) = run.decide()
    assert run.state.next_due() is None
    run.started(submit)
    assert run.state.next_due() == 5.0
    run.now = 5.0
    assert run.state.decide(5.0) == [Abandon(submit.attempt, timed_out=True)]


# -- late, double and foreign news -------------------------------------------------------------------


def test_late_and_double_answers_change_nothing():
    run = Played(chain)
    (submit,) = run.decide()
    run.finish(submit)
    run.finish(submit)
    run.fail(submit)
    run.tell(AttemptFinished(attempt=999, node=0, lo=0, hi=1, ref=REF))
    assert run.state.ignored == 3
    assert len(run.decide()) == 1
    assert run.state.failure is None


def test_what_another_process_computes_is_looked_for_later():
    run = Played(chain)
    (submit,) = run.decide()
    run.tell(LookedUp(0, held=True, attempt=submit.attempt))
    assert run.state.running == {}
    assert run.decide() == []
    due = run.state.next_due()
    assert due == held_until(run.now, 1, seed=run.state.seed)
    run.stored = lambda node: [found(0, 0, 1)]
    run.now = due
    assert pieces(run.decide()) == [(1, 0, 1)]


def test_what_another_process_computes_for_long_is_looked_for_ever_more_rarely():
    run = Played(chain)
    waits = []
    for look in range(1, 13):
        (submit,) = run.decide()
        run.tell(LookedUp(0, held=True, attempt=submit.attempt))
        due = run.state.next_due()
        assert due == held_until(run.now, look, seed=1)
        waits.append(due - run.now)
        run.now = due
    assert sum(waits[:6]) < 0.1 * 2**6 * 2
    assert min(waits[7:]) >= 5


def test_what_was_released_is_looked_for_at_once():
    run = Played(chain)
    (submit,) = run.decide()
    run.tell(LookedUp(0, held=True, attempt=submit.attempt))
    run.lookups.clear()
    run.state.look_again(0)
    run.state.look_again(1)
    assert run.state.next_due() == run.now
    run.decide()
    assert run.lookups == [0], "and nothing is looked for that was not waited for"


def test_what_a_worker_is_asked_about_runs_when_it_has_answered():
    run = Played(mapped, 10, slots=4)
    for submit in run.decide():
        run.tell(LookedUp(0, asked=True, attempt=submit.attempt))
    run.lookups.clear()
    assert run.state.running == {}
    assert run.decide() == []
    assert run.state.next_due() is None
    assert run.lookups == [], "the runner looks by itself once it has the answer"
    run.tell(found(0, 0, 2), LookedUp(0))
    assert next(each for each in pieces(run.decide()) if each[0] == 0) == (0, 2, 3)


def test_a_node_that_a_worker_is_asked_about_needs_a_worker():
    run = Played(chain)
    (submit,) = run.decide()
    run.tell(LookedUp(0, asked=True, attempt=submit.attempt))
    assert [(left.ready, left.waiting) for left in remaining_work(run.state, 0.0)] == [(1, 0), (0, 1)]


def test_attempts_of_one_map_that_are_held_look_once():
    run = Played(mapped, 10, slots=4)
    for submit in run.decide():
        run.tell(LookedUp(0, held=True, attempt=submit.attempt))
    run.lookups.clear()
    run.now = 1.0
    assert len(run.decide()) == 4
    assert run.lookups == [0]


def test_what_is_found_instead_of_run_is_not_run():
    run = Played(mapped, 4, slots=2)
    first, second = run.decide()
    run.tell(found(0, 0, 2), LookedUp(0, attempt=first.attempt), LookedUp(0, attempt=second.attempt))
    assert {(lo, hi) for _, lo, hi in pieces(run.decide())} == {(2, 3), (3, 4)}


# -- ends --------------------------------------------------------------------------------------------


def test_a_stop_gives_up_what_runs():
    run = Played(mapped, 4)
    attempts = [submit.attempt for submit in run.decide()]
    run.tell(StopRequested(by="ctrl-c"))
    run.decide()
    assert run.other == [Abandon(attempts[0]), Abandon(attempts[1]), Finish("stopped")]
    assert run.state.running == {}
    assert run.state.decide(1.0) == []


def test_what_still_runs_for_a_result_found_elsewhere_is_given_up():
    run = Played(stepped, 4, slots=2)
    run.finish(run.decide()[0], seconds=10)
    (child,) = [submit for submit in run.decide() if submit.node == 1]
    run.tell(found(1, 0, 4), LookedUp(1, attempt=child.attempt))
    run.decide()
    assert run.state.status == "finished"
    assert run.state.running == {}
    assert Abandon(run.submits[1].attempt) in run.other


def test_the_same_events_give_the_same_decisions():
    def history():
        run = Played(stepped, 50, slots=3, plans={"one": NodePlan(retries=3)})
        submits = run.decide()
        run.fail(submits[1])
        run.finish(submits[0])
        run.now = 50.0
        return pieces(run.play_on(seconds=0.01))

    assert history() == history()


def test_a_map_of_nothing_does_not_count_for_another_need():
    """It is complete before anybody was told, and was once counted when it was told."""

    @pipeline
    def with_nothing():
        return add(one.map(range(0)), two(one(1)))

    run = Played(with_nothing, slots=4)
    order = [node for node, _, _ in pieces(run.play_on())]
    assert order == sorted(order)
    assert run.state.status == "finished"


def test_withdrawn_attempts_give_their_numbers_back():
    run = Played(mapped, 10, slots=2)
    for _ in range(5):
        first, second = run.decide()
        assert {first.attempt, second.attempt} == {1, 2}
        for submit in (first, second):
            run.tell(LookedUp(0, held=True, attempt=submit.attempt))
        run.now = run.state.next_due()


def test_what_a_task_says_it_finished_without_a_result_is_not_taken_as_done():
    run = Played(mapped, 9, slots=1, plans={"one": NodePlan(retries=1)})
    (submit,) = run.decide()
    where = {"attempt": submit.attempt, "node": 0, "lo": 0, "hi": 1}
    run.tell(AttemptFailed(failure=Failure(kind="TaskError", message="no"), done=1, ref=None, **where))
    assert len(run.state.nodes[0].done) == 0
    run.now = 10.0
    assert sorted(lo for node, lo, _ in pieces(run.play_on()) if node == 0) == list(range(9))


# -- short calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "behind"), [(0.00001, 64), (0.001, 20), (0.004, 5), (0.0049, 4), (0.005, 0), (1.0, 0)]
)
def test_so_many_short_calls_wait_behind_another_as_take_20_ms(seconds, behind):
    run = Played(fanned, 300, slots=2)
    first, _ = run.decide()
    run.finish(first, seconds)
    run.decide()
    in_flight = len(run.state.running)
    assert in_flight == 2 * (1 + behind)
