"""A store at any URL that fsspec knows: `s3://bucket/path`, `gs://`, `abfs://`, `sftp://`, `memory://`.

Entries lie many to an object, so that a scheduler asks once a turn and not once a node.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import fsspec
import fsspec.asyn
import msgspec
from blake3 import blake3

from hooke.base.errors import MissingObject, StoreError
from hooke.base.this_process import on_fork
from hooke.store.backend import Backend, Fill, ObjectSink, Stored, Torn, View, reaching

__all__ = ["Copies", "RemoteBackend", "RemotePacks"]

MOST_COPIES_BYTES = 32 * 1024**3
"""Room for copies near, unless told otherwise: what fits most workers' disks; the longest unused go first."""

MOST_IN_FLIGHT = 64
"""Requests of one call at once. With 30 ms each that is 2,000 a second, as many as the library around them can make."""

SMALL_BYTES = 1024**2
"""Up to this size bytes are held in memory until their upload, and packs are merged."""

FULL_BYTES = 8 * 1024**2
"""Of a merged pack: one request of a reader who needs it."""

MOST_SMALL = 64
"""More small packs than that are merged: each is a request of every process that begins to look."""

PACKED = ("keys/", "items/")
"""Names whose bytes lie in packs."""

_MOST_TRIES = 20
"""A lookup starts again if a merge by another process removed a pack that it was about to read; merges are rare."""

_BLOCK = 16 * 1024**2
"""Bytes per request of a download: a request takes some 30 ms, as long as so many bytes at 4 Gbit/s."""

_WHOLE_PUTS = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"})
"""Protocols whose puts appear whole or not at all; elsewhere a file is put beside and renamed."""

_PACKS = "packs/"
_MARK = b"HKR1"
_HEAD = struct.Struct("<4s32sI")
_OLD = 1
"""The sequence number of what lies in a file of its own, as in stores of before: any record is later."""


class Copies(Backend, Protocol):
    """A backend on this host's disk."""

    def path(self, name: str) -> str:
        """The file of `name`."""
        ...


