"""How often the intervals of `hooke.scaling` hold the truth, how wide they are, and how often the truth is selected.

    python -m benchmarks.scaling_coverage coverage --trials 1000
    python -m benchmarks.scaling_coverage selection --trials 200
    python -m benchmarks.scaling_coverage refusals --trials 200
    python -m benchmarks.scaling_coverage disturbed --trials 50

prints the tables of docs/explanation/laws.md. Throughputs are drawn about planted laws, with errors of 2, 5 and 10 %
(normal in log X), at 6, 10 and 30 measurements of N = 1 to 32. The oracle knows the family and the size of the errors.
One core; at these numbers about 30, 40 and 4 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtri

from hooke.base.errors import NotEnoughData
from hooke.measuring.design import Design
from hooke.scaling import Estimate, Law, Measurements, fit
from hooke.scaling.families import FAMILIES
from hooke.scaling.family_fit import region

RATE = 10.0
DESIGNS = {
    6: (1, 2, 4, 8, 16, 32),
    10: (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
    30: (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) * 3,
}
NOISES = (0.02, 0.05, 0.10)
PLANTED = {
    "linear": [()],
    "amdahl": [(0.05,), (0.2,)],
    "hard_knee": [(1 / 8,), (1 / 13,)],
    "power": [(0.7,), (0.9,)],
    "closed_queue": [(0.1,)],
    "usl": [(0.03, 0.002), (0.1, 0.004)],
    "bent_line": [(1 / 8, 0.3)],
    "gustafson": [(0.3,)],
    "batch": [(0.1,)],
}
AT_BOUNDS = [("amdahl", (0.0,)), ("usl", (0.05, 0.0))]
"""Linear and Amdahl's law, fitted with a parameter too many: its truth is the bound."""
TRIED = ("linear", "amdahl", "hard_knee", "power", "closed_queue", "usl", "bent_line")
"""What `fit` tries unless told otherwise, but for the cliff, which it takes only where nothing else fits."""
NEAR, FAR = (5.0, 32.0, 48.0), (96.0,)
"""Where throughput is predicted: within and somewhat beyond the data, and at three times the largest N."""


@dataclasses.dataclass
class Tally:
    """Of one quantity in one cell: how often its interval held, how wide it was, how often there was none."""

    held: int = 0
    refused: int = 0
    widths: list[float] = dataclasses.field(default_factory=list)
    oracle: list[float] = dataclasses.field(default_factory=list)

    def add(self, found: Estimate | None, truth: float, known: Estimate | None = None) -> None:
        if found is None:
            self.refused += 1
            return
        low, high = found.interval
        self.held += low * (1 - 1e-9) <= truth <= high * (1 + 1e-9)
        self.widths.append(high - low)
        if known is not None:
            self.oracle.append(known.interval[1] - known.interval[0])

    @property
    def coverage(self) -> float:
        return self.held / len(self.widths) if self.widths else math.nan

    @property
    def refusals(self) -> float:
        return self.refused / (self.refused + len(self.widths))

    @property
    def ratio(self) -> float:
        """The median width over the oracle's; infinite where more than half of the intervals are."""
        width = float(np.median(self.widths))
        return width / float(np.median(self.oracle)) if math.isfinite(width) else math.inf


def measured(
    family: str, shape: Sequence[float], count: int, noise: float, rng: np.random.Generator
) -> Measurements:
    n = np.array(DESIGNS[count], dtype=float)
    x = RATE * FAMILIES[family].curve(n, np.array(shape, dtype=float))
    return Measurements(n, throughput=x * np.exp(noise * rng.standard_normal(n.size)))


def trials(
    family: str, shape: Sequence[float], count: int, noise: float, times: int
) -> Iterator[Measurements]:
    """As many sets of measurements, the same in each run of this program."""
    cell = zlib.crc32(repr((family, tuple(shape), count, noise)).encode())
    for trial in range(times):
        yield measured(family, shape, count, noise, np.random.default_rng([cell, trial]))


