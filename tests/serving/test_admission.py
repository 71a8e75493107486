"""Admission by the SLO on simulated overload: each seed is a history, and a failure names it. And the limit of streams."""

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.serving.overloaded import Law, play

from hooke.serving.admission import BatchLaw, StreamLimit, Urgency
from hooke.serving.batcher import Batcher, BatchLimits, PendingRequest

LAWS = [
    Law(a=0.0, b=0.02),
    Law(a=0.0, b=0.04, spread=0.5),
    Law(a=0.002, b=0.04, max_batch=8),
    Law(a=0.01, b=0.02, max_batch=4, spread=0.3),
]
WARM_S, SECONDS = 2.0, 12.0
LATE = 0.03
"""Of what is admitted under `p99`, at most: the promised share, and what the change of the load costs."""


def histories(test):
    for name, values in (("slo_s", [0.4, 1.0]), ("law", LAWS), ("seed", range(3))):
        test = pytest.mark.parametrize(name, values)(test)
    return test


@pytest.mark.needs("cpu")
@histories
def test_below_capacity_nearly_nothing_is_refused_or_late(seed, law, slo_s):
    played = play(seed, law, lambda _: {Urgency.CALL: 0.6 * law.capacity}, slo_s=slo_s, seconds=SECONDS)
    counts = played.count(0.0, SECONDS)
    assert counts["in time"] >= 0.99 * counts["arrived"]


@pytest.mark.needs("cpu")
@histories
def test_at_five_times_the_capacity_the_goodput_is_the_capacity_and_what_is_admitted_is_in_time(
    seed, law, slo_s
):
    played = play(seed, law, lambda _: {Urgency.CALL: 5 * law.capacity}, slo_s=slo_s, seconds=SECONDS)
    counts = played.count(WARM_S, SECONDS)
    assert counts["in time"] >= 0.9 * law.capacity * (SECONDS - WARM_S)
    assert counts["late"] <= LATE * (counts["late"] + counts["in time"])
    # Most of the excess is refused at once, and does not wait for nothing.
    assert counts["shed"] <= 0.03 * counts["refused"]


@pytest.mark.needs("cpu")
@histories
def test_a_second_after_the_overload_nothing_is_refused(seed, law, slo_s):
    def rates(now):
        return {Urgency.CALL: law.capacity * (5.0 if 2.0 < now < 6.0 else 0.4)}

    played = play(seed, law, rates, slo_s=slo_s, seconds=SECONDS)
    counts = played.count(6.0 + max(1.0, slo_s), SECONDS)
    assert counts["in time"] >= 0.99 * counts["arrived"]


@pytest.mark.needs("cpu")
@histories
def test_low_priority_is_shed_first_and_gets_what_is_left(seed, law, slo_s):
    rates = {Urgency.CALL: 0.5 * law.capacity, Urgency.LOW: 4 * law.capacity}
    played = play(seed, law, lambda _: rates, slo_s=slo_s, seconds=SECONDS)
    high, low = (played.count(WARM_S, SECONDS, each) for each in (Urgency.CALL, Urgency.LOW))
    assert high["in time"] >= 0.93 * high["arrived"]
    assert high["in time"] + low["in time"] >= 0.88 * law.capacity * (SECONDS - WARM_S)
    assert low["in time"] > 0


@pytest.mark.needs("cpu")
@histories
def test_where_the_others_alone_are_too_many_low_priority_waits_no_longer_than_its_goal(seed, law, slo_s):
    rates = {Urgency.CALL: 3 * law.capacity, Urgency.LOW: law.capacity}
    played = play(seed, law, lambda _: rates, slo_s=slo_s, seconds=SECONDS)
    low = played.count(WARM_S, SECONDS, Urgency.LOW)
    assert low["in time"] + low["late"] <= 0.1 * law.capacity * (SECONDS - WARM_S)
    slack = 3 * (law.a * law.max_batch + law.b)
    assert all(at <= one.goal + slack for at, one in played.shed if one.arrived > WARM_S)


@pytest.mark.needs("cpu")
@histories
def test_within_a_priority_the_order_is_that_of_arrival(seed, law, slo_s):
    rates = {Urgency.CALL: 2 * law.capacity, Urgency.LOW: law.capacity}
    played = play(seed, law, lambda _: rates, slo_s=slo_s, seconds=4.0)
    for urgency in (Urgency.CALL, Urgency.LOW):
        begun = [one.arrived for one in played.order if one.urgency is urgency]
        assert begun == sorted(begun)


