"""The policy for batch work: what it keeps to whatever it is shown, and what it does in plain cases."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hooke.autoscaling.observation import (
    FleetLimits,
    Observation,
    Price,
    ReadyWorker,
    Scaling,
    TaskWork,
    scaling_of,
)
from hooke.autoscaling.run_size_policy import CAUTION, Forecast, decide
from hooke.scaling import Measurements, fit


def usl(a, b, n=64, knee=None):
    return Scaling(
        speedup=tuple(k / (1 + a * (k - 1) + b * k * (k - 1)) for k in range(1, n + 1)),
        knee=knee,
        family="usl",
    )


SCALINGS = st.none() | st.builds(
    usl, st.floats(0, 0.3), st.floats(0, 0.01), knee=st.none() | st.floats(1.0, 20.0)
)
WORKS = st.builds(
    TaskWork,
    task=st.just("work"),
    running=st.integers(0, 8),
    ready=st.integers(0, 200),
    waiting=st.integers(0, 50),
    open_ended=st.booleans(),
    seconds=st.none() | st.floats(0.01, 100),
    spread=st.floats(0, 20),
    measured=st.integers(1, 50),
    longest_s=st.floats(0, 30),
    fits=st.none() | st.integers(1, 9),
    scaling=SCALINGS,
)
LIMITS = st.builds(
    lambda low, more, rate, deadline, budget: FleetLimits(
        low=low, high=max(low + more, 1), usd_per_hour=rate, deadline=deadline, budget_usd=budget
    ),
    st.integers(0, 4),
    st.integers(0, 30),
    st.just(math.inf) | st.floats(0, 40),
    st.none() | st.floats(-100, 1000),
    st.none() | st.floats(0, 5),
)
SEEN = st.builds(
    lambda busy, idle, coming, works, limits, price, spent, slots: Observation(
        target=busy + len(idle) + coming,
        workers=(
            *(ReadyWorker(name=f"b{n}") for n in range(busy)),
            *(ReadyWorker(name=f"i{n}", idle_s=s, holds="gang" * h) for n, (s, h) in enumerate(idle)),
        ),
        works=tuple(replace(work, task=f"work{n}") for n, work in enumerate(works)),
        limits=limits,
        price=price,
        spent_usd=spent,
        slots=slots,
    ),
    st.integers(0, 10),
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=6),
    st.integers(0, 5),
    st.lists(WORKS, max_size=3),
    LIMITS,
    st.builds(Price, usd_per_hour=st.sampled_from([0.0, 1.0, 4.29]), start_s=st.floats(0.01, 300)),
    st.floats(0, 6),
    st.sampled_from([1, 1, 2, 4]),
)


@pytest.mark.needs("cpu")
@settings(max_examples=25)
@given(SEEN, st.floats(0, 1000))
def test_it_keeps_to_its_limits_and_says_why(seen, now):
    made = decide(now, seen)
    assert 0 <= made.target <= seen.limits.high
    assert made.target * seen.price.usd_per_hour <= seen.limits.usd_per_hour + 1e-6
    before = f"{seen.target} -> {made.target}: " if made.target != seen.target else f"{made.target} stay: "
    assert made.reason.startswith(before)
    assert len(made.reason) > len(before) + 10
    assert decide(now, seen) == made


@settings(max_examples=25)
@given(SEEN)
def test_no_more_than_can_be_used_are_added(seen):
    made = decide(0.0, seen)
    usable = math.ceil(sum(work.at_once for work in seen.works) / seen.slots)
    assert made.target <= max(seen.target, usable, seen.limits.low)


@settings(max_examples=25)
@given(SEEN, st.floats(1.0, 20.0))
def test_the_knee_is_never_passed(seen, knee):
    bent = tuple(replace(work, scaling=usl(0.1, 0.001, knee=knee)) for work in seen.works[:1])
    seen = replace(seen, works=bent, limits=replace(seen.limits, low=0), workers=())
    made = decide(0.0, seen)
    most = max(math.floor(knee + 0.5), 1)
    if sum(work.at_once for work in bent) > most:  # else it is not the knee that bounds
        assert made.target <= max(most // seen.slots, 1)


@pytest.mark.needs("cpu")
@settings(max_examples=25)
@given(SEEN, st.integers(1, 100))
def test_more_work_never_has_fewer_workers(seen, more):
    """Where it is time that decides, with laws that only rise; a budget pays for less when there is more to do."""
    assume(seen.works)
    rising = tuple(replace(work, scaling=usl(0.1, 0.0) if work.scaling else None) for work in seen.works)
    seen = replace(seen, works=rising, limits=replace(seen.limits, budget_usd=None, deadline=None))
    heavier = replace(seen, works=(replace(seen.works[0], ready=seen.works[0].ready + more), *seen.works[1:]))
    assert decide(0.0, heavier).target >= decide(0.0, seen).target


@settings(max_examples=25)
@given(SEEN)
def test_who_holds_a_gang_or_a_shuffle_is_not_given_up(seen):
    seen = replace(seen, limits=FleetLimits(low=0, high=100))
    held = sum(1 for worker in seen.workers if worker.holds)
    assert decide(0.0, seen).target * seen.slots >= held


@settings(max_examples=25)
@given(
    st.integers(1, 300),
    st.floats(0.1, 50),
    st.floats(0, 0.3),
    st.integers(1, 40),
    st.floats(1, 5000),
    st.floats(0.1, 60),
)
def test_a_deadline_buys_just_enough(items, seconds, share, high, deadline, start_s):
    work = TaskWork(task="work", ready=items, seconds=seconds, spread=share * seconds, measured=10)
    seen = Observation(
        target=0,
        works=(work,),
        limits=FleetLimits(high=high, deadline=deadline),
        price=Price(start_s=start_s),
    )
    made = decide(0.0, seen)
    ends = Forecast(works=(work,), have=0, start_s=start_s, caution=CAUTION)
    if made.bound == "deadline":
        assert ends.seconds(made.target) <= deadline
        assert all(ends.seconds(n) > deadline for n in range(1, made.target))
    else:
        assert all(ends.seconds(n) > deadline for n in range(1, min(high, items) + 1))
        assert "after the deadline" in made.reason


@settings(max_examples=5)
@given(
    st.integers(1, 30),
    st.floats(5, 20),
    st.integers(1, 20),
    st.floats(0.01, 3),
    st.floats(0.0, 0.2),
    st.integers(0, 3),
)
def test_a_budget_is_never_spent_to_its_end(items, seconds, high, budget, contention, low):
    """A fleet that costs by the second and lives by the decisions alone."""
    price = Price(usd_per_hour=10.0, start_s=2.0, release_s=1.0)
    law = usl(contention, 0.0)
    left, target, spent, now = float(items), 0, 0.0, 0.0
    for _ in range(100_000):
        whole = math.ceil(left - 1e-9)
        busy = min(whole, target)
        seen = Observation(
            target=target,
            workers=tuple(ReadyWorker(name=str(n), idle_s=None if n < busy else 1.0) for n in range(target)),
            works=(
                TaskWork(
                    task="work", running=busy, ready=whole - busy, seconds=seconds, measured=9, scaling=law
                ),
            )
            if whole
            else (),
            limits=FleetLimits(low=min(low, high), high=high, budget_usd=budget),
            price=price,
            spent_usd=spent,
            look_s=1.0,
        )
        made = decide(now, seen)
        if made.stop or not whole:
            break
        target, now = made.target, now + 1.0
        spent += target * price.usd_per_hour / 3600
        left -= law.of(min(target, max(whole, 1))) / seconds
    else:
        pytest.fail("neither done nor stopped")
    assert spent + target * price.release_s * price.usd_per_hour / 3600 <= budget + 1e-9


def fleet(target, works, *, idle=0, idle_s=0.0, start_s=1.0, **limits):
    workers = tuple(
        ReadyWorker(name=f"w{n}", idle_s=idle_s if n >= target - idle else None) for n in range(target)
    )
    limits = {"low": 1, "high": 8} | limits
    return Observation(
        target=target,
        workers=workers,
        works=works,
        limits=FleetLimits(**limits),
        price=Price(start_s=start_s, usd_per_hour=3600.0 if "budget_usd" in limits else 0.0),
    )


SLEEPS = TaskWork(task="sleep", running=1, ready=40, seconds=2.0, spread=0.5, measured=3)


def test_much_to_do_is_done_by_all_that_are_allowed():
    made = decide(0.0, fleet(1, (SLEEPS,)))
    assert made.target == 8
    assert made.reason == (
        "1 -> 8: 41 items are left, about 2.00 s each; all could run now; no more than 8 are allowed"
    )


def test_what_is_done_before_another_could_start_is_not_worth_a_start():
    made = decide(0.0, fleet(1, (replace(SLEEPS, ready=2),), start_s=60.0))
    assert (made.target, made.bound) == (1, "start")
    assert "not worth the start of more (1m 00s)" in made.reason


def test_tasks_side_by_side_take_as_long_as_the_longest_item():
    works = tuple(TaskWork(task=f"{s:g}", ready=8, seconds=s, measured=20) for s in (0.1, 60.0, 2.0))
    assert Forecast(works=works, have=40, start_s=1.0).seconds(40) == pytest.approx(60.0)
    assert Forecast(works=works, have=4, start_s=1.0).seconds(4) == pytest.approx(8 * 62.1 / 4)


def test_while_no_item_has_ended_each_takes_at_least_what_one_has_run():
    unknown = TaskWork(task="sleep", running=1, ready=40)
    assert decide(0.0, fleet(1, (unknown,))).target == 1
    assert decide(0.0, fleet(1, (replace(unknown, longest_s=0.6),))).target == 8


def test_a_knee_is_not_passed_and_is_named():
    law = fit(Measurements([1, 2, 3, 4, 5, 6, 8, 10], throughput=[1, 2.01, 3, 3.98, 5, 4.99, 5.01, 5.0]))
    bent = replace(SLEEPS, scaling=scaling_of(law, 8))
    made = decide(0.0, fleet(1, (bent,)))
    assert (made.target, made.bound) == (5, "knee")
    assert "sleep gains nothing from more than 5 at once" in made.reason


def test_a_law_is_not_gone_beyond():
    law = fit(Measurements([1, 2, 4, 8], throughput=[1, 1.8, 3.1, 4.4]))
    scaling = scaling_of(law, 200)
    assert 8 <= len(scaling.speedup) <= 32
    assert np.all(np.diff(scaling.speedup) > 0)
    made = decide(0.0, fleet(1, (replace(SLEEPS, ready=500, scaling=scaling),), high=200))
    assert made.target <= 32


def test_a_worker_of_two_slots_does_the_work_of_two():
    one = fleet(1, (replace(SLEEPS, ready=9),), start_s=0.1)
    assert decide(0.0, one).target == 8
    assert decide(0.0, replace(one, slots=2)).target == 5


def test_idle_workers_go_when_starting_them_again_would_cost_no_more():
    last = TaskWork(task="sleep", running=3, waiting=9, seconds=2.0, measured=20)
    soon = decide(0.0, fleet(8, (last,), idle=5, idle_s=0.4))
    assert (soon.target, soon.bound) == (8, "idle")
    later = decide(0.0, fleet(8, (last,), idle=5, idle_s=1.0))
    assert later.target == 3
    assert later.reason.startswith(
        "8 -> 3: 12 items are left, about 2.00 s each; 3 could run now, and 5 had nothing"
    )


def test_idle_workers_go_at_once_when_nothing_comes_that_they_could_do():
    last = TaskWork(task="sleep", running=3, seconds=2.0, measured=20)
    assert decide(0.0, fleet(8, (last,), idle=5)).target == 3
    assert decide(0.0, fleet(8, (), idle=8)).target == 1


def test_workers_go_at_once_when_it_is_known_that_nothing_can_run_for_two_starts():
    last = TaskWork(task="sleep", waiting=9, seconds=2.0, measured=20)
    seen = fleet(8, (last,), idle=8, start_s=30.0, low=0)
    assert decide(0.0, replace(seen, rest_s=59.0)).target == 8
    made = decide(0.0, replace(seen, rest_s=60.0))
    assert made.target == 0
    assert made.reason.endswith("and 8 had nothing to do for the next 1m 00s, until a retry")
    coming = replace(seen, workers=seen.workers[:3], rest_s=60.0)
    assert decide(0.0, coming).target == 0, "also those that have not come yet"


def test_with_a_deadline_fewer_do_when_work_goes_faster_than_feared():
    far = fleet(8, (SLEEPS,), deadline=1000.0)
    made = decide(0.0, far)
    assert (made.target, made.bound) == (1, "deadline")
    near = replace(far, limits=replace(far.limits, deadline=20.0))
    assert decide(0.0, near).target == 6


def test_a_budget_that_is_not_enough_is_used_with_the_number_that_is_cheapest():
    contended = replace(SLEEPS, scaling=usl(0.3, 0.0))
    made = decide(0.0, fleet(4, (contended,), budget_usd=50.0))
    assert (made.target, made.bound) == (1, "budget")
    assert "not enough for all" in made.reason


def test_a_budget_that_is_spent_stops_the_work():
    made = decide(0.0, replace(fleet(4, (SLEEPS,), budget_usd=50.0), spent_usd=49.5))
    assert made.stop
    assert made.reason.startswith("4 -> 0: $49.5 of $50 is spent")


def test_a_gang_has_all_its_workers_or_none_whatever_else_pays():
    work = TaskWork(task="train", ready=3, seconds=0.01, measured=5)
    seen = Observation(target=1, workers=(ReadyWorker(name="w"),), works=(work,), price=Price(start_s=60.0))
    assert decide(0.0, replace(seen, limits=FleetLimits(high=8))).target == 1
    made = decide(0.0, replace(seen, limits=FleetLimits(high=8, gang=3)))
    assert (made.target, made.bound) == (3, "gang")
    assert "at once or not at all, which takes 3" in made.reason
    assert decide(0.0, replace(seen, limits=FleetLimits(high=2, gang=3))).target <= 2
