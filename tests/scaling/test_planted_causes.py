"""Simulated studies with a planted cause: which family is named, and what is said of few items.

`python -m benchmarks.scaling_families` plays a hundred of each; its counts: docs/explanation/laws-measured.md.
"""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.scaling_families import CAUSES, found
from tests.scaling.planted import TEN, curve

from hooke.scaling import Measurements, fit

BY_NAME = {cause.name: cause for cause in CAUSES}
STUDIES = 12


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize(
    "name",
    [
        "lock of 5 %, random times",
        "lock of 5 %, equal items",
        "24 equal items",
        "work that grows, 30 % serial",
        "bend at 8 to a slope of 0.3",
        "cliff at 14 to 40 %",
    ],
)
def test_a_planted_cause_is_reported_and_its_band_holds_the_truth(name):
    """Aimed at are 90 of 100; 8 of 12 or fewer would be one time in forty."""
    counts = found(BY_NAME[name], STUDIES)
    assert counts.reported > 8
    assert counts.between > 8
    assert all(held > 8 for held in counts.far.values())


@pytest.mark.needs("processes")
def test_a_lock_is_not_said_to_be_crosstalk_without_contention():
    """The planted 5 % at N = 3 to 48: X(96) is that of the lock, where USL alone foretold two thirds of it."""
    for seed in range(5):
        x = curve("closed_queue", (0.05,), (3, 6, 12, 24, 48) * 3)
        noise = 0.02 * np.random.default_rng(seed).standard_normal(x.size)
        law = fit(Measurements((3, 6, 12, 24, 48) * 3, throughput=7.55 * x * np.exp(noise)))
        told = {each.family: each for each in (law, *law.alternatives)}
        assert told["closed_queue"].parameters["a"].value == pytest.approx(0.05, rel=0.15)
        low, high = law.band(np.array([96.0]))
        assert low[0] <= 151 <= high[0]
        assert law.throughput(np.array([96.0]))[0] == pytest.approx(151, rel=0.1)


def stairs(levels, items, *, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    n = np.array(levels, dtype=float)
    seconds = np.ceil(items / n) * np.exp(noise * rng.standard_normal(n.size))
    return n, seconds


@pytest.mark.needs("cpu")
def test_a_staircase_is_not_taken_for_contention():
    n, seconds = stairs((1, 2, 3, 5, 7, 10, 13, 20, 24), 24)
    law = fit(Measurements(n, seconds=seconds, work=24))
    assert law.family == "staircase"
    (flag,) = [each for each in law.flags if each.startswith("too few items per worker to tell")]
    assert "at N = 5, 7, 10, 13, 20, 24 each has fewer than 6 of the 24 items" in flag
    assert "at least 144 items would tell" in flag
    assert law.predict(15).value == pytest.approx(12, rel=0.02)
    assert law.peak.value == 24
    # Without the number of items, or with others, nothing speaks for stairs.
    assert fit(Measurements(n, throughput=24 / seconds)).family != "staircase"
    assert fit(Measurements(n, seconds=seconds, work=24.5)).family != "staircase"


def test_contention_that_more_items_show_is_not_put_down_to_few_of_them():
    n = np.array(TEN, dtype=float)
    noise = np.exp(0.01 * np.random.default_rng(1).standard_normal(n.size))
    law = fit(Measurements(n, seconds=192 / curve("amdahl", (0.1,), n) * noise, work=192))
    assert law.family == "amdahl"
    assert not any("too few items" in flag for flag in law.flags)


def test_stairs_and_contention_together_are_both_found():
    n = np.array([1, 2, 3, 4, 5, 7, 9, 11, 14, 17, 20, 23, 26, 30], dtype=float)
    whole = 60 / np.ceil(60 / n)
    noise = np.exp(0.01 * np.random.default_rng(2).standard_normal(n.size))
    law = fit(Measurements(n, seconds=60 / curve("amdahl", (0.08,), whole) * noise, work=60))
    assert law.family == "staircase_amdahl"
    assert law.parameters["a"].interval[0] <= 0.08 <= law.parameters["a"].interval[1]


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("family", ["linear", "amdahl", "hard_knee", "usl"])
def test_no_cliff_and_no_bend_where_none_was_planted(family):
    shape = {"linear": (), "amdahl": (0.05,), "hard_knee": (1 / 8,), "usl": (0.1, 0.004)}[family]
    for seed in range(5):
        noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(len(TEN)))
        law = fit(Measurements(TEN, throughput=curve(family, shape, TEN) * noise))
        assert law.family not in {"cliff", "bent_line"}
        assert "cliff" not in {row.family for row in law.comparison}


@pytest.mark.needs("cpu")
def test_a_bent_line_and_a_cliff_need_five_n():
    for x in ([1, 2, 4, 5.2], [1, 2, 4, 1.6]):
        law = fit(Measurements([1, 2, 4, 8], throughput=np.outer(x, [0.99, 1.0, 1.01])))
        assert not {row.family for row in law.comparison} & {"bent_line", "cliff"}
