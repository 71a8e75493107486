"""What a law refuses to say, why, and where it would have one measure."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from tests.scaling.data_sets import published
from tests.scaling.planted import planted

from hooke import BeyondTheData, NotEnoughData, UsageError
from hooke.scaling import Measurements, fit


@pytest.mark.needs("cpu")
def test_early_points_do_not_determine_the_knee():
    """A peak at N = 22 seen from N = 1 to 8: every early fit is good, and none is to be planned with."""
    law = fit(planted("usl", (0.03, 0.002), n=(1, 2, 3, 4, 6, 8), noise=0.03, seed=1))
    assert not law.lack_of_fit.found
    with pytest.raises(BeyondTheData, match="do not determine the knee") as caught:
        law.determined_knee()
    assert caught.value.next == "measure at N = 16"
    assert caught.value.measure_at == 16
    low, high = law.predict(16).interval
    assert low < planted("usl", (0.03, 0.002), n=(16,), noise=0.0).throughput[0] < high
    assert high > 1.5 * low


@pytest.mark.parametrize("points", [6, 7, 8])
def test_the_early_points_of_the_ray_tracer_are_not_believed(points):
    """Up to N = 28 they seem to level off at 20 and more; measured to 64, throughput still rises."""
    with pytest.raises(BeyondTheData):
        fit(published("raytracer", first=points)).determined_knee()


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_what_was_measured_past_is_determined():
    """A knee at N = 15.21 seen from N = 1 to 32: refused one time in ten at most, and right nearly always."""
    told = []
    for seed in range(40):
        law = fit(planted("usl", (0.03, 0.002), noise=0.02, seed=seed))
        with contextlib.suppress(BeyondTheData):
            told.append(law.determined_knee().interval)
    assert len(told) >= 36
    assert np.mean([low <= 15.21 <= high for low, high in told]) >= 0.88


@pytest.mark.needs("cpu")
def test_linear_to_four_says_nothing_of_eight():
    """A capacity of 4 and none at all look the same from N = 1 to 4."""
    law = fit(Measurements([1, 2, 3, 4], throughput=[1.0, 1.98, 2.97, 3.94]))
    assert law.family == "linear"
    low, high = law.predict(6).interval
    assert low < 4
    assert high > 5.9
    low, high = law.predict(8).interval
    assert low < 4
    assert high > 7.5
    for ask in (law.determined_knee, lambda: law.n_for(8.1)):
        with pytest.raises(BeyondTheData) as caught:
            ask()
        assert caught.value.measure_at == 8


def test_where_no_law_has_a_knee_the_farthest_n_is_advised():
    """All that superlinear growth allows has none: to measure N = 1 again would not find one."""
    law = fit(planted("power", (1.1,), n=(1, 2, 4, 8, 16) * 2, noise=0.01), families=["power"])
    assert law.next_measurement().n == 32


@pytest.mark.needs("cpu")
def test_no_law_reaches_farther_than_twice_the_data_unless_its_family_is_named():
    measured = planted("hard_knee", (1 / 8,), noise=0.001, seed=1)
    for families, farthest in ((None, 64), (["hard_knee"], 128)):
        law = fit(measured, families=families)
        assert law.predict(farthest).value == pytest.approx(80, rel=0.01)
        with pytest.raises(BeyondTheData, match="too far from the measured range, 1 to 32"):
            law.predict(farthest + 1)


@pytest.mark.needs("cpu")
def test_an_answer_that_is_wider_than_can_be_acted_on_is_refused_beyond_one_and_a_half_times_the_data():
    law = fit(Measurements([1, 2, 3, 4], throughput=[1.0, 1.98, 2.4, 1.1]))
    with pytest.raises(BeyondTheData, match="do not determine the throughput at N = 7") as caught:
        law.predict(7)
    assert "not firmly ruled out" in caught.value.why


@pytest.mark.needs("cpu")
def test_below_the_data_is_refused_as_above():
    law = fit(planted("amdahl", (0.05,), n=(16, 20, 24, 32, 48, 64), noise=0.05, seed=4))
    with pytest.raises(BeyondTheData):
        law.predict(5)
    with pytest.raises(BeyondTheData, match="too far"):
        law.predict(1)


@pytest.mark.needs("cpu")
def test_the_measurement_advised_narrows_the_knee_more_than_others():
    """Over 20 curves whose knee was not seen: the knee's interval, on a log scale, after one more measurement."""
    n = (1, 2, 4, 8, 12)
    widths = {"advised": [], "again at 1": [], "again at 8": []}
    for seed in range(20):
        before = planted("usl", (0.03, 0.002), n=n, noise=0.03, seed=seed)
        advised = fit(before, families=["usl"]).next_measurement().n
        for name, at in zip(widths, (advised, 1, 8), strict=True):
            after = planted("usl", (0.03, 0.002), n=(*n, at), noise=0.03, seed=seed)
            low, high = fit(after, families=["usl"]).knee.interval
            widths[name].append(np.log(high / low))
    assert np.median(widths["advised"]) < 0.5 * np.median(widths["again at 1"])
    assert np.median(widths["advised"]) < 0.5 * np.median(widths["again at 8"])


@pytest.mark.parametrize(
    ("measurements", "families", "said"),
    [
        (Measurements([4, 4, 4], throughput=[1, 2, 3]), None, "only N = 4 was measured"),
        (
            Measurements([1, 2], throughput=[1, 2]),
            ["amdahl"],
            "2 measurements cannot show how well .* amdahl",
        ),
        (Measurements([1, 2, 4], throughput=[1, 2, 3]), ["linear", "usl"], "3 measurements cannot .* usl"),
        (
            Measurements([1, 2, 4], throughput=[1, 2, 3], conditions=["a", "b", "c"]),
            None,
            "N changed together with the conditions",
        ),
    ],
)
def test_too_little_is_said_with_the_mend(measurements, families, said):
    with pytest.raises(NotEnoughData, match=said) as caught:
        fit(measurements, families=families)
    assert caught.value.fix


@pytest.mark.needs("cpu")
def test_three_n_do_not_speak_for_three_parameters_however_often_repeated():
    """USL goes through any three means; repeats that agree with each other do not make it right."""
    repeats = np.exp(0.001 * np.random.default_rng(1).standard_normal((3, 50)))
    law = fit(Measurements([1, 4, 16], throughput=np.array([[10.0], [31.0], [62.0]]) * repeats))
    assert law.family != "usl"
    with pytest.raises(BeyondTheData) as caught:
        law.determined_knee()
    assert caught.value.measure_at > 16


def test_families_with_too_many_parameters_are_left_out_unless_named():
    law = fit(Measurements([1, 2], throughput=[1, 1.9]))
    assert [candidate.family for candidate in law.comparison] == ["linear"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"families": ["usl", "cubic"]},
        {"families": []},
        {"families": "usl"},
        {"errors": "none"},
        {"level": 95},
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(arguments):
    with pytest.raises(UsageError) as caught:
        fit(planted("usl", (0.03, 0.002)), **arguments)
    assert caught.value.fix


@pytest.mark.parametrize("n", [0, -1, float("nan"), float("inf")])
def test_an_n_that_is_none_is_refused(n):
    law = fit(planted("amdahl", (0.05,)))
    for ask in (law.predict, law.speedup, law.efficiency, law.n_for):
        with pytest.raises(UsageError):
            ask(n)
    with pytest.raises(UsageError):
        law.karp_flatt(1)
