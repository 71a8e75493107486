"""A folder on a local disk for parts of files that are far, with a limit in bytes, shared by all processes of this machine.

    room                     the bytes that are taken, reserved before a part is fetched; locked while it is changed
    live                     a shared lock for each process that uses the folder; whoever is alone counts again what is taken
    <name>/units/n/m         parts of one version of a file
    <name>/uses/...          of each process, the next use of each part; locked while it lives
    <name>/claims            a lock on byte m: part m is being fetched
    <name>/tmp/...           parts that are being written; renamed when they are whole

Nothing here is trusted: who reads a block compares its digest. So a part may be torn or go at any time, and is fetched again.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hooke.base.files import make_folders, write_all, writing
from hooke.base.this_process import variables_here
from hooke.data.order import Rows

__all__ = ["CacheFolder", "default_cache", "default_limit"]

FOLDER_UNITS = 1024
SHARE_OF_DISK = 0.5

_ROOM = struct.Struct("<q")


def default_cache() -> Path:
    """The folder for copies, unless told otherwise."""
    found = variables_here().get(b"XDG_CACHE_HOME")
    return (Path(os.fsdecode(found)) if found else Path.home() / ".cache") / "hooke" / "data"


class CacheFolder:
    """The copies of one version of a file, in a folder with a limit for all files together. Safe for threads and processes.

    `sizes` are those of its units. `next_uses` says when this process uses each of them; others read it. Raises HookeError if the
    folder cannot be written.
    """

    def __init__(self, root: Path, name: str, sizes: Rows, limit: int) -> None:
        self.root, self.folder, self.sizes, self.limit = root, root / name, sizes, limit
        self._lock, self._count = threading.Lock(), itertools.count()
        self._pid = os.getpid()
        self._mine = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        with writing(f"the copies of {root}", root):
            make_folders(root, 0o700)
            self._live = _opened(root / "live")
            self._room = _opened(root / "room")
            self._fds = [self._live, self._room]
            self.close = weakref.finalize(self, _close, self._fds)
            setattr(self.close, "atexit", False)  # noqa: B010 the type stubs know it as read-only; threads may still fetch
            try:
                fcntl.flock(self._live, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._count_again()
            except BlockingIOError:
                pass
            fcntl.flock(self._live, fcntl.LOCK_SH)
            with self._locked():
                for part in ("units", "uses", "tmp"):
                    make_folders(self.folder / part, 0o700)
                uses = self.folder / "uses" / self._mine
                fd = _opened(uses)
                self._fds.append(fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.ftruncate(fd, 8 * (len(sizes) + 1))
                os.utime(self.folder)
            self._claims = _opened(self.folder / "claims")
            self._fds.append(self._claims)
            self._uses = np.memmap(uses, np.int64, "r+")
        self.next_uses = self._uses[1:]

    @property
    def now(self) -> int:
        """The window that is being used, for others."""
        return int(self._uses[0])

    @now.setter
    def now(self, window: int) -> None:
        self._uses[0] = window

    def taken(self) -> int:
        """The bytes of all files in the folder, with those that are reserved."""
        return _taken(os.pread(self._room, _ROOM.size, 0))

    def held(self) -> list[int]:
        """The units that are there."""
        found: list[int] = []
        for folder in os.scandir(self.folder / "units"):
            with suppress(FileNotFoundError):
                found += [int(each.name) for each in os.scandir(folder.path)]
        return found

    def path(self, unit: int) -> Path:
        """The file of a unit."""
        return self.folder / "units" / str(unit // FOLDER_UNITS) / str(unit)

    def read(self, unit: int, offset: int, into: memoryview) -> int | None:
        """Write the bytes of a unit from one of them on into memory; how many, or None if it is not there."""
        try:
            fd = os.open(f"{self.folder}/units/{unit // FOLDER_UNITS}/{unit}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return os.preadv(fd, [into], offset)
        finally:
            os.close(fd)

    def claim(self, unit: int) -> bool:
        """Whether no other process is fetching the unit; if so, none does until `end_claim`."""
        try:  # without waiting: the kernel would take two threads that wait for those of another process for a deadlock
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, unit)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def end_claim(self, unit: int) -> None:
        """Let others fetch the unit."""
        fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, unit)

    def store(self, unit: int, data: bytes) -> None:
        """Write a unit, for whose bytes there is room. It is there at once, or not at all."""
        path, beside = self.path(unit), self.folder / "tmp" / f"{self._mine}-{next(self._count)}"
        with writing(f"a copy in {self.root}", self.root):
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                try:
                    if hasattr(os, "posix_fallocate"):  # to write costs less then
                        os.posix_fallocate(fd, 0, len(data))
                    write_all(fd, data)
                finally:
                    os.close(fd)
                make_folders(path.parent, 0o700)
                with self._locked():
                    if path.exists():  # it counts already
                        beside.unlink()
                        self._add(-len(data))
                    else:
                        beside.rename(path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise

    def remove(self, unit: int) -> None:
        """Remove a unit, if it is there."""
        with self._locked():
            self._unlink(self.path(unit))

    def reserve(self, size: int, victim: Callable[[], int | None]) -> bool:
        """Take room for so many bytes, if there is enough. `victim` names a unit that gives way, as often as one has to, or None.

        Files that no process uses give way first, the one that was used longest ago before all.
        """
        with self._locked():
            while self.taken() + size > self.limit:
                if self._remove_idle():
                    continue
                unit = victim()
                if unit is None:
                    if not self._take_from_others():
                        return False
                    continue
                self._unlink(self.path(unit))
            self._add(size)
        return True

    def release(self, size: int) -> None:
        """Give room back that was reserved."""
        with self._locked():
            self._add(-size)

    def used_by_others(self) -> Rows | None:
        """When other processes use each unit, in windows from now on; None if there are none."""
        found = [np.fromfile(each, np.int64) for each in self._users(self.folder) if each.name != self._mine]
        found = [each for each in found if each.size == self.sizes.size + 1]
        return np.minimum.reduce([each[1:] - each[0] for each in found]) if found else None

    # All of the following hold the lock.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._room, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._room, fcntl.LOCK_UN)

    def _add(self, size: int) -> None:
        os.pwrite(self._room, _ROOM.pack(max(0, self.taken() + size)), 0)

    def _unlink(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._add(-size)  # killed before this, too much counts until the folder is counted again

    def _users(self, folder: Path) -> list[Path]:
        """The files of the processes that use a file; those of dead ones are removed."""
        found: list[Path] = []
        for each in (folder / "uses").glob("*"):
            if each.name == self._mine:
                found.append(each)
                continue
            fd = os.open(each, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                each.unlink(missing_ok=True)
            except BlockingIOError:
                found.append(each)
            finally:
                os.close(fd)
        return found

    def _files(self) -> list[Path]:
        return [each for each in self.root.iterdir() if each.is_dir()]

    def _others(self) -> list[Path]:
        return [each for each in self._files() if each != self.folder]

    def _remove_idle(self) -> bool:
        idle = [each for each in self._others() if not self._users(each)]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.stat().st_mtime)
        size = _bytes_in(oldest)
        shutil.rmtree(oldest)
        self._add(-size)
        return True

    def _take_from_others(self) -> bool:
        """Remove the oldest unit of a file in use that has more than its share, if this one has less."""
        files = {each: _bytes_in(each) for each in self._others()}
        share = self.limit / (len(files) + 1)
        if not files or _bytes_in(self.folder) >= share:
            return False
        largest = max(files, key=lambda each: files[each])
        units = list((largest / "units").glob("*/*"))
        if files[largest] <= share or not units:
            return False
        self._unlink(min(units, key=lambda each: each.stat().st_mtime))
        return True

    def _count_again(self) -> None:
        """No process uses the folder: remove what dead ones left, and count the rest."""
        for folder in self._files():
            for left in itertools.chain((folder / "tmp").glob("*"), (folder / "uses").glob("*")):
                left.unlink()
        taken = sum(_bytes_in(each) for each in self._files())
        os.pwrite(self._room, _ROOM.pack(taken), 0)


def _taken(room: bytes) -> int:
    return int(_ROOM.unpack(room.ljust(_ROOM.size, b"\0"))[0])


def default_limit(root: Path) -> int:
    """A share of what the folder has and the disk has free."""
    make_folders(root, 0o700)
    room = root / "room"
    taken = _taken(room.read_bytes()) if room.exists() else 0
    return int(SHARE_OF_DISK * (shutil.disk_usage(root).free + taken))


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _bytes_in(folder: Path) -> int:
    total = 0
    for each in (folder / "units").glob("*/*"):
        with suppress(FileNotFoundError):
            total += each.stat().st_size
    return total
