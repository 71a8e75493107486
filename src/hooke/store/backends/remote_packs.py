"""What a store at a URL is made of: files of fsspec, with the requests of one call in flight together, and packs of entries."""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeAlias

import fsspec
import fsspec.asyn
import msgspec
from blake3 import blake3

from hooke.base.errors import MissingObject, StoreError
from hooke.base.this_process import on_fork
from hooke.store.backend import Stored

__all__ = ["BLOCK", "MOST_SMALL", "PACKED", "SMALL_BYTES", "RemoteFiles", "RemotePacks"]

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

REMOVED_NS = 3600 * 10**9
"""A merge keeps for so long that a name was removed: another process may be merging what it read before. `compact` does not."""

_MOST_TRIES = 20
"""A lookup starts again if a merge by another process removed a pack that it was about to read; merges are rare."""

BLOCK = 16 * 1024**2
"""Bytes per request of a download: a request takes some 30 ms, as long as so many bytes at 4 Gbit/s."""

_WHOLE_PUTS = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"})
"""Protocols whose puts appear whole or not at all; elsewhere a file is put beside and renamed."""

_PACKS = "packs/"
_MARK = b"HKR1"
_HEAD = struct.Struct("<4s32sI")
_OLD = 1
"""The sequence number of what lies in a file of its own, as in stores of before: any record is later."""


# --- Files: the requests of one call in flight together.


class RemoteFiles:
    """The names at a URL as files of fsspec. Its methods raise what fsspec raises, but for files that are not there."""

    def __init__(self, url: str) -> None:
        found, root = _file_system(url)
        self._fs: Any = found if found.async_impl else _OneAtATime(found)
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
        if file and len(data) > BLOCK and self._protocol != "memory":
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
        answers = self._in_flight("cat_file", calls, start=0, end=BLOCK)
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
        if len(first) < BLOCK:
            return
        size = self.sizes([name])[0] or 0
        for start in range(BLOCK, size, BLOCK):
            try:
                yield self._fs.cat_file(self._prefix + name, start=start, end=min(start + BLOCK, size))
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
        if self._fs.async_impl and len(calls) > 1:
            function = getattr(self._fs, f"_{method}")
            answers: Any = fsspec.asyn.sync(self._fs.loop, _gathered, function, calls, options)
            return tuple(answers)
        return [_answer(getattr(self._fs, method), call, options) for call in calls]


class _OneAtATime:
    """A file system whose client serves one call at a time, for several threads: that of `sftp://` mixes up their answers."""

    async_impl = False

    def __init__(self, found: Any) -> None:
        self._found = found
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return getattr(self._found, name)(*args, **kwargs)

        return call


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


# --- Packs: the entries of many nodes in one object.


