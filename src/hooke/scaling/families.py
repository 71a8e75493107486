"""The families of laws: curves of throughput over N, each with its knee, peak and inverse in closed form.

A law is a unit rate times a curve, X(N) = g C(N) with C(1) = 1. A family defines the curve by a shape of zero, one or two
bounded numbers. Every function works on many shapes at once: `shape` is (..., p), `n` is (m,), a curve is (..., m) and a
property of the law is (...). Infinity is a common answer, so callers silence NumPy's division warnings.

Sources: Amdahl, "Validity of the single processor approach", AFIPS 1967 (amdahl); Gunther, "Guerrilla
Capacity Planning", Springer 2007 (usl, its peak); Gustafson, "Reevaluating Amdahl's law", CACM 31, 1988 (gustafson);
Reiser & Lavenberg, "Mean-value analysis of closed multichain queuing networks", JACM 27, 1980, and Jagerman, "Some properties
of the Erlang loss function", Bell System Technical Journal 53, 1974 (closed_queue, between whole N).
"""

from __future__ import annotations

# ruff: noqa: ARG002 - all families share one interface
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaln

__all__ = ["FAMILIES", "Evidence", "Family", "Floats", "Stepped"]

Floats: TypeAlias = NDArray[np.float64]
Evidence: TypeAlias = Literal["nothing", "best", "only"]
"""A family that bends at any N comes near every measurement, so it must be the best, or the only one not firmly ruled out."""

KNEE_SHARE = 0.95
"""The knee is the smallest N with this share of the maximum throughput; past it, more N gains at most 5 %."""


class Family(Protocol):
    """A family of laws. `lower` and `upper` bound the shape; `symbols` gives the meaning of each parameter.

    The others say how it is chosen among families: `full` whether it is of one resource that is full at some N, `contains` which
    families with a shape are special cases of it, `needs` what the measurements must show for it to be considered.
    """

    name: str
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    symbols: Mapping[str, str]
    knee_share: float
    full: bool
    contains: tuple[str, ...]
    needs: Evidence

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
    full = False
    contains: tuple[str, ...] = ()
    needs: Evidence = "nothing"

    def curve(self, n: Floats, shape: Floats) -> Floats:
        return np.broadcast_to(n, (*shape.shape[:-1], n.shape[-1]))

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        return np.zeros((*shape.shape[:-1], n.shape[-1], 0))

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
    full = False
    contains: tuple[str, ...] = ("amdahl",)
    needs: Evidence = "nothing"

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
    full = False
    contains: tuple[str, ...] = ()
    needs: Evidence = "nothing"

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
    full = True
    contains: tuple[str, ...] = ()
    needs: Evidence = "nothing"

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
    full = False
    contains: tuple[str, ...] = ()
    needs: Evidence = "nothing"

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
    full = False
    contains: tuple[str, ...] = ()
    needs: Evidence = "nothing"

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


SMALLEST_SHARE = 1e-5
"""Below this share under a lock, the slope of the curve by the share is proportional to it."""
HALVINGS = 45


class _ClosedQueue:
    """N workers that hold one lock for the share a of each item, at random times: the machine-repairman model.

    C = (1 - B(N, (1 - a) / a)) / a, where Erlang's loss formula B is the share of time in which nobody holds the lock.
    At whole N this is exact mean value analysis of a closed network of one queue and one delay. It rises as N at first and
    then bends to 1/a within a few N, where Amdahl's curve, in which all wait together, bends early and slowly.
    """

    name = "closed_queue"
    lower: tuple[float, ...] = (0.0,)
    upper: tuple[float, ...] = (1.0,)
    symbols: Mapping[str, str] = {"a": "share of an item under the lock", "g": "unit rate"}
    knee_share = KNEE_SHARE
    full = True
    contains: tuple[str, ...] = ()
    needs: Evidence = "nothing"

    def curve(self, n: Floats, shape: Floats) -> Floats:
        n, a = np.broadcast_arrays(n, shape)
        return self._throughput(n, a)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        n, share = np.broadcast_arrays(n, shape)
        a = np.maximum(share, SMALLEST_SHARE)
        # C = N / delay, and Erlang's formula has the slope B (N / load - 1 + B) by its load.
        free = _erlang(n - 1, (1 - a) / a)
        delay = a * n + (1 - a) * free
        by_share = n - free - free * ((n - 1) / a - (1 - a) / a**2 * (1 - free))
        return (-by_share / delay * (share / a))[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        return 1 / shape[..., 0]

    def peak(self, shape: Floats) -> Floats:
        return np.where(shape[..., 0] < 1, np.inf, 1.0)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        level, a = np.broadcast_arrays(level, shape[..., 0])
        there = level * a < 1
        # C lies between N and Amdahl's curve, so the N of a level lies between theirs.
        low = np.maximum(np.where(there, level, 1.0), 1.0)
        high = np.maximum(np.where(there, (1 - a) / np.where(there, 1 / level - a, 1.0), 1.0), low)
        for _ in range(HALVINGS):
            middle = np.sqrt(low * high)
            short = self._throughput(middle, a) < level
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return np.where(level <= 1, 1.0, np.where(there, high, np.inf))

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"a": shape[..., 0], "g": rate}

    def starts(self, most: float) -> Floats:
        # At a = 0 the slope is 0, so a search that started there would stay.
        return np.array([[0.01], [0.1 / most], [1 / most], [0.05], [0.2], [0.6]])

    def _throughput(self, n: Floats, a: Floats) -> Floats:
        held = np.maximum(a, np.finfo(float).tiny)
        return n / (a * n + (1 - a) * _erlang(n - 1, (1 - held) / held))


