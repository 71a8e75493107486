"""The law of a language model's step, from the sums that its windows keep of ordinary traffic. Pure.

A step takes a + b prompt + c requests + d context + e attention seconds on average, with the work of `StepWork` and no negative
coefficient. Noise is a share of a step's time. So sums are kept by the size of steps, and each size counts by the square of what its steps
are expected to take. Steps of a few seconds share what else the machine did: intervals come from the delete-one jackknife over blocks of time,
as for batches (`scaling.affine`), and a prediction has two kinds of noise, that of single steps and that of a speed that wanders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from hooke.base.errors import NotEnoughData
from hooke.generation.token_scheduler import StepWork
from hooke.journal.service_events import BatchWindow
from hooke.scaling.families import Floats
from hooke.scaling.measurements import Estimate

__all__ = ["StepNoise", "TokenLaw", "token_law"]

FEWEST_BLOCKS, FEWEST_STEPS = 4, 100
MOST_BLOCKS = 40
"""For the jackknife. More blocks cost time, and their errors are less independent."""
PASSES = 4
VALUES = 6
_UPPER = np.triu_indices(VALUES)
LEAST_IN_WINDOW = 20
"""Steps of a window whose mean says something of its time."""
SHORTEST_MEMORY, LONGEST_MEMORY = 0.02, 20.0
"""Of the speed, in windows."""
LAGS = 3
LEAST_FREEDOM = 3.0
MOST_LASTING = 0.8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepNoise:
    """What steps take more or less than expected, as a share of that.

    `single` (n,) are factors of single steps, with a mean of 1. Beside these the machine's speed wanders, with a standard deviation of `shared` and a
    memory of `memory_s` seconds (an Ornstein-Uhlenbeck process).
    """

    single: Floats
    shared: float
    memory_s: float
    freedom: float
    """Degrees of freedom of `shared`: how many memories long the traffic was, by two."""

    def draws(self, chance: np.random.Generator, count: int) -> Floats:
        """Standard deviations of the speed (count,) that the data allow."""
        return self.shared * np.sqrt(self.freedom / chance.chisquare(self.freedom, count))

    def averaged(self, seconds: float) -> float:
        """The part of that standard deviation that remains in the mean over so many seconds."""
        return math.sqrt(float(_averaged(np.array(seconds / self.memory_s))))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TokenLaw:
    """Seconds of a step by its work. `left_out` (blocks, 5) are the `coefficients` (5,) without each block.

    Intervals contain the truth with probability `level`.
    """

    coefficients: Floats
    left_out: Floats
    noise: StepNoise
    steps: int
    block_s: float
    """Mean length of the blocks of `left_out`."""
    level: float = 0.95

    def __repr__(self) -> str:
        parts = ", ".join(str(each) for each in self.parts())
        return f"TokenLaw({parts}; {self.steps:,} steps)"

    def parts(self) -> list[Estimate]:
        """The coefficients: seconds of a step, and for each token of a prompt, request, token in memory and pair."""
        names = ("step", "prompt token", "request", "context token", "attention pair")
        return [
            self.estimate(f"seconds per {name}", lambda each, at=at: each[..., at], log=False)
            for at, name in enumerate(names)
        ]

    def step_s(self, work: StepWork) -> float:
        """The expected seconds of a step."""
        fixed, *each = self.coefficients.tolist()
        return fixed + sum(one * count for one, count in zip(each, work, strict=True))

    def seconds(self, work: StepWork) -> Estimate:
        """The mean seconds of such steps, with the error of the law alone."""
        row = np.array([1.0, *work])
        return self.estimate("seconds of a step", lambda each: each @ row)

    def estimate(self, name: str, quantity: Callable[[Floats], Floats], *, log: bool = True) -> Estimate:
        """What follows from the coefficients (..., 5): by the jackknife, of its logarithm unless `log` is off."""
        value, without = float(quantity(self.coefficients)), quantity(self.left_out)
        log = log and value > 0 and bool((without > 0).all())
        scaled = np.log(without) if log else without
        half = self.quantile * math.sqrt(self._inflation * float(((scaled - scaled.mean()) ** 2).sum()))
        ends = (
            (value * math.exp(-half), value * math.exp(half))
            if log
            else (max(value - half, 0.0), value + half)
        )
        return Estimate(name=name, value=value, interval=ends, level=self.level)

    def draws(self, chance: np.random.Generator, count: int) -> Floats:
        """Coefficients (count, 5) that the data allow, for simulations."""
        off = self.left_out - self.left_out.mean(axis=0)
        blocks = len(off)
        scale = math.sqrt(self._inflation) * chance.standard_normal((count, blocks)) @ off
        # Student's t: the spread of few blocks is not known well, either.
        wide = np.sqrt((blocks - 1) / chance.chisquare(blocks - 1, (count, 1)))
        return np.maximum(self.coefficients + wide * scale, 0.0)

    @property
    def quantile(self) -> float:
        """Student's t at the level."""
        return float(stdtrit(len(self.left_out) - 1, (1 + self.level) / 2))

    @property
    def _inflation(self) -> float:
        """From squared deviations of `left_out` to a variance: the jackknife's, and what lasts longer than a block."""
        blocks = len(self.left_out)
        ratio = self.block_s / self.noise.memory_s
        # The correlation of neighbouring blocks' means; blocks within the memory tell little more than one of them.
        lasting = min(math.expm1(-ratio) ** 2 / max(2 * (ratio + math.expm1(-ratio)), 1e-12), MOST_LASTING)
        return (blocks - 1) / blocks * (1 + lasting) / (1 - lasting)


