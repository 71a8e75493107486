"""Intervals against profile likelihood computed another way: a search with the quantity held fixed, for each value."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import stdtrit
from tests.scaling.data_sets import published
from tests.scaling.planted import planted

from hooke.scaling import fit

SETS = {
    "ray tracer, six points": lambda: published("raytracer", first=6),
    "made": lambda: planted("usl", (0.05, 0.004), noise=0.05, seed=11),
}


def usl(n, a, b, g):
    return g * n / (1 + a * (n - 1) + b * n * (n - 1))


class Profile:
    """The least misfit of USL, errors constant, with one parameter or one X(N) held at a value."""

    def __init__(self, law):
        self.law, self.n, self.x = law, law.measurements.n, law.measurements.throughput
        self.best = np.array([law.parameters[symbol].value for symbol in "abg"])
        freedom = len(self.n) - 3
        self.most = law.fitted.misfit * (1 + stdtrit(freedom, 0.975) ** 2 / freedom)

    def misfit(self, parameters):
        return float(((self.x - usl(self.n, *parameters)) ** 2).sum())

    def held(self, what, value):
        """`what` is 0, 1 or 2 for a parameter, or an N for X(N), which then decides g."""
        scale = np.maximum(np.abs(self.best), 1e-6)

        def full(free):
            if what in {0, 1, 2}:
                return np.insert(free, what, value)
            a, b = free
            return np.array([a, b, value / usl(float(what), a, b, 1.0)])

        kept = [i for i in range(3) if i != (what if what in {0, 1, 2} else 2)]
        bounds = [((0, 1), (0, 1), (1e-9, None))[i] for i in kept]
        found = minimize(
            lambda free: self.misfit(full(free * scale[kept])),
            self.best[kept] / scale[kept],
            method="Nelder-Mead",
            bounds=[
                (low / s, None if high is None else high / s)
                for (low, high), s in zip(bounds, scale[kept], strict=True)
            ],
            options={"xatol": 1e-10, "fatol": 1e-10, "maxiter": 4000},
        )
        return found.fun

    def end(self, what, inside, outside):
        return brentq(lambda value: self.held(what, value) - self.most, inside, outside, rtol=1e-6)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("what", [0, 1, 2, 20.0, 100.0])
def test_an_interval_ends_where_the_profile_does(name, what):
    law = fit(SETS[name](), families=["usl"], errors="constant")
    profile = Profile(law)
    if what in {0, 1, 2}:
        estimate = law.parameters["abg"[what]]
        value, (low, high) = estimate.value, estimate.interval
    else:
        at = np.array([what])
        value, (low, high) = law.throughput(at)[0], (float(end[0]) for end in law.band(at))
    width = high - low
    if low > 0:
        assert low == pytest.approx(
            profile.end(what, value, low - 0.2 * width if what not in {0, 1} else max(low - 0.2 * width, 0)),
            abs=0.01 * width,
        )
    assert high == pytest.approx(profile.end(what, value, high + 0.2 * width), abs=0.01 * width)
