"""A project in which a worker records what functions read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hooke.base.clock import SystemClock
from hooke.base.ref import ItemsObserved
from hooke.journal.events import AttemptFailed, AttemptFinished
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.isolation import KEY_BYTES
from hooke.pipeline.observed_events import PathRules
from hooke.pipeline.references import pack
from hooke.store.store import Store

Inputs = list[tuple[str, str]]
CSV = [("file", "d.csv")]


class Place:
    """A project's folder, and a worker for it."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        self.worker = AttemptRunner(name="w", store=Store.open(store), clock=SystemClock())
        self.worker.observe(PathRules(str(root)))

    def run(
        self, function: Callable[..., Any], *args: Any, observe: bool = True, **variables: str | None
    ) -> AttemptFinished | AttemptFailed:
        return self._run(
            "call", function, pack((list(args), {}), _no_promise), 1, observe=observe, variables=variables
        )

    def run_map(self, function: Callable[..., Any], items: Sequence[Any]) -> AttemptFinished | AttemptFailed:
        columns = pack(("columns", [list(items)]), _no_promise)
        data = pack((pack({}, _no_promise), columns), _no_promise)
        return self._run("map", function, data, len(items), keys=bytes(KEY_BYTES * len(items)))

    def _run(
        self, kind: str, function: Callable[..., Any], payload: bytes, hi: int, **more: Any
    ) -> AttemptFinished | AttemptFailed:
        call = WorkerCall(
            attempt=1, node=0, kind=kind, lo=0, hi=hi, function=function, payload=payload, shown="", **more
        )
        return self.worker.run(call)

    def observed(self, function: Callable[..., Any], *args: Any, **variables: str | None) -> ItemsObserved:
        answer = self.run(function, *args, **variables)
        assert isinstance(answer, AttemptFinished), answer
        return answer.observed[0] if answer.observed else ItemsObserved(lo=0, hi=1)

    def inputs(self, function: Callable[..., Any], *args: Any, **variables: str | None) -> Inputs:
        observed = self.observed(function, *args, **variables)
        assert not observed.unsettled
        return short(observed)


def _no_promise(promise: Any) -> Any:
    raise AssertionError(promise)


def short(observed: ItemsObserved) -> Inputs:
    return [(each.kind, each.name) for each in observed.inputs]
