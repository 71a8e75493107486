"""Sends every run that logged something to every sink, and keeps a cursor for each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import HookeError, JournalError
from hooke.base.files import write_atomic
from hooke.journal.run_folders import RunsFolder
from hooke.journal.segments import HEADER_BYTES, SUFFIX
from hooke.sinks.sink import Sink, SinkAway
from hooke.sync.outbox import Outbox, has_logged, logged_segments

__all__ = ["FOLDER", "Cursor", "Shipper", "SyncState", "load_cursor", "save_cursor", "standing"]


# --- The cursor of a run in one sink: a small file beside its journal, replaced atomically.

FOLDER = "sinks"
MOST_NOTES = 20


class Cursor(msgspec.Struct, kw_only=True):
    """How much of a run is in the sink. Later data may be there, too; writing it again changes nothing."""

    offsets: dict[str, int] = {}
    """Segment -> bytes sent."""
    opened: dict[str, str] = {}
    """Key of each run in the sink -> its status there."""
    driver_bytes: int = 0
    """Size of the driver's segment when the sink received the run's end."""
    points: int = 0
    merged: int = 0
    """Points that the sink merged with equal ones."""
    notes: list[str] = []
    """What the sink could not take unchanged."""
    more_notes: int = 0
    away_since: float | None = None
    """Since when the sink is unavailable."""
    trouble: str = ""
    """Why sending has stopped; empty while it works."""

    def note(self, sentences: list[str]) -> None:
        """Keep the sink's notes: the first ones, and the number of others."""
        new = [each for each in sentences if each not in self.notes]
        room = MOST_NOTES - len(self.notes)
        self.notes = [*self.notes, *new[:room]]
        self.more_notes += len(new[room:]) if room < len(new) else 0


def load_cursor(folder: Path, sink: str) -> Cursor:
    """The cursor of the run in `folder`; a new one if there is none. Raises JournalError if the file is damaged."""
    path = folder / FOLDER / f"{sink}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except FileNotFoundError:
        return Cursor()
    except msgspec.MsgspecError as error:
        raise JournalError(
            "the record of what was sent is damaged",
            where=str(path),
            why=str(error),
            fix="remove the file: everything is sent again, and what the tracker already has does not change",
        ) from error


def save_cursor(folder: Path, sink: str, cursor: Cursor) -> None:
    """Save the cursor. Raises OSError if the disk refuses."""
    (folder / FOLDER).mkdir(exist_ok=True)
    write_atomic(folder / FOLDER / f"{sink}.json", msgspec.json.encode(cursor))


LONGEST_PAUSE_S = 60.0
"""Seconds between two retries of an unavailable sink."""

_log = logging.getLogger("hooke.ship")


