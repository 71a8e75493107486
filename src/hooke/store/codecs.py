"""How arrays and frames go into an object: their data as it lies in memory, aside from the pickle stream.

Libraries are looked up in `sys.modules`: a value of theirs exists only where they were imported. Reading may
import one, since the value needs it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

__all__ = ["Blob", "reduce_known"]

_BLOCK = 1 << 20
"""Bytes of a strided array that are made contiguous at a time."""

_SMALL_FRAME = 1 << 20
"""Frames up to this are read without pyarrow if it is not loaded: its import takes longer (80 ms) than a copy."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are produced while they are written; `size` is an estimate."""

    size: int
    write: Callable[[Any], None]


Later: TypeAlias = Callable[[Blob], PickleBuffer]
Reduced: TypeAlias = tuple[Any, ...]


def reduce_known(value: Any, later: Later) -> Any:
    """The reduction of an array or a frame, its data handed to `later`; NotImplemented for anything else."""
    cls = type(value)
    reducer = _REDUCERS.get((cls.__module__, cls.__name__))
    # By the class itself too: a class of the user's may bear the same names.
    if reducer is None or getattr(sys.modules.get(reducer[0]), cls.__name__, None) is not cls:
        return NotImplemented
    return reducer[1](value, later)


# -- NumPy --------------------------------------------------------------------------------------------


def _reduce_array(array: np.ndarray[Any, Any], later: Later) -> Any:
    """NumPy puts contiguous arrays out of band itself; strided and mapped ones it would copy into the stream."""
    flags, plain = array.flags, type(array).__name__ == "ndarray"
    if array.dtype.hasobject or (plain and (flags.c_contiguous or flags.f_contiguous)):
        return NotImplemented
    blob = Blob(array.nbytes, lambda sink: _write_blocks(array, sink))
    return _load_array, (later(blob), array.dtype, array.shape)


def _write_blocks(array: np.ndarray[Any, Any], sink: Any) -> None:
    import numpy as np

    for block in _blocks(array):
        sink.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def _blocks(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    if array.nbytes <= _BLOCK or array.ndim == 0:
        if array.size:
            yield array
        return
    row = array.nbytes // len(array)
    if row > _BLOCK:
        for part in array:
            yield from _blocks(part)
        return
    rows = _BLOCK // row
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _load_array(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    import numpy as np

    return (
        np.frombuffer(data, dtype=np.uint8).view(dtype).reshape(shape)
        if len(data)
        else np.empty(shape, dtype)
    )


# -- Arrow --------------------------------------------------------------------------------------------


def _reduce_table(table: pa.Table, later: Later) -> Reduced:
    return _load_table, (later(_table_blob(table)),)


def _reduce_batch(batch: pa.RecordBatch, later: Later) -> Reduced:
    table = sys.modules["pyarrow"].Table.from_batches([batch])
    return _load_batch, (later(_table_blob(table)),)


def _table_blob(table: pa.Table) -> Blob:
    def write(sink: Any) -> None:
        pyarrow = sys.modules["pyarrow"]
        # A stream and not a file: only a stream allows a column's chunks to have dictionaries of their own.
        with pyarrow.ipc.new_stream(pyarrow.PythonFile(sink, "w"), table.schema) as writer:
            writer.write_table(table)

    return Blob(table.nbytes + 1024 * (1 + table.num_columns), write)


def _load_table(data: Any) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


def _load_batch(data: Any) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()


# -- Polars -------------------------------------------------------------------------------------------


def _reduce_frame(frame: pl.DataFrame, later: Later) -> Any:
    polars = sys.modules["polars"]
    if polars.Object in frame.dtypes or not frame.width:
        return NotImplemented
    table = _as_table(frame)
    if table is not None:
        return _load_frame, (later(_table_blob(table)),)
    newest = polars.CompatLevel.newest()

    def write(sink: Any) -> None:
        frame.write_ipc_stream(cast("BinaryIO", _Raw(sink)), compat_level=newest)

    return _load_own_frame, (later(Blob(int(frame.estimated_size()), write)), dict(frame.schema))


def _reduce_series(series: pl.Series, later: Later) -> Any:
    reduced = _reduce_frame(series.rename("series").to_frame(), later)
    return reduced if reduced is NotImplemented else (_load_series, (series.name, *reduced))


def _as_table(frame: pl.DataFrame) -> pa.Table | None:
    """The frame as an Arrow table on the same memory; None where Arrow is not loaded or would change a type."""
    polars, pyarrow = sys.modules["polars"], sys.modules.get("pyarrow")
    if pyarrow is None:
        return None
    try:
        table = frame.to_arrow(compat_level=polars.CompatLevel.newest())
        back = polars.from_arrow(table.schema.empty_table())
    except Exception:  # noqa: BLE001 each library has its own errors for a type that it does not know
        return None
    return table if back.schema == frame.schema else None


def _load_frame(data: Any) -> pl.DataFrame:
    table = _table_if_worth_it(data)
    return _read_stream(data) if table is None else _on_same_memory(table)


def _load_own_frame(data: Any, schema: dict[str, Any]) -> pl.DataFrame:
    table = _table_if_worth_it(data)
    # Whether Arrow knows all the types is found out here, since it was not there where the frame was written.
    if table is None or dict(_on_same_memory(table.schema.empty_table()).schema) != schema:
        return _read_stream(data)
    return _on_same_memory(table)


def _table_if_worth_it(data: Any) -> pa.Table | None:
    if sys.modules.get("pyarrow") is None and len(data) <= _SMALL_FRAME:
        return None
    try:
        return _load_table(data)
    except (ImportError, ValueError, NotImplementedError):  # Arrow's errors for a type that it does not know
        return None


def _read_stream(data: Any) -> pl.DataFrame:
    import polars as pl

    return pl.read_ipc_stream(io.BytesIO(data))


def _on_same_memory(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    return cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))


def _load_series(name: str, load: Callable[[Any], pl.DataFrame], args: tuple[Any, ...]) -> pl.Series:
    return load(*args).to_series().rename(name)


class _Raw(io.RawIOBase):
    """A sink as the file object that Polars asks for."""

    def __init__(self, sink: Any) -> None:
        super().__init__()
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._sink.write(data)
        return len(data)


_REDUCERS: dict[tuple[str, str], tuple[str, Callable[[Any, Later], Any]]] = {
    ("numpy", "ndarray"): ("numpy", _reduce_array),
    ("numpy", "memmap"): ("numpy", _reduce_array),
    ("pyarrow.lib", "Table"): ("pyarrow", _reduce_table),
    ("pyarrow.lib", "RecordBatch"): ("pyarrow", _reduce_batch),
    ("polars.dataframe.frame", "DataFrame"): ("polars", _reduce_frame),
    ("polars.series.series", "Series"): ("polars", _reduce_series),
}
"""(module, name) of a class as it says -> (module that holds it for users, its reducer)."""
