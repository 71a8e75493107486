"""A store at any URL that fsspec knows: `s3://bucket/path`, `gs://`, `abfs://`, `sftp://`, `memory://`.

Entries lie many to an object, so that a scheduler asks once a turn and not once a node.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from hooke.base.errors import MissingObject
from hooke.store.backend import Backend, Fill, Learnt, ObjectSink, Stored, Torn, View, reaching
from hooke.store.backends.remote_packs import PACKED, SMALL_BYTES, RemoteFiles, RemotePacks

__all__ = ["Copies", "RemoteBackend"]

MOST_COPIES_BYTES = 32 * 1024**3
"""Room for copies near, unless told otherwise: what fits most workers' disks; the longest unused go first."""


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
        self._files = RemoteFiles(url)
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
        self._known.learnt.sizes.pop(name, None)
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
            self._known.learnt.sizes.pop(name, None)
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
    def as_of_now(self, learnt: Learnt | None = None) -> Iterator[Learnt]:
        """See Batching."""
        known = self._known
        known.depth += 1
        if learnt is not None:
            known.learnt.packs |= learnt.packs
            known.learnt.sizes |= learnt.sizes
        try:
            yield known.learnt
        finally:
            known.depth -= 1
            if not known.depth:
                known.learnt = Learnt()

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
        found.update(self._packs.read_many(others, refresh=not self._known.learnt.packs))
        self._known.learnt.packs = self._known.depth > 0
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
        known = self._known.learnt.sizes
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
                found = self._packs.listed(prefix, refresh=not self._known.learnt.packs)
                self._known.learnt.packs = self._known.depth > 0
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
            self._known.learnt.sizes.pop(name, None)
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
    """What a thread knows of the place inside of `as_of_now`."""

    def __init__(self) -> None:
        self.depth = 0
        self.learnt = Learnt()


class _Pieces(list[bytes]):
    def write(self, data: bytes | memoryview) -> int:
        self.append(bytes(data))
        return len(data)
