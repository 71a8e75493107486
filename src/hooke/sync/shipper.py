"""Sends every run that logged something to every sink, and keeps a cursor for each."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import HookeError, JournalError
from hooke.base.files import write_atomic
from hooke.journal.run_folders import RunsFolder
from hooke.journal.segments import HEADER_BYTES, SUFFIX
from hooke.sinks.sink import CheckedSink, Sink, SinkAway
from hooke.sync.outbox import Outbox, Shipment, has_logged, logged_segments

__all__ = [
    "FOLDER",
    "Cursor",
    "Shipper",
    "SyncState",
    "load_cursor",
    "logged_bytes",
    "save_cursor",
    "standing",
]


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
SCAN_S = 10.0
"""Seconds between two looks at all runs, for those that were resumed. New runs, and those that go on, are seen at each poll."""
SCAN_SHARE = 0.01
"""The most of its time that it spends on such looks: with very many runs they are rarer."""

_log = logging.getLogger("hooke.ship")

_Turn = Literal["more", "waits", "sent", "over"]
"""A run in a sink after its turn: it has more to send; the sink is unavailable; all so far is sent; nothing will follow."""


class _RunInSink(msgspec.Struct):
    """The state of one run for one sink. It holds no open file."""

    outbox: Outbox
    cursor: Cursor
    load: Shipment | None = None
    """What is being sent: its batches that the sink has not taken yet."""
    points: int = 0
    merged: int = 0
    """Points of its batches that the sink has taken."""
    unsaved: bool = False
    readable: bool = True
    """Whether the cursor's file could be read; else it is not written either."""
    checked: bool = False
    """Whether the tracker was asked if it has what the cursor says."""
    pause_s: float = 0.0
    again_at: float = 0.0


