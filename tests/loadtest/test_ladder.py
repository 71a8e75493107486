"""Which rate is next: the ladder ends, and its answer is what the levels told."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.autoscaling.service_policy import capacity_of_calls
from hooke.loadtest.generator_protocol import LevelReport
from hooke.loadtest.load_result import BenchOrder
from hooke.loadtest.load_test import _LoadTest
from hooke.loadtest.rate_search import Ladder, LevelVerdict, needed, next_rate, safe_rate
from hooke.loadtest.target import parse_target
from hooke.serving.slo import parse_slo

HELD, BROKEN, UNCLEAR, LIMITED = (
    LevelVerdict.HELD,
    LevelVerdict.BROKEN,
    LevelVerdict.UNCLEAR,
    LevelVerdict.LIMITED,
)


def climbed(ladder, judge):
    seen = []
    while (rate := next_rate(ladder, seen)) is not None:
        seen.append((rate, judge(rate, len(seen))))
        assert len(seen) < 60, "it does not end"
    return seen


@settings(max_examples=40)
@given(first=st.floats(1, 2000), limit=st.floats(2, 50_000))
def test_a_service_with_a_limit_is_found_within_a_tenth(first, limit):
    ladder = Ladder(first=first, downs=20)
    seen = climbed(ladder, lambda rate, _: HELD if rate <= limit else BROKEN)
    safe = safe_rate(seen)
    assert safe.low is not None and safe.low <= limit < safe.high
    assert safe.high / safe.low <= ladder.finest * (1 + 1e-9)
    assert not safe.limited


@pytest.mark.needs("cpu")
@settings(max_examples=40)
@given(
    first=st.floats(1, 2000), verdicts=st.lists(st.sampled_from(list(LevelVerdict)), min_size=60, max_size=60)
)
def test_whatever_the_levels_say_it_ends_and_the_safe_rate_was_held(first, verdicts):
    seen = climbed(Ladder(first=first), lambda _, at: verdicts[at])
    safe = safe_rate(seen)
    if safe.low is not None:
        assert dict(seen)[safe.low] is HELD
        assert safe.low < safe.high
        assert all(verdict is not BROKEN for rate, verdict in dict(seen).items() if rate < safe.low)


def test_a_rate_that_surely_held_speaks_for_lower_ones_that_few_requests_left_unclear():
    assert safe_rate([(200.0, UNCLEAR), (400.0, HELD), (800.0, UNCLEAR)]).low == 400
    assert safe_rate([(200.0, BROKEN), (400.0, HELD)]).low is None


def test_one_hiccup_is_not_believed():
    seen = climbed(Ladder(first=10, most=160), lambda rate, at: BROKEN if at == 2 else HELD)
    assert [rate for rate, _ in seen] == [10, 20, 40, 40, 80, 160]
    assert safe_rate(seen).low == 160


def test_a_promise_that_never_holds_ends_soon():
    seen = climbed(Ladder(first=64), lambda *_: BROKEN)
    assert [rate for rate, _ in seen][::2] == [64, 32, 16, 8, 4, 2]
    assert safe_rate(seen).low is None


def test_one_that_always_holds_ends_at_the_highest_rate():
    safe = safe_rate(climbed(Ladder(first=100, most=1000), lambda *_: HELD))
    assert (safe.low, safe.high, safe.limited) == (1000, math.inf, False)


@pytest.mark.parametrize("above", [LIMITED, UNCLEAR])
def test_where_nothing_surely_broke_the_upper_end_is_open(above):
    safe = safe_rate(climbed(Ladder(first=100), lambda rate, _: HELD if rate < 900 else above))
    assert 818 <= safe.low < 900
    assert math.isinf(safe.high)
    assert safe.limited is (above is LIMITED)


def test_an_unclear_rate_is_climbed_from_before_it_is_gone_below():
    seen = climbed(Ladder(first=10), lambda rate, _: UNCLEAR if rate < 40 else HELD if rate < 100 else BROKEN)
    assert [rate for rate, _ in seen][:3] == [10, 20, 40]
    assert 73 <= safe_rate(seen).low < 100
    seen = climbed(Ladder(first=10), lambda rate, at: UNCLEAR if at == 0 else HELD if rate <= 10 else BROKEN)
    assert [rate for rate, _ in seen][:4] == [10, 20, 20, 10], "a second look, before lower rates"
    assert safe_rate(seen).low == 10
    seen = climbed(Ladder(first=64), lambda *_: UNCLEAR)
    assert safe_rate(seen).low is None
    assert len(seen) < 25


def order(slo):
    return BenchOrder(target=parse_target("http://127.0.0.1:1"), path="/", requests=(), slo=parse_slo(slo))


class _Queue:
    """A generator and a model of even calls, one at a time, in virtual time."""

    def __init__(self, call_s):
        self.call_s = call_s
        self.took_s = 0.0

    def run(self, due, *, timeout_s, tick):
        free, ended = 0.0, []
        for at in due:
            free = max(free, at) + self.call_s
            ended.append(free)
        self.took_s += ended[-1]
        return LevelReport(
            begun=np.asarray(due, dtype=float).tobytes(), ended=np.array(ended).tobytes(),
            status=np.full(len(due), 200, np.int16).tobytes(), said={}, opened=1, most=1, waited=0, cpu_s=0.0, wall_s=1.0, started=0.0,
        )  # fmt: skip


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("call_s", "slo", "most_s"),
    [
        (0.02, "p99 < 200ms", 400),
        (0.02, "p95 < 100ms", 400),
        (0.1, "p99 < 1s", 2000),
        (0.001, "p99 < 50ms", 400),
        (0.02, "p99.9 < 500ms", 4000),
    ],
)
def test_slow_models_have_a_safe_rate_too(call_s, slo, most_s):
    """A level of 30 s at a quarter of their rate had fewer requests than show anything."""
    queue = _Queue(call_s)
    test = _LoadTest(order(slo), queue, None, lambda _level: None)
    test.run()
    safe = test.result().safe
    bears = capacity_of_calls(call_s, limit_s=order(slo).slo.limit_s, percent=order(slo).slo.percent).rate
    assert safe.low is not None, [(level.asked, level.summary.verdict) for level in test.levels]
    assert 0.5 * bears < safe.low < 1.1 * bears
    assert queue.took_s < most_s


@pytest.mark.needs("cpu")
@given(slo=st.sampled_from(["p50 < 1s", "p99 < 200ms", "p99.9 < 2s"]), lone_s=st.floats(1e-5, 2.0))
def test_the_first_level_has_enough_requests_to_show_that_it_holds(slo, lone_s):
    made = order(slo)
    ladder = made.ladder(lone_s)
    assert ladder.least <= ladder.first
    assert ladder.least * made.longest_s(lone_s) >= needed(made.slo)
    assert ladder.first * made.longest_s(lone_s) >= needed(made.slo)
