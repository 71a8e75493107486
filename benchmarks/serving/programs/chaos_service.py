"""The services of the chaos programme: every answer can be told from its request."""

from __future__ import annotations

import os
import time

from hooke import service

WORK_S = 0.01


class Times:
    """What it is asked for, times the factor that its model says."""

    def setup(self, model) -> None:
        """Keep the factor."""
        self.factor = model["factor"]
        self.kept: list[bytes] = []

    def predict(self, rows: list[int]) -> list[int]:
        """In batches."""
        time.sleep(WORK_S)
        return [row * self.factor for row in rows]

    def grow(self, mb: int) -> int:
        """Hold so much more memory, in pages that are really there; gives the process's id."""
        self.kept.append(b"x" * (mb << 20))
        return os.getpid()


@service(max_batch=8, idempotent=True)
class Again(Times):
    """Whose requests may be sent again."""


@service(max_batch=8)
class Once(Times):
    """Whose requests may not."""
