"""`pack`: converts tables, files and values into one packed file, in bounded memory, whole or not at all."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.base.files import nameless_file, replacing, write_all, writing
from hooke.base.formats import format_bytes
from hooke.data import parquet_files
from hooke.data.arrays import check_unmasked, column_array
from hooke.data.order import Rows
from hooke.data.packed import (
    FOOTER,
    HEADER,
    PackedColumn,
    PackedIndex,
    digest_of,
    is_packed,
    record_type,
)
from hooke.data.remote_files import is_url
from hooke.data.scanning import files_in

__all__ = ["pack", "rows_of_a_block"]

BLOCK_BYTES = 32 << 10
"""Of the rows of a block, about: 5,120 of them, for batches of 256 rows, fit into the memory of a window, and each is one read of a disk."""
BESIDE_A_HEAP_BYTES = 4 << 10
"""Of a block of records whose values are elsewhere: it is read for a few of them."""
AT_ONCE_ROWS = 4096
AT_ONCE_BYTES = 4 << 20
COPY_BYTES = 4 << 20
NUMBERS = "biufcmM"
"""NumPy's kinds of numbers, truth values and times."""
MOST_BLOCK_ROWS = 1 << 16
MOST_BLOCK_BYTES = 64 << 20
"""Of a block of values, beside the largest one of them: it is in memory when it is written, and when it is read."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values of any length, one after another in `data`: value i is data[ends[i]:ends[i + 1]], and null where `null` says so."""

    data: Any
    ends: Rows
    null: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ends) - 1


Chunk: TypeAlias = Mapping[str, "NDArray[Any] | Values"]
"""Some rows, by column."""
Progress: TypeAlias = Callable[[int, int], None]


