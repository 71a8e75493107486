"""The batcher on simulated histories: each seed is one, and a failure names it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.simulated import World

from hooke.serving.admission import BatchLaw
from hooke.serving.batcher import Batcher, BatchLimits, PendingRequest

LIMITS = st.builds(
    BatchLimits,
    max_batch=st.sampled_from([1, 4, 16]),
    max_waiting=st.sampled_from([1, 8, 1000]),
    wait_s=st.sampled_from([0.0, 0.05, 1.0]),
    fill=st.booleans(),
)


def histories(test):
    return settings(max_examples=60)(given(seed=st.integers(0, 2**32), limits=LIMITS)(test))


def request(
    *, group: object = "a", rows: int = 1, arrived: float = 0.0, deadline: float = math.inf
) -> PendingRequest:
    return PendingRequest(group=group, rows=rows, arrived=arrived, deadline=deadline)


@histories
def test_every_accepted_request_ends_once_and_as_it_must(seed, limits):
    history = World(seed, limits).run()
    assert set(history.ends) == set(history.accepted)
    for request, ends in history.ends.items():
        assert len(ends) == 1
        if request in history.guilty:
            assert ends != ["answered"]
        else:
            assert ends != ["blamed"]


@histories
def test_batches_keep_to_the_limits_and_mix_no_groups(seed, limits):
    history = World(seed, limits).run()
    for now, batch, _ in history.batches:
        assert len({one.group for one in batch.requests}) == 1
        if len(batch.requests) > 1:
            assert batch.rows <= limits.max_batch
            assert batch.requests[0].group is not None
        assert all(now < one.deadline for one in batch.requests)


@histories
def test_the_oldest_goes_first_and_within_a_group_in_order(seed, limits):
    """But for halves of a failed batch: they were chosen before."""
    history = World(seed, limits).run()
    seen = set()
    for _, batch, waited in history.batches:
        if seen.isdisjoint(batch.requests):
            assert batch.requests[0] is waited[0]
            assert list(batch.requests) == [one for one in waited if one in batch.requests]
        seen.update(batch.requests)


@histories
def test_a_free_model_waits_only_if_it_was_told_to(seed, limits):
    history = World(seed, limits).run()
    if limits.wait_s == 0 and not limits.fill:
        assert history.idle_while_waiting == []
    longest = 1.0 + 0.01 * max(20, limits.max_batch)
    for now, wakes, oldest in history.idle_while_waiting:
        assert wakes <= max(oldest.arrived + limits.wait_s, now + longest if limits.fill else 0.0)


@pytest.mark.needs("cpu")
@given(
    a=st.floats(0.0, 1e-3),
    b=st.floats(1e-5, 1e-2),
    sizes=st.lists(st.integers(1, 64), min_size=2, max_size=80),
)
def test_the_fixed_part_of_a_law_is_found(a, b, sizes):
    law = BatchLaw()
    for rows in sizes:
        law.add(rows, a * rows + b)
    mean = sum(a * rows + b for rows in sizes) / len(sizes)
    if len(set(sizes)) > 1:
        assert law.fixed_s == pytest.approx(b, rel=1e-3, abs=1e-3 * mean)
    else:
        assert law.fixed_s == pytest.approx(mean)


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.integers(1, 9)), min_size=1, max_size=30))
def test_who_asks_alone_waits_for_nobody_also_where_the_model_fills(asked):
    """Each asks when it has its answer, at once or later, for one row or for some."""
    batcher, now = Batcher(BatchLimits(max_batch=64, fill=True)), 0.0
    for pause, rows in asked:
        now += pause
        batcher.offer(request(arrived=now, rows=rows))
        assert batcher.take(now) is not None
        now += 0.01
        batcher.finished(now)


def rounds(limits: BatchLimits, clients: int, *, back_s: float) -> list[int]:
    """Sizes of batches where each client asks again after its answer, one `back_s` after the other; a batch takes 10 ms."""
    batcher, now, sizes = Batcher(limits), 0.0, []
    coming = [at * back_s for at in range(clients)]
    ends = math.inf
    for _ in range(60 * clients):
        now = min(coming[0] if coming else math.inf, ends, batcher.wakes())
        if now == ends:
            sizes.append(len(batcher.running.requests))
            batcher.finished(now)
            coming = sorted(coming + [now + (at + 1) * back_s for at in range(sizes[-1])])
            ends = math.inf
        elif coming and now == coming[0]:
            coming.pop(0)
            batcher.offer(request(arrived=now))
        if batcher.take(now) is not None:
            ends = now + 0.01
    return sizes[-10:]


def test_who_comes_back_one_after_the_other_goes_together_where_the_model_fills():
    assert max(rounds(BatchLimits(max_batch=64), 8, back_s=0.001)) < 8
    assert rounds(BatchLimits(max_batch=64, fill=True), 8, back_s=0.001) == [8] * 10


@pytest.mark.needs("cpu")
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_only_the_guilty_are_blamed_in_logarithmically_many_calls(guilt):
    batcher = Batcher(BatchLimits(max_batch=64))
    requests = [request() for _ in guilt]
    for one in requests:
        assert batcher.offer(one)
    blamed, answered, calls = [], [], 0
    while (batch := batcher.take(0.0)) is not None:
        calls += 1
        if any(guilt[requests.index(one)] for one in batch.requests):
            found = batcher.failed()
            blamed += [found] if found else []
        else:
            batcher.finished(0.0)
            answered += batch.requests
    assert {requests.index(one) for one in blamed} == {at for at, bad in enumerate(guilt) if bad}
    assert len(answered) + len(blamed) == len(guilt)
    assert calls <= 1 + 2 * sum(guilt) * math.ceil(math.log2(len(guilt) + 1))


def test_the_wait_ends_early_for_a_deadline_and_for_a_full_batch():
    batcher = Batcher(BatchLimits(max_batch=2, wait_s=10.0))
    batcher.offer(request(arrived=0.0))
    assert (batcher.take(0.0), batcher.wakes()) == (None, 10.0)
    batcher.offer(request(arrived=1.0))
    assert batcher.take(1.0) is not None, "two rows are a full batch"
    batcher.finished(3.0)  # a second a row
    batcher.offer(request(arrived=4.0, deadline=8.0))
    assert batcher.wakes() == pytest.approx(7.0)


def test_what_cannot_be_answered_in_time_is_refused_but_not_the_rest_of_what_was_let_in():
    batcher = Batcher(BatchLimits(max_batch=1))
    batcher.offer(request())
    batcher.take(0.0)
    batcher.finished(2.0)
    for _ in range(3):
        assert batcher.offer(request(arrived=2.0, deadline=100.0))
    assert batcher.backlog_s() == pytest.approx(6.0)
    assert not batcher.offer(request(arrived=2.0, deadline=7.0))
    assert batcher.offer(request(arrived=2.0, deadline=7.0), accepted=True)


def test_what_would_have_its_answer_after_its_deadline_is_not_let_in():
    """Not only what would wait until then: the batch that runs and the request's own take time, too."""
    batcher = Batcher(BatchLimits(max_batch=4, max_waiting=1000))

    def request(deadline):
        return PendingRequest(group="a", rows=1, arrived=10.0, deadline=deadline)

    for _ in range(4):
        assert batcher.offer(request(20.0))
    assert batcher.take(10.0) is not None
    batcher.finished(10.4, 0.4)  # 0.1 s a row
    for _ in range(8):
        assert batcher.offer(request(20.0))
    assert batcher.take(10.4) is not None
    assert batcher.backlog_s() == pytest.approx(0.4)
    assert not batcher.offer(request(10.85)), "four run, four wait, and it would be the next"
    assert batcher.offer(request(10.95))
    assert batcher.offer(request(10.5), accepted=True)


