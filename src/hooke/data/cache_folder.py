"""A folder on a local disk for parts of files that are far, with a limit in bytes, shared by all processes of this machine.

    hooke-room               the bytes that are taken, reserved before a part is fetched; locked while it is changed
    hooke-live               a shared lock for each process that uses the folder; whoever is alone counts again what is taken
    <name>/units/n/m         parts of one version of a file; a name is two numbers in hexadecimal, and all else is somebody else's
    <name>/uses/...          of each process, its window, what it has reserved, and the next use of each part; locked while it lives
    <name>/claims            a lock on byte m: part m is being fetched
    <name>/tmp/...           parts that are being written; renamed when they are whole

Nothing here is trusted: who reads a block compares its digest. So a part may be torn or go at any time, and is fetched again.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hooke.base.errors import UsageError
from hooke.base.files import make_folders, write_all, writing
from hooke.base.this_process import variables_here
from hooke.data.order import Rows

__all__ = ["CacheFolder", "default_cache", "default_limit"]

FOLDER_UNITS = 1024
SHARE_OF_DISK = 0.5
LONG_S = 0.01
"""A look at all parts that takes longer is made in a twentieth of the time at most."""

_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}")
_HEAD = 2
"""The window and the reserved bytes, before the next uses."""
_ROOM = struct.Struct("<q")


def default_cache() -> Path:
    """The folder for copies, unless told otherwise. Raises UsageError where nobody knows one."""
    found = variables_here().get(b"XDG_CACHE_HOME")
    try:
        above = Path(os.fsdecode(found)) if found else Path.home() / ".cache"
    except RuntimeError as error:  # a user without a folder
        raise UsageError("there is no folder for copies", why=str(error), fix="pass one as cache=") from error
    return above.absolute() / "hooke" / "data"


class CacheFolder:
    """The copies of one version of a file, in a folder with a limit for all files together. Safe for threads and processes.

    `name` is two numbers in hexadecimal, as in `0f`*16-`0f`*4. `sizes` are those of its units. `next_uses` says when this process uses each of them; others read it. Raises HookeError if the
    folder cannot be written.
    """

    def __init__(self, root: Path, name: str, sizes: Rows, limit: int) -> None:
        self.root, self.folder, self.sizes, self.limit = root, root / name, sizes, limit
        self._lock, self._count = threading.Lock(), itertools.count()
        self._pid = os.getpid()
        self._mine = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        with writing(f"the copies of {root}", root):
            make_folders(root, 0o700)
            self._live = _opened(root / "hooke-live")
            self._room = _opened(root / "hooke-room")
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
                os.posix_fallocate(fd, 0, 8 * (len(sizes) + _HEAD))  # a full disk would end the process later
                os.utime(self.folder)
            self._claims = _opened(self.folder / "claims")
            self._fds.append(self._claims)
            self._uses = np.memmap(uses, np.int64, "r+")
        self.next_uses = self._uses[_HEAD:]
        self._take_at = 0.0

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
                    self._uses[1] -= len(data)
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
            self._uses[1] += size
        return True

    def release(self, size: int) -> None:
        """Give room back that was reserved."""
        with self._locked():
            self._add(-size)
            self._uses[1] -= size

    def used_by_others(self) -> Rows | None:
        """When other processes use each unit, in windows from now on; None if there are none."""
        with self._locked():
            found = [
                np.fromfile(each, np.int64) for each in self._users(self.folder) if each.name != self._mine
            ]
        found = [each for each in found if each.size == self.sizes.size + _HEAD]
        return np.minimum.reduce([each[_HEAD:] - each[0] for each in found]) if found else None

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
        """The files of the processes that use a file. Those of dead ones are removed, with what they had reserved and begun."""
        found: list[Path] = []
        for each in (folder / "uses").glob("*"):
            if each.name == self._mine:
                found.append(each)
                continue
            fd = os.open(each, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._add(-int.from_bytes(os.pread(fd, 8, 8), "little"))
                for left in (folder / "tmp").glob(f"{each.name}-*"):
                    left.unlink()
                each.unlink()
            except BlockingIOError:
                found.append(each)
            finally:
                os.close(fd)
        return found

    def _files(self) -> list[Path]:
        return [each for each in self.root.iterdir() if _NAME.fullmatch(each.name) and each.is_dir()]

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
        """Remove the oldest units of a file in use that has more than its share, if this one has less."""
        began = time.monotonic()
        if began < self._take_at:
            return False
        files = {each: _bytes_in(each) for each in self._others()}
        share, own = self.limit / (len(files) + 1), _bytes_in(self.folder)
        took = time.monotonic() - began
        self._take_at = began + (20 * took if took > LONG_S else 0)
        if not files or own >= share:
            return False
        largest = max(files, key=lambda each: files[each])
        units = sorted((largest / "units").glob("*/*"), key=lambda each: each.stat().st_mtime)
        over, taken = (files[largest] - share) / 2, 0  # half of it: the other file may need the rest
        for unit in units:
            if taken >= over:
                break
            taken += unit.stat().st_size
            self._unlink(unit)
        return taken > 0

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
    room = root / "hooke-room"
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
