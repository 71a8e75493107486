"""Run the flights pipeline, and register its best model as `flights@champion` if it beats the previous champion."""

from __future__ import annotations

import sys

import polars as pl

import hooke
from flights import flights


def register(months: int = 12) -> hooke.ModelVersion:
    """Compared by log loss on the test months; lower is better."""
    r = hooke.run(flights, months=months)
    result = r.result()
    grades = result["scores"].row(by_predicate=pl.col("model") == "+ airport's last hour", named=True)
    return hooke.register(
        result["model"],
        "flights",
        alias="champion",
        if_better="-log_loss",
        metrics={name: value for name, value in grades.items() if name != "model"},
        run=r,
        format="skops",
        trust=["flight_models.Boosted", "functools.partial"],  # the latter is needed for categories in trees
    )


if __name__ == "__main__":
    print(register(*map(int, sys.argv[1:])))
