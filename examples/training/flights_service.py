"""Register a network of flights_torch.py or flights_tensorflow.py if it is better than the one before, and let it forecast.

    python examples/training/flights_service.py torch                              # trains late@champion
    python examples/training/flights_service.py tensorflow                         # the same, if it is better
    hooke serve examples/training/flights_service.py --with model=late@champion

Then POST /predict takes {"flights": [{"carrier": "UA", "origin": "EWR", "dest": "ORD", ...}]} and returns one probability per flight.
A network in PyTorch is registered as safetensors, one in TensorFlow as ONNX, for which the service needs no TensorFlow.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np
from flights_rows import Flight, Forecaster, rows_of

import hooke
from hooke import service


@service(max_batch=256, slo="p99 < 100ms", timeout="10s", idempotent=True)
class LateFlights:
    """Probabilities of arriving at least 15 minutes late."""

    def setup(self, model: Forecaster) -> None:
        """Keep the model, and warm it up: the first call of a process is the slowest."""
        self.model = model
        self.predict([Flight("UA", "EWR", "ORD")])

    def predict(self, flights: list[Flight]) -> np.ndarray:
        """One probability per flight, in order."""
        return self.model.predict(rows_of(flights))


def register(framework: str, **settings: Any) -> hooke.ModelVersion:
    """Train by the pipeline of a framework, or take what it trained before. Compared by log loss; lower is better."""
    r = hooke.run(import_module(f"flights_{framework}").training, workers=2, **settings)
    found = r.result()
    return hooke.register(
        found["model"],
        "late",
        alias="champion",
        if_better="-log_loss",
        metrics=found["scores"],
        run=r,
        format={"torch": "safetensors", "tensorflow": "onnx"}[framework],
    )


if __name__ == "__main__":
    print(register(*sys.argv[1:]))
