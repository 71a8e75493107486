"""Arrays from tensors and tensors from arrays, in JSON and in binary. Nothing is allocated for a shape before its data was counted.

Elements of BYTES are `str` where JSON brought them and `bytes` where binary data did, in an array of objects.
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


# --- The protocol's datatypes, and what they are in NumPy and in JSON.


@dataclass(frozen=True, slots=True)
class Datatype:
    """One of the protocol's. `dtype` is little-endian, as in a binary tensor."""

    name: str
    dtype: np.dtype[Any]
    element: type
    """What JSON has for it."""
    code: str
    """The typecode of `array.array` that takes such elements from a list: the same number or a wider one; none for BYTES."""


BYTES = Datatype("BYTES", np.dtype(np.object_), str, "")
"""Text, or bytes: any number of them for each element."""

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
    """The datatype of this name, or why there is none."""
    found = DATATYPES.get(name)
    if found is not None:
        return found
    if name == "BF16":
        return "NumPy has no BF16; send FP32, which holds all its values"
    return f"there is no datatype {name[:40]}; there are {', '.join(DATATYPES)}"


def datatype_of(dtype: np.dtype[Any]) -> Datatype | None:
    """The one that arrays of this dtype have. An array of objects is BYTES if its elements are; None for what has none."""
    found = _OF_DTYPE.get(dtype)
    if found is not None:
        return found
    return BYTES if dtype.kind in "USO" else _OF_DTYPE.get(dtype.newbyteorder("<"))


MOST_DIMENSIONS = 32
"""More than any model has, and within what each version of NumPy can hold."""
MOST_ELEMENTS = 1 << 40
"""No shape has more, whatever of it is zero: NumPy could not hold it."""
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """Data that is not what its shape and datatype say."""


def read_json(datatype: Datatype, shape: Sequence[int], data: msgspec.Raw) -> np.ndarray:
    """The array of JSON data, flat in row-major order or nested as the shape is. Raises Misfit."""
    count = count_elements(shape)
    try:
        values = _flat(datatype, shape, data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "; NaN goes as binary data" if datatype.element is float and "`null`" in str(error) else ""
        raise TensorError(f"{error}{hint}".replace("`$", "`data")) from None
    if len(values) != count:
        raise TensorError(f"its shape {_shown(shape)} has {count} elements, and its data {len(values)}")
    if datatype is BYTES:
        return _objects(values, shape)
    try:
        packed = array.array(datatype.code, values)
    except OverflowError:
        raise TensorError(f"a number of it is none that {datatype.name} can hold") from None
    made = np.frombuffer(packed, dtype=bool if datatype.element is bool else packed.typecode)
    return _narrow(datatype, made).reshape(shape)


def read_binary(datatype: Datatype, shape: Sequence[int], data: memoryview) -> np.ndarray:
    """The array of binary data: little-endian, row-major; each element of BYTES after its length. Raises Misfit."""
    count = count_elements(shape)
    if datatype is BYTES:
        return _objects(_split(data, count), shape)
    size = datatype.dtype.itemsize
    if len(data) != count * size:
        shown = f"its shape {_shown(shape)} of {datatype.name} takes {count * size} bytes"
        raise TensorError(f"{shown}, and its binary_data_size is {len(data)}")
    # A copy: what came cannot be written to and stands at any address, and a model's code may need both.
    made = np.frombuffer(data, dtype=datatype.dtype).copy()
    if datatype.element is bool and count and made.view(np.uint8).max() > 1:
        raise TensorError("a byte of it is neither 0 nor 1")
    return made.reshape(shape)


def json_data(datatype: Datatype, value: np.ndarray) -> list[Any]:
    """The elements in row-major order, as JSON has them; NaN is written as null. Raises Misfit for bytes that are no text."""
    flat: list[Any] = value.ravel().tolist()
    if datatype is not BYTES:
        return flat
    try:
        return [one if isinstance(one, str) else one.decode() for one in flat]
    except UnicodeDecodeError:
        raise TensorError("its bytes are no text, which JSON needs; ask for binary data") from None


def to_binary(datatype: Datatype, value: np.ndarray) -> bytes:
    """The elements in row-major order, as `read_binary` takes them. Raises Misfit for text that UTF-8 does not have."""
    if datatype is not BYTES:
        return value.astype(datatype.dtype, copy=False).tobytes()
    parts: list[bytes] = []
    for one in value.ravel().tolist():
        raw = _encoded(one)
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def count_elements(shape: Sequence[int]) -> int:
    """How many a tensor of this shape has. Raises Misfit for a shape that no array can have."""
    count = math.prod(shape)
    most = count or math.prod(filter(None, shape))
    if most > MOST_ELEMENTS or len(shape) > MOST_DIMENSIONS:
        raise TensorError(f"its shape {_shown(shape)} is larger than any array")
    return count


def _flat(datatype: Datatype, shape: Sequence[int], data: msgspec.Raw) -> list[Any]:
    """The elements of flat or nested JSON. Raises msgspec.ValidationError, and Misfit where the nesting is not the shape's."""
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
    """From what the numbers were gathered in to the tensor's own type. Raises Misfit where that has no such number."""
    if datatype.element is not float or datatype.dtype.itemsize == 8:
        return made
    with np.errstate(over="ignore"):
        narrow = made.astype(datatype.dtype, copy=False)
    if not np.isfinite(narrow).all():  # JSON has none that is not finite
        raise TensorError(f"a number of it is none that {datatype.name} can hold")
    return narrow


def _split(data: memoryview, count: int) -> list[bytes]:
    """The elements of BYTES. Raises Misfit where the lengths do not come out even."""
    if count * _LENGTH.size > len(data):
        raise TensorError(
            f"its shape has {count} elements, for whose lengths its {len(data)} bytes are too few"
        )
    values: list[bytes] = []
    at = 0
    for number in range(count):
        begin = at + _LENGTH.size
        if begin > len(data):
            raise TensorError(f"its binary data ends before the length of element {number}")
        at = begin + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise TensorError(f"element {number} is said to be longer than what is left of its binary data")
        values.append(bytes(data[begin:at]))
    if at != len(data):
        raise TensorError(f"{len(data) - at} bytes of its binary data are left behind its last element")
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
        raise TensorError("its text has characters that UTF-8 does not have") from None


def _shown(shape: Sequence[int]) -> str:
    listed = ", ".join(map(str, shape[:MOST_DIMENSIONS]))
    return f"[{listed if len(listed) <= 200 else listed[:200] + '...'}]"