_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


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

    One thread at a time looks for packs of others, or merges. Others read what is known meanwhile, and write packs.
    """

    def __init__(self, files: RemoteFiles) -> None:
        self._files = files
        self._unique = os.urandom(6).hex()
        self._count = itertools.count()
        self.after_fork()
        on_fork(self)

    def read_many(
        self, names: Sequence[str], *, refresh: bool = True
    ) -> dict[str, bytes | memoryview | None]:
        """The bytes of each name as they are now, or were at the last refresh; None for those that are not there."""
        if refresh:
            self._refresh()
        with self._lock:
            found: dict[str, bytes | memoryview | None] = {name: self._data(name) for name in names}
            old = [name for name in names if name not in self._index and name in (self._old or ())]
        found.update(zip(old, self._files.get_many(old), strict=True))
        return found

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have a lock, in the midst of a refresh."""
        self._asking = threading.RLock()
        """Held while packs of others are looked for, or packs are merged."""
        self._lock = threading.RLock()
        """Held while what is known is read or changed, and not while a request is made."""
        self._writing: set[str] = set()
        """Packs that are being written."""
        self._packs: dict[str, _Pack] = {}
        self._index: dict[str, _Record] = {}
        self._folders: dict[str, dict[str, None]] = {}
        """Names by what is before their last part."""
        self._old: dict[str, Stored] | None = None

    def knows(self, name: str) -> bool:
        """Whether the name was there at the last lookup."""
        with self._lock:
            return self._data(name) is not None or (name not in self._index and name in (self._old or ()))

    def append(self, records: Mapping[str, bytes | None]) -> None:
        """Write these records, with one request. None removes a name."""
        if self._old is None:  # the records must come after those of others, whose clock may be ahead
            self._refresh()
        with self._lock:
            now = time.time_ns()
            made = {
                name: _Record(max(now, self._seq(name) + 1), None if data is None else memoryview(data))
                for name, data in records.items()
            }
        self._put(made)
        if len(self._small()) > MOST_SMALL:
            with self._asking:
                self._refresh()  # others may have merged these, and removed names
                if len(small := self._small()) > MOST_SMALL:
                    self._rewrite(small, removed_before=now - REMOVED_NS)

    def _small(self) -> list[str]:
        with self._lock:
            return [
                name for name, pack in self._packs.items() if pack.size < SMALL_BYTES and not pack.damaged
            ]

    def listed(self, prefix: str, *, refresh: bool) -> list[Stored]:
        """The names under the prefix."""
        if refresh:
            self._refresh()
        with self._lock:
            names = self._index if prefix in PACKED else self._folders.get(prefix, {})
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
        with self._asking:
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
        with self._asking:
            with self._lock:
                self._packs = {name: pack for name, pack in self._packs.items() if not pack.damaged}
            self._refresh()
            with self._lock:
                return [(name, pack.size) for name, pack in self._packs.items() if pack.damaged]

    def about(self) -> int:
        """How many names there are."""
        self._refresh()
        with self._lock:
            return sum(record.data is not None for record in self._index.values())

    def newest(self, prefixes: tuple[str, ...]) -> list[str]:
        """The names with these prefixes, the last written first."""
        self._refresh()
        with self._lock:
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
        with self._asking:
            self._refresh()
            with self._lock:
                wasteful = [name for name, pack in self._packs.items() if self._is_wasteful(pack)]
            self._rewrite(wasteful, removed_before=2**63)

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
        with self._asking:
            if self._old is None:
                self._old = {each.name: each for prefix in PACKED for each in self._files.listed(prefix)}
            for _ in range(_MOST_TRIES):
                with self._lock:
                    known = [*self._packs]  # another thread may write more meanwhile
                there = {each.name: each.size for each in self._files.listed(_PACKS)}
                with self._lock:
                    new = [name for name in there if name not in self._packs and name not in self._writing]
                contents = self._files.get_many(new)
                if None not in contents:
                    break
            opened = {
                name: _opened(content)
                for name, content in zip(new, contents, strict=True)
                if content is not None
            }
            with self._lock:
                self._take(opened, gone=[name for name in known if name not in there])

    def _take(self, opened: Mapping[str, _Pack], *, gone: Sequence[str]) -> None:
        for name in gone:
            del self._packs[name]
        if gone:
            self._index.clear()
            self._folders.clear()
            for name in self._packs:
                self._learn(self._packs[name])
        for name, pack in opened.items():
            self._packs[name] = pack
            self._learn(pack)

    def _learn(self, pack: _Pack) -> None:
        for name, record in pack.records.items():
            if record.seq > self._seq(name):
                self._index[name] = record
                self._folders.setdefault(name.rpartition("/")[0] + "/", {})[name] = None

    def _put(self, records: Mapping[str, _Record]) -> None:
        content = _closed(records)
        name = f"{_PACKS}{time.time_ns():020}-{self._unique}-{os.getpid()}-{next(self._count)}"
        with self._lock:
            self._writing.add(name)
        try:
            self._files.put(name, content)
        except BaseException:
            with self._lock:
                self._writing.discard(name)  # it may be there nevertheless, and is read then
            raise
        with self._lock:
            self._writing.discard(name)
            self._take({name: _Pack(len(content), records)}, gone=())

    def _rewrite(self, names: Sequence[str], *, removed_before: int) -> None:
        """Put what these packs hold into few others, then remove them. Removals before a time are kept only for what is left."""
        kept: dict[str, _Record] = {}
        size = 0
        merged = set(names)
        with self._lock:
            packs = dict(self._packs)
        others = {name for other, pack in packs.items() if other not in merged for name in pack.records}
        others |= (self._old or {}).keys()
        for pack in [packs[name] for name in names]:
            for name, record in pack.records.items():
                over = record.data is None and name not in others and record.seq < removed_before
                if over or record.seq < self._seq(name):
                    continue  # nothing is left that it removes, or a later one counts
                kept[name] = record
                size += len(record.data or b"")
                if size > FULL_BYTES:
                    self._put(dict(kept))
                    kept.clear()
                    size = 0
        if kept:
            self._put(kept)
        self._files.remove_many(names)
        with self._lock:
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
        if mark != _MARK or blake3(listed).digest() != digest:
            return damaged
        rows = msgspec.msgpack.decode(listed, type=list[tuple[str, _Number, int]])
    except (struct.error, msgspec.MsgspecError, ValueError):  # a text that is not UTF-8 is a ValueError
        return damaged
    records: dict[str, _Record] = {}
    at, view = _HEAD.size + size, memoryview(content)
    for name, seq, length in rows:
        records[name] = _Record(seq, None if length < 0 else view[at : at + length])
        at += max(0, length)
    return _Pack(len(content), records)
