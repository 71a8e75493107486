"""Checkpoint folders: one for each key of a call or of an item of a map, kept until its result is durable.

A folder belongs to a key, so code or arguments that differ never find it. One attempt at a time has it: a lock on the
record beside it, which the kernel frees when the attempt's process dies. In a store that is a folder, checkpoint
folders lie in the store itself. For a store at a URL they lie on the worker's host, and snapshots of them in the store.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from hooke.base.errors import CorruptObject, GangResized, HookeError, UsageError
from hooke.base.files import file_clock_ns, make_folders, write_atomic
from hooke.base.this_process import on_fork
from hooke.store.backend import Backend, ObjectSink
from hooke.store.claims import is_at
from hooke.store.entries import Records

__all__ = [
    "CHECKPOINTS",
    "CheckpointFolders",
    "CheckpointOwner",
    "CheckpointRecord",
    "Snapshots",
    "TaskCheckpoints",
    "checkpoint_dir",
    "checkpoint_saved",
    "copied_checkpoint",
    "fresh_checkpoint",
    "gang_resizes",
    "raise_if_resized",
    "resizing",
    "using_checkpoints",
]

CHECKPOINTS = "checkpoints"
"""The folder of all checkpoint folders: in the store, or in the folder near for a store at a URL."""
ABANDONED_S = 30 * 24 * 3600.0
"""A folder without a result that was not used for so long is removed by `hooke cache gc`."""
WAIT_S = 60.0
"""How long an attempt waits for a folder that another attempt at the same key has. Locks of a lost NFS client last that long."""

_POLL_S = 0.05
_RECORD = ".record"
_MARK = ".snapshot"
_TRASH = ".removed-"
_log = logging.getLogger("hooke")


class CheckpointOwner(msgspec.Struct, frozen=True, kw_only=True):
    """The task for whose calls folders are made: what tells later whether a folder is still needed."""

    task: str
    run: str
    recipe: str
    """The key of the call, or the recipe of the map."""
    item: bool = False
    """Whether the keys are those of a map's items."""
    cached: bool = True
    kept: bool = False
    """Whether folders stay when the result is durable."""
    indexed: str = ""
    """Of one item: the key by which the store finds it, if that is not its folder's."""


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record beside a folder: its key, its owner, and the attempt that had it last."""

    key: str
    owner: CheckpointOwner
    holder: str
    """`<run>/<attempt>`: the ranks of one gang share a folder."""
    opened_at: float = 0.0
    """When that attempt opened it: seconds since the epoch."""
    since: float = 0.0
    """When the first attempt opened it, by the clock of files."""
    alone: bool = False
    """Whether it is the folder of one attempt, which found the key's own in use."""


