"""Measurements about laws that are known."""

from __future__ import annotations

import numpy as np

from hooke.scaling import Measurements
from hooke.scaling.families import FAMILIES

__all__ = ["TEN", "curve", "planted"]

TEN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def curve(family: str, shape, n) -> np.ndarray:
    """C(N) of a family."""
    return FAMILIES[family].curve(np.asarray(n, dtype=float), np.asarray(shape, dtype=float))


def planted(family: str, shape, *, n=TEN, rate=10.0, noise=0.0, seed=0) -> Measurements:
    """Throughput at `n` about the law, with errors of the share `noise`."""
    errors = noise * np.random.default_rng(seed).standard_normal(len(n))
    return Measurements(n, throughput=rate * curve(family, shape, n) * np.exp(errors))
