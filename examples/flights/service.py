"""Will it arrive late? A service of the champion from `register.py`, for one flight or many.

    python examples/flights/register.py                                          # trains flights@champion
    hooke serve examples/flights/service.py --with model=flights@champion

Then POST /predict takes {"flights": [{"carrier": "UA", "origin": "EWR", "dest": "ORD", ...}]} and returns one probability per flight.
"""

from __future__ import annotations

import msgspec
import numpy as np
import polars as pl
from flight_features import SCHEMA, Flight
from flight_models import Forecaster

from hooke import service


@service(max_batch=256, slo="p99 < 100ms", timeout="10s", idempotent=True)
class Delay:
    """Probabilities of arriving at least 15 minutes late."""

    def setup(self, model: Forecaster) -> None:
        """Keep the model, and warm it up: the first call of a process is the slowest."""
        self.model = model
        self.predict([Flight("UA", "EWR", "ORD")])

    def predict(self, flights: list[Flight]) -> np.ndarray:
        """One probability per flight, in order."""
        rows = pl.DataFrame(map(msgspec.structs.astuple, flights), schema=SCHEMA, orient="row")
        return self.model.predict(rows)
