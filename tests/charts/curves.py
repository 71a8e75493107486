"""Curves to draw: one for each thing that a picture may have to show."""

from __future__ import annotations

from functools import cache

import numpy as np
from tests.scaling.planted import planted

from hooke.charts.curve_chart import Curve
from hooke.scaling import Measurements

__all__ = ["KINDS", "a_curve"]

WIDE = (1, 2, 4, 8, 16, 24, 32, 48, 64)


def _often(n, repeats: int) -> tuple[int, ...]:
    return tuple(np.repeat(n, repeats))


_MADE = {
    "usl": lambda: (planted("usl", (0.03, 0.0008), n=_often(WIDE, 3), noise=0.02), 1 / 25),
    "hard knee": lambda: (planted("hard_knee", (1 / 12,), n=_often((1, 4, 8, 10, 12, 16, 24), 2), noise=0.02), 1 / 35),
    "few": lambda: (planted("amdahl", (0.05,), n=_often((1, 2, 3, 4), 2), noise=0.03, seed=4), 1 / 13),
    "linear": lambda: (planted("linear", (), n=(1, 2, 4, 8, 16), rate=12_000.0, noise=0.02), None),
    "superlinear": lambda: (planted("power", (1.1,), n=_often((1, 2, 4, 8, 16), 2), noise=0.01), None),
    "never": lambda: (planted("amdahl", (0.3,), n=_often((1, 2, 4, 8, 16, 32), 3), noise=0.02), 1 / 200),
    "two": lambda: (planted("amdahl", (0.1,), n=_often((1, 2), 5), noise=0.03), None),
    "crowded": lambda: (planted("amdahl", (0.01,), n=(1, 2, 3, 4, 6, 8, 10, 500), noise=0.02), 1 / 25),
    "from 4 on": lambda: (planted("amdahl", (0.02,), n=(4, 6, 8, 12, 16), noise=0.01), None),
    "noisy": lambda: (Measurements([1, 2, 4, 8], throughput=[[5, 20], [8, 44], [10, 61], [90, 15]]), 1 / 9),
    "steep": lambda: (planted("usl", (0.3, 0.0008), n=(2, 9, 15, 55, 75, 121), noise=0.02), 1 / 55),
    "wild": lambda: (Measurements([1, 37], throughput=[[0.01, 0.004], [0.03, 0.001]]), None),
    "steady": lambda: (planted("power", (0.98,), n=_often((3, 7, 58), 2), rate=101.0, noise=0.005), None),
}  # fmt: skip
KINDS = tuple(_MADE)


@cache
def a_curve(kind: str) -> Curve:
    """The curve of a kind; the same object each time."""
    measurements, plain_seconds = _MADE[kind]()
    return Curve(measurements, plain_seconds, name="features", source="run delays-20261125-004622-x7k2")
