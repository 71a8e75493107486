"""A batcher under a virtual clock: a seed is a whole history of arrivals, departures, slow and failing batches."""

import heapq
import random
from dataclasses import dataclass, field

from hooke.serving.batcher import Batch, Batcher, BatchLimits, PendingRequest


@dataclass
class History:
    """What happened to each request that was let in: answered, blamed, late or cancelled; and the batches in order."""

    limits: BatchLimits
    accepted: list[PendingRequest] = field(default_factory=list)
    refused: list[PendingRequest] = field(default_factory=list)
    ends: dict[PendingRequest, list[str]] = field(default_factory=dict)
    batches: list[tuple[float, Batch, list[PendingRequest]]] = field(default_factory=list)
    """When it was fired, which, and what else waited before it."""
    guilty: set[PendingRequest] = field(default_factory=set)
    idle_while_waiting: list[tuple[float, float, PendingRequest]] = field(default_factory=list)
    """When, until when, and who is the oldest."""

    def end(self, request: PendingRequest, how: str) -> None:
        self.ends.setdefault(request, []).append(how)


class World:
    def __init__(self, seed: int, limits: BatchLimits, requests: int = 40) -> None:
        self.chance = random.Random(seed)
        self.history = History(limits)
        self.batcher = Batcher(limits)
        self.waiting: list[PendingRequest] = []
        self.events: list[tuple[float, int, str, object]] = []
        self.count = 0
        at = 0.0
        for _ in range(requests):
            at += self.chance.choice([0.0, 0.0, self.chance.expovariate(2.0)])
            self.at(at, "arrive", None)

    def at(self, when: float, what: str, about: object) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, about))

    def run(self) -> History:
        while self.events:
            now, _, what, about = heapq.heappop(self.events)
            getattr(self, what)(now, about)
            self.pump(now)
        return self.history

    def arrive(self, now: float, _about: object) -> None:
        request = PendingRequest(
            group=self.chance.choice(["a", "a", "b", None]),
            rows=self.chance.choice([1, 1, 1, 2, 3, 20]),
            arrived=now,
            deadline=now + self.chance.choice([0.3, 3.0, 30.0]),
        )
        before = self.batcher.waiting_rows
        if not self.batcher.offer(request):
            self.history.refused.append(request)
            assert before > 0, "nothing waited, and it was refused"
            return
        self.history.accepted.append(request)
        self.waiting.append(request)
        if self.chance.random() < 0.1:
            self.history.guilty.add(request)
        if self.chance.random() < 0.1:
            self.at(now + self.chance.random(), "leave", request)
        self.at(request.deadline + 0.5, "tick", None)

    def leave(self, _now: float, request: PendingRequest) -> None:
        if request not in self.history.ends:
            self.batcher.cancel(request)
            self.history.end(request, "cancelled")

    def tick(self, now: float, _about: object) -> None:
        """A timer, which looks for those whose time is over; `take` may have met them before."""
        for request in self.batcher.expired(now):
            self.history.end(request, "late")

    def done(self, now: float, batch: Batch) -> None:
        if self.history.guilty.isdisjoint(batch.requests):
            self.batcher.finished(now)
            ended = [(request, "answered") for request in batch.requests]
        else:
            blamed = self.batcher.failed()
            ended = [(blamed, "blamed")] if blamed is not None else []
        for request, how in ended:
            if request not in self.history.ends:
                self.history.end(request, how)

    def pump(self, now: float) -> None:
        batch = self.batcher.take(now)
        if batch is not None:
            self.history.batches.append((now, batch, [r for r in self.waiting if not r.left]))
            self.waiting = [r for r in self.waiting if r not in batch.requests]
            self.at(now + self.chance.choice([0.01, 0.2, 1.0]) + 0.01 * batch.rows, "done", batch)
        elif self.batcher.running is None and self.batcher.waiting_rows:
            wakes = self.batcher.wakes()
            oldest = next(r for r in self.waiting if not r.left)
            self.history.idle_while_waiting.append((now, wakes, oldest))
            assert wakes > now, "it asks to be woken at once, and took nothing"
            self.at(wakes, "tick", None)
