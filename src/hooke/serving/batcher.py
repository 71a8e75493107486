"""When the model runs, and on which requests: a policy that takes events and times, and returns decisions. Pure.

The model runs one batch at a time. When it is free, it gets the oldest waiting request with later ones of the same
group, up to `max_batch` rows. It does not wait for more, unless `wait_s` says so. A failed batch is halved
until it is one request: that request alone is to blame.

With `fill` a free model waits while it pays: until as many requests wait as were together with the last batches, and at
most for the fixed time of a batch, which is what an avoided batch saves. A lone client never waits for others.

Calls go before items of streams, and these before calls of low priority; what would miss its goal otherwise goes first if that makes
nothing more urgent late. What can't be answered by its goal is refused on arrival. What was admitted and has become late is computed
if nobody was refused for it, and shed otherwise: it would cost an answer in time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from hooke.serving.admission import BatchLaw, SloMargin, Urgency

__all__ = ["Batch", "BatchLimits", "Batcher", "PendingRequest"]

EMPTY = 10
"""After so many fixed times without a request, past batches say nothing about those to come."""
RECENT = 0.2
"""The newest batch's weight in the mean number of requests together: a batch is forgotten after some five more."""

RARE = 0.01
"""A law of fewer of the recent requests says nothing about how many have room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The limits of a batcher. `max_batch` and `max_waiting` are rows, `wait_s` seconds."""

    max_batch: int = 1
    """The most rows of a batch. A single request may have more: it runs alone."""
    max_waiting: int = 1024
    """The most rows that wait at each urgency. A single request may have more if nothing waits."""
    slo_s: float = math.inf
    """The limit of the SLO, from which goals are made; infinity without one."""
    slo_percent: float = 99.0
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
    """After it no client waits."""
    goal: float = math.inf
    """When it is to be answered by the SLO."""
    urgency: Urgency = Urgency.CALL
    law: Hashable = None
    """Requests of equal `law` take equally long."""
    left: bool = False
    """No client waits for it: it was cancelled, shed, or is past its deadline."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests that the model runs together, in order of arrival."""

    requests: tuple[PendingRequest, ...]
    fired: float
    rows: int
    """Of all requests."""


@dataclass(slots=True)
class _Line:
    """The waiting requests of one urgency."""

    requests: deque[PendingRequest] = field(default_factory=deque)
    rows: int = 0
    together: dict[Hashable, int] = field(default_factory=dict)
    """Rows that may run together, by law."""
    alone: dict[Hashable, int] = field(default_factory=dict)
    """Requests that run alone, by law."""

    def add(self, request: PendingRequest, sign: int) -> None:
        """Count it in (1), or out (-1)."""
        if request.group is None:
            self.rows += sign * request.rows
            self.alone[request.law] = self.alone.get(request.law, 0) + sign
        else:
            self.add_rows(request.law, sign * request.rows)

    def add_rows(self, law: Hashable, rows: int) -> None:
        """Count rows that may run together in, or out if negative."""
        self.rows += rows
        self.together[law] = self.together.get(law, 0) + rows


@dataclass(slots=True)
class _Share:
    """What recent requests of one law were: their number and rows, with the newest counting most."""

    law: BatchLaw = field(default_factory=BatchLaw)
    requests: float = 0.0
    rows: float = 0.0
    alone: bool = False
    items: bool = False
    """Whether they are items of streams."""


