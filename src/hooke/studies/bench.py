"""One measurement: a graph run once by N workers, and what its attempts took, as their events say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hooke.base.clock import Clock
from hooke.base.errors import NotEnoughData, UsageError
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
)
from hooke.journal.writer import Journal
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.effects import Plan
from hooke.pipeline.engine import Engine, EngineContext
from hooke.pipeline.failures import task_failed
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.store.store import Store
from hooke.studies.excerpt import Excerpt
from hooke.studies.ready import ReadyEngine

__all__ = ["Bench", "Ran", "Taken", "attempts_taken"]

OpenEngine = Callable[[EngineContext, int], Engine]
"""An engine of the place that is measured, with exactly so many workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What the attempts at the measured nodes took together: wall seconds from the first start to the last end."""

    seconds: float
    cpu_s: float
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run that finished: what it took, and where its results are."""

    taken: Taken
    state: RunState
    calls: CallMaker
    events: tuple[Event, ...]


@dataclass(slots=True, kw_only=True)
class Bench:
    """Runs excerpts with N workers in a store of their own. What is measured is done anew by each run."""

    study: str
    folder: Path
    store: Store
    secret: bytes | None
    clock: Clock
    open_engine: OpenEngine
    pinned: bool
    stop_requested: Callable[[], str | None] = lambda: None
    expected_s: dict[str, dict[int, float]] = field(default_factory=dict)
    """Task -> item -> seconds, from the first run: the longest go first, as they do in every run but the first."""

    def run(self, part: Excerpt, *, workers: int, segment: str) -> Ran:
        """Run the excerpt once; its events go to `segment`.

        Raises what a failed task raises, KeyboardInterrupt where the study was stopped, UsageError where so many
        workers could not all work at once, and where a gang is measured or does not fit them.
        """
        _check_gangs(part, workers)
        keys = GraphKeys(part, run=self.study)
        state = RunState(part, self._plans(part))
        calls = CallMaker(part, keys, state, self.store)
        events: list[Event] = []
        context = EngineContext(
            run=self.study,
            store=self.store,
            secret=self.secret,
            logs=self.folder / "logs",
            clock=self.clock,
            warm=True,
            pinned=self.pinned,
            ready_for=_cpus_of_all(part),
        )
        # Not synced: a power loss costs the study, not the user's results.
        with Journal.create(self.folder, segment, durable="none", clock=self.clock) as journal:
            journal.observers.append(events.append)
            engine = ReadyEngine(engine=self.open_engine(context, workers))
            try:
                if context.ready_for is not None:
                    engine.await_workers(workers, self.clock)
                runner = Runner(
                    RunnerParts(
                        run=self.study,
                        graph=part,
                        keys=keys,
                        state=state,
                        engine=engine,
                        store=self.store,
                        journal=journal,
                        clock=self.clock,
                        logs=context.logs,
                        stop_requested=self.stop_requested,
                    )
                )
                status = runner.run()
            finally:
                engine.close()
        self._check(status, state, part)
        _check_room(events, part, workers)
        return Ran(
            taken=attempts_taken(events, part.measured), state=state, calls=calls, events=tuple(events)
        )

    def check_stopped(self) -> None:
        """Raise KeyboardInterrupt where somebody asked the study to stop."""
        if self.stop_requested() is not None:
            raise KeyboardInterrupt(f"study {self.study} was stopped")

    def learn(self, ran: Ran, part: Excerpt) -> None:
        """Take the durations of single items for what is to be expected."""
        for event in ran.events:
            if isinstance(event, AttemptFinished) and event.hi - event.lo == 1:
                node = part.nodes[event.node]
                if node.kind == "map":
                    self.expected_s.setdefault(node.task.name, {})[event.lo] = event.seconds

    def _plans(self, part: Excerpt) -> list[Plan]:
        return [
            Plan(
                cpus=node.task.resources.cpus,
                memory=node.task.resources.memory,
                gpus=node.task.resources.gpus,
                retries=node.task.resources.retries,
                timeout_s=node.task.resources.timeout_s,
                ranks=node.task.resources.gang,
                # A second attempt beside a slow one would be work that the law counts and the plain call does not.
                repeatable=False,
                expected_s=self.expected_s.get(node.task.name, {}),
            )
            for node in part.nodes
        ]

    def _check(self, status: str, state: RunState, part: Excerpt) -> None:
        if status == "stopped":
            raise KeyboardInterrupt(f"study {self.study} was stopped")
        if state.failure is not None:
            raise task_failed(state.failure, task=part.nodes[state.failure.node].task.name, run=self.study)


def attempts_taken(events: Iterable[Event], measured: Sequence[int]) -> Taken:
    """What the attempts at these nodes took. Reading a dynamic map's list is none of the work.

    Raises NotEnoughData where there were none, or where they took no time that the clock can tell.
    """
    wanted = frozenset(measured)
    starts: list[float] = []
    ends: list[float] = []
    cpu_s, items = 0.0, 0
    for event in events:
        if isinstance(event, AttemptStarted) and event.node in wanted and not event.expand:
            starts.append(event.at)
        elif isinstance(event, AttemptFinished) and event.node in wanted and event.expanded is None:
            ends.append(event.at)
            cpu_s += event.cpu_s
            items += event.hi - event.lo
    if not starts or not ends or max(ends) <= min(starts):
        raise NotEnoughData(
            "there is nothing to measure: no attempt took any time",
            mend="give the pipeline parameters with which the task has work to do",
        )
    return Taken(seconds=max(ends) - min(starts), cpu_s=cpu_s, items=items)


def _cpus_of_all(part: Excerpt) -> float | None:
    """The cpus that each measured task asks for; None where they differ, so that workers start as there is work."""
    asked = {
        (node.task.resources.cpus, node.task.resources.gpus)
        for node in part.nodes
        if node.id in part.measured
    }
    cpus, gpus = asked.pop()
    return None if asked or gpus else cpus


def _check_gangs(part: Excerpt, workers: int) -> None:
    """Refuse what N workers do not decide, and N that a gang can never begin with."""
    for node in part.nodes:
        ranks, name = node.task.resources.gang, node.task.name
        if ranks and node.id in part.measured:
            raise UsageError(
                f"{name!r} is a gang of {ranks} ranks, so the number of workers does not decide how fast it is",
                mend="run it with another gang= and compare what the runs took; or measure another task: --task NAME",
            )
        if ranks > workers:
            raise UsageError(
                f"the pipeline has a gang of {ranks} ranks, {name!r}, and N = {workers} cannot run it",
                mend=f"measure from N = {ranks}, or make its gang= smaller",
            )


def _check_room(events: Iterable[Event], part: Excerpt, workers: int) -> None:
    """Refuse a measurement at N workers of which resources let fewer work at once."""
    rooms = [event for event in events if isinstance(event, CapacityChanged)]
    if part.is_whole or not rooms:
        return
    room = rooms[-1]
    for number in part.measured:
        asked = part.nodes[number].task.resources
        fit = {"cpus": room.cpus / asked.cpus}
        if asked.memory and room.memory is not None:
            fit["memory"] = room.memory / asked.memory
        if asked.gpus:
            fit["gpus"] = room.gpus / asked.gpus
        scarce = min(fit, key=fit.__getitem__)
        if fit[scarce] < min(workers, part.nodes[number].items or workers):
            name = part.nodes[number].task.name
            raise UsageError(
                f"of {workers} workers only {int(fit[scarce])} can run {name!r} at once here: its {scarce}= is the limit",
                mend=f"measure up to N = {int(fit[scarce])}, or declare less {scarce}",
            )
