"""When the model runs, and on which requests: a pure policy that takes events and times, and returns decisions.

The model runs one batch at a time. A batch is fired when the model is free: of the oldest waiting request, and of those after
it that may go with it, up to `max_batch` rows. Nothing is waited for, unless `wait_s` says so. A batch that fails is halved
until it is one request: that one alone is to blame.

With `fill` a free model waits while it pays: until as many requests are there as were there together with the last batches, and at
most as long as a batch takes whatever its size, which is what a batch that need not be run saves. One who asks alone waits for nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Batch", "BatchLimits", "Batcher", "FixedPart", "PendingRequest"]

FORGET = 0.98
"""What is left of a batch's weight in the law when the next one ended: some fifty batches tell it."""
EMPTY = 10
"""Fixed parts of a batch without anybody, and what was there together before says nothing of what comes."""
RECENT = 0.2
"""Weight of the newest batch in the mean time of a row: the mean forgets a batch after some five more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What a batcher keeps to. `max_batch` and `max_waiting` are rows, `wait_s` seconds."""

    max_batch: int = 1
    """The most rows of a batch. A single request may have more: it goes alone."""
    max_waiting: int = 1024
    """The most rows that wait. A single request may have more when nothing waits."""
    wait_s: float = 0.0
    """How long a free model waits for more rows than there are, counted from the oldest request's arrival."""
    fill: bool = False
    """Whether a free model waits while it pays."""


@dataclass(slots=True, kw_only=True, eq=False)
class PendingRequest:
    """One that waits for the model. Requests of equal `group` may go together; with None it goes alone."""

    group: Hashable
    rows: int
    arrived: float
    deadline: float
    left: bool = False
    """Nobody waits for it any more: cancelled, or past its deadline."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model is to run, in order of arrival."""

    requests: tuple[PendingRequest, ...]
    fired: float

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return sum(request.rows for request in self.requests)


class FixedPart:
    """What a batch takes whatever its size: b of the law `a * rows + b`, by least squares over the last batches."""

    __slots__ = ("_weight", "_x", "_xx", "_xy", "_y")

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, rows: int, took_s: float) -> None:
        """A batch ended."""
        self._weight = self._weight * FORGET + 1.0
        self._x = self._x * FORGET + rows
        self._y = self._y * FORGET + took_s
        self._xx = self._xx * FORGET + rows * rows
        self._xy = self._xy * FORGET + rows * took_s

    @property
    def seconds(self) -> float:
        """Never below 0, and never above the mean. Where all batches had one size nothing tells the parts: then it is all of it."""
        if not self._weight:
            return 0.0
        spread = self._xx - self._x * self._x / self._weight
        # Below this all were of one size, but for the rounding of the sums.
        slope = (self._xy - self._x * self._y / self._weight) / spread if spread > 1e-6 * self._xx else 0.0
        return max(0.0, (self._y - max(0.0, slope) * self._x) / self._weight)


