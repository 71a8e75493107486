"""A run state played by hand: effects out, events in, no engine, no store, no clock."""

from collections.abc import Callable
from typing import Any

from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    Failure,
    ItemsFound,
    MapExpanded,
)
from hooke.pipeline.node_state import Effect, LookedUp, Lookup, NodePlan, Submit
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.trace import trace

REF = Ref("0" * 64, 1, b"x")


class Played:
    """Answers lookups with what `stored` says, and keeps what was submitted."""

    def __init__(
        self,
        pipeline: Pipeline[..., Any],
        *args: Any,
        slots: int = 2,
        cpus: float | None = None,
        plans: dict[str, NodePlan] | None = None,
        stored: Callable[[int], list[Event]] = lambda node: [],
    ) -> None:
        self.graph = trace(pipeline, args)
        named = plans or {}
        self.state = RunState(
            self.graph, [named.get(n.task.name, NodePlan()) for n in self.graph.nodes], seed=1
        )
        self.stored = stored
        self.now = 0.0
        self.lookups: list[int] = []
        self.submits: list[Submit] = []
        self.other: list[Effect] = []
        self.capacity(slots, cpus)

    def capacity(self, slots: int, cpus: float | None = None, memory: int | None = None) -> None:
        self.tell(CapacityChanged(slots=slots, cpus=float(slots) if cpus is None else cpus, memory=memory))

    def tell(self, *events: Event | LookedUp) -> None:
        for event in events:
            self.state.apply(event)

    def decide(self) -> list[Submit]:
        """Decide until nothing changes; returns the new submissions."""
        new: list[Submit] = []
        while effects := self.state.decide(self.now):
            for effect in effects:
                if isinstance(effect, Lookup):
                    self.lookups.append(effect.node)
                    self.tell(*self.stored(effect.node), LookedUp(effect.node))
                elif isinstance(effect, Submit):
                    new.append(effect)
                else:
                    self.other.append(effect)
        self.submits += new
        return new

    def started(self, submit: Submit) -> None:
        self.tell(
            AttemptStarted(at=self.now, attempt=submit.attempt, node=submit.node, lo=submit.lo, hi=submit.hi)
        )

    def finish(self, submit: Submit, seconds: float = 1.0) -> None:
        where = {"attempt": submit.attempt, "node": submit.node, "lo": submit.lo, "hi": submit.hi}
        self.tell(AttemptFinished(at=self.now, ref=REF, seconds=seconds, **where))

    def expanded(self, submit: Submit, items: int) -> None:
        self.finish(submit)
        self.tell(MapExpanded(node=submit.node, items=items))

    def fail(self, submit: Submit, kind: str = "TaskError", *, done: int = 0, **facts: Any) -> None:
        where = {"attempt": submit.attempt, "node": submit.node, "lo": submit.lo, "hi": submit.hi}
        failure = Failure(kind=kind, message="no", **facts)
        self.tell(AttemptFailed(at=self.now, failure=failure, done=done, ref=REF if done else None, **where))

    def play_on(self, *, seconds: float = 1.0, most: int = 100_000) -> list[Submit]:
        """Finish whatever is submitted, in order, to the end of the run; returns all that was submitted."""
        waiting = self.decide()
        all_of_it = list(waiting)
        while waiting and most:
            most -= 1
            self.finish(waiting.pop(0), seconds)
            new = self.decide()
            waiting += new
            all_of_it += new
        return all_of_it


def found(node: int, lo: int, hi: int) -> ItemsFound:
    return ItemsFound(node=node, lo=lo, hi=hi, ref=REF)


def pieces(submits: list[Submit]) -> list[tuple[int, int, int]]:
    return [(submit.node, submit.lo, submit.hi) for submit in submits]
