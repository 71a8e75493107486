"""Features of more flights than fit into memory, by Polars, DuckDB, Dask or pandas, with the same expressions.

    hooke run examples/flights/many_rows.py --rows 1000000
    hooke run examples/flights/many_rows.py --rows 50000000 --engine duckdb
    hooke run examples/flights/many_rows.py --rows 50000000 --engine dask --on dask:2
    hooke run examples/flights/many_rows.py --rows 50000000 --engine pandas --workers 2

The flights of 2013 come again and again with other delays, as Parquet files of many row groups. `sums` and `feature_rows` are
written once, with Narwhals, which hands them to the library of the frame that they get.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import narwhals as nw
import numpy as np
import polars as pl
import pyarrow.parquet as pq

from flights import read, read_flights, source
from hooke import pipeline, task
from hooke.data import RowGroup, scan

PART_ROWS = 1_000_000
"""Of a file."""
GROUP_ROWS = 250_000
"""Of a row group, which a worker holds at once: 30 MB as a frame of pandas."""
FOLDER = Path(__file__).parent / "many_rows"
DUCKDB_MEMORY = "1GB"
LATE_MINUTES = 15
ORIGINS = ("EWR", "JFK", "LGA")
CARRIER_HOUR = ("carrier", "origin", "hour")
ORIGIN_CLOCK = ("origin", "clock")
NUMBERS = ("usual_delay", "recent_delay", "distance", "temp", "wind_speed", "precip")


# --- The data: hours are counted from the beginning of 2013, UTC, so that no library has its own idea of a time zone.


def clock(column: str) -> pl.Expr:
    """Hours since the beginning of 2013."""
    return (pl.col(column) - datetime(2013, 1, 1, tzinfo=UTC)).dt.total_hours().cast(pl.Int32)


@task(cpus=1, memory="1GiB")
def columns(year: pl.DataFrame) -> pl.DataFrame:
    """Of each flight of 2013, what the features are made of."""
    return year.select(
        "carrier",
        "origin",
        pl.col("hour", "distance", "dep_delay", "arr_delay").cast(pl.Int32),
        clock=clock("time_hour"),
    )


@task(cpus=1, memory="500MiB")
def weather_by_hour(observed: pl.DataFrame) -> pl.DataFrame:
    """The weather of an origin and an hour, each column with mean 0 and deviation 1."""
    names = ("temp", "wind_speed", "precip")
    wind = pl.when(pl.col("wind_speed") < 200).then("wind_speed")  # one was recorded at 1,048 miles per hour
    plain = observed.with_columns(wind_speed=wind, clock=clock("time_hour")).unique(ORIGIN_CLOCK)
    scaled = ((pl.col(name) - pl.col(name).mean()) / pl.col(name).std() for name in names)
    return plain.sort(ORIGIN_CLOCK).select(*ORIGIN_CLOCK, *scaled)


@task(cpus=1, memory="500MiB")
def part(number: int, *, rows: int, year: pl.DataFrame) -> Path:
    """A file of the flights from number * PART_ROWS on, with delays that differ by up to five minutes from those of 2013."""
    ids = np.arange(number * PART_ROWS, min(rows, (number + 1) * PART_ROWS))
    earlier = pl.Series(np.random.default_rng(number).integers(-5, 6, ids.size, dtype=np.int32))
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"part-{number:05}.parquet"
    made = year[ids % year.height].with_columns(pl.col("dep_delay", "arr_delay") + earlier, id=ids)
    made.write_parquet(path, row_group_size=GROUP_ROWS)
    return path


# --- The features, for frames of any library. Sums are of whole numbers, so they are the same in any order.


def sums(flights: Any, keys: Sequence[str]) -> Any:
    """For each group: its flights, their miles and squares of these, and the delays of those that left."""
    frame = nw.from_native(flights).with_columns(
        nw.col("distance").cast(nw.Int64), nw.col("dep_delay").cast(nw.Float64), rows=nw.lit(1, nw.Int64)
    )
    grouped = frame.with_columns(squares=nw.col("distance") * nw.col("distance")).group_by(*keys)
    return grouped.agg(
        nw.col("rows", "distance", "squares", "dep_delay").sum(), left=nw.col("dep_delay").count()
    ).to_native()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of all rows, once they were read: small tables, by the columns that rows are joined on."""

    usual: pl.DataFrame
    recent: pl.DataFrame
    weather: pl.DataFrame
    mean: float
    deviation: float


