"""The format of a segment: a header, then records in which torn and damaged ones can be told apart.

    header   magic (8) | format (u32) | vocabulary version (u32) | CRC-32 of these (u32)
    record   marker (4) | length (u32) | complement of length (u32) | CRC-32 (u32) | payload

All little-endian; the payload is one event in MessagePack. A record cut short has a whole header, whose length
the complement confirms, so a damaged length is not taken for a torn tail. CRC-32 (of zlib, seeded with the length)
finds every damage of up to 32 adjacent bits and costs 0.1 us; nobody forges their own journal, so nothing stronger
is needed. The marker lets a reader find the next record after a damaged one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from hooke.base.distributions import install_command
from hooke.base.errors import JournalError
from hooke.journal.events import VERSION

__all__ = [
    "HEADER_BYTES",
    "SUFFIX",
    "RecordScan",
    "SegmentDamage",
    "TornTail",
    "corrupt",
    "frame",
    "header",
    "read_version",
    "segment_files",
]

SUFFIX = ".journal"
MAGIC = b"\x89HOOKE\r\n"
FORMAT = 1
MARKER = b"\xf6HK\n"
_HEADER = struct.Struct("<8sIII")
_RECORD = struct.Struct("<4sIII")
HEADER_BYTES = _HEADER.size
MOST_BYTES = 0xFFFF_FFFF
_BLOCK = 1 << 20


class TornTail(msgspec.Struct, frozen=True, kw_only=True):
    """The torn end of a segment whose writer or machine died: `cut` bytes from `offset` on are not a whole record."""

    path: Path
    offset: int
    cut: int
    why: str

    def __str__(self) -> str:
        return f"{self.path}: the last {self.cut} bytes, from offset {self.offset}, are not a whole record ({self.why})"


class SegmentDamage(msgspec.Struct, frozen=True, kw_only=True):
    """Where and why a scan ended before the end of the file, and how many whole records follow."""

    offset: int
    why: str
    following: int


def header(version: int = VERSION) -> bytes:
    """The first bytes of a segment."""
    return _HEADER.pack(MAGIC, FORMAT, version, crc32(_HEADER.pack(MAGIC, FORMAT, version, 0)[:-4]))


def frame(payload: bytes) -> bytes:
    """The record of `payload`. Raises JournalError if it is longer than 4 GiB."""
    size = len(payload)
    if size > MOST_BYTES:
        raise JournalError(
            f"an event of {size} bytes does not fit a record", fix="store the value, record its Ref"
        )
    return _RECORD.pack(MARKER, size, size ^ MOST_BYTES, crc32(payload, size)) + payload


def segment_files(folder: Path) -> list[Path]:
    """The segments in `folder`: the driver's first, the others by name. A folder that does not exist has none."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names, key=lambda name: (name != f"driver{SUFFIX}", name))]


def read_version(fd: int, path: Path) -> int | None:
    """The vocabulary version in the header; None if the header is torn (its writer died in the first write).

    Raises JournalError if the file is not a segment, or if a newer Hooke wrote it.
    """
    raw = os.pread(fd, HEADER_BYTES, 0)
    whole = len(raw) == HEADER_BYTES
    if raw[: len(MAGIC)] != MAGIC[: len(raw)] or (
        whole and crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little")
    ):
        raise JournalError(
            "this file is not a journal, or its header is damaged",
            where=f"{path}, offset 0",
            why=f"its first bytes are {raw!r}",
            fix=f"name a {SUFFIX} file of a run; if this is one, restore it from a copy or start a new run",
        )
    if not whole:
        return None
    _, layout, version, _ = _HEADER.unpack(raw)
    if layout > FORMAT or version > VERSION:
        raise JournalError(
            "a newer Hooke wrote this journal",
            where=str(path),
            why=f"it has format {layout} with vocabulary version {version}, "
            f"and this Hooke reads up to format {FORMAT} with version {VERSION}",
            fix=install_command(upgrade=True),
        )
    return int(version)


