"""Whether a law measured at some N foretells the throughput at others: real studies of a pipeline that sleeps.

    python -m benchmarks.scaling_held_out --seeds 20

Each seed is a study of examples/scaling/bottlenecks.py:sleeping (a share of 5 % is serial, and each run is slower or
faster by chance, 2 % give or take) at ten N up to 32, twice each. The law is fitted to six of them. Counted is how
often the mean measured at each of the other four lies in the band that the law gives for it, how often the planted
share lies in the interval, and how far X(N) is from the planted truth. Sleeping needs no cores: two do. A seed takes
about 25 seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from hooke.journal.studies import StudyRecord
from hooke.project.folder import Project
from hooke.project.loading import load_entry
from hooke.project.studying import StudyOrder, prepare_study
from hooke.scaling import Law, Measurements, fit
from hooke.studies.measured import measurements_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "scaling" / "bottlenecks.py"
FITTED = (1, 2, 4, 8, 16, 32)
HELD_OUT = (3, 6, 12, 24)
PLANTED = {"items": 96, "seconds": 3.0, "serial": 0.05, "jitter": 0.02}
"""96 items go evenly into each N."""
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


def main(seeds: int) -> None:
    """Take the studies and print what they show."""
    held: Counter[int] = Counter()
    families: Counter[str] = Counter()
    widths: list[float] = []
    shares: list[float] = []
    errors: list[float] = []
    recovered = 0
    folder = Path(tempfile.mkdtemp(prefix="hooke-held-out-"))
    try:
        for seed in range(seeds):
            measured = measurements_of(taken(folder, seed))
            law = fit(only(measured, FITTED))
            families[law.family] += 1
            held.update(n for n, inside in in_band(law, only(measured, HELD_OUT)).items() if inside)
            bands = [law.predict(float(n), runs=REPEATS) for n in HELD_OUT]
            widths += [(each.interval[1] - each.interval[0]) / each.value for each in bands]
            share = fit(only(measured, FITTED), families=["amdahl"]).parameters["a"]
            shares.append(share.value)
            recovered += share.interval[0] <= PLANTED["serial"] <= share.interval[1]
            errors += [law.predict(float(n)).value / truth(n) - 1 for n in FITTED + HELD_OUT]
            inside = sum(held.values())
            print(
                f"seed {seed}: {law.family}, {inside} of {len(HELD_OUT) * (seed + 1)} held-out means in the band",
                flush=True,
            )
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    print(f"laws chosen: {dict(families)}")
    for n in HELD_OUT:
        print(f"N = {n}: {held[n] / seeds:.0%} of {seeds} means in the band")
    print(
        f"all: {sum(held.values()) / (len(HELD_OUT) * seeds):.1%}; the band's median width is {np.median(widths):.1%}"
    )
    print(
        f"serial share: median {np.median(shares):.4f}, planted {PLANTED['serial']}, in its interval {recovered / seeds:.0%}"
    )
    print(f"X(N) against the planted: median {np.median(errors):+.1%}, worst {max(errors, key=abs):+.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    main(parser.parse_args().seeds)
