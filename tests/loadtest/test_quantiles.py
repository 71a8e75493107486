"""Percentiles of answers from a queue: the intervals hold the truth as often as they say, though the answers are late together."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.loadtest.rate_search import inflation, quantile, share


def queue(rate, seed, count=4000):
    """Times in an M/M/1 queue of service rate 1, by Lindley's recursion."""
    chance = np.random.default_rng(seed)
    steps = chance.exponential(1.0, count) - chance.exponential(1 / rate, count)
    walk = np.concatenate([[chance.exponential(1 / (1 - rate))], steps]).cumsum()
    waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    return waits[1:]


@pytest.mark.needs("processes")
@pytest.mark.parametrize(("rate", "percent"), [(0.5, 99.0), (0.7, 50.0), (0.8, 90.0)])
def test_intervals_hold_the_truth_though_a_queue_makes_answers_alike(rate, percent):
    own = np.random.default_rng(1)
    held = naive = 0
    runs = 200
    truth = math.log(rate / (1 - percent / 100)) / (
        1 - rate
    )  # a wait is longer than t with chance rate * exp(-(1 - rate) t)
    for seed in range(runs):
        waits = queue(rate, seed)
        low, high = quantile(waits, percent).interval
        held += low <= truth <= high
        low, high = quantile(own.permutation(waits), percent).interval  # as if they were independent
        naive += low <= truth <= high
    assert held / runs > 0.87
    assert naive / runs < 0.75


@settings(max_examples=40)
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=300), st.sampled_from([50.0, 90.0, 99.0, 99.9]))
def test_a_percentile_lies_within_its_interval_and_is_one_of_the_answers(values, percent):
    made = quantile(np.array(values), percent)
    assert made.value in values
    assert made.interval[0] <= made.value <= made.interval[1]


def test_what_so_few_answers_cannot_tell_is_infinite():
    assert math.isinf(quantile(np.arange(100.0), 99.9).interval[1])
    assert not math.isinf(quantile(np.random.default_rng(0).uniform(size=20_000), 99.9).interval[1])


def test_one_stall_counts_as_one_witness():
    scattered, together = np.ones(3200, bool), np.ones(3200, bool)
    scattered[::32] = False
    together[1000:1100] = False
    assert inflation(scattered) == 1
    assert inflation(together) > 20
    assert share(together).interval[0] < share(scattered).interval[0]


@pytest.mark.needs("cpu")
@given(st.lists(st.booleans(), min_size=1, max_size=400))
def test_a_share_lies_within_its_interval(hits):
    made = share(np.array(hits))
    low, high = made.interval
    assert 0 <= low <= made.value <= high <= 1
