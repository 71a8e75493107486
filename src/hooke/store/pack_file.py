"""One pack: an append-only file of records, each with a name and its bytes.

A record has a header, its name and its bytes. The header tells what is mutable (whether the record is removed, and when
it was last used) and, under checks of their own, what is not. Of several records of a name the one with the highest
sequence number counts. A pack is open (a writer holds its lock, or a later writer goes on with it) or closed (it has an
index on the disk, and never grows again).
"""

from __future__ import annotations

import array
import errno
import fcntl
import heapq
import os
import re
import struct
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from hooke.base.files import map_file, write_atomic

__all__ = [
    "DEAD",
    "HIDDEN",
    "LIVE",
    "MOST_BYTES",
    "NO_ROOM",
    "PACKED",
    "PackFile",
    "PackRecord",
    "hash_of",
    "is_name",
    "packed",
]

MOST_BYTES = 80 * 1024
"""What is larger is a file. It has room for an entry with a result of 64 KiB, the most that is stored inside of a reference."""

PACKED = ("keys/", "items/")
"""Names that packs hold. Objects are larger, and mapped by all processes that read them."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""

LIVE, HIDDEN, DEAD = 0x00, 0x3C, 0xFF
"""States of a record, four bits or more from each other."""

_MARK = b"\xf1HkR"
_HEAD = struct.Struct("<4sB3xII HHIQ16s")
_COVERED = struct.Struct("<HHIQ")
_STATE_AT, _USED_AT, _COVERED_AT = 4, 8, 16
_MOST_RECORD = _HEAD.size + 65535 + MOST_BYTES + 8
_BLOCK = 4 << 20
_GUESS = 2048
"""Bytes that a lookup reads at once: most records are shorter."""
_SLOTS = 8
"""At least so many bytes of memory for each hash of an index in which many names are looked up."""

_NAME = re.compile(r"[A-Za-z0-9._/-]+")
_INDEX_MARK = b"HkIndex1"
_INDEX_HEAD = struct.Struct("<8s16sQQ16s8x")


class PackRecord(NamedTuple):
    """A record and where it lies. `data` is None if the record's bytes did not match its check when the pack was opened."""

    pack: PackFile
    offset: int
    state: int
    used: int
    sequence: int
    name: str
    size: int
    data: memoryview | None

    @property
    def order(self) -> tuple[int, bytes, int]:
        """Which of two records of a name is the later."""
        return self.sequence, self.pack.salt, self.offset


class _Head(NamedTuple):
    state: int
    used: int
    name_bytes: int
    data_bytes: int
    sequence: int
    check: bytes

    @property
    def length(self) -> int:
        """Of the whole record."""
        return _padded(_HEAD.size + self.name_bytes + self.data_bytes)


def _padded(length: int) -> int:
    return length + -length % 8


def hash_of(text: str) -> int:
    """Of a name, or of a group of names: the key of an index."""
    return int.from_bytes(blake3(text.encode()).digest(8), "little")


def _group(name: str) -> str | None:
    """The folder whose names are listed together, and often: the records of one map."""
    return name[: name.rindex("/") + 1] if name.startswith("items/") else None


def is_name(name: str) -> bool:
    """Whether a pack may hold the name."""
    return name.startswith(PACKED) and _NAME.fullmatch(name) is not None and ".." not in name


def _state(found: int) -> int:
    """The state that a byte means, though one of its bits has flipped."""
    return min((LIVE, HIDDEN, DEAD), key=lambda state: (found ^ state).bit_count()) if found else LIVE


def packed(salt: bytes, name: str, data: bytes | memoryview, *, sequence: int, used: int) -> bytes:
    """A record for the pack with this salt."""
    raw = name.encode()
    covered = _COVERED.pack(len(raw), 0, len(data), sequence)
    check = blake3(b"".join((salt, covered, raw, data))).digest(16)
    head = _MARK + struct.pack("<B3xII", LIVE, used, zlib.crc32(covered + check, zlib.crc32(salt)))
    length = _HEAD.size + len(raw) + len(data)
    return b"".join((head, covered, check, raw, data, bytes(-length % 8)))


