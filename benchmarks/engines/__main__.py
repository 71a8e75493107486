"""Hooke on Dask beside the same work given to Dask by hand: `python -m benchmarks.engines [--rounds 3] [--months 12]`.

Two workers of one thread, in turns, each figure a median. Each run of Hooke's has a new project, so nothing is cached.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from statistics import median
from typing import Any

# Libraries read them when they are imported: the same threads for both.
os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "HOOKE_SINKS": "none"}
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "flights"))

from distributed import Client

import flights as job
from hooke import Fleet, pipeline, task
from hooke.project.driving import Order, prepare
from hooke.project.folder import Project
from hooke.project.running import Run
from hooke.project.settings import Settings

NOOPS = 1000


def by_hand(client: Client, months: int) -> dict[str, Any]:
    """The body of `flights`, with Dask's futures for promises."""

    def go(each: Any, *args: Any, **kwargs: Any) -> Any:
        return client.submit(each.function, *args, pure=False, **kwargs)

    tested = months - max(1, months // 4)
    judged = tested - max(1, tested * 2 // 9)
    year = go(job.read_flights, job.source("flights.csv.zip"))
    weather, planes, airports = (
        go(job.read, job.source(f"{name}.csv")) for name in ("weather", "planes", "airports")
    )
    parts = [go(job.month, number, year=year, airports=airports) for number in range(1, months + 1)]
    rows = [
        go(job.features, part, before, weather=weather, planes=planes)
        for part, before in zip(parts, [None, *parts[:-1]], strict=True)
    ]
    every = job.PLAIN + job.LEG + job.AIRPORT
    sweep = [go(job.fit, each, months=rows[:judged], columns=every) for each in job.GRID]
    trials = [go(job.grade, go(job.forecast, each, months=rows[judged:tested])) for each in sweep]
    best = go(job.choose, job.GRID, trials)
    train, test = rows[:tested], rows[tested:]
    models = {
        "base rate": go(job.rates, (), months=train),
        "carrier x hour": go(job.rates, ("carrier", "hour"), months=train),
        "plain": go(job.fit, best, months=train, columns=job.PLAIN),
        "+ previous leg": go(job.fit, best, months=train, columns=job.PLAIN + job.LEG),
        "+ airport's last hour": go(job.fit, best, months=train, columns=every),
    }
    forecasts = [go(job.forecast, each, months=test) for each in models.values()]
    scores = go(job.table, list(models), [go(job.grade, each) for each in forecasts])
    wanted = {
        "model": models["+ airport's last hour"],
        "chosen": best,
        "sweep": go(job.table, job.GRID, trials),
        "scores": scores,
        "calibration": go(job.calibration, forecasts[-1]),
    }
    return client.gather(wanted)


@task
def noop(x: int) -> int:
    return x


@pipeline
def noops(many: int) -> Any:
    return noop.map(range(many))


def through_hooke(what: Any, place: Any, **params: Any) -> Any:
    """A run in a new project, and its result."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(root=Path(folder), settings=Settings())
        driver = prepare(Order(pipeline=what, params=params, on=place), project)
        assert driver.drive() == "finished"
        return Run(project, driver.run).result()


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = act()
    return time.perf_counter() - began, result


def first_result() -> float:
    """From nothing to the result of one task, in a process that has imported nothing of Dask's before its first time."""
    return timed(lambda: through_hooke(noops, "dask:2", many=1))[0]


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
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--months", type=int, default=12)
    given = asked.parse_args()
    seconds = sorted(first_result() for _ in range(given.rounds))
    print(f"first result on dask:2: {', '.join(f'{each:.2f}' for each in seconds)} s", flush=True)
    with tempfile.TemporaryDirectory() as here, chdir(here), Fleet("dask", workers=2) as fleet:
        client = fleet.client()
        client.gather(client.map(abs, range(10)))
        run_of_noops = through_hooke(noops, fleet, many=4)
        assert run_of_noops == [0, 1, 2, 3]
        compared(
            f"{NOOPS} tasks that do nothing",
            given.rounds,
            lambda: through_hooke(noops, fleet, many=NOOPS),
            lambda: client.gather(client.map(noop.function, range(NOOPS), pure=False)),
        )
        compared(
            f"flights, {given.months} months",
            given.rounds,
            lambda: through_hooke(job.flights, fleet, months=given.months)["scores"],
            lambda: by_hand(client, given.months)["scores"],
        )


if __name__ == "__main__":
    main()
