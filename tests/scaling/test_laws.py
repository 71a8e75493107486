"""What a law says, and what it does not depend on."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.scaling.planted import TEN, curve, planted

from hooke import BeyondTheData
from hooke.scaling import Law, Measurements, fit, karp_flatt

PLANTED = st.one_of(
    st.tuples(st.just("linear"), st.just(())),
    st.tuples(st.just("amdahl"), st.tuples(st.floats(0.005, 0.6))),
    st.tuples(st.just("hard_knee"), st.tuples(st.floats(1 / 30, 0.5))),
    st.tuples(st.just("power"), st.tuples(st.floats(0.2, 0.95))),
    st.tuples(st.just("gustafson"), st.tuples(st.floats(0.02, 0.8))),
    st.tuples(st.just("batch"), st.tuples(st.floats(0.02, 0.6))),
    st.tuples(st.just("usl"), st.tuples(st.floats(0.005, 0.3), st.floats(1e-4, 0.02))),
    st.tuples(st.just("closed_queue"), st.tuples(st.floats(0.02, 0.6))),
    st.tuples(st.just("bent_line"), st.tuples(st.floats(1 / 15, 0.4), st.floats(0.05, 0.8))),
)
ERRORS = st.sampled_from(["relative", "constant"])


def numbers(law: Law) -> list[float]:
    return [end for estimate in law.parameters.values() for end in (estimate.value, *estimate.interval)]


@pytest.mark.needs("cpu")
@settings(max_examples=60, deadline=None)
@given(PLANTED, ERRORS, st.floats(1e-3, 1e6))
def test_exact_data_give_the_planted_law_back(law, errors, rate):
    family, shape = law
    fitted = fit(planted(family, shape, rate=rate), families=[family], errors=errors)
    assert fitted.fitted.shape == pytest.approx(np.array(shape), rel=1e-5, abs=1e-9)
    assert fitted.fitted.rate == pytest.approx(rate, rel=1e-5)
    assert fitted.throughput(np.array([20.0]))[0] == pytest.approx(
        rate * curve(family, shape, [20])[0], rel=1e-6
    )
    assert not fitted.lack_of_fit.found


@pytest.mark.needs("cpu")
@settings(max_examples=25, deadline=None)
@given(PLANTED, ERRORS, st.integers(0, 2**32), st.floats(1e-3, 1e4))
@example(("hard_knee", (1 / 30,)), "relative", 2**31, 1.0)  # no knee is found among these: its share is 0
def test_the_units_of_throughput_do_not_matter(law, errors, seed, scale):
    family, shape = law
    measured = planted(family, shape, noise=0.05, seed=seed)
    one = fit(measured, families=[family], errors=errors)
    if family == "bent_line":  # many bends between the last two N give the same curve
        assume(np.count_nonzero(measured.n * one.fitted.shape[0] > 1) >= 2)
    other = fit(
        Measurements(measured.n, throughput=scale * measured.throughput), families=[family], errors=errors
    )
    assert other.fitted.shape == pytest.approx(one.fitted.shape, rel=1e-4, abs=1e-7)
    assert other.fitted.rate == pytest.approx(scale * one.fitted.rate, rel=1e-4)
    assert np.allclose(other.knee.interval, one.knee.interval, rtol=1e-2)
    for here, there in zip(one.band(measured.n), other.band(measured.n), strict=True):
        assert there == pytest.approx(scale * here, rel=1e-2)  # both are found along some rays


@pytest.mark.long
@pytest.mark.needs("cpu")
@settings(max_examples=15, deadline=None)
@given(PLANTED, st.permutations(range(len(TEN))), st.integers(0, 2**32))
def test_the_order_of_measurements_does_not_matter(law, order, seed):
    measured = planted(*law, noise=0.05, seed=seed)
    shuffled = Measurements(measured.n[order], throughput=measured.throughput[order])
    assert numbers(fit(shuffled)) == numbers(fit(measured))


@pytest.mark.needs("cpu")
@settings(max_examples=15, deadline=None)
@given(PLANTED, st.integers(0, 2**32))
def test_seconds_give_the_same_law_as_throughput(law, seed):
    measured = planted(*law, noise=0.05, seed=seed)
    timed = Measurements(measured.n, seconds=5 / measured.throughput, work=5)
    assert numbers(fit(timed, families=["usl"])) == pytest.approx(
        numbers(fit(measured, families=["usl"])), rel=1e-3, abs=1e-9
    )


def test_a_mean_of_repeats_weighs_as_the_repeats_do():
    n, x = [1, 2, 4, 8, 16, 32], [10, 19, 33, 55, 70, 80]
    weighed = fit(Measurements(n, throughput=x, repeats=[1, 1, 1, 3, 1, 1]), families=["amdahl"])
    written_out = fit(Measurements([*n, 8, 8], throughput=[*x, 55 * 1.1, 55 / 1.1]), families=["amdahl"])
    assert written_out.fitted.shape == pytest.approx(weighed.fitted.shape)
    assert written_out.fitted.rate == pytest.approx(weighed.fitted.rate)


def test_repeats_that_share_their_errors_count_once():
    """Ten repeats within 0.1 % of each other at each N, and the law missed by 5 %: the repeats say nothing of that."""
    once = planted("amdahl", (0.05,), noise=0.05, seed=2)
    within = np.exp(0.001 * np.random.default_rng(3).standard_normal((len(TEN), 10)))
    within /= np.exp(np.log(within).mean(axis=1, keepdims=True))
    often = Measurements(TEN, throughput=once.throughput[:, None] * within)
    law = fit(often, families=["amdahl"])
    assert numbers(law) == pytest.approx(numbers(fit(once, families=["amdahl"])), rel=1e-6)
    assert law.measurements is often
    assert any("each N counts once" in flag for flag in law.flags)
    assert law.lack_of_fit.test == "repeats"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("errors", ["relative", "constant"])
@pytest.mark.parametrize(
    ("family", "shape"), [("amdahl", (0.08,)), ("hard_knee", (1 / 9,)), ("usl", (0.04, 0.003))]
)
def test_an_interval_widens_with_the_level_and_holds_the_value(family, shape, errors):
    measured = planted(family, shape, noise=0.05, seed=3)
    widths = []
    for level in (0.5, 0.8, 0.95, 0.99):
        law = fit(measured, families=[family], errors=errors, level=level)
        for estimate in (*law.parameters.values(), law.knee, law.predict(30), law.predict(30, runs=2)):
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
            assert estimate.level == level
        widths.append(law.knee.interval[1] - law.knee.interval[0])
        few, many = law.predict(30, runs=1).interval, law.predict(30, runs=100).interval
        assert few[0] < many[0] < law.predict(30).interval[0]
        assert few[1] > many[1] > law.predict(30).interval[1]
    assert widths == sorted(widths)


def test_what_follows_from_a_law():
    law = fit(planted("amdahl", (0.05,)), families=["amdahl"])
    assert law.speedup(16).value == pytest.approx(16 / (1 + 0.05 * 15))
    assert law.efficiency(16).value == pytest.approx(1 / (1 + 0.05 * 15))
    assert law.karp_flatt(16).value == pytest.approx(0.05)
    assert law.peak.value == math.inf
    assert law.knee.value == pytest.approx(19 * 0.95 / 0.05)
    assert law.n_for(50).value == pytest.approx(5 * 0.95 / 0.75)
    assert law.n_for(201).value == math.inf
    assert law.parameters["a"].name == "serial fraction"


def test_a_law_shows_itself_in_one_line():
    law = fit(Measurements([1, 1, 2, 2, 4, 4, 8, 8], throughput=[1, 1.01, 2, 1.98, 3.9, 4, 5, 5.05]))
    assert repr(law) == "Law(hard_knee: c = 5.046 (4.932 to 5.163), g = 0.9958 (0.9845 to 1.007); N = 1 to 8)"


def test_the_knee_of_usl_reaches_95_percent_of_its_peak():
    law = fit(planted("usl", (0.03, 0.002)), families=["usl"])
    assert law.peak.value == pytest.approx(math.sqrt(0.97 / 0.002))
    at_knee, at_peak = law.throughput(np.array([law.knee.value, law.peak.value]))
    assert at_knee == pytest.approx(0.95 * at_peak)
    assert law.knee.value < law.peak.value


def test_karp_flatt_of_a_measured_speedup():
    """A speed-up of 5 on 10 is a serial fraction of one ninth (Karp & Flatt 1990, equation 2)."""
    assert karp_flatt(np.array([5.0]), 10)[0] == pytest.approx(1 / 9)


def test_superlinear_points_and_a_unit_rate_above_x1_are_flagged_and_not_clipped():
    n = np.array([1, 2, 4, 8, 16, 32])
    law = fit(Measurements(n, throughput=10 * n**1.2), families=["power"])
    assert law.parameters["p"].value == pytest.approx(1.2)
    assert law.efficiency(16).value > 1.5
    assert any(flag.startswith("superlinear: at N = 2, 4, 8, 16, 32") for flag in law.flags)
    slow_start = fit(Measurements(n, throughput=[7, 19, 36, 68, 125, 222]), families=["amdahl"])
    assert any("unit rate" in flag and "above the measured X(1)" in flag for flag in slow_start.flags)


def test_a_clean_fit_has_no_flags():
    assert fit(planted("usl", (0.03, 0.002), noise=0.02, seed=1), families=["usl"]).flags == ()


LEVELS = st.lists(st.integers(1, 2000), min_size=4, max_size=9, unique=True)


@pytest.mark.long
@pytest.mark.needs("processes")
@settings(max_examples=40, deadline=None)
@given(LEVELS, st.data(), ERRORS)
def test_any_measurements_give_a_law_or_a_refusal(levels, data, errors):
    """Noise without any law in it, over six orders of magnitude: no warning, no nan, values inside their intervals."""
    runs = data.draw(st.integers(1, 3))
    count = len(levels) * runs
    x = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=count, max_size=count))
    law = fit(Measurements(levels, throughput=np.reshape(x, (len(levels), runs))), errors=errors)
    estimates = [
        *law.parameters.values(),
        law.knee,
        law.peak,
        law.speedup(3),
        law.karp_flatt(3),
        law.reaching(x[0]),
    ]
    for answer in (lambda: law.predict(2 * max(levels)), law.determined_knee):
        with contextlib.suppress(BeyondTheData):
            estimates.append(answer())
    for estimate in estimates:
        low, high = estimate.interval
        inside = low <= estimate.value <= high
        assert inside or np.isclose(estimate.value, estimate.interval, rtol=1e-9, atol=1e-12).any(), estimate
    assert 1 <= law.next_measurement().n <= 2 * max(levels)
    assert all(isinstance(flag, str) for flag in law.flags)
    assert len(law.comparison) >= 1
