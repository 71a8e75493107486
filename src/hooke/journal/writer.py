"""The writer of one segment: `append` writes the whole event to the file, or leaves the file unchanged."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from hooke.base.background_fsync import Durability, GroupSync, sync_files
from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import JournalError, UsageError
from hooke.base.files import sync_data, write_all
from hooke.base.this_process import on_fork
from hooke.journal.events import CallsFinished, Event
from hooke.journal.segments import (
    HEADER_BYTES,
    SUFFIX,
    RecordScan,
    TornTail,
    corrupt,
    frame,
    header,
    read_version,
)

__all__ = ["Durability", "Journal"]

_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """Appends events to one segment. Threads may share it; after a fork each process has its own segment.

    Events that belong together can be kept with `hold`, and written with one call of the system by `flush` or the next `append`:
    nothing may act on a held event before that.

    `torn` says what was cut off an existing segment when it was opened. `observers` are called after each write, in
    the order of the journal and one at a time, with the events that a reader gets; they may append. An observer's exception
    passes through `append` and `flush`, although the event is written.
    """

    def __init__(self, folder: Path, segment: str, *, durable: Durability, clock: Clock) -> None:
        self.folder = folder
        self.segment = segment
        self.durable = durable
        self.torn: TornTail | None = None
        self.observers: list[Callable[[Event], None]] = []
        self._first_segment = segment
        self._clock = clock
        self._group_sync = GroupSync(folder)
        self._lock = threading.RLock()
        self._fd, self._path = -1, ""
        self._end = 0
        self._dirty_tail = False
        self._closed = False
        self._held: list[tuple[Event, bytes]] = []
        """Events and their records."""
        self._unobserved: deque[Event] = deque()
        self._observing = False

    @classmethod
    def create(
        cls,
        folder: Path,
        segment: str,
        *,
        durable: Durability = "group",
        clock: Clock | None = None,
    ) -> Journal:
        """Open `<folder>/<segment>.journal` for appending, after the last whole record if it exists.

        Raises JournalError when another process writes the segment, when it is damaged in the middle, when a newer
        Hooke wrote it, or when the disk is full.
        """
        if durable not in ("group", "each", "none"):
            raise UsageError(f"durable={durable!r} is not valid", fix='valid values: "group", "each", "none"')
        journal = cls(Path(folder), segment, durable=durable, clock=clock or SystemClock())
        journal._open()
        on_fork(journal)
        return journal

    @property
    def path(self) -> Path:
        """The segment's file."""
        return self.folder / f"{self.segment}{SUFFIX}"

    def append(self, event: Event) -> None:
        """Write `event`, after those that are held, with the current time if its `at` is 0; then call the observers.

        Raises JournalError if it cannot be written. Then the file ends with the event before, and the next append
        works as soon as there is room. With `durable="each"`, or after a failed sync in the background, the error may
        also mean that the event is in the file but maybe not on the disk.
        """
        with self._lock:
            self.hold(event)
            held = self._held[-1]
            try:
                self._write()
            finally:
                if self._held and self._held[-1] is held:  # the caller knows that it is not written
                    self._held.pop()

    def hold(self, event: Event) -> None:
        """Keep `event`, with the current time if its `at` is 0, for the next `flush` or `append`.

        A process that dies before has not written it. Raises JournalError if it is too large for a record.
        """
        with self._lock:
            if event.at == 0.0:
                event = msgspec.structs.replace(event, at=self._clock.now())
            self._held.append((event, frame(_encoded(event))))

    def flush(self) -> None:
        """Write the held events in order, then call the observers.

        Raises JournalError like `append`; then the events from the first that cannot be written on are still held.
        """
        with self._lock:
            if self._held:
                self._write()

    def _write(self) -> None:
        if self._fd < 0 or self._dirty_tail:
            self._fix()
        before, count = self._end, len(self._held)
        try:
            while self._held:
                try:
                    self._put(count)
                except OSError as error:
                    refusal = self._cut(error, len(self._held[0][1]))
                    if count == 1:
                        raise refusal from error
                    count = 1  # as many as there is room for
        finally:
            try:
                if self._end > before:
                    self._make_durable()
            finally:
                self._observe()

    def _put(self, count: int) -> None:
        """Write the first `count` held events with one call of the system. Raises OSError; then a part may be in the file."""
        held = self._held[:count]
        records = b"".join([record for _, record in held])
        write_all(self._fd, records)
        self._end += len(records)
        del self._held[:count]
        self._unobserved.extend([event for event, _ in held])

    def _observe(self) -> None:
        """Tell the observers of what is written. An observer that appends is told of that after the events before it."""
        if self._observing:
            return
        self._observing = True
        try:
            while self._unobserved:
                event = self._unobserved.popleft()
                for each in (
                    event.singly() if isinstance(event, CallsFinished) and self.observers else (event,)
                ):
                    for observer in self.observers:
                        observer(each)
        finally:
            self._observing = False

    def sync(self) -> None:
        """Return when all appended events are on the disk. Raises JournalError if the sync fails."""
        with self._lock:
            if self._fd >= 0:
                try:
                    sync_data(self._fd)
                except OSError as error:
                    raise self._unsafe(error) from error

    def close(self) -> None:
        """Sync and close. A second close does nothing."""
        with self._lock:
            fd, self._fd, self._closed = self._fd, -1, True
            if fd < 0:
                return
            try:
                self._group_sync.close()
            except OSError as error:
                raise self._unsafe(error) from error
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """In a child: leave the parent's file; the first append opens `<segment>-<pid>`."""
        self._lock = threading.RLock()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.segment = f"{self._first_segment}-{os.getpid()}"
        self._dirty_tail = False
        self._held.clear()  # the parent writes and observes them
        self._unobserved.clear()
        self._observing = False

    def _open(self) -> None:
        self._end = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._refusal("the journal cannot be opened", error) from error
        try:
            self._lock_file(fd)
            self._take_up(fd)
        except OSError as error:
            os.close(fd)
            raise self._refusal("the journal cannot be started", error) from error
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._path = fd, os.path.abspath(self.path)

    def _take_up(self, fd: int) -> None:
        self.torn, self._end = _whole_part(fd, self.path)
        if self.torn is not None:
            os.ftruncate(fd, self._end)
        if self._end == 0:
            # On a full disk, the next process to open the segment cuts off an incomplete header.
            write_all(fd, header())
            self._end = HEADER_BYTES
        if self.durable == "each":
            sync_files([self.path])

    def _lock_file(self, fd: int) -> None:
        # Two writers would mix their records; the kernel frees this lock when its process dies.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                "another process is writing this journal",
                where=str(self.path),
                fix="wait for it to end, or stop it; each process needs a segment of its own",
            ) from error

    def _fix(self) -> None:
        if self._closed:
            raise JournalError(
                "this journal is closed",
                where=str(self.path),
                fix="append before close(), or create the journal again",
            )
        if self._fd < 0:
            self._open()
        if self._dirty_tail:
            try:
                os.ftruncate(self._fd, self._end)
            except OSError as error:
                raise self._refusal(
                    "the incomplete last record of the journal cannot be cut off", error
                ) from error
            self._dirty_tail = False

    def _make_durable(self) -> None:
        if self.durable == "each":
            self.sync()
        elif self.durable == "group":
            try:
                self._group_sync.mark(self._path)
                self._group_sync.raise_failure()
            except OSError as error:
                raise self._unsafe(error) from error

    def _cut(self, error: OSError, size: int) -> JournalError:
        self._dirty_tail = True
        try:
            os.ftruncate(self._fd, self._end)
            self._dirty_tail = False
        except OSError:
            # The next append tries again, before it writes.
            pass
        return self._refusal(f"an event of {size} bytes cannot be written to the journal", error)

    def _refusal(self, what: str, error: OSError) -> JournalError:
        return JournalError(
            what,
            where=f"{self.path}, offset {self._end}",
            why=f"{_reason(error)}; all earlier events are intact",
            fix=_fix_of(error, self.folder),
        )

    def _unsafe(self, error: OSError) -> JournalError:
        return JournalError(
            "the journal is written, but the disk did not confirm it",
            where=str(self.path),
            why=_reason(error),
            fix="check the disk (dmesg); the latest events may be lost if the machine goes down",
        )


def _encoded(event: Event) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError:
        # A file name or an exception's text may contain bytes that are not valid text; escape them.
        plain = _clean(msgspec.to_builtins(event, builtin_types=(bytes,)))
        return _encode(plain)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(name): _clean(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_clean(part) for part in value]
    return tuple(_clean(part) for part in value) if isinstance(value, tuple) else value


def _whole_part(fd: int, path: Path) -> tuple[TornTail | None, int]:
    size = os.fstat(fd).st_size
    if read_version(fd, path) is None:
        torn = TornTail(path=path, offset=0, cut=size, why="its header is not whole") if size else None
        return torn, 0
    scan = RecordScan(fd)
    for _ in scan:
        pass
    if scan.damage is not None and scan.damage.following:
        raise corrupt(path, scan.damage, scan.records)
    return scan.torn(path), scan.offset


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "OSError")
    return f"{name}: {os.strerror(error.errno) if error.errno else error}"


def _fix_of(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free some space on the file system of {folder} (`df -h {folder}`), then continue: no earlier event is lost"
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of files (`ulimit -f unlimited`), then continue: no earlier event is lost"
    return f"check the disk behind {folder} (dmesg), then continue: no earlier event is lost"
