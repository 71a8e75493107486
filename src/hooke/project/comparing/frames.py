"""Columns of plain values as a frame of pandas or Polars, whichever is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from hooke.base.errors import MissingExtra, UsageError

__all__ = ["frame_of"]

FRAMES = ("pandas", "polars")


def frame_of(columns: Mapping[str, Sequence[Any]], kind: str) -> Any:
    """A `DataFrame` of `pandas` or `polars`. Raises UsageError for another kind, MissingExtra."""
    if kind not in FRAMES:
        raise UsageError(f"to_frame({kind!r})", mend=f"valid are {', '.join(FRAMES)}")
    try:
        library = import_module(kind)
    except ImportError as error:
        raise MissingExtra(
            f"a frame of {kind} needs {kind}, which is not installed",
            why=str(error),
            mend=f"pip install {kind}; columns() gives plain lists",
        ) from error
    return library.DataFrame(dict(columns))
