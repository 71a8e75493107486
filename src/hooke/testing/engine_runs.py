"""Whole runs of the production runner on an engine, compared with plain Python."""

from __future__ import annotations

from typing import Any

from hooke.base.clock import SystemClock
from hooke.journal.writer import Journal
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.effects import Plan
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.pipeline import Pipeline, pipeline
from hooke.pipeline.references import pack, unpack
from hooke.pipeline.resources import Resources
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import Task
from hooke.pipeline.trace import trace
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import EngineBench

__all__ = ["check_a_whole_run", "check_a_whole_run_with_a_death"]

add = Task(tasks.add, name="add")
total = Task(tasks.total, name="total")
listed = Task(tasks.listed, name="listed")
exit_once = Task(tasks.exit_once, name="exit_once", resources=Resources(retries=1))


@pipeline
def every_shape(items: int) -> Any:
    """Calls, maps over ranges, over lists with results in them, in step and over lists that are results."""
    first = add.map(range(items))
    both = add.map(first, range(items), by=total(first))
    dynamic = add.map(listed(items), by=first[0])
    return {"both": both, "sums": [total(both), total(dynamic)], "few": add.map([first[1], first[2], 5])}


@pipeline
def dying(folder: str, items: int) -> Any:
    """One item takes its worker with it, the first time."""
    return exit_once.map(range(items), folder=folder)


def check_a_whole_run(bench: EngineBench) -> None:
    """Every shape of graph, on the production runner, gives what plain Python gives."""
    assert _run(bench, every_shape, 50) == every_shape(50)


def check_a_whole_run_with_a_death(bench: EngineBench) -> None:
    """An item that kills its worker in the middle of a chunk is found and run again; nobody else fails."""
    if bench.capabilities.isolated:
        assert _run(bench, dying, str(bench.folder), 40) == list(range(40))


def _run(bench: EngineBench, wanted: Pipeline[..., Any], *args: Any) -> Any:
    graph = trace(wanted, args)
    keys = GraphKeys(graph, run="suite")
    plans = [Plan(retries=node.task.resources.retries) for node in graph.nodes]
    state = RunState(graph, plans)
    with Journal.create(bench.folder / "journal", "driver", durable="none") as journal:
        parts = RunnerParts(
            run="suite",
            graph=graph,
            keys=keys,
            state=state,
            engine=bench.engine,
            store=bench.store,
            journal=journal,
            clock=SystemClock(),
        )
        status = Runner(parts).run()
    assert status == "finished", state.failure
    return unpack(pack(graph.output, CallMaker(graph, keys, state, bench.store).refer), bench.store)
