"""Whether `fit` finds what was planted in a simulated study, and whether its band holds the truth at more workers.

    python -m benchmarks.scaling_families --trials 100

prints a line per planted cause: how often its family was chosen and reported, and how often the law's band held the true
throughput between the measured N, at 1.5 and at 2 times the largest N (there without the error of the model). Errors are normal in log X, of a size between 2 and 5 %
that is drawn for each study. Locks are played item by item, so no formula of the fit is used to plant them. About a tenth of
a second a study.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import math
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from hooke.planning.task_facts import GROWING
from hooke.scaling import Law, Measurements, fit

NOISE = (0.02, 0.05)
FAR = (1.5, 2.0)
PLAYED = 20_000
"""Items of a played lock; its throughput has a standard error of under 1 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """A planted cause: its true throughput at N, the N of a study, and the families that would name it.

    `items` is the work of each run, if that is a number of items; with `grows` there are so many for each worker.
    """

    name: str
    truth: Callable[[float], float]
    levels: tuple[int, ...]
    families: tuple[str, ...]
    items: int | None = None
    grows: bool = False

    def studies(self, trials: int) -> Iterator[Measurements]:
        """The same studies in each run of this program."""
        true = np.array([self.truth(n) for n in self.levels])
        work = np.array(self.levels) * 10.0 if self.grows else float(self.items or 1)
        for trial in range(trials):
            rng = np.random.default_rng([zlib.crc32(self.name.encode()), trial])
            noise = rng.uniform(*NOISE)
            x = true * np.exp(noise * rng.standard_normal(true.size))
            yield Measurements(self.levels, throughput=x, work=work)

    def law(self, measured: Measurements) -> Law:
        """The fit as of a study: its families depend on whether the work grows with N."""
        return fit(measured, families=GROWING if self.grows else None)


