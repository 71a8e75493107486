"""Files in pieces: row groups of Parquet files, lines of text files, and what NumPy makes of Arrow's columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.base.files import first_bytes
from hooke.base.formats import format_bytes
from hooke.base.units import parse_bytes
from hooke.keys.file import File

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ByteRange",
    "ColumnKind",
    "InMemory",
    "ParquetFile",
    "RowGroup",
    "any_length_values",
    "arrow_table",
    "check_alike",
    "check_unmasked",
    "files_in",
    "fixed_values",
    "read_parquet",
    "scan",
]

BATCH_BYTES = 4 << 20
"""Of the rows that are decoded at once."""
BATCH_ROWS = 65_536
LINE_BYTES = 1 << 16
"""Read at once in search of the end of a line."""
COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4"}


# --- Parquet files.


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """How a column is packed: a `dtype` and the `shape` of each value, or `values` of any length."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    values: Literal["", "text", "bytes", "arrays"] = ""


class ParquetFile:
    """A Parquet file, read in batches. Raises UsageError for what is not one, MissingExtra without pyarrow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _parquet_errors(path):
            self._file = _parquet().ParquetFile(path, buffer_size=1 << 20)
        self.rows: int = self._file.metadata.num_rows

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._file.schema_arrow

    @cached_property
    def group_rows(self) -> list[int]:
        """The rows of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    @cached_property
    def decoded_bytes(self) -> int:
        """About what all rows take in memory."""
        metadata = self._file.metadata
        return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))

    def kinds(self) -> dict[str, ColumnKind]:
        """How each column is packed. Raises UsageError for one that cannot be."""
        return _kinds(self.name, self.schema)

    def batches(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows, some at a time, each time with the place that messages name."""
        rows = min(BATCH_ROWS, max(1, BATCH_BYTES * self.rows // max(self.decoded_bytes, 1)))
        for number in range(len(self.group_rows)):
            where = f"{self.path}, row group {number}"
            read = self._file.iter_batches(batch_size=rows, row_groups=[number])
            while True:
                with _parquet_errors(self.path, where):
                    batch = next(read, None)
                if batch is None:
                    break
                yield where, batch

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A row group."""
        if unknown := [name for name in columns or () if name not in self.schema.names]:
            raise UsageError(
                f"{self.path} has no column {', '.join(map(repr, unknown))}",
                fix=f"its columns: {', '.join(self.schema.names)}",
            )
        with _parquet_errors(self.path, f"row group {number}"):
            return self._file.read_row_group(number, columns=None if columns is None else list(columns))


class InMemory:
    """A table in memory, read like a file."""

    name = "the table"

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.rows = len(table)
        self.schema: pa.Schema = table.schema

    def kinds(self) -> dict[str, ColumnKind]:
        """How each column is packed. Raises UsageError for one that cannot be."""
        return _kinds(self.name, self.schema)

    def batches(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows, some at a time."""
        rows = min(BATCH_ROWS, max(1, BATCH_BYTES * self.rows // max(self._table.nbytes, 1)))
        for batch in self._table.to_batches(max_chunksize=rows):
            yield "", batch


def arrow_table(source: Any) -> pa.Table | None:
    """A pandas, Polars or Arrow table as one of Arrow; None for anything else."""
    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__qualname__}"
    if kind == "pyarrow.Table":
        return source
    if kind == "polars.DataFrame":
        return source.to_arrow()
    if kind != "pandas.DataFrame":
        return None
    arrow = _arrow()
    try:
        return arrow.Table.from_pandas(source, preserve_index=False)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
        raise UsageError(
            "a column of the table has values of several types",
            why=str(error),
            fix="convert it to one type first, for example with .astype(str)",
        ) from error


def check_unmasked(what: str, values: Any) -> None:
    """Raise UsageError for a masked array, or a list with one: as a plain array it would lose its mask."""
    some = values if isinstance(values, list | tuple) else [values]
    if any(isinstance(each, np.ma.MaskedArray) for each in some):
        raise UsageError(
            f"{what} is masked, and its mask would be lost",
            fix="fill it first with .filled(value), or give the mask as a column of its own",
        )


def check_alike(files: Sequence[ParquetFile | InMemory]) -> None:
    """Raise UsageError for a file without rows, and for one whose columns are not those of the first."""
    first = files[0]
    for file in files:
        if not file.rows:
            raise UsageError(f"{file.name} has no rows", fix="leave it out, or write it again")
        if file.schema.names != first.schema.names:
            missing = [name for name in first.schema.names if name not in file.schema.names]
            more = [name for name in file.schema.names if name not in first.schema.names]
            raise UsageError(
                f"{file.name} has other columns than {first.name}",
                why="; ".join(
                    said
                    for said, names in (
                        (f"it lacks {', '.join(missing)}", missing),
                        (f"only it has {', '.join(more)}", more),
                        ("they are in another order", not missing and not more),
                    )
                    if names
                ),
                fix="write all files with the same columns, or pack them separately",
            )
        for one, other in zip(file.schema, first.schema, strict=True):
            if one.type != other.type:
                raise UsageError(
                    f"column {one.name!r} is {one.type} in {file.name}, and {other.type} in {first.name}",
                    fix="write all files with the same types, or pack them separately",
                )


def read_parquet(path: Path, most_bytes: int) -> pa.Table:
    """The whole file as a table. Raises UsageError if it takes more than `most_bytes`, of which it reads one row group too many."""
    file = ParquetFile(path)
    groups: list[pa.Table] = []
    # What is stored once and used many times takes more in memory than in the file.
    taken = file.decoded_bytes
    for number in range(len(file.group_rows)):
        if taken <= most_bytes:
            groups.append(file.read(number))
            taken = max(taken, sum(each.nbytes for each in groups))
    if taken > most_bytes:
        into = path.with_suffix(".packed")
        raise UsageError(
            f"{path} takes {format_bytes(taken)} in memory or more, and `memory` is {format_bytes(most_bytes)}",
            fix=f'convert it once with hooke.data.pack("{path}", "{into}") and pass the path that it returns, or give more memory=',
        )
    return _arrow().concat_tables(groups) if groups else file.schema.empty_table()


def _arrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtra(
            "this needs pyarrow, which is not installed",
            why="it reads Parquet, and tables of pandas and Polars column by column",
            fix=install_command("data"),
        ) from error
    return pa


def _parquet() -> Any:
    _arrow()
    import pyarrow.parquet as pq

    return pq


@contextmanager
def _parquet_errors(path: Path, where: str = "") -> Iterator[None]:
    arrow = _arrow()
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        there = path.is_file()
        raise UsageError(
            f"{path} cannot be read as Parquet" if there else f"no file {path}",
            where=where,
            why=str(error),
            fix="pass a whole Parquet file; a folder of other files is packed as values of bytes"
            if there
            else "",
        ) from error


# --- Columns of Arrow.


def _kinds(where: str, schema: pa.Schema) -> dict[str, ColumnKind]:
    if not schema.names:
        raise UsageError(f"{where} has no columns", fix="pass one with at least one column")
    if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise UsageError(f"{where} has several columns {twice!r}", fix="rename one of them")
    return {field.name: _kind(where, field.name, field.type) for field in schema}


def _kind(where: str, name: str, given: pa.DataType) -> ColumnKind:
    types = _arrow().types
    kind, shape = given.value_type if types.is_dictionary(given) else given, ()
    while types.is_fixed_size_list(kind):
        kind, shape = kind.value_type, (*shape, kind.list_size)
    if (dtype := _dtype(kind)) and 0 not in shape:
        return ColumnKind(dtype=dtype, shape=shape)
    if not shape and (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return ColumnKind(values="text")
    if not shape and (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    ):
        return ColumnKind(values="bytes")
    if (
        not shape
        and (types.is_list(kind) or types.is_large_list(kind))
        and (dtype := _dtype(kind.value_type))
    ):
        return ColumnKind(dtype=dtype, values="arrays")
    raise UsageError(
        f"column {name!r} of {where} is {given}, which cannot be packed",
        why="columns are numbers, truth values, dates and times, text, bytes, or lists of numbers",
        fix="cast it to one of these first, or leave it out",
    )


def _dtype(kind: pa.DataType) -> str:
    """NumPy's type for one of Arrow's with a fixed width; empty if there is none."""
    types = _arrow().types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype()).str
    if types.is_date32(kind):
        return "<M8[D]"
    if types.is_date64(kind):
        return "<M8[ms]"
    if types.is_timestamp(kind):
        return f"<M8[{kind.unit}]"
    return f"<m8[{kind.unit}]" if types.is_duration(kind) else ""


def fixed_values(
    column: pa.Array, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], where: str
) -> NDArray[Any]:
    """The values of a column of numbers. Raises UsageError for nulls that `dtype` has no value for."""
    rows, plain = len(column), _decoded(column)
    for _ in shape:
        _check_nulls(plain, name, where, allowed=False)
        plain = plain.flatten()
    _check_nulls(plain, name, where, allowed=dtype.kind in "fMm")
    return plain.to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(rows, *shape)


def any_length_values(
    column: pa.Array, name: str, dtype: str, where: str
) -> tuple[Any, NDArray[np.int64], NDArray[np.bool_] | None]:
    """The bytes of a column's values one after another, where each ends, and which are null."""
    arrow, plain = _arrow(), _decoded(column)
    null = ~plain.is_valid().to_numpy(zero_copy_only=False) if plain.null_count else None
    if not dtype:
        if arrow.types.is_string_view(plain.type):
            plain = plain.cast(arrow.large_string())
        whole = plain.cast(arrow.large_binary())
        _, offsets, data = whole.buffers()
        return data if data is not None else b"", _ends(offsets, whole), null
    whole = plain.cast(arrow.large_list(plain.type.value_type))
    ends = _ends(whole.buffers()[1], whole)
    inner = whole.values.slice(int(ends[0]), int(ends[-1] - ends[0]))
    _check_nulls(inner, name, where, allowed=np.dtype(dtype).kind in "fMm")
    data = np.ascontiguousarray(inner.to_numpy(zero_copy_only=False).astype(dtype, copy=False))
    return data.view(np.uint8), (ends - ends[0]) * np.dtype(dtype).itemsize, null


def _ends(offsets: Any, column: pa.Array) -> NDArray[np.int64]:
    return np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]


def _decoded(column: pa.Array) -> Any:
    return column.dictionary_decode() if _arrow().types.is_dictionary(column.type) else column


def _check_nulls(column: pa.Array, name: str, where: str, *, allowed: bool) -> None:
    if not allowed and column.null_count:
        raise UsageError(
            f"column {name!r} has {column.null_count:,} nulls, and {column.type} has no value for them",
            where=where,
            fix="fill them first, or cast the column to float, where they become NaN",
        )


# --- Pieces of files, as the items of a map.


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a Parquet file. Its key has the content of the file, so a changed file is read again."""

    file: File
    number: int
    rows: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows as an Arrow table, of some columns or of all. Raises UsageError for a column that is not there."""
        return ParquetFile(self.file.path).read(self.number, columns)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Whole lines of a text file: its bytes from `start` to before `stop`. Its key has the content of the file."""

    file: File
    start: int
    stop: int

    def read(self) -> bytes:
        """The lines."""
        with self.file.path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.stop - self.start)


def scan(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, size: str | int = "64MiB"
) -> list[RowGroup | ByteRange]:
    """The pieces of files as items for `.map`: row groups of Parquet files, ranges of lines of about `size` of text files.

    `source` is a file, a folder (all files in it, sorted by name), or a list of files. An item is small, and its `read()` gives an
    Arrow table or bytes. Raises UsageError for what is not there, compressed text, and files without anything in them.
    """
    paths = [Path(source)] if isinstance(source, (str, os.PathLike)) else [Path(each) for each in source]
    if len(paths) == 1 and paths[0].is_dir():
        paths = files_in(paths[0])
    most = max(1, parse_bytes(size, name="size"))
    items: list[RowGroup | ByteRange] = []
    for path in paths:
        items += _pieces(path, most)
    if not items:
        raise UsageError(f"there is nothing to read in {source}", fix="pass files with rows or lines")
    return items


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and those below it, sorted, without hidden ones; beside Parquet files also without those that begin with `_`.

    Raises UsageError for folders that are named by the values of a column, which the files in them lack.
    """
    found = sorted(
        each
        for each in folder.rglob("*")
        if each.is_file() and not any(part.startswith(".") for part in each.relative_to(folder).parts)
    )
    parquet = [each for each in found if each.suffix == ".parquet"]
    if not parquet:
        return found
    for each in parquet:
        if column := next((part for part in each.relative_to(folder).parts[:-1] if "=" in part), ""):
            raise UsageError(
                f"{folder} has folders named by a column's values, such as {column}",
                why="the files in them lack this column",
                fix="write the files with the column in them; or pass a list of the files to do without it",
            )
    return [each for each in found if not each.name.startswith("_")]


def _pieces(path: Path, most: int) -> Iterator[RowGroup | ByteRange]:
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="pass the path of a file, or of a folder with files")
    if path.suffix in COMPRESSED:
        raise UsageError(
            f"{path} is compressed, so it cannot be cut at lines",
            fix="decompress it, or convert it to Parquet",
        )
    file = File(path)
    if path.suffix == ".parquet" or first_bytes(path, 4) == b"PAR1":
        for number, rows in enumerate(ParquetFile(path).group_rows):
            if rows:
                yield RowGroup(file, number, rows)
        return
    ends = _line_ends(path, most)
    for start, stop in zip([0, *ends], ends, strict=False):
        yield ByteRange(file, start, stop)


def _line_ends(path: Path, most: int) -> list[int]:
    """The ends of the lines at which the file is cut; the last is its own."""
    ends: list[int] = []
    total = path.stat().st_size
    with path.open("rb") as stream:
        while (wanted := (ends[-1] if ends else 0) + most) < total:
            stream.seek(wanted - 1)  # a line may end just there
            while (more := stream.read(LINE_BYTES)) and (found := more.find(b"\n")) < 0:
                wanted += len(more)
            if not more:
                break
            ends.append(wanted + found)
    return ends if ends[-1:] == [total] or not total else [*ends, total]
