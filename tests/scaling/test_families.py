"""Each family's closed forms against its own curve."""

from __future__ import annotations

import numpy as np
import pytest

from hooke.scaling.families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value encountered in divide")

SHAPES = {
    "linear": [()],
    "amdahl": [(0.001,), (0.2,), (0.9,)],
    "hard_knee": [(0.5,), (0.03,)],
    "power": [(0.3,), (0.9,)],
    "gustafson": [(0.1,), (0.8,)],
    "batch": [(0.1,)],
    "usl": [(0.05, 0.001), (0.0, 0.01), (0.3, 1e-5), (0.9, 0.0), (0.2, 0.9)],
}
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]


def asked(name, shape):
    return FAMILIES[name], np.array([shape], dtype=float).reshape(1, len(shape))


def test_every_family_has_a_case():
    assert set(SHAPES) == set(FAMILIES)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_one_unit_does_one(name, shape):
    family, at = asked(name, shape)
    assert family.curve(np.array([1.0]), at)[0, 0] == pytest.approx(1)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_slopes_are_those_of_the_curve(name, shape):
    family, at = asked(name, shape)
    n = np.array([1.0, 3.0, 7.0, 50.0])
    step = 1e-7
    for i in range(len(shape)):
        there, here = (at + sign * step * np.eye(len(shape))[i] for sign in (1, -1))
        numeric = np.log(family.curve(n, there) / family.curve(n, here)) / (2 * step)
        assert family.log_slopes(n, at)[0, :, i] == pytest.approx(numeric[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_peak_and_ceiling_are_those_of_the_curve(name, shape):
    family, at = asked(name, shape)
    peak, ceiling = family.peak(at)[0], family.ceiling(at)[0]
    n = np.geomspace(1, 1e7, 40001)
    values = family.curve(n, at)[0]
    assert values.max() <= ceiling * (1 + 1e-12)
    if np.isfinite(peak):
        assert family.curve(np.array([peak]), at)[0, 0] == pytest.approx(ceiling)
        assert values[np.searchsorted(n, peak) :].max() <= ceiling * (1 + 1e-12)
    else:
        assert values[-1] >= 0.99 * min(ceiling, values[-1] if np.isinf(ceiling) else ceiling)
        assert (np.diff(values) > 0).all()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_reach_inverts_the_curve_on_its_rising_side(name, shape):
    family, at = asked(name, shape)
    last = min(family.peak(at)[0], 1000.0)
    for n in np.geomspace(1, last, 7):
        level = family.curve(np.array([n]), at)[0]
        assert family.reach(level, at)[0] == pytest.approx(n, rel=1e-6)
    ceiling = family.ceiling(at)
    if np.isfinite(ceiling[0]):
        assert np.isinf(family.reach(1.001 * ceiling, at)[0])


def test_usl_without_coherency_is_amdahl():
    usl, amdahl = FAMILIES["usl"], FAMILIES["amdahl"]
    a, ab = np.array([[0.0], [0.07], [1.0]]), np.array([[0.0, 0.0], [0.07, 0.0], [1.0, 0.0]])
    n = np.array([1.0, 8.0, 100.0])
    assert np.array_equal(usl.curve(n, ab), amdahl.curve(n, a))
    assert np.array_equal(usl.ceiling(ab), amdahl.ceiling(a))
    level = np.array([5.0])
    assert np.array_equal(usl.reach(level, ab), amdahl.reach(level, a))


def test_the_peak_of_usl_is_gunthers():
    assert FAMILIES["usl"].peak(np.array([[0.05, 0.001]]))[0] == pytest.approx(np.sqrt(0.95 / 0.001))


def test_batch_is_seconds_per_item_and_per_call():
    family, at = FAMILIES["batch"], np.array([[0.2]])
    a, b = family.parameters(at, np.array([4.0])).values()
    n = np.array([1.0, 10.0, 64.0])
    assert 4.0 * family.curve(n, at)[0] == pytest.approx(n / (a[0] * n + b[0]))
