"""A batcher under open-loop load in virtual time: a seed is a whole history of arrivals and of batches that take longer or shorter."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hooke.serving.admission import Urgency
from hooke.serving.batcher import Batcher, BatchLimits, PendingRequest

TIMEOUT_S = 30.0
SWEEP_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Law:
    """The time of a batch, and how far single ones are from it."""

    a: float
    b: float
    spread: float = 0.1
    """Uniform, of the mean."""
    max_batch: int = 1

    @property
    def capacity(self) -> float:
        """Requests of one row a second."""
        return self.max_batch / (self.a * self.max_batch + self.b)


@dataclass
class Played:
    """The arrivals by urgency, and what became of them."""

    arrived: list[PendingRequest] = field(default_factory=list)
    refused: list[PendingRequest] = field(default_factory=list)
    shed: list[tuple[float, PendingRequest]] = field(default_factory=list)
    answered: list[tuple[float, PendingRequest]] = field(default_factory=list)
    order: list[PendingRequest] = field(default_factory=list)
    """As they were begun."""
    rooms: list[int | None] = field(default_factory=list)

    def count(self, began: float, ended: float, urgency: Urgency | None = None) -> dict[str, int]:
        """Of those that arrived in a time."""

        def those(found):
            return [
                one for one in found if began <= one[1].arrived < ended and urgency in (None, one[1].urgency)
            ]

        answered = those(self.answered)
        return {
            "arrived": len(those((0.0, one) for one in self.arrived)),
            "refused": len(those((0.0, one) for one in self.refused)),
            "shed": len(those(self.shed)),
            "in time": sum(at <= one.goal for at, one in answered),
            "late": sum(at > one.goal for at, one in answered),
        }


def play(
    seed: int,
    law: Law,
    rates: Callable[[float], dict[Urgency, float]],
    *,
    slo_s: float,
    seconds: float,
    percent: float = 99.0,
) -> Played:
    """`rates` gives the arrivals a second at a time."""
    chance, played = random.Random(seed), Played()
    batcher = Batcher(
        BatchLimits(max_batch=law.max_batch, max_waiting=100_000, slo_s=slo_s, slo_percent=percent)
    )
    numbers, events, swept = itertools.count(), [], 0.0
    group = "a" if law.max_batch > 1 else None

    def arrive(now: float) -> None:
        given = rates(now)
        (urgency,) = chance.choices(list(given), list(given.values()))
        request = PendingRequest(
            group=group,
            rows=1,
            arrived=now,
            deadline=now + TIMEOUT_S,
            goal=now + slo_s,
            urgency=urgency,
            law="m",
        )
        played.arrived.append(request)
        if not batcher.offer(request):
            played.refused.append(request)
        after = now + chance.expovariate(sum(given.values()))
        if after < seconds:
            heapq.heappush(events, (after, next(numbers), "arrive", None))

    heapq.heappush(events, (0.0, next(numbers), "arrive", None))
    while events:
        now, _, what, batch = heapq.heappop(events)
        if what == "arrive":
            arrive(now)
        else:
            batcher.finished(now)
            played.rooms.append(batcher.room())
            played.answered += [(now, one) for one in batch.requests]
        batch = batcher.take(now)
        if now >= swept + SWEEP_S:
            swept = now
            assert batcher.expired(now) == []
        played.shed += [(now, one) for one in batcher.shed()]
        if batch is not None:
            played.order += batch.requests
            took = (law.a * batch.rows + law.b) * (1 + law.spread * chance.uniform(-1, 1))
            heapq.heappush(events, (now + took, next(numbers), "done", batch))
    assert batcher.waiting_rows == 0
    assert len(played.answered) + len(played.shed) + len(played.refused) == len(played.arrived)
    return played
