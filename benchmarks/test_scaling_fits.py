"""The price of a law with its intervals, beside SciPy's `curve_fit`, which gives the coefficients and standard errors alone."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import curve_fit

from hooke.scaling import Measurements, fit

N = np.repeat([1.0, 2, 3, 4, 6, 8, 12, 16, 24, 32], 3)
A, B, G = 0.05, 0.002, 10.0


def usl(n: np.ndarray, a: float, b: float, g: float) -> np.ndarray:
    """Gunther's universal scalability law."""
    return g * n / (1 + a * (n - 1) + b * n * (n - 1))


THROUGHPUT = usl(N, A, B, G) * np.exp(0.03 * np.random.default_rng(1).standard_normal(N.size))
MEASURED = Measurements(N, throughput=THROUGHPUT)


def one_family() -> object:
    law = fit(MEASURED, families=["usl"])
    return law.parameters, law.knee, law.peak, law.predict(48)


def all_families() -> object:
    law = fit(MEASURED)
    return law.family, law.parameters, law.knee, law.peak, law.alternatives, law.comparison, law.flags


def plain() -> object:
    bounds = (0, [1, 1, np.inf])
    return curve_fit(usl, N, THROUGHPUT, p0=(0.1, 0.01, THROUGHPUT[0]), bounds=bounds)


@pytest.mark.benchmark(group="a fit of thirty measurements")
@pytest.mark.parametrize("what", [one_family, all_families], ids=lambda what: what.__name__)
def test_a_fit(benchmark: Callable, median_s: Callable, what: Callable[[], object]) -> None:
    ours, theirs = median_s(what, 15), median_s(plain, 15)
    benchmark.extra_info |= {"hooke_ms": 1e3 * ours, "curve_fit_ms": 1e3 * theirs}
    benchmark.pedantic(what, rounds=3)
    print(
        f"\n{what.__name__}: {1e3 * ours:.1f} ms; curve_fit, one family without intervals: {1e3 * theirs:.1f} ms"
    )
