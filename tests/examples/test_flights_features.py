"""The flights' features: joined right, the same over a month's border, and blind to the future."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "flights"))

import flight_features as ff

import flights

pytestmark = pytest.mark.needs("processes")

NOTICE = timedelta(minutes=ff.NOTICE_MINUTES)
START = datetime(2013, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def airports():
    return flights.read(flights.source("airports.csv"))


@pytest.fixture(scope="module")
def tables():
    return {name: flights.read(flights.source(f"{name}.csv")) for name in ("weather", "planes")}


@pytest.fixture(scope="module")
def year():
    return flights.read_flights(flights.source("flights.csv.zip"))


@pytest.fixture(scope="module")
def months(year, airports):
    return flights.month.map(range(1, 13), year=year, airports=airports)


# --- ingest --------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_months_hold_every_flight_of_the_year_once(year, months):
    assert year.height == 336_776
    assert sum(part.height for part in months) == year.height
    assert not pl.concat(months).select(ff.ORDER).is_duplicated().any()


def test_the_instant_of_landing_is_what_the_clock_at_the_destination_showed(year, months, airports):
    zones = airports.select(dest="faa", zone="tzone")
    instants = (
        pl.concat(months)
        .join(zones, on="dest", how="left")
        .with_columns(pl.col("zone").fill_null("Etc/GMT+4"))
    )
    rows = instants.join(
        year.select(
            "carrier",
            "flight",
            "origin",
            "arr_time",
            scheduled=pl.col("time_hour") + pl.duration(minutes="minute"),
        ),
        on=list(ff.ORDER),
        validate="1:1",
    ).filter(pl.col("landed").is_not_null())
    assert rows.height == 327_346
    for (zone,), part in rows.group_by("zone"):
        shown = part.select(
            pl.col("landed").dt.convert_time_zone(zone).dt.time().cast(pl.Int64) // 60_000_000_000
        )
        written = part.select(flights.minutes("arr_time") % 1440)
        # New York's clocks jump while a few flights are in the air, by 60 minutes.
        off = ((shown.to_series() - written.to_series()) % 1440).value_counts()
        assert off.filter(pl.col("landed") != 0)["count"].sum() <= 2


def test_a_flight_that_never_left_has_no_instants(months):
    rows = pl.concat(months)
    assert rows.filter(pl.col("dep_delay").is_null() & pl.col("left").is_not_null()).is_empty()
    assert rows.filter(pl.col("arr_delay").is_null() & pl.col("landed").is_not_null()).is_empty()
    assert rows.select(pl.col("scheduled", "due", "local").null_count()).row(0) == (0, 0, 0)


# --- joins and borders ---------------------------------------------------------------------------


@pytest.mark.long
def test_joins_keep_the_rows_and_their_order(months, tables):
    befores = [None, *months[:-1]]
    for part, rows in zip(months, ff.features.map(months, befores, **tables), strict=True):
        assert rows.height == part.height
        assert_frame_equal(
            rows.select("carrier", "origin", "dest", "distance"),
            part.select("carrier", "origin", "dest", "distance"),
        )
        assert rows["late"].equals((part["arr_delay"] >= 15).alias("late"))


@pytest.mark.long
@pytest.mark.parametrize("number", [1, 2, 3, 7, 12])
def test_a_month_with_the_one_before_equals_the_whole_year_at_once(number, months, tables):
    before = months[number - 2] if number > 1 else None
    others = pl.concat(part for place, part in enumerate(months, 1) if place != number)
    assert_frame_equal(
        ff.features(months[number - 1], before, **tables),
        ff.features(months[number - 1], others, **tables),
        check_exact=True,
    )


def test_the_first_days_of_a_month_know_the_legs_of_the_month_before(months, tables):
    alone = ff.features(months[1], None, **tables)
    joined = ff.features(months[1], months[0], **tables)
    assert alone["leg_gap"].null_count() > joined["leg_gap"].null_count() + 300


# --- the target ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "late"), [(-20, False), (0, False), (14, False), (15, True), (16, True), (None, None)]
)
def test_late_is_fifteen_minutes_after_the_scheduled_arrival(delay, late, months, tables):
    part = months[0].head(3).with_columns(arr_delay=pl.lit(delay, pl.Int64))
    assert ff.features(part, None, **tables)["late"].to_list() == [late] * 3


# --- no leak -------------------------------------------------------------------------------------


def censored(legs: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """The legs as somebody knew them at `at`: what happened later has not happened."""
    left, landed = pl.col("left") <= at, pl.col("landed") <= at
    return legs.with_columns(
        *(pl.when(left).then(name) for name in ("left", "dep_delay")),
        *(pl.when(landed).then(name) for name in ("landed", "arr_delay")),
    )


@pytest.mark.parametrize("place", range(0, 24_000, 800))
def test_nothing_after_the_cutoff_changes_a_flights_features(place, months, tables):
    before, month = months[0], months[1]
    cutoff = month["scheduled"][place] - NOTICE
    known = tables["weather"].filter(pl.col("time_hour") + timedelta(hours=1) <= cutoff)
    blind = ff.features(
        censored(month, cutoff), censored(before, cutoff), weather=known, planes=tables["planes"]
    )
    seeing = ff.features(month, before, **tables)
    assert_frame_equal(blind[place].drop("late"), seeing[place].drop("late"), check_exact=True)


def test_the_censored_world_does_change_what_comes_later(months, tables):
    cutoff = months[1]["scheduled"][12_000] - NOTICE
    blind = ff.features(censored(months[1], cutoff), months[0], **tables)
    seeing = ff.features(months[1], months[0], **tables)
    assert not blind["leg_delay"].equals(seeing["leg_delay"])
    assert not blind["airport_delay"].equals(seeing["airport_delay"])


minute = st.integers(-30, 400)


@st.composite
def schedules(draw):
    """A few days of a few aircraft, with cancelled, diverted, very late and nameless legs."""
    rows = []
    for flight in range(draw(st.integers(1, 25))):
        scheduled = START + timedelta(minutes=draw(st.integers(0, 6 * 24 * 60)))
        due = scheduled + timedelta(minutes=draw(st.integers(30, 400)))
        departure, arrival = draw(st.none() | minute), draw(st.none() | minute)
        arrival = None if departure is None else arrival
        rows.append(
            {
                "tailnum": draw(st.sampled_from(["N1", "N2", None])),
                "carrier": "UA",
                "flight": flight,
                "origin": "EWR",
                "scheduled": scheduled,
                "due": due,
                "dep_delay": departure,
                "arr_delay": arrival,
                "left": None if departure is None else scheduled + timedelta(minutes=departure),
                "landed": None if arrival is None else due + timedelta(minutes=arrival),
                "cutoff": scheduled - NOTICE,
            }
        )
    types = dict.fromkeys(("scheduled", "due", "left", "landed", "cutoff"), pl.Datetime("us", "UTC"))
    types |= {"tailnum": pl.String, "dep_delay": pl.Int64, "arr_delay": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=types)


def order(row):
    return tuple(row[name] for name in ff.ORDER)


def previous_leg_by_hand(leg, legs):
    """The definition, leg by leg: what `with_previous_leg` must give."""
    nothing = dict.fromkeys(ff.LEG)
    same = [row for row in legs if row["tailnum"] == leg["tailnum"] and order(row) < order(leg)]
    if leg["tailnum"] is None or not same:
        return nothing
    last = max(same, key=order)
    if leg["scheduled"] - last["scheduled"] > timedelta(days=ff.MEMORY_DAYS):
        return nothing
    cutoff = leg["scheduled"] - NOTICE
    landed = last["landed"] is not None and last["landed"] <= cutoff
    left = last["left"] is not None and last["left"] <= cutoff
    return {
        "leg_delay": last["arr_delay"] if landed else None,
        "leg_departure_delay": last["dep_delay"] if left else None,
        "leg_gap": int((leg["scheduled"] - last["due"]).total_seconds() / 60),
        "leg_open": int(not landed),
    }


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(schedules())
def test_the_previous_leg_is_the_one_of_the_definition(legs):
    rows = legs.to_dicts()
    expected = [previous_leg_by_hand(leg, rows) for leg in rows]
    assert ff.with_previous_leg(legs).select(ff.LEG).to_dicts() == expected


def test_the_previous_leg_of_real_flights_is_the_one_of_the_definition(months):
    legs = pl.concat(months[:2]).with_columns(cutoff=pl.col("scheduled") - NOTICE)
    given_rows = ff.with_previous_leg(legs).sample(200, seed=5).to_dicts()
    by_tail = {tail: part.to_dicts() for (tail,), part in legs.group_by("tailnum")}
    for row in given_rows:
        assert {name: row[name] for name in ff.LEG} == previous_leg_by_hand(row, by_tail[row["tailnum"]])


# --- small ones ----------------------------------------------------------------------------------


def test_a_circle_closes():
    turn = (
        pl.DataFrame({"x": [0.0, 6.0, 12.0, 24.0]})
        .select(**ff.circle("x", pl.col("x"), 24))
        .to_dict(as_series=False)
    )
    assert turn["x_sin"] == pytest.approx([0, 1, 0, 0], abs=1e-12)
    assert turn["x_cos"] == pytest.approx([1, 0, -1, 1], abs=1e-12)


def test_the_wind_of_a_thousand_miles_an_hour_is_no_observation(months, tables):
    assert tables["weather"]["wind_speed"].max() > 1000
    rows = ff.features(months[1], months[0], **tables)
    assert rows["wind_speed"].max() < 100


@pytest.mark.long
def test_one_call_for_all_months_gives_the_same(year, tables, airports):
    months = flights.month.map(range(1, 13), year=year, airports=airports)
    before = [None, *months[:-1]]
    for one, other in zip(
        ff.features.map(months, before, **tables), ff.features_at_once(months, before, **tables), strict=True
    ):
        assert_frame_equal(one, other)