class Batcher:
    """The waiting requests and the one batch that runs. All times are seconds of one clock, which never goes back.

    Whoever drives it calls `offer` for an arrival, `cancel` for a departure, `expired` at times, and `take` after each of these
    and whenever `wakes` says; then `finished` or `failed` once for each batch taken.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.running: Batch | None = None
        self._waiting: deque[PendingRequest] = deque()
        self._halves: deque[tuple[PendingRequest, ...]] = deque()
        self._late: list[PendingRequest] = []
        self._rows = 0
        self._row_s = 0.0
        self._fixed = FixedPart()
        self._together = 0.0
        """Requests that were there when the last batches ended, on average: those of the batch, and those that waited."""
        self._freed = 0.0

    @property
    def waiting_rows(self) -> int:
        """Rows that wait, those of halved batches not counted: they were let in before."""
        return self._rows

    def offer(self, request: PendingRequest, *, accepted: bool = False) -> bool:
        """Let a request in. False where it would wait among more than `max_waiting` rows, or have its answer after its deadline.

        Where nothing waits it is let in whatever it may take. One that is `accepted` is the rest of something that was let in, and is never refused.
        """
        if not accepted and self._rows > 0:
            full = self._rows + request.rows > self.limits.max_waiting
            if full or request.arrived + self._answered_in_s(request) > request.deadline:
                return False
        if self.running is None and request.arrived - self._freed > EMPTY * self._fixed.seconds:
            self._together = 0.0
        self._waiting.append(request)
        self._rows += request.rows
        return True

    def backlog_s(self) -> float:
        """Seconds that the waiting rows are going to take, as far as the last batches tell."""
        return self._rows * self._row_s

    def _answered_in_s(self, request: PendingRequest) -> float:
        """What runs, what waits and the request itself: one that waits until its deadline and then runs is late."""
        running = self.running.rows if self.running is not None else 0
        return (running + self._rows + min(request.rows, self.limits.max_batch)) * self._row_s

    def cancel(self, request: PendingRequest) -> None:
        """Its caller has gone: it leaves. One that runs goes on, for there is no way to stop it."""
        if not request.left:
            request.left = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._rows -= request.rows
        elif request in self._late:
            self._late.remove(request)

    def inside(self) -> list[PendingRequest]:
        """All that were let in and have no end yet: those that run, the halves of failed batches, those that wait."""
        running = self.running.requests if self.running else ()
        return [*running, *(one for half in self._halves for one in half), *self._waiting]

    def expired(self, now: float) -> list[PendingRequest]:
        """Those past their deadline, waiting or running, which leave with this; each is told once."""
        for request in self.inside():
            self._leave_if_late(request, now)
        late = list(self._late)
        self._late.clear()
        return late

    def take(self, now: float) -> Batch | None:
        """The batch to run now. None where the model is busy, nothing waits, or more rows are waited for."""
        if self.running is not None:
            return None
        chosen = self._next_half(now)
        if not chosen:
            while self._waiting and self._leave_if_late(self._waiting[0], now):
                pass
            if not self._waiting or now < self._ripe():
                return None
            chosen = self._gather(now)
        self.running = Batch(chosen, now)
        return self.running

    def wakes(self) -> float:
        """When `take` is to be called again though nothing happens before; infinity where it need not."""
        if self.running is not None or not self._waiting:
            return math.inf
        return self._ripe()

    def finished(self, now: float, took_s: float | None = None) -> None:
        """The running batch has its results. `took_s` is how long it took, where that is known better than by these times."""
        batch = self._end()
        took = now - batch.fired if took_s is None else took_s
        row_s = took / max(1, batch.rows)
        self._row_s += (row_s - self._row_s) * (RECENT if self._row_s else 1.0)
        self._fixed.add(batch.rows, took)
        self._together += (len(batch.requests) + len(self._waiting) - self._together) * RECENT
        self._freed = now

    def failed(self) -> PendingRequest | None:
        """The running batch raised: the request that is to blame, or None where halves of it are to run first."""
        batch = self._end()
        if len(batch.requests) == 1:
            return batch.requests[0]
        middle = len(batch.requests) // 2
        self._halves.extendleft((batch.requests[middle:], batch.requests[:middle]))
        return None

    def lost(self) -> None:
        """The running batch is gone with the model: it has no results, and none of it is run again."""
        self._end()

    def _end(self) -> Batch:
        assert self.running is not None, "no batch runs"
        batch, self.running = self.running, None
        return batch

    def _leave_if_late(self, request: PendingRequest, now: float) -> bool:
        late = not request.left and now >= request.deadline
        if late:
            self._late.append(request)
            self.cancel(request)
        return late

    def _next_half(self, now: float) -> tuple[PendingRequest, ...]:
        while self._halves:
            half = self._halves.popleft()
            chosen = tuple(one for one in half if not self._leave_if_late(one, now) and not one.left)
            if chosen:
                return chosen
        return ()

    def _ripe(self) -> float:
        """When the oldest request has waited long enough: at once if there are rows enough, and in time for its deadline."""
        first = self._waiting[0]
        if first.group is None or self._rows >= self.limits.max_batch:
            return first.arrived
        until = first.arrived + self.limits.wait_s
        if self.limits.fill and len(self._waiting) < round(self._together):
            until = max(until, max(first.arrived, self._freed) + self._fixed.seconds)
        spare = first.deadline - self._rows * self._row_s
        return min(until, max(first.arrived, spare))

    def _gather(self, now: float) -> tuple[PendingRequest, ...]:
        """The oldest request and those that go with it; the others keep their order."""
        first = self._waiting.popleft()
        chosen, rows = [first], first.rows
        self._rows -= first.rows
        passed: deque[PendingRequest] = deque()
        while first.group is not None and rows < self.limits.max_batch and self._waiting:
            request = self._waiting[0]
            if self._leave_if_late(request, now):
                continue
            self._waiting.popleft()
            if request.group == first.group and rows + request.rows <= self.limits.max_batch:
                chosen.append(request)
                rows += request.rows
                self._rows -= request.rows
            else:
                passed.append(request)
        self._waiting.extendleft(reversed(passed))
        return tuple(chosen)
