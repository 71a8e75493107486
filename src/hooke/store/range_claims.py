"""Claims as locked bytes of one file: two system calls, where a file of its own per key costs the disk five."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

from blake3 import blake3

from hooke.base.forks import on_fork
from hooke.store.claims import Claim

__all__ = ["RangeClaims", "has_range_locks"]

POSITIONS = 2**60
"""Bytes to lock. Two keys that share one claim together, which only makes one wait."""

_FLOCK = struct.Struct(
    "@hhqqixxxx"
)  # struct flock of 64-bit Linux: type, whence, start, length, pid (0 here)


def has_range_locks() -> bool:
    """Whether this platform has locks that belong to an open file, not to a process (Linux)."""
    return hasattr(fcntl, "F_OFD_SETLK") and struct.calcsize("P") == 8


class RangeClaims:
    """Claims as open-file-description locks: the kernel frees those of a process that dies, however it dies.

    Two RangeClaims exclude each other even in one process, since each has the file open for itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._held: set[int] = set()
        self._lock = threading.Lock()
        on_fork(self)

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        at = int.from_bytes(blake3(key.encode()).digest(length=8)) % POSITIONS
        with self._lock:
            if at in self._held or not self._set(fcntl.F_WRLCK, at):
                return None
            self._held.add(at)
        return _RangeClaim(key, at, self)

    def release(self, at: int) -> None:
        """Let others have the byte."""
        with self._lock:
            if at in self._held:
                self._held.discard(at)
                self._set(fcntl.F_UNLCK, at)

    def after_fork(self) -> None:
        """In a child: the claims are the parent's, and must not outlive it through the inherited descriptor."""
        self._lock = threading.Lock()
        self._held.clear()
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _set(self, kind: int, at: int) -> bool:
        if self._fd < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))
        except BlockingIOError:
            return False
        return True


class _RangeClaim:
    def __init__(self, key: str, at: int, claims: RangeClaims) -> None:
        self.key = key
        self._at = at
        self._claims: RangeClaims | None = claims

    def release(self) -> None:
        claims, self._claims = self._claims, None
        if claims is not None:
            claims.release(self._at)

    def __del__(self) -> None:
        self.release()
