"""The rows of examples/flights for networks: as arrays, with what a network has to know of them, and the scores of its forecasts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import polars as pl

import hooke
from hooke import task

sys.path.append(str(Path(__file__).resolve().parents[1] / "flights"))

from flight_features import AIRPORT, LEG, PLAIN, WORDS, Flight, features
from flight_models import arrived, grade

from flights import month, read, read_flights, source

__all__ = [
    "NUMBERS",
    "WORDS",
    "Facts",
    "Flight",
    "Forecaster",
    "arrays",
    "facts",
    "learnt_from",
    "places",
    "rows_of",
    "scores",
    "split",
]

NUMBERS = [name for name in (*PLAIN, *LEG, *AIRPORT) if name not in WORDS]


class Facts(msgspec.Struct, frozen=True):
    """What a network is made from: the words of the training months, and the mean and deviation of their numbers."""

    words: tuple[tuple[str, ...], ...]
    """Of each of WORDS."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Forecaster(Protocol):
    """A trained network, of whichever framework."""

    def predict(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """The probability of a late arrival, for each of the rows of `arrays`."""
        ...


def split(months: int) -> tuple[Any, Any]:
    """In a pipeline: the rows of all months but the last quarter, and those of the last quarter."""
    year = read_flights(source("flights.csv.zip"))
    weather, planes, airports = (read(source(f"{name}.csv")) for name in ("weather", "planes", "airports"))
    parts = month.map(range(1, months + 1), year=year, airports=airports)
    rows = features.map(parts, [None, *parts[:-1]], weather=weather, planes=planes)
    last = months - max(1, months // 4)
    return rows[:last], rows[last:]


def inputs(rows: pl.DataFrame) -> dict[str, np.ndarray]:
    """What a network reads: numbers, NaN where one is missing, and each word as text."""
    numbers = rows.select(pl.col(NUMBERS).cast(pl.Float32).fill_null(float("nan"))).to_numpy()
    return {"numbers": numbers, **{name: rows[name].to_numpy().astype(np.str_) for name in WORDS}}


@task(cpus=1, memory="1GiB")
def arrays(months: Sequence[pl.DataFrame]) -> dict[str, np.ndarray]:
    """The inputs of a network, and whether each flight was late."""
    rows = arrived(months)
    return inputs(rows) | {"late": rows["late"].cast(pl.Float32).to_numpy()}


@task(cpus=1, memory="1GiB")
def facts(data: Mapping[str, np.ndarray]) -> Facts:
    """What a network has to know of the rows that it learns from."""
    words = tuple(tuple(np.unique(data[name]).tolist()) for name in WORDS)
    numbers = data["numbers"].astype(np.float64)
    return Facts(
        words, tuple(np.nanmean(numbers, axis=0).tolist()), tuple(np.nanstd(numbers, axis=0).tolist())
    )


def places(rows: Mapping[str, np.ndarray], words: Sequence[Sequence[str]]) -> np.ndarray:
    """The place of each word in its list (rows, words); of unknown ones that after the last."""
    found = []
    for name, known in zip(WORDS, words, strict=True):
        place = {word: at for at, word in enumerate(known)}
        found.append([place.get(word, len(known)) for word in rows[name].tolist()])
    return np.array(found, np.int64).T


def learnt_from(data: Mapping[str, np.ndarray], known: Facts) -> dict[str, np.ndarray]:
    """The columns that a network learns from."""
    return {"numbers": data["numbers"], "places": places(data, known.words), "late": data["late"]}


def scores(model: Forecaster, data: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The scores of examples/flights for the forecasts of a network, logged as metrics."""
    rows = {name: values for name, values in data.items() if name != "late"}
    probability = model.predict(rows).astype(np.float64)
    found = grade(pl.DataFrame({"late": data["late"] > 0, "probability": probability}))
    hooke.log_metrics(found)
    return found


def rows_of(flights: Sequence[Flight]) -> dict[str, np.ndarray]:
    """The inputs of a network for flights as a service gets them."""
    numbers = [
        [np.nan if (value := getattr(each, name)) is None else value for name in NUMBERS] for each in flights
    ]
    words = {name: np.array([getattr(each, name) for each in flights], np.str_) for name in WORDS}
    return {"numbers": np.array(numbers, np.float32), **words}
