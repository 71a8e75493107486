"""What a service bears by what was measured for it: exact rates, laws, other machines, and the refusals."""

import math

import hypothesis.strategies as some
import pytest
from hypothesis import given, settings

from hooke.scaling.catalog import InstanceType
from hooke.scaling.provision import (
    Bearing,
    LatencyGoal,
    MeasuredLoad,
    Missing,
    ServiceSetup,
    choose,
    offers_on_front,
)
from hooke.scaling.time_and_price import LOCAL

PROMISE = LatencyGoal(99, 0.05)
HERE = InstanceType(catalog=LOCAL, name="this machine", vcpus=8, usd_per_hour=0.0, speed=(1.0, 1.0))


def load(replicas, rate, threads=1, promise=PROMISE, **more):
    return MeasuredLoad(replicas=replicas, threads=threads, promise=promise, rate=rate, **more)


def machine(name="m", speed=(1.0, 1.0), price=1.0, vcpus=8):
    return InstanceType(catalog="ours", name=name, vcpus=vcpus, usd_per_hour=price, speed=speed)


def setup(replicas, threads=1, of=HERE, instances=1):
    return ServiceSetup(machine=of, replicas=replicas, threads=threads, instances=instances)


LINEAR = [load(1, 100.0), load(2, 201.0), load(4, 397.0)]
BENT = [load(n, rate) for n, rate in [(1, 100.0), (2, 181.0), (3, 243.0), (4, 287.0), (6, 328.0), (8, 322.0), (10, 301.0)]]  # fmt: skip


def test_what_was_measured_lies_between_what_held_and_what_broke():
    bearing = Bearing([load(2, 100.0, breaks_at=121.0), load(1, 70.0)], PROMISE, cores=8)
    told = bearing.offer(setup(2)).bears
    assert told.interval == (100.0, 121.0) and told.value == pytest.approx(110)
    assert bearing.offer(setup(1)).bears.interval == (70.0, math.inf), "nothing broke it"


@pytest.mark.needs("cpu")
def test_a_law_of_replicas_reaches_where_it_is_sure_and_refuses_beyond():
    bearing = Bearing(LINEAR, PROMISE, cores=8)
    low, high = bearing.offer(setup(3)).bears.interval
    assert low < 300 < high < 1.2 * low
    far = bearing.offer(setup(40))
    assert far.bears is None and "too far from the measured range" in far.refused
    assert far.missing.threads == 1 and far.missing.replicas > 4


def test_past_the_knee_there_is_no_figure():
    bearing = Bearing(BENT, PROMISE, cores=16)
    beyond = bearing.offer(setup(9))
    assert beyond.bears is None and beyond.refused.startswith("past the knee, which may lie at ")
    knee = float(beyond.refused.split("may lie at ")[1].split()[0])
    assert 3 < knee < 8
    assert bearing.offer(setup(int(knee) - 1)).bears is not None
    assert bearing.offer(setup(10)).bears.interval[0] == 301.0, "but what was measured, was measured"


@pytest.mark.parametrize(
    ("loads", "asked", "why", "missing"),
    [
        ([load(1, 9.0), load(2, 17.0)], setup(4), "only N = 1, 2 was measured for replicas of 1 thread", Missing(4, 1)),
        ([load(1, 9.0)], setup(2, threads=2), "no N was measured for replicas of 2 threads", Missing(1, 2)),
        ([load(1, 9.0), load(1, 12.0, threads=2)], setup(1, threads=4), "only N = 1, 2 was measured for threads", Missing(1, 4)),
        ([load(1, 9.0)], setup(0), "too small for a replica", None),
        ([load(1, 9.0)], setup(1, of=machine(speed=None)), "speed unknown", None),
        (
            [load(1, 9.0, promise=LatencyGoal(99, 0.2))], setup(1),
            "p99 < 50.0 ms was not measured; measured: p99 < 200 ms", Missing(1, 1, PROMISE),
        ),
        ([], setup(1), "was not measured; measured: nothing", Missing(1, 1, PROMISE)),
    ],
)  # fmt: skip
def test_what_was_not_measured_is_named(loads, asked, why, missing):
    told = Bearing(loads, PROMISE, cores=8).offer(asked)
    assert told.bears is None and why in told.refused and told.missing == missing


