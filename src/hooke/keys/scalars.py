"""Encodings of values that hold no others: numbers, text, times, paths."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import pathlib
import re
import struct
import uuid
from collections.abc import Callable
from typing import Any

from hooke.keys.encoding import compound, raw, text

__all__ = ["SCALARS", "integer"]

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
    # One key for every NaN: payload and sign of a NaN depend on the CPU's way to it.
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
    # Equal ranges may be written with different stops: what counts is the sequence.
    first = value[0] if value else 0
    return compound(b"range", map(integer, (len(value), first, value.step if len(value) > 1 else 0)))


def _pattern(value: re.Pattern[Any]) -> bytes:
    pattern = value.pattern
    encoded = raw(pattern) if isinstance(pattern, bytes) else text(pattern)
    return compound(b"pattern", [encoded, integer(value.flags)])


def _path(value: pathlib.PurePath) -> bytes:
    return compound(b"path", [text(str(value))])


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
"""The encoder of each exact type; subclasses go by `hooke.keys.objects`."""
