"""Staying below Comet's limits, for any batches at any times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.sinks.comet_limits import IN_FULL, METRICS, MOST_VALUES, NOTES, allowance, thinned

VALUES = st.lists(st.floats(width=32), max_size=60)


@pytest.mark.needs("cpu")
@given(values=VALUES, most=st.integers(3, 70))
def test_least_greatest_and_last_are_kept_and_no_more_than_allowed(values, most):
    kept = thinned(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= most
    if len(values) <= most:
        assert kept == list(range(len(values)))
        return
    assert kept[-1] == len(values) - 1
    numbers = [value for value in values if not math.isnan(value)]
    sent = [values[at] for at in kept if not math.isnan(values[at])]
    if numbers:
        assert (min(sent), max(sent)) == (min(numbers), max(numbers))
    assert len(kept) >= most - 3, "no more is left out than must be"


@pytest.mark.needs("cpu")
@given(sizes=st.lists(st.integers(1, 5000), max_size=100))
def test_a_thousand_batches_stay_below_what_comet_keeps_of_a_metric(sizes):
    sent = 0
    for size in sizes * (1000 // max(1, len(sizes))):
        sent += min(size, allowance(sent))
    assert sent <= MOST_VALUES
    assert sent >= min(sum(sizes), IN_FULL), "a short run is sent in full"


@pytest.mark.needs("cpu")
@given(
    sends=st.lists(st.tuples(st.floats(0, 90), st.integers(1, 2000)), max_size=60),
    limit=st.sampled_from([(METRICS, 12_000), (NOTES, 8_000)]),
)
def test_in_no_minute_is_more_sent_than_is_documented(sends, limit):
    bucket, most = limit
    now, log = 1000.0, []
    for pause, count in sends:
        size = min(count, int(bucket.most))
        now += pause
        bucket, wait = bucket.take(size, now)
        now += wait
        log.append((now, size))
    for start, _ in log:
        assert sum(size for at, size in log if start <= at < start + 60) <= most


def test_a_clock_that_goes_back_gives_no_tokens():
    bucket, wait = METRICS.take(2000, 100.0)
    assert wait == 0.0
    bucket, wait = bucket.take(150, 40.0)
    assert wait == 1.0
    assert bucket.take(150, 40.0)[1] == 2.0
