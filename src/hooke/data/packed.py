"""Packed data sets: one file with rows by number, memory-mapped or read in blocks, each of which is checked by its digest.

    64 B         the format's name, padded with zeros
    records      the fixed-width part of each row, one after another; of a value of any length: where it is, and its size (-1: null)
    heap         the values of any length, row by row
    checks       the digests of the records' blocks, where the heap's blocks begin (and its end), the digests of these
    index        JSON: `PackedIndex`
    40 B         size and digest of the index, the format's name

Records and heap may change places. A block has a power of two rows, so that one that a shuffle draws is a part of it or made of
several. Digests are BLAKE3 of 16 bytes. All that is asked of the place of a file is to read so many bytes from such a byte on.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import psutil
from blake3 import blake3
from numpy.typing import NDArray

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import first_bytes
from hooke.base.formats import format_bytes
from hooke.base.observed import note_data_set
from hooke.base.ref import DataSetRead
from hooke.data.order import Rows
from hooke.data.remote_files import RemoteFile, is_url

__all__ = [
    "FOOTER",
    "HEADER",
    "REFERENCE",
    "PackedColumn",
    "PackedFile",
    "PackedIndex",
    "changed_file",
    "digest_of",
    "is_packed",
    "record_type",
]

NAME = b"hooke packed 1\n\0"
HEADER = NAME.ljust(64, b"\0")
FOOTER = struct.Struct("<Q16s16s")
REFERENCE = np.dtype([("at", "<u8"), ("size", "<i8")])
"""What a record has of a value of any length: its place in the heap, and its bytes, -1 for a null."""
MEMORY = 256 << 20
DIGEST_BYTES = 16
SPARE = 1 / 16
"""Of the memory for what is read, beyond that of a window."""
WARM_SHARE = 0.5
"""Of the memory that is free or holds other files' pages: a file up to that share of it stays in memory once it is read."""


class ByteReader(Protocol):
    """Where the bytes of a packed file come from. At its end, there are fewer than are asked for."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from this one on."""
        ...

    def fill(self, offset: int, into: memoryview) -> int:
        """Write the bytes from this one on into memory; how many."""
        ...

    def expect(self, offsets: Rows) -> None:
        """The blocks that begin with these bytes are read next, in this order."""
        ...

    def renew(self, offset: int) -> bool:
        """Forget a copy of this byte, which is damaged: whether it may be another one when it is read again."""
        ...


