"""Which rate is next: the ladder ends, and its answer is what the levels told."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.loadtest.rate_search import Ladder, LevelVerdict, next_rate, safe_rate

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
