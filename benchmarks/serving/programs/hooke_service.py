"""The services of the comparison, as one writes them for Hooke."""

from __future__ import annotations

import ctypes
import time

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


class Hops:
    """Echoes that are not on the event loop."""

    def echo(self, x: tuple[float, ...]) -> tuple[float, ...]:
        """Each by itself."""
        count(1)
        return x

    def rows(self, x: np.ndarray) -> np.ndarray:
        """In batches."""
        count(len(x))
        return x

    def sums(self, x: NDArray[np.float64]) -> np.ndarray:
        """Of large rows, in batches."""
        count(len(x))
        return x.sum(axis=1)


@service(max_batch=64)
class Near(Hops):
    """In a thread."""


@service(max_batch=64, model="process")
class Apart(Hops):
    """In a process of its own."""


@service(max_batch=64, model="process")
class PredictApart(Predict):
    """The same regressor in a process of its own."""


class Busy:
    """A model that keeps the interpreter for itself, in one of two ways."""

    def holds(self, s: float) -> float:
        """In native code that does not let go of the lock."""
        ctypes.PyDLL(None).usleep(int(s * 1e6))
        return s

    def loops(self, s: float) -> float:
        """In plain Python."""
        ends = time.perf_counter() + s
        while time.perf_counter() < ends:
            pass
        return s


@service
class BusyNear(Busy):
    """In a thread."""


@service(model="process")
class BusyApart(Busy):
    """In a process of its own."""
