"""Pipelines whose runs are simulated: a machine with drift, tasks with skewed and contending calls, and their journals.

The scheduler here is not the planner's: each call gets a duration of its own when it starts, which depends on how many
others run. So a plan is compared with something that it does not share.
"""

from __future__ import annotations

import heapq
import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hooke import pipeline, task
from hooke.base.ref import ItemsObserved, Observed, Ref
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    MapExpanded,
    Measured,
    NodePlanned,
    RunFinished,
    RunStarted,
    StudyStarted,
)
from hooke.journal.study_records import StudyRecord
from hooke.pipeline.graph import Graph, needs_of
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.trace import trace

__all__ = ["DATA_PIPELINES", "PIPELINES", "Machine", "Simulated", "drawn", "drawn_with_data"]

REF = Ref("0" * 64, 1, b"x")
HOST = socket.gethostname()


@task
def load(first: int) -> int:
    return first


@task
def clean(x: int, base: int = 0) -> int:
    return x + base


@task
def score(x: int) -> int:
    return x


@task
def merge(xs: list[int]) -> int:
    return sum(xs)


@task
def fit(x: int, fold: int) -> int:
    return x + fold


@task
def report(xs: list[int]) -> int:
    return len(xs)


@pipeline
def gathered(first: int = 0, n: int = 24) -> int:
    """A call, a map beside it, and a call that reads the whole map."""
    load(first)
    return merge(clean.map(range(first, first + n)))


@pipeline
def in_step(first: int = 0, n: int = 24) -> list[int]:
    """Two maps in step, and two calls that read all."""
    scored = score.map(clean.map(range(first, first + n)))
    return [merge(scored), report(scored)]


@pipeline
def folds(first: int = 0, n: int = 24) -> int:
    """A chain of calls beside a map of other work."""
    base = load(first)
    fits = [fit(base, fold) for fold in range(5)]
    return report([*fits, merge(score.map(range(first, first + n)))])


PIPELINES: tuple[Pipeline[..., object], ...] = (gathered, in_step, folds)


@task
def read(path: str) -> bytes:
    return path.encode()


@task
def features(table: bytes) -> bytes:
    return table


@task
def pieces(table: bytes) -> list[bytes]:
    return [table]


@task
def piece(part: bytes) -> bytes:
    return part


@task
def joined(parts: list[bytes]) -> int:
    return len(parts)


@task
def trained(table: bytes, fold: int) -> int:
    return len(table) + fold


@pipeline
def table(path: str = "") -> list[int]:
    """A file, a table made of it, and calls that read the whole table."""
    made = features(read(path))
    return [trained(made, fold) for fold in range(4)]


@pipeline
def cut(path: str = "") -> int:
    """A file that is cut into pieces."""
    return joined(piece.map(pieces(read(path))))


@pipeline
def files(path: str = "") -> int:
    """Several files, one a call."""
    return joined(piece.map(read.map([f"{path}{number}" for number in range(12)])))


DATA_PIPELINES: tuple[Pipeline[..., object], ...] = (table, cut, files)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthOfTask:
    """Seconds of a call, `fixed + per_read * items read + per_mb * MB read ** power`; the spread of ln seconds of single calls;
    the slow-down by each other call. A result has `out` times the bytes that the call reads."""

    fixed: float
    per_read: float
    spread: float
    contention: float
    per_mb: float = 0.0
    power: float = 1.0
    out: float = 1.0


