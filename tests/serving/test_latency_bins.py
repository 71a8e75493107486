"""Times of answers in bins: narrow, in order, and adding up; a quantile read from them is near the exact one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.serving.stats_windows import (
    BIN_BOUNDS_S,
    BINS,
    latency_bin,
    merge_counts,
    nonzero_counts,
    quantile_s,
)

SECONDS = st.lists(st.floats(0.001, 60.0), min_size=1, max_size=300)


def counts_of(values):
    counts = [0] * BINS
    for value in values:
        counts[latency_bin(value)] += 1
    return nonzero_counts(counts)


@pytest.mark.needs("cpu")
@given(SECONDS, st.sampled_from([1.0, 50.0, 90.0, 99.0, 100.0]))
def test_a_quantile_is_within_a_bin_of_the_exact_one(values, percent):
    exact = sorted(values)[max(math.ceil(percent / 100 * len(values) - 1e-9), 1) - 1]
    assert quantile_s(dict(counts_of(values)), percent) == pytest.approx(exact, rel=2 ** (1 / 8) - 1 + 1e-9)


@pytest.mark.needs("cpu")
@given(st.lists(SECONDS, max_size=4))
def test_counts_add_up(several):
    assert merge_counts(map(counts_of, several)) == counts_of(
        [value for values in several for value in values]
    )


def test_what_no_bin_is_for_is_in_the_first_or_the_last():
    assert latency_bin(0.0) == latency_bin(BIN_BOUNDS_S[0]) == 0
    assert latency_bin(1e9) == BINS - 1
    assert quantile_s({BINS - 1: 3.0}, 50.0) == pytest.approx(BIN_BOUNDS_S[-1])
    assert quantile_s({}, 50.0) is None
    assert quantile_s({3: 0.0}, 50.0) is None
