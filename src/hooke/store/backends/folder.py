"""A local or network folder: the reference backend. Small values lie in packs, large ones are files."""

from __future__ import annotations

import errno
import itertools
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from hooke.base.background_fsync import Durability, GroupSync, sync_files
from hooke.base.errors import StoreError, StoreFull
from hooke.base.files import is_private, make_folders, map_file, write_all
from hooke.base.formats import format_bytes
from hooke.store.backend import Fill, ObjectSink, Stored, Torn, View, hidden_as
from hooke.store.pack_file import MOST_BYTES, NO_ROOM, PACKED, PackRecord
from hooke.store.packs import Packs

__all__ = ["FolderBackend"]


TOUCH_EVERY_S = 60.0
"""A use is recorded at most this often per name: recording changes the stamp, and eviction works in hours."""

T = TypeVar("T")
_STAMP = struct.Struct("<QQqqQ")
_PACKED_STAMP = struct.Struct("<16sQQ")


class FolderBackend:
    """Files in a folder: written under another name, renamed into place, read through a mapping; access times record use.

    With `packed`, what is small under `keys/` and `items/` lies in packs (see `store.packs`); what is a file already is
    found there. `durable` says when a name survives a power loss. New folders get `folder_mode`, less the umask.
    """

    notes_use = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        durable: Durability = "group",
        folder_mode: int = 0o777,
        packed: bool = True,
    ) -> None:
        self.root = Path(root).absolute()
        self.place = str(self.root)
        self._prefix = f"{self.root}/"
        self._durable: Durability = durable
        self._group_sync = GroupSync(self.root)
        self._unique = os.urandom(6).hex()
        self._count = itertools.count()
        self._folder_mode = folder_mode
        self._packed = PACKED if packed else ()
        self._packs = Packs(f"{self._prefix}packs", beside=self._prefix, folder_mode=folder_mode)
        self._waiting = _Waiting()

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """See Backend. A large value goes to `tmp/` first; a process killed there leaves a file that `list("tmp/")` shows."""
        sink = _Sink(
            self._temporary(), self._folder_mode, held=MOST_BYTES if self._packed and not exclusive else -1
        )
        try:
            with sink:
                name = fill(sink)
                if sink.held is not None and name.startswith(self._packed):
                    stamp = self._append(name, b"".join(sink.held))
                else:
                    self._flush()
                    stamp = self._write_file(sink, name, exclusive=exclusive)
        except BaseException as error:
            _unlink(sink.path)
            # Libraries that write through the sink may have replaced the error.
            if sink.failed is not None:
                raise self._explained(sink.failed, max(size, sink.written)) from error
            raise
        return stamp

    def put(self, name: str, data: bytes) -> None:
        """See Putting."""
        if len(data) <= MOST_BYTES and self._packed and name.startswith(self._packed):
            self._append(name, data)
            return

        def fill(sink: ObjectSink) -> str:
            sink.write(data)
            return name

        self.write(fill, size=len(data))

    def _append(self, name: str, data: bytes) -> bytes:
        if self._waiting.depth:
            self._waiting.records[name] = data
            return b""
        return _packed_stamp(self._append_all([(name, data)]))

    def _append_all(self, records: Sequence[tuple[str, bytes]]) -> PackRecord:
        """Returns the last of them."""
        try:
            last = self._packs.append(records)
        except OSError as error:
            raise self._explained(error, sum(len(data) for _, data in records)) from error
        self._sync([last.pack.path], wait=False)
        for name, _ in records:
            if self._packs.may_be_file(name):
                self._replace_file(name)
        return last

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

    def refreshed(self) -> AbstractContextManager[None]:
        """See Refreshing. Files beside the packs are always as they are now."""
        return self._packs.refreshed()

    def lacking(self, names: Sequence[str]) -> list[bool]:
        """See Refreshing."""
        lacking = self._packs.lacking(names)
        if waiting := self._waiting.records:
            return [each and name not in waiting for each, name in zip(lacking, names, strict=True)]
        return lacking

    def _flush(self) -> None:
        """Write what this thread has kept back."""
        records = list(self._waiting.records.items())
        if records:
            self._waiting.records.clear()
            self._append_all(records)

    def _replace_file(self, name: str) -> None:
        """Remove the file that held the name's bytes before the record."""
        path = self._prefix + name
        if os.path.lexists(path):
            with self._packs.locked():
                if self._packs.find(name) is not None:  # else a later file has replaced the record
                    _unlink(path)

    def _write_file(self, sink: _Sink, name: str, *, exclusive: bool) -> bytes | None:
        sink.flush()
        path = self._prefix + name
        if exclusive or not name.startswith(self._packed):
            published = sink.guard(lambda: self._publish(sink.path, path, exclusive=exclusive))
            stamp = sink.stamp() if published else None
            if published:
                self._sync([path], wait=False)
            return stamp

        def replace() -> None:
            self._packs.expect_files(name)
            with self._packs.locked():
                self._rename(sink.path, path)
                self._packs.kill(name)

        sink.guard(replace)
        self._sync([path], wait=False)
        return sink.stamp()

    def sync(self, names: Sequence[str] = (), *, wait: bool = True) -> None:
        """See Backend."""
        self._flush()
        if self._durable != "none":
            self._sync(self._paths(names), wait=wait)

    def close_files(self) -> None:
        """See KeepsOpen."""
        self._packs.close_files()

    def _sync(self, paths: Sequence[str], *, wait: bool) -> None:
        if self._durable == "none":
            return
        try:
            if self._durable == "each":
                sync_files(paths)
                return
            for path in paths:
                self._group_sync.mark(path)
            if wait:
                self._group_sync.sync()
            else:
                self._group_sync.raise_failure()
        except OSError as error:
            raise StoreError(
                "results are in the store, but the disk did not confirm them",
                where=str(self.root),
                why=str(error),
                fix="check the disk (dmesg) before you rely on the latest results; then `hooke cache verify`",
            ) from error

    def _paths(self, names: Sequence[str]) -> list[str]:
        """The files to sync for names."""
        if not self._packed:
            return [self._prefix + name for name in names]
        packed = self._packs.paths(names)
        return [path or self._prefix + name for name, path in zip(names, packed, strict=True)]

    def read(self, name: str, *, fresh: bool = False) -> View | None:  # noqa: ARG002 the protocol's
        """See Backend. `fresh` has no effect: there are no copies.

        Bytes that do not match their check in a pack read as none at all: a power loss can leave them so.
        """
        if self._packed and name.startswith(self._packed):
            if (waiting := self._waiting.records.get(name)) is not None:
                return View(memoryview(waiting), b"")
            record = self._packs.find(name)
            if record is not None:
                return View(record.data or memoryview(b""), _packed_stamp(record))
            if not self._packs.may_be_file(name):
                return None
        try:
            fd = os.open(self._prefix + name, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            facts = os.fstat(fd)
            return View(_contents(fd, facts.st_size), _stamp(facts), is_private(facts))
        finally:
            os.close(fd)

    def touch(self, names: Sequence[str]) -> list[int | None]:
        """See Backend. Records the use in the file's access time; the modification time, and so the stamp, stays."""
        now = time.time()
        return [self._touch(name, now) for name in names]

    def _touch(self, name: str, now: float) -> int | None:
        if self._packed and name.startswith(self._packed):
            if (waiting := self._waiting.records.get(name)) is not None:
                return len(waiting)
            there, size = self._packs.touch(name, now)
            if there or not self._packs.may_be_file(name):
                return size
        path = self._prefix + name
        try:
            facts = os.stat(path)
        except OSError:  # not there, or not to be read: either way it is computed again
            return None
        try:
            if now - _used(facts) >= TOUCH_EVERY_S:
                os.utime(path, ns=(int(now * 1e9), facts.st_mtime_ns))
                # The file may have been evicted between finding it and setting its time.
                os.stat(path)
        except OSError as error:
            # Another user's file or a read-only folder: the file exists, but its use cannot be recorded.
            known = error.errno in (errno.EPERM, errno.EACCES, errno.EROFS)
            return facts.st_size if known else None
        return facts.st_size

    def list(self, prefix: str) -> Iterator[Stored]:
        """See Backend. What lies in packs comes in the order in which it lies there."""
        self._flush()
        kind = prefix.partition("/")[0] + "/"
        if not self._packed or kind not in self._packed:
            yield from self._list_files(prefix)
            return
        for record in self._packs.listed(prefix):
            yield Stored(record.name, record.size, record.used)
        if self._packs.may_be_file(prefix):
            for stored in self._list_files(prefix):
                if self._packs.find(stored.name) is None:
                    yield stored

    def _list_files(self, prefix: str) -> Iterator[Stored]:
        pending = [self._prefix + prefix]
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path + "/")
                elif (found := self._stored(entry)) is not None:
                    yield found

    def _stored(self, entry: os.DirEntry[str]) -> Stored | None:
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        return Stored(entry.path[len(self._prefix) :], facts.st_size, _used(facts))

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """See Backend."""
        path = self._prefix + name
        self._flush()
        if self._packed and name.startswith(self._packed):
            removed = self._remove_packed(name, unused_since, aside)
            if removed is not None:
                return removed
        try:
            if aside is not None:
                self._rename(path, self._prefix + aside)
            elif unused_since is None:
                os.unlink(path)
            else:
                return self._remove_unused(name, unused_since)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _remove_packed(self, name: str, unused_since: float | None, aside: str | None) -> bool | None:
        """Remove the records of the name, and its file; None if no pack holds it."""

        def before(record: PackRecord) -> None:
            _unlink(self._prefix + name)
            if aside is not None:
                self._keep_aside(aside, record.pack.raw(record.offset, record.size, record.name))

        return self._packs.remove(name, unused_since=unused_since, before=before)

    def _keep_aside(self, aside: str, data: bytes) -> None:
        """Write a file with bytes that leave a pack. On a full disk they are lost: they are damaged, and must go."""
        path = self._temporary()
        try:
            with _Sink(path, self._folder_mode) as sink:
                sink.write(data)
                sink.flush()
            self._rename(path, self._prefix + aside)
        except OSError as error:
            _unlink(path)
            if error.errno not in NO_ROOM:
                raise

    def torn(self) -> Iterator[Torn]:
        """See Packing."""
        return self._packs.torn()

    def about(self) -> int:
        """See Packing."""
        return self._packs.about()

    def newest(self, prefixes: Sequence[str]) -> Iterator[str]:
        """See Packing."""
        return self._packs.newest(tuple(prefixes))

    def compact(self) -> None:
        """See Packing."""

        def keep(torn: Torn) -> None:
            with Path(torn.path).open("rb") as file:
                file.seek(torn.start)
                name = f"{Path(torn.path).name}-{torn.start}"
                self._keep_aside(f"corrupt/{name}", file.read(torn.end - torn.start))

        try:
            self._packs.compact(keep)
        except OSError as error:
            raise self._explained(error, 0) from error

    def _remove_unused(self, name: str, unused_since: float) -> bool:
        path = self._prefix + name
        if _used(os.stat(path)) >= unused_since:
            return False
        # Rename it first: an earlier touch is visible now, and a later reader waits for the decision.
        hidden = f"{self._prefix}{hidden_as(name)}{self._own()}"
        self._rename(path, hidden)
        if _used(os.stat(hidden)) < unused_since:
            os.unlink(hidden)
            return True
        with suppress(FileExistsError):  # written again meanwhile
            os.link(hidden, path)
        os.unlink(hidden)
        return False

    def path(self, name: str) -> str:
        """The file of `name`."""
        return self._prefix + name

    # -- writing ---------------------------------------------------------------------------------------

    def _temporary(self) -> str:
        return f"{self._prefix}tmp/{self._own()}"

    def _own(self) -> str:
        # The random part is unique even in a container, unlike host name and process id.
        return f"{self._unique}-{os.getpid()}-{next(self._count)}"

    def _publish(self, temporary: str, path: str, *, exclusive: bool) -> bool:
        if not exclusive:
            self._rename(temporary, path)
            return True
        make_folders(os.path.dirname(path), self._folder_mode)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            _unlink(temporary)
        return True

    def _room(self) -> tuple[int, int]:
        """Free bytes, and free inodes: each file takes one. A file system that does not count them counts as one with some."""
        try:
            usage = os.statvfs(self.root)
        except OSError:
            return 0, 1
        return usage.f_bavail * usage.f_frsize, usage.f_favail if usage.f_files else 1

    def _rename(self, old: str, new: str) -> None:
        try:
            os.rename(old, new)
        except FileNotFoundError:
            make_folders(os.path.dirname(new), self._folder_mode)
            os.rename(old, new)

    def _explained(self, error: OSError, needed: int) -> StoreError:
        if error.errno not in NO_ROOM:
            return StoreError(
                "cannot write to the store",
                where=str(self.root),
                why=str(error),
                fix="make the folder writable for this user, or move the store (`url` under [store] in hooke.toml)",
                next="hooke doctor",
            )
        free, inodes = self._room()
        return StoreFull(
            f"no room in the store for {format_bytes(needed)} ({needed} bytes)",
            where=str(self.root),
            why=f"{error.strerror}; {format_bytes(free)} free"
            + (", but no inode" if free > needed and not inodes else ""),
            fix="remove the results that are cheapest to compute again (hooke cache gc --max SIZE), or move the store "
            "(`url` under [store] in hooke.toml)",
            next="hooke cache ls",
        )


