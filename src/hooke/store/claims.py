"""Claims: only one process at a time computes a key."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import msgspec
from blake3 import blake3

from hooke.base.clock import Clock
from hooke.base.files import make_folders
from hooke.base.this_process import on_fork
from hooke.store.backend import Backend, Batching, ObjectSink, View

__all__ = [
    "BatchedClaims",
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


@runtime_checkable
class BatchedClaims(Protocol):
    """Claims where a request takes long, so that many are made and released together."""

    def claim_many(self, keys: Sequence[str]) -> list[Claim | None]:
        """Claim each key, at once; None for those that another process, thread or store has, or that are given again."""
        ...

    def release_many(self, claims: Sequence[Claim], *, soon: bool = False) -> None:
        """Release all of these claims; those that are released already stay so.

        With `soon` it returns at once, and they are free within a second, or with the next claim or release if that is earlier.
        """
        ...


class ListedClaims(Claims, Protocol):
    """Claims that can be listed."""

    def held(self) -> dict[str, float]:
        """All claimed keys, each with the time of its claim (seconds since the epoch)."""
        ...


_log = logging.getLogger("hooke")

_POLL_S = 0.02

_LONGEST_POLL_S = 1.0
"""A try at a remote store is several requests, and many may wait for the same claim."""


@contextmanager
def waiting_claim(claims: Claims, key: str) -> Iterator[None]:
    """Hold the claim `key` inside; wait until no other process has it."""
    pause_s = _POLL_S
    while (claim := claims.claim(key)) is None:
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        pause_s = min(2 * pause_s, _LONGEST_POLL_S)
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

    def claim_left(self, key: str) -> Claim | None:
        """Take over the claim of a process that died; None if none did that had it."""
        path = self._folder + key
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if _lock(fd) and is_at(fd, path):
            return _FileClaim(key, path, fd)
        os.close(fd)
        return None

    def _since(self, key: str) -> float | None:
        left = self.claim_left(key)
        if left is not None:
            left.release()
        try:
            return os.stat(self._folder + key).st_mtime
        except FileNotFoundError:
            return None

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

_FORGOTTEN_LEASES = 10
"""So many leases after its end, what a dead process left is removed."""

_LATE_S = 0.5
"""How long what is to be released soon waits for a claim: about as long as a scheduler with short tasks has claimed ahead."""

_LOOKS = 4
"""How often the claims of another process are read that has the key, too, and may take it back."""


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    """All that one LeaseClaims holds, each key with the time of its claim; `new` are those that it may take back."""

    until: float = 0.0
    keys: dict[str, float] = {}
    new: tuple[str, ...] = ()


class LeaseClaims:
    """Claims under `folder` of a backend: a file for each LeaseClaims, with all its keys, renewed by a thread while there are any.

    Who claims keys first writes them into its file, then reads those of all others. What another has it takes back. So of two
    that want a key at the same moment at least one sees the other, whose file was there before it read, and at most one
    has the key. If each sees the other, the one whose file comes first by name reads again until the other has taken it back.
    That is two or three requests for any number of keys, and a renewal is one.

    The kernel holds a lock for each of them in `locks`, files of this host: processes of the host need not wait for the lease
    of one that died.

    If clocks differ by more than a lease, two processes may hold a claim at once. Then work is done twice, without harm,
    because results are committed whole.
    """

    def __init__(
        self,
        backend: Backend,
        folder: str,
        clock: Clock,
        *,
        lease_s: float = LEASE_S,
        locks: FileClaims | None = None,
    ) -> None:
        self._backend = backend
        self._folder = folder
        self._clock = clock
        self._lease_s = lease_s
        self._locks = locks
        self._begin()
        on_fork(self)

    def _begin(self) -> None:
        self._held: dict[str, _Lease] = {}
        self._until = 0.0
        self._is_late = False
        """Whether something was released that is still in the file."""
        self._name = self._new_name()
        self._lock: Claim | None = None
        """Of `locks`, by the file's last name, while there is a file."""
        self._file_lock = threading.Lock()
        """Held while the file is written: a renewal in progress would bring back what is released meanwhile."""
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        return self.claim_many([key])[0]

    def _new_name(self) -> str:
        return f"{self._folder}/{os.urandom(8).hex()}"

    def claim_many(self, keys: Sequence[str]) -> list[Claim | None]:
        """See BatchedClaims."""
        if not keys:
            return []
        with self._file_lock:
            now = self._clock.now()
            wanted = {key: _Lease(self, key, now) for key in keys if key not in self._held}
            if wanted:
                for key in self._write_and_look(wanted):
                    wanted.pop(key, None)
            self._hold(wanted)
        # Of a key that is given twice, the first gets the claim.
        return [wanted.pop(key, None) for key in keys]

    def _write_and_look(self, wanted: Mapping[str, _Lease]) -> set[str]:
        """Write what is held and wanted; returns the keys that others have, which are not written any more.

        After an error the file is written again soon, without what was wanted, and all that is held is looked for again.
        """
        try:
            return self._written_and_looked(wanted)
        except BaseException:
            with self._changed:
                self._is_late, self._until = True, 0.0
                self._keep_up()
            raise

    def _written_and_looked(self, wanted: Mapping[str, _Lease]) -> set[str]:
        # If this process has slept for longer than its lease, others may have taken what it held.
        before, held = self._until, [*self._held]
        new = [*wanted, *(held if self._clock.now() >= before else ())]
        self._write(wanted, new=new)
        if self._clock.now() >= before:  # or the write has taken so long
            new = [*wanted, *held]
        refused = self._refused(set(new))
        if self._clock.now() >= self._until:  # the lease was over before it was seen
            refused.update(wanted)
        with self._changed:
            for key in refused:
                self._held.pop(key, None)
        if refused:
            self._write({key: each for key, each in wanted.items() if key not in refused})
        return refused

    def _refused(self, new: set[str]) -> set[str]:
        """Which of these keys, which are in the file, others have."""
        refused: set[str] = set()
        names = [name for name in self._names() if name != self._name]
        for look in range(_LOOKS):
            again = []
            for name, held in zip(names, self._read(names), strict=True):
                common = (held.keys.keys() & new) - refused
                mine = name > self._name and look < _LOOKS - 1 and common <= {*held.new}
                if common and mine:
                    again.append(name)  # it sees this file, and takes them back, or did not, and keeps them
                elif common:
                    refused |= common
            if not again:
                break
            names = again
        return refused

    def _hold(self, leases: Mapping[str, _Lease]) -> None:
        with self._changed:
            self._held.update(leases)
            if self._held:
                self._keep_up()

    def _keep_up(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, name="hooke-leases", daemon=True)
            self._thread.start()

    def held(self) -> dict[str, float]:
        """See Claims."""
        return {key: since for held in self._read(self._names()) for key, since in held.keys.items()}

    def release_many(self, claims: Sequence[Claim], *, soon: bool = False) -> None:
        """See BatchedClaims."""
        if soon and not claims:
            return
        with nullcontext() if soon else self._file_lock:
            with self._changed:
                mine = [each.key for each in claims if self._held.get(each.key) is each]
                for key in mine:
                    del self._held[key]
                self._is_late = self._is_late or bool(mine)
                self._changed.notify_all()
            if self._is_late and not soon:
                self._write()

    def after_fork(self) -> None:
        """In a child: the leases belong to the parent, which renews them."""
        self._begin()

    def _names(self) -> list[str]:
        return [stored.name for stored in self._backend.list(f"{self._folder}/")]

    def _read(self, names: Sequence[str]) -> list[_Held]:
        """What these files hold now: nothing if their lease has ended."""
        if isinstance(self._backend, Batching):
            views = self._backend.read_many(names)
        else:
            views = [self._backend.read(name) for name in names]
        return [self._live(name, view) for name, view in zip(names, views, strict=True)]

    def _live(self, name: str, view: View | None) -> _Held:
        if view is None:
            return _Held()
        try:
            held = _held_decoder.decode(view.data)
        except (msgspec.MsgspecError, ValueError):  # not written by a claim, so it claims nothing
            return _Held()
        if self._locks is not None and (left := self._locks.claim_left(name.rpartition("/")[2])):
            self._backend.remove(name)
            left.release()
            return _Held()
        if held.until > self._clock.now():
            return held
        if held.until + _FORGOTTEN_LEASES * self._lease_s < self._clock.now():
            self._backend.remove(name)
        return _Held()

    def _write(self, wanted: Mapping[str, _Lease] = MappingProxyType({}), *, new: Sequence[str] = ()) -> None:
        """Write what is held, and what is wanted."""
        with self._changed:
            leases = {**self._held, **wanted}
            self._is_late = False
            self._changed.notify_all()
        try:
            self._write_file(leases, new)
        except BaseException:
            self._is_late = True
            raise

    def _write_file(self, leases: Mapping[str, _Lease], new: Sequence[str]) -> None:
        if not leases:
            self._backend.remove(self._name)
            if self._lock is not None:
                self._lock.release()
                self._lock, self._name = (
                    None,
                    self._new_name(),
                )  # who has read the old one may look for its lock
            return
        if self._locks is not None and self._lock is None:
            self._lock = self._locks.claim(self._name.rpartition("/")[2])
        until = self._clock.now() + self._lease_s
        keys = {key: lease.since for key, lease in leases.items()}
        data = msgspec.json.encode(_Held(until=until, keys=keys, new=tuple(new)))

        def fill(sink: ObjectSink) -> str:
            sink.write(data)
            return self._name

        self._backend.write(fill, size=len(data))
        self._until = until

    def _renew(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_late or not self._held, self._lease_s / 3)
                if self._is_late:
                    late_s = _LATE_S if not failures else min(_LATE_S * 2**failures, self._lease_s / 3)
                    if self._changed.wait_for(lambda: not self._is_late, late_s):
                        continue  # a claim has taken it along
                elif not self._held:
                    self._thread = None
                    return
            try:
                with self._file_lock:
                    self._renew_all()
                failures = 0
            except Exception as error:  # noqa: BLE001 - the backend may be out of reach for a while
                failures += 1
                _log.debug("claims could not be renewed: %s", error)

    def _renew_all(self) -> None:
        before = self._until
        if not self._held or self._clock.now() < before:
            if self._held or self._is_late:
                self._write()
            if not self._held or self._clock.now() < before:
                return
            self._until = 0.0  # to write took longer than the lease: others may have taken what is held
        self._write_and_look({})


