"""The same in BentoML.

bentoml serve bentoml_service:Echo --port PORT
"""

from __future__ import annotations

import bentoml
import numpy as np
from counting import count, model


@bentoml.service(workers=1, traffic={"max_concurrency": 512}, logging={"access": {"enabled": False}})
class Echo:
    @bentoml.api
    async def echo(self, x: list[float]) -> list[float]:
        count(1)
        return x


@bentoml.service(workers=1, traffic={"max_concurrency": 512}, logging={"access": {"enabled": False}})
class Predict:
    def __init__(self) -> None:
        self.model = model()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        count(len(rows))
        return self.model.predict(rows)
