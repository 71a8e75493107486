"""The flights' models: encoded without a leak, scored right, the same bits on every run."""

import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.support.sizes import choose_size
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "flights"))

import flight_models as fm
from flight_features import AIRPORT, LEG, PLAIN, features

import flights

pytestmark = pytest.mark.needs("processes")

SMALL = fm.Candidate(leaves=15, rate=0.1, rounds=20)


@pytest.fixture(scope="module")
def january():
    """Half of January: enough to tell late from not."""
    tables = {name: flights.read(flights.source(f"{name}.csv")) for name in ("airports", "weather", "planes")}
    year = flights.read_flights(flights.source("flights.csv.zip"))
    month = flights.month(1, year=year, airports=tables["airports"])
    return features(month, None, weather=tables["weather"], planes=tables["planes"]).head(12_000)


def rows(late, carriers=None, hours=None):
    count = len(late)
    return pl.DataFrame(
        {"late": late, "carrier": carriers or ["UA"] * count, "hour": hours or [8] * count},
        schema_overrides={"late": pl.Boolean},
    )


# --- encoding ------------------------------------------------------------------------------------


def test_a_word_is_its_place_and_an_unknown_one_is_missing():
    met = fm.matrix(
        pl.DataFrame({"carrier": ["B", "A", "Z", None], "x": [1, None, 3, 4]}),
        ("carrier", "x"),
        {"carrier": ("A", "B")},
    )
    np.testing.assert_array_equal(met, [[1, 1], [0, np.nan], [np.nan, 3], [np.nan, 4]])


@pytest.mark.long
@pytest.mark.needs("processes")
def test_the_words_of_a_model_are_those_of_its_training_months(january):
    model = fm.fit(SMALL, months=[january.filter(pl.col("dest") != "ATL")], columns=PLAIN)
    assert "ATL" not in model.words["dest"]
    assert np.isfinite(model.predict(january)).all()


def test_flights_that_never_arrived_are_neither_trained_on_nor_scored():
    months = [rows([True, None]), rows([False])]
    assert fm.arrived(months)["late"].to_list() == [True, False]
    assert fm.forecast(fm.rates((), months=months), months=months).height == 2


# --- baselines -----------------------------------------------------------------------------------


def test_a_group_is_drawn_to_the_overall_rate():
    months = [rows([True] * 10 + [False] * 30, ["A"] * 10 + ["B"] * 30)]
    model = fm.rates(("carrier",), months=months)
    asked = rows([None] * 3, ["A", "B", "never met"])
    assert model.predict(asked) == pytest.approx([12.5 / 20, 2.5 / 40, 0.25])


def test_the_base_rate_is_one_number():
    model = fm.rates((), months=[rows([True, False, False, False])])
    assert fm.grade(fm.forecast(model, months=[rows([True, False])]))["auc"] == 0.5
    assert model.predict(rows([True] * 3)).tolist() == [0.25] * 3


# --- scores --------------------------------------------------------------------------------------


def test_grades_by_hand():
    forecasts = pl.DataFrame({"late": [True, False, True, False], "probability": [0.8, 0.4, 0.3, 0.1]})
    grade = fm.grade(forecasts)
    assert grade["auc"] == 0.75
    assert grade["log_loss"] == pytest.approx(-sum(map(math.log, (0.8, 0.6, 0.3, 0.9))) / 4)
    assert grade["brier"] == pytest.approx((0.04 + 0.16 + 0.49 + 0.01) / 4)


def test_calibration_compares_what_was_foretold_with_what_came():
    forecasts = pl.DataFrame({"late": [False, True, True, True], "probability": [0.0, 0.05, 0.95, 1.0]})
    assert fm.calibration(forecasts).to_dicts() == [
        {"bucket": 0, "flights": 2, "foretold": pytest.approx(0.025), "late": 0.5},
        {"bucket": 9, "flights": 2, "foretold": pytest.approx(0.975), "late": 1.0},
    ]


def test_the_least_log_loss_is_chosen_and_of_equals_the_first():
    grades = [{"log_loss": 0.5}, {"log_loss": 0.4}, {"log_loss": 0.4}]
    assert flights.choose(flights.GRID[:3], grades) == flights.GRID[1]


# --- the same bits -------------------------------------------------------------------------------


def test_a_fit_is_the_same_on_any_number_of_threads(january):
    columns = PLAIN + LEG + AIRPORT
    forecasts = []
    for threads in (1, 2, 3, 1):
        with threadpool_limits(threads):
            model = fm.fit(SMALL, months=[january], columns=columns)
            forecasts.append(model.predict(january).tobytes())
    assert len(set(forecasts)) == 1


# --- the pipeline --------------------------------------------------------------------------------


@pytest.fixture
def one_thread():
    """As a task of one cpu has it; on a busy machine two threads that wait for each other took over five times as long."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("months", [0, 2, 13])
def test_too_few_or_too_many_months_are_refused(months):
    with pytest.raises(ValueError, match=f"months={months}: use 3 to 12"):
        flights.flights(months)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1200)
def test_each_model_beats_those_that_know_less(one_thread, capsys):
    """In plain Python, on half a year; in `make soak-campaigns` on the whole one, with the figures of its last quarter."""
    months = choose_size(sample=6, full=6, soak=12)
    whole = months == 12
    result = flights.flights(months=months)
    assert result["chosen"] in flights.GRID
    assert result["sweep"].height == len(flights.GRID)
    auc = dict(result["scores"].select("model", "auc").iter_rows())
    loss = result["scores"]["log_loss"].to_list()
    assert auc["base rate"] == 0.5
    assert 0.62 < auc["carrier x hour"] < auc["plain"] < auc["+ previous leg"] < auc["+ airport's last hour"]
    assert auc["plain"] > 0.688
    assert auc["+ previous leg"] > auc["plain"] + (0.015 if whole else 0.01)
    assert auc["+ airport's last hour"] > 0.73
    assert loss == sorted(loss, reverse=True)
    table = result["calibration"]
    assert table["flights"].sum() == (82_609 if whole else 27_075)
    assert (table["foretold"] - table["late"]).abs().max() < (0.15 if whole else 0.2)
    flights.show(result)
    assert "carrier x hour" in capsys.readouterr().out
