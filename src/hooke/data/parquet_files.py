"""Parquet files and tables, read some rows at a time, and what NumPy makes of Arrow's columns."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.base.files import first_bytes
from hooke.base.formats import format_bytes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ColumnKind",
    "InMemory",
    "ParquetFile",
    "any_length_values",
    "arrow_columns",
    "arrow_table",
    "check_alike",
    "fixed_values",
    "is_parquet",
    "read_parquet",
]

BATCH_BYTES = 4 << 20
"""Of the rows that are decoded at once."""
BATCH_ROWS = 65_536
FIRST_ROWS = 64
"""Decoded of a file at first: nobody knows what its rows take in memory before."""
GROWTH = 16
"""How many times as many rows may be decoded next."""


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """How a column is packed: a `dtype` and the `shape` of each value, or `values` of any length."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    values: Literal["", "text", "bytes", "arrays"] = ""


class ParquetFile:
    """A Parquet file, read in batches, and open only then. Raises UsageError for what is not one, MissingExtra without pyarrow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batch_rows = FIRST_ROWS
        with self._opened() as file:
            metadata = file.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            self.schema: pa.Schema = file.schema_arrow
        self.rows: int = metadata.num_rows
        self.group_rows: list[int] = [each.num_rows for each in groups]
        self._group_bytes: list[int] = [each.total_byte_size for each in groups]
        self.decoded_bytes: int = sum(self._group_bytes)
        """About what all rows take in memory; less than that where a value is in the file once and used many times."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path)

    def kinds(self) -> dict[str, ColumnKind]:
        """How each column is packed. Raises UsageError for one that cannot be."""
        return _kinds(self.name, self.schema)

    def batches(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows, some at a time, each time with the place that messages name."""
        with self._opened() as file:
            if file.schema_arrow != self.schema or file.metadata.num_rows != self.rows:
                raise UsageError(
                    f"{self.path} was written while it was being packed", fix="pack it when it is whole"
                )
            for number, rows in enumerate(self.group_rows):
                done = 0
                while done < rows:
                    before = done
                    for where, batch in self._some(file, number, done):
                        done += batch.num_rows
                        yield where, batch
                    if done == before:
                        raise UsageError(
                            f"{self.path} has {done:,} of {rows:,} rows in row group {number}",
                            fix="write it again",
                        )

    def _some(self, file: Any, number: int, done: int) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Batches of a row group without the first `done` rows, until another number of rows is better for them."""
        where, at = f"{self.path}, row group {number}", 0
        most = _fitting_rows(self.group_rows[number], self._group_bytes[number])
        rows = min(self._batch_rows, most)
        with _parquet_errors(self.path, where):
            read = file.iter_batches(batch_size=rows, row_groups=[number])
        while True:
            with _parquet_errors(self.path, where):
                batch = next(read, None)
            if batch is None:
                return
            at += batch.num_rows
            if at <= done:
                continue
            new = batch.slice(max(0, batch.num_rows - (at - done)))
            done = at
            for each in _slices(new):
                yield where, each
            # What was read is read again for another number of rows: it is little at the beginning, and later for memory's sake.
            fitting = min(_fitting_rows(new.num_rows, decoded_bytes(new)), most, GROWTH * rows)
            if (fitting > 4 * rows and done <= 4 * rows) or fitting < rows / 4:
                self._batch_rows = fitting
                return

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A row group."""
        if unknown := [name for name in columns or () if name not in self.schema.names]:
            raise UsageError(
                f"{self.path} has no column {', '.join(map(repr, unknown))}",
                fix=f"its columns: {', '.join(self.schema.names)}",
            )
        with self._opened() as file, _parquet_errors(self.path, f"row group {number}"):
            return file.read_row_group(number, columns=None if columns is None else list(columns))

    def groups(self) -> Iterator[pa.Table]:
        """All row groups, one after another."""
        with self._opened() as file:
            for number in range(len(self.group_rows)):
                with _parquet_errors(self.path, f"row group {number}"):
                    table = file.read_row_group(number)
                yield table

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with _parquet_errors(self.path):
            file = _parquet().ParquetFile(self.path, buffer_size=1 << 20)
        with file:
            yield file


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
        for batch in self._table.to_batches(max_chunksize=BATCH_ROWS):
            for each in _slices(batch):
                yield "", each


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """What rows take in memory when each has its own value, also where several share one that is there once."""
    return sum(
        _shared_bytes(column) if _arrow().types.is_dictionary(column.type) else column.nbytes
        for column in batch.columns
    )


def _shared_bytes(column: pa.DictionaryArray) -> int:
    arrow, values = _arrow(), column.dictionary
    types, kind = arrow.types, values.type
    if not len(values):
        return column.nbytes
    if types.is_string_view(kind):
        values = values.cast(arrow.large_string())
    elif not any(
        check(kind)
        for check in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    ):
        return values.nbytes // len(values) * len(column)
    whole = values.cast(arrow.large_binary())
    sizes = np.diff(_ends(whole.buffers()[1], whole))
    used = column.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(sizes[used].sum()) + 8 * len(column)


def _fitting_rows(rows: int, size: int) -> int:
    """How many rows of this mean size are decoded at once."""
    return min(BATCH_ROWS, max(1, BATCH_BYTES * rows // max(size, 1)))


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts of about BATCH_BYTES each, or of one row."""
    size = decoded_bytes(batch)
    if size <= 2 * BATCH_BYTES or batch.num_rows == 1:
        yield batch
        return
    # The rows of a part may be larger than those of others.
    step = min(_fitting_rows(batch.num_rows, size), -(-batch.num_rows // 2))
    for low in range(0, batch.num_rows, step):
        yield from _slices(batch.slice(low, step))


def is_parquet(path: Path) -> bool:
    """Whether a file is called Parquet, or begins like it. Raises UsageError for one that cannot be read."""
    if path.suffix == ".parquet":
        return True
    try:
        return path.is_file() and first_bytes(path, 4) == b"PAR1"
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=str(error), fix="pass files that can be read") from error


def arrow_table(source: Any) -> pa.Table | None:
    """A pandas, Polars or Arrow table as one of Arrow; None for anything else.

    Raises UsageError for a table whose index has something to say, which is no column, and for columns that Arrow has no type for.
    """
    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__qualname__}"
    if kind == "pyarrow.Table":
        return source
    if kind == "polars.DataFrame":
        return source.to_arrow()
    if kind != "pandas.DataFrame":
        return None
    _check_index(source)
    refused = (_arrow().ArrowException, ValueError, TypeError, OverflowError)
    try:
        return _arrow().Table.from_pandas(source, preserve_index=False)
    except refused as error:
        for name, column in source.items():
            try:
                _arrow().Table.from_pandas(column.to_frame(), preserve_index=False)
            except refused as cause:
                raise UsageError(
                    f"column {name!r} of the table has the type {column.dtype}, and values that Arrow has no type for",
                    why=str(cause),
                    fix="convert it first to numbers, text or bytes, for example with .astype(str)",
                ) from error
        raise UsageError("the table cannot be read", why=str(error)) from error


def _check_index(table: Any) -> None:
    index = table.index
    if any(name is not None for name in index.names) or index.nlevels > 1 or index.dtype.kind not in "iu":
        said = ", ".join(str(name) for name in index.names if name is not None)
        raise UsageError(
            f"the index of the table{f', {said},' * bool(said)} is no column, so it would be lost",
            fix="call .reset_index() to make it one, or .reset_index(drop=True) to do without it",
        )
    if not table.columns.is_unique:
        name = table.columns[table.columns.duplicated()][0]
        raise UsageError(f"the table has several columns {name!r}", fix="rename one of them")


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


def arrow_columns(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """Name and type of each column."""
    return tuple((each.name, str(each.type)) for each in schema)


def read_parquet(path: Path, most_bytes: int) -> pa.Table:
    """The whole file as a table. Raises UsageError if it takes more than `most_bytes`, of which it reads one row group too many."""
    file = ParquetFile(path)
    groups: list[pa.Table] = []
    # What is stored once and used many times takes more in memory than in the file.
    taken = file.decoded_bytes
    for group in file.groups() if taken <= most_bytes else ():
        groups.append(group)
        taken = max(taken, sum(each.nbytes for each in groups))
        if taken > most_bytes:
            break
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
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise UsageError(
                f"{path} cannot be opened: too many files are open",
                where=where,
                why=str(error),
                fix="close files that are not used, or raise the limit with `ulimit -n`",
            ) from error
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
        why="columns are numbers, truth values, dates, timestamps and durations, text, bytes, or lists of numbers",
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
        _check_text(plain, name, where)
        whole = plain.cast(arrow.large_binary())
        _, offsets, data = whole.buffers()
        return data if data is not None else b"", _ends(offsets, whole), null
    whole = plain.cast(arrow.large_list(plain.type.value_type))
    ends = _ends(whole.buffers()[1], whole)
    inner = whole.values.slice(int(ends[0]), int(ends[-1] - ends[0]))
    _check_nulls(inner, name, where, allowed=np.dtype(dtype).kind in "fMm")
    data = np.ascontiguousarray(inner.to_numpy(zero_copy_only=False).astype(dtype, copy=False))
    return data.view(np.uint8), (ends - ends[0]) * np.dtype(dtype).itemsize, null


def _check_text(column: pa.Array, name: str, where: str) -> None:
    """Raise UsageError for text that is not UTF-8, which Parquet files may have, and Arrow does not look at."""
    arrow = _arrow()
    if not (arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type)):
        return
    try:
        column.validate(full=True)
    except arrow.ArrowInvalid as error:
        raise UsageError(
            f"column {name!r} has text that is not UTF-8",
            where=where,
            why=str(error),
            fix="cast it to bytes (pyarrow.binary()) first, or write the text as UTF-8",
        ) from error


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
