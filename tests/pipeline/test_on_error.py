"""Maps that go on after errors: what the scheduler leaves out, what a pipeline's body may ask, what plain calls give."""

from __future__ import annotations

import pickle
import warnings

import pytest
from tests.pipeline.played import Played, found, pieces

from hooke.base.errors import TraceError, UsageError
from hooke.journal.events import FINISHED, WITH_FAILURES, ItemsSkipped, MapExpanded
from hooke.keys.fingerprint import fingerprint_value
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace


@task
def one(x):
    if x in BAD:
        raise ValueError(f"no {x}")
    return x


@task
def two(x, by=1):
    return 10 * x + by


@task
def add(*xs):
    return list(xs)


@task
def listed(xs):
    return list(xs)


@task
def own(x, on_error):
    return x, on_error


BAD: set[object] = set()


@pipeline
def reduced(items):
    return add(one.map(range(items), on_error="continue"))


@pipeline
def stepped(items):
    return add(two.map(one.map(range(items), on_error="continue")))


@pipeline
def relisted(items):
    kept = one.map(range(items), on_error="continue")
    return add(two.map(listed(kept)))


class TestScheduler:
    def test_a_failed_item_is_left_out_and_the_rest_goes_on(self):
        run = Played(reduced, 3, slots=1)
        run.fail(*run.decide())
        assert pieces(run.play_on()) == [(0, 1, 2), (0, 2, 3), (1, 0, 1)]
        assert run.state.status == WITH_FAILURES
        assert run.state.failures == 1
        assert run.state.failure is None

    def test_only_after_its_retries(self):
        run = Played(reduced, 1, plans={"one": NodePlan(retries=1)})
        run.fail(*run.decide())
        assert not run.state.nodes[0].left_out
        run.now = 10.0
        run.fail(*run.decide())
        assert list(run.state.nodes[0].left_out) == [(0, 1)]

    @pytest.mark.parametrize("kind", ["WorkerDied", "OutOfMemory", "TimedOut"])
    def test_deaths_count_too_once_it_is_known_whose(self, kind):
        run = Played(reduced, 100, slots=1)
        run.finish(*run.decide(), seconds=0.0001)
        (chunk,) = run.decide()
        assert chunk.hi - chunk.lo > 1
        run.fail(chunk, kind)
        assert not run.state.nodes[0].left_out
        (alone,) = run.decide()
        run.fail(alone, kind)
        assert list(run.state.nodes[0].left_out) == [(alone.lo, alone.hi)]

    @pytest.mark.parametrize("kind", ["EnvironmentMismatch", "StoreFull", "MissingObject", "NotPicklable"])
    def test_what_other_items_would_meet_too_ends_the_run(self, kind):
        run = Played(reduced, 3, slots=1)
        run.fail(*run.decide(), kind, retryable=False)
        run.decide()
        assert run.state.status == "failed"

    def test_a_list_that_cannot_be_read_ends_the_run(self):
        @pipeline
        def dynamic():
            return two.map(listed([1]), on_error="continue")

        run = Played(dynamic)
        run.finish(*run.decide())
        run.fail(*run.decide())
        run.decide()
        assert run.state.status == "failed"

    def test_a_map_in_step_skips_the_item_and_says_so(self):
        run = Played(stepped, 3, slots=1)
        run.fail(*run.decide())
        assert pieces(run.play_on()) == [(0, 1, 2), (1, 1, 2), (0, 2, 3), (1, 2, 3), (2, 0, 1)]
        assert [skip for skip in run.other if isinstance(skip, ItemsSkipped)] == [
            ItemsSkipped(node=1, lo=0, hi=1, parent=0)
        ]
        assert run.state.failures == 1

    def test_a_map_in_step_has_its_own_mode_for_its_own_failures(self):
        run = Played(stepped, 2, slots=1)
        run.finish(*run.decide())
        run.fail(*run.decide())
        run.play_on()
        assert run.state.status == "failed"

    def test_items_skipped_by_two_maps_are_skipped_once(self):
        @pipeline
        def joined():
            first = one.map(range(2), on_error="continue")
            return add.map(two.map(first), two.map(first, by=2))

        run = Played(joined, slots=1)
        run.fail(*run.decide())
        run.play_on()
        skips = [(skip.node, skip.lo) for skip in run.other if isinstance(skip, ItemsSkipped)]
        assert sorted(skips) == [(1, 0), (2, 0), (3, 0)]
        assert run.state.status == WITH_FAILURES

    def test_a_found_item_is_not_skipped(self):
        run = Played(stepped, 2, slots=1, stored=lambda node: [found(1, 0, 1)] if node == 1 else [])
        run.fail(*run.decide())
        run.play_on()
        assert run.state.nodes[1].done.items.contains(0, 2)
        assert not run.state.nodes[1].left_out

    def test_a_thousand_maps_in_step_skip_without_recursion(self):
        @pipeline
        def deep():
            items = one.map(range(1), on_error="continue")
            for _ in range(1500):
                items = two.map(items)
            return items

        run = Played(deep)
        run.fail(*run.decide())
        assert run.decide() == []
        assert run.state.status == WITH_FAILURES

    def test_where_every_item_fails_the_list_is_empty(self):
        run = Played(reduced, 2)
        for submit in run.decide():
            run.fail(submit)
        assert pieces(run.play_on()) == [(1, 0, 1)]
        assert run.state.failures == 2

    def test_failures_that_nothing_needs_any_more_do_not_count(self):
        run = Played(reduced, 2, slots=1)
        run.fail(*run.decide())
        run.tell(found(1, 0, 1))  # another process computed it
        run.decide()
        assert run.state.status == FINISHED
        assert run.state.failures == 0