class PackedColumn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A column: of numbers with a NumPy `dtype` and the `shape` of each, or of values of any length.

    These are `"text"`, `"bytes"`, or arrays of one dimension with a `dtype`.
    """

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    values: Literal["", "text", "bytes", "arrays"] = ""


class PackedIndex(msgspec.Struct, frozen=True, kw_only=True):
    """What is where in a file. Places and sizes are in bytes, blocks in rows.

    Batches are an array (`"array"`), a dict of columns, or a list (`"values"`), for which the only column has no name.
    """

    kind: Literal["array", "columns", "values"]
    rows: int
    columns: tuple[PackedColumn, ...]
    records_at: int
    records_block: int
    heap_at: int
    heap_bytes: int
    heap_block: int
    checks_at: int
    checks_digest: str


def digest_of(data: Any) -> bytes:
    """The digest of a block."""
    return blake3(data).digest(DIGEST_BYTES)


def record_type(columns: Sequence[PackedColumn]) -> np.dtype[Any]:
    """The type of a record: fields named by the columns' numbers, "0" and so on, largest first, so that most are aligned."""
    types = {
        str(number): np.dtype(REFERENCE if each.values else (np.dtype(each.dtype), each.shape))
        for number, each in enumerate(columns)
    }
    ordered = sorted(types.items(), key=lambda item: -item[1].base.itemsize)
    return np.dtype(ordered)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like a packed one of any version. Raises OSError."""
    return first_bytes(path, 12) == NAME[:12]


class PackedFile:
    """The rows of a packed file, by number.

    `warm` says how they are read: from mapped memory, or, if not, in whole blocks that are kept in about `memory` bytes. By default it is
    mapped where it fits into half of the memory that is available. A block is compared with its digest when it is first mapped, and
    each time that it is read. Once pickled, it is opened by its absolute path, and only if it is still the same file.
    Raises HookeError, which names the file and the block, for one that is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        warm: bool | None = None,
        memory: int = MEMORY,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self._asked: dict[str, Any] = {"warm": warm, "memory": memory}
        if isinstance(path, str) and is_url(path):
            self.path: Path | str = path
            self._absolute: Path | str = path
            self._asked |= {"cache": cache, "cache_bytes": cache_bytes}
            self._fd = -1
            self._remote: RemoteFile | None = _opened_remote(path, warm=warm, cache=cache, limit=cache_bytes)
            file: ByteReader = self._remote
            size = self._remote.size
        else:
            if cache is not None or cache_bytes is not None:
                raise UsageError(
                    f"{os.fspath(path)} is a path, and copies are made of what is at a URL",
                    fix="leave out cache and cache_bytes, or pass a URL such as s3://bucket/data.packed",
                )
            self.path, self._remote = Path(path), None
            self._absolute = self.path.absolute()  # the working folder may be another one later
            self._fd = _opened(self.path)
            self._close = weakref.finalize(self, os.close, self._fd)
            size, file = os.fstat(self._fd).st_size, _LocalFile(self._fd)
        self.index, self.digest = _read_index(self.path, file, size)
        self.dtype = record_type(self.index.columns)
        free = WARM_SHARE * psutil.virtual_memory().available
        self.warm = self._remote is None and (size <= free if warm is None else warm)
        self._blocks = _checks(self.path, self.index, self.dtype.itemsize, file)
        if self._remote is not None:
            self._remote.cut(self.digest, [each.places for each in self._blocks if each.count])
        self._read_by(file, memory)

    def _read_by(self, file: ByteReader, memory: int) -> None:
        own, (records, heap) = self.index, self._blocks
        if self.warm:
            mapped = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
            self._records: _MappedRecords | _ReadRecords = _MappedRecords(mapped, records, own, self.dtype)
            self._heap: _MappedHeap | _ReadHeap = _MappedHeap(mapped, heap, own)
            return
        # A window as it was planned fits: there are spare bytes for blocks of records that it needs a few rows of, and for a ring's end.
        share = own.heap_bytes / (own.heap_bytes + own.rows * self.dtype.itemsize)
        self._records = _ReadRecords(
            file, records, own, self.dtype, int(memory * (1 - share + SPARE * (heap.count > 0)))
        )
        self._heap = _ReadHeap(file, heap, own, int(memory * (share + SPARE)))

    def __len__(self) -> int:
        return self.index.rows

    def __repr__(self) -> str:
        return f"PackedFile({str(self.path)!r}, {len(self):,} rows, {', '.join(self.columns) or self.index.kind})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self._absolute, self._asked, self.digest)

    @property
    def columns(self) -> list[str]:
        """The names of the columns; none for an array and for values without names."""
        return [each.name for each in self.index.columns if each.name]

    @cached_property
    def row_bytes(self) -> float:
        """The mean size of a row with its values."""
        return self.dtype.itemsize + self.index.heap_bytes / max(len(self), 1)

    @cached_property
    def block_rows(self) -> int:
        """Rows that are best read together: those of a block."""
        return self.index.heap_block if self.index.heap_bytes else self.index.records_block

    def take(self, rows: Rows | Sequence[int]) -> Any:
        """These rows: an array, a dict of arrays and lists by column, or a list of values.

        Raises IndexError for rows that are not there, UsageError for what are no numbers of rows, such as a mask.
        """
        rows = _numbers_of(rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return self.take_known(rows)

    def note_read(self) -> None:
        """Note that its rows are read, among the data sets of the task or the script."""
        note_data_set(self.digest, self._described)

    def _described(self) -> DataSetRead:
        return DataSetRead(
            source=str(self._absolute),
            digest=self.digest,
            kind="packed",
            rows=len(self),
            columns=tuple(self.column_types()),
        )

    def column_types(self) -> list[tuple[str, str]]:
        """Name and type of each column."""
        return [
            (
                each.name,
                each.values
                if each.values in ("text", "bytes")
                else each.dtype.lstrip("<>|=")
                + (f"[{','.join(map(str, each.shape))}]" if each.shape else ""),
            )
            for each in self.index.columns
        ]

    def take_known(self, rows: Rows) -> Any:
        """As `take`, of rows that are known to be there."""
        self.note_read()
        records = self._records.take(rows)
        if self.index.kind == "array":
            column = self.index.columns[0]
            return records.view(column.dtype).reshape(len(rows), *column.shape)
        records = records.view(self.dtype)
        taken = {
            each.name: self._values(each, rows, records[str(number)])
            if each.values
            else np.ascontiguousarray(records[str(number)])
            for number, each in enumerate(self.index.columns)
        }
        return taken if self.index.kind == "columns" else next(iter(taken.values()))

    def read_ahead(self, rows: Rows) -> None:
        """Have the blocks of these rows read, or fetched if they are far, beside what goes on here: they are those of a window."""
        if self._remote is not None:
            self._remote.begin(self._remote.units_of(_places_of(self._blocks, len(self), rows, 1)))
            return
        if not hasattr(os, "posix_fadvise"):
            return
        for blocks in self._blocks:
            for low, high in blocks.unread(rows, again=not self.warm):
                os.posix_fadvise(self._fd, low, high - low, os.POSIX_FADV_WILLNEED)

    def follow(self, windows: Iterator[Rows], together: int, count: int) -> None:
        """Fetch ahead what is far: `windows` are the rows of those to come, one for each `together` rows. An epoch has `count`.

        `read_ahead` says when each of them begins.
        """
        if (remote := self._remote) is not None:
            own, size = self._blocks, len(self)  # not this file: it would hold itself, and stay open
            remote.follow((_places_of(own, size, rows, together) for rows in windows), count)

    def _values(self, column: PackedColumn, rows: Rows, references: NDArray[Any]) -> list[Any]:
        sizes = references["size"]
        low = references["at"].astype(np.int64)
        cut = self._heap.cut(rows, low, low + np.maximum(sizes, 0))
        if column.values == "text":
            try:
                found: list[Any] = [str(each, "utf-8") for each in cut]
            except UnicodeDecodeError as error:
                raise HookeError(
                    f"column {column.name!r} of {self.path} has text that is not UTF-8",
                    where=f"one of {rows.size:,} rows from {rows.min():,} to {rows.max():,}",
                    why=str(error),
                    fix="pack it again from a source whose text is UTF-8, or cast the column to bytes first",
                ) from error
        elif column.values == "arrays":
            # A copy, since users write to batches.
            found = [np.frombuffer(bytearray(each), column.dtype) for each in cut]
        else:
            found = list[Any](cut)
        for null in np.flatnonzero(sizes < 0).tolist():
            found[null] = None
        return found


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"cannot open {path}", why=str(error), fix="pass the path of a packed file"
        ) from error


