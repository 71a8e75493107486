"""Fits that others published, to half a unit of the last digit they print; where the data come from: data/README.md."""

from __future__ import annotations

import numpy as np
import pytest
from tests.scaling.data_sets import published

from hooke.scaling import fit


def half_a_unit(digits: str) -> float:
    """Half a unit of the last digit of a number as printed."""
    return 0.5 * 10.0 ** -len(digits.partition(".")[2])


def agrees(value: float, *printed: str) -> None:
    for digits in printed:
        assert value == pytest.approx(float(digits), rel=0, abs=half_a_unit(digits) * 1.0001), digits


@pytest.fixture(scope="module")
def usl():
    def fitted(name: str, first: int | None = None):
        return fit(published(name, first=first), families=["usl"], errors="constant")

    return fitted


def test_spec_sdm91(usl):
    """R `usl` 3.0.3, vignette and tests/; sca_tools prints the same values to six digits."""
    law = usl("specsdm91")
    agrees(law.parameters["a"].value, "0.0277285")
    agrees(law.parameters["a"].standard_error, "0.0091217", "0.00912")
    agrees(law.parameters["b"].value, "0.0001044", "0.00010437")
    agrees(law.parameters["b"].standard_error, "0.0000199")
    agrees(law.parameters["g"].standard_error, "14.2135")
    agrees(law.scatter, "82.85")
    agrees(law.peak.value, "96.520")
    assert np.round(law.throughput(law.measurements.n)).tolist() == [90, 1078, 1541, 1850, 1879, 1822, 1646]


def test_the_unit_rate_of_spec_sdm91_is_a_better_fit_than_those_published(usl):
    """R prints g = 89.9952384, sca_tools 89.9954927: each stopped at its own tolerance, a little beside the minimum."""
    law = usl("specsdm91")
    assert law.parameters["g"].value == pytest.approx(89.9952384, rel=1e-7)
    n, x = law.measurements.n, law.measurements.throughput

    def misfit(a: float, b: float, g: float) -> float:
        return float(((x - g * n / (1 + a * (n - 1) + b * n * (n - 1))) ** 2).sum())

    ours = misfit(*(law.parameters[symbol].value for symbol in "abg"))
    for theirs in (89.9952384, 89.9954927, 89.9878):
        for a, b in ((0.0277285, 0.0001044), (0.02772863, 0.00010437), (0.0277299, 0.000104343)):
            assert ours <= misfit(a, b, theirs)


def test_ray_tracer(usl):
    """R `usl` 3.0.3: coherency on its bound, its standard error and that of the rest with it in the model."""
    law = usl("raytracer")
    agrees(law.parameters["a"].value, "0.057771")
    agrees(law.parameters["a"].standard_error, "0.013293")
    assert law.parameters["b"].value == 0
    agrees(law.parameters["b"].standard_error, "0.000118")
    agrees(law.parameters["g"].value, "21.848843")
    agrees(law.parameters["g"].standard_error, "2.196165")
    agrees(law.scatter, "9.34")
    for n, x in ((96, "323.3"), (128, "335.5")):
        agrees(float(law.throughput(np.array([n]))[0]), x)
    assert any("bound" in flag for flag in law.flags)


def test_the_first_six_points_of_the_ray_tracer(usl):
    """R `usl`, tests/confint.R."""
    law = usl("raytracer", first=6)
    agrees(law.parameters["a"].value, "0.02444")
    agrees(law.parameters["b"].value, "0.00163")
    agrees(law.parameters["g"].value, "20.85605")


def test_made_data(usl):
    """R `usl`, tests/coef.R."""
    law = usl("synthetic_r_test")
    for symbol, digits in {"a": "0.02", "b": "0.02", "g": "1.00"}.items():
        agrees(law.parameters[symbol].value, digits)


def test_intervals_are_wider_than_those_of_a_one_sided_quantile(usl):
    """R `usl` prints +-1.86 standard errors (one-sided, n - 1 degrees of freedom) as a 95 % interval."""
    parameters = usl("raytracer", first=6).parameters
    for symbol, (low, high) in {"b": (0.00110, 0.00215), "g": (19.26717, 22.44492)}.items():
        assert parameters[symbol].interval[0] < low
        assert parameters[symbol].interval[1] > high


@pytest.mark.parametrize("errors", ["constant", "relative"])
def test_a_hard_knee_is_not_taken_for_usl(errors):
    law = fit(published("sysbench_cpu_4core"), errors=errors)
    assert law.family == "hard_knee"
    assert "usl" not in [other.family for other in law.alternatives]
    # X(4) is 3.3 times X(1) in these data, and nothing grows after it.
    assert law.knee.interval[0] > 3.2
    assert law.knee.interval[1] < 3.4


def test_usl_forced_on_a_hard_knee_is_said_not_to_fit():
    law = fit(published("sysbench_cpu_4core"), families=["usl"])
    assert law.peak.value > 100
    assert any("unit rate" in flag for flag in law.flags)
