"""Rules replayed by a fluid queue against a simulation request by request, what a choice keeps, and its use by a live policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.autoscaling.request_simulation import simulate_requests, spread_in_seconds

from hooke.autoscaling.peers import CONSTANT, OURS, PEERS, all_families
from hooke.autoscaling.replay import (
    DAY_S,
    RuleChoice,
    StaffingRule,
    StaffingRules,
    Station,
    choose,
    pick,
    replay,
    season_floor,
    trailing_max,
    trailing_mean,
)
from hooke.autoscaling.replayed_policy import BudgetSpent, ReplayedPolicy
from hooke.autoscaling.service_policy import Bounds, Capacity, ReplicaPolicy, ServiceSnapshot

Ints = NDArray[np.int64]
HIGH = 60
RULES = (
    StaffingRule(beta=0.1, window_s=8, hold_s=10),
    StaffingRule(beta=0.4, window_s=30, hold_s=60),
    StaffingRule(beta=1.2, window_s=8, hold_s=300),
    StaffingRule(beta=3.5, window_s=2, hold_s=60, least=4),
    StaffingRule(least=9),
    StaffingRule(least=12),
)


def wave(seconds: int = 1200, rate: float = 150.0, seed: int = 0) -> Ints:
    """A slow wave of half the rate."""
    at = np.arange(seconds)
    return np.random.default_rng(seed).poisson(rate * (1 + 0.5 * np.sin(at / 190))).astype(np.int64)


def bursts(seconds: int = 1200, seed: int = 0) -> Ints:
    """A minute of twenty times as much in each five."""
    at = np.arange(seconds)
    return np.random.default_rng(seed).poisson(np.where((at // 60) % 5 == 2, 200, 10)).astype(np.int64)


# Nearly full replicas with uneven service carry chance over from second to second, which the fluid queue does not see.
CASES = {
    "even service, start 5 s": (wave(), Station(rate=20.0, wait_s=0.45, start_s=5.0), 0.01),
    "even service, start 30 s": (wave(), Station(rate=20.0, wait_s=0.45, start_s=30.0), 0.01),
    "bursts": (bursts(), Station(rate=20.0, wait_s=0.45, start_s=5.0), 0.03),
    "uneven service, little time": (
        wave(),
        Station(rate=20.0, wait_s=0.15, variability=1.0, start_s=5.0),
        0.06,
    ),
    "service of 4 s": (wave(rate=2.5), Station(rate=0.25, wait_s=4.0, variability=1.0, start_s=30.0), 0.05),
}


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", CASES)
def test_the_fluid_queue_is_the_exact_one_within_a_few_percent(name: str) -> None:
    counts, station, near = CASES[name]
    made = replay(counts, station, StaffingRules(counts, station, RULES), high=HIGH)
    chance = np.random.default_rng(1)
    arrivals = spread_in_seconds(counts, chance)
    mean = 1 / station.rate
    services = (
        chance.exponential(mean, len(arrivals)) if station.variability else np.full(len(arrivals), mean)
    )
    for at, rule in enumerate(RULES):
        exact = simulate_requests(
            arrivals, services.tolist(), station, StaffingRules(counts, station, [rule]), high=HIGH
        )
        assert made.attained[at] == pytest.approx(exact.attained, abs=near), rule
        assert made.replica_s[0, at] == pytest.approx(exact.replica_s, rel=0.05), rule


def test_an_exact_queue_of_one_server_is_that_of_lindley() -> None:
    chance = np.random.default_rng(3)
    arrivals = np.sort(chance.uniform(0, 300, 900))
    services = chance.exponential(0.25, 900)
    wait, late = 0.0, 0
    for one in range(900):
        late += wait > 0.5
        if one < 899:
            wait = max(wait + services[one] - (arrivals[one + 1] - arrivals[one]), 0.0)
    counts = np.bincount(arrivals.astype(np.int64)).astype(np.int64)
    station = Station(rate=4.0, wait_s=0.5, start_s=5.0)
    one_server = StaffingRules(counts, station, [StaffingRule(least=1)])
    made = simulate_requests(arrivals, services.tolist(), station, one_server, high=1)
    # The last second may leave some waiting, which count as late.
    assert late <= made.late <= late + 5
    assert made.requests == 900


@pytest.mark.needs("cpu")
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=5, max_size=200),
    st.integers(0, 20),
    st.sampled_from([0.5, 4.0, 20.0]),
)
def test_more_replicas_never_serve_less(counts: list[int], start_s: int, rate: float) -> None:
    series = np.array(counts, dtype=np.int64)
    station = Station(rate=rate, wait_s=1.3, start_s=float(start_s))
    rules = [StaffingRule(least=count) for count in range(1, 30)]
    made = replay(series, station, StaffingRules(series, station, rules), high=30)
    assert (np.diff(made.late.sum(axis=0)) <= 1e-3).all()
    assert (np.diff(made.replica_s.sum(axis=0)) > 0).all()
    assert (made.late.sum(axis=0) <= series.sum() + 1e-3).all()


@pytest.mark.needs("cpu")
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=20, max_size=120), st.integers(1, 19))
def test_blocks_add_up_and_the_future_changes_nothing(counts: list[int], cut: int) -> None:
    series = np.array(counts, dtype=np.int64)
    station = Station(rate=5.0, wait_s=0.4, start_s=3.0)
    whole = replay(series, station, StaffingRules(series, station, RULES), high=HIGH)
    parts = replay(series, station, StaffingRules(series, station, RULES), high=HIGH, ends=(cut, len(series)))
    np.testing.assert_allclose(parts.late.sum(axis=0), whole.late[0], atol=1e-2)
    np.testing.assert_allclose(parts.replica_s.sum(axis=0), whole.replica_s[0])
    other = series.copy()
    other[cut:] = 0
    again = replay(other, station, StaffingRules(other, station, RULES), high=HIGH, ends=(cut, len(series)))
    np.testing.assert_allclose(again.replica_s[0], parts.replica_s[0])


@pytest.mark.needs("cpu")
@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.integers(1, 70))
def test_trailing_series_are_what_their_names_say(values: list[int], length: int) -> None:
    series = np.array(values, dtype=np.int64)
    most, mean = trailing_max(series, length), trailing_mean(series, length)
    for at in range(len(values)):
        assert most[at] == max(values[max(at - length + 1, 0) : at + 1])
        before = values[max(at - length, 0) : at]
        assert mean[at] == pytest.approx(sum(before) / len(before) if before else 0.0)


def test_the_floor_is_what_the_days_before_needed_at_this_time() -> None:
    need = np.ones(2 * DAY_S, dtype=np.int64)
    need[9 * 3600] = 7
    floor = season_floor(need, 1.0, (1,), DAY_S, 2 * DAY_S)
    assert set(np.flatnonzero(floor == 7)) == set(range(9 * 3600 - 300, 9 * 3600 + 301))
    assert season_floor(need, 0.5, (1,), DAY_S + 9 * 3600, DAY_S + 9 * 3600 + 1) == [4]
    assert not season_floor(need, 1.0, (7,), DAY_S, 2 * DAY_S).any()


@pytest.mark.needs("cpu")
def test_the_choice_is_the_cheapest_that_keeps_half_of_the_budget() -> None:
    counts, station = wave(1800), Station(rate=20.0, wait_s=0.45, start_s=5.0)
    choice = choose(counts, station, low=1, high=40)
    assert choice.kept
    assert choice.attained >= 0.995
    constant = next(count for count in range(1, 41) if _share(counts, station, count) >= 0.995)
    assert choice.hours < 0.9 * constant * choice.judged_s / 3600
    assert "the cheapest that kept half of the budget" in choice.reason
    tight = choose(counts, station, low=1, high=4)
    assert not tight.kept
    assert tight.hours == pytest.approx(4 * tight.judged_s / 3600)


def _share(counts: Ints, station: Station, count: int) -> float:
    rules = StaffingRules(counts, station, [StaffingRule(least=count)])
    return float(replay(counts, station, rules, high=40, begin=70).attained[0])


@pytest.mark.needs("cpu")
def test_bursts_that_come_faster_than_a_start_keep_a_constant_number() -> None:
    choice = choose(bursts(), Station(rate=20.0, wait_s=0.45, start_s=120.0), low=1, high=40)
    assert choice.kept
    assert choice.rule.least >= 10 or choice.rule.hold_s >= 300


# --- Others.


@pytest.mark.needs("cpu")
def test_the_rules_of_others_scale_up_and_down() -> None:
    at = np.arange(3600)
    counts = np.where((at >= 600) & (at < 1500), 160, 20).astype(np.int64)
    station = Station(rate=20.0, wait_s=0.45, start_s=5.0)
    every = all_families(counts, station, low=1, high=HIGH)
    made = replay(counts, station, every, high=HIGH, ends=(600, 1500, 2900, 3600))
    assert list(every.slices) == [OURS, CONSTANT, *(peer.name for peer in PEERS)]
    for peer in PEERS:
        part = every.slices[peer.name]
        tuned = [
            at
            for at, one in enumerate(made.settings[part])
            if one.down_s <= 300 and 0.5 <= one.target / peer.unit(station) <= 0.8
        ]
        hours = made.replica_s[:, part][:, tuned]
        one_low = np.array([made.settings[part][at].low == 1 for at in tuned])
        assert (hours[1] / 900 > 8).all(), peer.name
        assert (hours[3][one_low] / 700 < 4).all(), peer.name


def test_pick_takes_the_fewest_late_where_none_keeps_the_promise() -> None:
    counts, station = wave(600), Station(rate=20.0, wait_s=0.45, start_s=5.0)
    made = replay(
        counts, station, StaffingRules(counts, station, [StaffingRule(least=n) for n in (1, 3, 2)]), high=5
    )
    assert pick(made, 0.01) == (1, False)


# --- The live policy.


def choice_of(rule: StaffingRule, **more: object) -> RuleChoice:
    given = {
        "attained": 0.999,
        "hours": 1.0,
        "judged_s": 600,
        "kept": True,
        "compared": 2,
        "greatest_load": 1e9,
    }
    return RuleChoice(rule=rule, **(given | more))  # pyrefly: ignore[bad-argument-type]


def seen(arrived: int, *, ready: int = 1, in_flight: int = 0) -> ServiceSnapshot:
    return ServiceSnapshot(
        ready=ready,
        starting=0,
        in_flight=in_flight,
        arrived=arrived,
        start_s=5.0,
        capacity=Capacity(rate=18.0, in_flight=4.0),
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_live_policy_decides_as_the_replayed_rule(rule: StaffingRule) -> None:
    counts, station = wave(400), Station(rate=20.0, wait_s=0.45, start_s=5.0)
    rules = StaffingRules(counts, station, [rule])
    policy = ReplayedPolicy(ReplicaPolicy(Bounds(low=1, high=HIGH)))
    policy.follow(choice_of(rule), station, 0.0)
    nothing = np.zeros(1)
    for second in range(401):
        made = policy.decide(float(second), seen(int(counts[:second].sum())))
        if second > rule.hold_s:
            from hooke.autoscaling.replay import LoadSecond

            then = rules.decide(LoadSecond(second, 0, nothing, nothing, nothing, np.ones(1, dtype=np.int64)))
            assert made.target == max(int(then[0]), 1), second


def test_a_backlog_is_worked_off_within_a_start() -> None:
    policy = ReplayedPolicy(ReplicaPolicy(Bounds(low=1, high=HIGH)))
    policy.follow(
        choice_of(StaffingRule(beta=0.1, window_s=8, hold_s=10)), Station(rate=20.0, wait_s=0.45), 0.0
    )
    assert policy.decide(0.0, seen(0)).target == 1
    made = policy.decide(1.0, seen(0, in_flight=301))
    assert made.target == 1 + 3
    assert "300 wait, for which 3 more work within a start" in made.reason


def test_without_a_choice_it_is_the_reactive_policy() -> None:
    one, other = ReplicaPolicy(Bounds(low=1, high=9)), ReplayedPolicy(ReplicaPolicy(Bounds(low=1, high=9)))
    arrived = 0
    for second in range(120):
        arrived += 100 if 30 <= second < 60 else 10
        now = seen(arrived, ready=2)
        assert one.decide(float(second), now) == other.decide(float(second), now)


def test_the_reactive_policy_is_the_net_for_more_load_than_was_seen_and_for_a_spent_budget() -> None:
    def decided(greatest: float, spent: float) -> tuple[int, str]:
        policy = ReplayedPolicy(ReplicaPolicy(Bounds(low=1, high=HIGH)))
        policy.follow(
            choice_of(StaffingRule(least=2), greatest_load=greatest), Station(rate=20.0, wait_s=0.45), 0.0
        )
        for second in range(20):
            made = policy.decide(float(second), seen(second * 180), spent=spent)
        return made.target, made.reason

    assert decided(1e9, 0.0)[0] == 2
    assert decided(100.0, 0.0)[0] == 10
    assert "more than the replay saw" in decided(100.0, 0.0)[1]
    assert decided(1e9, 0.8)[0] == 10
    assert "80% of the day's late requests are spent" in decided(1e9, 0.8)[1]


def test_the_budget_is_that_of_a_day() -> None:
    spent = BudgetSpent()
    for hour in range(30):
        spent.add(hour * 3600.0, 1000, 20 if hour < 10 else 0)
    # Of the last 24 hours, six to nine are the first ones; those before are forgotten.
    assert spent.share(0.01) == pytest.approx(0.4, abs=0.1)


def test_one_late_request_of_a_new_service_is_not_the_budget_of_its_day() -> None:
    spent = BudgetSpent()
    spent.add(0.0, 20, 1)
    assert spent.share(0.01) < 0.2
