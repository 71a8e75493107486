"""Measurements whose order in time matters: drift is found, taken off or told, and intervals hold under it."""

import numpy as np
import pytest
from benchmarks.scaling_coverage import disturbed_cell

from hooke import UsageError
from hooke.measuring.design import Design
from hooke.scaling import Measurements, fit

LEVELS = (1, 2, 4, 8, 16)


def study(error, *, seed=1, repeats=3, ascending=False, timed=True):
    """A linear law, 10 N, with `error(place, rng)` in log X; `place` is -1/2 at the first measurement and 1/2 at the last."""
    rounds = Design(levels=LEVELS, repeats=repeats, seed=seed).rounds()
    order = np.array([turn.n for turns in rounds for turn in turns if turn.n], dtype=float)
    order = np.sort(order) if ascending else order
    place = np.linspace(-0.5, 0.5, order.size)
    x = 10 * order * np.exp(error(place, np.random.default_rng(seed)))
    return Measurements(order, throughput=x, at=100 + place if timed else None)


def warming(place, rng):
    return -0.2 * place + 0.01 * rng.standard_normal(place.size)


def test_the_order_in_time_is_kept_beside_the_order_of_n():
    measured = Measurements([4, 1, 2], throughput=[[30, 31], [10, 11], [20, 21]], at=[[5, 1], [2, 6], [4, 3]])
    assert measured.n.tolist() == [1, 1, 2, 2, 4, 4]
    assert measured.at.tolist() == [2, 6, 4, 3, 5, 1]
    assert measured.n[measured.in_time].tolist() == [4, 1, 2, 2, 4, 1]
    assert Measurements([1, 2], throughput=[1, 2]).in_time is None
    assert Measurements([1, 2], throughput=[1, 2], at=[3, np.nan]).in_time is None
    with pytest.raises(UsageError, match=r"at has shape \(2,\)"):
        Measurements([1, 2], throughput=[[1, 2], [3, 4]], at=[1, 2])


@pytest.mark.needs("cpu")
def test_a_line_in_time_is_taken_off_and_told():
    law = fit(study(warming))
    (flag,) = [flag for flag in law.flags if flag.startswith("drift")]
    assert "throughput fell by about 18%" in flag or "throughput fell by about 19%" in flag
    low, high = law.predict(6).interval
    assert low < 60 < high < 1.03 * low
    # Without the order, the same numbers are noise.
    blind = fit(study(warming, timed=False))
    assert not [flag for flag in blind.flags if "drift" in flag]
    assert blind.predict(6).interval[1] > 1.05 * blind.predict(6).interval[0]


@pytest.mark.needs("cpu")
def test_where_n_ascends_with_time_drift_cannot_be_told_from_the_law():
    law = fit(study(warming, ascending=True))
    assert any("N was measured in ascending order" in flag for flag in law.flags)
    assert not any("ascending" in flag for flag in fit(study(warming)).flags)


@pytest.mark.needs("cpu")
def test_independent_errors_are_seldom_called_drift():
    laws = [
        fit(study(lambda place, rng: 0.05 * rng.standard_normal(place.size), seed=seed)) for seed in range(15)
    ]
    assert sum(any(flag.startswith("drift") for flag in law.flags) for law in laws) <= 4


def test_without_errors_there_is_no_drift():
    law = fit(study(lambda place, _: 0 * place))
    assert law.flags == ()


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_successive_errors_that_resemble_each_other_widen_the_intervals():
    cell, blind = disturbed_cell("AR(1), 0.8", 5), disturbed_cell("AR(1), 0.8", 5, timed=False)
    assert cell.held_or_flagged >= 0.9 * cell.asked
    assert blind.held_or_flagged < 0.85 * blind.asked
    assert cell.held > blind.held


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("kind", ["growing", "one-sided"])
def test_other_errors_than_the_assumed_ones_leave_the_coverage(kind):
    # A sample: 95 % would be missed by a tenth of these 63 predictions, which come three from a fit. The table is in laws.md.
    cell = disturbed_cell(kind, 3)
    assert cell.held_or_flagged >= 0.8 * cell.asked
