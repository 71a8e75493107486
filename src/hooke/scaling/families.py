"""The families of laws: curves of throughput over N, each with its knee, peak and inverse in closed form.

A law is a unit rate times a curve, X(N) = g C(N) with C(1) = 1. A family defines the curve by a shape of zero, one or two
bounded numbers. Every function works on many shapes at once: `shape` is (..., p), `n` is (m,), a curve is (..., m) and a
property of the law is (...). Infinity is a common answer, so callers silence NumPy's division warnings.

Sources: Amdahl, "Validity of the single processor approach", AFIPS 1967 (amdahl); Gunther, "Guerrilla
Capacity Planning", Springer 2007 (usl, its peak); Gustafson, "Reevaluating Amdahl's law", CACM 31, 1988 (gustafson).
"""

from __future__ import annotations

# ruff: noqa: ARG002 - all families share one interface
from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAMILIES", "Family", "Floats"]

Floats: TypeAlias = NDArray[np.float64]

KNEE_SHARE = 0.95
"""The knee is the smallest N with this share of the maximum throughput; past it, more N gains at most 5 %."""


class Family(Protocol):
    """A family of laws. `lower` and `upper` bound the shape; `symbols` gives the meaning of each parameter."""

    name: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    symbols: Mapping[str, str]
    knee_share: float

    def curve(self, n: Floats, shape: Floats) -> Floats:
        """C(N), the throughput in units of the unit rate: (..., m)."""

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        """The derivative of log C(N) by each number of the shape: (..., m, p)."""

    def ceiling(self, shape: Floats) -> Floats:
        """The least upper bound of C."""

    def peak(self, shape: Floats) -> Floats:
        """The N >= 1 of the maximum of C; infinite if C only rises."""

    def reach(self, level: Floats, shape: Floats) -> Floats:
        """The smallest N >= 1 with C(N) >= level; infinite if there is none."""

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        """The parameters that users see, by symbol, in the order of `symbols`."""

    def starts(self, most: float) -> Floats:
        """Starting shapes (k, p) for measurements up to N = `most`."""


class _Linear:
    """C = N: nothing is shared."""

    name = "linear"
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    symbols: Mapping[str, str] = {"g": "unit rate"}
    knee_share = KNEE_SHARE

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return np.broadcast_to(n, (*shape.shape[:-1], n.size))

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return np.zeros((*shape.shape[:-1], n.size, 0))

    def ceiling(self, shape: Floats) -> Floats:
        return np.full(shape.shape[:-1], np.inf)

    def peak(self, shape: Floats) -> Floats:
        return np.full(shape.shape[:-1], np.inf)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        return np.maximum(level, np.ones(shape.shape[:-1]))

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"g": rate}

    def starts(self, most: float) -> Floats:
        return np.zeros((1, 0))


class _Usl:
    """C = N / (1 + a (N - 1) + b N (N - 1)): contention a, and coherency b between each pair."""

    name = "usl"
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)
    symbols: Mapping[str, str] = {"a": "contention", "b": "coherency", "g": "unit rate"}
    knee_share = KNEE_SHARE

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return n / self._delay(n, shape)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return np.stack([1 - n, n * (1 - n)], axis=-1) / self._delay(n, shape)[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        # C(peak), written so that it is 1/a, Amdahl's limit, at b = 0.
        a, b = shape[..., 0], shape[..., 1]
        inside = 1 / (a - b + 2 * np.sqrt(b * (1 - a)))
        return np.where(1 - a >= b, inside, 1.0)

    def peak(self, shape: Floats) -> Floats:
        a, b = shape[..., 0], shape[..., 1]
        return np.where(b > 0, np.sqrt(np.maximum((1 - a) / b, 1)), np.inf)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        # C(N) = level is b N^2 - spare N + (1 - a) = 0; this form of its smaller root needs no b > 0.
        a, b = shape[..., 0], shape[..., 1]
        spare = 1 / level + b - a
        rest = spare**2 - 4 * b * (1 - a)
        root = 2 * (1 - a) / (spare + np.sqrt(np.maximum(rest, 0)))
        # The root of a level just above the ceiling lies below N = 1 or is not real; at the peak `rest` is rounding.
        there = (spare > 0) & (level <= self.ceiling(shape) * (1 + 1e-12))
        return np.where(level <= 1, 1.0, np.where(there, root, np.inf))

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"a": shape[..., 0], "b": shape[..., 1], "g": rate}

    def starts(self, most: float) -> Floats:
        contention, coherency = (0.0, 0.01, 0.1, 0.5), (0.0, 0.1 / most**2, 1 / most**2, 0.1 / most)
        return np.array([(a, min(b, 1.0)) for a in contention for b in coherency])

    def _delay(self, n: Floats, shape: Floats) -> Floats:
        return 1 + shape[..., :1] * (n - 1) + shape[..., 1:] * n * (n - 1)


