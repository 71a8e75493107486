"""Encodings of Arrow, pandas and Polars data by type and content, however it is chunked or sliced.

Values under nulls are not content: an array is its validity and its dense non-null values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from hooke.keys.encoding import Encoder, NoKey, Walk, compound, digest, integer, raw, text

__all__ = ["ARROW", "PANDAS", "POLARS", "frame_encoder"]


def _table(walk: Walk, value: Any) -> bytes:
    columns = [_chunked(walk, value.column(number)) for number in range(value.num_columns)]
    return compound(b"arrow table", [_schema(walk, value.schema), integer(value.num_rows), *columns])


def _batch(walk: Walk, value: Any) -> bytes:
    columns = [_array(walk, column) for column in value.columns]
    return compound(b"arrow batch", [_schema(walk, value.schema), integer(value.num_rows), *columns])


def _schema(_: Walk, value: Any) -> bytes:
    return compound(b"arrow schema", [raw(value.serialize().to_pybytes())])


def _chunked(walk: Walk, value: Any) -> bytes:
    arrow = sys.modules["pyarrow"]
    if arrow.types.is_dictionary(value.type):
        value = value.unify_dictionaries()
    whole = value.combine_chunks() if value.num_chunks != 1 else value.chunk(0)
    if isinstance(whole, arrow.ChunkedArray):  # too long for one array of 32-bit offsets
        parts = [_array(walk, chunk) for chunk in whole.chunks]
        return compound(b"arrow chunks", parts)
    return _array(walk, whole)


def _array(walk: Walk, value: Any) -> bytes:
    kind = text(str(value.type))
    if isinstance(value, sys.modules["pyarrow"].ExtensionArray):
        return compound(b"arrow", [kind, text(value.type.extension_name), _array(walk, value.storage)])
    value = _without_views(value)
    valid = b"" if value.null_count == 0 else _flags(value.is_valid())
    dense = value if value.null_count == 0 else value.drop_null()
    return compound(b"arrow", [kind, integer(len(value)), raw(valid), *_dense(walk, dense)])


def _without_views(value: Any) -> Any:
    """The same content with one buffer for each kind of data, which views scatter."""
    arrow, kind = sys.modules["pyarrow"], value.type
    types = arrow.types
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return value.cast(arrow.large_string() if types.is_string_view(kind) else arrow.large_binary())
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return value.cast(arrow.large_list(kind.value_field))
    return value


def _flags(value: Any) -> bytes:
    np = sys.modules["numpy"]
    return bytes(np.packbits(value.to_numpy(zero_copy_only=False)))


def _dense(walk: Walk, value: Any) -> Iterable[bytes]:
    """The parts of an array without nulls."""
    types, kind = sys.modules["pyarrow"].types, value.type
    if types.is_null(kind):
        return []
    if types.is_boolean(kind):
        return [raw(_flags(value))]
    if types.is_dictionary(kind):
        return [_array(walk, value.dictionary), _array(walk, value.indices)]
    if types.is_struct(kind):
        return [_array(walk, field) for field in value.flatten()]
    if types.is_fixed_size_list(kind):
        return [integer(kind.list_size), _array(walk, value.flatten())]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        return _lists(walk, value)
    if types.is_run_end_encoded(kind):
        return [_array(walk, sys.modules["pyarrow.compute"].run_end_decode(value))]
    return _flat(value)


def _lists(walk: Walk, value: Any) -> Iterable[bytes]:
    offsets = value.offsets.to_numpy()
    if sys.modules["pyarrow"].types.is_map(value.type):
        first, size = int(offsets[0]), int(offsets[-1] - offsets[0])
        inner = [value.keys.slice(0, size), value.items.slice(0, size)] if first == 0 else _map_items(value)
    else:
        inner = [value.flatten()]
    return [digest(_lengths(offsets)), *(_array(walk, part) for part in inner)]


def _map_items(value: Any) -> list[Any]:
    arrow = sys.modules["pyarrow"]
    compact = arrow.concat_arrays([value, value.slice(0, 0)])
    first, size = compact.offsets[0].as_py(), compact.offsets[-1].as_py()
    return [compact.keys.slice(first, size - first), compact.items.slice(first, size - first)]


def _lengths(offsets: Any) -> Any:
    np = sys.modules["numpy"]
    return np.ascontiguousarray(np.diff(offsets).astype("<i8"))


def _flat(value: Any) -> Iterable[bytes]:
    types, kind = sys.modules["pyarrow"].types, value.type
    if len(value) == 0:
        return [raw(b"")]
    if types.is_string(kind) or types.is_binary(kind):
        return _text(value, "<i4")
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return _text(value, "<i8")
    try:
        width = kind.bit_width // 8
    except ValueError:
        raise NoKey(
            value, f"an Arrow array of type {kind} has no encoding yet", "cast it to a plain type"
        ) from None
    data = memoryview(value.buffers()[1])[value.offset * width : (value.offset + len(value)) * width]
    return [digest(data)]


def _text(value: Any, offsets_type: str) -> Iterable[bytes]:
    np = sys.modules["numpy"]
    _, offsets_buffer, data = value.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=offsets_type)[value.offset : value.offset + len(value) + 1]
    content = memoryview(data)[int(offsets[0]) : int(offsets[-1])] if data is not None else b""
    return [digest(_lengths(offsets)), digest(content)]


def _scalar(walk: Walk, value: Any) -> bytes:
    return compound(
        b"arrow scalar", [_array(walk, sys.modules["pyarrow"].array([value.as_py()], type=value.type))]
    )


def _type(_: Walk, value: Any) -> bytes:
    return compound(
        b"arrow type", [raw(sys.modules["pyarrow"].schema([("", value)]).serialize().to_pybytes())]
    )


def _field(_: Walk, value: Any) -> bytes:
    return compound(b"arrow field", [raw(sys.modules["pyarrow"].schema([value]).serialize().to_pybytes())])


ARROW: dict[str, Encoder] = {
    "Table": _table,
    "RecordBatch": _batch,
    "Schema": _schema,
    "ChunkedArray": lambda walk, value: compound(
        b"arrow chunked", [text(str(value.type)), _chunked(walk, value)]
    ),
    "Array": _array,
    "Scalar": _scalar,
    "DataType": _type,
    "Field": _field,
}
"""By the name of the class."""


# --- Encodings of pandas data: by labels, types and content.


def _frame(walk: Walk, value: Any) -> bytes:
    labels = walk.fields([("index", value.index), ("columns", value.columns), ("attrs", value.attrs)])
    columns = [_column(walk, value.iloc[:, place].array) for place in range(value.shape[1])]
    return compound(b"pandas frame", [walk.code(type(value)), *labels, *columns])


def _series(walk: Walk, value: Any) -> bytes:
    labels = walk.fields([("index", value.index), ("name", value.name), ("attrs", value.attrs)])
    return compound(b"pandas series", [walk.code(type(value)), *labels, _column(walk, value.array)])


def _index(walk: Walk, value: Any) -> bytes:
    return compound(
        b"pandas index",
        [walk.code(type(value)), *walk.fields([("name", value.name)]), _column(walk, value.array)],
    )


def _range_index(walk: Walk, value: Any) -> bytes:
    parts = [("name", value.name), ("range", range(value.start, value.stop, value.step))]
    return compound(b"pandas range", walk.fields(parts))


def _multi_index(walk: Walk, value: Any) -> bytes:
    # By level values: unused levels are not content.
    levels = [_index(walk, value.get_level_values(place)) for place in range(value.nlevels)]
    return compound(b"pandas levels", [*levels, *walk.fields([("names", list(value.names))])])


def _column(walk: Walk, value: Any) -> bytes:
    """An extension array by its type and its dense non-missing values."""
    parts = (_special(walk, value) or _plain)(walk, value)
    return compound(b"pandas array", [text(type(value).__name__), text(str(value.dtype)), *parts])


def _special(_: Walk, value: Any) -> Any:
    return next((encode for base in type(value).__mro__ if (encode := _ARRAYS.get(base.__name__))), None)


def _plain(walk: Walk, value: Any) -> Iterable[bytes]:
    """An array of another library, as pickle sees it."""
    reduced = value.__reduce_ex__(4)
    return [walk.encode(reduced[1]), walk.encode(reduced[2] if len(reduced) > 2 else None)]


def _numpy(walk: Walk, value: Any) -> Iterable[bytes]:
    return [walk.encode(value.to_numpy())]


def _categorical(walk: Walk, value: Any) -> Iterable[bytes]:
    return walk.fields([("codes", value.codes), ("categories", value.categories), ("ordered", value.ordered)])


def _moments(walk: Walk, value: Any) -> Iterable[bytes]:
    return [walk.encode(value.asi8)]


def _masked(walk: Walk, value: Any) -> Iterable[bytes]:
    missing = value.isna()
    dense = value[~missing]
    return [walk.encode(missing), walk.encode(dense.to_numpy(dtype=value.dtype.numpy_dtype))]


def _strings(walk: Walk, value: Any) -> Iterable[bytes]:
    missing = value.isna()
    encoded = [item.encode("utf-8", "surrogatepass") for item in value[~missing]]
    np = sys.modules["numpy"]
    lengths = np.fromiter(map(len, encoded), dtype="<i8", count=len(encoded))
    return [
        walk.encode(missing),
        raw(repr(value.dtype.na_value).encode()),
        digest(lengths),
        digest(b"".join(encoded)),
    ]


def _arrow(walk: Walk, value: Any) -> Iterable[bytes]:
    return [walk.encode(value.__arrow_array__())]


def _intervals(walk: Walk, value: Any) -> Iterable[bytes]:
    return walk.fields([("left", value.left), ("right", value.right), ("closed", value.closed)])


def _sparse(walk: Walk, value: Any) -> Iterable[bytes]:
    return [walk.encode(value.to_dense()), walk.encode(value.fill_value)]


_ARRAYS: dict[str, Any] = {
    "NumpyExtensionArray": _numpy,
    "Categorical": _categorical,
    "DatetimeLikeArrayMixin": _moments,
    "BaseMaskedArray": _masked,
    "ArrowStringArray": _strings,
    "StringArray": _strings,
    "ArrowExtensionArray": _arrow,
    "IntervalArray": _intervals,
    "SparseArray": _sparse,
}
"""By the name of the array's class or the first of its bases that is here."""

