"""Simulated histories: whole runs of the production scheduler in virtual time, each replayed from its seed.

`simulate(seed)` draws a pipeline, a place and a fate; drives the production run state, runner, journal and
store against a fake engine; kills and resumes the driver; and returns the history of it. `check(history)`
raises where an invariant is broken, naming the seed. `python -m tests.support.simulation.histories seed=N` plays one.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.support.simulation.checks import Story, broken, described, refuse
from tests.support.simulation.fake_engine import SimEngine, Tries
from tests.support.simulation.programs import (
    Program,
    as_it_ended,
    draw_program,
    pipeline_of,
    with_chains,
    with_elastic_gangs,
    with_fans,
    with_gangs,
    with_on_error,
)
from tests.support.simulation.sim_store import SimAside, SimJournal, SimStore

from hooke.journal.events import (
    WITH_FAILURES,
    AttemptFailed,
    AttemptFinished,
    Event,
    ItemsFound,
    NodePlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.reader import read
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.finished_results import Recovered, recover
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.references import pack, unpack
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.trace import trace
from hooke.store.entries import Entry
from hooke.testing.engine_bench import plan_of
from hooke.testing.virtual_world import NO_FAULTS, DriverCrash, Faults, Record, Stuck, World

__all__ = ["Faults", "History", "check", "simulate"]

MOST_DRIVERS = 8
"""A run is taken up so often; the last time nothing goes wrong any more, so that it must end."""

RUN = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened in a simulated run: everything in `trace`, the graph it was of, and how it ended."""

    seed: int
    faults: Faults
    graph: Graph
    plans: tuple[NodePlan, ...]
    keys: tuple[str, ...]
    trace: tuple[Record, ...]
    journal: tuple[Event, ...]
    """As read back from the disk at the end."""
    wrong: tuple[str, ...]
    """What the store held under a key, or a run with failures returned, other than plain Python gives."""
    status: str | None
    result: Any
    expected: Any


def check(history: History) -> None:
    """Raise AssertionError, with the seed, unless the history keeps the invariants (see `sim_checks`)."""
    story = Story(
        graph=history.graph,
        plans=history.plans,
        keys=history.keys,
        trace=history.trace,
        journal=history.journal,
    )
    problems = [*broken(story), *history.wrong]
    if history.status != "finished":
        problems.append(f"the run did not finish in the end, but: {history.status}")
    elif history.result != history.expected:
        problems.append(f"the result is {history.result!r}; plain Python gives {history.expected!r}")
    refuse(problems, f"tests.support.simulation.histories seed={history.seed}")


def simulate(
    seed: int,
    *,
    faults: Faults | None = None,
    state_class: type[RunState] = RunState,
    runner_class: type[Runner] = Runner,
    engine_class: type[SimEngine] = SimEngine,
) -> History:
    """Play one history. The same seed and classes give the same trace. `faults` None draws them too."""
    folder = Path(tempfile.mkdtemp(prefix="hooke-sim-"))
    try:
        return _Play(World(seed, faults), folder, state_class, runner_class, engine_class).history()
    finally:
        shutil.rmtree(folder)