def oracle(law: Law, noise: float) -> Law:
    """The same law with the region of one who knows the size of the errors."""
    fitted = law.fitted
    room = (ndtri((1 + fitted.level) / 2) * noise) ** 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        known = region(fitted.problem, fitted.shape[None, :], fitted.misfit, float(room))
    return dataclasses.replace(law, fitted=dataclasses.replace(fitted, region=known), others=(), ruled_out=())


def truths(family: str, shape: Sequence[float]) -> dict[str, float]:
    """The true value of each finite quantity."""
    form, at = FAMILIES[family], np.array([shape], dtype=float).reshape(1, len(shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {name: float(value[0]) for name, value in form.parameters(at, np.array([RATE])).items()}
        values["knee"] = float(form.reach(form.knee_share * form.ceiling(at), at)[0])
        values["peak"] = float(form.peak(at)[0])
        values |= {f"X({n:g})": RATE * float(form.curve(np.array([n]), at)[0, 0]) for n in (*NEAR, *FAR)}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def quantities(law: Law, names: Sequence[str]) -> dict[str, Estimate | None]:
    """The law's estimate of each; None where it refuses."""
    found: dict[str, Estimate | None] = {**law.parameters, "knee": law.knee, "peak": law.peak}
    for n in (*NEAR, *FAR):
        try:
            found[f"X({n:g})"] = law.predict(n)
        except NotEnoughData:
            found[f"X({n:g})"] = None
    return {name: found[name] for name in names}


def coverage_cell(
    family: str, shape: Sequence[float], count: int, noise: float, times: int
) -> dict[str, Tally]:
    """Each quantity's tally where the family is known."""
    truth = truths(family, shape)
    tallies: dict[str, Tally] = defaultdict(Tally)
    for data in trials(family, shape, count, noise, times):
        law = fit(data, families=[family])
        known = quantities(oracle(law, noise), list(truth))
        for name, found in quantities(law, list(truth)).items():
            tallies[name].add(found, truth[name], known[name])
    return tallies


def planted(families: Sequence[str]) -> list[tuple[str, Sequence[float]]]:
    return [(family, shape) for family in families for shape in PLANTED[family]]


def label(family: str, shape: Sequence[float]) -> str:
    at = np.array([shape], dtype=float).reshape(1, len(shape))
    parameters = FAMILIES[family].parameters(at, np.array([RATE]))
    return f"{family}, " + ", ".join(f"{name} = {float(value[0]):.3g}" for name, value in parameters.items())


def coverage(times: int, laws: Sequence[tuple[str, Sequence[float]]]) -> None:
    for family, shape in laws:
        names = [name for name in truths(family, shape) if name not in {f"X({n:g})" for n in FAR}]
        print(
            f"\n**{label(family, shape)}**\n\n| errors | n | {' | '.join(names)} |\n|{'---|' * (2 + len(names))}"
        )
        for noise in NOISES:
            for count in DESIGNS:
                tallies = coverage_cell(family, shape, count, noise, times)
                cells = [f"{100 * tallies[name].coverage:.1f} · {tallies[name].ratio:.2f}" for name in names]
                print(f"| {noise:.0%} | {count} | {' | '.join(cells)} |".replace("inf", "∞"), flush=True)


@dataclasses.dataclass
class Selected:
    """Of one planted law in one cell, the family not known: what was chosen, and what followed."""

    chosen: Counter[str] = dataclasses.field(default_factory=Counter)
    reported: int = 0
    answers: dict[str, Tally] = dataclasses.field(default_factory=lambda: defaultdict(Tally))


def answers(law: Law) -> dict[str, Estimate | None]:
    """What one would plan with: throughput at the last N and beyond it, and the knee; None where refused."""
    questions = {f"X({n:g})": (lambda n=n: law.predict(n)) for n in (*NEAR[1:], *FAR)}
    found: dict[str, Estimate | None] = {}
    for name, ask in (questions | {"knee": law.determined_knee}).items():
        try:
            found[name] = ask()
        except NotEnoughData:
            found[name] = None
    return found


def selection_cell(family: str, shape: Sequence[float], count: int, noise: float, times: int) -> Selected:
    truth, cell = truths(family, shape), Selected()
    for data in trials(family, shape, count, noise, times):
        law = fit(data)
        cell.chosen[law.family] += 1
        cell.reported += family in {law.family, *(other.family for other in law.alternatives)}
        for name, found in answers(law).items():
            cell.answers[name].add(found, truth.get(name, math.inf))
    return cell


def selection(times: int, errors: Sequence[float], counts: Sequence[int]) -> None:
    heads = "reported | X(32) holds | X(48) holds | X(96) holds | refused | knee holds | refused"
    print(f"| truth | errors | n | {' | '.join(TRIED)} | {heads} |\n|{'---|' * (len(TRIED) + 10)}")
    for family, shape in planted(TRIED):
        for noise in errors:
            for count in counts:
                cell = selection_cell(family, shape, count, noise, times)
                far, knee = cell.answers["X(96)"], cell.answers["knee"]
                numbers = [
                    *(cell.chosen[name] / times for name in TRIED),
                    cell.reported / times,
                    cell.answers["X(32)"].coverage,
                    cell.answers["X(48)"].coverage,
                    *(far.coverage, far.refusals, knee.coverage, knee.refusals),
                ]
                row = " | ".join(share(number) for number in numbers)
                print(f"| {label(family, shape)} | {noise:.0%} | {count} | {row} |", flush=True)


def refusals(times: int) -> None:
    """How often a law of the known family refuses what the oracle answers."""
    print(
        "| law | errors | n | X(96): oracle answers | of these refused | knee: oracle answers | of these refused |"
    )
    print("|---" * 7 + "|")
    for family, shape in planted(TRIED):
        for noise in NOISES:
            for count in DESIGNS:
                answerable: Counter[str] = Counter()
                refused: Counter[str] = Counter()
                for data in trials(family, shape, count, noise, times):
                    law = fit(data, families=[family])
                    told = answers(law)
                    known = [name for name, found in answers(oracle(law, noise)).items() if found is not None]
                    answerable.update(known)
                    refused.update(name for name in known if told[name] is None)
                numbers = [
                    number
                    for name in ("X(96)", "knee")
                    for number in (answerable[name] / times, refused[name] / max(answerable[name], 1))
                ]
                row = " | ".join(share(number) for number in numbers)
                print(f"| {label(family, shape)} | {noise:.0%} | {count} | {row} |", flush=True)


# --- Errors that are not independent, not equally large or not symmetric, in the order of a study.

DISTURBED = ("independent", "AR(1), 0.5", "AR(1), 0.8", "AR(1), 0.95", "a line", "growing", "one-sided")
STUDY_LEVELS = (1, 2, 4, 8, 16)
STUDY_N = (3.0, 6.0, 12.0)
"""Where throughput is predicted: between the levels."""
SIZE = 0.05
MEDIAN = math.log(2)
"""Of the exponential distribution: a law is the median of throughput."""


def errors_in_time(kind: str, n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Errors of log X about their median, in the order of time; `n` is what was measured, 0 for plain calls."""
    drawn = rng.standard_normal(n.size)
    match kind.partition(", "):
        case "AR(1)", _, correlation:
            along = float(correlation)
            for at in range(1, n.size):
                drawn[at] = along * drawn[at - 1] + math.sqrt(1 - along**2) * drawn[at]
            return SIZE * drawn
        case "a line", *_:
            return 3 * SIZE * np.linspace(-0.5, 0.5, n.size) * rng.choice([-1, 1]) + 0.4 * SIZE * drawn
        case "growing", *_:
            return 0.4 * SIZE * np.sqrt(np.maximum(n, 1)) * drawn
        case "one-sided", *_:
            return SIZE * (MEDIAN - rng.exponential(size=n.size))
        case _:
            return SIZE * drawn


def study_in_time(
    family: str, shape: Sequence[float], kind: str, seed: int, *, repeats: int = 3, timed: bool = True
) -> Measurements:
    """What a study measures, in its random order; without `timed`, the order is forgotten."""
    rounds = Design(levels=STUDY_LEVELS, repeats=repeats, seed=seed).rounds()
    n = np.array([turn.n for turns in rounds for turn in turns], dtype=float)
    errors = errors_in_time(kind, n, np.random.default_rng([seed, zlib.crc32(repr((family, kind)).encode())]))
    kept = np.flatnonzero(n)  # the plain calls take their turns, too
    x = RATE * FAMILIES[family].curve(n[kept], np.array(shape, dtype=float)) * np.exp(errors[kept])
    return Measurements(n[kept], throughput=x, at=kept if timed else None)


@dataclasses.dataclass
class Disturbed:
    """Predictions between the levels: how many held, how many held or came with a flag of drift, misfit or order."""

    asked: int = 0
    held: int = 0
    held_or_flagged: int = 0
    flagged: int = 0
    half_widths: list[float] = dataclasses.field(default_factory=list)


def disturbed_cell(kind: str, times: int, *, repeats: int = 3, timed: bool = True) -> Disturbed:
    cell = Disturbed()
    for family, shape in planted(("linear", "amdahl", "hard_knee", "usl")):
        curve = FAMILIES[family].curve(np.array(STUDY_N), np.array(shape, dtype=float))
        for seed in range(times):
            law = fit(study_in_time(family, shape, kind, seed, repeats=repeats, timed=timed))
            flagged = any("drift" in flag or "does not fit" in flag for flag in law.flags)
            for n, truth in zip(STUDY_N, RATE * curve, strict=True):
                low, high = law.predict(n).interval
                held = low <= truth <= high
                cell.asked, cell.held, cell.flagged = cell.asked + 1, cell.held + held, cell.flagged + flagged
                cell.held_or_flagged += held or flagged
                cell.half_widths.append(math.log(high / low) / 2)
    return cell


def disturbed(times: int) -> None:
    print(
        "| errors | repeats | predictions | held without times | held | flagged | held or flagged | half-width |"
    )
    print("|---" * 8 + "|")
    for kind in DISTURBED:
        for repeats in (3, 5):
            blind = disturbed_cell(kind, times, repeats=repeats, timed=False)
            cell = disturbed_cell(kind, times, repeats=repeats)
            counts = (blind.held, cell.held, cell.flagged, cell.held_or_flagged)
            row = " | ".join(f"{count / cell.asked:.1%}" for count in counts)
            width = f"{float(np.median(cell.half_widths)):.1%}"
            print(f"| {kind} | {repeats} | {cell.asked} | {row} | {width} |", flush=True)


def share(value: float) -> str:
    """Per cent; blank for none or not asked."""
    return "" if math.isnan(value) or value == 0 else f"{100 * value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["coverage", "selection", "refusals", "disturbed"])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--families", nargs="+", choices=list(PLANTED), default=list(PLANTED))
    parser.add_argument("--errors", nargs="+", type=float, default=NOISES, help="of `selection`")
    parser.add_argument("--counts", nargs="+", type=int, default=[*DESIGNS], help="of `selection`")
    asked = parser.parse_args()
    if asked.table == "coverage":
        coverage(asked.trials, [*planted(asked.families), *AT_BOUNDS])
    elif asked.table == "selection":
        selection(asked.trials, asked.errors, asked.counts)
    elif asked.table == "disturbed":
        disturbed(asked.trials)
    else:
        refusals(asked.trials)


if __name__ == "__main__":
    main()