class RemoteBackend:
    """Files of a remote file system, with copies of the objects in a backend near.

    Entries (names under `keys/` and `items/`) lie in packs, see RemotePacks. Other names are files: a large one is written
    near, then put whole. Objects are read through the copies, all else from the place itself. It keeps no note of uses, so
    `Stored.used` says when a name was written.
    """

    notes_use = False

    def __init__(self, url: str, copies: Copies, *, copies_bytes: int = MOST_COPIES_BYTES) -> None:
        self.place = url
        self._copies = copies
        self._copies_bytes = copies_bytes
        self._room = 0
        """Bytes that may be copied before the copies must be counted again."""
        self._lock = threading.Lock()
        self._count = itertools.count()
        self._files = _Files(url)
        self._packs = RemotePacks(self._files)
        self._waiting = _Waiting()
        self._known = _Known()

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """See Backend. A name appears once its upload is complete; until then a killed writer leaves nothing to see.

        With `exclusive` two writers at the same moment can both succeed where the place has no conditional put.
        """
        if 0 < size <= SMALL_BYTES:
            pieces = _Pieces()
            name = fill(pieces)
            return self._write_small(name, b"".join(pieces), exclusive=exclusive)
        return self._write_staged(fill, size, exclusive=exclusive)

    def _write_small(self, name: str, data: bytes, *, exclusive: bool) -> bytes | None:
        if name.startswith("objects/"):

            def fill(sink: ObjectSink) -> str:
                sink.write(data)
                return name

            return self._write_staged(fill, len(data), exclusive=exclusive)
        if name.startswith(PACKED):
            return self._append(name, data, exclusive=exclusive)
        self._known.sizes.pop(name, None)
        with reaching(self.place):
            if exclusive and not self._files.put_new(name, data):
                return None
            if not exclusive:
                self._files.put(name, data)
        return self._stamp()

    def _write_staged(self, fill: Fill, size: int, *, exclusive: bool) -> bytes | None:
        name = staged = ""

        def named(sink: ObjectSink) -> str:
            nonlocal name, staged
            name = fill(sink)
            # Writers of one record at once must not take each other's bytes away.
            staged = name if name.startswith("objects/") else f"staged/{os.getpid()}-{next(self._count)}"
            return staged

        stamp = self._copies.write(named, size=size)
        kept = False
        try:
            view = self._copies.read(staged)
            assert view is not None
            if name.startswith(PACKED):
                return self._append(name, bytes(view.data), exclusive=exclusive)
            self._known.sizes.pop(name, None)
            with reaching(self.place):
                if exclusive and not self._files.put_new(name, bytes(view.data)):
                    return None
                if not exclusive:
                    self._files.put(name, view.data, file=self._copies.path(staged))
            kept = staged == name
        finally:
            if not kept:
                self._copies.remove(staged)
        return stamp

    def _append(self, name: str, data: bytes, *, exclusive: bool = False) -> bytes | None:
        if exclusive and self.read(name) is not None:
            return None
        if self._waiting.depth:
            self._waiting.records[name] = data
        else:
            with reaching(self.place):
                self._packs.append({name: data})
        return self._stamp()

    def _stamp(self) -> bytes:
        """Another one for each write."""
        return f"{os.getpid()}-{next(self._count)}".encode()

    @contextmanager
    def together(self) -> Iterator[None]:
        """See Gathering."""
        self._waiting.depth += 1
        try:
            yield
        finally:
            self._waiting.depth -= 1
            if not self._waiting.depth:
                self._flush()

    @contextmanager
    def as_of_now(self) -> Iterator[None]:
        """See Batching."""
        self._known.depth += 1
        try:
            yield
        finally:
            self._known.depth -= 1
            if not self._known.depth:
                self._known.packs = False
                self._known.sizes.clear()

    def _flush(self) -> None:
        """Write what this thread has kept back."""
        records = dict(self._waiting.records)
        self._waiting.records.clear()
        if records:
            with reaching(self.place):
                self._packs.append(records)

    def read(self, name: str, *, fresh: bool = False) -> View | None:
        """See Backend."""
        if not name.startswith("objects/"):
            return self.read_many([name])[0]
        if fresh:
            self._copies.remove(name)
        return self._copies.read(name) or self._download(name)

    def read_many(self, names: Sequence[str]) -> list[View | None]:
        """See Batching."""
        read: dict[str, bytes | memoryview | None] = {}
        files = [name for name in names if not name.startswith(PACKED)]
        with reaching(self.place):
            read.update(zip(files, self._files.get_many(files), strict=True))
            read.update(self._read_packed([name for name in names if name.startswith(PACKED)]))
        return [None if (data := read[name]) is None else View(memoryview(data), b"") for name in names]

    def _read_packed(self, names: Sequence[str]) -> dict[str, bytes | memoryview | None]:
        kept = self._waiting.records
        found: dict[str, bytes | memoryview | None] = {name: kept[name] for name in names if name in kept}
        others = [name for name in names if name not in found]
        if not others:
            return found
        found.update(self._packs.read_many(others, refresh=not self._known.packs))
        self._known.packs = self._known.depth > 0
        return found

    def _download(self, name: str) -> View | None:
        with reaching(self.place):
            first = self._files.first_blocks([name])[0]
        if first is None:
            return None
        size = 0

        def fill(sink: ObjectSink) -> str:
            nonlocal size
            blocks = self._files.blocks(name, first)
            while True:
                with reaching(
                    self.place
                ):  # not around the write: a full disk for the copies is no failure of the place
                    block = next(blocks, None)
                if block is None:
                    return name
                size += len(block)
                sink.write(block)

        try:
            self._copies.write(fill)
        except MissingObject:
            return None
        view = self._copies.read(name)
        self._trim(size)
        return view

    def _trim(self, size: int) -> None:
        """Keep the copies within their room. A copy that is in use stays mapped though its name goes."""
        with self._lock:
            self._room -= size
            if self._room > 0:
                return
            copies = sorted(self._copies.list("objects/"), key=lambda stored: -stored.used)
            total = 0
            for copy in copies:
                total += copy.size
                if total > self._copies_bytes:
                    self._copies.remove(copy.name)
            # Other processes copy into the same room.
            self._room = max(0, self._copies_bytes - total) // 16

    def sync(self, names: Sequence[str] = (), *, wait: bool = True) -> None:  # noqa: ARG002 the protocol's
        """See Backend. A write returns once the place has the bytes, so only what `together` keeps back is written."""
        self._flush()

    def touch(self, names: Sequence[str]) -> list[int | None]:
        """See Backend. Only says which are there."""
        files = [name for name in names if not name.startswith(PACKED)]
        self._copies.touch(files)
        with reaching(self.place):
            sizes = self._sizes(files)
            packed = self._read_packed([name for name in names if name.startswith(PACKED)])
        sizes.update({name: None if data is None else len(data) for name, data in packed.items()})
        return [sizes[name] for name in names]

    def _sizes(self, names: Sequence[str]) -> dict[str, int | None]:
        known = self._known.sizes
        found = {name: known[name] for name in names if name in known}
        unknown = [name for name in names if name not in found]
        found.update(zip(unknown, self._files.sizes(unknown), strict=True))
        if self._known.depth:
            known.update(found)
        return found

    def list(self, prefix: str) -> Iterator[Stored]:
        """See Backend."""
        self._flush()
        with reaching(self.place):
            if prefix.startswith(PACKED):
                found = self._packs.listed(prefix, refresh=not self._known.packs)
                self._known.packs = self._known.depth > 0
            else:
                found = self._files.listed(prefix)
        yield from found

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """See Backend. `unused_since` is held against the time of writing, just before the removal."""
        if self._waiting.depth and name.startswith(PACKED) and unused_since is None and aside is None:
            there = self._packs.knows(name) or self._waiting.records.get(name) is not None
            self._waiting.records[name] = None
            return there
        self._flush()
        if not name.startswith(PACKED):
            self._known.sizes.pop(name, None)
            self._copies.remove(name)
        with reaching(self.place):
            if name.startswith(PACKED):
                return self._packs.remove(name, unused_since=unused_since, aside=aside)
            return self._files.remove(name, unused_since=unused_since, aside=aside)

    def torn(self) -> Iterator[Torn]:
        """See Packing. A pack that was damaged is none at all."""
        with reaching(self.place):
            damaged = self._packs.damaged()
        for name, size in damaged:
            yield Torn(f"{self.place}/{name}", 0, size, at_end=False)

    def about(self) -> int:
        """See Packing."""
        with reaching(self.place):
            return self._packs.about()

    def newest(self, prefixes: Sequence[str]) -> Iterator[str]:
        """See Packing."""
        with reaching(self.place):
            names = self._packs.newest(tuple(prefixes))
        yield from names

    def compact(self) -> None:
        """See Packing."""
        with reaching(self.place):
            self._packs.compact()


