"""What it brings to choose the next N of a study by what it is expected to tell about the knee.

    python -m benchmarks.study_choice --trials 40

prints the table of docs/explanation/laws-measured.md. Simulated studies of planted laws at N = 1, 2, 4, 8 and 16, with plain calls
of 1 s and errors of 5 % (normal in log X): three whole rounds, or two where three exceed ten plain calls; the rule, with a
width that it never reaches, for at most the same time of measuring; and the rule as it is, which ends when the knee is known.
Seeded; one core, five minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import zlib
from functools import partial

import numpy as np

from hooke.base.errors import NotEnoughData
from hooke.measuring.design import (
    MOST_PLAIN,
    PLAIN,
    WITHIN,
    Design,
    PlannedMeasurement,
    Question,
    StudyProgress,
    Taken,
    knee_up_to,
    next_turn,
)
from hooke.scaling import Law, fit
from hooke.scaling.families import FAMILIES

LEVELS = (1, 2, 4, 8, 16)
BETWEEN = (3.0, 6.0, 12.0)
NOISE = 0.05
PLANTED = [
    ("linear", (), 0.0),
    ("amdahl", (0.05,), 0.0),
    ("amdahl", (0.3,), 0.0),
    ("hard_knee", (1 / 5,), 0.0),
    ("usl", (0.03, 0.01), 0.0),
    ("closed_queue", (0.2,), 0.0),
    ("amdahl", (1.0,), 0.0),
    ("amdahl", (0.05,), 0.5),
    ("usl", (0.03, 0.01), 0.5),
]
"""Family, shape, and the correlation of successive errors."""
UNENDING = 1e-9
"""A width that no answer has."""


@dataclasses.dataclass
class Truth:
    """A planted law, of which N = 1 takes as long as the plain calls, 1 s. Errors are a first-order autoregression."""

    family: str
    shape: tuple[float, ...]
    correlation: float
    error: float = 0.0

    def throughput(self, n: float) -> float:
        return float(FAMILIES[self.family].curve(np.array([n]), np.array([self.shape]))[0, 0])

    @property
    def knee(self) -> float:
        """The smallest N with the knee's share of the highest throughput at N up to the largest."""
        share = FAMILIES[self.family].knee_share
        n = np.linspace(1, LEVELS[-1], 15001)
        x = FAMILIES[self.family].curve(n, np.array([self.shape]).reshape(1, -1))[0]
        return float(n[np.argmax(x >= share * x.max() * (1 - 1e-12))])

    def take(self, turn: PlannedMeasurement, at: int, rng: np.random.Generator) -> Taken:
        """The next measurement; the first of a study is at 0."""
        new, along = rng.standard_normal(), self.correlation if at else 0.0
        self.error = along * self.error + math.sqrt(1 - along**2) * new
        rate = 1.0 if turn == PLAIN else self.throughput(turn.n)
        return Taken(turn=turn, seconds=math.exp(NOISE * self.error) / rate, at=float(at))


def in_rounds(truth: Truth, seed: int, rng: np.random.Generator) -> list[Taken]:
    """Three whole rounds, or two where three take more than ten plain calls, as studies were before."""
    taken: list[Taken] = []
    for done, turns in enumerate(Design(levels=LEVELS, seed=seed).rounds()):
        if done == 2 and spent(taken) * 3 / 2 > MOST_PLAIN:
            break
        for turn in turns:
            taken.append(truth.take(turn, len(taken), rng))
    return taken


def by_rule(
    truth: Truth,
    seed: int,
    rng: np.random.Generator,
    *,
    within: float = WITHIN["knee"],
    seconds: float = math.inf,
    repeats: int = 3,
) -> list[Taken]:
    """By `next_turn`, until it ends or the next measurement would exceed `seconds`."""
    design = Design(
        levels=LEVELS, seed=seed, most_plain=MOST_PLAIN, question=Question(within=within), repeats=repeats
    )
    taken: list[Taken] = []
    while True:
        progress = StudyProgress(design=design, taken=taken)
        turn = next_turn(progress)
        if turn is None or spent(taken) + progress.expected_s(turn) > seconds:
            return taken
        taken.append(truth.take(turn, len(taken), rng))


def spent(taken: list[Taken]) -> float:
    return sum(each.seconds for each in taken)


@dataclasses.dataclass
class Tally:
    """Of one way to measure: seconds and measurements, the half-widths of the knee's logarithm, and what intervals held."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    counts: list[int] = dataclasses.field(default_factory=list)
    widths: list[float] = dataclasses.field(default_factory=list)
    knees: int = 0
    predictions: int = 0
    unknown: int = 0

    def add(self, truth: Truth, taken: list[Taken]) -> None:
        self.seconds.append(spent(taken))
        self.counts.append(len(taken))
        progress = StudyProgress(design=Design(levels=LEVELS), taken=taken)
        try:
            law = fit(progress.measurements())
        except NotEnoughData:
            self.unknown += 1
            return
        low, high = knee_of(law)
        self.widths.append(math.log(high / low) / 2)
        self.knees += low * (1 - 1e-3) <= truth.knee <= high * (1 + 1e-3)
        for n in BETWEEN:
            lower, upper = law.predict(n).interval
            self.predictions += lower <= truth.throughput(n) <= upper

    def row(self) -> str:
        asked = len(self.widths)
        width = float(np.median(self.widths))
        known = float(np.mean([each <= math.log1p(WITHIN["knee"]) for each in self.widths]))
        return (
            f"{np.mean(self.seconds):.2f} | {np.mean(self.counts):.1f} | {width:.1%} | {known:.0%} | "
            f"{self.knees / asked:.1%} | {self.predictions / (asked * len(BETWEEN)):.1%}"
        )


def knee_of(law: Law) -> tuple[float, float]:
    """The interval of the knee within the N measured."""
    low, high = law.ends(partial(knee_up_to, float(LEVELS[-1])))
    return math.exp(low), math.exp(high)


def label(family: str, shape: tuple[float, ...]) -> str:
    """The planted law in its parameters; g is 1."""
    found = FAMILIES[family].parameters(
        np.array([shape], dtype=float).reshape(1, len(shape)), np.array([1.0])
    )
    return f"{family}, " + ", ".join(f"{name} = {float(value[0]):.3g}" for name, value in found.items())


WAYS = ("in rounds", "by the rule, as long", "by the rule")


def cell(truth: Truth, times: int) -> dict[str, Tally]:
    tallies = {way: Tally() for way in WAYS}
    name = zlib.crc32(repr((truth.family, truth.shape, truth.correlation)).encode())
    for seed in range(times):
        draws = [np.random.default_rng([name, seed, way]) for way in range(3)]
        fixed = in_rounds(truth, seed, draws[0])
        tallies[WAYS[0]].add(truth, fixed)
        same = by_rule(truth, seed, draws[1], within=UNENDING, seconds=spent(fixed), repeats=8)
        tallies[WAYS[1]].add(truth, same)
        tallies[WAYS[2]].add(truth, by_rule(truth, seed, draws[2]))
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100)
    asked = parser.parse_args()
    heads = "truth | errors | measured | seconds | measurements | knee ± | known | knee holds | X holds"
    print(f"| {heads} |\n{'|---' * 9}|")
    for family, shape, correlation in PLANTED:
        errors = f"AR(1), {correlation:g}" if correlation else "independent"
        for way, tally in cell(Truth(family, shape, correlation), asked.trials).items():
            print(f"| {label(family, shape)} | {errors} | {way} | {tally.row()} |", flush=True)


if __name__ == "__main__":
    main()
