"""Values by reference: arguments travel as pickles in which another node's value is a reference into the store."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cloudpickle

from hooke.base.ref import Ref
from hooke.pipeline.promise import Promise
from hooke.store.store import Store

__all__ = ["Element", "Items", "Reference", "Value", "pack", "parts_of", "resolve", "unpack"]

Path: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A stored object, or the part of it at `path`."""

    ref: Ref
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Element:
    """Element `index` of a stored list, or the part of it at `path`."""

    ref: Ref
    index: int
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Items:
    """Elements `start..start+count` of each stored list, joined into one list; then the part at `path`."""

    pieces: tuple[tuple[Ref, int, int], ...]
    path: Path = ()


Reference: TypeAlias = Value | Element | Items


class _Packer(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, refer: Callable[[Promise], Reference]) -> None:
        super().__init__(file, protocol=5)
        self._refer = refer

    def persistent_id(self, obj: object) -> Reference | None:
        if isinstance(obj, Promise):
            return self._refer(obj)
        if isinstance(obj, Value | Element | Items):
            return obj
        return None


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: bytes, store: Store) -> None:
        super().__init__(io.BytesIO(data))
        self._store = store

    def persistent_load(self, pid: Reference) -> Any:
        return resolve(pid, self._store)


def pack(value: Any, refer: Callable[[Promise], Reference]) -> bytes:
    """Pickle `value`; each promise in it becomes the reference that `refer` gives."""
    file = io.BytesIO()
    _Packer(file, refer).dump(value)
    return file.getvalue()


def unpack(data: bytes, store: Store) -> Any:
    """The value that was packed, its references replaced by what they refer to."""
    return _Unpacker(data, store).load()


def resolve(reference: Reference, store: Store) -> Any:
    """What a reference refers to. Raises MissingObject or CorruptObject."""
    match reference:
        case Value():
            value = store.get(reference.ref)
        case Element():
            value = store.get(reference.ref)[reference.index]
        case Items():
            value: list[Any] = []
            for ref, start, count in reference.pieces:
                value.extend(store.get(ref)[start : start + count])
    return parts_of(value, reference.path)


def parts_of(value: Any, path: Sequence[Any]) -> Any:
    """The part of `value` that the keys and indexes of `path` lead to. Raises what Python raises where there is none."""
    for key in path:
        try:
            value = value[key]
        except Exception as error:
            # No line of the user's is in the traceback: the pipeline took the part, long ago.
            error.add_note(
                f"The pipeline takes the part [{key!r}] of a result, which is of type {type(value).__name__}."
            )
            raise
    return value
