"""A test bench for one engine: makes calls like the runner, and checks the protocol's rules on every event."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.pinned_modules import PinnedModule
from hooke.base.ref import Manifest, Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CallsFinished,
    CapacityChanged,
    WorkerStarted,
)
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.engine import LOOK, AlsoCall, Call, Engine, EngineContext, EngineEvent
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan, RunningAttempt, Submit
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.slots import ResourceRequest
from hooke.pipeline.task import Resources, Task
from hooke.pipeline.trace import trace
from hooke.store.store import Store

__all__ = ["CARRIED", "EngineBench", "MakeEngine", "loaded_module", "plan_of"]

PATIENCE_S = 180.0
"""A worker starts within a second, and nothing takes a minute; a machine on which much else runs may take three times as long."""


CARRIED = {
    "suite_carried": "def work():\n    from suite_later import VALUE\n    return VALUE\n",
    "suite_later": "VALUE = 1\n",
}
"""Name -> source of the modules that each run of the suite carries."""


@contextmanager
def loaded_module(folder: Path, name: str, source: str, *, importable: bool = False) -> Iterator[ModuleType]:
    """A loaded module whose file is on no process's path, or on every process's path."""
    file = folder / f"{name}.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    path = list(sys.path)
    sys.path[:0] = [str(folder)] * importable
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = path
        del sys.modules[name]


class MakeEngine(Protocol):
    """Makes engines for the suite, like a backend's factory."""

    def __call__(self, context: EngineContext, /, *, workers: tuple[int, int] | None) -> Engine:
        """A new engine with `workers` (lowest, highest) workers."""


