"""Each family's closed forms against its own curve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hooke.scaling.families import FAMILIES, Stepped

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value encountered in divide")

SHAPES = {
    "linear": [()],
    "amdahl": [(0.001,), (0.2,), (0.9,)],
    "hard_knee": [(0.5,), (0.03,)],
    "power": [(0.3,), (0.9,)],
    "gustafson": [(0.1,), (0.8,)],
    "batch": [(0.1,)],
    "closed_queue": [(0.001,), (0.05,), (0.3,), (1.0,)],
    "bent_line": [(1 / 8, 0.3), (0.6, 0.9), (1 / 40, 0.0)],
    "cliff": [(1 / 8, 0.4), (1 / 21, 0.9)],
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
        # A queue is at its limit but for the last digits.
        assert (np.diff(values) > -1e-12 * ceiling if np.isfinite(ceiling) else np.diff(values) > 0).all()
        assert values[100] < values[1000]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_reach_inverts_the_curve_on_its_rising_side(name, shape):
    family, at = asked(name, shape)
    last = min(family.peak(at)[0], 1000.0)
    for n in np.geomspace(1, last, 7):
        level = family.curve(np.array([n]), at)[0]
        if level > 0.999999 * family.ceiling(at)[0] and np.isinf(family.peak(at)[0]):
            continue  # a queue is so close to its limit there that many N have this level
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


@pytest.mark.parametrize("share", [0.0, 1e-9, 1e-4, 0.05, 0.4, 1.0])
def test_a_closed_queue_is_mean_value_analysis(share):
    """Reiser and Lavenberg's recursion: who arrives finds the queue of a network with one worker less."""
    found = FAMILIES["closed_queue"].curve(np.arange(1.0, 301.0), np.array([[share]]))[0]
    queue = 0.0
    for n, throughput in enumerate(found, start=1):
        wait = share * (1 + queue)
        expected = n / (1 - share + wait)
        queue = expected * wait
        assert throughput == pytest.approx(expected, rel=1e-12)


def test_a_closed_queue_of_any_real_n_lies_between_its_whole_ones():
    for share in (1e-7, 0.003, 0.2):
        n = np.linspace(1, 40, 1000)
        values = FAMILIES["closed_queue"].curve(n, np.array([[share]]))[0]
        assert (np.diff(values) > -1e-12 / share).all()
        assert (np.diff(values, 2) < 1e-9).all()  # it bends one way


def test_many_shapes_at_once_are_each_by_itself():
    n = np.geomspace(1, 200, 17)
    for name, family in FAMILIES.items():
        shapes = np.array([at for at in SHAPES[name]], dtype=float).reshape(len(SHAPES[name]), -1)
        together, slopes = family.curve(n, shapes), family.log_slopes(n, shapes)
        level = 1 + 0.4 * (np.minimum(family.ceiling(shapes), 50) - 1)
        for at, shape in enumerate(shapes):
            alone = shape[None, :]
            assert np.array_equal(together[at], family.curve(n, alone)[0])
            assert np.array_equal(slopes[at], family.log_slopes(n, alone)[0])
            assert family.reach(level, shapes)[at] == family.reach(level[at : at + 1], alone)[0]


# --- A run of whole items.

STEPPED = [
    ("linear", ()),
    ("amdahl", (0.05,)),
    ("hard_knee", (1 / 9,)),
    ("closed_queue", (0.06,)),
    ("usl", (0.02, 0.01)),
]


@pytest.mark.parametrize("items", [2, 7, 24, 96])
def test_a_staircase_is_rounds_of_items(items):
    n = np.arange(1.0, 2 * items + 1)
    rounds = np.array([math.ceil(items / int(each)) for each in n])
    assert Stepped(FAMILIES["linear"], items).curve(n, np.zeros((1, 0)))[0] == pytest.approx(items / rounds)


@pytest.mark.parametrize(("name", "shape"), STEPPED)
def test_whole_items_are_the_familys_curve_at_the_busy_workers(name, shape):
    family, at = asked(name, shape)
    stepped = Stepped(family, 24)
    dividing = np.array([1.0, 2, 3, 4, 6, 8, 12, 24])
    assert stepped.curve(dividing, at) == pytest.approx(family.curve(dividing, at))
    assert stepped.curve(np.array([24.0, 25, 1000]), at)[0] == pytest.approx(
        family.curve(np.array([24.0]), at)[0, 0] * np.ones(3)
    )
    assert stepped.curve(np.array([13.0]), at) == pytest.approx(stepped.curve(np.array([23.0]), at))
    step = 1e-7
    for i in range(len(shape)):
        there, here = (at + sign * step * np.eye(len(shape))[i] for sign in (1, -1))
        n = np.array([3.0, 5.0, 13.0])
        numeric = np.log(stepped.curve(n, there) / stepped.curve(n, here)) / (2 * step)
        assert stepped.log_slopes(n, at)[0, :, i] == pytest.approx(numeric[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("name", "shape"), STEPPED)
def test_a_staircases_peak_and_inverse_are_those_of_its_curve(name, shape):
    family, at = asked(name, shape)
    stepped = Stepped(family, 24)
    n = np.arange(1.0, 30.0)
    values = stepped.curve(n, at)[0]
    assert stepped.ceiling(at)[0] == pytest.approx(values.max())
    peak = stepped.peak(at)[0]
    assert stepped.curve(np.array([peak]), at)[0, 0] == pytest.approx(values.max())
    assert math.ceil(peak - 1e-9) == n[np.flatnonzero(values > values.max() * (1 - 1e-9))[0]]
    for level in np.linspace(1.01, values.max() * 0.9999, 7):
        first = n[np.flatnonzero(values >= level)[0]]
        assert math.ceil(stepped.reach(np.array([level]), at)[0] - 1e-9) == first
    assert np.isinf(stepped.reach(np.array([1.001 * values.max()]), at)[0])