@cache
def locked(workers: int, share: float, spread: str) -> float:
    """Items per second of workers that take turns at a lock for a share of each item's second, played."""
    rng = np.random.default_rng([workers, int(1e4 * share)])

    def lasts(mean: float, *, varies: bool) -> float:
        return float(rng.exponential(mean)) if varies else mean

    holds_vary, pauses_vary = spread == "random", spread != "constant"
    arrivals = [(float(rng.uniform()), at) for at in range(workers)]
    heapq.heapify(arrivals)
    free = begun = 0.0
    for done in range(PLAYED):
        when, worker = heapq.heappop(arrivals)
        free = max(free, when) + lasts(share, varies=holds_vary)
        heapq.heappush(arrivals, (free + lasts(1 - share, varies=pauses_vary), worker))
        if done == PLAYED // 5:
            begun = free
    return (PLAYED - 1 - PLAYED // 5) / (free - begun)


def lock(share: float, spread: str) -> Callable[[float], float]:
    return lambda n: locked(round(n), share, spread)


@cache
def locked_run(workers: int, share: float, items: int) -> float:
    """Items per second of a run of so few items, from its first start to its last end, over many plays."""
    rng = np.random.default_rng([workers, items])
    total = 0.0
    for _ in range(PLAYED // items):
        arrivals = [(float(rng.exponential(1 - share)), at) for at in range(min(workers, items))]
        heapq.heapify(arrivals)
        free, left = 0.0, items - len(arrivals)
        while arrivals:
            when, worker = heapq.heappop(arrivals)
            free = max(free, when) + float(rng.exponential(share))
            if left:
                left -= 1
                heapq.heappush(arrivals, (free + float(rng.exponential(1 - share)), worker))
        total += free
    return items * (PLAYED // items) / total


LOCK = (3, 4, 6, 8, 12, 16, 24, 32, 48)
FEW = (3, 3, 3, 6, 6, 6, 12, 12, 12, 24, 24, 24, 48, 48, 48)
TEN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
STEPS = (1, 2, 3, 5, 7, 8, 10, 12, 16, 20, 24)
QUEUE = ("closed_queue",)
CAUSES = (
    Cause(name="lock of 5 %, random times", truth=lock(0.05, "random"), levels=LOCK, families=QUEUE),
    Cause(name="lock of 5 %, five N thrice", truth=lock(0.05, "random"), levels=FEW, families=QUEUE),
    Cause(name="lock of 5 %, equal holds", truth=lock(0.05, "held"), levels=LOCK, families=QUEUE),
    Cause(
        name="lock of 5 %, equal items",
        truth=lock(0.05, "constant"),
        levels=LOCK,
        families=("hard_knee", *QUEUE),
    ),
    Cause(name="lock of 2 %, random times", truth=lock(0.02, "random"), levels=LOCK, families=QUEUE),
    Cause(name="lock of 10 %, random times", truth=lock(0.1, "random"), levels=LOCK, families=QUEUE),
    Cause(
        name="lock of 5 %, 960 items a run",
        truth=lambda n: locked_run(round(n), 0.05, 960),
        levels=LOCK,
        families=QUEUE,
        items=960,
    ),
    Cause(
        name="lock of 5 %, 96 items a run",
        truth=lambda n: locked_run(round(n), 0.05, 96),
        levels=LOCK,
        families=(*QUEUE, "staircase_closed_queue"),
        items=96,
    ),
    Cause(
        name="24 equal items",
        truth=lambda n: 24 / math.ceil(24 / n),
        levels=STEPS,
        families=("staircase",),
        items=24,
    ),
    Cause(
        name="96 equal items",
        truth=lambda n: 96 / math.ceil(96 / n),
        levels=(*TEN, 40, 56),
        families=("staircase",),
        items=96,
    ),
    Cause(
        name="work that grows, 30 % serial",
        truth=lambda n: n - 0.3 * (n - 1),
        levels=TEN,
        families=("gustafson",),
        grows=True,
    ),
    Cause(
        name="bend at 8 to a slope of 0.3",
        truth=lambda n: min(n, 8) + 0.3 * max(n - 8, 0),
        levels=TEN,
        families=("bent_line",),
    ),
    Cause(
        name="cliff at 14 to 40 %",
        truth=lambda n: n if n <= 14 else 0.4 * 14,
        levels=TEN,
        families=("cliff",),
    ),
    Cause(name="nothing", truth=lambda n: n, levels=TEN, families=("linear",)),
    Cause(name="5 % serial", truth=lambda n: n / (1 + 0.05 * (n - 1)), levels=TEN, families=("amdahl",)),
    Cause(
        name="USL, 10 % and 0.4 %",
        truth=lambda n: n / (1 + 0.1 * (n - 1) + 0.004 * n * (n - 1)),
        levels=TEN,
        families=("usl",),
    ),
)


@dataclasses.dataclass
class Found:
    """Counts over the studies of one cause."""

    chosen: int = 0
    reported: int = 0
    flagged: int = 0
    between: int = 0
    far: dict[float, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FAR, 0))


def found(cause: Cause, trials: int) -> Found:
    """What `fit` finds in that many studies."""
    counts, most = Found(), max(cause.levels)
    inside = round(math.sqrt(most * sorted(set(cause.levels))[-2]))
    for measured in cause.studies(trials):
        law = cause.law(measured)
        told = {law.family, *(each.family for each in law.alternatives)}
        counts.chosen += law.family in cause.families
        counts.reported += not told.isdisjoint(cause.families)
        counts.flagged += any("too few items" in flag for flag in law.flags)
        counts.between += holds(law, inside, cause)
        for factor in FAR:
            counts.far[factor] += holds(law, factor * most, cause)
    return counts


def holds(law: Law, n: float, cause: Cause) -> bool:
    """Whether the band holds the truth at `n`; beyond the largest N, that of the families alone."""
    band = law.own_band if n > law.measurements.n[-1] else law.band
    low, high = band(np.array([n]))
    return bool(low[0] * (1 - 1e-9) <= cause.truth(n) <= high[0] * (1 + 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--only", default="", help="causes whose name has this in it")
    asked = parser.parse_args()
    heads = (
        "planted",
        "chosen",
        "reported",
        "too few items",
        "held between",
        *(f"at {far:g} times" for far in FAR),
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for cause in CAUSES:
        if asked.only in cause.name:
            each = found(cause, asked.trials)
            cells = (each.chosen, each.reported, each.flagged, each.between, *each.far.values())
            print(f"| {cause.name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
