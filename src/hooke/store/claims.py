"""Claims: one process at a time computes a shared key."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from hooke.base.clock import Clock
from hooke.base.forks import on_fork

__all__ = ["Claim", "Claims", "FileClaims", "ListedClaims", "MemoryClaims"]


class Claim(Protocol):
    """A key that is ours to compute, until it is released or this process dies."""

    key: str

    def release(self) -> None:
        """Let others have it; nothing happens the second time."""
        ...


class Claims(Protocol):
    """Where claims are made."""

    def claim(self, key: str) -> Claim | None:
        """Make `key` ours; None, at once, while another process, thread or store has it."""
        ...


class ListedClaims(Claims, Protocol):
    """Claims that can be listed."""

    def held(self) -> dict[str, float]:
        """All keys that somebody has now, each with the time since when (seconds since the epoch)."""
        ...


class FileClaims:
    """Claims as locked files (`flock`) in a folder: the kernel frees those of a process that dies, however it dies.

    Unlike `base.files.FileLock` the file is removed with the claim, since there is one per key that was ever computed;
    so a lock counts only if its file still has its name once it is locked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/"

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        path = self._folder + key
        while True:
            fd = self._open(path)
            if not _lock(fd):
                os.close(fd)
                return None
            if _is_at(fd, path):
                os.utime(fd)
                return _FileClaim(key, path, fd)
            os.close(fd)

    def held(self) -> dict[str, float]:
        """See Claims. Removes the files of the dead."""
        try:
            keys = os.listdir(self._folder)
        except FileNotFoundError:
            return {}
        return {key: since for key in keys if (since := self._since(key)) is not None}

    def _since(self, key: str) -> float | None:
        path = self._folder + key
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not _lock(fd):
                return os.fstat(fd).st_mtime
            if _is_at(fd, path):
                os.unlink(path)
            return None
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self._folder, exist_ok=True)
            return os.open(path, flags, 0o666)


class _FileClaim:
    def __init__(self, key: str, path: str, fd: int) -> None:
        self.key = key
        self._path = path
        self._fd = fd
        on_fork(self)

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # While it is locked still: whoever opens the old file now finds that it lost its name.
            with suppress(FileNotFoundError):  # the whole folder was deleted
                os.unlink(self._path)
            os.close(fd)

    def after_fork(self) -> None:
        """In a child: the claim is the parent's, and must not outlive it through the inherited descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.release()


class MemoryClaims:
    """Claims within this process, for stores in memory. All stores on one memory share one of these."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, float] = {}
        self._lock = threading.Lock()

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        with self._lock:
            if key in self._held:
                return None
            self._held[key] = self._clock.now()
        return _MemoryClaim(key, self._held)

    def held(self) -> dict[str, float]:
        """See Claims."""
        with self._lock:
            return dict(self._held)


class _MemoryClaim:
    def __init__(self, key: str, held: dict[str, float]) -> None:
        self.key = key
        self._held: dict[str, float] | None = held

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            del held[self.key]


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: str) -> bool:
    try:
        there, mine = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