def _opened_remote(
    url: str, *, warm: bool | None, cache: str | os.PathLike[str] | None, limit: int | None
) -> RemoteFile:
    if warm:
        raise UsageError(
            f"{url} cannot be mapped into memory",
            why="it is read block by block, from copies near",
            fix="leave out warm=True, or download the file and pass its path",
        )
    return RemoteFile(url, cache, limit)


def _opened_again(path: Path | str, asked: dict[str, Any], digest: str) -> PackedFile:
    file = PackedFile(path, **asked)
    if file.digest != digest:
        raise changed_file(path)
    return file


def changed_file(path: str | os.PathLike[str]) -> UsageError:
    """That a file is not the one that was opened before."""
    return UsageError(
        f"{os.fspath(path)} is another file than the one that was opened first",
        why="it was opened in another process or pickled, and replaced or written since",
        fix="open it anew instead of unpickling it, or put the former file back",
    )


def _numbers_of(rows: Any) -> Rows:
    given = np.asarray(rows)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise UsageError(
            f"rows are numbers in one dimension, and these are {given.dtype} of shape {given.shape}",
            fix="pass np.flatnonzero(mask) for a mask" if given.dtype.kind == "b" else "pass such as [0, 5]",
        )
    if given.dtype.kind == "u" and given.size and given.max() > np.iinfo(np.int64).max:
        raise IndexError(f"row {given.max()}")
    return given.astype(np.int64, copy=False)


class _LocalFile:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        while len(data) < size and (more := os.pread(self._fd, size - len(data), offset + len(data))):
            data += more
        return data

    def fill(self, offset: int, into: memoryview) -> int:
        done = 0
        while done < len(into) and (more := os.preadv(self._fd, [into[done:]], offset + done)):
            done += more
        return done

    def expect(self, offsets: Rows) -> None:
        pass  # the system is told of whole windows

    def renew(self, offset: int) -> bool:  # noqa: ARG002 - there is no copy
        return False


