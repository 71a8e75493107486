"""How far laws are off beyond the measurements, on real machines: the error of the model, fitted and tested.

    python -m benchmarks.extrapolation

Each of 243 curves of nine machines (tests/scaling/data) is fitted to its first levels, and predicted at the others. Printed
are, by distance: how often `Law.predict` answers, how often its interval holds, its half-width in log X, and its interval
score (Gneiting & Raftery, JASA 102, 2007) beside that of a conformal interval, which is the 95 % quantile of the errors at
this distance on the other machines, about the law and about the last level. Then the same where a level inside the range is
left out. At the end, the numbers of `hooke.scaling.law` as these curves give them, and the coverage on each machine of
numbers that were fitted without it. About three minutes on one core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tests.scaling.data_sets import rows

from hooke.base.errors import BeyondTheData
from hooke.scaling import Measurements, fit, law
from hooke.scaling.law import Course, Law

LEVEL = 0.95
FEWEST = (3, 4, 5, 6, 7)
"""Levels that are fitted, beside a half, two thirds and all but one of a curve's."""
DISTANCES = {"to 1.13": 1.13, "1.25": 1.38, "1.5": 1.75, "2": 2.0 + 1e-9, "to 4": 4.0}
"""Bins of N over the largest that was fitted, by their upper ends."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One level predicted from others. All throughputs are logarithms; `inside` the range, distance is 1."""

    machine: str
    curve: str
    distance: float
    actual: float
    last: float
    law: float
    low: float
    high: float
    answered: bool
    misfit: bool
    levels: int
    middle: float
    doubts: tuple[float, ...]
    """How many levels were fitted, and the middle and doubts of `Course`."""


