"""Whether a place can run the gangs of a pipeline, said before anything runs."""

from __future__ import annotations

from hooke.base.cpus import cpus_here
from hooke.base.errors import UsageError
from hooke.pipeline.graph import Graph, Node
from hooke.project.places import ENGINES, Place

__all__ = ["check_gangs"]


def check_gangs(graph: Graph, place: Place) -> None:
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
            mend=f"workers={ranks} (or --workers {ranks}), or a smaller gang=",
        )


def _no_gangs(node: Node, place: Place) -> UsageError:
    able = [name for name in ENGINES.builtin if name in _with_gangs()]
    return UsageError(
        f"the place {place.name!r} has no gangs, and {node.task.name!r} is one of {node.task.resources.gang} ranks",
        where=node.where,
        mend=f"run it at a place that has: {', '.join(able)}; to step through it, call the pipeline as a function, "
        "where a gang is one of one",
    )


def _with_gangs() -> set[str]:
    """Of our engines that need no further library: to ask one may be to import it."""
    plain = [name for name in ("local", "serial") if name in ENGINES.builtin]
    return {name for name in plain if ENGINES.load(name).capabilities.gangs}


def _most(place: Place) -> int | None:
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
