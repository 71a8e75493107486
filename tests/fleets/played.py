"""A run of the production scheduler on workers that sleep in virtual time, sized by the production policy."""

from dataclasses import dataclass, field
from typing import Any

from hooke import pipeline, task
from hooke.autoscaling.observation import FleetLimits, Price
from hooke.base.ref import Ref
from hooke.fleets.elastic import Elastic
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    WorkerStarted,
    WorkerStopped,
)
from hooke.pipeline.node_state import LookedUp, Lookup, NodePlan, Submit
from hooke.pipeline.run_state import RunState
from hooke.pipeline.trace import trace

STEP_S = 0.05


@task
def sleep(item):
    return item


@task
def gather(items):
    return len(items)


@pipeline
def sleeps(items):
    return gather(sleep.map(range(items)))


class Clock:
    time = 1000.0

    def now(self):
        return self.time

    def monotonic(self):
        return self.time


@dataclass
class Known:
    tasks: dict
    clock: Any
    takes_s: float

    def histories(self):
        self.clock.time += self.takes_s
        return self.tasks


@dataclass
class Place:
    """Workers that take `start_s` to come, and a second for each item while no more than `knee` work at it."""

    start_s: float = 1.0
    knee: float = float("inf")
    seconds: float = 1.0
    gather_s: float = 5.0
    retry_s: float = 0.0
    """The first attempt at the last task fails, and the next one is due after this time; 0: it does not fail."""
    failed_at: float = 0.0
    coming: list = field(default_factory=list)
    workers: dict = field(default_factory=dict)
    """Worker -> None, or the attempt that it does and what is left of it, in seconds."""
    queue: list = field(default_factory=list)
    named: int = 0
    target: int = 0

    def scale(self, now, target):
        self.target = target
        more = target - len(self.workers) - len(self.coming)
        self.coming += [now + self.start_s] * max(more, 0)
        del self.coming[max(0, target - len(self.workers)) :]

    def step(self, now):
        events = []
        for due in [due for due in self.coming if due <= now]:
            self.coming.remove(due)
            self.named += 1
            self.workers[f"w{self.named}"] = None
            events.append(WorkerStarted(at=now, worker=f"w{self.named}"))
        busy = sum(1 for work in self.workers.values() if work and work[0].node == 0)
        slow = max(busy / self.knee, 1.0)
        for worker, work in list(self.workers.items()):
            if work is not None:
                work[1] -= STEP_S / (slow if work[0].node == 0 else 1.0)
                if work[1] <= 1e-9:
                    self.workers[worker] = None
                    events.append(self._finished(now, worker, work))
            if self.workers[worker] is None and len(self.workers) > self.target:
                del self.workers[worker]
                events.append(WorkerStopped(at=now, worker=worker, cause="the fleet was made smaller"))
            elif self.workers[worker] is None and self.queue:
                submit = self.queue.pop(0)
                seconds = self.gather_s if submit.node else (submit.hi - submit.lo) * self.seconds
                self.workers[worker] = [submit, seconds, now]
                events.append(
                    AttemptStarted(
                        at=now,
                        attempt=submit.attempt,
                        node=submit.node,
                        lo=submit.lo,
                        hi=submit.hi,
                        worker=worker,
                    )
                )
        return events

    def _finished(self, now, worker, work):
        submit, _, began = work
        if submit.node and self.retry_s and not self.failed_at:
            self.failed_at = now
            failure = Failure(kind="TaskError", message="not yet", delay_s=self.retry_s)
            return AttemptFailed(
                at=now, attempt=submit.attempt, node=submit.node, lo=submit.lo, hi=submit.hi, failure=failure
            )
        return AttemptFinished(
            at=now,
            attempt=submit.attempt,
            node=submit.node,
            lo=submit.lo,
            hi=submit.hi,
            ref=Ref(digest="0" * 32, size=1),
            worker=worker,
            seconds=now - began,
        )


@dataclass
class Played:
    """Decisions, (time, workers, items that could run) at each step, the seconds it took, and how it ended."""

    decisions: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False
    spent_usd: float = 0.0

    @property
    def most(self):
        return max(workers for _, workers, _ in self.steps)


def play(items, place, limits, *, told=None, usd_per_hour=0.0, deadline_s=None, decides_s=0.0):
    """`decides_s`: what each decision takes."""
    clock = Clock()
    began = clock.time
    if deadline_s is not None:
        limits = FleetLimits(low=limits.low, high=limits.high, deadline=began + deadline_s)
    graph = trace(sleeps, (items,))
    elastic = Elastic(
        limits,
        {node.id: node.task.name for node in graph.nodes},
        price=Price(usd_per_hour=usd_per_hour, start_s=place.start_s, release_s=1.0),
        clock=clock,
        past=Known(told or {}, clock, decides_s),
    )
    state = RunState(graph, [NodePlan(timeout_s=1e6), NodePlan(retries=1)])
    played = Played()
    place.scale(clock.time, elastic.target)

    def tell(event):
        elastic.observe(event)
        state.apply(event)

    tell(CapacityChanged(slots=elastic.target, cpus=64.0))
    while state.status is None and clock.time < began + 1e4:
        decided = elastic.decide(clock.time, state)
        if decided is not None:
            played.decisions.append(decided)
            if decided.stop:
                played.stopped = True
                break
            place.scale(clock.time, decided.after)
            tell(CapacityChanged(slots=decided.after, cpus=64.0))
        for effect in state.decide(clock.time):
            if isinstance(effect, Lookup):
                state.apply(LookedUp(effect.node))
            elif isinstance(effect, Submit):
                place.queue.append(effect)
        clock.time += STEP_S
        for event in place.step(clock.time):
            tell(event)
        ready = state.nodes[0].open.count + len(state.running)
        played.steps.append((clock.time - began, len(place.workers), ready))
    played.seconds = clock.time - began
    played.spent_usd = elastic.spent_usd
    return played