def test_a_law_of_threads_serves_one_replica_of_more():
    loads = [
        load(1, rate, threads=n)
        for n, rate in [(1, 101.0), (2, 149.0), (3, 191.0), (4, 224.0), (6, 287.0), (8, 336.0)]
    ]
    low, high = Bearing(loads, PROMISE, cores=8).offer(setup(1, threads=5)).bears.interval
    assert low < 100 * 5**0.585 < high < 1.2 * low


def test_replicas_beyond_the_cores_tell_nothing_of_other_machines_unless_they_wait():
    loads = [load(1, 100.0), load(2, 200.0), load(4, 210.0, cores=2.0)]
    bearing = Bearing(loads, PROMISE, cores=2)
    assert bearing.offer(setup(4)).bears is not None, "here it is what was measured"
    assert "only N = 1, 2" in bearing.offer(setup(4, of=machine())).refused
    waiting = [load(1, 100.0), load(2, 200.0), load(4, 400.0, cores=0.3)]
    assert Bearing(waiting, PROMISE, cores=2).offer(setup(4, of=machine())).bears.interval[0] == 400


def test_a_slower_machine_must_keep_a_stricter_promise():
    """Half as fast, who keeps 25 ms here keeps 50 there; nothing tells what who keeps 50 ms here keeps there."""
    slow = setup(1, of=machine(speed=(0.5, 0.6)))
    told = Bearing([load(1, 100.0)], PROMISE, cores=8).offer(slow)
    assert told.bears is None and told.missing == Missing(1, 1, LatencyGoal(99, 0.025))
    strict = load(1, 80.0, promise=LatencyGoal(99, 0.025), breaks_at=90.0)
    assert Bearing([load(1, 100.0), strict], PROMISE, cores=8).offer(slow).bears.interval == (40.0, math.inf)
    fast = setup(1, of=machine(speed=(2.0, 3.0)))
    assert Bearing([strict], PROMISE, cores=8).offer(fast).bears.interval == (160.0, math.inf)


rates = some.floats(1, 1000)
machines = some.builds(
    machine, name=some.sampled_from("abc"), price=some.none() | some.integers(0, 9).map(float),
    speed=some.none() | some.tuples(some.floats(0.5, 1), some.floats(1, 2)),
)  # fmt: skip


@pytest.mark.needs("cpu")
@settings(deadline=None, max_examples=50)
@given(
    some.lists(some.builds(load, some.integers(1, 6), rates, threads=some.integers(1, 2)), max_size=5),
    some.lists(some.builds(setup, some.integers(1, 6), threads=some.integers(1, 2), of=machines), max_size=5),
    rates,
)
def test_what_is_chosen_bears_the_rate_and_nothing_on_the_front_is_beaten(loads, setups, rate):
    bearing = Bearing(loads, PROMISE, cores=8)
    offers = [bearing.offer(each) for each in setups]
    for offer in offers:
        assert (offer.bears is None) == bool(offer.refused)
        assert offer.bears is None or offer.bears.interval[0] <= offer.bears.value <= offer.bears.interval[1]
    front = offers_on_front(offers)
    for one in front:
        assert not any(
            other.setup.usd_per_hour <= one.setup.usd_per_hour and other.bears.interval[0] > one.bears.interval[0]
            for other in offers if other.bears is not None and other.setup.usd_per_hour is not None
        )  # fmt: skip
    choice = choose(offers, rate)
    granted = [each for each in offers if each.grants(rate) and each.setup.usd_per_hour is not None]
    assert (choice.offer is None) == (not granted)
    if choice.offer is not None:
        assert choice.offer.setup.usd_per_hour == min(each.setup.usd_per_hour for each in granted)


def test_the_reason_is_a_sentence():
    bearing = Bearing(LINEAR, PROMISE, cores=8)
    here = [bearing.offer(setup(n)) for n in (1, 2, 4)]
    assert choose(here, 150).reason == "this machine suffices: this machine, 2 replicas of 1 thread, which sustains at least 201/s"  # fmt: skip
    none = choose(here, 500)
    assert none.offer is None and none.reason.startswith("no configuration reliably sustains 500/s: the best")
    pair = bearing.offer(setup(4, of=machine(price=0.5), instances=2))
    assert choose([*here[:2], pair], 300).reason == "the cheapest that reliably sustains 300/s: 2 x ours:m, 4 replicas of 1 thread, which sustains at least 397/s for $1.00/h"  # fmt: skip
    assert choose([], 1).reason == "not enough data: no configuration"
