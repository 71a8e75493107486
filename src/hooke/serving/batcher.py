"""When the model runs, and on which requests: a policy that takes events and times, and returns decisions. Pure.

The model runs one batch at a time. When it is free, it gets the oldest waiting request with later ones of the same
group, up to `max_batch` rows. It does not wait for more, unless `wait_s` says so. A failed batch is halved
until it is one request: that request alone is to blame.

With `fill` a free model waits while it pays: until as many requests wait as were together with the last batches, and at
most for the fixed time of a batch, which is what an avoided batch saves. A lone client never waits for others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Batch", "BatchLimits", "Batcher", "FixedPart", "PendingRequest"]

FORGET = 0.98
"""A batch's weight in the law after one more batch: some fifty batches determine it."""
EMPTY = 10
"""After so many fixed times without a request, past batches say nothing about those to come."""
RECENT = 0.2
"""The newest batch's weight in the mean time of a row: a batch is forgotten after some five more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The limits of a batcher. `max_batch` and `max_waiting` are rows, `wait_s` seconds."""

    max_batch: int = 1
    """The most rows of a batch. A single request may have more: it runs alone."""
    max_waiting: int = 1024
    """The most rows that wait. A single request may have more if nothing waits."""
    wait_s: float = 0.0
    """How long a free model waits for more rows, counted from the oldest request's arrival."""
    fill: bool = False
    """Whether a free model waits while it pays."""


@dataclass(slots=True, kw_only=True, eq=False)
class PendingRequest:
    """A request that waits for the model. Requests of equal `group` may run together; with None a request runs alone."""

    group: Hashable
    rows: int
    arrived: float
    deadline: float
    left: bool = False
    """No client waits for it: it was cancelled, or is past its deadline."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests that the model runs together, in order of arrival."""

    requests: tuple[PendingRequest, ...]
    fired: float

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return sum(request.rows for request in self.requests)


class FixedPart:
    """The fixed time of a batch: b of the law `a * rows + b`, by least squares over the last batches."""

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
        """Between 0 and the mean. If all batches had one size, the parts cannot be told apart, and it is the mean."""
        if not self._weight:
            return 0.0
        spread = self._xx - self._x * self._x / self._weight
        # Below this, all batches had one size, up to rounding.
        slope = (self._xy - self._x * self._y / self._weight) / spread if spread > 1e-6 * self._xx else 0.0
        return max(0.0, (self._y - max(0.0, slope) * self._x) / self._weight)


class Batcher:
    """The waiting requests and the running batch. All times are seconds of one monotonic clock.

    The driver calls `offer` for an arrival, `cancel` for a departure, `expired` at times, `take` after each of these
    and at the time that `wakes` returns, then `finished` or `failed` once for each batch taken.
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
        """Mean number of requests present when the last batches ended: those of the batch, and those that waited."""
        self._freed = 0.0

    @property
    def waiting_rows(self) -> int:
        """Waiting rows; those of halved batches, admitted earlier, do not count."""
        return self._rows

    def offer(self, request: PendingRequest, *, accepted: bool = False) -> bool:
        """Admit a request. False if more than `max_waiting` rows would wait, or its answer would miss its deadline.

        If nothing waits, it is admitted whatever its size. An `accepted` one continues something admitted, and is never refused.
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
        """Seconds that the waiting rows will take, by the last batches."""
        return self._rows * self._row_s

    def _answered_in_s(self, request: PendingRequest) -> float:
        """Time for the running batch, the waiting rows and the request: one that starts at its deadline is late."""
        running = self.running.rows if self.running is not None else 0
        return (running + self._rows + min(request.rows, self.limits.max_batch)) * self._row_s

    def cancel(self, request: PendingRequest) -> None:
        """Remove a request whose client has gone. One that runs continues: it cannot be stopped."""
        if not request.left:
            request.left = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._rows -= request.rows
        elif request in self._late:
            self._late.remove(request)

    def inside(self) -> list[PendingRequest]:
        """All admitted requests that have not ended: running, halves of failed batches, waiting."""
        running = self.running.requests if self.running else ()
        return [*running, *(one for half in self._halves for one in half), *self._waiting]

    def expired(self, now: float) -> list[PendingRequest]:
        """Remove the requests past their deadline, waiting or running; each is returned once."""
        for request in self.inside():
            self._leave_if_late(request, now)
        late = list(self._late)
        self._late.clear()
        return late

    def take(self, now: float) -> Batch | None:
        """The batch to run now. None if the model is busy, nothing waits, or more rows are waited for."""
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
        """When to call `take` again if nothing happens before; infinity if not at all."""
        if self.running is not None or not self._waiting:
            return math.inf
        return self._ripe()

    def finished(self, now: float, took_s: float | None = None) -> None:
        """The running batch has its results. `took_s` is its duration, if known better than by these times."""
        batch = self._end()
        took = now - batch.fired if took_s is None else took_s
        row_s = took / max(1, batch.rows)
        self._row_s += (row_s - self._row_s) * (RECENT if self._row_s else 1.0)
        self._fixed.add(batch.rows, took)
        self._together += (len(batch.requests) + len(self._waiting) - self._together) * RECENT
        self._freed = now

    def failed(self) -> PendingRequest | None:
        """The running batch raised. Returns the request to blame, or None if halves of it run first."""
        batch = self._end()
        if len(batch.requests) == 1:
            return batch.requests[0]
        middle = len(batch.requests) // 2
        self._halves.extendleft((batch.requests[middle:], batch.requests[:middle]))
        return None

    def lost(self) -> None:
        """The running batch is lost with the model: it has no results, and is not run again."""
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
        """When the oldest request has waited long enough: at once if there are enough rows, and in time for its deadline."""
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
