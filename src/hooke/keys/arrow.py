"""Encodings of Arrow data: by schema and content, however it is chunked or sliced.

What lies under a null is no content: an array is its validity and its dense non-null values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from hooke.keys.encoding import Encoder, NoKey, Walk, compound, digest, raw, text
from hooke.keys.scalars import integer

__all__ = ["ARROW"]


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
    """The same content with one buffer for each kind of data: views keep it scattered."""
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