def corrupt(path: Path, damage: SegmentDamage, before: int) -> JournalError:
    """The error for damage in the middle of a segment, after `before` whole records."""
    return JournalError(
        "a journal is damaged in the middle",
        where=f"{path}, offset {damage.offset}",
        why=f"{damage.why}; {before} whole records lie before it and {damage.following} after it",
        fix="restore the file from a copy, or cut it off at the damage (work that finished later may run again) with: "
        f"truncate -s {damage.offset} {path}",
    )


class RecordScan:
    """Payloads of the whole records of an open segment from `offset` on; iterate again as the file grows.

    After each pass, `offset` is the end of the last whole record, and `damage` says what follows (None: nothing, or the
    start of a record). Bytes after `offset` are not kept, because a writer on a full disk cuts them off.
    """

    def __init__(self, fd: int, offset: int = HEADER_BYTES) -> None:
        self.fd = fd
        self.offset = offset
        self.records = 0
        self.damage: SegmentDamage | None = None

    def __iter__(self) -> Iterator[bytes]:
        self.damage = None
        data, at = os.pread(self.fd, _BLOCK, self.offset), 0
        while True:
            end = record_end(data, at)
            if end < 0:
                # A writer may have cut and rewritten the end meanwhile, so read the rest again.
                data, at = self._rest(), 0
                if record_end(data, 0) >= 0:
                    continue
                self.damage = self._damage(data)
                return
            if end > len(data):
                more = os.pread(self.fd, max(_BLOCK, end - at), self.offset)
                # The rest is less than a record.
                if len(more) < end - at:
                    return
                data, at = more, 0
                continue
            base = self.offset - at
            for payload, end in whole_records(data, at):
                self.offset = base + end
                self.records += 1
                yield payload
            at = self.offset - base

    def torn(self, path: Path) -> TornTail | None:
        """What follows the last whole record, if it is not damage in the middle."""
        cut = os.fstat(self.fd).st_size - self.offset
        if cut <= 0:
            return None
        why = self.damage.why if self.damage else "its end is missing"
        return TornTail(path=path, offset=self.offset, cut=cut, why=why)

    def _rest(self) -> bytes:
        return os.pread(self.fd, max(os.fstat(self.fd).st_size - self.offset, 0), self.offset)

    def _damage(self, rest: bytes) -> SegmentDamage:
        framed = len(rest) >= _RECORD.size and read_length(rest, 0) >= 0
        why = "the checksum of the record there does not match" if framed else "no record begins there"
        return SegmentDamage(offset=self.offset, why=why, following=count_records(rest, 1))


def whole_records(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """Payloads of the whole records from `at` on, each with its end; it stops before the first that is not whole."""
    unpack, head, size_of = _RECORD.unpack_from, _RECORD.size, len(data)
    start = at + head
    while start <= size_of:
        marker, size, complement, check = unpack(data, at)
        at = start + size
        if marker != MARKER or size ^ MOST_BYTES != complement or at > size_of:
            return
        payload = data[start:at]
        if crc32(payload, size) != check:
            return
        yield payload, at
        start = at + head


def read_length(data: bytes, at: int) -> int:
    """The payload's length in the record header at `at`; -1 if there is no header."""
    marker, size, complement, _ = _RECORD.unpack_from(data, at)
    return size if marker == MARKER and size ^ MOST_BYTES == complement else -1


def record_end(data: bytes, at: int) -> int:
    """The end of the record at `at`: beyond `len(data)` if more bytes are needed, -1 if it is not a whole record."""
    if len(data) - at < _RECORD.size:
        begun = data[at : at + len(MARKER)]
        return at + _RECORD.size if MARKER.startswith(begun) else -1
    size = read_length(data, at)
    if size < 0:
        return -1
    start = at + _RECORD.size
    end = start + size
    if end > len(data):
        return end
    return end if crc32(data[start:end], size).to_bytes(4, "little") == data[start - 4 : start] else -1


def count_records(data: bytes, at: int) -> int:
    """How many whole records `data` has from `at` on, with any bytes between them."""
    found = 0
    while (at := data.find(MARKER, at)) >= 0:
        end = record_end(data, at)
        whole = 0 <= end <= len(data)
        found += whole
        at = end if whole else at + 1
    return found