@dataclass(slots=True)
class _RunInSink:
    """The state of one run for one sink."""

    outbox: Outbox
    cursor: Cursor
    pause_s: float = 0.0
    again_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class Shipper:
    """Sends the runs below `runs` to `sinks`. Use it in `with`, which closes the sinks."""

    runs: RunsFolder
    sinks: Mapping[str, Sink]
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    _lanes: dict[tuple[str, str], _RunInSink] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    def ship(self, run: str) -> bool:
        """Send what a run has logged so far. Returns whether nothing is left and the run is over. An unavailable sink is skipped."""
        done = [
            self._ship_into(name, sink, run) for name, sink in self.sinks.items()
        ]  # a list: every sink must be tried
        return all(done)

    def follow(self, *, idle_s: float, patience_s: float, poll_s: float = 1.0) -> bool:
        """Send new data until nothing is left for `idle_s` seconds, and return True.

        Gives up and returns False if no run is alive and no sink has taken anything for `patience_s` seconds; what is
        left stays in the journals.
        """
        quiet_since = progress_at = self.clock.monotonic()
        while True:
            # Oldest first, so that a search comes before its trials, which are nested in it.
            pending = [run for run in reversed(self.runs.names()) if self._is_pending(run)]
            before = self._shipped()
            done = [self.ship(run) for run in pending]
            now = self.clock.monotonic()
            if self._shipped() != before or any(self.runs.alive(run) for run in pending):
                progress_at = now
            if not all(done):
                quiet_since = now
            if now - quiet_since >= idle_s:
                return True
            if now - progress_at >= patience_s:
                return False
            self.sleep(poll_s)

    def close(self) -> None:
        """Close sinks and journals."""
        self._opened.close()
        for sink in self.sinks.values():
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def _ship_into(self, name: str, sink: Sink, run: str) -> bool:
        folder = self.runs.folder(run)
        lane = self._lanes.get((name, run)) or self._lane(name, run, folder)
        if self.clock.monotonic() < lane.again_at:
            return lane.again_at == float("inf")
        try:
            done = self._drain(lane, sink, name, folder, alive=self.runs.alive(run))
        except SinkAway as away:
            lane.pause_s = min(max(1.0, 2 * lane.pause_s), LONGEST_PAUSE_S)
            lane.again_at = self.clock.monotonic() + lane.pause_s
            if lane.cursor.away_since is None:
                lane.cursor.away_since = self.clock.now()
            lane.cursor.trouble = _sentence(away)
            _log.warning("%s into %s: %s; again in %.0f s", run, name, lane.cursor.trouble, lane.pause_s)
            save_cursor(folder, name, lane.cursor)
            return False
        except HookeError as error:
            # Waiting does not help: `hooke show` reports it, and the next process retries.
            lane.cursor.trouble, lane.again_at = _sentence(error), float("inf")
            _log.error("%s into %s: %s", run, name, lane.cursor.trouble)
            save_cursor(folder, name, lane.cursor)
            return True
        return done

    def _lane(self, name: str, run: str, folder: Path) -> _RunInSink:
        cursor = load_cursor(folder, name)
        outbox = self._opened.enter_context(Outbox(folder, cursor.offsets, known=run in cursor.opened))
        lane = self._lanes[name, run] = _RunInSink(outbox, cursor)
        return lane

    def _drain(self, lane: _RunInSink, sink: Sink, name: str, folder: Path, *, alive: bool) -> bool:
        cursor = lane.cursor
        while (load := lane.outbox.load(alive=alive)).batches:
            for batch in load.batches:
                receipt = sink.write(batch)
                cursor.opened.setdefault(batch.run.key, "running")
                cursor.points += len(batch.points.names)
                cursor.merged += receipt.merged
                cursor.note(receipt.notes)
            lane.outbox.shipped_up_to(load)
            cursor.offsets = load.offsets
            lane.pause_s, cursor.away_since, cursor.trouble = 0.0, None, ""
            save_cursor(folder, name, cursor)
        self._finish(lane, sink, name, folder, alive=alive)
        return not alive

    def _finish(self, lane: _RunInSink, sink: Sink, name: str, folder: Path, *, alive: bool) -> None:
        cursor, changed = lane.cursor, False
        for key, known in list(cursor.opened.items()):
            ended = lane.outbox.ended(key, alive=alive)
            status = "running" if ended is None else ended.status
            if ended is not None and status != known:
                sink.finish(ended)
            changed |= status != known
            cursor.opened[key] = status
        size = _driver_bytes(folder)
        if not alive and cursor.driver_bytes != size:
            cursor.driver_bytes, changed = size, True
        if changed or cursor.trouble:
            lane.pause_s, cursor.away_since, cursor.trouble = 0.0, None, ""
            save_cursor(folder, name, cursor)

    def _is_pending(self, run: str) -> bool:
        folder = self.runs.folder(run)
        if not has_logged(folder):
            return False
        stands = [standing(self.runs, run, name) for name in self.sinks]
        return any(each.pending_bytes or not each.told for each in stands)

    def _shipped(self) -> int:
        return sum(sum(lane.cursor.offsets.values()) for lane in self._lanes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncState:
    """The state of a run in a sink."""

    points: int
    pending_bytes: int
    """Bytes of the journal that are not sent yet."""
    told: bool
    """Whether the sink has the run's end."""
    cursor: Cursor


def standing(runs: RunsFolder, run: str, sink: str) -> SyncState:
    """The state of a run in a sink, by its cursor and its segments' sizes. Raises JournalError for a damaged cursor."""
    folder = runs.folder(run)
    cursor = load_cursor(folder, sink)
    pending = 0
    for file in logged_segments(folder):
        pending += max(0, file.stat().st_size - cursor.offsets.get(file.stem, HEADER_BYTES))
    told = cursor.opened.get(run, "running") != "running" and cursor.driver_bytes == _driver_bytes(folder)
    return SyncState(points=cursor.points, pending_bytes=pending, told=told, cursor=cursor)


def _driver_bytes(folder: Path) -> int:
    file = folder / f"driver{SUFFIX}"
    return file.stat().st_size if file.exists() else 0


def _sentence(error: HookeError) -> str:
    said = f"{error.what}: {error.why}" if error.why else error.what
    return f"{said}; {error.fix}" if error.fix else said