class Shipper(msgspec.Struct, kw_only=True):
    """Sends the runs below `runs` to `sinks`, a load of each run in turn. Use it in `with`, which closes the sinks.

    A run that cannot be sent or read stops no other run.
    """

    runs: RunsFolder
    sinks: Mapping[str, Sink]
    clock: Clock = msgspec.field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    _lanes: dict[tuple[str, str], _RunInSink] = msgspec.field(default_factory=dict)
    _sent: int = 0
    """Batches and ends of runs that sinks have taken."""
    _watched: dict[str, None] = msgspec.field(default_factory=dict)
    """Runs that go on, or have something to send: the oldest first."""
    _settled: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    """Runs of which nothing is left, with what shows that they were resumed."""
    _listed_at: int = -1
    _scan_at: float = 0.0

    def ship(self, run: str) -> bool:
        """Send what a run has logged so far. Returns whether nothing is left and the run is over. An unavailable sink is skipped."""
        while True:
            states = self._turns(run)
            if "more" not in states:
                return all(state == "over" for state in states)

    def send(self, runs: Iterable[str], *, patience_s: float, poll_s: float = 0.2) -> bool:
        """Send what these runs have logged until now, and return whether nothing of it is left.

        Gives up if no sink has taken anything for `patience_s` seconds. What a run logs meanwhile is not waited for.
        """
        left = {run: logged_bytes(self.runs.folder(run)) for run in runs}
        sent, progress_at = self._sent, self.clock.monotonic()
        while True:
            states = {run: self._turns(run) for run in left}
            left = {run: goal for run, goal in left.items() if self._is_left(run, goal, states[run])}
            if not left:
                return True
            now = self.clock.monotonic()
            if self._sent != sent:
                sent, progress_at = self._sent, now
            if now - progress_at >= patience_s:
                return False
            if not any("more" in states[run] for run in left):
                self.sleep(poll_s)

    def _is_left(self, run: str, goal: Mapping[str, int], states: list[_Turn]) -> bool:
        if "more" not in states or "waits" in states or not self.runs.alive(run):
            return "more" in states or "waits" in states
        lanes = [lane for name in self.sinks if (lane := self._lanes.get((name, run))) is not None]
        return any(lane.cursor.offsets.get(name, 0) < size for lane in lanes for name, size in goal.items())

    def follow(self, *, idle_s: float, patience_s: float, poll_s: float = 1.0) -> bool:
        """Send new data until nothing is left for `idle_s` seconds, and return True.

        Gives up and returns False if no run is alive and no sink has taken anything for `patience_s` seconds; what is
        left stays in the journals.
        """
        quiet_since = progress_at = self.clock.monotonic()
        while True:
            pending = self._pending()
            before = self._sent
            states = {run: self._turns(run) for run in pending}
            now = self.clock.monotonic()
            if self._sent != before or any(self.runs.alive(run) for run in pending):
                progress_at = now
            if any(state != "over" for turns in states.values() for state in turns):
                quiet_since = now
            if now - quiet_since >= idle_s:
                return True
            if now - progress_at >= patience_s:
                return False
            if not any("more" in turns for turns in states.values()):
                self.sleep(poll_s)

    def close(self) -> None:
        """Close the sinks."""
        for sink in self.sinks.values():
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    # --- Which runs have something to send.

    def _pending(self) -> list[str]:
        """Runs with something to send, the oldest first: a search comes before its trials, which are nested in it."""
        self._list()
        pending = []
        for run in list(self._watched):
            alive = self.runs.alive(run)  # before the look at its files
            mark = self._mark(run)
            if self._is_pending(run):
                pending.append(run)
            elif not alive:
                del self._watched[run]
                self._settled[run] = mark
        return pending

    def _list(self) -> None:
        """Watch new runs, and runs that were resumed. A run of which nothing is left costs nothing until then."""
        now = self.clock.monotonic()
        try:
            changed = self.runs.path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if now < self._scan_at:
            if changed != self._listed_at:
                new = set(os.listdir(self.runs.path)) - self._settled.keys() - self._watched.keys()
                if new:
                    self._watched |= dict.fromkeys(run for run in self.runs.names()[::-1] if run in new)
                self._listed_at = changed
            return
        names = self.runs.names()[::-1]
        self._watched = {run: None for run in names if self._settled.get(run) != self._mark(run)}
        self._settled = {run: mark for run, mark in self._settled.items() if run not in self._watched}
        self._listed_at = changed
        self._scan_at = now + max(SCAN_S, (self.clock.monotonic() - now) / SCAN_SHARE)

    def _mark(self, run: str) -> tuple[int, int]:
        """What changes when a run is resumed: its driver writes, and its processes begin segments."""
        folder = self.runs.folder(run)
        try:
            return _driver_bytes(folder), folder.stat().st_mtime_ns
        except FileNotFoundError:  # it was removed meanwhile
            return 0, 0

    def _is_pending(self, run: str) -> bool:
        folder = self.runs.folder(run)
        try:
            if not has_logged(folder):
                return False
            stands = {
                name: standing(self.runs, run, name) for name in self.sinks if not self._gave_up(name, run)
            }
        except (HookeError, OSError):
            return True  # its turn says what is wrong
        return any(each.pending_bytes or not each.told for each in stands.values())

    def _gave_up(self, name: str, run: str) -> bool:
        lane = self._lanes.get((name, run))
        return lane is not None and lane.again_at == inf

    # --- A run's turn.

    def _turns(self, run: str) -> list[_Turn]:
        """A load of the run for each sink."""
        return [self._turn(name, sink, run) for name, sink in self.sinks.items()]

    def _turn(self, name: str, sink: Sink, run: str) -> _Turn:
        folder = self.runs.folder(run)
        lane = self._lanes.get((name, run))
        if lane is not None and self.clock.monotonic() < lane.again_at:
            return "over" if lane.again_at == inf else "waits"
        if lane is None or not lane.readable:
            lane = self._lanes[name, run] = _RunInSink(
                Outbox(folder, {}),
                Cursor(),
                readable=False,
                pause_s=lane.pause_s if lane is not None else 0.0,
            )
        try:
            if not lane.readable:
                lane.cursor = load_cursor(folder, name)
                lane.outbox = Outbox(folder, lane.cursor.offsets, known=run in lane.cursor.opened)
                lane.readable = True
            self._check(lane, sink, folder)
            state = self._send_load(lane, sink, name, folder, alive=self.runs.alive(run))
        except (SinkAway, OSError) as error:  # the tracker, or our own disk and file descriptors
            return self._put_off(lane, name, run, error)
        except Exception as error:  # noqa: BLE001 - a fault in one run, or in a sink, must not stop the others
            self._give_up(lane, name, run, error)
            return "over"
        if state == "over":
            del self._lanes[name, run]
        return state

    def _check(self, lane: _RunInSink, sink: Sink, folder: Path) -> None:
        """Begin anew where the tracker has less than the cursor says: runs were purged, an older copy of it was restored, or it is another one."""
        if lane.checked or not isinstance(sink, CheckedSink):
            return
        cursor = lane.cursor
        run = lane.outbox.itself() if cursor.opened else None
        if run is not None:
            held = sink.holds(run, cursor.opened)
            missing = cursor.opened.keys() - held.keys
            if missing or held.sent < _sent_bytes(cursor.offsets):
                why = (
                    f"{len(missing):,} of its {len(cursor.opened):,} runs were missing"
                    if missing
                    else "a part was missing"
                )
                lane.cursor = Cursor(notes=[f"it was sent again, as {why} there"])
                lane.outbox = Outbox(folder, {})
                lane.load, lane.points, lane.merged = None, 0, 0
        lane.checked = True

    def _put_off(self, lane: _RunInSink, name: str, run: str, error: HookeError | OSError) -> _Turn:
        lane.pause_s = min(max(1.0, 2 * lane.pause_s), LONGEST_PAUSE_S)
        lane.again_at = self.clock.monotonic() + lane.pause_s
        lane.checked = False  # it may come back with another content
        if lane.cursor.away_since is None:
            lane.cursor.away_since = self.clock.now()
        lane.cursor.trouble = _sentence(error)
        _log.warning("%s into %s: %s; again in %.0f s", run, name, lane.cursor.trouble, lane.pause_s)
        self._note_trouble(lane, name, run)
        return "waits"

    def _give_up(self, lane: _RunInSink, name: str, run: str, error: Exception) -> None:
        """Waiting does not help: `hooke show` reports it, and the next process retries."""
        lane.cursor.trouble, lane.again_at, lane.load = _sentence(error), inf, None
        unforeseen = None if isinstance(error, HookeError) else error
        _log.error("%s into %s: %s", run, name, lane.cursor.trouble, exc_info=unforeseen)
        self._note_trouble(lane, name, run)

    def _note_trouble(self, lane: _RunInSink, name: str, run: str) -> None:
        if not lane.readable:
            return
        try:
            save_cursor(self.runs.folder(run), name, lane.cursor)
        except OSError as error:
            lane.unsaved = True
            _log.warning("%s into %s: how far it is sent cannot be saved: %s", run, name, error)

    def _send_load(self, lane: _RunInSink, sink: Sink, name: str, folder: Path, *, alive: bool) -> _Turn:
        cursor = lane.cursor
        if lane.load is None:
            lane.load = lane.outbox.load(alive=alive)
        load = lane.load
        if not load.batches:
            lane.load = None
            self._finish(lane, sink, name, folder, alive=alive)
            return "sent" if alive else "over"
        while load.batches:
            batch = load.batches[0]
            receipt = sink.write(batch)
            load.batches.pop(0)  # taken: an interruption after it does not send it again
            self._sent += 1
            lane.unsaved = True
            cursor.opened.setdefault(batch.run.key, "running")
            lane.points += len(batch.points.names)
            lane.merged += receipt.merged
            cursor.note(receipt.notes)
        if isinstance(sink, CheckedSink) and (run := lane.outbox.itself()) is not None:
            sink.mark(run, _sent_bytes(load.offsets))
        lane.outbox.shipped_up_to(load)
        cursor.offsets, lane.load = load.offsets, None
        cursor.points, lane.points = cursor.points + lane.points, 0
        cursor.merged, lane.merged = cursor.merged + lane.merged, 0
        self._save(lane, name, folder)
        return "more"

    def _finish(self, lane: _RunInSink, sink: Sink, name: str, folder: Path, *, alive: bool) -> None:
        cursor = lane.cursor
        for key, known in list(cursor.opened.items()):
            ended = lane.outbox.ended(key, alive=alive)
            status = "running" if ended is None else ended.status
            if ended is not None and status != known:
                sink.finish(ended)
                self._sent += 1
            lane.unsaved |= status != known
            cursor.opened[key] = status
        size = _driver_bytes(folder)
        if not alive and cursor.driver_bytes != size:
            cursor.driver_bytes, lane.unsaved = size, True
        if lane.unsaved or cursor.trouble:
            self._save(lane, name, folder)

    def _save(self, lane: _RunInSink, name: str, folder: Path) -> None:
        lane.pause_s, lane.cursor.away_since, lane.cursor.trouble = 0.0, None, ""
        save_cursor(folder, name, lane.cursor)
        lane.unsaved = False