class EngineBench:
    """One engine with a store and a folder, for one check. Use it in `with`, which closes the engine."""

    def __init__(self, make: MakeEngine, folder: Path, *, workers: int = 2) -> None:
        self.folder = folder
        self.store = Store.open(folder / "store")
        self.context = EngineContext(
            run="suite",
            store=self.store,
            logs=folder / "logs",
            clock=SystemClock(),
            folder=folder,
            root=folder,
            code=self.store.put(
                tuple(
                    PinnedModule(name=name, file=str(folder / f"{name}.py"), source=source.encode())
                    for name, source in CARRIED.items()
                )
            ),
        )
        self._new_engine = make
        self.engine = make(self.context, workers=(workers, workers))
        self.workers = workers
        self.events: list[EngineEvent] = []
        self.answers: dict[int, AttemptFinished | AttemptFailed] = {}
        self._started: set[int] = set()
        self._submitted: dict[int, Call] = {}
        self._given_up: set[int] = set()
        self._gathered: list[Call] | None = None

    def next_run(self) -> None:
        """A new engine on the same store: an engine serves one run."""
        self.engine.close()
        self.engine = self._new_engine(self.context, workers=(self.workers, self.workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    @property
    def capabilities(self) -> Any:
        """The engine's capabilities."""
        return self.engine.capabilities

    # -- calls -------------------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], *args: Any, short: bool = False, **resources: Any) -> int:
        """Submit `function(*args)` as one attempt; returns its number."""
        task = Task(function, name=function.__name__, resources=Resources(**resources))
        return self._make(lambda: task(*args), Submit(0, 0, 0, 1, 1, short=short))

    def submit_behind(self, before: int, function: Callable[..., Any], *args: Any) -> int:
        """Submit the short call `function(r, *args)`, where r is what the attempt `before` returns, to run after that one."""

        def body() -> Any:
            return Task(function, name=function.__name__)(Task(_nothing, name="before")(), *args)

        return self._make(body, Submit(0, 1, 0, 1, 1, short=True, after=before))

    def submit_map(
        self,
        function: Callable[..., Any],
        columns: Sequence[Any],
        *,
        lo: int = 0,
        hi: int | None = None,
        limit_s: float = 0.0,
        **constants: Any,
    ) -> int:
        """Submit items `lo..hi` of `function.map(*columns, **constants)` as one attempt, which ends early at the limit. The function may be a task."""
        until = len(columns[0]) if hi is None else hi
        task = function if isinstance(function, Task) else Task(function, name=function.__name__)
        return self._make(
            lambda: task.map(*columns, **constants), Submit(0, 0, lo, until, 1, limit_s=limit_s)
        )

    def submit_reading(self, function: Callable[..., Any], ref: Ref) -> int:
        """Submit the reading of the stored list `ref`, over which `function` is mapped."""

        def body() -> Any:
            return Task(function, name=function.__name__).map(Task(_nothing, name="list")())

        return self._make(body, Submit(0, 1, 0, 0, 1, expand=True), known=ref)

    def submit_group(self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[int]:
        """Submit `function(*row)` for each row as a group of short plain calls; returns their numbers."""
        task = Task(function, name=function.__name__)
        with self._gathering() as calls:
            for row in rows:
                self._make(lambda row=row: task(*row), Submit(0, 0, 0, 1, 1, short=True))
        first, *rest = calls
        also = [AlsoCall(each.attempt, each.node, each.payload, each.shown) for each in rest]
        self.engine.submit([msgspec.structs.replace(first, plain=True, also=tuple(also))])
        return [call.attempt for call in calls]

    @contextmanager
    def _gathering(self) -> Iterator[list[Call]]:
        """Inside, calls are made and not submitted."""
        self._gathered = []
        try:
            yield self._gathered
        finally:
            self._gathered = None

    def _make(self, body: Callable[[], Any], wanted: Submit, *, known: Ref | None = None) -> int:
        def suite() -> Any:
            return body()

        graph = trace(Pipeline(suite, name="suite"))
        plans = [plan_of(node.task.resources) for node in graph.nodes]
        state = RunState(graph, plans)
        if known is not None:
            state.nodes[0].done.record(0, 1, known)
        if wanted.after is not None:
            request = ResourceRequest(cpus=1.0, memory=0, gpus=0.0)
            state.running[wanted.after] = RunningAttempt(0, 0, 1, expand=False, request=request)
        attempt = len(self._submitted) + 1
        submit = msgspec.structs.replace(wanted, attempt=attempt)
        call = CallMaker(graph, GraphKeys(graph, run="suite"), state, self.store).make(submit)
        self._submitted[attempt] = call
        if self._gathered is None:
            self.engine.submit([call])
        else:
            self._gathered.append(call)
        return attempt

    def look(self, inputs: Manifest) -> int:
        """Have a host look which of these inputs are others there; returns the number of the call, below zero."""
        graph = trace(Pipeline(Task(_nothing, name="list"), name="suite"))
        state = RunState(graph, [NodePlan()])
        attempt = -len(self._submitted) - 1
        call = CallMaker(graph, GraphKeys(graph, run="suite"), state, self.store).look(attempt, 0, inputs)
        self._submitted[attempt] = call
        self.engine.submit([call])
        return attempt

    def cancel(self, attempt: int) -> None:
        """Cancel the attempt."""
        self._given_up.add(attempt)
        self.engine.cancel(attempt)

    # -- events ------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 0.05) -> list[EngineEvent]:
        """The new events, after they were checked."""
        events = self.engine.wait(timeout_s)
        for event in events:
            for each in event.singly() if isinstance(event, CallsFinished) else (event,):
                self._look(each)
        return events

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds. Raises AssertionError with the name of the condition after the time limit."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, (
                f"waited {PATIENCE_S:g} s for {what}; came: {self.events[-10:]}"
            )
            self.poll()

    def answer(self, attempt: int) -> AttemptFinished | AttemptFailed:
        """The attempt's answer."""
        self.until(lambda: attempt in self.answers, f"the answer of attempt {attempt}")
        return self.answers[attempt]

    def finished(self, attempt: int) -> AttemptFinished:
        """The attempt's answer, which must be a result."""
        answer = self.answer(attempt)
        assert isinstance(answer, AttemptFinished), f"attempt {attempt} failed: {answer}"
        return answer

    def failed(self, attempt: int) -> AttemptFailed:
        """The attempt's answer, which must be a failure."""
        answer = self.answer(attempt)
        assert isinstance(answer, AttemptFailed), f"attempt {attempt} did not fail: {answer}"
        return answer

    def value(self, ref: Ref) -> Any:
        """The durable value of the reference, read by a newly opened store."""
        return Store.open(self.store.place).get(ref)

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of that kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def is_running(self, attempt: int) -> bool:
        """Whether it has begun and not ended, by the events."""
        return attempt in self._started and attempt not in self.answers

    def _look(self, event: EngineEvent) -> None:
        assert self.events or isinstance(event, CapacityChanged), (
            f"the first event is {event}, not the capacity"
        )
        self.events.append(event)
        if isinstance(event, AttemptStarted):
            self._known(event)
            assert event.attempt not in self._started, f"attempt {event.attempt} started twice"
            before = self._submitted[event.attempt].after
            if before is not None:
                ended = isinstance(self.answers.get(before), AttemptFinished)
                assert ended, f"attempt {event.attempt} started before {before}, whose result it needs"
            assert event.attempt not in self.answers, f"attempt {event.attempt} started after its end"
            assert event.worker in {started.worker for started in self.of(WorkerStarted)}
            self._started.add(event.attempt)
        elif isinstance(event, AttemptFinished | AttemptFailed):
            self._known(event)
            if event.attempt in self._given_up:
                return
            assert event.attempt not in self.answers, f"attempt {event.attempt} was answered twice"
            self.answers[event.attempt] = event
            if isinstance(event, AttemptFinished) and self._submitted[event.attempt].kind != LOOK:
                assert event.attempt in self._started, f"attempt {event.attempt} finished before it started"
                self.value(event.ref)

    def _known(self, event: AttemptStarted | AttemptFinished | AttemptFailed) -> None:
        call = self._submitted[event.attempt]
        ends = isinstance(event, AttemptFinished) and call.limit_s > 0 and call.lo < event.hi < call.hi
        assert (event.node, event.lo) == (call.node, call.lo), f"{event} is not of {call}"
        assert ends or event.hi == call.hi, f"{event} is not of {call}"


def _nothing() -> list[int]:
    return []


def plan_of(resources: Resources) -> NodePlan:
    """What a scheduler knows of a node whose task asks for these resources."""
    return NodePlan(
        cpus=resources.cpus,
        memory=resources.memory,
        gpus=resources.gpus,
        retries=resources.retries,
        timeout_s=resources.timeout_s,
        ranks=resources.gang,
        least_ranks=resources.least_ranks,
        repeatable=resources.cache,
    )
