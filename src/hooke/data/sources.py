"""What a data set can be read from: anything with rows, by number. Its size decides how it is drawn, never the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.base.ref import DataSetRead
from hooke.data.arrays import check_unmasked, column_array, column_type
from hooke.data.order import Ahead, Rows, unheeded
from hooke.data.packed import PackedFile, changed_file, is_packed
from hooke.data.parquet_files import arrow_columns, is_parquet, read_parquet
from hooke.data.remote_files import is_url

__all__ = ["OpenedFile", "Source", "opened"]


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that is a source: where it is, whatever the working folder, and what tells it from another one at that place.

    That is the digest of a packed file. Of others it is how large they are and when they were written.
    """

    path: str | os.PathLike[str]
    digest: str
    size: int = 0
    written_ns: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Rows by number; `take` gives them in the source's own kind, `part` rows [low, high) of what `take` gave.

    The order depends on `row_bytes`, so it follows from the rows or their types, never from where they lie: ranks would have orders
    of their own. `read_bytes` is what a row takes when it is read, infinite if that is not known. `together` rows are best read
    at once, a power of two; `ahead` is told the rows of the next window, and `follow` the blocks of those to come, as
    PackedFile says. `file` is where they are. `columns` tells name and type of each; the only one of an array has no name.
    `note_read` notes that rows are read, where it is not Shuffled that does so.
    """

    kind: str
    rows: int
    row_bytes: float
    read_bytes: float
    take: Callable[[Rows], Any]
    part: Callable[[Any, int, int], Any]
    together: int = 1
    ahead: Ahead = unheeded
    follow: Callable[[Iterator[Rows], int, int], None] | None = None
    file: OpenedFile | None = None
    columns: Callable[[], Iterable[tuple[str, str]]] = tuple
    note_read: Callable[[], None] | None = None

    def described(self) -> DataSetRead:
        """What is known of it."""
        told = DataSetRead(kind=self.kind, rows=self.rows, columns=tuple(self.columns()))
        if (file := self.file) is None:
            return told
        stamp = f"{file.size} bytes, written {file.written_ns}" if file.written_ns else ""
        return msgspec.structs.replace(told, source=os.fspath(file.path), digest=file.digest, stamp=stamp)


def opened(data: Any, memory: int) -> Source:
    """The rows of `data`, for which reading may take `memory` bytes.

    Raises UsageError for what has none, or cannot be read, and for an OpenedFile that is another one now.
    """
    if isinstance(data, (str, os.PathLike, OpenedFile)):
        return _of_file(data, memory)
    if isinstance(data, PackedFile):
        return _of_packed(data)
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__qualname__}"
    if isinstance(data, np.ndarray):
        return _of_array(data)
    if isinstance(data, Mapping):
        return _of_columns(data)
    if kind == "pandas.DataFrame":
        return Source(
            kind,
            len(data),
            sum(map(_bytes_in_pandas, data.dtypes)),
            float(data.memory_usage(index=False).sum()) / max(len(data), 1),
            data.take,
            lambda read, low, high: read.iloc[low:high],
            columns=lambda: zip(map(str, data.columns), map(str, data.dtypes), strict=True),
        )
    if kind == "polars.DataFrame":
        sizes = (POLARS_BYTES.get(each.base_type().__name__, VALUE_BYTES) for each in data.dtypes)
        held = data.estimated_size() / max(len(data), 1)
        return Source(
            kind,
            len(data),
            sum(sizes),
            held,
            data.__getitem__,
            _sliced,
            columns=lambda: ((name, str(each).lower()) for name, each in data.schema.items()),
        )
    if kind == "pyarrow.Table":
        return _of_arrow(data)
    if isinstance(data, Sequence) and not isinstance(data, bytes | bytearray | memoryview):
        return _of_sequence(data)
    raise UsageError(
        f"cannot shuffle a {type(data).__qualname__}",
        fix="pass an array, a dict of arrays, a pandas, Polars or Arrow table, a sequence such as a list, the path of a packed, "
        "Parquet or .npy file, or the URL of a packed one",
    )


VALUE_BYTES = 64.0
"""For the planner, of a value whose type has no fixed size: text, bytes, a list, an object. What it really takes may differ from
one process to the next."""
POLARS_BYTES = {
    name: float(size)
    for size, names in {
        1: "Boolean Int8 UInt8",
        2: "Int16 UInt16 Float16",
        4: "Int32 UInt32 Float32 Date",
        8: "Int64 UInt64 Float64 Datetime Duration Time",
        16: "Int128 UInt128 Decimal",
    }.items()
    for name in names.split()
}


def _bytes_in_pandas(dtype: Any) -> float:
    fixed = getattr(dtype, "kind", "O") in "biufcmM"
    return float(getattr(dtype, "itemsize", VALUE_BYTES)) if fixed else VALUE_BYTES


def _bytes_in_arrow(kind: Any) -> float:
    try:
        return float(kind.bit_width) / 8
    except ValueError:  # it has no fixed size
        return VALUE_BYTES


def _sliced(read: Any, low: int, high: int) -> Any:
    return read.slice(low, high - low)


def _of_file(given: str | os.PathLike[str] | OpenedFile, memory: int) -> Source:
    if isinstance(given, OpenedFile):
        found = _of_file(given.path, memory)
        if found.file != given:
            raise changed_file(given.path)
        return found
    if isinstance(given, str) and is_url(given):
        remote = PackedFile(given, memory=memory)
        return replace(_of_packed(remote), file=OpenedFile(given, remote.digest))
    path = Path(given)
    before = path.stat() if path.is_file() else None
    data = _read(path, memory)
    source = opened(data, memory)
    # A File stays one, which has its content in its key.
    place = path.absolute() if isinstance(given, str | Path) else given
    if isinstance(data, PackedFile):
        return replace(source, file=OpenedFile(place, data.digest))
    size, written = (before.st_size, before.st_mtime_ns) if before else (0, 0)
    return replace(source, file=OpenedFile(place, "", size, written, source.rows))


def _read(path: Path, memory: int) -> Any:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder",
            fix=f'convert it once with hooke.data.pack("{path}", "{path}.packed") and pass the path that it returns',
        )
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="pass the path of a packed, Parquet or .npy file")
    if is_packed(path):
        return PackedFile(path, memory=memory)
    if is_parquet(path):
        return read_parquet(path, memory)
    if path.suffix != ".npy":
        raise UsageError(
            f"{path} is not a .npy file, a Parquet file or a packed one",
            fix="convert it with hooke.data.pack, or read it and pass the table",
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as an array", why=str(error)) from error


def _of_array(data: NDArray[Any]) -> Source:
    check_unmasked("the array", data)
    if data.ndim == 0:
        raise UsageError(
            "cannot shuffle an array without dimensions", fix="pass one with a row for each example"
        )
    plain = data.view(np.ndarray)  # of a memory-mapped one too, whose class costs time with each batch
    size = plain.nbytes / max(len(plain), 1)
    columns = (("", column_type(plain)),)
    return Source("numpy.ndarray", len(plain), size, size, _taking(plain), _indexed, columns=lambda: columns)


def _of_arrow(data: Any) -> Source:
    whole = data.combine_chunks()  # `take` copies the chunks each time otherwise
    held = whole.nbytes / max(len(whole), 1)
    return Source(
        "pyarrow.Table",
        len(whole),
        sum(map(_bytes_in_arrow, data.schema.types)),
        held,
        whole.take,
        _sliced,
        columns=lambda: arrow_columns(data.schema),
    )


def _taking(values: NDArray[Any]) -> Callable[[Rows], NDArray[Any]]:
    """What gives rows of an array. `np.take` is the fastest, but copies the whole of one whose rows do not lie one after another."""
    if values.flags.c_contiguous and values.flags.aligned:
        return lambda rows: np.take(values, rows, axis=0)
    return lambda rows: np.ascontiguousarray(values[rows])


def _indexed(read: Any, low: int, high: int) -> Any:
    return read[low:high]


def _of_packed(data: PackedFile) -> Source:
    part = _part_of_columns if data.index.kind == "columns" else _indexed
    return Source(
        "packed",
        len(data),
        data.row_bytes,
        data.row_bytes,
        data.take_known,
        part,
        data.block_rows,
        data.read_ahead,
        data.follow if is_url(data.path) else None,
        columns=data.column_types,
        note_read=data.note_read,
    )


def _part_of_columns(read: Any, low: int, high: int) -> Any:
    return {name: values[low:high] for name, values in read.items()}


def _of_columns(data: Mapping[str, Any]) -> Source:
    for name, values in data.items():
        check_unmasked(f"column {name!r}", values)
    columns = {name: _column(name, values) for name, values in data.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise UsageError(
            "the columns have different numbers of rows" if columns else "the dict has no columns",
            why=", ".join(f"{name}: {rows}" for name, rows in lengths.items()),
            fix="pass arrays of the same length",
        )
    rows = next(iter(lengths.values()))
    size = sum(values.nbytes for values in columns.values()) / max(rows, 1)
    taken = {name: _taking(values) for name, values in columns.items()}
    return Source(
        "dict",
        rows,
        size,
        size,
        lambda at: {name: take(at) for name, take in taken.items()},
        _part_of_columns,
        columns=lambda: ((str(name), column_type(values)) for name, values in columns.items()),
    )


def _column(name: str, values: Any) -> NDArray[Any]:
    column = column_array(name, values)
    if not column.ndim:
        raise UsageError(
            f"column {name!r} is a single {type(values).__name__}",
            fix="pass an array or a list with a value for each row",
        )
    return column


def _of_sequence(data: Sequence[Any]) -> Source:
    """Its rows may be read from a disk or made anew at each access, so none is looked at before it is in a batch."""
    return Source(
        "sequence",
        len(data),
        VALUE_BYTES,
        math.inf,
        lambda rows: [data[row] for row in rows.tolist()],
        _indexed,
    )
