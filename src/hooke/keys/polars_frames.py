"""Encodings of Polars data: by names, types and content, however it is chunked or sliced.

What lies under a null is no content: a series is its validity and its dense non-null values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from hooke.keys.encoding import Encoder, NoKey, Walk, compound, digest, raw, text
from hooke.keys.scalars import integer

__all__ = ["POLARS"]


def _frame(walk: Walk, value: Any) -> bytes:
    height = integer(value.height)
    return compound(b"polars frame", [height, *(_series(walk, column) for column in value.get_columns())])


def _series(walk: Walk, value: Any) -> bytes:
    return compound(b"polars series", [text(value.name), _dtype(walk, value.dtype), *_content(walk, value)])


def _dtype(walk: Walk, dtype: Any) -> bytes:
    polars = sys.modules["polars"]
    if isinstance(dtype, polars.Enum):
        return compound(b"polars enum", map(text, dtype.categories.to_list()))
    if isinstance(dtype, polars.List | polars.Array):
        return compound(
            text(type(dtype).__name__), [_dtype(walk, dtype.inner), walk.encode(getattr(dtype, "shape", ()))]
        )
    if isinstance(dtype, polars.Struct):
        fields = (part for f in dtype.fields for part in (text(f.name), _dtype(walk, f.dtype)))
        return compound(b"polars struct", fields)
    return text(repr(dtype))


def _content(walk: Walk, value: Any) -> list[bytes]:
    if value.null_count() == 0:
        return [integer(len(value)), raw(b""), *_dense(walk, value)]
    np = sys.modules["numpy"]
    valid = raw(bytes(np.packbits(value.is_not_null().to_numpy())))
    return [integer(len(value)), valid, *_dense(walk, value.drop_nulls())]


def _dense(walk: Walk, value: Any) -> Iterable[bytes]:
    """The parts of a series without nulls."""
    polars, dtype = sys.modules["polars"], value.dtype
    if isinstance(dtype, polars.Categorical | polars.Enum):
        return _dense(walk, value.cast(polars.String))
    if isinstance(dtype, polars.String):
        return _dense(walk, value.cast(polars.Binary))
    if isinstance(dtype, polars.Binary):
        return [_numbers(value.bin.size()), digest(b"".join(value.to_list()))]
    if isinstance(dtype, polars.List):
        filled = value.filter(value.list.len() > 0)
        return [_numbers(value.list.len()), *_content(walk, filled.explode())]
    if isinstance(dtype, polars.Array):
        return _dense(walk, value.arr.to_list())
    if isinstance(dtype, polars.Struct):
        return [part for name in value.struct.fields for part in _content(walk, value.struct.field(name))]
    if isinstance(dtype, polars.Object):
        return walk.items(value.to_list())
    if isinstance(dtype, polars.Null):
        return []
    physical = value.to_physical()
    return [_numbers(physical)] if physical.dtype not in _WIDE(polars) else walk.items(physical.to_list())


def _WIDE(polars: Any) -> tuple[Any, ...]:  # noqa: N802
    return tuple(getattr(polars, name) for name in ("Int128", "UInt128", "Float16") if hasattr(polars, name))


def _numbers(value: Any) -> bytes:
    np = sys.modules["numpy"]
    return digest(np.ascontiguousarray(value.to_numpy()))


def _expression(_: Walk, value: Any) -> bytes:
    return compound(b"polars expression", [raw(_plan(value, value.meta.serialize))])


def _lazy(_: Walk, value: Any) -> bytes:
    return compound(b"polars lazy", [raw(_plan(value, value.serialize))])


def _plan(value: Any, serialize: Any) -> bytes:
    try:
        plan: bytes = serialize(format="binary")
    except Exception as error:
        raise NoKey(
            value, f"Polars cannot write its plan: {error}", "collect it first, or build it in the task"
        ) from error
    if b"PLPYUDF" in plan or b"PYTHON" in plan.upper():
        raise NoKey(value, "its plan holds a Python function, pickled by address", "build it inside the task")
    return plan


POLARS: dict[str, Encoder] = {
    "DataFrame": _frame,
    "Series": _series,
    "Expr": _expression,
    "LazyFrame": _lazy,
}
"""By the name of the class."""
