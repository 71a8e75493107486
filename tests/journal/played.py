"""Histories of runs whose truth is known, as a journal would tell them."""

import heapq
from dataclasses import dataclass, field

from tests.journal.histories import ref

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    Failure,
    NodePlanned,
    RetryPlanned,
    RunFinished,
    RunStarted,
    WorkerStarted,
    WorkerStopped,
)

__all__ = ["History"]


@dataclass
class History:
    """A run of maps, played by a scheduler of a few lines: `sizes` is (time, slots), `pause` what a hand-over takes."""

    maps: list[tuple[str, int, float]]
    sizes: list[tuple[float, int]]
    pause: float = 0.0
    chunk: int = 1
    fail: frozenset[int] = frozenset()
    cpus: float = 1.0
    run: str = "r"
    size: str = "3"
    events: list[Event] = field(default_factory=list)

    def play(self) -> list[Event]:
        self.events = [
            RunStarted(at=0.0, run=self.run, pipeline="p", entry="f.py:p", place="local:2", host="h")
        ]
        for node, (task, items, _) in enumerate(self.maps):
            self.events.append(
                NodePlanned(
                    node=node, task=task, key=f"k{node}", kind="map", items=items, cpus=self.cpus,
                    code={"t": "d"}, inputs={"size": f"s{self.size}", "items": "i"}, shown={"size": self.size},
                )
            )  # fmt: skip
        todo = [
            (node, lo, min(lo + self.chunk, items))
            for node, (_, items, _) in enumerate(self.maps)
            for lo in range(0, items, self.chunk)
        ][::-1]
        slots, busy, attempt, now = 0, [], 0, 0.0
        sizes = sorted(self.sizes, reverse=True)
        idle: list[str] = []
        names = 0
        while todo or busy:
            while sizes and sizes[-1][0] <= now:
                slots = sizes.pop()[1]
                self.events.append(CapacityChanged(at=now, slots=slots, cpus=64.0))
            while todo and len(busy) < min(slots, int(64 / self.cpus)):
                if not idle:
                    names += 1
                    idle.append(f"w{names}")
                    self.events.append(WorkerStarted(at=now, worker=idle[-1]))
                attempt += 1
                node, lo, hi = todo.pop()
                worker = idle.pop()
                begin = now + self.pause
                self.events.append(
                    AttemptStarted(at=begin, attempt=attempt, node=node, lo=lo, hi=hi, worker=worker)
                )
                heapq.heappush(busy, (begin + (hi - lo) * self.maps[node][2], attempt, node, lo, hi, worker))
            now, done, node, lo, hi, worker = heapq.heappop(busy)
            facts = {"at": now, "attempt": done, "node": node, "lo": lo, "hi": hi, "worker": worker}
            if done in self.fail:
                failure = Failure(kind="TaskError", message="no")
                self.events.append(AttemptFailed(**facts, failure=failure))
                self.events.append(
                    RetryPlanned(at=now, node=node, lo=lo, hi=hi, number=2, due=now, reason="r")
                )
                todo.append((node, lo, hi))
            else:
                seconds = (hi - lo) * self.maps[node][2]
                self.events.append(AttemptFinished(**facts, ref=ref(done), seconds=seconds))
            if len(busy) >= slots:
                self.events.append(WorkerStopped(at=now, worker=worker, cause="the place shrinks"))
            else:
                idle.append(worker)
        self.events.append(RunFinished(at=now, status="finished"))
        # As in a journal, a start that was decided first may be stamped after an end.
        self.events.sort(key=lambda event: event.at)
        return self.events