class PackFile:
    """One file, as this process sees it. Its name is its salt, so no copy of a record inside a value passes for a record."""

    def __init__(self, path: str, *, fd: int = -1) -> None:
        self.path = path
        self.salt = bytes.fromhex(os.path.basename(path)[:32])
        self._crc = zlib.crc32(self.salt)
        self._fd = fd if fd >= 0 else self._opened(path)
        facts = os.fstat(self._fd)
        self.inode = facts.st_ino
        self._device = facts.st_dev
        self.size = -1
        self._clear()
        self._hashes: memoryview | None = None
        self._offsets: memoryview | None = None
        self._looked_up = 0
        self._slots: bytearray | None = None
        """By the first bits of a hash, 1 if the index has a hash that begins so; made when many were looked up."""
        self._shift = 0
        if not self._load_index():
            self.follow()

    def _opened(self, path: str) -> int:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            self.writable = False
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.writable = True
        return fd

    writable = True
    """Whether this user may change its records' states."""

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and so release its lock."""
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether it has an index and never grows again."""
        return self._hashes is not None

    def lock(self) -> bool:
        """Take the lock of the writer, held until `close`; False if another process has it, or the file lost its name."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.is_there()

    def unlock(self) -> None:
        """Let another process be the writer."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def is_there(self) -> bool:
        """Whether the file still has its name."""
        return self.size_there() >= 0

    def size_there(self) -> int:
        """The size of the file; -1 if it lost its name."""
        try:
            facts = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return -1
        return facts.st_size if (facts.st_ino, facts.st_dev) == (self.inode, self._device) else -1

    # -- reading the file ------------------------------------------------------------------------------

    def walk(self, start: int = 0) -> Iterator[tuple[int, int, _Head | None, str, bool]]:
        """From `start`: (offset, end, head, name, whether the bytes match the check) of each record, in order.

        Bytes between two records that are none come with head None. Those behind the last record do not come.
        """
        position, block, base, size = start, b"", start, os.fstat(self._fd).st_size
        while position < size:
            if base + len(block) - position < _MOST_RECORD and base + len(block) < size:
                block, base = os.pread(self._fd, _BLOCK, position), position
            head = self._head(block, position - base)
            if head is None or position - base + head.length > len(block):
                following = self._resume(position + 8, size)
                if following is None:
                    return
                yield position, following, None, "", False
                position = following
                continue
            name, sound = self._body(block, position - base, head)
            yield position, position + head.length, head, name, sound
            position += head.length

    def confirmed(self, start: int = 0) -> Iterator[tuple[int, int, _Head | None, str, bool]]:
        """As `walk`, without what is damaged at the end: a write that was cut off."""
        unsure: list[tuple[int, int, _Head | None, str, bool]] = []
        for each in self.walk(start):
            unsure.append(each)
            if each[4] or each[1] <= self.end:
                yield from unsure
                unsure.clear()

    def _resume(self, position: int, size: int) -> int | None:
        """The next record from `position` on that is whole; None if there is none."""
        while position < size:
            block = os.pread(self._fd, _BLOCK, position)
            last = position + len(block) >= size
            until = len(block) if last else len(block) - _MOST_RECORD
            at = block.find(_MARK)
            while 0 <= at < until:
                head = self._head(block, at) if (position + at) % 8 == 0 else None
                if head is not None and at + head.length <= len(block) and self._body(block, at, head)[1]:
                    return position + at
                at = block.find(_MARK, at + 1)
            if last:
                return None
            position += until
        return None

    def head(self, offset: int) -> _Head | None:
        """The header of the record at `offset`; None if there is none."""
        return self._head(os.pread(self._fd, _HEAD.size, offset), 0)

    def _head(self, block: bytes, at: int) -> _Head | None:
        if len(block) - at < _HEAD.size:
            return None
        mark, state, used, crc, names, _flags, data, sequence, check = _HEAD.unpack_from(block, at)
        covered = block[at + _COVERED_AT : at + _HEAD.size]
        if mark != _MARK or zlib.crc32(covered, self._crc) != crc:
            return None
        return _Head(_state(state), used, names, data, sequence, check)

    def _body(self, block: bytes, at: int, head: _Head) -> tuple[str, bool]:
        """The name, and whether name and bytes match the check."""
        begin = at + _HEAD.size
        after = begin + head.name_bytes
        covered = block[at + _COVERED_AT : at + _COVERED_AT + _COVERED.size]
        found = blake3(self.salt + covered + block[begin : after + head.data_bytes]).digest(16)
        name = str(block[begin:after], errors="replace")
        # Whoever can write to a shared folder could name a file outside of it.
        return name, found == head.check and is_name(name)

    def record(self, offset: int) -> PackRecord | None:
        """The record at `offset`; None if there is none. Its bytes are those that were checked when they were learned of."""
        block = os.pread(self._fd, _GUESS, offset)
        if len(block) < _HEAD.size:
            return None
        mark, state, used, crc, names, _, size, sequence, _ = _HEAD.unpack_from(block)
        if mark != _MARK or zlib.crc32(block[_COVERED_AT : _HEAD.size], self._crc) != crc:
            return None
        begin = _HEAD.size + names
        if begin + size > len(block):
            block = os.pread(self._fd, begin + size, offset)
        name = str(block[_HEAD.size : begin], errors="replace")
        whole = len(block) >= begin + size and offset not in self._bad
        data = memoryview(block)[begin : begin + size] if whole else None
        return PackRecord(self, offset, _state(state), used, sequence, name, size, data)

    def raw(self, offset: int, size: int, name: str) -> bytes:
        """The bytes of a record, damaged or not."""
        return os.pread(self._fd, size, offset + _HEAD.size + len(name.encode()))

    # -- what is mutable -------------------------------------------------------------------------------

    def state(self, offset: int) -> int:
        """The state of the record at `offset`."""
        found = os.pread(self._fd, 1, offset + _STATE_AT)
        return _state(found[0]) if found else DEAD

    def used(self, offset: int) -> int:
        """When the record at `offset` was last used (seconds since the epoch)."""
        return int.from_bytes(os.pread(self._fd, 4, offset + _USED_AT), "little")

    def set_state(self, offset: int, state: int) -> None:
        """Raises PermissionError for a pack of another user."""
        self._change(offset + _STATE_AT, bytes([state]))

    def set_used(self, offset: int, used: int) -> None:
        """Raises PermissionError for a pack of another user."""
        self._change(offset + _USED_AT, struct.pack("<I", used))

    def _change(self, at: int, data: bytes) -> None:
        if not self.writable:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)
        os.pwrite(self._fd, data, at)

    def append(self, data: bytes) -> None:
        """Write whole records at the end. Raises OSError; then the file is as before."""
        try:
            done = 0
            while done < len(data):
                wrote = os.pwrite(self._fd, memoryview(data)[done:], self.end + done)
                if wrote == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
                done += wrote
        except BaseException:
            os.ftruncate(self._fd, self.end)
            raise

    def cut(self) -> bool:
        """Cut off what is behind the last whole record; returns whether the file still has its name. Its writer calls this."""
        size = self.size_there()
        if size > self.end:
            self.follow(size)  # a write that an exception from a signal handler ended was whole, or not
            if size > self.end:
                os.ftruncate(self._fd, self.end)
        return size >= 0

    def is_idle(self, seconds: float) -> bool:
        """Whether nobody has changed it for so long."""
        return os.fstat(self._fd).st_mtime < time.time() - seconds

    def sync(self) -> None:
        """Return when it is on the disk. Raises OSError."""
        os.fsync(self._fd)

    def is_ours(self) -> bool:
        """Whether it is this user's."""
        return os.fstat(self._fd).st_uid == os.geteuid()

    # -- the index in memory ---------------------------------------------------------------------------

    def follow(self, size: int = -1) -> None:
        """Learn what was appended since."""
        size = os.fstat(self._fd).st_size if size < 0 else size
        if self.closed or size == self.size:
            return
        if size < self.end:  # something else cut it
            self._clear()
        for offset, end, head, name, sound in self.confirmed(self.end):
            if sound:
                self.learn(offset, name)
            elif head is not None and is_name(name):
                self._bad.add(offset)
                self.learn(offset, name)
            self.end = end
        self.size = size

    def _clear(self) -> None:
        self.end = 0
        """Behind the last whole record that this process knows."""
        self._names: dict[str, int] = {}
        self._older: dict[str, list[int]] = {}
        self._groups: dict[str, dict[str, None]] = {}
        self._bad: set[int] = set()

    def learn(self, offset: int, name: str) -> None:
        """The newest record of the name here lies at `offset`."""
        former = self._names.get(name)
        if former is not None:
            self._older.setdefault(name, []).append(former)
        self._names[name] = offset
        if (group := _group(name)) is not None:
            self._groups.setdefault(group, {})[name] = None

    def offsets(self, name: str, hashed: int) -> Sequence[int]:
        """Where records of the name lie, the oldest first."""
        if self._hashes is None:
            newest = self._names.get(name)
            return () if newest is None else (*self._older.get(name, ()), newest)
        return [each for each in self._indexed(hashed) if self._name(each) == name]

    def newest(self, name: str, hashed: int) -> PackRecord | None:
        """The newest record of the name that is not removed."""
        if self._hashes is None:
            offset = self._names.get(name)
            found = self.record(offset) if offset is not None else None
            return found if found is not None and found.state != DEAD else None
        best = None
        if not self._may_hold(hashed):
            return None
        for offset in self._indexed(hashed):
            found = self.record(offset)
            if found is None or found.name != name or found.state == DEAD:
                continue
            best = found if best is None or found.order > best.order else best
        return best

    def knows(self, name: str) -> bool:
        """Whether an open pack has records of the name, removed or not."""
        return name in self._names

    def __len__(self) -> int:
        """About how many names it has."""
        return len(self._names) if self._hashes is None else len(self._hashes)

    def latest(self, count: int) -> list[int]:
        """The offsets of at most `count` records, the last that were written first."""
        offsets = self._names.values() if self._offsets is None else self._offsets
        return list(dict.fromkeys(heapq.nlargest(count, offsets)))

    def is_bad(self, offset: int) -> bool:
        """Whether the record's bytes did not match its check when the pack was opened."""
        return offset in self._bad

    def grouped(self, group: str, hashed: int) -> Iterator[str]:
        """The names in a group, removed ones among them."""
        if self._hashes is None:
            yield from list(self._groups.get(group, ()))
            return
        for offset in self._indexed(hashed):
            name = self._name(offset)
            if name is not None and name.startswith(group):
                yield name

    def _name(self, offset: int) -> str | None:
        block = os.pread(self._fd, 512, offset)
        head = self._head(block, 0)
        if head is None or head.state == DEAD:
            return None
        return block[_HEAD.size : _HEAD.size + head.name_bytes].decode(errors="replace")

    # -- the index on the disk -------------------------------------------------------------------------

    @property
    def index_path(self) -> str:
        """The file of its index."""
        return self.path.removesuffix(".pack") + ".index"

    def _may_hold(self, hashed: int) -> bool:
        """False for seven of eight hashes that the index lacks, a fifth of the time that a search takes; only where many are looked up."""
        assert self._hashes is not None
        if self._slots is None:
            self._looked_up += 1
            if _SLOTS * self._looked_up < len(self._hashes):
                return True
            bits = max(3, (_SLOTS * len(self._hashes)).bit_length())
            self._slots, self._shift = bytearray(1 << bits), 64 - bits
            for each in self._hashes:
                self._slots[each >> self._shift] = 1
        return self._slots[hashed >> self._shift] == 1

    def _indexed(self, hashed: int) -> Iterator[int]:
        assert self._hashes is not None
        assert self._offsets is not None
        at = bisect_left(self._hashes, hashed)
        while at < len(self._hashes) and self._hashes[at] == hashed:
            yield self._offsets[at]
            at += 1

    def write_index(self) -> None:
        """Close it: write its index, durably. Raises OSError."""
        os.fsync(self._fd)
        pairs: list[tuple[int, int]] = []
        content = map_file(self._fd, self.end) if self.end else memoryview(b"")
        older = self._older
        for name, newest in self._names.items():
            for offset in (*older[name], newest) if name in older else (newest,):
                state = content[offset + _STATE_AT]
                if state == LIVE or _state(state) != DEAD:
                    pairs.append((hash_of(name), offset))
                    if (group := _group(name)) is not None:
                        pairs.append((hash_of(group), offset))
        write_atomic(self.index_path, _index(self.salt, self.end, pairs), sync=True, mode=0o644)

    def _load_index(self) -> bool:
        try:
            fd = os.open(self.index_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            size = os.fstat(fd).st_size
            if size < _INDEX_HEAD.size:
                return False
            view = map_file(fd, size)
        finally:
            os.close(fd)
        mark, salt, count, end, _ = _INDEX_HEAD.unpack_from(view)
        if mark != _INDEX_MARK or salt != self.salt or size != _INDEX_HEAD.size + 16 * count:
            return False
        if blake3(view[:_CHECKED]).update(view[_INDEX_HEAD.size :]).digest(16) != bytes(
            view[_CHECKED : _CHECKED + 16]
        ):
            return False
        self._hashes = view[_INDEX_HEAD.size : _INDEX_HEAD.size + 8 * count].cast("Q")
        self._offsets = view[_INDEX_HEAD.size + 8 * count :].cast("Q")
        self.end = self.size = end
        return True


_CHECKED = 40


def _index(salt: bytes, end: int, pairs: list[tuple[int, int]]) -> bytes:
    pairs.sort()
    body = array.array("Q", (pair[0] for pair in pairs)).tobytes()
    body += array.array("Q", (pair[1] for pair in pairs)).tobytes()
    head = _INDEX_HEAD.pack(_INDEX_MARK, salt, len(pairs), end, bytes(16))[:_CHECKED]
    return head + blake3(head).update(body).digest(16) + bytes(8) + body
