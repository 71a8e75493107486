"""Readers of segments, for any process: all existing events (`read`), or new events as they arrive (`follow`)."""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from hooke.base.distributions import install_command
from hooke.base.errors import JournalError
from hooke.journal.events import VERSION, CallsFinished, Event
from hooke.journal.segments import (
    HEADER_BYTES,
    SUFFIX,
    RecordScan,
    TornTail,
    corrupt,
    read_version,
    segment_files,
)

__all__ = ["Segment", "SegmentReader", "first_event", "follow", "last_event", "read"]

_decoder = msgspec.msgpack.Decoder(Event)


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One process's part of a journal: its events in the order of appending, and its torn end, if any."""

    name: str
    path: Path
    events: tuple[Event, ...]
    torn: TornTail | None


class SegmentReader:
    """Events of one segment, in order; iterate again for new ones.

    After an iteration, `torn` says what follows the last whole record: the loss of a dead writer, or an append in
    progress. Raises JournalError for damage in the middle (after the events before it) and for the journal of a newer
    Hooke. Close it, or use it in `with`.
    """

    def __init__(self, path: Path, offset: int = HEADER_BYTES) -> None:
        """Begin at `offset`, from an earlier reader of the segment."""
        self.path = path
        self.version: int | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._scan = RecordScan(self._fd, offset)
        self._rest: deque[Event] = deque()
        """Events of the last record that were not read yet."""
        self._rest_from = offset

    @property
    def offset(self) -> int:
        """The end of the last event that was read. An iteration may stop at any event; the next one continues there.

        Among events that are one record, a CallsFinished, it is the beginning of that.
        """
        return self._rest_from if self._rest else self._scan.offset

    def __iter__(self) -> Iterator[Event]:
        yield from self._the_rest()
        before = self._scan.offset
        for payload in self._payloads():
            event = self._decode(payload)
            if isinstance(event, CallsFinished):
                self._rest_from = before
                self._rest.extend(event.singly())
                yield from self._the_rest()
            else:
                yield event
            before = self._scan.offset

    def _the_rest(self) -> Iterator[Event]:
        while self._rest:
            yield self._rest.popleft()

    def _payloads(self) -> Iterator[bytes]:
        if self.version is None:
            self.version = read_version(self._fd, self.path)
        if self.version is None:
            return
        yield from self._scan
        damage = self._scan.damage
        if damage is not None and damage.following:
            raise corrupt(self.path, damage, self._scan.records)

    def last(self) -> Event | None:
        """The last new event, without decoding the others; None if there is none. Raises as an iteration does."""
        latest = deque(self._payloads(), maxlen=1)
        event = self._decode(latest[0]) if latest else None
        return [*event.singly()][-1] if isinstance(event, CallsFinished) else event

    @property
    def torn(self) -> TornTail | None:
        """What follows the last whole record; None if nothing does."""
        if self.version is not None:
            return self._scan.torn(self.path)
        size = os.fstat(self._fd).st_size
        return TornTail(path=self.path, offset=0, cut=size, why="its header is not whole") if size else None

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, payload: bytes) -> Event:
        try:
            return _decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise _unknown(self.path, self.version or 0, payload, error) from error


def read(path: Path, segment: str | None = None) -> list[Segment]:
    """The segments at `path`, a run's folder (the driver's segment first, the others by name) or one file.

    With `segment` (a name without suffix), only that one; a folder without it gives an empty list. `Segment.torn`
    reports a torn end. Raises JournalError for damage in the middle, for the journal of a newer Hooke, and if `path`
    does not exist.
    """
    if not path.exists():
        raise JournalError("there is no journal", where=str(path), fix="name a run that `hooke runs` lists")
    files = segment_files(path) if path.is_dir() else [path]
    return [_read_one(file) for file in files if segment in (None, file.stem)]


def follow(
    folder: Path, *, segments: Collection[str] | None = None, stop: Callable[[], bool], poll_s: float = 0.05
) -> Iterator[Event]:
    """Events of a run's segments as any process appends them, until `stop()` is true.

    Each segment's events keep their order; events that arrive together are merged by time. Segments, and the folder
    itself, may appear later. Events that were appended before `stop` became true are still yielded.
    Sleeps `poll_s` if no event arrives. Raises as `SegmentReader` does.
    """
    readers: dict[Path, SegmentReader] = {}
    with ExitStack() as opened:
        while True:
            ending = stop()
            for file in segment_files(folder):
                if file not in readers and (segments is None or file.stem in segments):
                    readers[file] = opened.enter_context(SegmentReader(file))
            came, error = _gather(readers.values())
            yield from heapq.merge(*came, key=attrgetter("at"))
            if error is not None:
                raise error
            if ending:
                return
            if not came:
                time.sleep(poll_s)


def first_event(folder: Path, segment: str) -> Event | None:
    """The first event of a segment in a run's folder, without the others; None if there is none. Raises as `read` does."""
    file = folder / f"{segment}{SUFFIX}"
    if not file.exists():
        return None
    with SegmentReader(file) as reader:
        return next(iter(reader), None)


def last_event(folder: Path, segment: str) -> Event | None:
    """The last whole event of a segment in a run's folder, without decoding those before it; None if there is none.

    Raises as `read` does.
    """
    file = folder / f"{segment}{SUFFIX}"
    if not file.exists():
        return None
    with SegmentReader(file) as reader:
        return reader.last()


def _gather(readers: Iterable[SegmentReader]) -> tuple[list[list[Event]], JournalError | None]:
    batches: list[list[Event]] = []
    for reader in readers:
        batch: list[Event] = []
        batches.append(batch)
        try:
            # Not `list(reader)`: events before an error are yielded before it.
            batch.extend(reader)
        except JournalError as error:
            return batches, error
    return [batch for batch in batches if batch], None


def _read_one(file: Path) -> Segment:
    with SegmentReader(file) as reader:
        events = tuple(reader)
        return Segment(name=file.name.removesuffix(SUFFIX), path=file, events=events, torn=reader.torn)


def _unknown(path: Path, version: int, payload: bytes, error: Exception) -> JournalError:
    raw = msgspec.msgpack.decode(payload)
    name = raw.get("event") if isinstance(raw, dict) else None
    return JournalError(
        f"the journal has an event that this version of Hooke cannot read: {name!r}",
        where=str(path),
        why=f"{error}; it was written with vocabulary version {version}; this Hooke has version {VERSION}",
        fix=install_command(upgrade=True),
    )
