"""Hooke on Dask or Ray beside the same work given to it by hand: `python -m benchmarks.engines [--on ray] [--rounds 3] [--months 12]`.

Two workers of one thread, in turns, each figure a median. Each run of Hooke's has a new project, so nothing is cached.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engines import work
from benchmarks.engines.noops import noops

from hooke import Fleet
from hooke.project.folder import Project
from hooke.project.settings import Settings
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run

NOOPS = 1000


def through_hooke(what: Any, place: Any, **params: Any) -> Any:
    """A run in a new project, and its result."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(root=Path(folder), settings=Settings())
        driver = prepare(RunOrder(pipeline=what, params=params, on=place), project)
        assert driver.drive() == "finished"
        return Run(project, driver.run).result()


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = act()
    return time.perf_counter() - began, result


def first_result(on: str) -> float:
    """From nothing to the result of one task, in a process that has imported nothing of the engine's library before its first time."""
    return timed(lambda: through_hooke(noops, f"{on}:2", many=1))[0]


def by_hand(on: str, client: Any) -> work.ByHand:
    if on == "ray":
        from benchmarks.engines.ray_by_hand import RayByHand

        return RayByHand(client)
    from benchmarks.engines.dask_by_hand import DaskByHand

    return DaskByHand(client)


def compared(name: str, rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    figures: list[tuple[float, float]] = []
    for _ in range(rounds):
        (a, mine), (b, other) = timed(ours), timed(theirs)
        assert str(mine) == str(other), f"{name}: the results differ"
        figures.append((a, b))
    a, b = (median(column) for column in zip(*figures, strict=True))
    ratio = median(x / y for x, y in figures)
    print(f"{name:42} Hooke {a:7.2f} s   by hand {b:7.2f} s   ratio {ratio:.2f}", flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--on", choices=["dask", "ray"], default="dask")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--months", type=int, default=12)
    given = asked.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cpus", flush=True)
    seconds = sorted(first_result(given.on) for _ in range(given.rounds))
    print(f"first result on {given.on}:2: {', '.join(f'{each:.2f}' for each in seconds)} s", flush=True)
    with tempfile.TemporaryDirectory() as here, chdir(here), Fleet(given.on, workers=2) as fleet:
        theirs = by_hand(given.on, fleet.client())
        assert through_hooke(noops, fleet, many=4) == theirs.noops(4)
        compared(
            f"{NOOPS} tasks that do nothing",
            given.rounds,
            lambda: through_hooke(noops, fleet, many=NOOPS),
            lambda: theirs.noops(NOOPS),
        )
        compared(
            f"flights, {given.months} months",
            given.rounds,
            lambda: through_hooke(work.job.flights, fleet, months=given.months)["scores"],
            lambda: theirs.flights(given.months)["scores"],
        )
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