class Batcher:
    """The waiting requests and the running batch. All times are seconds of one monotonic clock.

    The driver calls `offer` for an arrival, `cancel` for a departure, `expired` at times, `take` after each of these
    and at the time that `wakes` returns, then `finished` or `failed` once for each batch taken.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.running: Batch | None = None
        self._lines = tuple(_Line() for _ in Urgency)
        self._halves: deque[tuple[PendingRequest, ...]] = deque()
        self._late: list[PendingRequest] = []
        self._shed: list[PendingRequest] = []
        self._rows = 0
        self._shares: dict[Hashable, _Share] = {}
        self._margins = {urgency: SloMargin(limits.slo_s, limits.slo_percent) for urgency in Urgency}
        self._refused = -math.inf
        """When a request was refused last."""
        self._refused_call = -math.inf
        """When one was that is not of low priority."""
        self._fixed_s = 0.0
        self._longest_s = 0.0
        """The time of a full batch by the slowest law: a bound that is made once a batch, where requests are many more."""
        self._alone = 0
        """Waiting requests that run alone."""
        self._together = 0.0
        """Mean number of requests present when the last batches ended: those of the batch, and those that waited."""
        self._freed = 0.0

    @property
    def waiting_rows(self) -> int:
        """Waiting rows; those of halved batches, admitted earlier, do not count."""
        return self._rows

    def offer(self, request: PendingRequest, *, accepted: bool = False) -> bool:
        """Admit a request. False if too many rows would wait, or its answer would miss its goal or its deadline.

        Where nothing waits or runs it is admitted whatever its size. If even a free model would miss the goal, only the
        deadline counts. An `accepted` one continues something admitted, and is never refused.
        """
        if not (accepted or self._surely_fits(request) or self._fits(request)):
            self._refused = request.arrived
            if request.urgency is Urgency.CALL:
                self._refused_call = request.arrived
            return False
        if self.running is None and request.arrived - self._freed > EMPTY * self._fixed_s:
            self._together = 0.0
        line = self._lines[request.urgency]
        line.requests.append(request)
        line.add(request, 1)
        self._rows += request.rows
        self._alone += request.group is None
        return True

    def backlog_s(self) -> float:
        """Seconds that the waiting rows will take, by the last batches."""
        return self._waits_s(Urgency.LOW) if self._rows else 0.0

    def room(self) -> int | None:
        """How many calls may be inside, waiting or running, so that all are answered by the goal; None if that can't be told.

        It can't before a batch was measured, without an SLO, and if even a free model would miss the goal of a law that is not rare.
        """
        most, limit_s = self.limits.max_batch, self.limits.slo_s
        requests = spent_s = 0.0
        longest_s = 0.0
        calls = [share for share in self._shares.values() if not share.items]
        least = RARE * sum(share.requests for share in calls)
        for share in calls:
            if share.requests > least:
                rows = share.rows / share.requests
                size = rows if share.alone else max(rows, float(most))
                batch_s = share.law.seconds(size)
                longest_s = max(longest_s, batch_s)
                requests += share.requests
                spent_s += share.rows / size * batch_s
        if limit_s == math.inf or not spent_s or longest_s > limit_s:
            return None
        free_s = max(limit_s - self._margins[Urgency.CALL].seconds, 2 * longest_s)
        return max(2, math.ceil(requests * free_s / spent_s))

    def _surely_fits(self, request: PendingRequest) -> bool:
        """Whether it fits even if each law's waiting rows, each lone request, the running batch and its own one take as long as the slowest full batch."""
        urgency, rows, most = request.urgency, request.rows, self.limits.max_batch
        if (
            urgency is Urgency.LOW
            or rows > most
            or self._lines[urgency].rows + rows > self.limits.max_waiting
        ):
            return False
        running = self.running
        batches = 1 + (self._rows + rows) // most + len(self._shares) + self._alone
        ends = request.arrived + batches * self._longest_s + self._margins[urgency].seconds
        return (running is None or running.rows <= most) and ends <= request.goal and ends <= request.deadline

    def _fits(self, request: PendingRequest) -> bool:
        line = self._lines[request.urgency]
        low = request.urgency is Urgency.LOW
        if low and request.arrived - self._refused_call < self.limits.slo_s < math.inf:
            return False  # it would take the room of others, which are refused
        if not self._rows and (self.running is None or request.goal == math.inf):
            return True
        if line.rows and line.rows + request.rows > self.limits.max_waiting:
            return False
        share = self._shares.get(request.law)
        if share is None:
            return True  # nothing is known of it
        most = self.limits.max_batch
        alone_s = share.law.seconds(min(request.rows, most) if request.group is not None else request.rows)
        ends = request.arrived + self._left_s(request.arrived) + self._waits_s(request.urgency, request)
        if ends > request.deadline and self._rows:
            return False
        if request.urgency is Urgency.ITEM or request.arrived + alone_s > request.goal:
            return True  # streams are limited by their gaps
        if not self._rows or ends + self._margins[request.urgency].seconds <= request.goal:
            return ends <= request.goal
        # The margin must not let the model run dry: who would be in the next batch is admitted without it.
        next_one = request.group is not None and self._rows_before(request.urgency) + request.rows <= most
        return next_one and ends <= request.goal

    def _rows_before(self, urgency: Urgency) -> int:
        return sum(line.rows for line in self._lines[: urgency + 1])

    def _left_s(self, now: float) -> float:
        """Of the running batch."""
        running = self.running
        if running is None:
            return 0.0
        share = self._shares.get(running.requests[0].law)
        if share is None:
            return 0.0
        return max(0.0, share.law.seconds(running.rows) - max(0.0, now - running.fired))

    def _waits_s(self, urgency: Urgency, request: PendingRequest | None = None) -> float:
        """Time for what waits at this urgency or a higher one, with the request."""
        waits_s, most, lines = 0.0, self.limits.max_batch, self._lines[: urgency + 1]
        for law, share in self._shares.items():
            together = alone = 0
            for line in lines:
                if line.requests:
                    together += line.together.get(law, 0)
                    alone += line.alone.get(law, 0)
            if request is not None and request.law == law:
                if request.group is None:
                    waits_s += share.law.seconds(request.rows)
                else:
                    together += request.rows
            if together:
                waits_s += share.law.backlog_s(together, most)
            if alone:
                waits_s += alone * share.law.mean_s  # each of them was a batch of its own
        return waits_s

    def cancel(self, request: PendingRequest) -> None:
        """Remove a request whose client has gone. One that runs continues: it cannot be stopped."""
        if not request.left:
            request.left = True
            line = self._lines[request.urgency]
            if request in line.requests:
                line.requests.remove(request)
                self._count_out(request)
        else:
            for noted in (self._late, self._shed):
                if request in noted:
                    noted.remove(request)

    def inside(self) -> list[PendingRequest]:
        """All admitted requests that have not ended: running, halves of failed batches, waiting."""
        running = self.running.requests if self.running else ()
        waiting = (one for line in self._lines for one in line.requests)
        return [*running, *(one for half in self._halves for one in half), *waiting]

    def expired(self, now: float) -> list[PendingRequest]:
        """Remove the requests past their deadline, waiting or running; each is returned once."""
        begun = (
            *(self.running.requests if self.running else ()),
            *(one for half in self._halves for one in half),
        )
        for request in begun:
            if now >= request.deadline and not request.left:
                request.left = True
                self._late.append(request)
        for line in self._lines:
            for request in tuple(line.requests):
                self._leave_if_late(request, now)
        late = list(self._late)
        self._late.clear()
        return late

    def shed(self) -> list[PendingRequest]:
        """The requests that `take` and `expired` dropped because they can't be answered by their goals; each is returned once."""
        shed = list(self._shed)
        self._shed.clear()
        return shed

    def take(self, now: float) -> Batch | None:
        """The batch to run now. None if the model is busy, nothing waits, or more rows are waited for."""
        if self.running is not None:
            return None
        chosen = self._next_half(now)
        if not chosen:
            line = self._first_line(now)
            while line is not None and self._leave_if_late(line.requests[0], now):
                line = self._first_line(now)
            if line is None or now < self._next_ripe():
                return None
            chosen = self._gather(line, now)
        self.running = Batch(chosen, now, sum(one.rows for one in chosen))
        return self.running

    def wakes(self) -> float:
        """When to call `take` again if nothing happens before; infinity if not at all."""
        return math.inf if self.running is not None else self._next_ripe()

    def finished(self, now: float, took_s: float | None = None) -> None:
        """The running batch has its results. `took_s` is its duration, if known better than by these times."""
        batch = self._end()
        took = now - batch.fired if took_s is None else took_s
        self._measure(batch, took)
        if self.limits.slo_s < math.inf:
            late = sum(now > one.goal for one in batch.requests)
            self._margins[batch.requests[0].urgency].answered(late / len(batch.requests))
        waiting = sum(len(line.requests) for line in self._lines)
        if not waiting:
            for margin in self._margins.values():
                margin.calm()
        self._together += (len(batch.requests) + waiting - self._together) * RECENT
        self._freed = now

    def _measure(self, batch: Batch, took_s: float) -> None:
        first = batch.requests[0]
        share = self._shares.setdefault(first.law, _Share())
        share.alone, share.items = first.group is None, first.urgency is Urgency.ITEM
        share.law.add(batch.rows, took_s)
        for other in self._shares.values():
            other.requests *= 1 - RECENT / 4
            other.rows *= 1 - RECENT / 4
        share.requests += len(batch.requests)
        share.rows += batch.rows
        self._fixed_s = share.law.fixed_s
        most = self.limits.max_batch
        self._longest_s = max(max(one.law.seconds(most), one.law.mean_s) for one in self._shares.values())

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
        if request.left:
            return False
        if now >= request.deadline:
            noted = self._late
        elif self._is_hopeless(request, now):
            noted = self._shed
        else:
            return False
        self.cancel(request)
        noted.append(request)
        return True

    def _is_hopeless(self, request: PendingRequest, now: float) -> bool:
        """Whether a waiting call would be late, and another of no lower priority had to be refused, or waits, that is not."""
        if request.goal == math.inf or request.urgency is Urgency.ITEM:
            return False
        low = request.urgency is Urgency.LOW
        refused = self._refused if low else self._refused_call
        if refused < request.arrived and not (low and self._lines[Urgency.CALL].requests):
            return False
        share = self._shares.get(request.law)
        own_s = share.law.seconds(request.rows) if share is not None else 0.0
        return request.arrived + own_s <= request.goal < now + own_s

    def _next_half(self, now: float) -> tuple[PendingRequest, ...]:
        while self._halves:
            half = self._halves.popleft()
            chosen = tuple(one for one in half if not self._leave_if_late(one, now) and not one.left)
            if chosen:
                return chosen
        return ()

    def _first_line(self, now: float) -> _Line | None:
        """The waiting requests whose first one is next: the most urgent, unless a less urgent one is due and delays none of them too long."""
        chosen: _Line | None = None
        for line in self._lines:
            if not line.requests:
                continue
            if chosen is None:
                chosen = line
            elif self._is_due(line.requests[0], chosen, now):
                return line
        return chosen

    def _is_due(self, request: PendingRequest, before: _Line, now: float) -> bool:
        """Whether it would be late after one more batch, and those `before` it in order have time for it."""
        share = self._shares.get(request.law)
        own_s = share.law.seconds(request.rows) if share is not None else 0.0
        first, last = before.requests[0], before.requests[-1]
        other = self._shares.get(first.law)
        batch_s = other.law.seconds(self.limits.max_batch) if other is not None else 0.0
        if now + own_s + batch_s < min(request.goal, request.deadline):
            return False
        if request.urgency is Urgency.ITEM:
            return True
        return now + own_s + batch_s <= first.goal and now + own_s + self._waits_s(first.urgency) <= last.goal

    def _next_ripe(self) -> float:
        return min((self._ripe(line.requests[0]) for line in self._lines if line.requests), default=math.inf)

    def _ripe(self, first: PendingRequest) -> float:
        """When this one, the next, has waited long enough: at once if there are enough rows, and in time for its deadline."""
        if first.group is None or self._rows >= self.limits.max_batch:
            return first.arrived
        until = first.arrived + self.limits.wait_s
        if self.limits.fill and sum(len(line.requests) for line in self._lines) < round(self._together):
            until = max(until, max(first.arrived, self._freed) + self._fixed_s)
        spare = min(first.deadline, first.goal) - self.backlog_s()
        return min(until, max(first.arrived, spare))

    def _gather(self, line: _Line, now: float) -> tuple[PendingRequest, ...]:
        """The first request of the line and those that go with it, the most urgent first; the others keep their order."""
        first = line.requests.popleft()
        self._count_out(first)
        chosen, rows, most = [first], first.rows, self.limits.max_batch
        if first.group is None:
            return (first,)
        safe = now + self._longest_s
        """What is to be answered later than this is not late."""
        for other in (line, *(each for each in self._lines if each is not line)):
            passed: deque[PendingRequest] = deque()
            alike, requests = 0, other.requests
            while rows < most and requests:
                request = requests[0]
                doubtful = safe >= request.goal or now >= request.deadline or request.rows > most
                if doubtful and self._leave_if_late(request, now):
                    continue
                requests.popleft()
                if request.group != first.group or rows + request.rows > most:
                    passed.append(request)
                    continue
                chosen.append(request)
                rows += request.rows
                if request.law == first.law:
                    alike += request.rows
                else:
                    self._count_out(request)
            requests.extendleft(reversed(passed))
            if alike:
                other.add_rows(first.law, -alike)
                self._rows -= alike
        return tuple(chosen)

    def _count_out(self, request: PendingRequest) -> None:
        self._lines[request.urgency].add(request, -1)
        self._rows -= request.rows
        self._alone -= request.group is None
