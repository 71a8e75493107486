"""From the legs of a month to the rows of a model, without any measurement after the cut-off.

The cut-off is `NOTICE_MINUTES` before the scheduled departure. The aircraft of a leg is assumed to be known by then
(the data contain only the aircraft that flew).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl

from hooke import task

NOTICE_MINUTES = 60
LATE_MINUTES = 15
MEMORY_DAYS = 3  # shorter than any month, so a month needs only the one before it
IDENTITY = ("carrier", "flight", "tailnum", "origin", "dest")
ORDER = ("scheduled", "carrier", "flight", "origin")
WORDS = ("carrier", "origin", "dest")
HOURLY = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
CALENDAR = ("hour_sin", "hour_cos", "day_sin", "day_cos", "weekday")
PLAIN = (*WORDS, "distance", *CALENDAR, *HOURLY, "age", "seats", "engines")
LEG = ("leg_delay", "leg_departure_delay", "leg_gap", "leg_open")
AIRPORT = ("airport_delay", "airport_departures")
SCHEMA = {name: pl.String if name in WORDS else pl.Float64 for name in PLAIN + LEG + AIRPORT}

Flight: Any = msgspec.defstruct(
    "Flight",
    [(name, str) if name in WORDS else (name, float | None, None) for name in SCHEMA],
    forbid_unknown_fields=True,
)
"""A row of `features`. Values that are unknown an hour before the flight (the aircraft's age, the wind) are null or omitted."""


@task(cpus=1, memory="1GiB")
def features(
    month: pl.DataFrame, before: pl.DataFrame | None, *, weather: pl.DataFrame, planes: pl.DataFrame
) -> pl.DataFrame:
    """One row per flight of `month`, in its order: `late` (null: never arrived), `hour`, the features.

    `before` is the previous month, because previous legs and delays cross the border.
    """
    legs = month if before is None else pl.concat([before, month])
    return rows_of(legs, [month["month"][0]], weather, planes).drop("month")


def features_at_once(
    months: Sequence[pl.DataFrame],
    _before: Sequence[pl.DataFrame | None],
    *,
    weather: pl.DataFrame,
    planes: pl.DataFrame,
) -> list[pl.DataFrame]:
    """The result of `features.map` from one Polars call over all months, as written for a single thread."""
    rows = rows_of(pl.concat(months), [month["month"][0] for month in months], weather, planes)
    return rows.partition_by("month", include_key=False)


def rows_of(
    legs: pl.DataFrame, months: list[int], weather: pl.DataFrame, planes: pl.DataFrame
) -> pl.DataFrame:
    """The rows of these `months`; `legs` also contains the month before them."""
    legs = legs.with_columns(
        late=pl.col("arr_delay") >= LATE_MINUTES,
        cutoff=pl.col("scheduled") - pl.duration(minutes=NOTICE_MINUTES),
    )
    rows = with_calendar(with_previous_leg(legs).filter(pl.col("month").is_in(months)))
    rows = with_airport(with_weather(rows, weather), legs)
    rows = with_plane(rows, planes)
    return rows.sort(ORDER).select("month", "late", "hour", *PLAIN, *LEG, *AIRPORT)


def with_previous_leg(legs: pl.DataFrame) -> pl.DataFrame:
    """What is known at the cut-off about the previous scheduled leg of the same aircraft.

    `leg_delay` and `leg_departure_delay` (minutes) are null until that leg landed or left; `leg_gap` is the
    scheduled minutes from its landing to this departure; `leg_open` is 1 until it landed, if it ever did.
    """
    known = ("scheduled", "due", "left", "landed", "dep_delay", "arr_delay")
    previous = {name: pl.col(name).shift(1).over("tailnum", order_by=ORDER) for name in known}
    legs = legs.with_columns(**{f"leg_{name}_": value for name, value in previous.items()})
    age = pl.col("scheduled") - pl.col("leg_scheduled_")
    recent = pl.col("tailnum").is_not_null() & (age <= pl.duration(days=MEMORY_DAYS))
    landed = (pl.col("leg_landed_") <= pl.col("cutoff")).fill_null(False)
    left = (pl.col("leg_left_") <= pl.col("cutoff")).fill_null(False)
    return legs.with_columns(
        leg_delay=pl.when(recent & landed).then("leg_arr_delay_"),
        leg_departure_delay=pl.when(recent & left).then("leg_dep_delay_"),
        leg_gap=pl.when(recent).then((pl.col("scheduled") - pl.col("leg_due_")).dt.total_minutes()),
        leg_open=pl.when(recent).then((~landed).cast(pl.Int64)),
    )


def with_calendar(rows: pl.DataFrame) -> pl.DataFrame:
    """The scheduled local time; hours and days are angles, so midnight and new year are continuous."""
    local = pl.col("local").dt
    hours = local.hour() + local.minute() / 60
    circles = {**circle("hour", hours, 24), **circle("day", local.ordinal_day(), 365)}
    return rows.with_columns(hour=local.hour(), weekday=local.weekday(), **circles)


def circle(name: str, value: pl.Expr, period: float) -> dict[str, pl.Expr]:
    """`value` as sine and cosine of an angle with this `period`."""
    angle = value * (2 * math.pi / period)
    return {f"{name}_sin": angle.sin(), f"{name}_cos": angle.cos()}


def with_weather(rows: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """The weather of the origin in the last full hour before the cut-off; null without an observation."""
    # Hour H is observed up to H:59. One wind was recorded at 1,048 miles per hour.
    last_hour = pl.col("cutoff").dt.truncate("1h") - pl.duration(hours=1)
    wind = pl.when(pl.col("wind_speed") < 200).then("wind_speed")
    observed = weather.with_columns(wind_speed=wind).select("origin", *HOURLY, observed="time_hour")
    return rows.with_columns(observed=last_hour).join(
        observed, on=["origin", "observed"], how="left", validate="m:1"
    )


def with_airport(rows: pl.DataFrame, legs: pl.DataFrame) -> pl.DataFrame:
    """The mean delay in minutes of the flights that left the origin in the same hour, and their number."""
    gone = legs.filter(pl.col("left").is_not_null())
    hours = gone.group_by("origin", observed=pl.col("left").dt.truncate("1h")).agg(
        airport_delay=pl.col("dep_delay").mean(), airport_departures=pl.len()
    )
    return rows.join(hours, on=["origin", "observed"], how="left", validate="m:1")


def with_plane(rows: pl.DataFrame, planes: pl.DataFrame) -> pl.DataFrame:
    """The aircraft's age in years, its seats and engines; null for an aircraft not in the registry."""
    known = planes.select("tailnum", "seats", "engines", built="year")
    rows = rows.join(known, on="tailnum", how="left", validate="m:1")
    return rows.with_columns(age=pl.col("local").dt.year() - pl.col("built"))
