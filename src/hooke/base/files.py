"""Files: checked writes, atomic replacement, locks that die with their process, read-only mappings, digests of contents."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import glob
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeAlias

from blake3 import blake3

from hooke.base.errors import HookeError
from hooke.base.this_process import on_fork

__all__ = [
    "TICK_NS",
    "FileLock",
    "Stamp",
    "content_digest",
    "file_clock_ns",
    "first_bytes",
    "is_private",
    "is_young",
    "make_folders",
    "map_file",
    "nameless_file",
    "page_aligned_copy",
    "private_folder",
    "replacing",
    "stamp_of",
    "sync_data",
    "sync_path",
    "write_all",
    "write_atomic",
    "writing",
]


# macOS has no fdatasync.
sync_data = getattr(os, "fdatasync", os.fsync)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` to `fd`, in one `write(2)` if possible.

    A short write to a regular file means that it has no room, so a second write tells the cause. Raises OSError
    (ENOSPC, EDQUOT, EFBIG, EIO). Then a part of `data` may be in the file, and the caller must cut it off.
    """
    written = os.write(fd, data)
    if written == len(data):
        return
    rest = memoryview(data).cast("B")[written:]
    while rest:
        written = os.write(fd, rest)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = rest[written:]


def write_atomic(
    path: str | os.PathLike[str],
    data: bytes | bytearray | memoryview,
    *,
    sync: bool = False,
    mode: int = 0o666,
) -> None:
    """Replace the content of `path` by `data`: a reader always sees the whole old file or the whole new one.

    The file gets `mode`, less the umask. With `sync` it survives a power loss too. On OSError the old file stays and
    no temporary file is left; a process that is killed here leaves one named `.<name>.<random>.tmp`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_path(path.parent)


def sync_path(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder (or the contents of a file) survive a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(path: str | os.PathLike[str], mode: int = 0o777) -> None:
    """Make a folder and those above it that do not exist, each with `mode`, less the umask."""
    path = Path(path)
    try:
        path.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        make_folders(path.parent, mode)
        path.mkdir(mode, exist_ok=True)


def private_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those above it, that its owner alone may enter; of one that is there, too, whoever made it. Raises OSError."""
    made = Path(path)
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    made.chmod(0o700)


def first_bytes(path: str | os.PathLike[str], count: int) -> bytes:
    """The first bytes of a file, which say what it is. Raises OSError."""
    with Path(path).open("rb") as stream:
        return stream.read(count)


def is_private(facts: os.stat_result) -> bool:
    """Whether only this user and root can write to a file or folder."""
    return facts.st_uid in (0, os.geteuid()) and not facts.st_mode & 0o022


class FileLock:
    """An exclusive lock on a file (`flock`), which the kernel frees when its process dies.

    Children do not inherit it, not even forked ones. Two FileLock objects exclude each other even in one process.
    The file is created and never removed: after a removal, two processes could lock two different files.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd >= 0

    def try_acquire(self) -> bool:
        """Take the lock, or return False at once if another holder has it. Raises OSError if the file cannot be opened."""
        if self.held:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        # `taken()` in another process holds the lock for microseconds and must not look like an owner.
        for pause_s in (0.001, 0.004, 0.0):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(pause_s)
            except BaseException:
                os.close(fd)
                raise
            else:
                self._fd = fd
                on_fork(self)
                return True
        os.close(fd)
        return False

    def taken(self) -> bool:
        """Whether any object holds the lock now, even this one. Never creates the file and never keeps the lock."""
        if self.held:
            return True
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def release(self) -> None:
        """Free the lock; nothing happens if it is not held."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def after_fork(self) -> None:
        """In a child: close the inherited descriptor, which would keep the lock after the parent's death."""
        self.release()

    def __enter__(self) -> Self:
        if not self.try_acquire():
            raise BlockingIOError(errno.EWOULDBLOCK, "held by another process", str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of a new file, which gets the name of `target` at the end if nothing was raised, and survives a power loss.

    It is locked until then. So a file that a killed process left is not, and is removed by the next one that replaces `target`.
    """
    target = Path(target)
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        left = FileLock(old)
        if left.try_acquire():
            with left:
                old.unlink(missing_ok=True)
    path, lock = _locked_beside(target)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield fd
            sync_data(fd)
        finally:
            os.close(fd)
        os.replace(path, target)
        sync_path(target.parent)
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _locked_beside(target: Path) -> tuple[Path, FileLock]:
    while True:
        path = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
        lock = FileLock(path)
        if lock.try_acquire() and path.exists():  # else another process has taken it for one that was left
            return path, lock


@contextmanager
def nameless_file(folder: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of a file without a name on the file system of `folder`, which is gone with its process."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as stream:
        yield stream.fileno()


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Raise HookeError, naming `what` and the path, for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise HookeError(
            f"{what} cannot be written",
            where=str(error.filename or path),
            why=f"{type(error).__name__}: {error.strerror or error}",
            fix=f"free some space on the file system of {path}, or make it writable; then try again (`hooke resume` continues a run)",
        ) from error


# --- Files mapped as read-only memory, without an open descriptor for each.

_FAILED = ctypes.c_void_p(-1).value


def map_file(fd: int, size: int) -> memoryview:
    """The first `size` (> 0) bytes of the file as read-only memory, unmapped with its last view.

    Until Python 3.13, `mmap.mmap` keeps a descriptor for each mapping, so a list of a thousand mapped chunks would
    reach the usual limit of 1,024. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_longlong,
    )
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_ubyte * size).from_address(address)
    finalizer = weakref.finalize(memory, _unmap, address, size)
    # Other exit handlers may still read the arrays.
    setattr(finalizer, "atexit", False)  # noqa: B010 the type stubs know it as read-only
    return memoryview(memory).cast("B").toreadonly()