def curves() -> dict[tuple[str, str], tuple[Floats, Floats]]:
    """N and throughput of each curve, by machine and number."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows("thread_curves"):
        found[row["study"], row["curve"]].append((float(row["n"]), float(row["relative_throughput"])))
    return {
        key: (np.array([n for n, _ in sorted(points)]), np.array([x for _, x in sorted(points)]))
        for key, points in found.items()
    }


def beyond(chosen: Sequence[tuple[str, str]] | None = None) -> Iterator[Prediction]:
    """Each later level up to four times the largest N, from the first ones, of the chosen curves."""
    known = curves()
    for key in known if chosen is None else chosen:
        n, x = known[key]
        count = len(n)
        for first in sorted({*FEWEST, max(5, count // 2), max(5, 2 * count // 3), count - 1}):
            if 3 <= first < count:
                fitted = fit(Measurements(n[:first], throughput=x[:first]))
                for at in range(first, count):
                    if n[at] <= max(DISTANCES.values()) * n[first - 1]:
                        yield _predicted(fitted, key, n[at], x[at])


def inside() -> Iterator[Prediction]:
    """Each level between the ends, from all others."""
    for key, (n, x) in curves().items():
        for at in range(1, len(n) - 1):
            if len(n) > 4:
                others = np.arange(len(n)) != at
                yield _predicted(fit(Measurements(n[others], throughput=x[others])), key, n[at], x[at])


def _predicted(fitted: Law, key: tuple[str, str], n: float, x: float) -> Prediction:
    at, most = np.array([n]), float(fitted.measurements.n[-1])
    course = Course.of(fitted.fitted, fitted.measurements)
    own = np.log(fitted.throughput(at))
    band = fitted.own_band(at)
    try:
        told = fitted.predict(n, runs=1)
    except BeyondTheData:
        answered, value, low, high = False, float(own[0]), np.nan, np.nan
    else:
        answered, value = True, float(np.log(told.value))
        low, high = (float(np.log(max(end, 1e-300))) for end in told.interval)
    return Prediction(
        machine=key[0],
        curve=key[1],
        distance=max(n / most, 1.0),
        actual=float(np.log(x)),
        last=float(course.values[-1]),
        law=value,
        low=low,
        high=high,
        answered=answered,
        misfit=fitted.lack_of_fit.found,
        levels=len(course.levels),
        middle=float(course.beyond(np.log(at), own, band, LEVEL)[0][0]),
        doubts=tuple(course.doubts(np.log(at), own, band)[:, 0]),
    )


# --- What `Law.predict` does, by distance.


def table(title: str, found: list[Prediction]) -> None:
    """Print it for each distance."""
    print(f"\n{title}")
    print("distance   asked  answered  held  by machine        half-width  score  conformal: law, last level")
    lowest = 0.0
    for name, highest in DISTANCES.items():
        asked = [each for each in found if lowest < each.distance <= highest]
        lowest = highest
        if asked:
            print(f"{name:<10} {_line(asked)}")


def _line(asked: list[Prediction]) -> str:
    told = [each for each in asked if each.answered]
    if not told:
        return f"{len(asked):6} {0:9.0%}"
    held = {each: each.low <= each.actual <= each.high for each in told}
    mean, low, high = by_machine(held)
    half = np.median([(each.high - each.low) / 2 for each in told])
    mean_score = np.mean([score(each.actual, each.low, each.high) for each in told])
    rivals = (_conformal(asked, told, about) for about in ("law", "last"))
    return (
        f"{len(asked):6} {len(told) / len(asked):9.0%} {mean:6.1%}  {low:.1%} to {high:.1%} {half:12.2f} {mean_score:6.2f}  "
        + "  ".join(f"{each:.2f}" for each in rivals)
    )


def by_machine(held: dict[Prediction, bool]) -> tuple[float, float, float]:
    """The share held, and its 95 % interval where whole machines are drawn again (bootstrap, seed 0)."""
    machines = sorted({each.machine for each in held})
    counts = np.array([[sum(each.machine == one for each in held), 0] for one in machines])
    counts[:, 1] = [sum(good for each, good in held.items() if each.machine == one) for one in machines]
    drawn = np.random.default_rng(0).integers(len(machines), size=(4000, len(machines)))
    asked, good = counts[drawn].sum(axis=1).T
    low, high = np.quantile(good / asked, [0.025, 0.975])
    return float(counts[:, 1].sum() / counts[:, 0].sum()), float(low), float(high)


def score(actual: float, low: float, high: float) -> float:
    """The interval score: its width, and 40 times what it misses the actual value by."""
    return high - low + 2 / (1 - LEVEL) * (max(low - actual, 0) + max(actual - high, 0))


def _conformal(asked: list[Prediction], told: list[Prediction], about: str) -> float:
    """The score on the answered ones of intervals whose half-width is that quantile on the other machines."""
    scores = []
    for machine in {each.machine for each in told}:
        others = [abs(each.actual - getattr(each, about)) for each in asked if each.machine != machine]
        if others:
            half = float(np.quantile(others, LEVEL))
            scores += [
                score(each.actual, getattr(each, about) - half, getattr(each, about) + half)
                for each in told
                if each.machine == machine
            ]
    return float(np.mean(scores)) if scores else float("nan")


# --- The numbers of `hooke.scaling.law`.


def calibrated(found: list[Prediction]) -> tuple[float, Floats]:
    """OFF and the powers: least squares of log error on the logarithms of the three, and the 95 % quantile of what remains.

    Each machine weighs as the root of its number of predictions at a distance, so that none decides alone.
    """
    weights = _weights(found)
    columns = np.column_stack([np.ones(len(found)), np.log([each.doubts for each in found])])
    errors = np.abs([each.actual - each.middle for each in found])
    weighted = columns * weights[:, None]
    slopes = np.linalg.solve(
        weighted.T @ columns + 0.05 * np.eye(columns.shape[1]), weighted.T @ np.log(errors + law.LEAST)
    )
    left = errors / np.exp(columns @ slopes)
    order = np.argsort(left)
    total = np.cumsum(weights[order])
    quantile = left[order][np.searchsorted(total, LEVEL * total[-1])]
    return float(quantile * np.exp(slopes[0])), slopes[1:]


def _weights(found: list[Prediction]) -> Floats:
    ends = np.array(list(DISTANCES.values()))
    cells = [(each.machine, int(np.searchsorted(ends, each.distance))) for each in found]
    return np.array([1 / np.sqrt(cells.count(cell)) for cell in cells])


def held_out(found: list[Prediction]) -> dict[str, float]:
    """The share held at each distance, with numbers that were fitted without the machine."""
    held: dict[str, list[bool]] = defaultdict(list)
    for machine in sorted({each.machine for each in found}):
        off, powers = calibrated([each for each in found if each.machine != machine])
        for each in (each for each in found if each.machine == machine):
            half = off * np.exp(np.log(each.doubts) @ powers)
            name = next(name for name, end in DISTANCES.items() if each.distance <= end)
            held[name].append(bool(abs(each.actual - each.middle) <= half))
    return {name: float(np.mean(held[name])) for name in DISTANCES if name in held}


def main() -> None:
    """Print it all."""
    found = list(beyond())
    table("beyond the largest N", found)
    table("beyond, fitted to at least 5 levels", [each for each in found if each.levels >= 5])
    table("beyond, where the law does not fit", [each for each in found if each.misfit])
    between = list(inside())
    table("a level inside the range", between)
    table("a level inside the range, where the law does not fit", [each for each in between if each.misfit])
    off, powers = calibrated(found)
    print(f"\nOFF = {off:.2f}; powers of distance, band, line: {', '.join(f'{each:.2f}' for each in powers)}")
    print(
        "held on machines without which they were fitted:",
        {k: f"{v:.1%}" for k, v in held_out(found).items()},
    )


if __name__ == "__main__":
    main()
