"""When requests are due, and the rates that are tried: pure parts of the load generator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import UsageError
from hooke.loadtest.target import constant, poisson, recorded

RATES = st.floats(1, 5000)
SECONDS = st.floats(0.2, 5)
TRACES = st.lists(st.floats(0, 1e6), min_size=2, max_size=60, unique=True)


@pytest.mark.needs("cpu")
@settings(max_examples=40)
@given(rate=RATES, seconds=SECONDS, seed=st.integers(0, 9), trace=TRACES, kind=st.integers(0, 2))
def test_as_many_as_asked_for_in_order_within_the_time(rate, seconds, seed, trace, kind):
    made = (constant, poisson, recorded(np.array(trace)))[kind](rate, seconds, seed)
    assert len(made) == max(round(rate * seconds), 1)
    assert (np.diff(made) >= 0).all()
    assert made[0] >= 0 and made[-1] < seconds + 1 / rate
    assert np.array_equal(made, (constant, poisson, recorded(np.array(trace)))[kind](rate, seconds, seed))


def test_poisson_gaps_are_exponential_and_constant_ones_equal():
    gaps = np.diff(poisson(1000, 20, 3))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    assert np.diff(constant(1000, 20)).std() < 1e-9


@settings(max_examples=20)
@given(seed=st.integers(0, 100))
def test_a_trace_keeps_its_bursts_at_any_rate(seed):
    bursts = np.concatenate([np.arange(20) * 0.001 + start for start in range(50)])
    gaps = np.diff(recorded(bursts)(500, 4, seed))
    # 19 short gaps for each long one, in the ratio that the trace has.
    assert np.quantile(gaps, 0.9) < 0.01 * gaps.max()


@pytest.mark.parametrize("times", [[], [1.0], [2.0, 2.0], [0.0, float("nan")]])
def test_a_trace_without_two_times_is_refused(times):
    with pytest.raises(UsageError, match="fewer than two different times"):
        recorded(np.array(times))