@dataclass(slots=True, kw_only=True)
class Machine:
    """Runs pipelines. `drift` is the standard deviation of ln speed between runs, with autocorrelation `lasting`."""

    rng: np.random.Generator
    drift: float
    lasting: float
    startup_s: float
    tasks: dict[str, TruthOfTask]
    piece_mb: float = 0.0
    """How large the pieces of `cut` are; 0 for eight pieces of any size."""
    _speed: float = 0.0
    _clock: float = 1e9

    def speed(self) -> float:
        """ln of the next run's slowness."""
        fresh = self.drift * math.sqrt(1 - self.lasting**2) * self.rng.standard_normal()
        self._speed = self.lasting * self._speed + fresh
        return self._speed

    def run(self, what: Pipeline[..., object], *, workers: int, first: int, n: int) -> Simulated:
        """One run from an empty store: how long it took, and its journal."""
        graph = trace(what, (), {"first": first, "n": n})
        self._clock += 1e6
        return _Run(self, graph, workers, self._clock, f"{what.name}-{self._clock:.0f}").simulated()

    def run_on(self, what: Pipeline[..., object], *, workers: int, path: str, mb: float) -> Simulated:
        """One run on files of so many MB together, from an empty store."""
        graph = trace(what, (), {"path": path})
        self._clock += 1e6
        return _Run(self, graph, workers, self._clock, f"{what.name}-{self._clock:.0f}", mb=mb).simulated()

    def study(self, task_name: str, pipeline_name: str, levels: Sequence[int]) -> StudyRecord:
        """A study of a mapped task, three rounds, at these N."""
        truth, items = self.tasks[task_name], 48
        measured: list[Measured] = []
        for repeat in range(3):
            for n in levels:
                noise = math.exp(0.02 * self.rng.standard_normal())
                seconds = items / n * truth.fixed * (1 + truth.contention * (n - 1)) * noise
                measured.append(Measured(task=task_name, n=n, work=items, seconds=seconds, repeat=repeat))
        started = StudyStarted(
            study=f"measure-{task_name}",
            pipeline=pipeline_name,
            entry="x",
            task=task_name,
            levels=tuple(levels),
            host=HOST,
        )
        return StudyRecord(started=started, measured=tuple(measured), finished=RunFinished(status="finished"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A run that took `seconds` in all."""

    seconds: float
    events: tuple[Event, ...]


@dataclass(slots=True)
class _Run:
    machine: Machine
    graph: Graph
    workers: int
    began: float
    name: str
    mb: float = 0.0
    events: list[Event] = field(default_factory=list)
    done: list[set[int]] = field(default_factory=list)
    next: list[int] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)

    def simulated(self) -> Simulated:
        rng, machine = self.machine.rng, self.machine
        slow = machine.speed()
        self.slow = {
            name: math.exp(slow + 0.5 * machine.drift * rng.standard_normal()) for name in machine.tasks
        }
        startup = machine.startup_s * math.exp(0.15 * rng.standard_normal() + slow)
        self._planned()
        ended = self._schedule(self.began + startup)
        seconds = ended - self.began + 0.02
        self.events.append(RunFinished(at=self.began + seconds, status="finished", seconds=seconds))
        return Simulated(seconds=seconds, events=tuple(self.events))

    def _planned(self) -> None:
        graph, keys = self.graph, GraphKeys(self.graph, run="plan")
        self.events.append(
            RunStarted(
                at=self.began,
                run=self.name,
                pipeline=graph.pipeline,
                entry="x",
                place=f"local:{self.workers}",
                host=HOST,
            )
        )
        for node in graph.nodes:
            key = keys[node.id]
            self.events.append(
                NodePlanned(
                    at=self.began,
                    node=node.id,
                    task=node.task.name,
                    key=key.key,
                    kind=node.kind,
                    items=node.items if node.kind == "map" else 1,
                    parents=graph.parents(node.id),
                    recipe=key.recipe if node.kind == "map" else "",
                    code={part.name: part.digest for part in key.code.parts},
                    inputs=keys.inputs(node.id),
                    shown={name: repr(value) for name, value in node.arguments.items()},
                )
            )
        self.events.append(CapacityChanged(at=self.began, slots=self.workers, cpus=float(self.workers)))
        self.done, self.next = [set() for _ in graph.nodes], [0] * len(graph.nodes)

    def _schedule(self, now: float) -> float:
        free, ends, attempt = list(range(self.workers)), [], 0
        while True:
            for node in sorted(self.graph.nodes, key=lambda each: -self._depth(each.id)):
                while free and self._ready(node.id):
                    item, worker = self.next[node.id], heapq.heappop(free)
                    if item == 0 and node.is_dynamic:
                        self.events.append(MapExpanded(at=now, node=node.id, items=self._items(node.id)))
                    self.next[node.id] += 1
                    name = node.task.name
                    self.running[name] = self.running.get(name, 0) + 1
                    seconds, gap = self._seconds(node.id), 0.002
                    began = now + gap
                    where = {"attempt": attempt, "node": node.id, "lo": item, "hi": item + 1}
                    self.events.append(AttemptStarted(at=began, worker=f"w{worker}", **where))
                    heapq.heappush(ends, (began + seconds, attempt, worker, node.id, item, seconds))
                    attempt += 1
            if not ends:
                return now
            now, number, worker, at, item, seconds = heapq.heappop(ends)
            heapq.heappush(free, worker)
            self.done[at].add(item)
            self.running[self.graph.nodes[at].task.name] -= 1
            self.events.append(
                AttemptFinished(
                    at=now,
                    worker=f"w{worker}",
                    ref=self._result(at),
                    observed=self._observed(at, item),
                    seconds=seconds,
                    cpu_s=0.05 * seconds,
                    attempt=number,
                    node=at,
                    lo=item,
                    hi=item + 1,
                )
            )

    def _depth(self, at: int) -> int:
        return 1 + max((self._depth(parent) for parent in self.graph.parents(at)), default=0)

    def _ready(self, at: int) -> bool:
        node, item = self.graph.nodes[at], self.next[at]
        if item >= self._items(at):
            return False
        for need in needs_of(self.graph, node):
            wanted = {item} if need.elementwise else range(self._items(need.node))
            if need.item is not None and not need.elementwise:
                wanted = {need.item}
            if not self.done[need.node].issuperset(wanted):
                return False
        return True

    def _items(self, at: int) -> int:
        node = self.graph.nodes[at]
        if node.kind == "map" and node.items is None:
            (listed,) = self.graph.parents(at)
            return max(round(self._out(listed) / self.machine.piece_mb), 1) if self.machine.piece_mb else 8
        return (node.items or 0) if node.kind == "map" else 1

    def _result(self, at: int) -> Ref:
        return Ref("0" * 64, max(round(self._out(at) * 1e6), 160), b"x") if self.mb else REF

    def _observed(self, at: int, item: int) -> tuple[ItemsObserved, ...]:
        if not self.mb or self.graph.nodes[at].task.name != "read":
            return ()
        node = self.graph.nodes[at]
        name = node.iterables[0][item] if node.kind == "map" else node.arguments["path"]
        seen = Observed(kind="file", name=name, digest="0", size=round(self._reads_mb(at) * 1e6))
        return (ItemsObserved(lo=item, hi=item + 1, inputs=(seen,)),)

    def _out(self, at: int) -> float:
        """MB of the result of a call."""
        return self._reads_mb(at) * self.machine.tasks[self.graph.nodes[at].task.name].out

    def _reads_mb(self, at: int) -> float:
        """MB that a call reads."""
        node = self.graph.nodes[at]
        if node.task.name == "read":
            return self.mb / self._items(at)
        whole = sum(self._out(parent) * self._items(parent) for parent in self.graph.parents(at))
        return whole / self._items(at)

    def _seconds(self, at: int) -> float:
        node = self.graph.nodes[at]
        truth, rng = self.machine.tasks[node.task.name], self.machine.rng
        reads = sum(
            self._items(parent)
            for parent in self.graph.parents(at)
            if self.graph.nodes[parent].kind == "map" and node.kind != "map"
        )
        noise = math.exp(truth.spread * rng.standard_normal() - truth.spread**2 / 2)
        together = 1 + truth.contention * (self.running[node.task.name] - 1)
        of_data = truth.per_mb * self._reads_mb(at) ** truth.power if self.mb else 0.0
        return (truth.fixed + truth.per_read * reads + of_data) * noise * together * self.slow[node.task.name]


def drawn_with_data(seed: int) -> tuple[Machine, Pipeline[..., object]]:
    """A machine, tasks whose seconds follow a power of the data that they read, and a pipeline that reads files."""
    rng = np.random.default_rng([seed, 2])
    tasks = {
        name: TruthOfTask(
            fixed=float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))),
            per_read=0.0,
            spread=float(rng.choice([0.02, 0.05, 0.1])),
            contention=float(rng.choice([0.0, 0.01, 0.05])),
            per_mb=float(np.exp(rng.uniform(np.log(0.005), np.log(0.1)))),
            power=float(rng.uniform(0.8, 1.25)),
            out=0.0 if name == "trained" else float(rng.choice([0.3, 1.0, 2.0])),
        )
        for name in ("read", "features", "pieces", "piece", "joined", "trained")
    }
    machine = Machine(
        rng=rng,
        drift=float(np.exp(rng.uniform(np.log(0.02), np.log(0.12)))),
        lasting=float(rng.choice([0.0, 0.5])),
        startup_s=float(rng.uniform(0.2, 1.0)),
        tasks=tasks,
        piece_mb=float(rng.choice([0.0, 2.0])),
    )
    return machine, DATA_PIPELINES[int(rng.integers(len(DATA_PIPELINES)))]


def drawn(seed: int) -> tuple[Machine, Pipeline[..., object]]:
    """A machine from a quiet one to a busy one, tasks from even to skewed, and a pipeline."""
    rng = np.random.default_rng(seed)
    tasks = {
        name: TruthOfTask(
            fixed=float(np.exp(rng.uniform(np.log(0.05), np.log(2.0)))),
            per_read=float(rng.choice([0.0, 0.002, 0.02])) if name in {"merge", "report"} else 0.0,
            spread=float(
                rng.choice([0.02, 0.1, 0.3, 0.6] if name in {"clean", "score"} else [0.02, 0.05, 0.1])
            ),
            contention=float(rng.choice([0.0, 0.01, 0.05, 0.1])),
        )
        for name in ("load", "clean", "score", "merge", "fit", "report")
    }
    machine = Machine(
        rng=rng,
        drift=float(np.exp(rng.uniform(np.log(0.02), np.log(0.12)))),
        lasting=float(rng.choice([0.0, 0.5])),
        startup_s=float(rng.uniform(0.2, 1.0)),
        tasks=tasks,
    )
    return machine, PIPELINES[int(rng.integers(len(PIPELINES)))]
