"""Beyond the measurements: as often right as is said, on machines and laws that the error of the model was not fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.extrapolation import Prediction, beyond, by_machine, curves, score
from tests.scaling.planted import TEN, curve, planted
from tests.support.sizes import choose_size

from hooke import BeyondTheData
from hooke.scaling import Measurements, fit

CURVES = choose_size(sample=40, full=40, soak=243)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1500)
def test_on_real_machines_intervals_hold_as_often_as_they_say():
    keys = sorted(curves())
    chosen = keys[:: len(keys) // CURVES]
    found = [each for each in beyond(chosen) if each.answered]
    for least, most in ((1.13, 1.38), (1.38, 1.75), (1.75, 2.0)):
        asked = [each for each in found if least < each.distance <= most]
        held = {each: each.low <= each.actual <= each.high for each in asked}
        _, low, high = by_machine(held)
        assert high >= 0.93, (least, low, high)
        assert low <= 0.97, (least, low, high)
        if CURVES == 243:
            assert mean_score(asked) < mean_score_about_last(asked), least


def mean_score(asked: list[Prediction]) -> float:
    return float(np.mean([score(each.actual, each.low, each.high) for each in asked]))


def mean_score_about_last(asked: list[Prediction]) -> float:
    """That of a conformal interval about the last level, as wide as 95 % of the errors on the other machines."""
    scores = []
    for each in asked:
        others = [abs(one.actual - one.last) for one in asked if one.machine != each.machine]
        half = float(np.quantile(others, 0.95))
        scores.append(score(each.actual, each.last - half, each.last + half))
    return float(np.mean(scores))


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize(
    ("family", "shape"), [("linear", ()), ("amdahl", (0.05,)), ("usl", (0.03, 0.002)), ("power", (0.8,))]
)
def test_the_truth_lies_in_the_interval_at_twice_the_largest_n(family, shape):
    truth = 10 * curve(family, shape, (64,))[0]
    held = []
    for seed in range(12):
        law = fit(planted(family, shape, n=TEN, noise=0.03, seed=seed))
        low, high = law.predict(64).interval
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.9


@pytest.mark.needs("cpu")
def test_the_interval_widens_with_the_distance_and_with_the_level():
    measured = planted("amdahl", (0.05,), noise=0.02, seed=1)
    widths = [np.log(np.divide(*fit(measured).predict(n).interval[::-1])) for n in (33, 40, 48, 60)]
    assert widths == sorted(widths)
    assert widths[0] > np.log(np.divide(*fit(measured).predict(32).interval[::-1]))
    wide, narrow = (fit(measured, level=level).predict(48).interval for level in (0.99, 0.8))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_whoever_names_the_family_vouches_for_it():
    measured = planted("amdahl", (0.05,), noise=0.02, seed=1)
    assumed, found = fit(measured, families=["amdahl"]), fit(measured)
    assert assumed.vouched and not found.vouched
    assert assumed.predict(48).interval[0] > found.predict(48).interval[0]
    assert assumed.predict(100).bounded
    assert all(not each.vouched for each in found.alternatives)


CLIFF = Measurements(
    [1, 2, 4, 8, 12, 16, 20, 24] * 3,
    throughput=np.array([1, 2, 4, 8, 12, 4, 4.1, 4.2] * 3) * np.exp(0.01 * np.sin(np.arange(24))),
)
"""No curve that rises and falls smoothly goes through these."""
SMOOTH = ("linear", "amdahl", "usl", "power")


def test_where_no_law_fits_predictions_follow_the_measurements():
    law = fit(CLIFF, families=SMOOTH)
    assert law.lack_of_fit.found
    for n, measured in ((2, 2.0), (8, 8.0), (24, 4.2)):
        low, high = law.predict(n).interval
        assert low < measured < high
        assert abs(np.log(law.predict(n).value / measured)) < abs(
            np.log(law.throughput(np.array([n]))[0] / measured)
        )
    low, high = law.predict(30).interval
    assert low < 4.3 < high
    assert law.band(np.array([24.0]))[1] - law.band(np.array([24.0]))[0] > 0.2


def test_noise_is_counted_once_beyond_the_range():
    law = fit(planted("amdahl", (0.05,), noise=0.05, seed=2))
    assert law.predict(48, runs=1).interval == law.predict(48).interval
    assert law.predict(16, runs=1).interval[0] < law.predict(16).interval[0]


@pytest.mark.needs("cpu")
def test_the_n_for_a_target_beyond_the_range_has_no_sure_end():
    law = fit(planted("linear", (), noise=0.02, seed=3))
    found = law.n_for(400)
    assert found.interval[0] > 32
    assert found.interval[1] == np.inf
    with pytest.raises(BeyondTheData):
        law.n_for(1000)
