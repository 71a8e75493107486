"""examples/flights/many_rows.py: Polars, DuckDB, Dask and pandas by row groups make the same features, and the right ones."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "flights"))

import many_rows

import flights

pytestmark = pytest.mark.needs("processes")

ROWS, PART, GROUP = 25_000, 10_000, 4_000


@pytest.fixture(scope="module")
def year():
    return many_rows.columns(flights.read_flights(flights.source("flights.csv.zip")))


@pytest.fixture(scope="module")
def weather():
    return many_rows.weather_by_hour(flights.read(flights.source("weather.csv")))


@pytest.fixture
def files(year, tmp_path, monkeypatch):
    monkeypatch.setattr(many_rows, "FOLDER", tmp_path)
    monkeypatch.setattr(many_rows, "PART_ROWS", PART)
    monkeypatch.setattr(many_rows, "GROUP_ROWS", GROUP)
    small = year.head(9000)  # so that rows come again, as they do in a large file
    return many_rows.part.map(range(3), rows=ROWS, year=small)


def made(paths):
    return pl.read_parquet(paths).sort("id")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of Dask, where pandas is newer
def test_four_libraries_make_the_same_features(files, weather):
    groups = many_rows.pieces(files)
    assert [group.rows for group in groups] == [4000, 4000, 2000, 4000, 4000, 2000, 4000, 1000]
    by_polars = made(many_rows.with_polars(files, weather))
    assert by_polars["id"].is_unique().all()
    assert not by_polars.null_count().sum_horizontal().item()
    found = many_rows.known_of_pieces(many_rows.piece_sums.map(groups), weather)
    others = {
        "duckdb": many_rows.with_duckdb(files, weather),
        "dask": many_rows.with_dask(files, weather),
        "pandas": many_rows.piece_rows.map(groups, found=found),
        "at once": many_rows.at_once(groups, found)[:1],
    }
    for paths in others.values():
        assert_frame_equal(by_polars, made(paths))


def test_the_features_are_those_of_their_definition(files, weather):
    rows = pl.concat(pl.read_parquet(file) for file in files)
    features = made(many_rows.with_polars(files, weather))
    assert features["id"].to_list() == rows.filter(pl.col("arr_delay").is_not_null())["id"].sort().to_list()
    distance = rows["distance"].to_numpy()
    for row in features.sample(50, seed=3).to_dicts():
        flight = rows.row(by_predicate=pl.col("id") == row["id"], named=True)
        alike = rows.filter(pl.col(name) == flight[name] for name in many_rows.CARRIER_HOUR)
        before = rows.filter(origin=flight["origin"], clock=flight["clock"] - 1)["dep_delay"].mean()
        there = weather.filter(origin=flight["origin"], clock=flight["clock"])
        assert row["late"] == (flight["arr_delay"] >= 15)
        assert [row[name] for name in many_rows.ORIGINS] == [
            name == flight["origin"] for name in many_rows.ORIGINS
        ]
        assert row["usual_delay"] == pytest.approx(alike["dep_delay"].mean(), rel=1e-5)
        assert row["recent_delay"] == pytest.approx(before or 0, rel=1e-5, abs=1e-6)
        assert row["distance"] == pytest.approx(
            (flight["distance"] - distance.mean()) / distance.std(), rel=1e-4
        )
        temp = there["temp"].item() if there.height else None
        assert row["temp"] == pytest.approx(temp or 0, rel=1e-5)


def test_delays_differ_between_copies_of_a_flight_by_minutes(files, year):
    rows = pl.concat(pl.read_parquet(file) for file in files)
    first, again = (rows.slice(at, 7000) for at in (0, 9000))
    assert first.select("carrier", "clock").equals(again.select("carrier", "clock"))
    apart = (first["arr_delay"] - again["arr_delay"]).drop_nulls().to_numpy()
    assert 1 < np.abs(apart).mean() <= 10
    assert not (rows["dep_delay"].is_null() ^ rows["id"].is_in(_without_departure(year))).any()


def _without_departure(year):
    small = year.head(9000)
    gone = set(np.flatnonzero(small["dep_delay"].is_null().to_numpy()).tolist())
    return [number for number in range(ROWS) if number % 9000 in gone]
