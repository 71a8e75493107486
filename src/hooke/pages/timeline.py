"""What each worker of a run did when: waited, moved data, or computed. Pure; a million attempts are a few thousand bars."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from hooke.base.formats import format_seconds
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, Event, RunStarted

__all__ = ["Bar", "Lane", "Timeline", "TimelineView"]

MOST_BARS = 1500
"""With more attempts, a lane has bars of equal width that say how much of their time was used."""
MOST_LANES = 40
"""Workers with lanes of their own; the others share one."""
BINS = 240
WIDTH = 1000.0
"""Of a lane, in its own units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """From `x` on, `width` wide, `height` high (1 is the whole lane): `kind` is `compute`, `transfer` or `failed`."""

    kind: str
    x: float
    width: float
    height: float = 1.0
    said: str = ""
    """For who points at it; empty for one of many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A worker: its bars, and its seconds by what it did."""

    worker: str
    bars: tuple[Bar, ...]
    compute_s: float
    transfer_s: float
    wait_s: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All lanes, from the first start (0) to `seconds`."""

    seconds: float
    lanes: tuple[Lane, ...]
    single: bool
    """Whether each bar is one attempt."""

    @property
    def compute_s(self) -> float:
        """Of all workers."""
        return sum(lane.compute_s for lane in self.lanes)

    @property
    def transfer_s(self) -> float:
        """Of all workers."""
        return sum(lane.transfer_s for lane in self.lanes)

    @property
    def wait_s(self) -> float:
        """Of all workers."""
        return sum(lane.wait_s for lane in self.lanes)


class TimelineView:
    """A fold of the driver's events. Without gaps between a driver's death and the resume it would draw nothing useful, so they stay."""

    def __init__(self) -> None:
        self._running: dict[int, AttemptStarted] = {}
        self._workers: dict[str, int] = {}
        self._tasks: dict[str, int] = {}
        # A column each: an object for each attempt would take ten times the memory.
        self._worker, self._task, self._attempt = array("l"), array("l"), array("q")
        self._began, self._ended, self._seconds = array("d"), array("d"), array("d")
        self._failed = bytearray()

    def apply(self, event: Event, task: str = "") -> None:
        """Fold one event. `task` is that of an attempt that ended."""
        match event:
            case RunStarted():
                self._running.clear()
            case AttemptStarted():
                self._running[event.attempt] = event
            case AttemptFinished() | AttemptFailed():
                began = self._running.pop(event.attempt, None)
                if began is not None:
                    failed = isinstance(event, AttemptFailed) and not event.resized
                    for worker in began.workers or (began.worker,):
                        self._add(worker, task, began.at, event, failed=failed)
            case _:
                pass

    def _add(
        self, worker: str, task: str, began: float, event: AttemptFinished | AttemptFailed, *, failed: bool
    ) -> None:
        self._worker.append(self._workers.setdefault(worker, len(self._workers)))
        self._task.append(self._tasks.setdefault(task, len(self._tasks)))
        self._attempt.append(event.attempt)
        self._began.append(began)
        self._ended.append(max(event.at, began))
        self._seconds.append(min(event.seconds, max(event.at - began, 0.0)))
        self._failed.append(failed)

    def drawn(self, now: float) -> Timeline:
        """The lanes until the last end, or until `now` while attempts run."""
        begun = [*self._running.values()]
        starts = [*self._began, *(each.at for each in begun)]
        if not starts:
            return Timeline(seconds=0.0, lanes=(), single=True)
        first = min(starts)
        last = max([*self._ended, *(now for _ in begun)])
        span = max(last - first, 1e-6)
        of_worker: dict[int, list[int]] = {at: [] for at in range(len(self._workers))}
        for at, worker in enumerate(self._worker):
            of_worker[worker].append(at)
        single = len(self._worker) <= MOST_BARS
        busiest = sorted(of_worker, key=lambda worker: -sum(self._seconds[at] for at in of_worker[worker]))
        shown = sorted(busiest[:MOST_LANES])
        rest = [at for worker in busiest[MOST_LANES:] for at in of_worker[worker]]
        names = list(self._workers)
        lanes = [self._lane(names[at], of_worker[at], first, span, single=single) for at in shown]
        if rest:
            others = len(busiest) - MOST_LANES
            lanes.append(
                self._lane(f"{others} more", sorted(rest), first, span, single=False, workers=others)
            )
        return Timeline(seconds=span, lanes=tuple(lanes), single=single)

    def _lane(
        self, name: str, attempts: Sequence[int], first: float, span: float, *, single: bool, workers: int = 1
    ) -> Lane:
        computed = sum(self._seconds[at] for at in attempts)
        used = sum(self._ended[at] - self._began[at] for at in attempts)
        return Lane(
            worker=name,
            bars=tuple(
                self._bars(attempts, first, span) if single else self._bins(attempts, first, span, workers)
            ),
            compute_s=computed,
            transfer_s=used - computed,
            wait_s=max(workers * span - used, 0.0),
            attempts=len(attempts),
        )

    def _bars(self, attempts: Sequence[int], first: float, span: float) -> list[Bar]:
        bars: list[Bar] = []
        tasks = list(self._tasks)
        for at in attempts:
            began, ended, seconds = self._began[at], self._ended[at], self._seconds[at]
            said = f"{tasks[self._task[at]]} #{self._attempt[at]}: {format_seconds(seconds)}"
            moved = ended - began - seconds
            if moved > 1e-3 * span:
                more = f"{said} after {format_seconds(moved)} of transfer"
                bars.append(_bar("transfer", began - first, moved, span, said=more))
            kind = "failed" if self._failed[at] else "compute"
            bars.append(_bar(kind, ended - seconds - first, seconds, span, said=said))
        return bars

    def _bins(self, attempts: Sequence[int], first: float, span: float, workers: int) -> list[Bar]:
        """The share of each bin's time: that of computing from below, that of transfer on top of it."""
        width = span / BINS
        shares = {kind: [0.0] * BINS for kind in ("compute", "failed", "transfer")}
        for at in attempts:
            middle = self._ended[at] - self._seconds[at]
            _spread(shares["transfer"], self._began[at] - first, middle - first, width)
            kind = "failed" if self._failed[at] else "compute"
            _spread(shares[kind], middle - first, self._ended[at] - first, width)
        bars: list[Bar] = []
        for number in range(BINS):
            top = 0.0
            for kind, column in shares.items():
                share = min(column[number] / workers, 1.0 - top)
                if share > 0.01:
                    top += share
                    # Drawn from above, so a higher bar lies behind a lower one.
                    bars.append(_bar(kind, number * width, width, span, height=round(top, 3)))
        return sorted(bars, key=lambda bar: (-bar.height, bar.x))


def _bar(kind: str, start: float, seconds: float, span: float, *, height: float = 1.0, said: str = "") -> Bar:
    return Bar(
        kind=kind,
        x=round(WIDTH * start / span, 2),
        width=max(round(WIDTH * seconds / span, 2), 0.4),
        height=height,
        said=said,
    )


def _spread(shares: list[float], start: float, end: float, width: float) -> None:
    """Add the seconds from `start` to `end` to the bins that they lie in, as shares of a bin."""
    first, last = int(start / width), min(int(end / width), len(shares) - 1)
    for number in range(max(first, 0), last + 1):
        inside = min(end, (number + 1) * width) - max(start, number * width)
        shares[number] += max(inside, 0.0) / width
