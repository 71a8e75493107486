"""From the bytes of an object to its value: buffers are views of those bytes, read-only and not copied."""

from __future__ import annotations

import pickle
from typing import Any

from hooke.store.layout import Layout

__all__ = ["load"]


def load(layout: Layout) -> Any:
    """The value. Its arrays and frames lie in the object's own memory, which lives as long as they do.

    Raises whatever its unpickling raises: ModuleNotFoundError where a class's module is missing, for one.
    """
    return pickle.loads(layout.stream, buffers=[buffer.toreadonly() for buffer in layout.buffers])