class _Waiting(threading.local):
    """What one thread has kept back inside of `together`."""

    def __init__(self) -> None:
        self.depth = 0
        self.records: dict[str, bytes] = {}


class _Sink:
    """Bytes in `held`, up to so many; then a new file at `path`, open inside `with`."""

    __slots__ = ("_fd", "_folder_mode", "_most", "failed", "held", "path", "written")

    def __init__(self, path: str, folder_mode: int, *, held: int = -1) -> None:
        self.path = path
        self.written = 0
        self.failed: OSError | None = None
        self.held: list[bytes] | None = []
        self._most = held
        self._fd = -1
        self._folder_mode = folder_mode

    def __enter__(self) -> Self:
        if self._most < 0:
            self.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def flush(self) -> None:
        """From now on, the bytes are in the file."""
        held, self.held = self.held, None
        if held is not None:
            self._fd = self.guard(lambda: _create(self.path, self._folder_mode))
            for each in held:
                self.guard(lambda each=each: write_all(self._fd, each))

    def stamp(self) -> bytes:
        """Its stamp. Once it has its name: giving one changes it."""
        return _stamp(os.fstat(self._fd))

    def write(self, data: bytes | memoryview) -> int:
        self.written += len(data)
        if self.held is not None and self.written > self._most:
            self.flush()
        if self.held is not None:
            self.held.append(bytes(data))
        else:
            self.guard(lambda: write_all(self._fd, data))
        return len(data)

    def guard(self, action: Callable[[], T]) -> T:
        """Run a step of the sink itself, to tell its failure from those of `fill`."""
        try:
            return action()
        except OSError as error:
            self.failed = error
            raise


def _create(path: str, folder_mode: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o444)
    except FileNotFoundError:
        make_folders(os.path.dirname(path), folder_mode)
        return os.open(path, flags, 0o444)


def _contents(fd: int, size: int) -> memoryview:
    # For a few pages a copy is cheaper than a mapping.
    if size <= 16384:
        return memoryview(os.read(fd, size))
    return map_file(fd, size)


def _packed_stamp(record: PackRecord) -> bytes:
    return _PACKED_STAMP.pack(record.pack.salt, record.offset, record.sequence)


def _stamp(facts: os.stat_result) -> bytes:
    # With the time of the last change of any kind, which nobody can set.
    return _STAMP.pack(facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)


def _used(facts: os.stat_result) -> float:
    return max(facts.st_atime, facts.st_mtime)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)