FRACTIONS = 16
"""Terms of the continued fraction; where it is used, each is worth more than a digit, and 80 give the same bits."""


def _erlang(n: Floats, load: Floats) -> Floats:
    """Erlang's loss formula B(n, load) for any real n > -1, elementwise: load^n e^-load / Gamma(n + 1, load)."""
    n, load = (np.asarray(each, dtype=np.float64) for each in np.broadcast_arrays(n, load))
    lost = np.zeros(n.shape)
    # Where the load is far above n, both parts of the quotient underflow, and Legendre's continued fraction is short.
    far = load > n + 10 * np.sqrt(n + 1) + 50
    near, few = ~far & (load > 0), n[far]
    above = load[near]
    density = np.exp(n[near] * np.log(above) - above - gammaln(n[near] + 1))
    lost[near] = np.minimum(density / gammaincc(n[near] + 1, above), 1.0)
    if few.size:
        spare, tail = load[far] - few, np.zeros(few.shape)
        for term in range(FRACTIONS, 0, -1):
            tail = term * (few - term + 1) / (spare + 2 * term + tail)
        lost[far] = (spare + tail) / load[far]
    lost[(load <= 0) & (n <= 0)] = 1.0
    return lost


class _BentLine:
    """C = N up to c, and q for each N beyond: cores, and then their second threads. The shape is 1/c and q."""

    name = "bent_line"
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)
    symbols: Mapping[str, str] = {"c": "the bend", "q": "slope past the bend", "g": "unit rate"}
    knee_share = KNEE_SHARE
    full = False
    contains: tuple[str, ...] = ()
    needs: Evidence = "best"

    def curve(self, n: Floats, shape: Floats) -> Floats:
        straight = 1 / np.maximum(1 / n, shape[..., :1])
        return straight + shape[..., 1:] * (n - straight)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        inverse, slope = shape[..., :1], shape[..., 1:]
        straight = 1 / np.maximum(1 / n, inverse)
        by_bend = np.where(inverse > 1 / n, -(1 - slope) * straight**2, 0.0)
        return np.stack([by_bend, n - straight], axis=-1) / self.curve(n, shape)[..., None]

    def ceiling(self, shape: Floats) -> Floats:
        return np.where(shape[..., 1] > 0, np.inf, 1 / shape[..., 0])

    def peak(self, shape: Floats) -> Floats:
        return self.ceiling(shape)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        bend, slope = 1 / shape[..., 0], shape[..., 1]
        past = np.where(level <= bend, 0.0, (level - bend) / slope)
        return np.where(level <= bend, np.maximum(level, 1), bend + past)

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"c": 1 / shape[..., 0], "q": shape[..., 1], "g": rate}

    def starts(self, most: float) -> Floats:
        bends = 1 / np.geomspace(1, max(most, 1.0), 24)
        return np.array([(bend, slope) for bend in bends for slope in (0.1, 0.4, 0.7)])