class SyncState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a run in a sink."""

    points: int
    pending_bytes: int
    """Bytes of the journal that are not sent yet."""
    told: bool
    """Whether the sink has the run's end."""
    cursor: Cursor


def logged_bytes(folder: Path) -> dict[str, int]:
    """The sizes of the segments with what a run has logged."""
    return {file.stem: file.stat().st_size for file in logged_segments(folder)}


def standing(runs: RunsFolder, run: str, sink: str, goal: Mapping[str, int] | None = None) -> SyncState:
    """The state of a run in a sink, by its cursor and its segments' sizes (`goal`: those to reach; by default today's).

    Raises JournalError for a damaged cursor.
    """
    folder = runs.folder(run)
    cursor = load_cursor(folder, sink)
    pending = sum(
        max(0, size - cursor.offsets.get(name, HEADER_BYTES))
        for name, size in (logged_bytes(folder) if goal is None else goal).items()
    )
    told = cursor.opened.get(run, "running") != "running" and cursor.driver_bytes == _driver_bytes(folder)
    return SyncState(points=cursor.points, pending_bytes=pending, told=told, cursor=cursor)


def _sent_bytes(offsets: Mapping[str, int]) -> int:
    """One number that grows with each load of a run."""
    return sum(offsets.values())


def _driver_bytes(folder: Path) -> int:
    file = folder / f"driver{SUFFIX}"
    return file.stat().st_size if file.exists() else 0


def _sentence(error: Exception) -> str:
    if not isinstance(error, HookeError):
        return f"{type(error).__name__}: {error}"
    said = f"{error.what}: {error.why}" if error.why else error.what
    return f"{said}; {error.fix}" if error.fix else said