@dataclass(slots=True)
class _Play:
    """One history as it goes."""

    world: World
    folder: Path
    state_class: type[RunState]
    runner_class: type[Runner]
    engine_class: type[SimEngine]
    graph: Graph = field(init=False)
    plans: tuple[NodePlan, ...] = field(init=False)
    store: SimStore = field(init=False)
    keys: GraphKeys = field(init=False)
    tries: Tries = field(init=False)
    program: Program = field(init=False)
    values: list[Any] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    result: Any = None
    aside: SimAside | None = None

    def history(self) -> History:
        program = with_gangs(draw_program(self.world.chance("program")), self.world.chance("gangs"))
        program = with_elastic_gangs(program, self.world.chance("elastic"))
        program = with_chains(program, self.world.chance("chains"))
        program = with_fans(program, self.world.chance("fans"))
        self.program = program = with_on_error(program, self.world.chance("on error"))
        expected = pipeline_of(self.values.append)(program)
        self.graph = trace(pipeline_of(), (program,))
        usual_s = self.world.chance("usual").choice((0.0, 0.001, 1.0))  # of an earlier run
        self.plans = tuple(
            msgspec.structs.replace(
                plan_of(node.task.resources), usual_s=usual_s if node.kind == "map" else 0.0
            )
            for node in self.graph.nodes
        )
        self.store = SimStore(self.world)
        self.keys = GraphKeys(self.graph, run=RUN)
        self.store.claims.publish = self._publish
        self.tries = Tries(self.world)
        self._store_some()
        status = self._drive_to_the_end()
        return History(
            seed=self.world.seed,
            faults=self.world.faults,
            graph=self.graph,
            plans=self.plans,
            keys=tuple(key.key for key in self.keys.nodes),
            trace=tuple(self.world.trace),
            journal=tuple(self._journalled()),
            wrong=tuple(self.wrong),
            status=status,
            result=self.result,
            expected=expected,
        )

    def _drive_to_the_end(self) -> str | None:
        status = None
        for number in range(MOST_DRIVERS):
            if number == MOST_DRIVERS - 1:
                self.world.faults = NO_FAULTS
            status = self._drive(number)
            if status in {"finished", "stuck", "broken"}:
                break
        return status

    def _drive(self, number: int) -> str | None:
        """One driver, as `hooke.running.driver` does it; None where it was killed."""
        recovered = recover(self._journalled()) if number else Recovered()
        self.world.begin(number)
        slow = self.world.chance(f"slow store {number}").random() < 0.5
        self.aside = SimAside(self.world) if slow else None
        journal = SimJournal.create(self.folder, "driver", durable="none", clock=self.world.clock)
        assert isinstance(journal, SimJournal)
        journal.world = self.world
        journal.observers.append(lambda event: self.world.note("journal", event))
        widest = max((plan.fewest for plan in self.plans), default=1)
        engine = self.engine_class(
            world=self.world, store=self.store, tries=self.tries, number=number, widest=max(1, widest)
        )
        try:
            status = self._run(journal, engine, recovered, resumed=number > 0)
        except DriverCrash:
            self.world.note("crash")
            status = None
        except Stuck:
            self.world.note("stuck")
            status = "stuck"
        except Exception as error:  # noqa: BLE001 - whatever the code under test raises is a finding
            self.world.note("error", f"{type(error).__name__}: {error}")
            status = "broken"
        finally:
            self.world.crash_in = -1
            engine.close()
            if self.aside is not None:
                self.world.forget(self.aside)
            journal.close()
        self.world.note("end", (status, sorted(self.store.claims.mine)))
        self._check_store()
        self.world.clock.time += 1.0
        return status

    def _run(self, journal: SimJournal, engine: SimEngine, recovered: Recovered, *, resumed: bool) -> str:
        self.keys = GraphKeys(self.graph, run=RUN)
        journal.append(RunStarted(run=RUN, pipeline=self.graph.pipeline, entry="simulation", resumed=resumed))
        for node in self.graph.nodes:
            journal.append(
                NodePlanned(node=node.id, task=node.task.name, key=self.keys[node.id].key, kind=node.kind)
            )
        state = self.state_class(
            self.graph, self.plans, seed=self.world.seed, first_attempt=recovered.next_attempt
        )
        if state.gangs is not None:
            hurry = self.world.chance("settled")
            state.gangs.settled_s = hurry.choice((0.0, 0.5, 5.0))
            state.gangs.lasts_s = hurry.choice((0.0, 0.2, 2.0))
        parts = RunnerParts(
            run=RUN,
            graph=self.graph,
            keys=self.keys,
            state=state,
            engine=engine,
            store=self.store,
            journal=journal,
            clock=self.world.clock,
            recovered=recovered,
            stop_requested=self.world.stop_requested,
            aside=self.aside,
        )
        status = self.runner_class(parts).run()
        self.world.note("left", tuple(sorted(state.running)))
        if status in ("finished", WITH_FAILURES):
            refer = CallMaker(self.graph, self.keys, state, self.store).refer
            self.result = unpack(pack(self.graph.output, refer), self.store)
        if status == WITH_FAILURES:
            self._check_what_is_left()
        journal.append(RunFinished(status=status))
        return status

    def _journalled(self) -> list[Event]:
        return [event for segment in read(self.folder) for event in segment.events]

    # -- what failed items must not spoil ----------------------------------------------------------

    def _check_what_is_left(self) -> None:
        """The result of a run with failures is what plain Python makes of the items that did not fail."""
        found: list[set[int]] = [set() for _ in self.graph.nodes]
        own: list[set[int]] = [set() for _ in self.graph.nodes]
        begun = max(at for at, record in enumerate(self.world.trace) if record.what == "driver")
        for event in [record.facts for record in self.world.trace[begun:] if record.what == "journal"]:
            match event:
                case ItemsFound(tainted=True):
                    return  # which items they are is told by a list that is not the whole one
                case ItemsFound():
                    found[event.node].update(range(event.lo, event.hi))
                case AttemptFinished() if event.expanded is None:
                    own[event.node].update(range(event.lo, event.hi))
                case AttemptFailed(ref=ref) if ref is not None:
                    own[event.node].update(range(event.lo, event.lo + event.done))
                case _:
                    pass
        expected = as_it_ended(self.program, self.values, found=found, own=own)
        if self.result != expected:
            self.wrong.append(f"a run with failures returned {self.result!r}; left is {expected!r}")

    def _check_store(self) -> None:
        """What is stored under a key is what its recipe gives where nothing fails."""
        for node in self.graph.nodes:
            value, key = self.values[node.id], self.keys[node.id]
            if node.kind == "call":
                entry = self.store.find(key.key)
                stored = [(value, self.store.get(entry.ref))] if entry is not None else []
            else:
                keys = self.keys.indexed(node.id)
                whole = keys is not None and len(keys) == 16 * len(value)  # else the list lacked items itself
                hits = self.store.find_items(key.recipe, keys) if whole and keys is not None else ()
                stored = [
                    (value[hit.lo : hit.hi], self.store.get(hit.ref)[hit.start :][: hit.hi - hit.lo])
                    for hit in hits
                ]
            self.wrong += [
                f"stored for node {node.id} is {there!r}, and its recipe gives {due!r}"
                for due, there in stored
                if due != there
            ]

    # -- what others do ----------------------------------------------------------------------------

    def _store_some(self) -> None:
        """An earlier run left some results."""
        chance = self.world.chance("stored")
        for node in self.graph.nodes:
            if chance.random() < self.world.faults.stored:
                items = self.values[node.id]
                some = len(items) // 2 if node.kind == "map" and chance.random() < 0.5 else None
                self._put(node.id, some)

    def _publish(self, key: str) -> None:
        """Another process that had claimed the key is done with it."""
        for node in self.graph.nodes:
            if self.keys[node.id].key == key:
                if node.kind == "call" and node.task.resources.cache:
                    self.world.note("publish", key)
                self._put(node.id)

    def _put(self, node: int, some: int | None = None) -> None:
        value, task = self.values[node], self.graph.nodes[node].task
        if not task.resources.cache:
            return
        if self.graph.nodes[node].kind == "call":
            entry = Entry(
                key=self.keys[node].key,
                ref=self.store.put(value),
                task=task.name,
                run="another",
                seconds=1.0,
                at=self.world.clock.now(),
            )
            super(SimStore, self.store).commit(entry)
            return
        keys = self.keys.indexed(node)
        if keys is not None:
            taken = value[:some]
            super(SimStore, self.store).commit_items(
                self.keys[node].recipe,
                keys[: 16 * len(taken)],
                self.store.put(taken),
                task=task.name,
                run="another",
                seconds=1.0,
            )


def _main(arguments: list[str], say: Callable[[str], Any] = sys.stdout.write) -> None:
    seed = int(arguments[0].partition("=")[2])
    history = simulate(seed)
    say(history.graph.describe() + "\n" + described(history.trace))
    check(history)


if __name__ == "__main__":
    _main(sys.argv[1:])
