"""A store at any URL that fsspec knows: `s3://bucket/path`, `gs://`, `abfs://`, `sftp://`, `memory://`."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

import fsspec

from hooke.base.errors import MissingObject, StoreError
from hooke.store.backend import Backend, Fill, ObjectSink, Stored, View, reaching

__all__ = ["Copies", "RemoteBackend"]

MOST_COPIES_BYTES = 32 * 1024**3
"""Room for copies near, unless told otherwise: what fits most workers' disks; the longest unused go first."""

_BLOCK = 16 * 1024**2
"""Bytes per request of a download: a request takes some 30 ms, as long as so many bytes at 4 Gbit/s."""

_FEW = 32
"""Up to that many names are asked after one by one; for more the folder is listed, a thousand per request."""

_WHOLE_PUTS = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"})
"""Protocols whose puts appear whole or not at all; elsewhere a file is put beside and renamed."""


class Copies(Backend, Protocol):
    """A backend on this host's disk."""

    def path(self, name: str) -> str:
        """The file of `name`."""
        ...


class RemoteBackend:
    """Files of a remote file system, with copies of the objects in a backend near.

    Names are written near, then put whole. Objects are read through the copies, all else from the place itself.
    It keeps no note of uses, so `Stored.used` says when a name was written.
    """

    notes_use = False

    def __init__(self, url: str, copies: Copies, *, copies_bytes: int = MOST_COPIES_BYTES) -> None:
        self.place = url
        self._copies = copies
        self._copies_bytes = copies_bytes
        self._lock = threading.Lock()
        self._count = itertools.count()
        self._fs, root = _file_system(url)
        self._prefix = root.rstrip("/") + "/"
        self._puts_whole = url.partition("://")[0] in _WHOLE_PUTS

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """See Backend. A name appears once its upload is complete; until then a killed writer leaves nothing to see.

        With `exclusive` two writers at the same moment can both succeed where the place has no conditional put.
        """
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
            with reaching(self.place):
                if exclusive and not self._put_new(name, staged):
                    return None
                if not exclusive:
                    self._put(name, staged)
            kept = staged == name
        finally:
            if not kept:
                self._copies.remove(staged)
        return stamp

    def _put(self, name: str, staged: str) -> None:
        path = self._prefix + name
        if self._puts_whole:
            self._put_at(path, staged)
            return
        beside = f"{path}.{os.uname().nodename}-{os.getpid()}-{next(self._count)}.tmp"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._put_at(beside, staged)
        self._fs.mv(beside, path)

    def _put_at(self, path: str, staged: str) -> None:
        view = self._copies.read(staged)
        assert view is not None
        # A large file goes up in parts, from the disk; memory:// shows it while it grows, and so gets it in one piece.
        if len(view.data) > _BLOCK and not self.place.startswith("memory:"):
            self._fs.put_file(self._copies.path(staged), path)
        else:
            self._fs.pipe_file(path, bytes(view.data))

    def _put_new(self, name: str, staged: str) -> bool:
        path, view = self._prefix + name, self._copies.read(staged)
        assert view is not None
        if self._fs.exists(path):
            return False
        try:
            self._fs.pipe_file(path, bytes(view.data), mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "PreconditionFailed" in str(error) or "pre-condition" in str(error):
                return False
            raise
        return True

    def read(self, name: str, *, fresh: bool = False) -> View | None:
        """See Backend."""
        if not name.startswith("objects/"):
            return self._read_record(name)
        if fresh:
            self._copies.remove(name)
        return self._copies.read(name) or self._download(name)

    def _read_record(self, name: str) -> View | None:
        with reaching(self.place):
            try:
                data = self._fs.cat_file(self._prefix + name)
            except FileNotFoundError:
                return None
        return View(memoryview(data), b"")

    def _download(self, name: str) -> View | None:
        def blocks() -> Iterator[bytes]:
            with reaching(self.place):
                try:
                    with self._fs.open(self._prefix + name, "rb", cache_type="none") as file:
                        while block := file.read(_BLOCK):
                            yield block
                except FileNotFoundError as error:
                    raise MissingObject(name, where=self.place) from error

        def fill(sink: ObjectSink) -> str:
            # Outside of `reaching`: a full disk for the copies is no failure of the place.
            for block in blocks():
                sink.write(block)
            return name

        try:
            self._copies.write(fill)
        except MissingObject:
            return None
        view = self._copies.read(name)
        self._trim()
        return view

    def _trim(self) -> None:
        """Keep the copies within their room. A copy that is in use stays mapped though its name goes."""
        with self._lock:
            copies = sorted(self._copies.list("objects/"), key=lambda stored: -stored.used)
            total = 0
            for copy in copies:
                total += copy.size
                if total > self._copies_bytes:
                    self._copies.remove(copy.name)

    def sync(self, names: Sequence[str] = (), *, wait: bool = True) -> None:
        """See Backend. Does nothing: a write returns once the place has the bytes."""

    def touch(self, names: Sequence[str]) -> list[int | None]:
        """See Backend. Only says which are there."""
        self._copies.touch(names)
        if len(names) <= _FEW:
            with reaching(self.place):
                return [self._size(name) for name in names]
        present: dict[str, int] = {}
        for folder in {name.partition("/")[0] + "/" for name in names}:
            present.update((stored.name, stored.size) for stored in self.list(folder))
        return [present.get(name) for name in names]

    def _size(self, name: str) -> int | None:
        try:
            return int(self._fs.info(self._prefix + name)["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[Stored]:
        """See Backend."""
        with reaching(self.place):
            try:
                found: dict[str, dict[str, Any]] = self._fs.find(self._prefix + prefix, detail=True)
            except FileNotFoundError:
                return
        for path, facts in found.items():
            if not path.endswith(".tmp"):
                # Some file systems begin their paths with a slash that others leave out.
                name = path.lstrip("/")[len(self._prefix.lstrip("/")) :]
                yield Stored(name, int(facts["size"]), _written(facts))

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """See Backend. `unused_since` is held against the time of writing, just before the removal."""
        path = self._prefix + name
        self._copies.remove(name)
        with reaching(self.place):
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


def _file_system(url: str) -> tuple[Any, str]:
    try:
        # Listings and instances are not to be remembered: other processes write to the same place.
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
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
