"""A model that waits rather than computes: the generator of a load, Envoy and its replicas fit on two cores."""

import time
from collections.abc import Iterator

from hooke import service

BATCH, BATCH_S = 4, 0.08


@service(max_batch=BATCH, slo="p99 < 800ms", timeout="5s")
class Waiting:
    def predict(self, rows: list[int]) -> list[int]:
        time.sleep(BATCH_S)
        return rows

    def count(self, to: int) -> Iterator[int]:
        for number in range(to):
            time.sleep(0.01)
            yield number