class CheckpointFolders:
    """The checkpoint folders of a store, below `root`. Safe to use from all threads and processes at once.

    `root` is None for a store in memory, which has none. `snapshots` are those of a store at a URL.
    """

    def __init__(self, root: Path | None, snapshots: Snapshots | None = None) -> None:
        self.root = root
        self.snapshots = snapshots

    def open(
        self, key: str, owner: CheckpointOwner, attempt: int, *, wait_s: float = WAIT_S
    ) -> OpenCheckpoint:
        """The folder of `key`, made if there is none. While another attempt has it, this waits.

        After `wait_s` seconds the attempt gets an empty folder of its own, which ends with it. Raises UsageError for a
        store in memory, OSError if the folder cannot be made.
        """
        root, record = self._checked_root(), _record(key, owner, attempt)
        until = time.monotonic() + wait_s
        while (lock := _locked(root / f"{key}{_RECORD}", record, self.snapshots)) is None:
            if time.monotonic() >= until:
                return self._own_folder(record)
            time.sleep(_POLL_S)
        return OpenCheckpoint(self, root / key, lock, record)

    def _own_folder(self, record: CheckpointRecord) -> OpenCheckpoint:
        _log.warning(
            "another attempt at the same key of %s uses its checkpoint folder: this attempt has one of its own, and begins anew",
            record.owner.task,
        )
        root, name = self._checked_root(), f"{record.key}-{os.urandom(4).hex()}"
        alone = msgspec.structs.replace(record, alone=True)
        lock = _locked(root / f"{name}{_RECORD}", alone, None)
        assert lock is not None
        return OpenCheckpoint(self, root / name, lock, alone)

    def _checked_root(self) -> Path:
        if self.root is None:
            raise UsageError(
                "a store in memory has no checkpoint folders", fix="open the store in a folder or at a URL"
            )
        make_folders(self.root, 0o700)
        return self.root

    def records(self) -> Iterator[tuple[Path, CheckpointRecord]]:
        """Each folder with its record. The folder may be gone."""
        if self.root is None or not self.root.exists():
            return
        for file in self.root.glob(f"*{_RECORD}"):
            with suppress(FileNotFoundError, msgspec.MsgspecError):  # removed, or being written
                yield file.with_suffix(""), msgspec.json.decode(file.read_bytes(), type=CheckpointRecord)

    def used_bytes(self) -> int:
        """The bytes of all folders on this host, and of the snapshots in the store."""
        local = sum(_bytes_below(self.root)) if self.root is not None else 0
        return local + (self.snapshots.used_bytes() if self.snapshots is not None else 0)

    def remove(self, keys: Iterable[str]) -> int:
        """Remove the folders of these keys that no attempt has now, with their snapshots; returns how many."""
        count = 0
        for key in keys:
            snapshot = self.snapshots is not None and self.snapshots.remove(key)
            count += self._remove(self.root / key) or snapshot if self.root is not None else 0
        return count

    def remove_of(self, recipes: Iterable[str]) -> int:
        """Remove all folders that were made for these calls and maps, if no attempt has them now."""
        wanted = set(recipes)
        found = self.all_records() if wanted else []
        return self.remove([each.key for each in found if each.owner.recipe in wanted])

    def all_records(self) -> list[CheckpointRecord]:
        """The record of each key with a folder on this host or a snapshot in the store."""
        found = {record.key: record for _, record in self.records() if not record.alone}
        if self.snapshots is not None:
            found |= {record.key: record for record, _ in self.snapshots.records()}
        return list(found.values())

    def sweep(self, is_over: Callable[[CheckpointRecord, float], bool], *, snapshots: bool = False) -> int:
        """Remove what is not needed any more; returns how many.

        `is_over` gets a record and when its folder was last used (seconds since the epoch). Folders of one attempt alone go,
        too. With `snapshots`, those in the store are looked at. Folders in use stay.
        """
        count = 0
        for folder, record in list(self.records()):
            if record.alone:
                count += self._remove(folder)
            elif is_over(record, _used_at(folder)):
                count += self.remove([record.key])
        if self.snapshots is not None and snapshots:
            for record, at in list(self.snapshots.records()):
                if is_over(record, at):
                    count += self.snapshots.remove(record.key)
        if self.root is not None and self.root.exists():
            for folder in self.root.glob(f"{_TRASH}*"):  # of a process that was killed while it removed one
                shutil.rmtree(folder, ignore_errors=True)
        return count

    def _remove(self, folder: Path) -> bool:
        record = folder.with_name(f"{folder.name}{_RECORD}")
        try:
            fd = os.open(record, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not (_flock(fd, fcntl.LOCK_EX) and is_at(fd, str(record))):
                return False
            # Renamed first: a process that is killed here must not leave half a checkpoint under the key.
            aside = folder.with_name(f"{_TRASH}{folder.name}-{os.urandom(4).hex()}")
            with suppress(FileNotFoundError):
                folder.rename(aside)
            folder.with_name(f"{folder.name}{_MARK}").unlink(missing_ok=True)
            record.unlink()
        finally:
            os.close(fd)
        if aside.exists():
            shutil.rmtree(aside)
        return True


class OpenCheckpoint:
    """A folder that an attempt has, until `release` or the end of its process. In forked children it is not locked."""

    def __init__(self, folders: CheckpointFolders, path: Path, lock: int, record: CheckpointRecord) -> None:
        self.path = path
        self.record = record
        self._folders = folders
        self._lock = lock
        on_fork(self)
        path.mkdir(0o700, exist_ok=True)
        self.since = _read(lock, record).since
        """When the first attempt at the key opened it: what it holds may be as old."""
        self.is_continued = any(path.iterdir())
        """Whether it holds anything of an earlier attempt."""
        snapshots = None if record.alone or _is_later_rank() else folders.snapshots
        self._pushing = _Pushing(snapshots, record, path) if snapshots is not None else None

    def release(self) -> None:
        """Let other attempts have it. A folder of this attempt alone is removed."""
        if self._pushing is not None:
            self._pushing.stop()
        self.after_fork()
        if self.record.alone:
            self.discard()

    def push(self) -> None:
        """Bring the store's snapshot up to date. A store that does not answer is logged."""
        if self._pushing is not None:
            self._pushing.push()

    def discard(self) -> None:
        """Remove a released folder, if no other attempt has it now."""
        if self.record.alone:
            self._folders._remove(self.path)  # noqa: SLF001 - its own
        else:
            self._folders.remove([self.record.key])

    def drop_copy(self) -> None:
        """Of a store at a URL: remove the folder on this host. The snapshot stays."""
        if self._pushing is not None:
            self._folders._remove(self.path)  # noqa: SLF001 - its own

    def after_fork(self) -> None:
        """Close the lock's file: in a child, so that the lock ends with the parent."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _is_later_rank() -> bool:
    """Whether this is a rank of a gang other than 0: of several hosts, that of rank 0 writes the snapshots."""
    return os.environ.get("RANK", "0") != "0"


def _record(key: str, owner: CheckpointOwner, attempt: int) -> CheckpointRecord:
    return CheckpointRecord(
        key=key,
        owner=owner,
        holder=f"{owner.run}/{attempt}",
        opened_at=time.time(),
        since=file_clock_ns() / 1e9,
    )


def _locked(path: Path, record: CheckpointRecord, snapshots: Snapshots | None) -> int | None:
    """A descriptor that holds the lock of a record for its holder, which may hold it several times; None if another has it.

    The first one fetches the snapshot and writes the record under an exclusive lock, and keeps a shared one.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    mine, nobody = False, msgspec.structs.replace(record, holder="")
    try:
        if _flock(fd, fcntl.LOCK_EX) and is_at(fd, str(path)):
            if snapshots is not None:
                snapshots.pull(record.key, path.with_suffix(""))
            data = msgspec.json.encode(_continuing(record, fd, path.with_suffix("")))
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
        # Going from exclusive to shared lets go for a moment, in which another may have come first.
        mine = (
            _flock(fd, fcntl.LOCK_SH) and is_at(fd, str(path)) and _read(fd, nobody).holder == record.holder
        )
    finally:
        if not mine:
            os.close(fd)
    return fd if mine else None


def _read(fd: int, default: CheckpointRecord) -> CheckpointRecord:
    """The record in a file; the default if its writer was killed."""
    try:
        return msgspec.json.decode(os.pread(fd, 1 << 16, 0), type=CheckpointRecord)
    except msgspec.MsgspecError:
        return default


def _continuing(record: CheckpointRecord, fd: int, folder: Path) -> CheckpointRecord:
    """The record, with the time from which the folder's content may be."""
    former = _read(fd, record) if folder.exists() else record
    return msgspec.structs.replace(record, since=former.since)


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _used_at(folder: Path) -> float:
    files = [folder.with_name(f"{folder.name}{_RECORD}"), folder]
    with suppress(FileNotFoundError):  # the folder may be gone, and each file since it was listed
        files += folder.iterdir()
    times: list[float] = []
    for file in files:
        with suppress(FileNotFoundError):
            times.append(file.lstat().st_mtime)
    return max(times, default=time.time())


def _bytes_below(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(place, name)).st_size


# --- Snapshots of folders in a store at a URL.

PUSH_EVERY_S = 30.0
"""Seconds between two snapshots of a folder that changes."""
QUIET_S = 1.0
"""A snapshot is taken when no file has changed for that long, so that it holds no half of a checkpoint."""
_PART = 64 << 20
"""Bytes of a file in one name of the store: what a download holds in memory."""


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A folder at one moment: the digests of each file's parts."""

    record: CheckpointRecord
    at: float
    files: dict[str, tuple[str, ...]]


_snapshots = msgspec.msgpack.Decoder(_Snapshot)


class Snapshots:
    """Copies of checkpoint folders in a backend: parts of files by content, and a record that names those of one moment.

    The record is signed with the store's secret, and names each part by its content.
    """

    def __init__(self, backend: Backend, records: Records) -> None:
        self._backend = backend
        self._records = records

    def pull(self, key: str, folder: Path) -> None:
        """Make `folder` as the snapshot is, unless this host's folder continues that snapshot. Raises CorruptObject."""
        found = self._read(_name(key))
        mark = folder.with_name(f"{folder.name}{_MARK}")
        if found is None or (folder.exists() and mark.exists() and _stamp(found) in mark.read_text().split()):
            return
        fresh = folder.with_name(f"{_TRASH}{key}-{os.urandom(4).hex()}")
        fresh.mkdir(0o700)
        for name, parts in found.files.items():
            file = fresh / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as out:
                for digest in parts:
                    out.write(self._part(key, digest))
        if folder.exists():
            folder.rename(folder.with_name(f"{_TRASH}{key}-{os.urandom(4).hex()}"))
        fresh.rename(folder)
        write_atomic(mark, _stamp(found).encode())

    def push(self, record: CheckpointRecord, folder: Path) -> None:
        """Make the snapshot as `folder` is. Parts that the store has already are not sent again."""
        key, former = record.key, self._read(_name(record.key))
        there = (
            {digest for parts in former.files.values() for digest in parts} if former is not None else set()
        )
        files: dict[str, tuple[str, ...]] = {}
        for file in _files(folder):
            parts = []
            with file.open("rb") as content:
                while data := content.read(_PART):
                    digest = blake3(data).hexdigest()
                    if digest not in there:
                        self._backend.write(_filling(_name(key, digest), data), size=len(data))
                        there.add(digest)
                    parts.append(digest)
            files[file.relative_to(folder).as_posix()] = tuple(parts)
        snapshot = _Snapshot(record=record, at=time.time(), files=files)
        # Both, because a process that is killed between may have written the new one or not.
        stamps = [_stamp(each) for each in (former, snapshot) if each is not None]
        write_atomic(folder.with_name(f"{folder.name}{_MARK}"), "\n".join(stamps).encode())
        self._records.write(_name(key), msgspec.msgpack.encode(snapshot))
        for digest in there - {digest for parts in files.values() for digest in parts}:
            self._backend.remove(_name(key, digest))

    def records(self) -> Iterator[tuple[CheckpointRecord, float]]:
        """The record of each snapshot, and when it was made."""
        for stored in self._backend.list(f"{CHECKPOINTS}/"):
            if stored.name.endswith("/snapshot") and (found := self._read(stored.name)) is not None:
                yield found.record, found.at

    def used_bytes(self) -> int:
        """The bytes of all snapshots."""
        return sum(stored.size for stored in self._backend.list(f"{CHECKPOINTS}/"))

    def remove(self, key: str) -> bool:
        """Remove the snapshot of a key; returns whether there was one."""
        names = [stored.name for stored in self._backend.list(f"{CHECKPOINTS}/{key}/")]
        there = self._backend.remove(_name(key))  # the record first: parts without it are nobody's
        for name in names:
            self._backend.remove(name)
        return there

    def _read(self, name: str) -> _Snapshot | None:
        content = self._records.read(name)
        return _snapshots.decode(content) if content is not None else None

    def _part(self, key: str, digest: str) -> memoryview:
        view = self._backend.read(_name(key, digest))
        if view is None or blake3(view.data).hexdigest() != digest:
            raise CorruptObject(
                "a part of a checkpoint is damaged or missing",
                where=f"{self._backend.place}, {_name(key, digest)}",
                fix="remove the checkpoint, and the task begins anew",
                next=f"hooke cache rm --checkpoints {key}",
            )
        return view.data


def _name(key: str, digest: str = "") -> str:
    return f"{CHECKPOINTS}/{key}/{digest or 'snapshot'}"


def _stamp(snapshot: _Snapshot) -> str:
    return blake3(msgspec.msgpack.encode(snapshot)).hexdigest()


def _filling(name: str, data: bytes) -> Any:
    def fill(sink: ObjectSink) -> str:
        sink.write(data)
        return name

    return fill


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


class _Pushing:
    """A thread that takes snapshots of a folder: at most every 30 s, when nothing in it has changed for a second."""

    def __init__(self, snapshots: Snapshots, record: CheckpointRecord, folder: Path) -> None:
        self._snapshots = snapshots
        self._record = record
        self._folder = folder
        self._pushed = self._look()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hooke-checkpoints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; an upload in progress is completed."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def push(self) -> None:
        """Take a snapshot now, if anything has changed since the last one."""
        seen = self._look()
        if seen == self._pushed:
            return
        try:
            self._snapshots.push(self._record, self._folder)
        except (HookeError, OSError) as error:
            _log.warning("a checkpoint of %s is not in the store: %s", self._record.owner.task, error)
        else:
            self._pushed = seen

    def _watch(self) -> None:
        last, due = self._pushed, time.monotonic()
        while not self._stopped.wait(QUIET_S):
            seen = self._look()
            if seen == last and seen != self._pushed and time.monotonic() >= due:
                self.push()
                due = time.monotonic() + PUSH_EVERY_S
            last = seen

    def _look(self) -> dict[str, tuple[int, int]]:
        found = {}
        for file in _files(self._folder):
            with suppress(FileNotFoundError):
                facts = file.stat()
                found[str(file)] = (facts.st_size, facts.st_mtime_ns)
        return found


# --- The folder of the item that runs now.


class TaskCheckpoints:
    """The checkpoint folders of one attempt: an item has one if it asks."""

    def __init__(self, folders: CheckpointFolders, owner: CheckpointOwner, attempt: int) -> None:
        self.pid = os.getpid()
        self._folders = folders
        self._owner = owner
        self._attempt = attempt
        self._key = b""
        self._indexed = b""
        self._open: OpenCheckpoint | None = None
        self._used: list[OpenCheckpoint] = []
        self._done: list[OpenCheckpoint] = []

    def begin(self, key: bytes, indexed: bytes = b"") -> None:
        """The next item, which has this key, begins. `indexed` is that by which the store finds it."""
        if self._open is not None:
            self._done.append(self._open)
            self._release()
        self._key, self._indexed = key, indexed

    def folder(self) -> Path:
        """The folder of the current item. Raises UsageError in a forked child that asks first."""
        if self._open is None:
            if os.getpid() != self.pid:
                raise UsageError(
                    "checkpoint_dir() was first called in a forked process",
                    fix="call it in the task itself, and pass the path to the processes that it starts",
                )
            owner = self._owner
            if self._indexed not in (b"", self._key):
                owner = msgspec.structs.replace(owner, indexed=self._indexed.hex())
            self._open = self._folders.open(self._key.hex(), owner, self._attempt)
            self._used.append(self._open)
        return self._open.path

    @property
    def asked(self) -> bool:
        """Whether the task has asked for a folder."""
        return bool(self._used)

    def finish(self) -> None:
        """The last item is done."""
        self.begin(b"")

    @property
    def continued_since(self) -> float | None:
        """When the oldest folder was begun that this attempt continues; None if all were empty."""
        return min((each.since for each in self._used if each.is_continued), default=None)

    def discard(self) -> None:
        """Remove the folders of all items so far: what they hold was made from other inputs than the keys say."""
        self._release()
        for each in self._used:
            each.discard()
        self._used.clear()
        self._done.clear()

    def close(self, *, failed: bool) -> tuple[str, ...]:
        """The attempt ends. Returns the keys of the finished items whose folders can go once the results are durable."""
        self._release()
        for each in self._used:
            if failed or self._owner.kept:
                each.push()
            else:
                each.drop_copy()
        kept = self._owner.kept
        return () if kept else tuple(each.record.key for each in self._done if not each.record.alone)

    def _release(self) -> None:
        if self._open is not None:
            self._open.release()
            self._open = None


_here: ContextVar[TaskCheckpoints | None] = ContextVar("hooke_checkpoints", default=None)
_process: list[TaskCheckpoints] = []
"""Those of the attempts in this process: threads of a task inherit no context variable."""


@contextmanager
def using_checkpoints(checkpoints: TaskCheckpoints) -> Iterator[None]:
    """Inside, `checkpoint_dir()` gives the folders of this attempt."""
    _process.append(checkpoints)
    token = _here.set(checkpoints)
    try:
        yield
    finally:
        _here.reset(token)
        _process.remove(checkpoints)


@contextmanager
def copied_checkpoint(folders: CheckpointFolders, owner: CheckpointOwner, key: bytes) -> Iterator[None]:
    """Inside, `checkpoint_dir()` gives a copy of the call's folder: for a rerun that must change nothing."""
    with tempfile.TemporaryDirectory(prefix="hooke-checkpoint-") as made:
        if folders.root is not None and (folders.root / key.hex()).exists():
            shutil.copytree(folders.root / key.hex(), Path(made) / key.hex())
        with _checkpoint_in(Path(made), owner, key):
            yield


@contextmanager
def fresh_checkpoint() -> Iterator[TaskCheckpoints]:
    """Inside, `checkpoint_dir()` gives an empty folder, which ends with it: for a call outside a run."""
    with tempfile.TemporaryDirectory(prefix="hooke-checkpoint-") as made:
        owner = CheckpointOwner(task="", run="", recipe="", cached=False)
        with _checkpoint_in(Path(made), owner, b"call") as used:
            yield used


@contextmanager
def _checkpoint_in(folder: Path, owner: CheckpointOwner, key: bytes) -> Iterator[TaskCheckpoints]:
    used = TaskCheckpoints(CheckpointFolders(folder), owner, 0)
    used.begin(key)
    try:
        with using_checkpoints(used):
            yield used
    finally:
        used.close(failed=True)


def checkpoint_dir() -> Path:
    """The folder for checkpoints of the call that runs now: of a task, or of an item of a map. It exists, at first empty.

    Every attempt at the same call gets the same folder: a retry, a resumed run, and a later run after one that failed. Other
    arguments, or other code, have another folder. It is removed when the result is durable, unless the task is declared with
    `keep_checkpoints=True`. All ranks of a gang share it. Write each checkpoint under another name and rename it
    (`os.replace`), because a process can be killed while it writes.

    One attempt at a time has the folder. Another one waits for up to a minute, and then gets an empty folder of its own.
    Raises UsageError outside a task, in a forked process that asks before the task does, and for a store in memory; OSError if the
    folder cannot be made; StoreUnavailable and CorruptObject where the store is at a URL.
    """
    here = _here.get() or (_process[-1] if _process else None)
    if here is None:
        raise UsageError(
            "checkpoint_dir() was called outside a task",
            why="a checkpoint folder belongs to the key of a task's call, which only a run knows",
            fix="call it in a function with @task that a run executes; pass the path to processes that the task starts",
        )
    return here.folder()


# --- The end of a gang at a checkpoint, from which it goes on with another number of ranks.


class _Resizing:
    """Whether the attempt of this process is to end at a checkpoint."""

    def __init__(self, leaves: Callable[[], bool]) -> None:
        self.leaves = leaves
        self.pid = os.getpid()
        self.left = False


_resizing: list[_Resizing] = []


@contextmanager
def resizing(leaves: Callable[[], bool]) -> Iterator[None]:
    """Inside, `checkpoint_saved()` ends this rank if `leaves()`, which says so to the driver."""
    _resizing.append(_Resizing(leaves))
    try:
        yield
    finally:
        _resizing.pop()


def gang_resizes() -> bool:
    """Whether rank 0, which calls this, is to end now that a checkpoint is saved. Then it must."""
    here = _resizing[-1] if _resizing else None
    if here is None or here.pid != os.getpid():
        return False
    here.left = here.left or here.leaves()
    return here.left


def raise_if_resized() -> None:
    """Raise GangResized if this rank was to end before: a task that catches that has no result."""
    if _resizing and _resizing[-1].left:
        raise GangResized


def checkpoint_saved() -> None:
    """Say that a checkpoint is complete, on all ranks of a gang and after each: here an elastic gang changes its number of ranks.

    If it is to, this does not return on rank 0 (it raises GangResized, which is no Exception), and Hooke ends the other ranks. Then all
    begin again, with other values of `RANK` and `WORLD_SIZE`, and go on from the checkpoint. So call it on rank 0 only when what all
    ranks have written is there. In other tasks, and outside runs, it does nothing. `hooke.frameworks.torch.Checkpoint.save` calls it
    by itself.
    """
    if gang_resizes():
        raise GangResized
