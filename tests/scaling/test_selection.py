"""Which family is chosen, and which are reported beside it. The full table: docs/explanation/laws.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.scaling.planted import TEN, planted

from hooke.scaling import Measurements, fit

pytestmark = pytest.mark.needs("processes")

LAWS = {"linear": (), "amdahl": (0.05,), "hard_knee": (1 / 8,), "power": (0.7,), "usl": (0.1, 0.004)}

CURVES = 100
"""Of forty, chance alone makes as many USL look like a queue as would be too many."""


@pytest.mark.long
@pytest.mark.parametrize("family", LAWS)
def test_the_truth_is_reported_and_mostly_chosen(family):
    """Ten measurements, errors of 5 %, 100 curves: aimed at are 95 % and 90 %; less would be two standard errors off."""
    laws = [fit(planted(family, LAWS[family], noise=0.05, seed=seed)) for seed in range(CURVES)]
    reported = [family in {law.family, *(other.family for other in law.alternatives)} for law in laws]
    assert np.mean(reported) >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / CURVES)
    assert np.mean([law.family == family for law in laws]) >= 0.90 - 2 * math.sqrt(0.9 * 0.1 / CURVES)


def test_the_simplest_is_chosen_and_the_rest_told():
    law = fit(planted("linear", (), noise=0.02, seed=1))
    assert law.family == "linear"
    assert "usl" in [other.family for other in law.alternatives]
    for other in law.alternatives:
        assert law.family in [back.family for back in other.alternatives]
        assert len(other.alternatives) == len(law.alternatives)


def test_the_comparison_names_every_family_with_both_criteria():
    law = fit(planted("usl", (0.1, 0.004), noise=0.02, seed=1))
    rows = {row.family: row for row in law.comparison}
    assert set(rows) == {"linear", "amdahl", "hard_knee", "power", "closed_queue", "usl"}
    assert rows["usl"].akaike == 0
    assert not rows["usl"].ruled_out
    assert rows["linear"].ruled_out
    assert min(rows.values(), key=lambda row: row.left_out).family == "usl"
    assert [row.parameters for row in law.comparison if row.family == "usl"] == [3]
    assert rows["usl"].scatter == pytest.approx(law.scatter)


def test_leaving_one_out_is_what_a_fit_without_it_predicts():
    measured = planted("power", (0.7,), noise=0.05, seed=5)
    errors = []
    for i in range(len(TEN)):
        kept = np.arange(len(TEN)) != i
        rest = fit(Measurements(measured.n[kept], throughput=measured.throughput[kept]), families=["power"])
        errors.append(np.log(measured.throughput[i] / rest.throughput(measured.n[i : i + 1])[0]))
    (row,) = fit(measured, families=["power"]).comparison
    assert row.left_out == pytest.approx(math.sqrt(np.mean(np.square(errors))), rel=1e-6)


def test_lack_of_fit_is_found_by_repeats_and_by_runs_of_residuals():
    hard = planted("hard_knee", (1 / 8,), n=TEN * 3, noise=0.02, seed=1)
    repeats = fit(hard, families=["amdahl"]).lack_of_fit
    assert (repeats.test, repeats.found) == ("repeats", True)
    smooth = planted("usl", (0.01, 0.004), n=range(1, 33), noise=0.01, seed=1)
    residuals = fit(smooth, families=["power"]).lack_of_fit
    assert (residuals.test, residuals.found) == ("residuals", True)
    assert any("does not fit" in flag for flag in fit(smooth, families=["power"]).flags)


@pytest.mark.long
@pytest.mark.parametrize("n", [TEN, TEN * 3])
def test_lack_of_fit_is_seldom_found_where_there_is_none(n):
    """A level of 1 %: in 200 fits of the true family, 6 or more would be one time in two hundred."""
    p_values = [
        fit(planted("amdahl", (0.05,), n=n, noise=0.05, seed=seed), families=["amdahl"]).lack_of_fit.p_value
        for seed in range(200)
    ]
    assert np.mean(np.array(p_values) < 0.01) < 0.03
    assert 0.3 < np.mean(np.array(p_values) < 0.5) < 0.7