def token_law(windows: Iterable[BatchWindow], *, level: float = 0.95) -> TokenLaw:
    """The law from windows of one machine, or of several that are alike.

    Raises NotEnoughData for fewer than four windows with steps, or fewer than 100 steps.
    """
    kept = sorted((each for each in windows if each.steps), key=lambda each: (each.replica, each.at))
    sums = [{part.size: _square(part.products) for part in each.steps} for each in kept]
    steps = int(sum(part[0, 0] for each in sums for part in each.values()))
    if len(kept) < FEWEST_BLOCKS or steps < FEWEST_STEPS:
        raise NotEnoughData(
            f"{steps} steps in {len(kept)} windows are too few for the law of a step",
            fix=f"let the service answer for longer: it takes {FEWEST_STEPS} steps in {FEWEST_BLOCKS} windows of 5 s",
        )
    blocks = _blocks(sums)
    coefficients = _fit(_added(blocks))
    left_out = np.array([_fit(_added([*blocks[:at], *blocks[at + 1 :]])) for at in range(len(blocks))])
    return TokenLaw(
        coefficients=coefficients,
        left_out=left_out,
        noise=_noise(kept, sums, coefficients),
        steps=steps,
        block_s=sum(each.seconds for each in kept) / len(blocks),
        level=level,
    )


Sums = dict[int, Floats]
"""Size -> (6, 6) products."""


def _square(products: Sequence[float]) -> Floats:
    made = np.zeros((VALUES, VALUES))
    made[_UPPER] = products
    return made + np.triu(made, 1).T


def _added(several: Iterable[Sums]) -> Sums:
    made: Sums = {}
    for each in several:
        for size, products in each.items():
            made[size] = made[size] + products if size in made else products
    return made


def _blocks(sums: Sequence[Sums]) -> list[Sums]:
    """The windows merged to at most `MOST_BLOCKS` in order of time, of about as many steps each."""
    counts = np.array([sum(part[0, 0] for part in each.values()) for each in sums])
    before = np.cumsum(counts) - counts
    most = min(MOST_BLOCKS, len(sums))
    number = np.minimum((before * most / counts.sum()).astype(int), most - 1)
    made = [
        _added([each for each, at in zip(sums, number, strict=True) if at == one])
        for one in np.unique(number)
    ]
    if len(made) >= FEWEST_BLOCKS:
        return made
    return list(sums)  # one window has nearly all


def _fit(sums: Sums) -> Floats:
    """The non-negative coefficients of the least squared relative errors."""
    parts = np.array(list(sums.values()))
    features, times = parts[:, :-1, :-1], parts[:, :-1, -1]
    weights = parts[:, 0, 0] / np.maximum(parts[:, -1, -1], 1e-300)  # 1 / mean squared seconds
    found = np.zeros(VALUES - 1)
    for _ in range(PASSES):
        found = _non_negative(np.tensordot(weights, features, 1), weights @ times)
        squares = np.einsum("i,nij,j->n", found, features, found)
        weights = parts[:, 0, 0] / np.maximum(squares, 1e-300)
    return found