class _Amdahl:
    """C = N / (1 + a (N - 1)): the serial fraction a. It is the USL without coherency."""

    name = "amdahl"
    lower: tuple[float, ...] = (0.0,)
    upper: tuple[float, ...] = (1.0,)
    symbols: Mapping[str, str] = {"a": "serial fraction", "g": "unit rate"}
    knee_share = KNEE_SHARE

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return n / (1 + shape * (n - 1))

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return ((1 - n) / (1 + shape * (n - 1)))[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        return 1 / shape[..., 0]

    def peak(self, shape: Floats) -> Floats:
        return np.where(shape[..., 0] < 1, np.inf, 1.0)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        a = shape[..., 0]
        spare = 1 / level - a
        return np.where(level <= 1, 1.0, np.where(spare > 0, (1 - a) / spare, np.inf))

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"a": shape[..., 0], "g": rate}

    def starts(self, most: float) -> Floats:
        return np.array([[0.0], [0.1 / most], [1 / most], [0.1], [0.5]])


class _Batch(_Amdahl):
    """A call on N items takes a N + b seconds: X = N / (a N + b), Amdahl's curve in other parameters."""

    name = "batch"
    symbols: Mapping[str, str] = {"a": "seconds per item", "b": "seconds per call"}

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"a": shape[..., 0] / rate, "b": (1 - shape[..., 0]) / rate}


class _HardKnee:
    """C = min(N, c): linear up to the capacity c. The shape is 1/c, so 0 means unlimited capacity."""

    name = "hard_knee"
    lower: tuple[float, ...] = (0.0,)
    upper: tuple[float, ...] = (1.0,)
    symbols: Mapping[str, str] = {"c": "capacity", "g": "unit rate"}
    knee_share = 1.0

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return 1 / np.maximum(1 / n, shape)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return np.where(shape > 1 / n, -1 / np.where(shape > 0.0, shape, 1.0), 0.0)[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        return 1 / shape[..., 0]

    def peak(self, shape: Floats) -> Floats:
        return 1 / shape[..., 0]

    def reach(self, level: Floats, shape: Floats) -> Floats:
        return np.where(level <= 1 / shape[..., 0], np.maximum(level, 1), np.inf)

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"c": 1 / shape[..., 0], "g": rate}

    def starts(self, most: float) -> Floats:
        # The misfit has a kink at each N, so there is a start between every two.
        return 1 / np.geomspace(1, max(most, 1.0), 24)[:, None]


class _Power:
    """C = N^p."""

    name = "power"
    lower: tuple[float, ...] = (0.0,)
    upper: tuple[float, ...] = (2.0,)
    symbols: Mapping[str, str] = {"p": "exponent", "g": "unit rate"}
    knee_share = KNEE_SHARE

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return n**shape

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return np.broadcast_to(np.log(n), (*shape.shape[:-1], n.size))[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        return np.where(shape[..., 0] > 0, np.inf, 1.0)

    def peak(self, shape: Floats) -> Floats:
        return np.where(shape[..., 0] > 0, np.inf, 1.0)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        return np.where(level <= 1, 1.0, np.maximum(level, 1) ** (1 / shape[..., 0]))

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"p": shape[..., 0], "g": rate}

    def starts(self, most: float) -> Floats:
        return np.array([[0.5], [1.0]])


class _Gustafson:
    """C = N - s (N - 1): the work grows with N, and the share s of a unit's time is serial."""

    name = "gustafson"
    lower: tuple[float, ...] = (0.0,)
    upper: tuple[float, ...] = (1.0,)
    symbols: Mapping[str, str] = {"s": "serial share", "g": "unit rate"}
    knee_share = KNEE_SHARE

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return n - shape * (n - 1)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return ((1 - n) / self.curve(n, shape))[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        return np.where(shape[..., 0] < 1, np.inf, 1.0)

    def peak(self, shape: Floats) -> Floats:
        return np.where(shape[..., 0] < 1, np.inf, 1.0)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        s = shape[..., 0]
        return np.where(level <= 1, 1.0, (np.maximum(level, 1) - s) / (1 - s))

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"s": shape[..., 0], "g": rate}

    def starts(self, most: float) -> Floats:
        return np.array([[0.0], [0.1], [0.5]])


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (_Linear(), _Amdahl(), _HardKnee(), _Power(), _Gustafson(), _Batch(), _Usl())
}
"""All families by name, simpler ones first."""