def known(counted: Sequence[pl.DataFrame], weather: pl.DataFrame) -> Known:
    """From the sums by `CARRIER_HOUR` and by `ORIGIN_CLOCK`, of all rows or of each part of them."""
    by_carrier, by_hour = counted
    delay = pl.col("dep_delay").sum() / pl.col("left").sum()
    totals = by_carrier.sum()
    rows, distance, squares = (float(totals[name].item()) for name in ("rows", "distance", "squares"))
    hours = by_hour.filter(pl.col("left") > 0).with_columns(pl.col("clock") + 1)
    return Known(
        usual=by_carrier.group_by(CARRIER_HOUR).agg(usual_delay=delay).sort(CARRIER_HOUR),
        recent=hours.group_by(ORIGIN_CLOCK).agg(recent_delay=delay).sort(ORIGIN_CLOCK),
        weather=weather,
        mean=distance / rows,
        deviation=(squares / rows - (distance / rows) ** 2) ** 0.5,
    )


def feature_rows(flights: Any, tables: Sequence[Any], found: Known) -> Any:
    """A row for each flight that arrived. `tables` are those of `found`, in the library of `flights`."""
    usual, recent, weather = map(nw.from_native, tables)
    return (
        nw.from_native(flights)
        .filter(~nw.col("arr_delay").is_null())
        .join(usual, on=list(CARRIER_HOUR), how="left")
        .join(recent, on=list(ORIGIN_CLOCK), how="left")
        .join(weather, on=list(ORIGIN_CLOCK), how="left")
        .with_columns(
            (nw.col("distance") - found.mean) / found.deviation,
            *((nw.col("origin") == name).cast(nw.Int8).alias(name) for name in ORIGINS),
            late=(nw.col("arr_delay") >= LATE_MINUTES).cast(nw.Int8),
        )
        .select(
            "id",
            "late",
            "hour",
            *ORIGINS,
            *(nw.col(name).fill_null(0.0).cast(nw.Float32) for name in NUMBERS),
        )
        .to_native()
    )


def tables_of(found: Known) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Those that rows are joined with."""
    return found.usual, found.recent, found.weather


# --- Four libraries.


def polars_features(files: Sequence[Path], weather: pl.DataFrame, into: Path) -> Path:
    """By Polars' streaming engine."""
    flights = pl.scan_parquet(list(files))
    # One after the other: `collect_all` would keep what both read, which is all rows.
    each = [sums(flights, keys).collect(engine="streaming") for keys in (CARRIER_HOUR, ORIGIN_CLOCK)]
    found = known(each, weather)
    made = feature_rows(flights, [table.lazy() for table in tables_of(found)], found)
    made.sink_parquet(into, row_group_size=GROUP_ROWS)
    return into


def duckdb_features(files: Sequence[Path], weather: pl.DataFrame, into: Path) -> Path:
    """By DuckDB, which writes to the disk what does not fit into `DUCKDB_MEMORY`."""
    settings: dict[str, Any] = {
        "memory_limit": DUCKDB_MEMORY,
        "threads": 2,
        "preserve_insertion_order": False,
    }
    with duckdb.connect(config=settings) as database:
        flights = database.read_parquet([str(file) for file in files])
        found = known([sums(flights, keys).pl() for keys in (CARRIER_HOUR, ORIGIN_CLOCK)], weather)
        tables = [database.from_arrow(table.to_arrow()) for table in tables_of(found)]
        feature_rows(flights, tables, found).write_parquet(str(into), row_group_size=GROUP_ROWS)
    return into


