"""The protocol's datatypes, and what they are in NumPy and in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BYTES", "DATATYPES", "Datatype", "datatype_of", "named"]


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


def named(name: str) -> Datatype | str:
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
