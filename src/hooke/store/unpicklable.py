"""Which part of a value cannot be stored: found by pickling its parts, down to the smallest that fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hooke.base.errors import StoreError
from hooke.store.encode import encode

__all__ = ["explain", "guilty_part"]

_DEEPEST = 50
"""Levels of nesting that are looked into."""


def explain(value: Any, error: Exception) -> StoreError:
    """The error for a value whose encoding raised `error`."""
    path, part = guilty_part(value)
    kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
    return StoreError(
        f"a result cannot be stored: {path} is a {kind}, which cannot be pickled",
        where=path,
        why=f"{type(error).__name__}: {error}",
        mend=f"return what is needed to make it again instead of the {type(part).__qualname__} itself, "
        "or give its class a __reduce__ or a __getstate__ that leaves it out",
    )


def guilty_part(value: Any) -> tuple[str, Any]:
    """The smallest part of `value` that cannot be encoded, and the way to it, such as `result["model"].lock`."""
    path, part = "result", value
    for _ in range(_DEEPEST):
        failing = next(((step, child) for step, child in _children(part) if not _encodes(child)), None)
        if failing is None:
            break
        path, part = path + failing[0], failing[1]
    return path, part


def _encodes(value: Any) -> bool:
    try:
        encode(value).write(_Nothing())
    except Exception:  # noqa: BLE001 whatever a user's __reduce__ raises
        return False
    return True


class _Nothing:
    def write(self, data: bytes | memoryview) -> int:
        return len(data)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield f"[{key!r}]", child
        yield from ((f".keys()[{at}]", key) for at, key in enumerate(value))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{at}]", child) for at, child in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
    yield from _inside(value)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a function or an object holds."""
    cells = getattr(value, "__closure__", None) or ()
    names = getattr(getattr(value, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, cells, strict=False):
        with suppress(ValueError):  # an empty cell
            yield f".<closure {name}>", cell.cell_contents
    if isinstance(value, type) or not isinstance(getattr(value, "__dict__", None), dict):
        return
    yield from ((f".{name}", child) for name, child in vars(value).items())
