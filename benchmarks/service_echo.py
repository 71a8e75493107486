"""Services for the benchmark: an echo on the event loop, and one in batches in the model's thread."""

from __future__ import annotations

import numpy as np

from hooke import service


@service(max_batch=64)
class Echo:
    """Gives back what it gets."""

    async def echo(self, x: tuple[float, ...]) -> tuple[float, ...]:
        """On the event loop, each by itself."""
        return x

    def rows(self, x: np.ndarray) -> np.ndarray:
        """In batches."""
        return x
