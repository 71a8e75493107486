"""The work that is compared: `flights` as an engine's own code would have it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

# Libraries read them when they are imported: the same threads for both.
os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "HOOKE_SINKS": "none"}
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "flights"))
# Ray's workers have what the environment says: by hand nothing else brings them this code.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], str(Path(__file__).parents[2])])

import flights as job

__all__ = ["ByHand", "flights", "job"]


class ByHand(Protocol):
    """What an engine's own code does with the same functions, on the fleet's workers."""

    def flights(self, months: int) -> dict[str, Any]: ...

    def noops(self, many: int) -> list[int]: ...


def flights(go: Callable[..., Any], months: int) -> dict[str, Any]:
    """The body of `flights`, with `go(task, ...)` for calls: what it returns may be passed on, in lists, too."""

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
    return {
        "model": models["+ airport's last hour"],
        "chosen": best,
        "sweep": go(job.table, job.GRID, trials),
        "scores": scores,
        "calibration": go(job.calibration, forecasts[-1]),
    }
