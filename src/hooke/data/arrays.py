"""Values as arrays. Where an array would hold other values than it was given, it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError

__all__ = ["check_unmasked", "column_array", "column_type", "columns_of"]


def check_unmasked(what: str, values: Any) -> None:
    """Raise UsageError for a masked array, or a list with one: as a plain array it would lose its mask."""
    some = values if isinstance(values, (list, tuple)) else [values]
    if any(isinstance(each, np.ma.MaskedArray) for each in some):
        raise UsageError(
            f"{what} is masked, and its mask would be lost",
            fix="fill it first with .filled(value), or give the mask as a column of its own",
        )


def column_array(name: object, values: Any) -> NDArray[Any]:
    """The values of a column, which may be lists of lists, as an array.

    Raises UsageError, which names the row, for values that an array would change: numbers beside text, bytes that end with zeros, an
    integer that a float does not hold.
    """
    try:
        array = np.asarray(values)
        given = np.array(values, object) if isinstance(values, Sequence) else array
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"column {name!r} is no array",
            why=str(error),
            fix="give each row as many values; lists of different lengths can be shuffled without a dict, and packed as a column of "
            "an Arrow or Polars table",
        ) from error
    if given is array or array.dtype.kind not in "biufcSU":
        return array
    kept = array.astype(object)
    changed = given != kept
    changed &= (given == given) | (kept == kept)  # noqa: PLR0124 - not where both are NaN
    if changed.any():
        at = tuple(np.argwhere(changed)[0])
        raise UsageError(
            f"row {at[0]:,} of column {name!r} has {given[at]!r}, which an array would keep as {kept[at]!r}",
            fix="pass values of one type; text and bytes are columns of their own",
        )
    return array


def column_type(values: NDArray[Any]) -> str:
    """The type of a column of an array, as `float32`, `text` or `uint8[28,28]`."""
    name = {"U": "text", "S": "bytes"}.get(values.dtype.kind, values.dtype.name)
    return name + (f"[{','.join(map(str, values.shape[1:]))}]" if values.ndim > 1 else "")


def columns_of(batch: Any) -> Any:
    """A pandas, Polars or Arrow table as a dict of its columns as arrays; all else as it is."""
    kind = f"{type(batch).__module__.partition('.')[0]}.{type(batch).__qualname__}"
    if kind == "pandas.DataFrame":
        return {name: column.to_numpy() for name, column in batch.items()}
    if kind == "polars.DataFrame":
        return {column.name: column.to_numpy() for column in batch.get_columns()}
    if kind == "pyarrow.Table":
        return {name: batch.column(name).to_numpy() for name in batch.column_names}
    return batch
