"""When the last replica ends, and when the first one starts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.autoscaling.scale_to_zero import (
    CEILING_S,
    ENOUGH_GAPS,
    FLOOR_S,
    WORTH,
    GapHistogram,
    ZeroPolicy,
    ZeroSnapshot,
)


def snapshot(**given):
    facts = {"wanted": 1, "starting": 0, "open_calls": 0, "called": 0, "held": 0, "start_s": 5.0}
    return ZeroSnapshot(**(facts | given))


def test_the_last_replica_ends_after_its_keep_alive_without_a_call_and_says_why():
    policy = ZeroPolicy(fixed_s=10.0)
    assert policy.decide(0.0, snapshot()) is None
    assert policy.decide(9.9, snapshot()) is None
    decision = policy.decide(10.0, snapshot())
    assert decision.target == 0
    assert decision.reason == "no call for 10.0 s; as --keep-alive says"


@pytest.mark.parametrize("busy", [{"open_calls": 1}, {"called": 1}, {"held": 1}])
def test_a_call_begins_it_anew(busy):
    policy = ZeroPolicy(fixed_s=10.0)
    policy.decide(0.0, snapshot())
    policy.decide(9.0, snapshot(**busy))
    called = busy.get("called", 0)
    assert policy.decide(9.5, snapshot(called=called)) is None
    assert policy.decide(19.4, snapshot(called=called)) is None
    assert policy.decide(19.5, snapshot(called=called)).target == 0


def test_a_request_that_waits_starts_the_first_replica_once():
    policy = ZeroPolicy(fixed_s=10.0)
    decision = policy.decide(0.0, snapshot(wanted=0, held=1))
    assert (decision.target, decision.reason) == (1, "1 request waits, and no replica runs")
    assert policy.decide(0.1, snapshot(wanted=1, starting=1, held=2)) is None


def test_a_start_of_half_an_hour_is_not_given_up_and_its_replica_stays_for_a_whole_keep_alive():
    policy = ZeroPolicy(fixed_s=10.0)
    policy.decide(0.0, snapshot(wanted=0, held=1))
    for second in range(1, 1800):
        assert policy.decide(float(second), snapshot(starting=1)) is None
    assert policy.decide(1800.0, snapshot()) is None
    assert policy.decide(1808.0, snapshot()) is None
    assert policy.decide(1809.5, snapshot()).target == 0


def test_several_replicas_that_a_rule_keeps_end_as_well():
    policy = ZeroPolicy(fixed_s=10.0)
    assert policy.decide(0.0, snapshot(wanted=3)) is None
    assert policy.decide(9.0, snapshot(wanted=3)) is None
    assert policy.decide(10.0, snapshot(wanted=3)).target == 0


@given(st.floats(0.01, 1000))
def test_before_there_are_gaps_the_price_of_a_start_decides(start_s):
    keep = GapHistogram().keep_alive(start_s)
    assert keep.seconds == min(max(WORTH * start_s, FLOOR_S), CEILING_S)
    assert "(0 so far)" in keep.reason


@pytest.mark.needs("cpu")
@given(st.lists(st.floats(0.0, 1e6), min_size=40, max_size=80), st.floats(0.1, 600))
def test_it_is_between_floor_and_ceiling_whatever_the_gaps_are(gaps, start_s):
    histogram = GapHistogram()
    for gap in gaps:
        histogram.add(gap)
    keep = histogram.keep_alive(start_s)
    assert FLOOR_S <= keep.seconds <= CEILING_S + 1e-6
    assert keep.reason


def of_gaps(draw, count=200):
    histogram, chance = GapHistogram(), random.Random(3)
    for _ in range(count):
        histogram.add(draw(chance))
    return histogram


def test_gaps_of_about_five_minutes_are_covered_where_a_start_is_dear():
    histogram = of_gaps(lambda chance: chance.uniform(240, 300))
    keep = histogram.keep_alive(60.0)
    assert 300 <= keep.seconds < 340
    assert "100% of them were shorter" in keep.reason


def test_they_are_not_where_a_start_is_cheap():
    assert of_gaps(lambda chance: chance.uniform(240, 300)).keep_alive(1.0).seconds == FLOOR_S


def test_nobody_waits_for_a_call_that_comes_once_a_day():
    assert of_gaps(lambda _chance: 86_400.0).keep_alive(60.0).seconds == FLOOR_S


def test_habits_that_change_are_forgotten():
    histogram = of_gaps(lambda chance: chance.uniform(40, 60))
    assert histogram.keep_alive(60.0).seconds < 100
    for _ in range(300):
        histogram.add(900.0)
    assert histogram.keep_alive(60.0).seconds > 900


def test_gaps_that_each_keep_alive_covers_are_not_counted():
    histogram = GapHistogram()
    for _ in range(10 * ENOUGH_GAPS):
        histogram.add(FLOOR_S / 2)
    assert histogram.seen == 0
