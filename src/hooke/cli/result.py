"""What a pipeline returned, for people and for programs."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import math
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from hooke.pipeline.shown import shown

__all__ = ["result_json", "result_text"]

MOST_LINES = 40
"""A value whose own text is longer is shown by its shape."""
LONGEST_LINE = 160
MOST_ELEMENTS = 20
MOST_JSON = 10_000
"""Elements of an array or rows of a frame that `--json` writes out."""


def result_text(value: Any) -> str:
    """The value in some lines: a dict's entries one by one, frames as they show themselves, big things by shape."""
    return "\n".join(_lines(value))


def result_json(value: Any) -> Any:
    """The value as JSON knows it; what it does not know, as short text. Numbers that are none become null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): result_json(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [result_json(each) for each in value]
    if isinstance(value, AbstractSet):
        return sorted((result_json(each) for each in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: result_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _table_json(value)


def _lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.splitlines() or [""]
    if isinstance(value, Mapping) and value and not _fits(value):
        return _entries([(str(key), each) for key, each in value.items()])
    if isinstance(value, (list, tuple)) and value and not _fits(value):
        return _entries([(f"[{at}]", each) for at, each in enumerate(value)])
    return _own_text(value)


def _entries(entries: list[tuple[str, Any]]) -> list[str]:
    width = min(max(len(name) for name, _ in entries), 24)
    lines: list[str] = []
    for name, value in entries[:MOST_ELEMENTS]:
        own = _lines(value)
        if len(own) == 1:
            lines.append(f"{name.ljust(width)}  {own[0]}")
        else:
            lines += [name, *(f"  {line}" for line in own)]
    if len(entries) > MOST_ELEMENTS:
        lines.append(f"... and {len(entries) - MOST_ELEMENTS} more")
    return lines


def _fits(value: Any) -> bool:
    """Whether a list or dict is short enough for one line as Python writes it."""
    plain = all(each is None or isinstance(each, bool | int | float | str) for each in _parts(value))
    return plain and len(value) <= MOST_ELEMENTS and len(repr(value)) <= 100


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value)


def _own_text(value: Any) -> list[str]:
    if isinstance(value, (Mapping, list, tuple)) or value is None:
        return [repr(value)]
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - whatever a user's __str__ does
        return [shown(value)]
    lines = text.splitlines()
    # An address, or all parts of a model, tell nobody anything.
    bare = type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__
    if bare or not lines or len(lines) > MOST_LINES or max(map(len, lines)) > LONGEST_LINE:
        return [shown(value)]
    array = hasattr(value, "shape") and not hasattr(value, "columns")
    return [shown(value), *lines] if array and len(lines) > 1 else lines


def _table_json(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return result_json(value.item())
    if hasattr(value, "item") and not hasattr(value, "shape"):
        return result_json(value.item())
    if not _is_small(value):
        return shown(value)
    if hasattr(value, "to_dicts"):
        return result_json(value.to_dicts())
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return result_json(value.to_dict("records"))
    if hasattr(value, "tolist"):
        return result_json(value.tolist())
    return shown(value) if hasattr(value, "shape") else str(value) if _is_text(value) else shown(value)


def _is_small(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return not isinstance(shape, tuple) or math.prod(shape) <= MOST_JSON


def _is_text(value: Any) -> bool:
    """Paths, dates, decimals: what is its text."""
    kinds = (os.PathLike, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
    return isinstance(value, kinds)
