"""Models that forecast lateness, the task that fits them, and the tasks that evaluate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from flight_features import WORDS
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from hooke import task


class Forecaster(Protocol):
    """Gives each row a probability of a late arrival."""

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """One probability per row, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Hyperparameters of the gradient boosting."""

    leaves: int
    rate: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosted:
    """Gradient boosting over `columns`; it knows the words (carriers, airports) of its training months."""

    columns: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    trees: HistGradientBoostingClassifier

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """One probability per row; missing values and unknown words have their own branch."""
        return self.trees.predict_proba(matrix(rows, self.columns, self.words))[:, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A baseline: the share of late flights in training, overall and per group of `by`."""

    by: tuple[str, ...]
    overall: float
    groups: pl.DataFrame

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """The rate of each row's group, or the overall rate for an unknown group."""
        if not self.by:
            return np.full(rows.height, self.overall)
        joined = rows.join(self.groups, on=self.by, how="left", maintain_order="left")
        return joined["rate"].fill_null(self.overall).to_numpy()


@task(cpus=1, memory="2GiB")
def fit(candidate: Candidate, *, months: Sequence[pl.DataFrame], columns: Sequence[str]) -> Boosted:
    """Bit-identical on any number of threads (tested): no subsampling, no early stopping, ordered sums."""
    rows = arrived(months)
    words = {name: tuple(sorted(rows[name].unique())) for name in WORDS}
    trees = HistGradientBoostingClassifier(
        max_leaf_nodes=candidate.leaves,
        learning_rate=candidate.rate,
        max_iter=candidate.rounds,
        categorical_features=[name in words for name in columns],
        early_stopping=False,
        random_state=13,
    )
    trees.fit(matrix(rows, columns, words), rows["late"].to_numpy())
    return Boosted(columns=tuple(columns), words=words, trees=trees)


@task(cpus=1, memory="1GiB")
def rates(by: tuple[str, ...], *, months: Sequence[pl.DataFrame]) -> Rates:
    """Each group is shrunk to the overall rate with the weight of ten flights."""
    rows = arrived(months)
    overall = float(rows["late"].sum() / rows.height)
    shrunk = (pl.col("late").sum() + 10 * overall) / (pl.len() + 10)
    groups = rows.group_by(by or ("late",)).agg(rate=shrunk).sort("rate", *by)
    return Rates(by=by, overall=overall, groups=groups)


def arrived(months: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The flights that have a target."""
    return pl.concat(months).filter(pl.col("late").is_not_null())


def matrix(rows: pl.DataFrame, columns: Sequence[str], words: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """Float64, one column per name. A word is its index in its list; NaN is null or an unknown word."""
    places = {
        name: pl.col(name).cast(pl.Enum(known), strict=False).to_physical() for name, known in words.items()
    }
    return rows.with_columns(**places).select(pl.col(columns).cast(pl.Float64)).to_numpy()


@task(cpus=1, memory="1GiB")
def forecast(model: Forecaster, *, months: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """`late` and the model's `probability` for each flight that arrived."""
    rows = arrived(months)
    return rows.select("late").with_columns(probability=model.predict(rows))


@task(cpus=1, memory="500MiB")
def grade(forecasts: pl.DataFrame) -> dict[str, float]:
    """ROC AUC (0.5: chance), log loss (nats) and Brier score (lower is better for both)."""
    late, probability = forecasts["late"].to_numpy(), forecasts["probability"].to_numpy()
    return {
        "auc": float(roc_auc_score(late, probability)),
        "log_loss": float(log_loss(late, probability)),
        "brier": float(brier_score_loss(late, probability)),
    }


@task(cpus=1, memory="500MiB")
def calibration(forecasts: pl.DataFrame) -> pl.DataFrame:
    """For each bucket of forecasts: the number of flights, the mean forecast, and the share of late flights."""
    ordered = forecasts.sort("probability").group_by(
        bucket=bucket(pl.col("probability")), maintain_order=True
    )
    return ordered.agg(flights=pl.len(), foretold=pl.col("probability").mean(), late=pl.col("late").mean())


def bucket(probability: pl.Expr) -> pl.Expr:
    """Ten buckets of equal width."""
    return (probability * 10).floor().clip(0, 9).cast(pl.Int64)
