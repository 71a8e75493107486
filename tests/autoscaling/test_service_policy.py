"""How many replicas: a policy under any history at all, and under made-up and recorded traffic in virtual time."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.autoscaling.request_simulation import simulate_requests
from tests.autoscaling.traffic import Ours, Shape, poisson, recorded, simulate, spike

from hooke.autoscaling.replay import StaffingRule, StaffingRules, Station
from hooke.autoscaling.service_policy import (
    FORGET_HOLDS,
    HOLD_STARTS,
    LEAST_HOLD_S,
    Bounds,
    Capacity,
    ReplicaPolicy,
    ServiceSnapshot,
    capacity_of_batches,
    capacity_of_calls,
    shared_replicas,
)

SHAPE = Shape()
CAPACITY = capacity_of_batches(SHAPE.a, SHAPE.b, max_batch=SHAPE.max_batch, limit_s=SHAPE.limit_s)
BOUNDS = Bounds(low=1, high=30, assumed_in_flight=2.0 * SHAPE.max_batch)

MOMENTS = st.lists(
    st.tuples(
        st.floats(0.1, 100.0),  # seconds since the last one
        st.integers(0, 12),  # ready
        st.integers(0, 5),  # starting
        st.integers(0, 5000),  # in flight
        st.integers(0, 100_000),  # arrived since
    ),
    min_size=1,
    max_size=60,
)
CAPACITIES = st.none() | st.builds(
    Capacity, rate=st.sampled_from([0.0, 0.5, 80.0]), in_flight=st.floats(1.0, 100.0)
)


def decisions(moments, bounds, capacity, start_s=5.0):
    staffing, now, arrived = ReplicaPolicy(bounds), 0.0, 0
    for passed, ready, starting, in_flight, more in moments:
        now, arrived = now + passed, arrived + more
        seen = ServiceSnapshot(
            ready=ready,
            starting=starting,
            in_flight=in_flight,
            arrived=arrived,
            start_s=start_s,
            capacity=capacity,
        )
        yield now, staffing.decide(now, seen)


def at_even_rates(phases, bounds, *, capacity=None, ready=2, start_s=5.0):
    """The target of each second; `phases` are (seconds, requests a second, requests in flight)."""
    seconds = [(1.0, ready, 0, in_flight, rate) for count, rate, in_flight in phases for _ in range(count)]
    return [made.target for _, made in decisions(seconds, bounds, capacity, start_s)]


def test_replicas_are_kept_for_the_load_and_what_chance_may_add():
    """One replica does 100/s. With 96/s on average, many a second has more."""
    capacity = Capacity(rate=100.0, in_flight=10.0)
    near = at_even_rates([(10, 150, 0), (120, 96, 0)], BOUNDS, capacity=capacity)
    assert near[-1] == max(near) == 2
    assert at_even_rates([(10, 150, 0), (120, 70, 0)], BOUNDS, capacity=capacity)[-1] == 1


def test_a_load_that_was_too_much_is_forgotten_after_some_holds():
    forgotten = int(FORGET_HOLDS * HOLD_STARTS * 5.0)
    targets = at_even_rates(
        [(20, 100, 6), (2 * forgotten, 90, 1)], Bounds(low=1, high=9, assumed_in_flight=2.0)
    )
    assert targets[19] >= 2
    assert forgotten - 20 < targets.index(1, 19) < forgotten + 100


@pytest.mark.needs("cpu")
@given(MOMENTS, CAPACITIES, st.integers(0, 4), st.integers(1, 9))
def test_whatever_is_seen_the_target_keeps_to_its_bounds_and_has_a_reason(moments, capacity, low, high):
    bounds = Bounds(low=low, high=max(low, high))
    before = max(low, 1)
    for _, made in decisions(moments, bounds, capacity):
        assert max(low, 1) <= made.target <= bounds.high
        if made.target != before:
            assert made.reason.startswith(f"{before} -> {made.target}: ")
        else:
            assert made.reason.startswith(f"{before} stay: ")
        before = made.target


@pytest.mark.needs("cpu")
@given(MOMENTS, CAPACITIES, st.sampled_from([0.1, 5.0, 60.0]))
def test_what_was_added_stays_for_a_hold(moments, capacity, start_s):
    hold = max(HOLD_STARTS * start_s, LEAST_HOLD_S)
    rose, before = -math.inf, 1
    for now, made in decisions(moments, Bounds(low=1, high=9), capacity, start_s):
        if made.target > before:
            rose = now
        if made.target < before:
            assert now - rose >= hold
        before = made.target


@pytest.mark.needs("cpu")
@given(MOMENTS, CAPACITIES)
def test_the_same_history_has_the_same_decisions(moments, capacity):
    assert list(decisions(moments, BOUNDS, capacity)) == list(decisions(moments, BOUNDS, capacity))


@pytest.mark.needs("processes")
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([50.0, 640.0, 1300.0]))
def test_an_even_load_is_never_followed_up_and_down(seed, rate):
    """Also where it lies at the border between two numbers of replicas."""
    arrivals = list(poisson(random.Random(seed), lambda _: rate, rate, 40.0))
    made = simulate(arrivals, Ours(BOUNDS), SHAPE, capacity=CAPACITY, seed=seed)
    assert made.turns == 0
    assert len(made.targets) <= 4


@pytest.mark.needs("processes")
def test_a_spike_is_answered_with_what_bears_it_and_given_up_afterwards():
    made = simulate(
        spike(rate=100.0),
        Ours(BOUNDS),
        Shape(max_batch=4, b=8e-3),
        capacity=capacity_of_batches(1e-3, 8e-3, max_batch=4, limit_s=0.05),
    )
    counts = [count for _, count, _ in made.targets]
    assert made.turns == 0
    assert 4 <= max(counts) <= 8, "one replica does some 290/s, and 1,000/s come"
    assert counts[-1] == 1
    first = next(at for at, count, _ in made.targets if count > 1)
    assert 120 < first <= 122, "within a second or two"
    assert "requests/s, and one replica does" in made.targets[1][2]
    assert "times the time of a start" in made.targets[-1][2]
    assert made.attained > 0.88


@pytest.mark.needs("processes")
def test_a_fall_that_was_a_mistake_is_made_more_rarely():
    """Bursts with a minute between them: replicas are given up between the first ones, and then no longer."""
    chance = random.Random(3)
    arrivals = list(poisson(chance, lambda at: 1500.0 if at % 60 < 10 else 5.0, 1500.0, 600.0))
    made = simulate(arrivals, Ours(BOUNDS), SHAPE, capacity=CAPACITY)
    falls = [at for (_, before, _), (at, after, _) in pairwise(made.targets) if after < before]
    assert len([at for at in falls if at < 300]) >= 1
    assert [at for at in falls if at > 400] == []


@pytest.mark.needs("processes")
def test_without_a_law_it_grows_by_doubling_and_goes_back_one_by_one():
    made = simulate(spike(rate=100.0), Ours(BOUNDS), SHAPE)
    counts = [count for _, count, _ in made.targets]
    assert all(after <= 2 * before or after - before == 1 for before, after in pairwise(counts))
    assert all(before - after <= 1 for before, after in pairwise(counts))


def test_what_no_number_of_replicas_can_do_is_said():
    capacity = capacity_of_batches(1e-3, 1.0, max_batch=8, limit_s=0.5)
    assert capacity.rate == 0
    (_, made), *_ = decisions([(1.0, 2, 0, 5, 100), (1.0, 2, 0, 5, 100)], BOUNDS, capacity)
    assert "no number of replicas keeps the SLO" in made.reason


@pytest.mark.needs("cpu")
@given(
    st.floats(1e-6, 1e-2),
    st.floats(0, 1e-1),
    st.integers(1, 128),
    st.floats(1e-3, 10),
    st.sampled_from([90.0, 99.0, 99.9]),
)
def test_capacity_is_below_what_full_batches_do_and_grows_with_the_limit(a, b, most, limit_s, percent):
    made = capacity_of_batches(a, b, max_batch=most, limit_s=limit_s, percent=percent)
    assert 0 <= made.rate <= most / (a * most + b) * (1 + 1e-9)
    assert made.in_flight >= 1
    wider = capacity_of_batches(a, b, max_batch=most, limit_s=2 * limit_s, percent=percent)
    assert wider.rate >= made.rate * (1 - 1e-6)
    stricter = capacity_of_batches(a, b, max_batch=most, limit_s=limit_s, percent=99.99)
    assert stricter.rate <= made.rate * (1 + 1e-6)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("shape", "capacity"),
    [
        (Shape(), CAPACITY),
        (
            Shape(b=2e-3, max_batch=64, limit_s=0.03),
            capacity_of_batches(1e-3, 2e-3, max_batch=64, limit_s=0.03),
        ),
        (Shape(a=0.0, b=4e-3, max_batch=1, limit_s=0.02), capacity_of_calls(4e-3, limit_s=0.02)),
    ],
)
def test_at_its_capacity_a_replica_keeps_the_slo(shape, capacity):
    """What the formulas promise, in the simulation of the batcher."""
    arrivals = list(poisson(random.Random(5), lambda _: capacity.rate, capacity.rate, 60.0))
    made = simulate(arrivals, lambda _now, _seen: 1, shape)
    assert made.attained > 0.98
    arrivals = list(poisson(random.Random(5), lambda _: 1.35 * capacity.rate, 1.35 * capacity.rate, 60.0))
    assert simulate(arrivals, lambda _now, _seen: 1, shape).attained < 0.985, (
        "nor is it far below what it could"
    )


@pytest.mark.needs("processes")
def test_recorded_traffic():
    """Conversations of the Azure trace: the SLO is kept, by a third of the replicas that would bear its peak all the time."""
    shape = Shape(a=0.05, b=0.15, max_batch=8, limit_s=2.0, timeout_s=30.0, start_s=20.0, max_waiting=256)
    capacity = capacity_of_batches(shape.a, shape.b, max_batch=8, limit_s=2.0)
    arrivals = recorded("azure_conv_per_second.txt", 10, random.Random(1))
    made = simulate(arrivals, Ours(Bounds(low=1, high=30)), shape, capacity=capacity)
    assert made.attained > 0.99
    assert made.turns <= 5
    assert made.replica_s < 0.5 * 30 * arrivals[-1]


@pytest.mark.parametrize(
    ("load", "wait_s", "variability"), [(4.0, 0.2, 0.0), (40.0, 0.2, 0.5), (73.0, 0.2, 0.0), (70.0, 1.0, 1.0)]
)
def test_as_many_as_share_a_load_are_enough_and_as_many_as_are_busy_are_not(load, wait_s, variability):
    station = Station(rate=5.0, wait_s=wait_s, variability=variability, start_s=0.0)
    chance = random.Random(3)
    arrivals = np.cumsum([chance.expovariate(load) for _ in range(int(load * 600))])
    services = [
        chance.gammavariate(1 / variability, variability / 5.0) if variability else 0.2 for _ in arrivals
    ]
    count = shared_replicas(load, station)

    def late(replicas):
        always = StaffingRules(
            np.zeros(int(arrivals[-1]) + 1, dtype=np.int64), station, [StaffingRule(least=replicas)]
        )
        return 1 - simulate_requests(arrivals, services, station, always, high=replicas).attained

    assert late(count) <= 1.5 * station.budget
    assert load / 5.0 < count < load / capacity_of_calls(0.2, limit_s=wait_s + 0.2).rate
    assert late(math.ceil(load / 5.0)) > station.budget


def test_replicas_that_share_a_load_are_not_asked_for_as_if_each_had_its_own():
    station = Station(rate=5.0, wait_s=0.2, start_s=0.0)
    alone = capacity_of_calls(0.2, limit_s=0.4)
    capacity = Capacity(rate=alone.rate, in_flight=alone.in_flight, station=station)
    made = at_even_rates([(30, 73, 15)], Bounds(low=1, high=300), capacity=capacity, ready=20)
    assert shared_replicas(73.0 - math.sqrt(73.0), station) <= made[-1]
    assert made[-1] <= shared_replicas(73.0 + math.sqrt(73.0), station) < 30
    assert 73 / alone.rate > 100