_held_decoder = msgspec.json.Decoder(_Held)


class _Lease:
    def __init__(self, owner: LeaseClaims, key: str, since: float) -> None:
        self.key = key
        self.since = since
        self._owner = owner

    def release(self) -> None:
        self._owner.release_many([self])


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
        self._lock = threading.RLock()  # a claim that is collected inside releases itself
        on_fork(self)

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        return self.claim_many([key])[0]

    def claim_many(self, keys: Sequence[str]) -> list[Claim | None]:
        """See BatchedClaims."""
        with self._lock:
            return [self._claim(key) for key in keys]

    def _claim(self, key: str) -> Claim | None:
        at = int.from_bytes(blake3(key.encode()).digest(length=8)) % POSITIONS
        if at in self._held or not self._set(fcntl.F_WRLCK, at):
            return None
        self._held.add(at)
        return _RangeClaim(key, at, self)

    def release_many(self, claims: Sequence[Claim], *, soon: bool = False) -> None:  # noqa: ARG002 - it takes no request
        """See BatchedClaims."""
        with self._lock:
            for claim in claims:
                if isinstance(claim, _RangeClaim) and claim.owner is self:
                    claim.owner = None
                    self._unlock(claim.at)

    def _unlock(self, at: int) -> None:
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
        self._lock = threading.RLock()
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
    __slots__ = ("at", "key", "owner")

    def __init__(self, key: str, at: int, owner: RangeClaims) -> None:
        self.key = key
        self.at = at
        self.owner: RangeClaims | None = owner
        """None once it is released."""

    def release(self) -> None:
        if self.owner is not None:
            self.owner.release_many([self])

    def __del__(self) -> None:
        self.release()
