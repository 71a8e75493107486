"""Arrays from tensors and tensors from arrays, in JSON and in binary. No memory is allocated for a shape before its data is counted.

Elements of BYTES are `str` from JSON and `bytes` from binary data, in an array of objects.
"""

from __future__ import annotations

import array
import functools
import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

__all__ = [
    "BYTES",
    "DATATYPES",
    "MOST_DIMENSIONS",
    "Datatype",
    "TensorError",
    "count_elements",
    "datatype_named",
    "datatype_of",
    "json_data",
    "read_binary",
    "read_json",
    "to_binary",
]


# --- The protocol's datatypes in NumPy and in JSON.


@dataclass(frozen=True, slots=True)
class Datatype:
    """A datatype of the protocol. `dtype` is little-endian, as in a binary tensor."""

    name: str
    dtype: np.dtype[Any]
    element: type
    """The type of its JSON elements."""
    code: str
    """The typecode of `array.array` for a list of such elements: the same type or a wider one; empty for BYTES."""


BYTES = Datatype("BYTES", np.dtype(np.object_), str, "")
"""Text or bytes of any length for each element."""

DATATYPES: dict[str, Datatype] = {
    one.name: one
    for one in (
        BYTES,
        Datatype("BOOL", np.dtype(np.bool_), bool, "b"),
        Datatype("INT8", np.dtype("<i1"), int, "b"),
        Datatype("INT16", np.dtype("<i2"), int, "h"),
        Datatype("INT32", np.dtype("<i4"), int, "i"),
        Datatype("INT64", np.dtype("<i8"), int, "q"),
        Datatype("UINT8", np.dtype("<u1"), int, "B"),
        Datatype("UINT16", np.dtype("<u2"), int, "H"),
        Datatype("UINT32", np.dtype("<u4"), int, "I"),
        Datatype("UINT64", np.dtype("<u8"), int, "Q"),
        Datatype("FP16", np.dtype("<f2"), float, "d"),
        Datatype("FP32", np.dtype("<f4"), float, "f"),
        Datatype("FP64", np.dtype("<f8"), float, "d"),
    )
}

_OF_DTYPE = {one.dtype: one for one in DATATYPES.values() if one is not BYTES}


def datatype_named(name: str) -> Datatype | str:
    """The datatype with this name, or the reason why there is none."""
    found = DATATYPES.get(name)
    if found is not None:
        return found
    if name == "BF16":
        return "NumPy has no BF16; send FP32, which holds all its values"
    return f"unknown datatype {name[:40]}; datatypes: {', '.join(DATATYPES)}"


def datatype_of(dtype: np.dtype[Any]) -> Datatype | None:
    """The datatype of arrays with this dtype. An array of objects is BYTES if its elements are; None if there is none."""
    found = _OF_DTYPE.get(dtype)
    if found is not None:
        return found
    return BYTES if dtype.kind in "USO" else _OF_DTYPE.get(dtype.newbyteorder("<"))


MOST_DIMENSIONS = 32
"""More than any model has, and within what each version of NumPy can hold."""
MOST_ELEMENTS = 1 << 40
"""NumPy cannot hold a larger shape, even with a zero in it."""
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """Data that does not match its shape and datatype."""