def test_where_nothing_waits_a_request_is_let_in_however_long_it_may_take():
    batcher = Batcher(BatchLimits(max_batch=4, max_waiting=1000))
    assert batcher.offer(PendingRequest(group="a", rows=1, arrived=0.0, deadline=9.0))
    assert batcher.take(0.0) is not None
    batcher.finished(8.0)
    assert batcher.offer(PendingRequest(group="a", rows=1, arrived=10.0, deadline=11.0))


def test_a_batch_is_looked_at_again_when_its_wait_ends():
    import asyncio
    from types import SimpleNamespace

    from tests.serving.services import Rows

    from hooke.serving.dispatch import Dispatch
    from hooke.serving.service import service_of

    async def made():
        return Dispatch(service_of(Rows), model)

    delays = []
    handle = SimpleNamespace(cancel=lambda: None)
    model = SimpleNamespace(on_available=lambda call: None, unavailable=lambda: None)
    dispatch = asyncio.run(made())
    dispatch._loop = SimpleNamespace(time=lambda: 5.0, call_later=lambda s, _: delays.append(s) or handle)
    for wakes in (5.0, 5.25):
        dispatch.batcher = SimpleNamespace(
            take=lambda now: None, shed=lambda: (), wakes=lambda wakes=wakes: wakes
        )
        dispatch._pump()
    assert delays == [0.001, 0.25]


def test_rows_before_a_request_are_those_as_urgent_or_more():
    from hooke.serving.batcher import Urgency

    batcher = Batcher(BatchLimits(max_batch=16, max_waiting=1000))
    for rows, urgency in enumerate(Urgency, 1):
        asked = request(rows=rows)
        asked.urgency = urgency
        assert batcher.offer(asked)
    assert [batcher._rows_before(urgency) for urgency in Urgency] == [1, 3, 6]