PANDAS: dict[str, Encoder] = {
    "DataFrame": _frame,
    "Series": _series,
    "RangeIndex": _range_index,
    "MultiIndex": _multi_index,
    "Index": _index,
    "ExtensionArray": _column,
}
"""By the name of the class."""


# --- Encodings of Polars data: by names, types and content, however it is chunked or sliced.


def _polars_frame(walk: Walk, value: Any) -> bytes:
    height = integer(value.height)
    return compound(
        b"polars frame", [height, *(_polars_series(walk, column) for column in value.get_columns())]
    )


def _polars_series(walk: Walk, value: Any) -> bytes:
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
        return [integer(len(value)), raw(b""), *_polars_dense(walk, value)]
    np = sys.modules["numpy"]
    valid = raw(bytes(np.packbits(value.is_not_null().to_numpy())))
    return [integer(len(value)), valid, *_polars_dense(walk, value.drop_nulls())]


def _polars_dense(walk: Walk, value: Any) -> Iterable[bytes]:
    """The parts of a series without nulls."""
    polars, dtype = sys.modules["polars"], value.dtype
    if isinstance(dtype, polars.Categorical | polars.Enum):
        return _polars_dense(walk, value.cast(polars.String))
    if isinstance(dtype, polars.String):
        return _polars_dense(walk, value.cast(polars.Binary))
    if isinstance(dtype, polars.Binary):
        return [_numbers(value.bin.size()), digest(b"".join(value.to_list()))]
    if isinstance(dtype, polars.List):
        filled = value.filter(value.list.len() > 0)
        return [_numbers(value.list.len()), *_content(walk, filled.explode())]
    if isinstance(dtype, polars.Array):
        return _polars_dense(walk, value.arr.to_list())
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
            value, f"Polars cannot write its plan: {error}", "collect it first, or build it inside the task"
        ) from error
    if b"PLPYUDF" in plan or b"PYTHON" in plan.upper():
        raise NoKey(value, "its plan holds a Python function, pickled by address", "build it inside the task")
    return plan


POLARS: dict[str, Encoder] = {
    "DataFrame": _polars_frame,
    "Series": _polars_series,
    "Expr": _expression,
    "LazyFrame": _lazy,
}
"""By the name of the class."""


# --- The encoder of a type. The libraries are never imported here: a value proves that they are loaded.

_LIBRARIES: dict[str, dict[str, Encoder]] = {"pyarrow": ARROW, "polars": POLARS, "pandas": PANDAS}


def frame_encoder(kind: type) -> Encoder | None:
    """The encoder for instances of this type, by its first base with one; None for types of other libraries."""
    for base in kind.__mro__:
        encoders = _LIBRARIES.get(base.__module__.partition(".")[0])
        if encoders is not None and (encoder := encoders.get(base.__name__)) is not None:
            return encoder
    return None
