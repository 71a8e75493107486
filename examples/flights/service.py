"""Will it arrive late? The champion that `register.py` chose, answering for one flight or many.

    python examples/flights/register.py                                          # trains flights@champion
    hooke serve examples/flights/service.py --with model=flights@champion

Then POST /predict takes {"flights": [{"carrier": "UA", "origin": "EWR", "dest": "ORD", ...}]} and gives one probability for each.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
from flight_features import AIRPORT, LEG, PLAIN, WORDS
from flight_models import Forecaster

from hooke import service

SCHEMA = {name: pl.String if name in WORDS else pl.Float64 for name in PLAIN + LEG + AIRPORT}

Flight: Any = msgspec.defstruct(
    "Flight",
    [(name, str) if name in WORDS else (name, float | None, None) for name in SCHEMA],
    forbid_unknown_fields=True,
)
"""A row of `features`. What is not known an hour before the flight (its aircraft's age, the wind) is null, or left out."""


@service(max_batch=256, slo="p99 < 100ms", timeout="10s", idempotent=True)
class Delay:
    """Probabilities of arriving 15 minutes late, or later."""

    def setup(self, model: Forecaster) -> None:
        """Keep the model, and try it once: the first call of a process is the slowest."""
        self.model = model
        self.predict([Flight("UA", "EWR", "ORD")])

    def predict(self, flights: list[Flight]) -> np.ndarray:
        """One probability for each flight, in their order."""
        rows = pl.DataFrame(map(msgspec.structs.astuple, flights), schema=SCHEMA, orient="row")
        return self.model.predict(rows)