@pytest.mark.needs("cpu")
@histories
def test_the_room_is_what_the_slo_holds_by_littles_law(seed, law, slo_s):
    played = play(seed, law, lambda _: {Urgency.CALL: 5 * law.capacity}, slo_s=slo_s, seconds=SECONDS)
    rooms = [room for room in played.rooms[len(played.rooms) // 2 :] if room is not None]
    assert len(rooms) > 0.9 * (len(played.rooms) // 2)
    most = law.capacity * slo_s
    assert all(2 <= room <= 1.6 * most + law.max_batch for room in rooms)
    assert sum(rooms) / len(rooms) >= min(0.5 * most, 2.0 * law.max_batch)


def call(arrived, *, slo_s=1.0, urgency=Urgency.CALL):
    return PendingRequest(
        group=None,
        rows=1,
        arrived=arrived,
        deadline=arrived + 30,
        goal=arrived + slo_s,
        urgency=urgency,
        law="m",
    )


def measured(took_s, *, slo_s=1.0):
    batcher = Batcher(BatchLimits(slo_s=slo_s))
    for at in range(-6, 0):
        batcher.offer(call(at * took_s, slo_s=slo_s))
        batcher.take(at * took_s)
        batcher.finished((at + 1) * took_s)
    return batcher


def test_a_promise_that_even_a_free_model_breaks_does_not_refuse_what_the_timeout_allows():
    batcher = measured(2.0)
    assert batcher.room() is None
    for _ in range(5):
        assert batcher.offer(call(0.0))
    batcher.take(0.0)
    assert batcher.shed() == []


def test_what_a_stall_made_late_is_computed_unless_someone_was_refused_for_it():
    def stalled(*, refusing):
        batcher = measured(0.1)
        for _ in range(20 if refusing else 5):
            batcher.offer(call(0.1))
        assert batcher.take(0.1) is not None
        batcher.finished(3.0)
        return batcher.take(3.0), batcher.shed()

    batch, shed = stalled(refusing=False)
    assert batch is not None
    assert shed == []
    batch, shed = stalled(refusing=True)
    assert batch is None
    assert shed


def test_what_is_late_is_not_dropped_for_requests_of_low_priority():
    batcher = measured(0.1)
    batcher.offer(call(0.1))
    assert batcher.take(0.1) is not None
    batcher.offer(call(0.1))
    assert not all(batcher.offer(call(0.2, urgency=Urgency.LOW)) for _ in range(20))
    batcher.finished(3.0)
    batch = batcher.take(3.0)
    assert batch is not None
    assert batch.requests[0].urgency is Urgency.CALL
    assert [one.urgency for one in batcher.shed()] == []


@pytest.mark.needs("cpu")
def test_a_method_that_was_not_called_for_long_is_still_forecast():
    batcher = measured(0.1)
    for at in range(16_000):
        batcher.offer(
            PendingRequest(group=None, rows=1, arrived=at, deadline=at + 30, goal=at + 1, law="other")
        )
        batcher.take(at)
        batcher.finished(at + 0.001)
    batcher.offer(call(16_000))
    assert batcher.take(16_000) is not None
    batcher.offer(call(16_000))
    assert batcher.backlog_s() == pytest.approx(0.1, rel=0.01)


def test_one_slow_call_of_another_method_does_not_end_the_forecast_of_room_for_long():
    batcher = measured(0.1)
    assert batcher.room() is not None
    slow = PendingRequest(group=None, rows=1, arrived=1.0, deadline=60.0, goal=2.0, law="slow")
    batcher.offer(slow)
    batcher.take(1.0)
    batcher.finished(11.0)
    assert batcher.room() is None
    for at in range(20, 80):
        batcher.offer(call(at))
        batcher.take(at)
        batcher.finished(at + 0.1)
    assert batcher.room() in (10, 11)


def test_calls_go_before_items_of_streams_and_an_item_waits_no_longer_than_its_goal():
    batcher = measured(0.1)
    for _ in range(3):
        batcher.offer(call(0.1, urgency=Urgency.ITEM), accepted=True)
    begun, now = [], 0.1
    while batcher.waiting_rows and now < 10:
        batcher.offer(call(now, slo_s=5.0))  # calls keep the model busy
        batch = batcher.take(now)
        begun.append((now, batch.requests[0].urgency))
        now += 0.1
        batcher.finished(now)
    items = [at for at, urgency in begun if urgency is Urgency.ITEM]
    assert begun[0][1] is Urgency.CALL
    assert len(items) == 3
    assert max(items) <= 1.4


@pytest.mark.needs("cpu")
@given(
    a=st.floats(1e-4, 1e-2),
    b=st.floats(1e-4, 1e-1),
    sizes=st.lists(st.integers(1, 64), min_size=6, max_size=60),
)
@example(a=1e-4, b=0.1, sizes=[1] * 6)
@example(a=1e-4, b=0.1, sizes=[1, 1, 1, 1, 1, 2])
def test_one_pause_of_the_machine_does_not_change_the_law_much(a, b, sizes):
    law = BatchLaw()
    for rows in sizes:
        law.add(rows, a * rows + b)
    before = law.seconds(64)
    law.add(8, 60.0)
    # At worst it counts as eight times as long, and as if all of that were the time of its eight rows.
    assert law.seconds(64) < 65 * max(before, 64 * a + b)


def opened(limit, *, capacity, seconds, gap_s):
    """Streams that come all the time, live for a second, and have a gap of 10 ms, which grows beyond a capacity."""
    chance, now, ends = random.Random(0), 0.0, []
    refused, late, gaps = 0, 0, 0
    while now < seconds:
        now += 0.01
        for _ in range(40):
            if limit.begin():
                ends.append(now + chance.uniform(0.5, 1.5))
            else:
                refused += 1
        gap = 0.01 * max(1.0, limit.open / capacity)
        for _ in range(limit.open):
            limit.gap(now, gap)
            gaps += now > seconds / 2
            late += now > seconds / 2 and gap > gap_s
        for end in [end for end in ends if end <= now]:
            ends.remove(end)
            limit.end()
    return refused, late / gaps


@pytest.mark.needs("cpu")
def test_streams_are_admitted_up_to_the_number_whose_gaps_are_in_time():
    """A capacity of 100 and a limit of twice the lone gap and more: 250 streams have gaps of 25 ms."""
    limit = StreamLimit(most=1024, gap_s=0.025)
    refused, late = opened(limit, capacity=100, seconds=20.0, gap_s=0.025)
    assert 150 <= limit.limit <= 270
    assert refused > 0
    assert late < 0.4


def test_without_an_slo_streams_have_a_fixed_limit():
    limit = StreamLimit(most=3)
    assert [limit.begin() for _ in range(4)] == [True, True, True, False]
    limit.gap(0.0, 100.0)
    limit.end()
    assert limit.begin()
    assert limit.gap_s == math.inf


def test_a_generator_that_is_slower_than_the_slo_on_its_own_is_not_limited_for_it():
    limit = StreamLimit(most=1024, gap_s=0.05)
    for _ in range(10):
        assert limit.begin()
    for turn in range(400):
        limit.gap(turn * 0.02, 0.1)
    assert limit.limit >= 10 * 0.8
    assert limit.begin() is (limit.open < limit.limit) or pytest.fail("the limit is not kept")


class Careful(Batcher):
    """Takes no short cut: to it, each batch may last forever."""

    def _measure(self, batch, took_s):
        super()._measure(batch, took_s)
        self._longest_s = math.inf


def short_history(seed):
    """What is done, step by step: an arrival, the time of the batch that ends, or None for a batch to begin."""
    chance = random.Random(seed)
    base_s, groups = chance.choice([0.01, 0.05]), chance.choice([[None], ["a"], [None, "a", "b"]])
    for _ in range(150):
        kind = chance.random()
        if kind < 0.2:
            yield base_s * chance.choice([1.0, 1.0, 1.0, 2.0])
        elif kind < 0.4:
            yield None
        else:
            yield {
                "group": chance.choice(groups),
                "rows": chance.choice([1, 1, 2, 6]),
                "urgency": chance.choice(list(Urgency)),
                "law": chance.choice("xy"),
                "patience": base_s * chance.uniform(1, 20),
                "goal": chance.choice([base_s * chance.uniform(1, 8), math.inf]),
            }


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("slo_s", [0.2, math.inf])
@pytest.mark.parametrize("first", range(0, 100, 50))
def test_short_cuts_change_no_decision(first, slo_s):
    for seed in range(first, first + 50):
        decisions = [
            decided(kind(BatchLimits(max_batch=4, max_waiting=40, slo_s=slo_s)), seed)
            for kind in (Batcher, Careful)
        ]
        assert decisions[0] == decisions[1], seed


def decided(batcher, seed):
    """All that a batcher says in such a history."""
    now, said, names = 0.0, [], {}
    for number, step in enumerate(short_history(seed)):
        now += 0.001
        if isinstance(step, float):
            now += step
            if batcher.running is not None:
                batcher.finished(now, step)
        elif step is None:
            batch = batcher.take(now)
            said.append(batch and ([names[one] for one in batch.requests], batch.rows))
        else:
            times = {"arrived": now, "deadline": now + step.pop("patience"), "goal": now + step.pop("goal")}
            made = PendingRequest(**times, **step)
            names[made] = number
            said.append(batcher.offer(made))
        if number % 10 == 9:
            said.append([names[one] for one in (*batcher.shed(), *batcher.expired(now))])
        said.append((batcher.waiting_rows, batcher.room(), batcher.backlog_s()))
    return said
