"""How certain is the score? The bootstrap of the chosen model's ROC AUC over the flights of the last month.

    hooke run examples/flights/certainty.py

Each batch draws as many flights as there are, with replacement, again and again: nothing to wait for, and any number of workers can share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from flight_features import features
from flight_models import forecast
from sklearn.metrics import roc_auc_score

from flights import flights, month, read, read_flights, source
from hooke import pipeline, task

DRAWS = 12
"""Samples of a batch, which then takes a fifth of a second."""


@task(cpus=1, memory="500MiB")
def resample(batch: int, *, forecasts: pl.DataFrame) -> list[float]:
    """The ROC AUC of `DRAWS` bootstrap samples; `batch` seeds them."""
    late, probability = forecasts["late"].to_numpy(), forecasts["probability"].to_numpy()
    generator = np.random.default_rng(batch)
    drawn = (generator.integers(late.size, size=late.size) for _ in range(DRAWS))
    return [float(roc_auc_score(late[rows], probability[rows])) for rows in drawn]


@task(cpus=1)
def interval(batches: Sequence[Sequence[float]]) -> dict[str, float]:
    """The number of samples, their median, and the limits between which 95 % of them are."""
    scores = np.concatenate([*batches])
    low, middle, high = np.percentile(scores, (2.5, 50, 97.5))
    return {"samples": scores.size, "low": float(low), "auc": float(middle), "high": float(high)}


@pipeline
def certainty(months: int = 12, batches: int = 16) -> dict[str, float]:
    """Forecasts the last of `months` (3 to 12) by the model that `flights` chose, and resamples it."""
    year = read_flights(source("flights.csv.zip"))
    weather, planes, airports = (
        read(source("weather.csv")),
        read(source("planes.csv")),
        read(source("airports.csv")),
    )
    before, last = (month(number, year=year, airports=airports) for number in (months - 1, months))
    rows = features(last, before, weather=weather, planes=planes)
    forecasts = forecast(flights(months)["model"], months=[rows])
    return interval(resample.map(range(batches), forecasts=forecasts))
