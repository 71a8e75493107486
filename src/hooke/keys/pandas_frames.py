"""Encodings of pandas data: by labels, types and content."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from hooke.keys.encoding import Encoder, Walk, compound, digest, raw, text

__all__ = ["PANDAS"]


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
    # By level values: levels that no code uses are no content.
    levels = [_index(walk, value.get_level_values(place)) for place in range(value.nlevels)]
    return compound(b"pandas levels", [*levels, *walk.fields([("names", list(value.names))])])


def _column(walk: Walk, value: Any) -> bytes:
    """An extension array, by its type and the dense values that are not missing."""
    parts = (_special(walk, value) or _plain)(walk, value)
    return compound(b"pandas array", [text(type(value).__name__), text(str(value.dtype)), *parts])


def _special(_: Walk, value: Any) -> Any:
    return next((encode for base in type(value).__mro__ if (encode := _ARRAYS.get(base.__name__))), None)


def _plain(walk: Walk, value: Any) -> Iterable[bytes]:
    """An array of another library: as pickle would see it."""
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
