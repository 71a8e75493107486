"""Checks that a backend can run a pipeline's gangs: before the run, or during it if the backend's size is unknown."""

from __future__ import annotations

from hooke.base.errors import UsageError
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, CapacityChanged, Event
from hooke.pipeline.graph import Graph, Node
from hooke.processes.devices import cpus_here
from hooke.project.backends import ENGINES, BackendChoice

__all__ = ["GangWait", "check_gangs"]

WAIT_S = 120.0
"""Workers of an existing cluster join within seconds of one another, and a restarted worker within a minute."""


def check_gangs(graph: Graph, place: BackendChoice) -> None:
    """Raise UsageError if the backend does not support gangs, or has fewer workers than a gang has ranks."""
    gangs = [node for node in graph.nodes if node.task.resources.gang]
    if not gangs:
        return
    widest = max(gangs, key=lambda node: node.task.resources.gang)
    if not ENGINES.load(place.engine).capabilities.gangs:
        raise _no_gangs(widest, place)
    ranks, most = widest.task.resources.gang, _most(place)
    if most is not None and ranks > most:
        raise UsageError(
            f"the gang {widest.task.name!r} has {ranks} ranks, but {place.name!r} has {most} {_workers(most)}",
            where=widest.where,
            why="the ranks wait for one another, so all must run at once",
            fix=f"set workers={ranks} (or --workers {ranks}), or a smaller gang=",
        )


class GangWait:
    """Detects that only a gang is left and waits for workers, on a backend for which Hooke starts no workers."""

    def __init__(self, graph: Graph, place: BackendChoice) -> None:
        gangs = [node for node in graph.nodes if node.task.resources.gang] if place.workers is None else []
        self._widest = max(gangs, key=lambda node: node.task.resources.gang, default=None)
        self._place = place
        self._slots = 0
        self._running: set[int] = set()
        self._since: float | None = None

    def observe(self, event: Event) -> None:
        """Fold an event of the run."""
        match event:
            case CapacityChanged():
                self._slots = event.slots
            case AttemptStarted():
                self._running.add(event.attempt)
            case AttemptFinished() | AttemptFailed():
                self._running.discard(event.attempt)
            case _:
                return
        self._since = None

    def check(self, now: float) -> None:
        """Raise UsageError if this lasts too long. `now` is in seconds of a monotonic clock."""
        if self._widest is None or self._running or self._slots >= self._widest.task.resources.gang:
            return
        self._since = now if self._since is None else self._since
        if now - self._since >= WAIT_S:
            ranks = self._widest.task.resources.gang
            raise UsageError(
                f"the gang {self._widest.task.name!r} has {ranks} ranks, but {self._place.name!r} has room for {self._slots}",
                where=self._widest.where,
                why=f"the ranks wait for one another, so all must run at once; nothing else ran for {WAIT_S:g} s, and no worker joined",
                fix=f"add workers until it has {ranks} threads, or make gang= smaller; then resume",
            )


def _no_gangs(node: Node, place: BackendChoice) -> UsageError:
    able = [name for name in ENGINES.builtin if name in _with_gangs()]
    return UsageError(
        f"the backend {place.name!r} does not support gangs, but {node.task.name!r} is a gang of {node.task.resources.gang} ranks",
        where=node.where,
        fix=f"use a backend that supports gangs: {', '.join(able)}; to debug, call the pipeline as a function, "
        "where a gang has one rank",
    )


def _with_gangs() -> set[str]:
    """Built-in engines with gangs that need no further library: checking an engine may import it."""
    plain = [name for name in ("local", "serial") if name in ENGINES.builtin]
    return {name for name in plain if ENGINES.load(name).capabilities.gangs}


def _most(place: BackendChoice) -> int | None:
    """The largest number of workers that the backend may have; None if it is unknown."""
    if place.workers is not None:
        price = place.usd_per_hour if place.elastic else 0.0
        return (
            int(min(place.workers[1], place.max_usd_per_hour / price + 1e-9)) if price else place.workers[1]
        )
    ours = place.engine in ("local", "dask", "ray") and place.at is None
    return cpus_here() if ours else None


def _workers(count: int) -> str:
    return "worker" if count == 1 else "workers"
