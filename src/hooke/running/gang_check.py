"""Whether a place can run the gangs of a pipeline: said before anything runs, or where its size is not ours to say, when nothing else does."""

from __future__ import annotations

from hooke.base.errors import UsageError
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, CapacityChanged, Event
from hooke.pipeline.graph import Graph, Node
from hooke.processes.devices import cpus_here
from hooke.project.backends import ENGINES, BackendChoice

__all__ = ["GangWait", "check_gangs"]

WAIT_S = 120.0
"""The workers of a place that is joined come within seconds of one another, and one that is started again within a minute."""


def check_gangs(graph: Graph, place: BackendChoice) -> None:
    """Raise UsageError where the place has no gangs, or fewer workers than one of them has ranks."""
    gangs = [node for node in graph.nodes if node.task.resources.gang]
    if not gangs:
        return
    widest = max(gangs, key=lambda node: node.task.resources.gang)
    if not ENGINES.load(place.engine).capabilities.gangs:
        raise _no_gangs(widest, place)
    ranks, most = widest.task.resources.gang, _most(place)
    if most is not None and ranks > most:
        raise UsageError(
            f"the gang {widest.task.name!r} has {ranks} ranks, and {place.name!r} has {most} {_workers(most)}",
            where=widest.where,
            why="its ranks wait for one another, so all of them must run at once",
            fix=f"workers={ranks} (or --workers {ranks}), or a smaller gang=",
        )


class GangWait:
    """Notices that nothing runs but for a gang that waits for workers, at a place for which we start none."""

    def __init__(self, graph: Graph, place: BackendChoice) -> None:
        gangs = [node for node in graph.nodes if node.task.resources.gang] if place.workers is None else []
        self._widest = max(gangs, key=lambda node: node.task.resources.gang, default=None)
        self._place = place
        self._slots = 0
        self._running: set[int] = set()
        self._since: float | None = None

    def observe(self, event: Event) -> None:
        """What happened in the run."""
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
        """Raise UsageError where that is so for too long. `now`: seconds of a clock that does not jump."""
        if self._widest is None or self._running or self._slots >= self._widest.task.resources.gang:
            return
        self._since = now if self._since is None else self._since
        if now - self._since >= WAIT_S:
            ranks = self._widest.task.resources.gang
            raise UsageError(
                f"the gang {self._widest.task.name!r} has {ranks} ranks, and {self._place.name!r} has room for {self._slots}",
                where=self._widest.where,
                why=f"its ranks wait for one another, so all of them must run at once; nothing else ran for {WAIT_S:g} s, and no worker came",
                fix=f"start workers there until it has {ranks} threads, or make gang= smaller; then resume",
            )


def _no_gangs(node: Node, place: BackendChoice) -> UsageError:
    able = [name for name in ENGINES.builtin if name in _with_gangs()]
    return UsageError(
        f"the place {place.name!r} has no gangs, and {node.task.name!r} is one of {node.task.resources.gang} ranks",
        where=node.where,
        fix=f"run it at a place that has: {', '.join(able)}; to step through it, call the pipeline as a function, "
        "where a gang is one of one",
    )


def _with_gangs() -> set[str]:
    """Of our engines that need no further library: to ask one may be to import it."""
    plain = [name for name in ("local", "serial") if name in ENGINES.builtin]
    return {name for name in plain if ENGINES.load(name).capabilities.gangs}


def _most(place: BackendChoice) -> int | None:
    """The most workers that the place may have; None where that is not ours to say."""
    if place.workers is not None:
        price = place.usd_per_hour if place.elastic else 0.0
        return (
            int(min(place.workers[1], place.max_usd_per_hour / price + 1e-9)) if price else place.workers[1]
        )
    ours = place.engine in ("local", "dask", "ray") and place.at is None
    return cpus_here() if ours else None


def _workers(count: int) -> str:
    return "worker" if count == 1 else "workers"