def dask_features(files: Sequence[Path], weather: pl.DataFrame, into: Path) -> list[Path]:
    """By a Dask frame, whose partitions are row groups as frames of pandas, on the cluster on which the task runs."""
    import dask.dataframe as dd  # takes a second, which the other libraries need not wait for

    flights = dd.read_parquet([str(file) for file in files], split_row_groups=True, aggregate_files=False)
    each = dd.compute(*(flights.map_partitions(sums, keys) for keys in (CARRIER_HOUR, ORIGIN_CLOCK)))
    found = known([pl.DataFrame(frame) for frame in each], weather)
    tables = [table.to_pandas() for table in tables_of(found)]
    shutil.rmtree(into, ignore_errors=True)
    made = flights.map_partitions(feature_rows, tables, found)
    made.to_parquet(into, write_index=False)
    return sorted(into.glob("*.parquet"))


@task(cpus=2, memory="2GiB")
def with_polars(files: list[Path], weather: pl.DataFrame) -> list[Path]:
    """Features of all rows."""
    return [polars_features(files, weather, FOLDER / "polars.parquet")]


@task(cpus=2, memory="2GiB")
def with_duckdb(files: list[Path], weather: pl.DataFrame) -> list[Path]:
    """Features of all rows."""
    return [duckdb_features(files, weather, FOLDER / "duckdb.parquet")]


@task(cpus=1, memory="1GiB")
def with_dask(files: list[Path], weather: pl.DataFrame) -> list[Path]:
    """Features of all rows."""
    return dask_features(files, weather, FOLDER / "dask")


@task(cpus=1, memory="500MiB")
def pieces(files: list[Path]) -> list[RowGroup]:
    """All row groups, as the items of a map."""
    return [piece for piece in scan(files) if isinstance(piece, RowGroup)]


@task(cpus=1, memory="750MiB")
def piece_sums(piece: RowGroup) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The sums of a row group, by pandas."""
    flights = piece.read().to_pandas()
    by_carrier, by_hour = (pl.DataFrame(sums(flights, keys)) for keys in (CARRIER_HOUR, ORIGIN_CLOCK))
    return by_carrier, by_hour


@task(cpus=1, memory="500MiB")
def known_of_pieces(parts: Sequence[tuple[pl.DataFrame, pl.DataFrame]], weather: pl.DataFrame) -> Known:
    """What is known of all rows."""
    return known([pl.concat(each) for each in zip(*parts, strict=True)], weather)


@task(cpus=1, memory="750MiB")
def piece_rows(piece: RowGroup, found: Known) -> Path:
    """The features of a row group, by pandas."""
    tables = [table.to_pandas() for table in tables_of(found)]
    made = feature_rows(piece.read().to_pandas(), tables, found)
    path = FOLDER / f"pandas-{piece.file.path.stem}-{piece.number:03}.parquet"
    made.to_parquet(path, index=False)
    return path


def at_once(groups: Sequence[RowGroup], found: Known) -> list[Path]:
    """The result of `piece_rows.map` from one query of Polars, in one file: what `hooke measure` compares the map with."""
    tables = [table.lazy() for table in tables_of(found)]
    flights = pl.scan_parquet(list(dict.fromkeys(group.file.path for group in groups)))
    into = FOLDER / "at_once.parquet"
    feature_rows(flights, tables, found).sink_parquet(into)
    return [into] * len(groups)


@task(cpus=1, memory="500MiB")
def summary(files: Sequence[Path]) -> dict[str, float]:
    """How many rows there are, and the share of late ones."""
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    late = pl.scan_parquet(list(files)).select(pl.col("late").mean()).collect(engine="streaming").item()
    return {"rows": rows, "late": late}


@pipeline
def many_rows(
    rows: int = 1_000_000, engine: Literal["polars", "duckdb", "dask", "pandas"] = "polars"
) -> dict[str, float]:
    """Writes so many flights into files, and prepares their features."""
    year = columns(read_flights(source("flights.csv.zip")))
    weather = weather_by_hour(read(source("weather.csv")))
    files = part.map(range(-(-rows // PART_ROWS)), rows=rows, year=year)
    if engine == "pandas":
        groups = pieces(files)
        found = known_of_pieces(piece_sums.map(groups), weather)
        return summary(piece_rows.map(groups, found=found))
    way = {"polars": with_polars, "duckdb": with_duckdb, "dask": with_dask}[engine]
    return summary(way(files, weather))
