"""Claims: only one process at a time computes a key."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from hooke.base.clock import Clock
from hooke.base.files import make_folders
from hooke.base.this_process import on_fork
from hooke.store.backend import Backend, ObjectSink

__all__ = [
    "Claim",
    "Claims",
    "FileClaims",
    "LeaseClaims",
    "ListedClaims",
    "MemoryClaims",
    "RangeClaims",
    "has_range_locks",
    "waiting_claim",
]


class Claim(Protocol):
    """The right to compute a key, until it is released or this process dies."""

    key: str

    def release(self) -> None:
        """Release the claim; idempotent."""
        ...


class Claims(Protocol):
    """Where claims are made."""

    def claim(self, key: str) -> Claim | None:
        """Claim `key`; None, at once, while another process, thread or store has it."""
        ...


class ListedClaims(Claims, Protocol):
    """Claims that can be listed."""

    def held(self) -> dict[str, float]:
        """All claimed keys, each with the time of its claim (seconds since the epoch)."""
        ...


_POLL_S = 0.02


@contextmanager
def waiting_claim(claims: Claims, key: str) -> Iterator[None]:
    """Hold the claim `key` inside; wait until no other process has it."""
    while (claim := claims.claim(key)) is None:
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        claim.release()


class FileClaims:
    """Claims as locked files (`flock`) in a folder, which the kernel frees when their process dies.

    Unlike with `base.files.FileLock`, the file is removed with the claim, because there is one for every key. So a
    lock counts only if its file still has its name after locking. New folders get `folder_mode`, less the umask.
    """

    def __init__(self, folder: Path, *, folder_mode: int = 0o777) -> None:
        self._folder = f"{folder}/"
        self._folder_mode = folder_mode

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        path = self._folder + key
        while True:
            fd = self._open(path)
            if not _lock(fd):
                os.close(fd)
                return None
            if is_at(fd, path):
                os.utime(fd)
                return _FileClaim(key, path, fd)
            os.close(fd)

    def held(self) -> dict[str, float]:
        """See Claims. Removes the files of dead processes."""
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
            if is_at(fd, path):
                os.unlink(path)
            return None
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            make_folders(self._folder, self._folder_mode)
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
            # Still locked: a process that opens the old file now finds that it lost its name.
            with suppress(FileNotFoundError):  # the whole folder was deleted
                os.unlink(self._path)
            os.close(fd)

    def after_fork(self) -> None:
        """In a child: close the inherited descriptor, so that the parent's claim ends with the parent."""
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


def is_at(fd: int, path: str) -> bool:
    try:
        there, mine = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


# --- Claims as leases in a backend without locks, where a dead process is known only by its silence.

LEASE_S = 60.0
"""A claim outlives its process by at most this. It is renewed at a third of it, so two lost renewals do no harm."""


