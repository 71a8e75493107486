"""Encodings: the bytes of a value that are hashed. They are self-delimiting, type-tagged and injective.

Every encoding starts with a byte for its type and carries its own length, so encodings can be joined. A compound
names its kind, counts its children and joins their encodings. An encoding of more than 64 bytes is replaced by its
digest, which depends only on the content.
"""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import fractions
import pathlib
import re
import struct
import types
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from blake3 import blake3

from hooke.keys.file import key_of_path

__all__ = [
    "CONTAINERS",
    "SCALARS",
    "Encoder",
    "NoKey",
    "Walk",
    "compound",
    "digest",
    "integer",
    "raw",
    "shrink",
    "text",
]


SHORT = 64
"""Longer encodings are replaced by their digest of 33 bytes."""


class NoKey(Exception):
    """A value has no key. `path` is filled from the inside out while the error passes the containers."""

    def __init__(self, value: object, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.kind = type(value)
        self.why = why
        self.fix = fix
        self.path: list[str] = []


class Walk(Protocol):
    """The walk as an encoder sees it. Each method raises NoKey with the path so far."""

    def encode(self, value: object) -> bytes:
        """The encoding of any value."""
        ...

    def items(self, values: Iterable[object]) -> list[bytes]:
        """The encodings of values at the places [0], [1], ..."""
        ...

    def fields(self, pairs: Iterable[tuple[str, object]]) -> list[bytes]:
        """The encodings of named attributes, each name before its value, in the order given."""
        ...

    def unordered(self, values: Iterable[object]) -> list[bytes]:
        """The encodings of values, in an order that depends on the content."""
        ...

    def pairs(self, pairs: Iterable[tuple[object, object]]) -> list[bytes]:
        """The encodings of a mapping's items, one entry an item, in an order that depends on the content."""
        ...

    def code(self, target: object) -> bytes:
        """The encoding of a function, class or module by its code."""
        ...


Encoder = Callable[[Walk, Any], bytes]


def raw(data: bytes) -> bytes:
    """Bytes, unchanged."""
    return b"b" + len(data).to_bytes(8, "little") + data


def text(data: str) -> bytes:
    """Text, lone surrogates included."""
    encoded = data.encode("utf-8", "surrogatepass")
    return b"s" + len(encoded).to_bytes(8, "little") + encoded


def compound(kind: bytes, children: Iterable[bytes]) -> bytes:
    """A kind (at most 255 bytes) and its children, each an encoding."""
    parts = list(children)
    return b"(%c%b%b%b" % (len(kind), kind, len(parts).to_bytes(8, "little"), b"".join(parts))


def digest(*buffers: Any) -> bytes:
    """The content of C-contiguous buffers as if they were joined, by length and digest: for large data."""
    hasher, size = blake3(), 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(b"")
        size += view.nbytes
        hasher.update(view)
    return b"h" + size.to_bytes(8, "little") + hasher.digest(length=32)


def shrink(encoding: bytes) -> bytes:
    """The encoding itself if it is short, else its digest."""
    return encoding if len(encoding) <= SHORT else b"#" + blake3(encoding).digest(length=32)


# --- Scalars: numbers, text, times, paths.

_SMALL = struct.Struct("<cq")
_FLOAT = struct.Struct("<cd")
_INT64 = 1 << 63
_NAN = _FLOAT.pack(b"f", float("nan"))


def integer(value: int) -> bytes:
    """An int of any size."""
    if -_INT64 <= value < _INT64:
        return _SMALL.pack(b"i", value)
    size = value.bit_length() // 8 + 1
    return b"I" + size.to_bytes(8, "little") + value.to_bytes(size, "little", signed=True)


def _number(value: float) -> bytes:
    # One key for every NaN: its payload and sign depend on the CPU.
    return _FLOAT.pack(b"f", value) if value == value else _NAN  # noqa: PLR0124


def _complex(value: complex) -> bytes:
    return b"c" + _number(value.real) + _number(value.imag)


def _decimal(value: decimal.Decimal) -> bytes:
    return compound(b"decimal", [text(str(value))])


def _fraction(value: fractions.Fraction) -> bytes:
    return compound(b"fraction", [integer(value.numerator), integer(value.denominator)])


def _timedelta(value: dt.timedelta) -> bytes:
    return compound(b"timedelta", map(integer, (value.days, value.seconds, value.microseconds)))


def _range(value: range) -> bytes:
    # Equal ranges can have different stops, so encode the sequence.
    first = value[0] if value else 0
    return compound(b"range", map(integer, (len(value), first, value.step if len(value) > 1 else 0)))


def _pattern(value: re.Pattern[Any]) -> bytes:
    pattern = value.pattern
    encoded = raw(pattern) if isinstance(pattern, bytes) else text(pattern)
    return compound(b"pattern", [encoded, integer(value.flags)])


def _path(value: pathlib.PurePath) -> bytes:
    content = key_of_path(str(value))
    return compound(b"path", [text(str(value))] if content is None else [text(str(value)), text(content)])


SCALARS: dict[type, Callable[[Any], bytes]] = {
    int: integer,
    str: text,
    float: _number,
    bool: lambda value: b"1" if value else b"0",
    type(None): lambda _: b"n",
    bytes: raw,
    bytearray: lambda value: compound(b"bytearray", [raw(bytes(value))]),
    memoryview: lambda value: compound(b"memoryview", [text(value.format), raw(value.tobytes())]),
    complex: _complex,
    type(...): lambda _: b".",
    type(NotImplemented): lambda _: b"!",
    decimal.Decimal: _decimal,
    fractions.Fraction: _fraction,
    uuid.UUID: lambda value: compound(b"uuid", [raw(value.bytes)]),
    dt.date: lambda value: compound(b"date", [integer(value.toordinal())]),
    dt.timedelta: _timedelta,
    range: _range,
    re.Pattern: _pattern,
    pathlib.PurePosixPath: _path,
    pathlib.PureWindowsPath: lambda value: compound(b"windows path", [text(str(value))]),
    pathlib.PosixPath: _path,
}
"""The encoder of each exact type; subclasses go by `hooke.keys.object_encodings`."""


# --- Containers of the standard library.


def _list(walk: Walk, value: list[Any]) -> bytes:
    return compound(b"list", walk.items(list.__iter__(value)))


def _tuple(walk: Walk, value: tuple[Any, ...]) -> bytes:
    return compound(b"tuple", walk.items(tuple.__iter__(value)))


def _set(walk: Walk, value: set[Any]) -> bytes:
    return compound(b"set", walk.unordered(set.__iter__(value)))


def _frozenset(walk: Walk, value: frozenset[Any]) -> bytes:
    return compound(b"frozenset", walk.unordered(frozenset.__iter__(value)))


def _dict(walk: Walk, value: dict[Any, Any]) -> bytes:
    return compound(b"dict", walk.pairs(dict.items(value)))


def _ordered(walk: Walk, value: collections.OrderedDict[Any, Any]) -> bytes:
    pairs = list(collections.OrderedDict.items(value))
    return compound(b"ordered", walk.items(pairs))


def _defaultdict(walk: Walk, value: collections.defaultdict[Any, Any]) -> bytes:
    factory = walk.fields([("default_factory", value.default_factory)])
    return compound(b"defaultdict", [*factory, _dict(walk, value)])


def _counter(walk: Walk, value: collections.Counter[Any]) -> bytes:
    return compound(b"counter", walk.pairs(dict.items(value)))


def _deque(walk: Walk, value: collections.deque[Any]) -> bytes:
    return compound(b"deque", [walk.encode(value.maxlen), *walk.items(collections.deque.__iter__(value))])


def _view(walk: Walk, value: types.MappingProxyType[Any, Any]) -> bytes:
    return compound(b"mappingproxy", walk.pairs(value.items()))


def _slice(walk: Walk, value: slice) -> bytes:
    return compound(
        b"slice", walk.fields([("start", value.start), ("stop", value.stop), ("step", value.step)])
    )


def _array(_: Walk, value: array.array[Any]) -> bytes:
    return compound(b"array", [text(value.typecode), raw(value.tobytes())])


def _datetime(walk: Walk, value: dt.datetime) -> bytes:
    plain = value.replace(tzinfo=None, fold=0)
    return compound(
        b"datetime", [text(plain.isoformat()), integer(value.fold), *walk.fields([("tzinfo", value.tzinfo)])]
    )


def _time(walk: Walk, value: dt.time) -> bytes:
    plain = value.replace(tzinfo=None, fold=0)
    return compound(
        b"time", [text(plain.isoformat()), integer(value.fold), *walk.fields([("tzinfo", value.tzinfo)])]
    )


def _namespace(walk: Walk, value: types.SimpleNamespace) -> bytes:
    return compound(b"namespace", walk.pairs(vars(value).items()))


CONTAINERS: dict[type, Encoder] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    collections.OrderedDict: _ordered,
    collections.defaultdict: _defaultdict,
    collections.Counter: _counter,
    collections.deque: _deque,
    types.MappingProxyType: _view,
    types.SimpleNamespace: _namespace,
    slice: _slice,
    array.array: _array,
    dt.datetime: _datetime,
    dt.time: _time,
}
"""The encoder of each exact type."""