class _Cliff:
    """C = N up to c, and the share r of c beyond: memory is full, or cores are used up. The shape is 1/c and r."""

    name = "cliff"
    lower: tuple[float, ...] = (0.0, 1e-3)
    upper: tuple[float, ...] = (1.0, 1.0)
    symbols: Mapping[str, str] = {"c": "capacity", "r": "share left past it", "g": "unit rate"}
    knee_share = 1.0
    full = False
    contains: tuple[str, ...] = ()
    needs: Evidence = "only"

    def curve(self, n: Floats, shape: Floats) -> Floats:
        past = shape[..., :1] > 1 / n
        return np.where(past, shape[..., 1:] / np.where(past, shape[..., :1], 1.0), n)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        past = shape[..., :1] > 1 / n
        by_capacity = np.where(past, -1 / np.where(past, shape[..., :1], 1.0), 0.0)
        return np.stack([by_capacity, np.where(past, 1 / shape[..., 1:], 0.0)], axis=-1)

    def ceiling(self, shape: Floats) -> Floats:
        return 1 / shape[..., 0]

    def peak(self, shape: Floats) -> Floats:
        return 1 / shape[..., 0]

    def reach(self, level: Floats, shape: Floats) -> Floats:
        return np.where(level <= 1 / shape[..., 0], np.maximum(level, 1), np.inf)

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        return {"c": 1 / shape[..., 0], "r": shape[..., 1], "g": rate}

    def starts(self, most: float) -> Floats:
        # No slope tells of the next N, so there is a start between every two.
        capacities = 1 / np.geomspace(1, max(most, 1.0), 48)
        return np.array([(capacity, left) for capacity in capacities for left in (0.2, 0.5, 0.8)])


class Stepped:
    """A family's laws for a run of `items` equal items, which N workers do in ceil(items / N) rounds.

    On average items / ceil(items / N) workers are busy, and the curve is the family's at that number. For `linear`, that is the
    staircase alone. More workers than items change nothing. For Amdahl's law it is exact: the serial part takes as
    long, and the other part as many rounds.
    """

    def __init__(self, base: Family, items: int) -> None:
        self.base = base
        self.items = items
        self.name = "staircase" if base.name == "linear" else f"staircase_{base.name}"
        self.lower, self.upper = base.lower, base.upper
        self.symbols, self.knee_share = base.symbols, base.knee_share
        self.full, self.contains, self.needs = base.full, base.contains, base.needs

    def busy(self, n: Floats) -> Floats:
        """The mean number of busy workers out of `n`, of the shape of `n`."""
        return self.items / np.ceil(self.items / n * (1 - 1e-12))

    def curve(self, n: Floats, shape: Floats) -> Floats:
        """As of every family."""
        return self.base.curve(self.busy(n), shape)

    def log_slopes(self, n: Floats, shape: Floats) -> Floats:
        """As of every family."""
        return self.base.log_slopes(self.busy(n), shape)

    def ceiling(self, shape: Floats) -> Floats:
        """As of every family."""
        return self.base.curve(self.peak(shape)[..., None], shape)[..., 0]

    def peak(self, shape: Floats) -> Floats:
        """The smaller N of the maximum: with as many workers as items, or at a step beside the peak of the family."""
        rounds = self.items / np.minimum(self.base.peak(shape), self.items)
        below, above = self.items / np.ceil(rounds), self.items / np.maximum(np.floor(rounds), 1)
        fewer, more = (self.base.curve(n[..., None], shape)[..., 0] for n in (below, above))
        return np.where(fewer >= more, below, above)

    def reach(self, level: Floats, shape: Floats) -> Floats:
        """As of every family."""
        rounds = np.floor(self.items / self.base.reach(level, shape) * (1 + 1e-12))
        found = self.items / np.maximum(rounds, 1)
        # Where the family falls again, its next step may lie past the N of the level.
        there = self.base.curve(found[..., None], shape)[..., 0] >= level * (1 - 1e-9)
        return np.where((rounds >= 1) & there, found, np.inf)

    def parameters(self, shape: Floats, rate: Floats) -> dict[str, Floats]:
        """As of every family."""
        return self.base.parameters(shape, rate)

    def starts(self, most: float) -> Floats:
        """As of every family."""
        return self.base.starts(most)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _Linear(),
        _Amdahl(),
        _HardKnee(),
        _Power(),
        _ClosedQueue(),
        _Gustafson(),
        _Batch(),
        _Usl(),
        _BentLine(),
        _Cliff(),
    )
}
"""All families by name, simpler ones first."""
