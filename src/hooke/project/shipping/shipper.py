"""The process that ships for a project: every run that logged something, into every sink, until all is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import HookeError
from hooke.journal.runs import RunsFolder
from hooke.journal.segments import HEADER_BYTES, SUFFIX
from hooke.journal.sink import Sink, SinkAway
from hooke.project.shipping.cursor import Cursor, load_cursor, save_cursor
from hooke.project.shipping.outbox import Outbox, has_logged, logged_segments

__all__ = ["Shipper", "Standing", "standing"]

LONGEST_PAUSE_S = 60.0
"""Between two tries at a sink that is away."""

_log = logging.getLogger("hooke.ship")


@dataclass(slots=True)
class _Lane:
    """One run on its way into one sink."""

    outbox: Outbox
    cursor: Cursor
    pause_s: float = 0.0
    again_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class Shipper:
    """Ships the runs below `runs` into `sinks`. Use it in `with`: leaving it closes the sinks."""

    runs: RunsFolder
    sinks: Mapping[str, Sink]
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    _lanes: dict[tuple[str, str], _Lane] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    def ship(self, run: str) -> bool:
        """Ship what there is of a run now. Returns whether nothing is left and the run is over. A sink that is away is left alone."""
        done = [
            self._ship_into(name, sink, run) for name, sink in self.sinks.items()
        ]  # all, whatever one says
        return all(done)

    def follow(self, *, idle_s: float, patience_s: float, poll_s: float = 1.0) -> bool:
        """Ship what comes, until nothing has been left for `idle_s` seconds; returns whether that was so.

        Gives up, and returns False, when no run goes on and no sink has taken anything for `patience_s` seconds: what is
        left stays in the journals.
        """
        quiet_since = progress_at = self.clock.monotonic()
        while True:
            # The oldest first: a search before its trials, which are nested in it.
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
        """Let go of sinks and journals."""
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
            # Nothing that comes back by waiting: said where `hooke show` finds it, and tried anew with the next process.
            lane.cursor.trouble, lane.again_at = _sentence(error), float("inf")
            _log.error("%s into %s: %s", run, name, lane.cursor.trouble)
            save_cursor(folder, name, lane.cursor)
            return True
        return done

    def _lane(self, name: str, run: str, folder: Path) -> _Lane:
        cursor = load_cursor(folder, name)
        outbox = self._opened.enter_context(Outbox(folder, cursor.offsets, known=run in cursor.opened))
        lane = self._lanes[name, run] = _Lane(outbox, cursor)
        return lane

    def _drain(self, lane: _Lane, sink: Sink, name: str, folder: Path, *, alive: bool) -> bool:
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

    def _finish(self, lane: _Lane, sink: Sink, name: str, folder: Path, *, alive: bool) -> None:
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
class Standing:
    """How a run stands in a sink."""

    points: int
    pending_bytes: int
    """Of the journal, not shipped yet."""
    told: bool
    """Whether the sink knows how the run ended."""
    cursor: Cursor


def standing(runs: RunsFolder, run: str, sink: str) -> Standing:
    """How a run stands in a sink, by its cursor and the sizes of its segments. Raises JournalError for a damaged cursor."""
    folder = runs.folder(run)
    cursor = load_cursor(folder, sink)
    pending = 0
    for file in logged_segments(folder):
        pending += max(0, file.stat().st_size - cursor.offsets.get(file.stem, HEADER_BYTES))
    told = cursor.opened.get(run, "running") != "running" and cursor.driver_bytes == _driver_bytes(folder)
    return Standing(points=cursor.points, pending_bytes=pending, told=told, cursor=cursor)


def _driver_bytes(folder: Path) -> int:
    file = folder / f"driver{SUFFIX}"
    return file.stat().st_size if file.exists() else 0


def _sentence(error: HookeError) -> str:
    said = f"{error.what}: {error.why}" if error.why else error.what
    return f"{said}; {error.mend}" if error.mend else said