def page_aligned_copy(data: bytes | memoryview) -> memoryview:
    """A copy of `data` that begins at a page: arrays need an alignment of 64, which `bytes` do not have."""
    memory = mmap.mmap(-1, len(data))
    memory.write(data)
    return memoryview(memory).toreadonly()


def _unmap(address: int, size: int) -> None:
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.munmap(address, size)


# --- Contents.

Stamp: TypeAlias = tuple[int, int, int, int]
"""A file's size, its times of modification and of any change (ns), and its inode: where they are the same, so is its content, unless it is young."""

TICK_NS = 50_000_000
"""A file that was changed so lately may be changed again without another time: file systems count in ticks of up to 10 ms."""


_FIRST_FD = 64
"""Above the descriptors that programs use by number, or close in a loop."""

_clock: tuple[int, int, int] | None = None
"""The descriptor, device and inode of this process's file in memory; forked processes share it."""


def file_clock_ns() -> int:
    """The time that a local file system would give to a change now, in nanoseconds.

    It is that of a file in memory that changes now. No clock that a process reads will do: in a virtual machine, it is sometimes a
    tick ahead of the one that files get. Where there is no such file (on macOS, or with no descriptor left), it is TICK_NS before now.
    """
    global _clock  # noqa: PLW0603 - of the process, as its descriptors are
    try:
        # A task may have closed it, and opened another file there.
        if _clock is None or not _is_open(*_clock):
            _clock = _new_clock()
        fd = _clock[0]
        os.utime(fd)
        return os.fstat(fd).st_ctime_ns
    except (AttributeError, OSError):
        _clock = None
        return time.time_ns() - TICK_NS


def _is_open(fd: int, device: int, inode: int) -> bool:
    try:
        facts = os.fstat(fd)
    except OSError:
        return False
    return facts.st_ino == inode and facts.st_dev == device


def _new_clock() -> tuple[int, int, int]:
    made = os.memfd_create("hooke-clock", os.MFD_CLOEXEC)
    try:
        fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    finally:
        os.close(made)
    facts = os.fstat(fd)
    return fd, facts.st_dev, facts.st_ino


def stamp_of(facts: os.stat_result) -> Stamp:
    """The stamp in a file's facts."""
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def is_young(facts: os.stat_result, age_ns: int = TICK_NS) -> bool:
    """Whether a file was changed in the last `age_ns` nanoseconds, so that its stamp says nothing."""
    return time.time_ns() - facts.st_ctime_ns < age_ns  # which nobody can set


def content_digest(path: str | os.PathLike[str], *, age_ns: int = TICK_NS) -> bytes:
    """The BLAKE3 digest (32 bytes) of a file, read again if its stamp changes, and while it is younger than `age_ns`. Raises OSError."""
    facts = os.stat(path)
    while True:
        read = _content_digest.__wrapped__ if is_young(facts, age_ns) else _content_digest
        digest = read(os.path.realpath(path), stamp_of(facts))
        before, facts = facts, os.stat(path)
        if stamp_of(before) == stamp_of(facts):  # else it was written to while it was read
            return digest


@functools.lru_cache(maxsize=65536)
def _content_digest(path: str, _stamp: Stamp) -> bytes:
    hasher = blake3()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.digest()