def read_json(datatype: Datatype, shape: Sequence[int], data: msgspec.Raw) -> np.ndarray:
    """The array of JSON data, flat in row-major order or nested like the shape. Raises TensorError."""
    count = count_elements(shape)
    try:
        values = _flat(datatype, shape, data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "; NaN goes as binary data" if datatype.element is float and "`null`" in str(error) else ""
        raise TensorError(f"{error}{hint}".replace("`$", "`data")) from None
    if len(values) != count:
        raise TensorError(f"its shape {_shown(shape)} has {count} elements, but its data has {len(values)}")
    if datatype is BYTES:
        return _objects(values, shape)
    try:
        packed = array.array(datatype.code, values)
    except OverflowError:
        raise TensorError(f"one of its numbers does not fit {datatype.name}") from None
    made = np.frombuffer(packed, dtype=bool if datatype.element is bool else packed.typecode)
    return _narrow(datatype, made).reshape(shape)


def read_binary(datatype: Datatype, shape: Sequence[int], data: memoryview) -> np.ndarray:
    """The array of binary data: little-endian, row-major; each element of BYTES after its length. Raises TensorError."""
    count = count_elements(shape)
    if datatype is BYTES:
        return _objects(_split(data, count), shape)
    size = datatype.dtype.itemsize
    if len(data) != count * size:
        shown = f"its shape {_shown(shape)} of {datatype.name} needs {count * size} bytes"
        raise TensorError(f"{shown}, but its binary_data_size is {len(data)}")
    # A copy: the received data is read-only and not aligned, and a model's code may need both.
    made = np.frombuffer(data, dtype=datatype.dtype).copy()
    if datatype.element is bool and count and made.view(np.uint8).max() > 1:
        raise TensorError("one of its bytes is neither 0 nor 1")
    return made.reshape(shape)


def json_data(datatype: Datatype, value: np.ndarray) -> list[Any]:
    """The elements in row-major order, for JSON; NaN becomes null. Raises TensorError for bytes that are not text."""
    flat: list[Any] = value.ravel().tolist()
    if datatype is not BYTES:
        return flat
    try:
        return [one if isinstance(one, str) else one.decode() for one in flat]
    except UnicodeDecodeError:
        raise TensorError("its bytes are not text, which JSON needs; request binary data") from None


def to_binary(datatype: Datatype, value: np.ndarray) -> bytes:
    """The elements in row-major order, as `read_binary` takes them. Raises TensorError for text that UTF-8 cannot encode."""
    if datatype is not BYTES:
        return value.astype(datatype.dtype, copy=False).tobytes()
    parts: list[bytes] = []
    for one in value.ravel().tolist():
        raw = _encoded(one)
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def count_elements(shape: Sequence[int]) -> int:
    """The number of elements of a shape. Raises TensorError for a shape that no array can have."""
    count = math.prod(shape)
    most = count or math.prod(filter(None, shape))
    if most > MOST_ELEMENTS or len(shape) > MOST_DIMENSIONS:
        raise TensorError(f"its shape {_shown(shape)} is larger than any array")
    return count


def _flat(datatype: Datatype, shape: Sequence[int], data: msgspec.Raw) -> list[Any]:
    """The elements of flat or nested JSON. Raises msgspec.ValidationError, and TensorError if the nesting is not the shape's."""
    try:
        return _decoder(datatype.element, 1).decode(data)  # most clients send it flat
    except msgspec.ValidationError:
        if len(shape) < 2 or bytes(memoryview(data)[1:80]).lstrip()[:1] != b"[":
            raise
    values: list[Any] = _decoder(datatype.element, len(shape)).decode(data)
    for length in shape[1:]:
        if set(map(len, values)) - {length}:
            raise TensorError(f"its data is not nested as its shape {_shown(shape)} says")
        values = list(itertools.chain.from_iterable(values))
    return values


@functools.cache  # four types, each of at most 32 dimensions
def _decoder(element: type, depth: int) -> msgspec.json.Decoder[Any]:
    annotation: Any = element
    for _ in range(depth):
        annotation = list[annotation]
    return msgspec.json.Decoder(annotation)


def _narrow(datatype: Datatype, made: np.ndarray) -> np.ndarray:
    """The array in the tensor's own type. Raises TensorError for a number that does not fit."""
    if datatype.element is not float or datatype.dtype.itemsize == 8:
        return made
    with np.errstate(over="ignore"):
        narrow = made.astype(datatype.dtype, copy=False)
    if not np.isfinite(narrow).all():  # JSON numbers are finite
        raise TensorError(f"one of its numbers does not fit {datatype.name}")
    return narrow


def _split(data: memoryview, count: int) -> list[bytes]:
    """The elements of BYTES. Raises TensorError if the lengths do not add up."""
    if count * _LENGTH.size > len(data):
        raise TensorError(f"its {len(data)} bytes are too few for the lengths of {count} elements")
    values: list[bytes] = []
    at = 0
    for number in range(count):
        begin = at + _LENGTH.size
        if begin > len(data):
            raise TensorError(f"its binary data ends before the length of element {number}")
        at = begin + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise TensorError(f"element {number} is longer than the rest of its binary data")
        values.append(bytes(data[begin:at]))
    if at != len(data):
        raise TensorError(f"{len(data) - at} bytes of binary data follow its last element")
    return values


def _objects(values: list[Any], shape: Sequence[int]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made.reshape(shape)


def _encoded(one: Any) -> bytes:
    if isinstance(one, bytes):
        return one
    try:
        return str(one).encode()
    except UnicodeEncodeError:
        raise TensorError("its text has characters that UTF-8 cannot encode") from None


def _shown(shape: Sequence[int]) -> str:
    listed = ", ".join(map(str, shape[:MOST_DIMENSIONS]))
    return f"[{listed if len(listed) <= 200 else listed[:200] + '...'}]"