def _non_negative(features: Floats, times: Floats) -> Floats:
    """The non-negative x of the least x'Ax - 2x'b."""
    scale = np.sqrt(np.maximum(np.diag(features), 1e-300))
    values, vectors = np.linalg.eigh(features / np.outer(scale, scale))
    kept = values > 1e-10 * values[-1]
    root = np.sqrt(values[kept])
    matrix = (vectors[:, kept] * root).T
    return nnls(matrix, (vectors[:, kept].T @ (times / scale)) / root)[0] / scale


def _noise(windows: Sequence[BatchWindow], sums: Sequence[Sums], found: Floats) -> StepNoise:
    """From pairs of neighbouring steps: what they share is the speed's, the rest each one's. The means of windows tell how long the speed lasts."""
    pairs = np.array([pair for each in windows for pair in each.step_pairs])
    ratios = pairs.reshape(-1, 2, VALUES - 1)
    expected = found[0] + ratios[..., :-1] @ found[1:]
    ratios = ratios[..., -1] / np.maximum(expected, 1e-300)
    ratios = ratios / ratios.mean()
    whole = float(((ratios - 1) ** 2).mean())
    both = float(((ratios[:, 0] - 1) * (ratios[:, 1] - 1)).mean())
    of_windows = _of_windows(sums, found, whole)
    shared = min(max(both, float(of_windows[0]), 0.0), whole)
    kept = math.sqrt((whole - shared) / whole) if whole else 0.0
    single = np.exp(kept * np.log(np.maximum(ratios.ravel(), 1e-3)))
    window_s = float(np.median([each.seconds for each in windows]))
    memory_s = _memory(of_windows, shared, window_s)
    freedom = max(sum(each.seconds for each in windows) / (2 * memory_s), LEAST_FREEDOM)
    return StepNoise(
        single=single / single.mean(), shared=math.sqrt(shared), memory_s=memory_s, freedom=freedom
    )


def _of_windows(sums: Sequence[Sums], found: Floats, whole: float) -> Floats:
    """The covariances of means of windows, as shares of what was expected, that are 0, 1, ... `LAGS` windows apart; without what single steps add."""
    off = np.full(len(sums), math.nan)
    alone = np.zeros(len(sums))
    for at, each in enumerate(sums):
        products = np.sum(list(each.values()), axis=0)
        mean = float(found @ products[0, :-1])
        if products[0, 0] >= LEAST_IN_WINDOW and mean > 0:
            off[at] = products[0, -1] / mean - 1
            alone[at] = float(found @ products[:-1, :-1] @ found) / mean**2
    if np.isfinite(off).sum() < FEWEST_BLOCKS:
        return np.zeros(LAGS + 1)
    own = (off**2 - whole * alone) / (1 - alone)
    lagged = [off[lag:] * off[:-lag] for lag in range(1, min(LAGS, len(off) - 1) + 1)]
    found_at = [float(np.nanmean(each)) if np.isfinite(each).any() else 0.0 for each in (own, *lagged)]
    return np.maximum(np.pad(found_at, (0, LAGS + 1 - len(found_at))), 0.0)


def _averaged(ratio: Floats) -> Floats:
    """The variance of the mean of a process with exponential memory over `ratio` memories, by that of the process."""
    ratio = np.maximum(ratio, 1e-6)
    return 2 * (ratio + np.expm1(-ratio)) / ratio**2


def _memory(of_windows: Floats, shared: float, window_s: float) -> float:
    """The memory of a process that varies by `shared`, whose means of windows have these covariances."""
    memories = window_s * np.geomspace(SHORTEST_MEMORY, LONGEST_MEMORY, 200)
    if not shared:
        return float(memories[0])
    ratio = window_s / memories
    lags = np.arange(LAGS)[:, None]
    expected = np.vstack([_averaged(ratio), (np.expm1(-ratio) / ratio) ** 2 * np.exp(-lags * ratio)])
    return float(memories[((expected - of_windows[:, None] / shared) ** 2).sum(axis=0).argmin()])
