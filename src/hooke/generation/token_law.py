"""The law of a language model's step, from the sums that its windows keep of ordinary traffic. Pure.

A step takes a + b prompt + c requests + d context + e attention seconds on average, with the work of `StepWork` and no negative
coefficient. Noise is a share of a step's time. So sums are kept by the size of steps, and each size counts by the square of what its steps
are expected to take. Steps of a few seconds share what else the machine did: intervals come from the delete-one jackknife over blocks of time,
as for batches (`scaling.affine`), and a prediction has two kinds of noise, that of single steps and that of blocks.
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
LEAST_IN_BLOCK = 20
"""Steps of a window whose mean says something of its time."""
MOST_LASTING = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNoise:
    """Standard deviations, as shares of a step's expected time: of single steps, and of what steps within `block_s` seconds share.

    `lasting` is the correlation of one block with the next.
    """

    single: float
    shared: float
    lasting: float
    block_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TokenLaw:
    """Seconds of a step by its work. `left_out` (blocks, 5) are the `coefficients` (5,) without each block.

    Intervals contain the truth with probability `level`.
    """

    coefficients: Floats
    left_out: Floats
    noise: StepNoise
    steps: int
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
        lasting = self.noise.lasting
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
    whole = _added(blocks)
    coefficients = _fit(whole)
    left_out = np.array([_fit(_added([*blocks[:at], *blocks[at + 1 :]])) for at in range(len(blocks))])
    return TokenLaw(
        coefficients=coefficients,
        left_out=left_out,
        noise=_noise(kept, sums, whole, coefficients),
        steps=steps,
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


def _noise(windows: Sequence[BatchWindow], sums: Sequence[Sums], whole: Sums, found: Floats) -> StepNoise:
    """Of all noise, what windows share shows in the means of windows."""
    off, squares, count = np.append(-found, 1.0), 0.0, 0.0
    for part in whole.values():
        mean_square = float(found @ part[:-1, :-1] @ found) / part[0, 0]
        squares += float(off @ part @ off) / max(mean_square, 1e-300)
        count += part[0, 0]
    both = max(squares, 0.0) / max(count - len(found), 1.0)
    ratios, expected = _ratios(sums, found)
    if len(ratios) < FEWEST_BLOCKS:
        return StepNoise(single=math.sqrt(both), shared=0.0, lasting=0.0, block_s=windows[0].seconds)
    # The mean of n steps varies by (shared + single / n); their sum of squares decides what is single.
    raw = float(((ratios - 1) ** 2).mean())
    shared = min(
        max((raw - both * float(expected.mean())) / max(1 - float(expected.mean()), 1e-9), 0.0), both
    )
    centred = ratios - ratios.mean()
    variance = float((centred**2).mean())
    together = float((centred[1:] * centred[:-1]).mean()) + variance / len(ratios)
    of_shared = together / shared if shared > 0 else 0.0
    return StepNoise(
        single=math.sqrt(both - shared),
        shared=math.sqrt(shared),
        lasting=min(max(of_shared, 0.0), MOST_LASTING) if shared > 0.1 * variance else 0.0,
        block_s=float(np.median([each.seconds for each in windows])),
    )


def _ratios(sums: Sequence[Sums], found: Floats) -> tuple[Floats, Floats]:
    """Of each window with enough steps: actual by expected seconds, and the share of a single step's variance that this has."""
    ratios: list[float] = []
    expected: list[float] = []
    for each in sums:
        whole = np.sum(list(each.values()), axis=0)
        mean = float(found @ whole[0, :-1])
        if whole[0, 0] >= LEAST_IN_BLOCK and mean > 0:
            ratios.append(whole[0, -1] / mean)
            expected.append(float(found @ whole[:-1, :-1] @ found) / mean**2)
    return np.array(ratios), np.array(expected)