class TestTaint:
    def test_what_reads_the_list_and_all_after_it(self):
        @pipeline
        def chain():
            kept = one.map(range(2), on_error="continue")
            whole = add(kept)
            return add(whole), two.map(range(2), by=whole), two.map(kept), add(7)

        run = Played(chain, slots=1)
        assert not any(run.state.is_tainted(node) for node in range(6))
        run.fail(next(submit for submit in run.decide() if submit.node == 0))
        run.play_on()
        assert [run.state.is_tainted(node) for node in range(6)] == [False, True, True, True, False, False]

    def test_a_list_made_of_such_a_list(self):
        run = Played(relisted, 2, slots=1)
        run.fail(*run.decide())
        run.finish(*run.decide())
        run.finish(*run.decide())
        (reading,) = run.decide()
        assert reading.expand
        assert run.state.is_tainted(2)

    def test_an_empty_one_and_what_follows_it_item_by_item(self):
        @pipeline
        def job():
            kept = one.map(range(2), on_error="continue")
            return add(two.map(one.map(listed(kept))))

        run = Played(job, slots=1)
        run.fail(*run.decide())
        run.finish(*run.decide())
        run.finish(*run.decide())
        (reading,) = run.decide()
        run.finish(reading)
        run.tell(MapExpanded(node=2, items=0, tainted=True))
        (last,) = run.decide()
        assert last.node == 4
        assert run.state.is_tainted(4)

    def test_a_found_result_is_whole_whatever_failed(self):
        @pipeline
        def chain():
            return add(add(one.map(range(2), on_error="continue"))), add(
                one.map(range(2), on_error="continue")
            )

        run = Played(chain, slots=1, stored=lambda node: [found(1, 0, 1)] if node == 1 else [])
        run.play_on()
        assert not run.state.is_tainted(2)


class TestKeys:
    def test_on_error_is_no_part_of_any_key(self):
        @pipeline
        def job(mode):
            kept = one.map(range(3), on_error=mode)
            return add(two.map(kept)), add(kept)

        stops, goes_on = (GraphKeys(trace(job, (mode,)), run="r") for mode in ("raise", "continue"))
        assert [each.key for each in stops.nodes] == [each.key for each in goes_on.nodes]
        assert stops.items(1) == goes_on.items(1)


