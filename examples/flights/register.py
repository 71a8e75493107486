"""Run the flights' pipeline and register the model it chose as `flights@champion`, if it is better than the one before."""

from __future__ import annotations

import sys

import polars as pl

import hooke
from flights import flights


def register(months: int = 12) -> hooke.ModelVersion:
    """By log loss on the months that no model was trained or chosen on; less is better."""
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
        trust=["flight_models.Boosted", "functools.partial"],  # the latter is in how trees take categories
    )


if __name__ == "__main__":
    print(register(*map(int, sys.argv[1:])))
