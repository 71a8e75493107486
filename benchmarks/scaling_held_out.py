"""Whether a law measured at some N foretells the throughput at others: real studies of a pipeline that sleeps.

    python -m benchmarks.scaling_held_out --seeds 20

Each seed is a study of examples/scaling/bottlenecks.py:sleeping (a share of 5 % is serial, and each run is slower or
faster by chance, 2 % give or take) at ten N up to 48, twice each. The law is fitted to six of them. Counted is how
often the mean measured at each of the other four lies in the band that the law gives for it, how often the planted
share lies in the interval, and how far X(N) is from the planted truth. Sleeping needs no cores: two do. A seed takes
about 55 seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from hooke.base.errors import NotEnoughData
from hooke.journal.study_records import StudyRecord
from hooke.measuring.study_driver import StudyOrder, prepare_study
from hooke.planning.task_facts import measurements_of
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.scaling import Law, Measurements, fit

EXAMPLE = Path(__file__).parents[1] / "examples" / "scaling" / "bottlenecks.py"
FITTED = (1, 2, 4, 8, 16, 48)
HELD_OUT = (3, 6, 12, 24)
PLANTED = {"items": 48, "seconds": 6.4, "serial": 0.05, "jitter": 0.02}
"""48 items go evenly into each N."""
REPEATS = 2


def taken(folder: Path, seed: int) -> StudyRecord:
    """The study of one seed, in a project of its own."""
    place = folder / f"seed-{seed}"
    place.mkdir()
    os.chdir(place)
    pipeline, _ = load_entry(f"{EXAMPLE}:sleeping")
    order = StudyOrder(
        pipeline=pipeline,
        params=PLANTED,
        workers=sorted(FITTED + HELD_OUT),
        repeats=REPEATS,
        seed=seed,
        fresh=True,
    )
    return prepare_study(order, Project.find(place)).drive()


def only(measured: Measurements, levels: tuple[int, ...]) -> Measurements:
    """The measurements at these N."""
    at = np.isin(measured.n, levels)
    return Measurements(measured.n[at], throughput=measured.throughput[at])


def in_band(law: Law, measured: Measurements) -> dict[int, bool]:
    """Of each N, whether the mean measured there lies in the band."""
    found = {}
    for n, mean in zip(*measured.means(), strict=True):
        low, high = law.predict(float(n), runs=REPEATS).interval
        found[int(n)] = bool(low <= mean <= high)
    return found


def truth(n: float) -> float:
    """Runs a second that were planted."""
    serial = PLANTED["serial"]
    return 1 / (PLANTED["seconds"] * (serial + (1 - serial) / n))


@dataclasses.dataclass
class Tally:
    """What the seeds showed so far."""

    held: Counter[int] = dataclasses.field(default_factory=Counter)
    families: Counter[str] = dataclasses.field(default_factory=Counter)
    widths: list[float] = dataclasses.field(default_factory=list)
    shares: list[float] = dataclasses.field(default_factory=list)
    errors: list[float] = dataclasses.field(default_factory=list)
    recovered: int = 0
    refused: int = 0

    def count(self, measured: Measurements) -> None:
        """One study."""
        law = fit(only(measured, FITTED))
        self.families[law.family] += 1
        self.held.update(n for n, inside in in_band(law, only(measured, HELD_OUT)).items() if inside)
        bands = [law.predict(float(n), runs=REPEATS) for n in HELD_OUT]
        self.widths += [(each.interval[1] - each.interval[0]) / each.value for each in bands]
        share = fit(only(measured, FITTED), families=["amdahl"]).parameters["a"]
        self.shares.append(share.value)
        self.recovered += share.interval[0] <= PLANTED["serial"] <= share.interval[1]
        self.errors += [law.predict(float(n)).value / truth(n) - 1 for n in FITTED + HELD_OUT]

    def report(self) -> None:
        """Print it."""
        seeds = self.families.total()
        print(f"laws chosen: {dict(self.families)}; refused as too noisy: {self.refused}")
        for n in HELD_OUT:
            print(f"N = {n}: {self.held[n] / seeds:.0%} of {seeds} means in the band")
        inside = self.held.total() / (len(HELD_OUT) * seeds)
        print(f"all: {inside:.1%}; the band's median width is {np.median(self.widths):.1%}")
        share = f"median {np.median(self.shares):.4f}, planted {PLANTED['serial']}"
        print(f"serial share: {share}, in its interval {self.recovered / seeds:.0%}")
        worst = max(self.errors, key=abs)
        print(f"X(N) against the planted: median {np.median(self.errors):+.1%}, worst {worst:+.1%}")


def main(seeds: int) -> None:
    """Take the studies and print what they show."""
    tally = Tally()
    folder = Path(tempfile.mkdtemp(prefix="hooke-held-out-"))
    try:
        for seed in range(seeds):
            try:
                tally.count(measurements_of(taken(folder, seed)))
            except NotEnoughData as refusal:
                tally.refused += 1
                print(f"seed {seed}: {refusal.what}", flush=True)
            else:
                print(f"seed {seed}: {tally.held.total()} held-out means in the band so far", flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    tally.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    main(parser.parse_args().seeds)