class _Waiting(threading.local):
    """What a thread keeps back."""

    def __init__(self) -> None:
        self.depth = 0
        self.records: dict[str, bytes | None] = {}


class _Known(threading.local):
    """What a thread knows of the place inside of `as_of_now`: whether its packs, and the sizes of files."""

    def __init__(self) -> None:
        self.depth = 0
        self.packs = False
        self.sizes: dict[str, int | None] = {}


class _Pieces(list[bytes]):
    def write(self, data: bytes | memoryview) -> int:
        self.append(bytes(data))
        return len(data)


# --- Packs: the entries of many nodes in one object.


class _Record(NamedTuple):
    """Bytes under a name, and when they were written (ns since the epoch, more than of those before). None: removed then."""

    seq: int
    data: memoryview | None


class _Pack(NamedTuple):
    size: int
    records: Mapping[str, _Record]
    damaged: bool = False


class RemotePacks:
    """Records of a place, many to an object under `packs/`. An object is written once and never changed.

    A process has all of them in memory, some 400 bytes for each. It lists the objects before each lookup, of however many
    names, and reads the new ones. The latest record of a name counts, and one without bytes says that the name is removed.
    Who writes merges small objects: it puts what they hold into one, then removes them, so a reader in between finds both.
    An object has a mark, the BLAKE3 of the list of its records, that list, and their bytes, which have checks of their own.

    Names that are files of their own, as in stores of before, are found too.
    """

    def __init__(self, files: _Files) -> None:
        self._files = files
        self.after_fork()
        on_fork(self)
        self._unique = os.urandom(6).hex()
        self._count = itertools.count()
        self._packs: dict[str, _Pack] = {}
        self._index: dict[str, _Record] = {}
        self._folders: dict[str, dict[str, None]] = {}
        """Names by what is before their last part."""
        self._old: dict[str, Stored] | None = None

    def read_many(
        self, names: Sequence[str], *, refresh: bool = True
    ) -> dict[str, bytes | memoryview | None]:
        """The bytes of each name as they are now, or were at the last refresh; None for those that are not there."""
        with self._lock:
            if refresh:
                self._refresh()
            found: dict[str, bytes | memoryview | None] = {name: self._data(name) for name in names}
            old = [name for name in names if name not in self._index and name in (self._old or ())]
            found.update(zip(old, self._files.get_many(old), strict=True))
        return found

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have the lock."""
        self._lock = threading.RLock()

    def knows(self, name: str) -> bool:
        """Whether the name was there at the last lookup."""
        with self._lock:
            return self._data(name) is not None or (name not in self._index and name in (self._old or ()))

    def append(self, records: Mapping[str, bytes | None]) -> None:
        """Write these records, with one request. None removes a name."""
        with self._lock:
            now = time.time_ns()
            self._put(
                {
                    name: _Record(max(now, self._seq(name) + 1), None if data is None else memoryview(data))
                    for name, data in records.items()
                }
            )
            small = [
                name for name, pack in self._packs.items() if pack.size < SMALL_BYTES and not pack.damaged
            ]
            if len(small) > MOST_SMALL:
                self._rewrite(small)

    def listed(self, prefix: str, *, refresh: bool) -> list[Stored]:
        """The names under the prefix."""
        with self._lock:
            if refresh:
                self._refresh()
            names = self._folders.get(prefix) or self._index
            found = [
                Stored(name, len(data), self._index[name].seq / 1e9)
                for name in names
                if name.startswith(prefix) and (data := self._data(name)) is not None
            ]
            old = (self._old or {}).values()
            return found + [
                each for each in old if each.name.startswith(prefix) and each.name not in self._index
            ]

    def remove(self, name: str, *, unused_since: float | None, aside: str | None) -> bool:
        """See Backend."""
        with self._lock:
            data = self.read_many([name])[name]
            if data is None:
                return False
            old = (self._old or {}).get(name)
            written = old.used if name not in self._index and old is not None else self._seq(name) / 1e9
            if unused_since is not None and written >= unused_since:
                return False
            if aside is not None:
                self._files.put(aside, data)
            self.append({name: None})
            if old is not None:
                self._files.remove(name, unused_since=None, aside=None)
        return True

    def damaged(self) -> list[tuple[str, int]]:
        """Name and size of each pack that cannot be read."""
        with self._lock:
            self._packs = {name: pack for name, pack in self._packs.items() if not pack.damaged}
            self._refresh()
            return [(name, pack.size) for name, pack in self._packs.items() if pack.damaged]

    def about(self) -> int:
        """How many names there are."""
        with self._lock:
            self._refresh()
            return sum(record.data is not None for record in self._index.values())

    def newest(self, prefixes: tuple[str, ...]) -> list[str]:
        """The names with these prefixes, the last written first."""
        with self._lock:
            self._refresh()
            found = [
                (record.seq, name)
                for name, record in self._index.items()
                if record.data is not None and name.startswith(prefixes)
            ]
        return [name for _, name in sorted(found, reverse=True)]

    def compact(self) -> None:
        """Write packs again of which more than a quarter is of no use any more; set aside those that cannot be read."""
        for name, _ in self.damaged():
            self._files.remove(name, unused_since=None, aside=f"corrupt/{name.replace('/', '-')}")
        with self._lock:
            self._refresh()
            self._rewrite([name for name, pack in self._packs.items() if self._is_wasteful(pack)])

    def _is_wasteful(self, pack: _Pack) -> bool:
        used = sum(
            len(record.data)
            for name, record in pack.records.items()
            if record.data is not None and self._seq(name) == record.seq
        )
        return pack.size < SMALL_BYTES or used < 0.75 * pack.size

    def _seq(self, name: str) -> int:
        record = self._index.get(name)
        return record.seq if record is not None else _OLD

    def _data(self, name: str) -> memoryview | None:
        record = self._index.get(name)
        return record.data if record is not None else None

    def _refresh(self) -> None:
        """Learn what others have written and merged since the last time."""
        if self._old is None:
            self._old = {each.name: each for prefix in PACKED for each in self._files.listed(prefix)}
        for _ in range(_MOST_TRIES):
            there = {each.name: each.size for each in self._files.listed(_PACKS)}
            new = [name for name in there if name not in self._packs]
            contents = self._files.get_many(new)
            if None not in contents:
                break
        gone = [name for name in self._packs if name not in there]
        for name in gone:
            del self._packs[name]
        if gone:
            self._index.clear()
            self._folders.clear()
            for name in self._packs:
                self._learn(self._packs[name])
        for name, content in zip(new, contents, strict=True):
            if content is not None:
                self._packs[name] = _opened(content)
                self._learn(self._packs[name])

    def _learn(self, pack: _Pack) -> None:
        for name, record in pack.records.items():
            if record.seq > self._seq(name):
                self._index[name] = record
                self._folders.setdefault(name.rpartition("/")[0] + "/", {})[name] = None

    def _put(self, records: Mapping[str, _Record]) -> None:
        content = _closed(records)
        name = f"{_PACKS}{time.time_ns():020}-{self._unique}-{os.getpid()}-{next(self._count)}"
        self._files.put(name, content)
        self._packs[name] = _Pack(len(content), records)
        self._learn(self._packs[name])

    def _rewrite(self, names: Sequence[str]) -> None:
        """Put what these packs hold into few others, then remove them."""
        kept: dict[str, _Record] = {}
        size = 0
        others = {
            name for other, pack in self._packs.items() if other not in set(names) for name in pack.records
        }
        for pack in [self._packs[name] for name in names]:
            for name, record in pack.records.items():
                if record.seq < self._seq(name) or (record.data is None and name not in others):
                    continue  # a later one counts, or nothing is left that it removes
                kept[name] = record
                size += len(record.data or b"")
                if size > FULL_BYTES:
                    self._put(dict(kept))
                    kept.clear()
                    size = 0
        if kept:
            self._put(kept)
        self._files.remove_many(names)
        for name in names:
            del self._packs[name]


def _closed(records: Mapping[str, _Record]) -> bytes:
    """The bytes of a pack."""
    listed = msgspec.msgpack.encode(
        [(name, seq, -1 if data is None else len(data)) for name, (seq, data) in records.items()]
    )
    head = _HEAD.pack(_MARK, blake3(listed).digest(), len(listed))
    return b"".join([head, listed, *(data for _, data in records.values() if data is not None)])


def _opened(content: bytes) -> _Pack:
    """The records in the bytes of a pack; none, and `damaged`, if the list of them is not what was written."""
    damaged = _Pack(len(content), {}, damaged=True)
    try:
        mark, digest, size = _HEAD.unpack_from(content)
        listed = content[_HEAD.size : _HEAD.size + size]
        rows = msgspec.msgpack.decode(listed, type=list[tuple[str, int, int]])
    except (struct.error, msgspec.MsgspecError):
        return damaged
    if mark != _MARK or blake3(listed).digest() != digest:
        return damaged
    records: dict[str, _Record] = {}
    at, view = _HEAD.size + size, memoryview(content)
    for name, seq, length in rows:
        records[name] = _Record(seq, None if length < 0 else view[at : at + length])
        at += max(0, length)
    return _Pack(len(content), records)


# --- Files: the requests of one call in flight together.


class _Files:
    """The names at a URL as files of fsspec. Its methods raise what fsspec raises, but for files that are not there."""

    def __init__(self, url: str) -> None:
        self._fs, root = _file_system(url)
        self._prefix = root.rstrip("/") + "/"
        self._protocol = url.partition("://")[0]
        self._count = itertools.count()

    def put(self, name: str, data: bytes | memoryview, *, file: str = "") -> None:
        """Write `data`, which is also in `file` if that is given."""
        path = self._prefix + name
        if self._protocol in _WHOLE_PUTS:
            self._put_at(path, data, file)
            return
        beside = f"{path}.{os.uname().nodename}-{os.getpid()}-{next(self._count)}.tmp"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._put_at(beside, data, file)
        self._fs.mv(beside, path)

    def _put_at(self, path: str, data: bytes | memoryview, file: str) -> None:
        # A large file goes up in parts, from the disk; memory:// shows it while it grows, and so gets it in one piece.
        if file and len(data) > _BLOCK and self._protocol != "memory":
            self._fs.put_file(file, path)
        else:
            self._fs.pipe_file(path, bytes(data))

    def put_new(self, name: str, data: bytes) -> bool:
        """Write `data` unless the name is there."""
        path = self._prefix + name
        if self._fs.exists(path):
            return False
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "PreconditionFailed" in str(error) or "pre-condition" in str(error):
                return False
            raise
        return True

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """All bytes of each file; None for those that are not there."""
        found: list[bytes | None] = []
        for name, first in zip(names, self.first_blocks(names), strict=True):
            try:
                found.append(None if first is None else b"".join(self.blocks(name, first)))
            except MissingObject:
                found.append(None)
        return found

    def first_blocks(self, names: Sequence[str]) -> list[bytes | None]:
        """The first 16 MiB of each file, with one request each: for a whole file, libraries ask for its size before."""
        calls = [(self._prefix + name,) for name in names]
        answers = self._in_flight("cat_file", calls, start=0, end=_BLOCK)
        return [self._block(name, answer) for name, answer in zip(names, answers, strict=True)]

    def _block(self, name: str, answer: Any) -> bytes | None:
        if isinstance(answer, FileNotFoundError):
            return None
        if isinstance(answer, OSError) and self.sizes([name]) == [0]:
            return b""  # servers refuse a range of an empty file
        if isinstance(answer, BaseException):
            raise answer
        return bytes(answer)

    def blocks(self, name: str, first: bytes) -> Iterator[bytes]:
        """The first block of a file and those that follow. Raises MissingObject if it goes meanwhile."""
        yield first
        if len(first) < _BLOCK:
            return
        size = self.sizes([name])[0] or 0
        for start in range(_BLOCK, size, _BLOCK):
            try:
                yield self._fs.cat_file(self._prefix + name, start=start, end=min(start + _BLOCK, size))
            except FileNotFoundError as error:
                raise MissingObject(name) from error

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """The size of each file; None for those that are not there."""
        found: list[int | None] = []
        for answer in self._in_flight("info", [(self._prefix + name,) for name in names]):
            if isinstance(answer, BaseException) and not isinstance(answer, FileNotFoundError):
                raise answer
            found.append(None if isinstance(answer, FileNotFoundError) else int(answer["size"]))
        return found

    def listed(self, prefix: str) -> list[Stored]:
        """The files under a prefix, which ends in `/`."""
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(self._prefix + prefix, detail=True)
        except FileNotFoundError:
            return []
        # Some file systems begin their paths with a slash that others leave out.
        start = len(self._prefix.lstrip("/"))
        return [
            Stored(path.lstrip("/")[start:], int(facts["size"]), _written(facts))
            for path, facts in found.items()
            if not path.endswith(".tmp")
        ]

    def remove(self, name: str, *, unused_since: float | None, aside: str | None) -> bool:
        """See Backend."""
        path = self._prefix + name
        try:
            if unused_since is not None and _written(self._fs.info(path)) >= unused_since:
                return False
            if aside is not None:
                self._fs.copy(path, self._prefix + aside)
            elif unused_since is None and not self._fs.exists(path):
                return False
            self._fs.rm_file(path)
        except FileNotFoundError:
            return False
        return True

    def remove_many(self, names: Iterable[str]) -> None:
        """Remove the files, those that are there."""
        paths = [(self._prefix + name,) for name in names]
        if self._protocol in ("s3", "s3a"):  # a thousand with one request
            with suppress(FileNotFoundError):
                self._fs.rm([path for (path,) in paths])
            return
        for answer in self._in_flight("rm_file", paths):
            if isinstance(answer, BaseException) and not isinstance(answer, FileNotFoundError):
                raise answer

    def _in_flight(self, method: str, calls: Sequence[tuple[Any, ...]], **options: Any) -> Sequence[Any]:
        """What a method of the file system answers to each call, many at a time. An exception is an answer."""
        if len(calls) < 2:
            return [_answer(getattr(self._fs, method), call, options) for call in calls]
        if self._fs.async_impl:
            function = getattr(self._fs, f"_{method}")
            answers: Any = fsspec.asyn.sync(self._fs.loop, _gathered, function, calls, options)
            return tuple(answers)
        function = getattr(self._fs, method)
        with ThreadPoolExecutor(min(len(calls), MOST_IN_FLIGHT)) as pool:
            return tuple(pool.map(_answer, repeat(function), calls, repeat(options)))


def _answer(function: Any, call: tuple[Any, ...], options: dict[str, Any]) -> Any:
    try:
        return function(*call, **options)
    except Exception as error:  # noqa: BLE001 each library has its own
        return error


async def _gathered(function: Any, calls: Sequence[tuple[Any, ...]], options: dict[str, Any]) -> list[Any]:
    room = asyncio.Semaphore(MOST_IN_FLIGHT)

    async def one(call: tuple[Any, ...]) -> Any:
        async with room:
            return await function(*call, **options)

    return await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)


def _file_system(url: str) -> tuple[Any, str]:
    options: dict[str, Any] = {}
    if url.partition("://")[0] in ("s3", "s3a"):  # by itself the library lets ten requests in flight
        known = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"max_pool_connections": MOST_IN_FLIGHT, **known}
    try:
        # Listings and instances are not to be remembered: other processes write to the same place.
        return fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except ValueError as error:
        raise StoreError(
            f"the store {url!r} cannot be opened",
            why=str(error),
            fix="give a folder, or a URL of a protocol that fsspec knows, such as s3://bucket/path",
        ) from error


def _written(facts: dict[str, Any]) -> float:
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = facts.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            with suppress(ValueError):
                return datetime.fromisoformat(value).timestamp()
    return 0.0
