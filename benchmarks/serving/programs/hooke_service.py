"""The services of the comparison, as one writes them for Hooke."""

from __future__ import annotations

import numpy as np
from counting import count, model
from numpy.typing import NDArray

from hooke import service


@service(max_batch=64)
class Echo:
    """Gives back what it gets."""

    async def echo(self, x: tuple[float, ...]) -> tuple[float, ...]:
        """On the event loop, each by itself."""
        count(1)
        return x

    def rows(self, x: np.ndarray) -> np.ndarray:
        """In batches."""
        count(len(x))
        return x


@service(max_batch=64)
class Predict:
    """A regressor of scikit-learn."""

    def setup(self) -> None:
        self.model = model()

    def predict(self, rows: NDArray[np.float64]) -> np.ndarray:
        """A number for each row."""
        count(len(rows))
        return self.model.predict(rows)


@service(max_batch=64, wait="auto")
class Filled(Predict):
    """The same, and the model waits while it pays."""