class TestTrace:
    @pytest.mark.parametrize("value", ["ignore", None, True, "Continue"])
    def test_another_value_is_refused_with_those_that_are_valid(self, value):
        with pytest.raises(UsageError, match=r"one\.map got on_error=.*") as raised:
            one.map([1], on_error=value)
        assert 'on_error="raise"' in raised.value.fix
        assert 'on_error="continue"' in raised.value.fix
        assert "test_on_error.py" in raised.value.where

    @pytest.mark.parametrize(
        "use",
        [len, list, bool, reversed, lambda kept: kept[0], lambda kept: kept[-1], lambda kept: kept[1:]],
        ids=["len", "list", "bool", "reversed", "item", "last", "slice"],
    )
    @pytest.mark.parametrize("follow", [False, True])
    def test_places_in_a_list_that_may_lack_items_are_refused(self, use, follow):
        @pipeline
        def job():
            kept = one.map(range(3), on_error="continue")
            return use(two.map(kept) if follow else kept)

        with pytest.raises(TraceError) as raised:
            trace(job)
        assert "failed items" in raised.value.fix
        assert "pass the whole list to a task" in raised.value.fix

    def test_pairs_with_a_list_of_unknown_length_are_refused(self):
        @pipeline
        def job():
            return add.map(one.map(range(3), on_error="continue"), listed([1, 2, 3]))

        with pytest.raises(TraceError, match=r"add\.map pairs a list that may lack failed items"):
            trace(job)

    def test_a_parameter_of_that_name_is_the_functions(self):
        @pipeline
        def job():
            return own.map([1], on_error="its own")

        assert own.map([1], on_error="its own") == [(1, "its own")]
        assert trace(job).nodes[0].arguments == {"on_error": "its own"}


@pytest.fixture
def bad():
    yield BAD.update
    BAD.clear()


class TestPlainCalls:
    def test_failing_items_are_left_out_with_a_warning(self, bad):
        bad({1, 3})
        with pytest.warns(RuntimeWarning, match=r"2 of 4 items of one\.map failed.*item 1: ValueError: no 1"):
            assert one.map(range(4), on_error="continue") == [0, 2]

    def test_by_default_the_first_error_is_raised(self, bad):
        bad({1})
        for more in ({}, {"on_error": "raise"}):
            with pytest.raises(ValueError, match="no 1"):
                one.map(range(3), **more)

    def test_without_a_failure_it_is_an_ordinary_list(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert type(one.map(range(3), on_error="continue")) is list

    def test_other_maps_pair_its_items_with_the_right_ones(self, bad):
        bad({1, 12})
        with pytest.warns(RuntimeWarning):
            first = one.map(range(3), on_error="continue")
        with pytest.warns(RuntimeWarning):
            second = one.map(range(10, 13), on_error="continue")
        assert add.map(first, second) == [[0, 10]]
        assert add.map(range(3), two.map(first)) == [[0, 1], [2, 21]]
        with pytest.raises(UsageError, match="different lengths: 3, 2"):
            add.map(first, range(2))

    def test_a_list_that_was_changed_since_is_like_others(self, bad):
        bad({1})
        with pytest.warns(RuntimeWarning):
            kept = one.map(range(3), on_error="continue")
        kept.append(9)
        assert two.map(kept) == [1, 21, 91]

    def test_the_list_pickles_and_has_the_key_of_its_items(self, bad):
        bad({1})
        with pytest.warns(RuntimeWarning):
            kept = one.map(range(3), on_error="continue")
        again = pickle.loads(pickle.dumps(kept))
        assert again == [0, 2]
        assert two.map(again) == [1, 21]
        assert fingerprint_value(list(kept)) == fingerprint_value([0, 2])