def pack(source: Any, into: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Convert `source` into one file that `Shuffled` reads as fast as memory or disk allow, and return its path.

    What it converts, and the batches of the file:

    - a Parquet file, a folder or list of them, a pandas, Polars or Arrow table, a dict of columns: dicts, with an array for each column
      of numbers and times, and a list for each of text, bytes or lists of numbers;
    - a folder of other files, or a list of `Path`: dicts of `path` (in a folder relative to it, and sorted) and `bytes`;
    - an array, or a `.npy` file: arrays;
    - any iterable of `bytes`, or of `str`: lists.

    It takes memory for a part of a row group, or for the largest value. The file appears under its name when it is whole; a packed
    file of this name is replaced. `progress(rows, of)` is called from time to time; `of` is 0 where nobody knows it.

    Times with a zone become UTC. Nulls stay None in columns of text, bytes and lists, and become NaN or NaT in those of floats and times.
    An index of pandas that is of integers and has no name is left out. Raises UsageError, which names file and column, for another
    index, other nulls, values of several types, files with different columns, no rows, and types without a fixed width; HookeError if
    the file cannot be written. Errors of an iterable remain what they are.
    """
    if is_url(into):
        raise UsageError(
            f"{into} is a URL, and a file is packed on a disk",
            fix='pack it into a path such as "data.packed", then upload that, for S3 with: aws s3 cp data.packed s3://bucket/',
        )
    target = Path(into)
    _check_target(target)
    found = _source_of(source, target)
    _check_names(found.columns)
    with ExitStack() as files:
        # Only what writes: an error of the source or of `progress` is not one of this file.
        with writing(str(target), target):
            fd, aside = (
                files.enter_context(replacing(target)),
                files.enter_context(nameless_file(target.parent)),
            )
            writer = _Writer(fd, aside, found)
        for chunk in found.chunks():
            with writing(str(target), target):
                writer.write(chunk)
            if progress is not None:
                progress(writer.rows, found.rows)
        if not writer.rows:
            raise UsageError("there are no rows to pack", fix="pass a source with at least one row")
        with writing(str(target), target):
            writer.close()
            files.close()
    return target


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise UsageError(f"{target} is a folder", fix="pass the name of a file, such as data.packed")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", fix="make it first, or pack elsewhere")
    if target.exists() and not is_packed(target):
        raise UsageError(
            f"{target} is there already, and is not a packed file",
            fix="move it away, or pass another name",
        )


def _check_names(columns: Sequence[PackedColumn]) -> None:
    for each in columns:
        if not isinstance(each.name, str):
            raise UsageError(
                f"the column {each.name!r} has a name that is a {type(each.name).__name__}",
                fix="name columns with text",
            )
        _encoded(each.name, "the name of a column")


# --- Writing.


class _Writer:
    """Writes rows to an empty file: the heap, if there is one, else the records; the other part goes to a file without a name first."""

    def __init__(self, fd: int, aside: int, found: _Found) -> None:
        self.rows = 0
        columns = found.columns
        self._fd, self._aside, self._columns = fd, aside, tuple(columns)
        self._kind: Any = found.kind
        self._dtype = record_type(columns)
        self._fields = {each.name: str(number) for number, each in enumerate(columns)}
        self._values = [each.name for each in columns if each.values]
        size = self._dtype.itemsize
        self._records_block = (
            _power_of_two(BESIDE_A_HEAP_BYTES / size) if self._values else rows_of_a_block(size)
        )
        self._heap_block = 0
        self._waiting: list[Chunk] = []
        self._waiting_bytes = self._appended = self._largest = 0
        if self._values and found.value_bytes:
            self._heap_block = rows_of_a_block(self._dtype.itemsize + found.value_bytes / found.rows)
        self._records_digests, self._heap_digests = bytearray(), bytearray()
        self._heap_starts = array("q", [0])
        self._open_records, self._open_heap = bytearray(), bytearray()
        write_all(fd, HEADER)

    def write(self, chunk: Chunk) -> None:
        """Append rows. The first ones wait until there are enough of them to say how many make a block of values."""
        self.rows += len(next(iter(chunk.values())))
        if not self._values or self._heap_block:
            self._append(chunk)
            return
        self._waiting.append(chunk)
        values: list[Any] = [chunk[name] for name in self._values]
        self._waiting_bytes += sum(int(each.ends[-1] - each.ends[0]) for each in values)
        taken = self._waiting_bytes + self.rows * self._dtype.itemsize
        if self.rows >= MOST_BLOCK_ROWS or taken >= AT_ONCE_BYTES:
            self._append_waiting()

    def _append_waiting(self) -> None:
        self._heap_block = rows_of_a_block(self._dtype.itemsize + self._waiting_bytes / self.rows)
        for chunk in self._waiting:
            self._append(chunk)
        self._waiting = []

    def _append(self, chunk: Chunk) -> None:
        rows = len(next(iter(chunk.values())))
        records = np.zeros(rows, self._dtype)
        for name, values in chunk.items():
            if not isinstance(values, Values):
                records[self._fields[name]] = values
        if self._values and rows:
            self._write_heap([(chunk[name], records[self._fields[name]]) for name in self._values])
        self._write_records(records.view(np.uint8).data)
        self._appended += rows

    def _write_heap(self, columns: Sequence[tuple[Any, NDArray[Any]]]) -> None:
        """Write values block by block, in each those of one column after those of another, and refer to them."""
        rows = len(columns[0][0])
        for each, references in columns:
            references["size"] = np.diff(each.ends)
            self._largest = max(self._largest, int(references["size"].max()))
            if each.null is not None:
                references["size"][each.null] = -1
        low = 0
        while low < rows:
            high = min(rows, low + self._heap_block - (self._appended + low) % self._heap_block)
            for each, references in columns:
                ends = each.ends[low : high + 1]
                at = self._heap_starts[-1] + len(self._open_heap)
                references["at"][low:high] = ends[:-1] - ends[0] + at
                self._open_heap += memoryview(each.data)[int(ends[0]) : int(ends[-1])]
            low = high
            if len(self._open_heap) > MOST_BLOCK_BYTES + self._largest:
                raise UsageError(
                    f"the values up to row {self._appended + high:,} are much larger than those before",
                    why=f"{self._heap_block:,} rows are a block, as the first ones are small, and one has {format_bytes(len(self._open_heap))} now",
                    fix="mix the rows before they are packed, or pack the large ones into a file of their own",
                )
            if (self._appended + low) % self._heap_block == 0:
                self._end_heap_block()

    def _end_heap_block(self) -> None:
        write_all(self._fd, self._open_heap)
        self._heap_digests += digest_of(self._open_heap)
        self._heap_starts.append(self._heap_starts[-1] + len(self._open_heap))
        self._open_heap = bytearray()

    def _write_records(self, data: memoryview, *, end: bool = False) -> None:
        self._open_records += data
        block = self._records_block * self._dtype.itemsize
        whole = len(self._open_records) if end else len(self._open_records) // block * block
        if not whole:
            return
        done = bytes(memoryview(self._open_records)[:whole])
        for low in range(0, whole, block):
            self._records_digests += digest_of(memoryview(done)[low : low + block])
        write_all(self._aside if self._values else self._fd, done)
        self._open_records = self._open_records[whole:]

    def close(self) -> None:
        """Write what is left, and what is where."""
        out = self._fd
        if self._waiting:
            self._append_waiting()
        self._write_records(memoryview(b""), end=True)
        if self._values and self.rows % self._heap_block:
            self._end_heap_block()
        heap_bytes = self._heap_starts[-1]
        records_at, heap_at = len(HEADER), len(HEADER) + self.rows * self._dtype.itemsize
        if self._values:
            gap = -heap_bytes % len(HEADER)  # records begin at a line of the cache
            heap_at, records_at = len(HEADER), len(HEADER) + heap_bytes + gap
            write_all(out, bytes(gap))
            os.lseek(self._aside, 0, os.SEEK_SET)
            while data := os.read(self._aside, COPY_BYTES):
                write_all(out, data)
        checks = self._records_digests + self._heap_starts.tobytes() + self._heap_digests
        index = PackedIndex(
            kind=self._kind,
            rows=self.rows,
            columns=self._columns,
            records_at=records_at,
            records_block=self._records_block,
            heap_at=heap_at,
            heap_bytes=heap_bytes,
            heap_block=self._heap_block or 1,
            checks_at=os.lseek(out, 0, os.SEEK_CUR),
            checks_digest=digest_of(checks).hex(),
        )
        data = msgspec.json.encode(index)
        write_all(out, checks + data + FOOTER.pack(len(data), digest_of(data), HEADER[:16]))


def rows_of_a_block(row_bytes: float) -> int:
    """Rows that are drawn together: records and values count, since a column of short text has less than the numbers beside it."""
    return _power_of_two(BLOCK_BYTES / max(row_bytes, 1))


def _power_of_two(most: float) -> int:
    """The largest power of two up to `most`, from 1 to 65,536."""
    return 1 << max(0, min(int(most), MOST_BLOCK_ROWS).bit_length() - 1)


# --- What is packed.


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    columns: Sequence[PackedColumn]
    rows: int
    chunks: Callable[[], Iterator[Chunk]]
    value_bytes: int = 0
    """About what the values of any length take together; 0 if nobody knows."""


def _source_of(source: Any, target: Path) -> _Found:
    if isinstance(source, (str, os.PathLike)):
        return _of_path(Path(source), target)
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, Mapping):
        return _of_columns(source)
    if (table := parquet_files.arrow_table(source)) is not None:
        return _of_row_groups([parquet_files.InMemory(table)])
    if isinstance(source, Sequence) and source and _are_paths(source):
        return _of_paths([Path(each) for each in source], None)
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | memoryview):
        return _of_values(source)
    raise UsageError(
        f"cannot pack a {type(source).__qualname__}",
        fix="pass a path, a list of paths, a table, an array, a dict of columns, or an iterable of bytes or str",
    )


def _are_paths(source: Sequence[Any]) -> bool:
    """Whether these are paths, of which text names Parquet files alone. Raises UsageError for text that names other files."""
    if all(
        isinstance(each, os.PathLike) or (isinstance(each, str) and each.endswith(".parquet"))
        for each in source
    ):
        return True
    if isinstance(source, str) or not all(isinstance(each, str) and os.path.isfile(each) for each in source):
        return False
    if all(parquet_files.is_parquet(Path(each)) for each in source):
        return True
    raise UsageError(
        f"the list has {len(source):,} names of files, such as {source[0]!r}",
        why="it may be the files that are to be packed, or the text",
        fix="pass Path(name) for each to pack the files, or iter(names) to pack the names",
    )


def _of_path(path: Path, target: Path) -> _Found:
    if path.is_dir():
        # What was packed before is none of what is packed now.
        there = target.exists()
        files = [each for each in files_in(path) if not (there and each.samefile(target))]
        if not files:
            raise UsageError(f"the folder {path} has no files", fix="pass a folder with files")
        return _of_paths(files, path)
    if not path.exists():
        raise UsageError(f"no file {path}", fix="pass the path of a Parquet file or of a folder")
    if path.suffix == ".npy":
        try:
            return _of_array(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise UsageError(f"{path} cannot be read as an array", why=str(error)) from error
    return _of_row_groups([parquet_files.ParquetFile(path)])


def _of_paths(paths: Sequence[Path], folder: Path | None) -> _Found:
    parquet = [each for each in paths if parquet_files.is_parquet(each)]
    if not parquet:
        return _of_files(paths, folder)
    if len(parquet) < len(paths):
        others = set(paths).difference(parquet)
        other = next(each for each in paths if each in others)
        raise UsageError(
            f"{other} is not a Parquet file, but {parquet[0]} beside it is",
            fix="pass a list of the Parquet files, or a folder with files of one kind",
        )
    return _of_row_groups([parquet_files.ParquetFile(each) for each in parquet])


def _of_row_groups(files: Sequence[parquet_files.ParquetFile | parquet_files.InMemory]) -> _Found:
    parquet_files.check_alike(files)
    columns = [
        PackedColumn(name=name, dtype=kind.dtype, shape=kind.shape, values=kind.values)
        for name, kind in files[0].kinds().items()
    ]

    def chunks() -> Iterator[Chunk]:
        for file in files:
            for where, batch in file.batches():
                yield {each.name: _of_arrow(batch.column(each.name), each, where) for each in columns}

    return _Found("columns", columns, sum(each.rows for each in files), chunks)


def _of_arrow(column: Any, kind: PackedColumn, where: str) -> NDArray[Any] | Values:
    if not kind.values:
        return parquet_files.fixed_values(column, kind.name, np.dtype(kind.dtype), kind.shape, where)
    return Values(*parquet_files.any_length_values(column, kind.name, kind.dtype, where))


def _of_array(source: NDArray[Any]) -> _Found:
    check_unmasked("the array", source)
    plain = source.view(np.ndarray)
    _check_width("an array", plain)
    _check_plain("the array", plain)
    if plain.dtype.names is not None:
        columns = [
            PackedColumn(name=name, dtype=each.base.str, shape=each.shape)
            for name, (each, *_) in dict(plain.dtype.fields or ()).items()
        ]
        return _Found(
            "columns",
            columns,
            len(plain),
            lambda: _slices({each.name: plain[each.name] for each in columns}, columns),
        )
    column = PackedColumn(name="", dtype=plain.dtype.str, shape=plain.shape[1:])
    return _Found("array", [column], len(plain), lambda: _slices({"": plain}, [column]))


def _check_width(what: str, values: NDArray[Any]) -> None:
    if values.ndim == 0 or not values.itemsize or 0 in values.shape[1:]:
        raise UsageError(
            f"cannot pack {what} of shape {values.shape} and type {values.dtype}",
            fix="pass one with a row for each example",
        )


def _check_plain(what: str, values: NDArray[Any]) -> None:
    fields = [each for each, *_ in (values.dtype.fields or {}).values()] or [values.dtype]
    if any(each.base.kind not in NUMBERS + "SU" for each in fields):
        raise UsageError(
            f"{what} has the type {values.dtype}, which has no bytes of its own",
            fix="convert it to numbers, or pass text and bytes as a column of a dict",
        )


def _of_columns(source: Mapping[str, Any]) -> _Found:
    columns: list[PackedColumn] = []
    read: dict[str, Any] = {}
    for name, given in source.items():
        values = _column_values(name, given)
        first = None if isinstance(values, np.ndarray) else next((x for x in values if x is not None), None)
        if isinstance(first, str | bytes):
            columns.append(PackedColumn(name=name, values="text" if isinstance(first, str) else "bytes"))
            read[name] = values
            continue
        read[name] = _numbers(name, values)
        columns.append(PackedColumn(name=name, dtype=read[name].dtype.str, shape=read[name].shape[1:]))
    lengths = {name: len(values) for name, values in read.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise UsageError(
            "the columns have different numbers of rows" if columns else "the dict has no columns",
            why=", ".join(f"{name}: {rows}" for name, rows in lengths.items()),
            fix="pass columns of the same length",
        )
    total = sum(_total_bytes(read[each.name]) for each in columns if each.values)
    return _Found("columns", columns, next(iter(lengths.values())), lambda: _slices(read, columns), total)


def _column_values(name: Any, given: Any) -> NDArray[Any] | list[Any]:
    """A column as an array of numbers or times, or as a list of anything."""
    check_unmasked(f"column {name!r}", given)
    values = np.asarray(given) if hasattr(given, "__array__") else given
    if isinstance(values, np.ndarray) and values.ndim:
        return values if values.dtype.kind in NUMBERS else list(values)
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, AbstractSet, np.ndarray)):
        raise UsageError(
            f"column {name!r} is a {type(given).__name__}, not a value for each row",
            fix="pass an array, or a list",
        )
    return list(values)


def _numbers(name: str, values: NDArray[Any] | list[Any]) -> NDArray[Any]:
    found = column_array(name, values)
    _check_plain(f"column {name!r}", found)
    _check_width(f"column {name!r}", found)
    return found


def _slices(read: Mapping[str, Any], columns: Sequence[PackedColumn]) -> Iterator[Chunk]:
    rows = len(next(iter(read.values())))
    step = min(AT_ONCE_ROWS, max(1, AT_ONCE_BYTES // record_type(columns).itemsize))
    for low in range(0, rows, step):
        some = {name: values[low : low + step] for name, values in read.items()}
        yield {
            each.name: _joined(some[each.name], each, low) if each.values else some[each.name]
            for each in columns
        }


def _joined(values: Sequence[Any], column: PackedColumn, first: int) -> Values:
    """Values of one type, text or bytes, one after another. In a column with a name, None is a null."""
    kind = str if column.values == "text" else (bytes | bytearray | memoryview)
    parts: list[bytes] = []
    for number, each in enumerate(values, first):
        if each is None and column.name:
            parts.append(b"")
        elif not isinstance(each, kind):
            raise UsageError(
                f"value {number:,}{f' of column {column.name!r}' if column.name else ''} is a {type(each).__name__}, "
                f"and the first is {column.values}",
                fix="pass values of one type, bytes or str",
            )
        else:
            parts.append(_encoded(each, f"value {number:,}") if isinstance(each, str) else bytes(each))
    ends = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(each) for each in parts], out=ends[1:])
    null = np.array([each is None for each in values], np.bool_)
    return Values(b"".join(parts), ends, null if null.any() else None)


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is text that has no UTF-8: {text!r}", why=str(error)) from error


def _of_values(source: Iterable[Any]) -> _Found:
    values = iter(source)
    first = next(values, None)
    if not isinstance(first, str | bytes | bytearray | memoryview):
        what = "there are no values to pack" if first is None else f"cannot pack a {type(first).__qualname__}"
        raise UsageError(what, fix="pass an iterable of bytes, or one of str")
    column = PackedColumn(name="", values="text" if isinstance(first, str) else "bytes")

    def chunks() -> Iterator[Chunk]:
        number = 0
        for some in _some(itertools.chain([first], values), len):
            yield {"": _joined(some, column, number)}
            number += len(some)

    # Other sequences may read a value each time.
    total = _total_bytes(source) if isinstance(source, (list, tuple)) else 0
    return _Found("values", [column], len(source) if isinstance(source, Sequence) else 0, chunks, total)


def _total_bytes(values: Iterable[Any]) -> int:
    return sum(len(each) for each in values if hasattr(each, "__len__"))


def _some(values: Iterable[Any], size: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Values in lists of at most AT_ONCE_ROWS, and of AT_ONCE_BYTES and one more value."""
    some: list[Any] = []
    total = 0
    for each in values:
        some.append(each)
        total += size(each) if hasattr(each, "__len__") else 0
        if len(some) == AT_ONCE_ROWS or total >= AT_ONCE_BYTES:
            yield some
            some = []
            total = 0
    if some:
        yield some


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=str(error), fix="pass files that can be read") from error


def _of_files(paths: Sequence[Path], folder: Path | None) -> _Found:
    columns = [PackedColumn(name="path", values="text"), PackedColumn(name="bytes", values="bytes")]

    def size(path: Path) -> int:
        with _reading(path):
            return path.stat().st_size

    def read(path: Path) -> tuple[str, bytes]:
        name = path if folder is None else path.relative_to(folder)
        with _reading(path):
            return name.as_posix(), path.read_bytes()

    def chunks() -> Iterator[Chunk]:
        number = 0
        for some in _some(map(read, paths), lambda pair: len(pair[1])):
            names, contents = zip(*some, strict=True)
            yield {
                each.name: _joined(values, each, number)
                for each, values in zip(columns, (names, contents), strict=True)
            }
            number += len(some)

    return _Found("columns", columns, len(paths), chunks, sum(map(size, paths)))