# --- Opening.


def _read_index(path: Path | str, file: ByteReader, size: int) -> tuple[PackedIndex, str]:
    """The index and its digest, which covers all of the file."""
    head = file.read(0, len(HEADER))
    if head != HEADER:
        newer = head[:12] == NAME[:12] and head[:16] != NAME
        raise _damaged(path, "its first bytes are not those of this format" + " version 1" * newer)
    if size < len(HEADER) + FOOTER.size:
        raise _damaged(path, f"it ends after {size} bytes")
    length, digest, name = FOOTER.unpack(file.read(size - FOOTER.size, FOOTER.size))
    if name != NAME:
        raise _damaged(path, "its last bytes are not those of this format: it was cut off")
    at = size - FOOTER.size - length
    data = file.read(at, length) if at > 0 else b""
    if digest_of(data) != digest:
        raise _damaged(path, "the index is not as its digest says")
    try:
        index = msgspec.json.decode(data, type=PackedIndex)
    except msgspec.MsgspecError as error:
        raise _damaged(path, f"the index cannot be read: {error}") from error
    gap = index.records_at - index.heap_at - index.heap_bytes if index.records_at > index.heap_at else 0
    if file.read(index.records_at - gap, gap).strip(b"\0"):
        raise _damaged(path, "there is something between its parts")
    return index, digest.hex()


def _places_of(parts: Sequence[_Blocks], count: int, rows: Rows, together: int) -> Rows:
    """Where the blocks of a file with `count` rows begin that have these rows, and the `together` from each of them on."""
    places: list[Rows] = []
    for blocks in parts:
        if blocks.count:
            each = rows[:, None] + np.arange(0, together, blocks.rows) if together > blocks.rows else rows
            places.append(blocks.places[np.minimum(each.ravel(), count - 1) >> blocks.shift])
    return np.concatenate(places)


