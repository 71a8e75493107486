"""The service of the spike: a model that waits, so that more replicas bear more however few the cores are."""

from __future__ import annotations

import time

from hooke import service

BATCH_S, MOST = 0.1, 4


@service(replicas=(1, 8), slo="p99 < 500ms", max_batch=MOST, timeout="5s", idempotent=True)
class Steady:
    """A batch takes a tenth of a second whatever its size: a replica does 40 rows a second, and no more."""

    def predict(self, rows: list[int]) -> list[int]:
        """Each row times seven."""
        time.sleep(BATCH_S)
        return [7 * row for row in rows]