class LeaseClaims:
    """Claims under `folder` of a backend, renewed by a thread while any is held.

    If the backend cannot write exclusively, or clocks differ by more than a lease, two processes may hold a claim at
    once. Then work is done twice, without harm, because results are committed whole.
    """

    def __init__(self, backend: Backend, folder: str, clock: Clock, *, lease_s: float = LEASE_S) -> None:
        self._backend = backend
        self._folder = folder
        self._clock = clock
        self._lease_s = lease_s
        self._begin()
        on_fork(self)

    def _begin(self) -> None:
        self._held: dict[str, _Lease] = {}
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        lease = _Lease(self, key, os.urandom(8).hex(), self._clock.now())
        if self._write(lease, exclusive=True):
            return self._hold(lease)
        there = self._read(key)
        if (
            there is not None
            and there["until"] <= self._clock.now()
            and self._take_over(lease, there["token"])
        ):
            return self._hold(lease)
        return None

    def _take_over(self, lease: _Lease, expired: str) -> bool:
        """Replace an expired lease. Of several processes, the one that notes it first does."""
        name = f"takeovers/{lease.key}-{expired}"
        if not self._write(lease, exclusive=True, name=name):
            noted = self._parsed(name)
            if noted is not None and noted["until"] <= self._clock.now():  # its process died, too
                self._backend.remove(name)
            return False
        try:
            if (self._read(lease.key) or {}).get("token") != expired:  # it was replaced before this note
                return False
            self._write(lease, exclusive=False)
        finally:
            self._backend.remove(name)
        return True

    def _hold(self, lease: _Lease) -> Claim:
        with self._changed:
            self._held[lease.token] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="hooke-leases", daemon=True)
                self._thread.start()
        return lease

    def held(self) -> dict[str, float]:
        """See Claims."""
        found = {}
        for stored in self._backend.list(f"{self._folder}/"):
            key = stored.name.rpartition("/")[2]
            there = self._read(key)
            if there is not None and there["until"] > self._clock.now():
                found[key] = float(there["since"])
        return found

    def drop(self, lease: _Lease) -> None:
        """End a lease, unless another process has taken it over."""
        # A renewal in progress would write the lease again after its removal.
        with lease.lock:
            with self._changed:
                if self._held.pop(lease.token, None) is None:
                    return
                self._changed.notify_all()
            if (self._read(lease.key) or {}).get("token") == lease.token:
                self._backend.remove(self._name(lease.key))

    def after_fork(self) -> None:
        """In a child: the leases belong to the parent, which renews them."""
        self._begin()

    def _name(self, key: str) -> str:
        return f"{self._folder}/{key}"

    def _read(self, key: str) -> dict[str, Any] | None:
        return self._parsed(self._name(key))

    def _parsed(self, name: str) -> dict[str, Any] | None:
        view = self._backend.read(name)
        if view is None:
            return None
        try:
            facts: dict[str, Any] = json.loads(bytes(view.data))
            return {"token": facts["token"], "since": float(facts["since"]), "until": float(facts["until"])}
        except (ValueError, KeyError, TypeError):
            # Not written by a claim, so it is free.
            return {"token": "", "since": 0.0, "until": 0.0}

    def _write(self, lease: _Lease, *, exclusive: bool, name: str = "") -> bool:
        facts = {"token": lease.token, "since": lease.since, "until": self._clock.now() + self._lease_s}

        def fill(sink: ObjectSink) -> str:
            sink.write(json.dumps(facts).encode())
            return name or self._name(lease.key)

        return self._backend.write(fill, exclusive=exclusive) is not None

    def _renew(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: not self._held, self._lease_s / 3):
                    self._thread = None
                    return
                leases = list(self._held.values())
            for lease in leases:
                # The backend may be out of reach for a while; the next renewal is soon enough.
                with suppress(Exception), lease.lock:
                    self._renew_one(lease)

    def _renew_one(self, lease: _Lease) -> None:
        if lease.token not in self._held:
            return
        there = self._read(lease.key)
        if there is not None and there["token"] != lease.token:
            with self._changed:
                self._held.pop(lease.token, None)
        else:
            self._write(lease, exclusive=False)


class _Lease:
    def __init__(self, owner: LeaseClaims, key: str, token: str, since: float) -> None:
        self.key = key
        self.token = token
        self.since = since
        self.lock = threading.Lock()
        """Held while the lease is renewed or dropped."""
        self._owner = owner

    def release(self) -> None:
        self._owner.drop(self)


# --- Claims as locked bytes of one file: two system calls instead of five for a file for each key.

POSITIONS = 2**60
"""Bytes to lock. Two keys that share a byte share a claim, which only makes one of them wait."""

_FLOCK = struct.Struct(
    "@hhqqixxxx"
)  # struct flock of 64-bit Linux: type, whence, start, length, pid (0 here)


def has_range_locks() -> bool:
    """Whether the platform has locks that belong to an open file instead of a process (Linux)."""
    return hasattr(fcntl, "F_OFD_SETLK") and struct.calcsize("P") == 8


class RangeClaims:
    """Claims as open-file-description locks, which the kernel frees when their process dies.

    Two RangeClaims exclude each other even in one process, because each opens the file itself. New folders get
    `folder_mode`, less the umask.
    """

    def __init__(self, path: Path, *, folder_mode: int = 0o777) -> None:
        self._path = path
        self._folder_mode = folder_mode
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
        """Unlock the byte."""
        with self._lock:
            if at in self._held:
                self._held.discard(at)
                self._set(fcntl.F_UNLCK, at)

    def close_files(self) -> None:
        """See KeepsOpen."""
        with self._lock:
            if not self._held:
                self._close()

    def after_fork(self) -> None:
        """In a child: close the inherited descriptor, so that the parent's claims end with the parent."""
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
            make_folders(self._path.parent, self._folder_mode)
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