def _checks(path: Path | str, index: PackedIndex, record: int, file: ByteReader) -> tuple[_Blocks, _Blocks]:
    """The blocks of the records, and those of the heap."""
    records = -(-index.rows // index.records_block)
    heap = -(-index.rows // index.heap_block) if any(each.values for each in index.columns) else 0
    size = DIGEST_BYTES * records + 8 * (heap + 1) + DIGEST_BYTES * heap
    data = file.read(index.checks_at, size)
    if digest_of(data).hex() != index.checks_digest:
        raise _damaged(path, "the digests of its blocks are not as the index says")
    digests, after = data[: DIGEST_BYTES * records], data[DIGEST_BYTES * records :]
    ends = np.minimum(np.arange(records + 1) * index.records_block, index.rows) * record
    starts = np.frombuffer(after, "<i8", heap + 1)
    return (
        _Blocks(path, "of the records", index.records_at + ends, digests, index.records_block),
        _Blocks(path, "of the values", index.heap_at + starts, after[8 * (heap + 1) :], index.heap_block),
    )


def _damaged(path: Path | str, why: str, where: str = "") -> HookeError:
    return HookeError(
        f"{path} is damaged",
        where=where,
        why=why,
        fix="pack it again with hooke.data.pack, or copy it again from where it is whole",
    )


# --- Blocks, read and checked.


class _Blocks:
    """The blocks of a part of the file: where they are, and which of them have been found to be as their digests say."""

    def __init__(self, path: Path | str, what: str, places: Rows, digests: bytes, rows: int) -> None:
        self.path, self.what, self.places, self.rows = path, what, places, rows
        self.count, self.shift = len(places) - 1, rows.bit_length() - 1
        self._digests = digests
        self._good = np.zeros(self.count, np.bool_)
        self._left = self.count

    def place(self, block: int) -> tuple[int, int]:
        """The first byte of a block, and its size."""
        at = int(self.places[block])
        return at, int(self.places[block + 1]) - at

    def read(self, file: ByteReader, block: int, into: memoryview) -> None:
        """Read a block into the first bytes of `into`, and check it."""
        at, size = self.place(block)
        data = into[: file.fill(at, into[:size])]
        if not self._is_good(block, data) and file.renew(at):
            data = into[: file.fill(at, into[:size])]
        self.check(block, data)

    def value(self, file: ByteReader, block: int) -> bytes:
        """The bytes of a block, checked."""
        at, size = self.place(block)
        data = file.read(at, size)
        if not self._is_good(block, data) and file.renew(at):
            data = file.read(at, size)
        self.check(block, data)
        return data

    def expect(self, file: ByteReader, blocks: Rows) -> None:
        """These blocks are read next, in this order."""
        file.expect(self.places[blocks])

    def _is_good(self, block: int, data: Any) -> bool:
        digest = self._digests[DIGEST_BYTES * block : DIGEST_BYTES * (block + 1)]
        return len(data) == self.place(block)[1] and digest_of(data) == digest

    def check(self, block: int, data: Any) -> None:
        """Raise HookeError unless `data` is that of a block."""
        at, size = self.place(block)
        if not self._is_good(block, data):
            raise _damaged(
                self.path,
                f"its digest is not the one in the index ({len(data)} of {size} bytes are there)"
                if len(data) != size
                else "its digest is not the one in the index",
                where=f"block {block:,} of {self.count:,} {self.what}: {format_bytes(size)} from byte {at:,}, "
                f"rows {block * self.rows:,} and the following",
            )
        if not self._good[block]:
            self._good[block] = True
            self._left -= 1

    def unchecked(self, rows: Rows) -> list[int]:
        """The blocks of these rows that have not been looked at."""
        if not self._left:
            return []
        blocks = rows >> self.shift
        return np.unique(blocks[~self._good[blocks]]).tolist()

    def unread(self, rows: Rows, *, again: bool) -> Iterator[tuple[int, int]]:
        """First and last bytes of the blocks of these rows, those beside one another as one; `again` also those that were looked at."""
        if not self.count or not (again or self._left):
            return
        wanted = np.zeros(self.count + 2, np.bool_)
        wanted[1 + (rows >> self.shift)] = True
        if not again:
            wanted[1:-1] &= ~self._good
        edges = np.flatnonzero(wanted[1:] != wanted[:-1])
        yield from zip(self.places[edges[::2]].tolist(), self.places[edges[1::2]].tolist(), strict=True)


class _MappedRecords:
    def __init__(self, mapped: mmap.mmap, blocks: _Blocks, index: PackedIndex, dtype: np.dtype[Any]) -> None:
        self._bytes, self._blocks = memoryview(mapped), blocks
        plain = np.frombuffer(mapped, np.uint8, index.rows * dtype.itemsize, index.records_at)
        self._table = plain.view(f"V{dtype.itemsize}") if dtype.itemsize else np.empty(index.rows, "V0")

    def take(self, rows: Rows) -> NDArray[Any]:
        for block in self._blocks.unchecked(rows):
            at, size = self._blocks.place(block)
            self._blocks.check(block, self._bytes[at : at + size])
        return self._table.take(rows)


class _ReadRecords:
    """Blocks of records in a part of memory of a fixed size; those that were read first give way, as whole windows do."""

    def __init__(
        self, file: ByteReader, blocks: _Blocks, index: PackedIndex, dtype: np.dtype[Any], memory: int
    ) -> None:
        self._file, self._blocks, self._block = file, blocks, index.records_block
        size = self._block * dtype.itemsize
        self._kept = np.empty((min(blocks.count, max(1, memory // size)), size), np.uint8)
        self._table = self._kept.reshape(-1).view(f"V{dtype.itemsize}")
        self._holds = np.full(len(self._kept), -1, np.int64)
        self._slot = np.full(blocks.count, -1, np.int64)
        self._next = 0

    def take(self, rows: Rows) -> NDArray[Any]:
        blocks = rows >> self._blocks.shift
        slots = self._slot[blocks]
        if (slots < 0).any():
            needed = np.unique(blocks)
            if needed.size > len(self._kept):
                half = rows.size // 2
                return np.concatenate([self.take(rows[:half]), self.take(rows[half:])])
            self._load(needed)
            slots = self._slot[blocks]
        return self._table.take((slots << self._blocks.shift) + (rows & (self._block - 1)))

    def _load(self, needed: Rows) -> None:
        """Have these blocks in memory, which are at most as many as there are slots."""
        here = self._slot[needed]
        missing = needed[here < 0]
        oldest = (self._next + np.arange(needed.size)) % len(self._kept)
        free = oldest[~np.isin(oldest, here)][: missing.size]
        self._next = (int(free[-1]) + 1) % len(self._kept)
        gone = self._holds[free]
        self._slot[gone[gone >= 0]] = -1
        self._holds[free] = -1
        self._blocks.expect(self._file, missing)
        for block, slot in zip(missing.tolist(), free.tolist(), strict=True):
            self._blocks.read(self._file, block, self._kept[slot].data)
            self._holds[slot], self._slot[block] = block, slot


class _MappedHeap:
    def __init__(self, mapped: mmap.mmap, blocks: _Blocks, index: PackedIndex) -> None:
        self._mapped, self._bytes, self._blocks, self._at = mapped, memoryview(mapped), blocks, index.heap_at

    def cut(self, rows: Rows, low: Rows, high: Rows) -> list[bytes]:
        """The bytes [low, high) of the heap, which are values of these rows."""
        for block in self._blocks.unchecked(rows):
            at, size = self._blocks.place(block)
            self._blocks.check(block, self._bytes[at : at + size])
        mapped = self._mapped
        places = zip((low + self._at).tolist(), (high + self._at).tolist(), strict=True)
        return [mapped[first:last] for first, last in places]


class _ReadHeap:
    """Blocks of values in a ring of `memory` bytes, or that of the largest block: each is written over those that were read first."""

    def __init__(self, file: ByteReader, blocks: _Blocks, index: PackedIndex, memory: int) -> None:
        self._file, self._blocks, self._at = file, blocks, index.heap_at
        self._place = np.full(blocks.count, -1, np.int64)
        self._held: deque[tuple[int, int, int]] = deque()
        self._next = 0
        size = min(max(memory, int(np.diff(blocks.places).max(initial=0))), index.heap_bytes)
        # Private: shared, a forked process would write its blocks over those of another.
        self._ring = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._ring)

    def cut(self, rows: Rows, low: Rows, high: Rows) -> list[bytes]:
        """The bytes [low, high) of the heap, which are values of these rows."""
        blocks = rows >> self._blocks.shift
        starts = self._blocks.places[blocks] - self._at
        if self._blocks.rows == 1:
            return self._cut_whole(blocks, low - starts, high - starts)
        absent = self._place[blocks] < 0
        if absent.any() and not absent.all():  # what is here first: the rest is written over some of it
            found = [b""] * rows.size
            for which in (~absent, absent):
                cut = self.cut(rows[which], low[which], high[which])
                for at, value in zip(np.flatnonzero(which).tolist(), cut, strict=True):
                    found[at] = value
            return found
        missing = np.unique(blocks[absent])
        self._blocks.expect(self._file, missing)
        for block in missing.tolist():
            self._load(block)
        places = self._place[blocks]
        if (places < 0).any():  # they do not fit together
            half = rows.size // 2
            return self.cut(rows[:half], low[:half], high[:half]) + self.cut(
                rows[half:], low[half:], high[half:]
            )
        ring = self._ring
        ends = zip((low - starts + places).tolist(), (high - starts + places).tolist(), strict=True)
        return [ring[first:last] for first, last in ends]

    def _cut_whole(self, blocks: Rows, low: Rows, high: Rows) -> list[bytes]:
        """From blocks of one row, which are not wanted again in an epoch."""
        self._blocks.expect(self._file, blocks)
        return [
            self._blocks.value(self._file, block)[first:last]
            for block, first, last in zip(blocks.tolist(), low.tolist(), high.tolist(), strict=True)
        ]

    def _load(self, block: int) -> None:
        size = self._blocks.place(block)[1]
        if not size:
            self._blocks.read(self._file, block, self._view[:0])
            self._place[block] = 0
            return
        if self._next + size > len(self._ring):
            while self._held and self._held[0][1] >= self._next:
                self._forget()
            self._next = 0
        low, high = self._next, self._next + size
        while self._held and self._held[0][1] < high and self._held[0][2] > low:
            self._forget()
        self._blocks.read(self._file, block, self._view[low:high])
        self._place[block], self._next = low, high
        self._held.append((block, low, high))

    def _forget(self) -> None:
        self._place[self._held.popleft()[0]] = -1
