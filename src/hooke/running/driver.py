"""Drives a run, new or resumed: trace, keys, journal, engine, runner."""

from __future__ import annotations

import inspect
import logging
import os
import random
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import HookeError, NotPicklable, StoreError, UsageError
from hooke.base.formats import did_you_mean, short_parameters, short_repr
from hooke.base.pinned_modules import import_edited, pin_modules
from hooke.base.ref import Ref
from hooke.base.this_process import RareCollections
from hooke.base.user_code import is_users
from hooke.fleets.elastic import (
    Elastic,
    HistoryReader,
    LawScope,
    LedgerMeter,
    RunTargets,
    check_cost,
    check_kept,
    check_wanted,
    sized_by,
)
from hooke.journal.events import (
    FINISHED,
    WITH_FAILURES,
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    CodeSeen,
    Event,
    NodePlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.run_folders import DRIVER
from hooke.journal.run_view import RunView
from hooke.journal.study_records import check
from hooke.journal.writer import Journal
from hooke.keys.file import files_keyed
from hooke.keys.fingerprint_parts import CodePart
from hooke.keys.reached_code import updated_globals
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.engine import EngineContext
from hooke.pipeline.file_results import FileResults
from hooke.pipeline.finished_results import Recovered, recover
from hooke.pipeline.graph import Graph, Node
from hooke.pipeline.node_keys import GraphKeys, data_of
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.promise import short_argument
from hooke.pipeline.references import pack
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import CTRL_C, Runner, RunnerParts
from hooke.pipeline.trace import trace
from hooke.processes.devices import cpus_here, devices_of_this_machine
from hooke.processes.start import Interrupts
from hooke.project.backends import (
    ENGINES,
    BackendChoice,
    check_engine,
    find_backend,
    open_engine,
    parse_workers,
)
from hooke.project.folder import Project, check_run_name, lock_run, new_run_id, open_run
from hooke.project.pipeline_file import entry_of
from hooke.running.past_durations import PastDurations, expected_seconds
from hooke.running.provenance import ProvenanceRecorder
from hooke.store import by_value
from hooke.store.store import Store
from hooke.sync.background import Shipping, sink_names
from hooke.tracking.mlflow_runs import MlflowPlace, configured_uri
from hooke.tracking.system_metrics import SEGMENT as SYSTEM
from hooke.tracking.system_metrics import SystemMetrics
from hooke.tracking.tracker import Tracker, logging_into

__all__ = [
    "Driver",
    "GangWait",
    "RunOrder",
    "check_declared",
    "check_gangs",
    "plan_of",
    "prepare",
]


_log = logging.getLogger("hooke")

# --- Checks that a backend can run a pipeline's gangs: before the run, or during it if the backend's size is unknown.

WAIT_S = 120.0
"""Workers of an existing cluster join within seconds of one another, and a restarted worker within a minute."""


def check_gangs(graph: Graph, place: BackendChoice) -> None:
    """Raise UsageError if the backend does not support gangs, or has fewer workers than a gang has ranks."""
    gangs = [node for node in graph.nodes if node.task.resources.gang]
    if not gangs:
        return
    widest = max(gangs, key=lambda node: node.task.resources.fewest)
    able = ENGINES.load(place.engine).capabilities
    if not able.gangs:
        raise _no_gangs(widest, place)
    elastic = next((node for node in gangs if node.task.resources.least_ranks), None)
    if elastic is not None and not able.resizes_gangs:
        raise _not_elastic(elastic, place)
    ranks, most = widest.task.resources.fewest, _most(place)
    if most is not None and ranks > most:
        raise UsageError(
            f"{_of_ranks(widest)}, but {place.name!r} has {most} {_workers(most)}",
            where=widest.where,
            why="the ranks wait for one another, so all must run at once",
            fix=f"set workers={ranks} (or --workers {ranks}), or a smaller gang=",
        )


class GangWait:
    """Detects that only a gang is left and waits for workers, on a backend for which Hooke starts no workers."""

    def __init__(self, graph: Graph, place: BackendChoice) -> None:
        given = place.workers is None or not place.scalable
        gangs = [node for node in graph.nodes if node.task.resources.gang] if given else []
        self._widest = max(gangs, key=lambda node: node.task.resources.fewest, default=None)
        self._place = place
        self._slots = 0
        self._running: set[int] = set()
        self._since: float | None = None

    @property
    def has_gangs(self) -> bool:
        """Whether there is anything to wait for; else it need not observe."""
        return self._widest is not None

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
        if self._widest is None or self._running or self._slots >= self._widest.task.resources.fewest:
            return
        self._since = now if self._since is None else self._since
        if now - self._since >= WAIT_S:
            ranks = self._widest.task.resources.fewest
            raise UsageError(
                f"{_of_ranks(self._widest)}, but {self._place.name!r} has room for {self._slots}",
                where=self._widest.where,
                why=f"the ranks wait for one another, so all must run at once; nothing else ran for {WAIT_S:g} s, and no worker joined",
                fix=f"add workers until it has {ranks} threads, or make gang= smaller; then resume",
            )


# --- What tasks declare and a backend cannot keep.


def check_declared(graph: Graph, place: BackendChoice) -> None:
    """Warn of limits of tasks that the backend does not enforce. Raises UsageError for GPUs that it would not see missing."""
    if ENGINES.load(place.engine).capabilities.isolated:
        return
    devices = devices_of_this_machine()
    unkept: dict[str, list[str]] = {}
    for node in {node.task.name: node for node in graph.nodes}.values():
        asked = node.task.resources
        devices.check(node.task.name, asked.gpus)
        for option in ("timeout", "memory"):
            if getattr(asked, "timeout_s" if option == "timeout" else option) is not None:
                unkept.setdefault(f"{option}=", []).append(node.task.name)
    if unkept:
        said = ", and ".join(f"{option} of {', '.join(names)}" for option, names in unkept.items())
        _log.warning(
            "note: %s, where tasks run in the driver's own process, does not enforce %s", place.name, said
        )


def warn_of_changed_globals(graph: Graph) -> None:
    """Warn of tasks that count in a global: each worker has its own, so results depend on which calls it had before."""
    for task in {node.task.name: node.task for node in graph.nodes}.values():
        function: Any = task.function
        with suppress(ValueError):  # an object that names another wrapped one without end
            function = inspect.unwrap(function)
        code = getattr(function, "__code__", None)
        names = updated_globals(code) if isinstance(code, types.CodeType) else []
        if names:
            _log.warning(
                "note: the task %s changes %s, of which each worker has its own: what a call sees depends on the calls before it there, and "
                "results from the cache change nothing; return what you count, and add it up in a task of its own",
                task.name,
                ", ".join(names),
            )


def _of_ranks(node: Node) -> str:
    asked = node.task.resources
    needs = f"needs at least {asked.least_ranks} ranks" if asked.least_ranks else f"has {asked.gang} ranks"
    return f"the gang {node.task.name!r} {needs}"


def _number_of(node: Node) -> str:
    asked = node.task.resources
    return f"{asked.least_ranks} to {asked.gang}" if asked.least_ranks else str(asked.gang)


def _not_elastic(node: Node, place: BackendChoice) -> UsageError:
    asked = node.task.resources
    return UsageError(
        f"the backend {place.name!r} cannot change the number of a gang's ranks, and {node.task.name!r} may have {_number_of(node)}",
        where=node.where,
        fix=f"give it a fixed number, such as gang={asked.least_ranks}, or use local, dask or ray",
    )


def _no_gangs(node: Node, place: BackendChoice) -> UsageError:
    able = [name for name in ENGINES.builtin if name in _with_gangs()]
    return UsageError(
        f"the backend {place.name!r} does not support gangs, but {node.task.name!r} is a gang of {_number_of(node)} ranks",
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


PLANNED_TOGETHER = 1000
"""Nodes whose plans are one write: a write for each takes as long as to make them."""

STOP_POLL_S = 0.1
"""Seconds between two checks for a request to stop. A check opens a file, and short tasks end thousands of times a second."""


def plan_of(
    node: Node,
    expected: Mapping[str, PastDurations],
    *,
    repeatable: bool,
    retries: int | None = None,
) -> NodePlan:
    """The plan of a graph node. `expected` is task -> what its items took; a slow attempt of a `repeatable` node gets a twin.

    `retries` replaces the task's own.
    """
    asked = node.task.resources
    past = expected.get(node.task.name) if node.kind == "map" else None
    past = past or PastDurations()
    return NodePlan(
        cpus=asked.cpus,
        memory=asked.memory,
        gpus=asked.gpus,
        retries=asked.retries if retries is None else retries,
        timeout_s=asked.timeout_s,
        ranks=asked.gang,
        least_ranks=asked.least_ranks,
        repeatable=repeatable,
        expected_s=past.items,
        usual_s=past.usual_s,
    )


Observer = Callable[[Event], None]


class RunOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A requested run. `run` is the run to resume; None for a new run."""

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...] = ()
    params: Mapping[str, Any] = msgspec.field(default_factory=dict)
    on: Any = "local"
    """A backend's name, a Fleet, or a Dask cluster or client."""
    workers: int | tuple[int, int] | None = None
    wanted: RunTargets = msgspec.field(default_factory=RunTargets)
    allow_mismatch: Sequence[str] = ()
    """Distributions whose versions may differ on remote workers."""
    force: bool | Sequence[str] = False
    """Tasks that run although their results are stored, with all that use them; True for all."""
    run: str | None = None
    new_id: str = ""
    """The id of a new run; empty for a generated one."""
    name: str = ""
    """The beginning of a generated id; empty means the pipeline's name."""
    tags: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Tags of the run, which win over those that the pipeline's body sets."""
    retries: int | None = None
    """How often a failed task runs again, for every task; None leaves each its own number."""
    parent: str = ""
    """The search of which the run is a trial."""
    experiment: str = ""
    """The experiment in trackers; empty means that of hooke.toml, else the pipeline's name."""
    observers: tuple[Observer, ...] = ()


class Driver(msgspec.Struct, kw_only=True):
    """A run that is traced and checked, and not yet started: nothing is written."""

    project: Project
    order: RunOrder
    run: str
    graph: Graph
    place: BackendChoice
    clock: Clock
    tracker: Tracker
    """Holds what the pipeline's body logged during tracing."""
    seed: int
    """Part of every key."""
    next_stop_check: float = 0.0
    collections: RareCollections | None = None
    """While it is driven, unless tasks run in this process, too."""

    def drive(self) -> str:
        """Run to the end and return the status. Raises errors of the journal and the store; the run can be resumed afterwards."""
        folder = self.project.runs.folder(self.run)
        with ExitStack() as open_things:
            open_things.enter_context(lock_run(self.project, self.run))
            open_things.enter_context(Shipping(self.project, folder))
            store = self.project.store()
            # The engine, which refers to the store, lives until Python collects garbage of all generations.
            open_things.callback(store.close_files)
            open_things.enter_context(store.live(self.run))
            recovered = self._recovered()
            seed = random.SystemRandom().getrandbits(31)
            begun = self._started(store, seed=seed)
            open_things.callback(self.tracker.close)
            if self.order.run is None:
                self.tracker.begin()
            journal = open_things.enter_context(
                open_run(self.project, begun, clock=self.clock, observers=self.order.observers)
            )
            if ENGINES.load(self.place.engine).capabilities.isolated:
                self.collections = open_things.enter_context(RareCollections(self.clock))
            every_s = self.project.settings.tracking.system_metrics_s
            open_things.enter_context(SystemMetrics(Tracker(folder, SYSTEM), every_s=every_s))
            return self._drive(store, journal, recovered, seed=seed)

    def _drive(self, store: Store, journal: Journal, recovered: Recovered, *, seed: int) -> str:
        began = self.clock.monotonic()
        recorder = ProvenanceRecorder(self.project.root, journal.folder, journal.append, seed=self.seed)
        try:
            with files_keyed() as files:
                keys = GraphKeys(self.graph, run=self.run, seed=self.seed)
            recorder.start(files)
            self._journal_plan(journal, keys)
            state = RunState(self.graph, self._plans(), seed=seed, first_attempt=recovered.next_attempt)
            if self.order.run is None:  # what is forced begins anew
                store.checkpoints.remove_of(keys[node].recipe for node in self._forced())
            status = self._run(state, keys, store, journal, recovered)
            completed = status in (FINISHED, WITH_FAILURES)
            output = self._output(keys, state, store) if completed else None
            recorder.join()
            store.sync()
            if journal.durable != "none":
                self.project.runs.sync(self.run)
            store.clear_checkpoints(run=self.run if status == "finished" else "")
        except BaseException as error:
            recorder.join(patience_s=1.0)
            with suppress(StoreError):  # the first error is the one to raise
                store.sync()
            message = str(error) if isinstance(error, HookeError) else f"{type(error).__name__}: {error}"
            status = "failed" if isinstance(error, Exception) else "stopped"  # Ctrl-C, or who started it
            _finish(journal, RunFinished(status=status, message=message.removesuffix(": ")))
            raise
        failure, seconds = state.failure, self.clock.monotonic() - began
        if status == "finished":
            self._check_plan(journal, seconds)
        journal.append(
            RunFinished(
                status=status,
                output=output,
                node=failure.node if failure else None,
                message=failure.failure.message if failure else "",
                seconds=seconds,
                failures=state.failures,
            )
        )
        return status

    def _output(self, keys: GraphKeys, state: RunState, store: Store) -> Ref:
        """The stored return value of the pipeline, whose files are where its tasks left them."""
        maker = CallMaker(self.graph, keys, state, store)
        output = _output(self.graph, maker, store)
        FileResults(self.project.root, store).provide_stored(maker.files)
        return output

    def _check_plan(self, journal: Journal, seconds: float) -> None:
        """Compare the run with the plan that was made for it, if any."""
        plans = self.project.plans
        if self.order.run is not None or self.place.engine != "local" or not plans.names(self.graph.pipeline):
            return
        view = RunView.fold(self.project.runs.events(self.run))
        made = plans.made_for(view.begun) if view.begun is not None else None
        checked = check(made, view, seconds=seconds) if made is not None else None
        if checked is not None:
            journal.append(checked)

    def _run(
        self, state: RunState, keys: GraphKeys, store: Store, journal: Journal, recovered: Recovered
    ) -> str:
        context = self._context(store, keys)
        place, sizing = self.place, self._sizing(keys)
        if sizing is not None:
            journal.observers.append(sizing.observe)
            place = replace(place, workers=None if sizing.joined else (sizing.target, sizing.target))
        engine = open_engine(place, context)
        interrupts = Interrupts(deferred=engine.capabilities.isolated)
        waiting = GangWait(self.graph, self.place)
        if waiting.has_gangs:
            journal.observers.append(waiting.observe)
        try:
            if not engine.capabilities.elastic:
                check_kept(self.order.wanted, place, resumed=self.order.run is not None)
            parts = RunnerParts(
                run=self.run,
                graph=self.graph,
                keys=keys,
                state=state,
                engine=engine,
                store=store,
                journal=journal,
                clock=self.clock,
                logs=context.logs,
                inputs=self.project.inputs_now(unshared=engine.capabilities.unshared),
                recovered=recovered,
                forced=self._forced(),
                stop_requested=lambda: self._stop_requested(interrupts, waiting),
                sizing=sizing.decide if sizing is not None and engine.capabilities.elastic else None,
            )
            with interrupts:
                return Runner(parts).run()
        finally:
            engine.close()

    def _context(self, store: Store, keys: GraphKeys) -> EngineContext:
        return EngineContext(
            run=self.run,
            store=store,
            secret=self.project.secret(),
            logs=self.project.runs.folder(self.run) / "logs",
            clock=self.clock,
            warm=True,
            tracking=self.project.runs.folder(self.run),
            durable=self.project.settings.journal.durable,
            mlflow=self._mlflow(),
            requires=self._reached(keys),
            allow_mismatch=tuple(self.order.allow_mismatch),
            code=self._code(store),
            root=self.project.root,
            usd_per_hour=self.place.usd_per_hour,
            max_usd_per_hour=self.place.max_usd_per_hour,
            most_workers=self.place.workers[1] if self.place.workers is not None else 0,
        )

    def _code(self, store: Store) -> Ref | None:
        """The stored source of the project's imported modules: an edit during the run changes the next run only."""
        # As text, for hundreds of modules: paths take a hundredth of a short run to compare.
        below = os.path.join(self.project.root, "")
        modules = pin_modules(lambda file: file.startswith(below) and is_users(file))
        return store.put(modules) if modules else None

    def _forced(self) -> frozenset[int]:
        """The nodes that run although the store has their results."""
        names = set(_forced_tasks(self.order.force, self.graph))
        return frozenset(
            self.graph.downstream([node.id for node in self.graph.nodes if node.task.name in names])
        )

    def _reached(self, keys: GraphKeys) -> dict[str, str]:
        """Distribution -> version, for the distributions that the tasks' code reaches."""
        code = {id(key.code): key.code for key in keys.nodes}
        return {
            part.name: part.text.removeprefix(part.name).strip()
            for each in code.values()
            for part in each.parts
            if part.kind == "distribution" and part.name != "hooke"
        }

    def _sizing(self, keys: GraphKeys) -> Elastic | None:
        """The policy that sets the number of workers, if it is not fixed."""
        if not self.place.elastic or not ENGINES.load(self.place.engine).capabilities.elastic:
            return None
        assert self.place.workers is not None
        where = LawScope(entry=str(entry_of(self.order.pipeline)), place=self.place.name)
        past = HistoryReader(self.project.runs, self.graph, keys, where=where, most=self.place.workers[1])
        made = sized_by(self.place, self.order.wanted, self.graph, past, self.clock)
        if ENGINES.load(self.place.engine).capabilities.ledger:
            made.ledger = LedgerMeter(self.project.runs, self.run)
        return made

    def _stop_requested(self, interrupts: Interrupts, waiting: GangWait) -> str | None:
        if interrupts.asked():
            return CTRL_C
        if self.collections is not None:
            self.collections.due()
        now = self.clock.monotonic()
        waiting.check(now)
        if now < self.next_stop_check:
            return None
        self.next_stop_check = now + STOP_POLL_S
        return self.project.runs.stop_requested(self.run)

    def _recovered(self) -> Recovered:
        if self.order.run is None:
            return Recovered()
        self.project.runs.clear_stop(self.run)
        return recover(self.project.runs.events(self.run))

    def _plans(self) -> list[NodePlan]:
        maps = any(node.kind == "map" for node in self.graph.nodes)
        expected = expected_seconds(self.project.runs, self.graph.pipeline, besides=self.run) if maps else {}
        made: dict[tuple[int, str], NodePlan] = {}
        """The plans of the calls and of the maps of each task, which differ in nothing else."""
        for node in self.graph.nodes:
            if (id(node.task), node.kind) not in made:
                cache, retries = node.task.resources.cache, self.order.retries
                made[id(node.task), node.kind] = plan_of(node, expected, repeatable=cache, retries=retries)
        return [made[id(node.task), node.kind] for node in self.graph.nodes]

    def _started(self, store: Store, *, seed: int) -> RunStarted:
        order = self.order
        entry = entry_of(order.pipeline)
        return RunStarted(
            run=self.run,
            pipeline=order.pipeline.name,
            entry=str(entry),
            pickled=_stored(store, order.pipeline, "the pipeline") if entry.file is None else None,
            arguments=_stored(store, (order.args, dict(order.params)), "a parameter"),
            shown=short_parameters(order.args, order.params),
            place=self.place.name,
            workers=parse_workers(order.workers),
            allow_mismatch=tuple(order.allow_mismatch),
            forced=_forced_tasks(order.force, self.graph),
            deadline=order.wanted.deadline,
            budget_usd=order.wanted.budget_usd,
            store=store.place,
            seed=seed,
            resumed=order.run is not None,
            experiment=order.experiment or self.project.settings.tracking.experiment,
            parent=order.parent,
            parameters=_parameters(order),
            name=order.name,
            tags={name: str(value) for name, value in order.tags.items()},
            retries=order.retries,
        )

    def _mlflow(self) -> MlflowPlace | None:
        """Where MLflow's own calls in tasks log: with what the shipper sends, if MLflow is one of the project's trackers."""
        if "mlflow" not in sink_names(self.project):
            return None
        tracking = self.project.settings.tracking
        uri = str(tracking.options.get("mlflow", {}).get("uri", ""))
        return MlflowPlace(
            uri=configured_uri(self.project.root, uri),
            experiment=self.order.experiment or tracking.experiment or self.order.pipeline.name,
            run=self.run,
            root=str(self.project.root),
        )

    def _journal_plan(self, journal: Journal, keys: GraphKeys) -> None:
        seen: set[str] = set()
        code: dict[int, dict[str, str]] = {}
        """Identity of a task's code -> name of a part -> its digest."""
        sizes: dict[int, int] = {}
        for node in self.graph.nodes:
            key = keys[node.id]
            if id(key.code) not in code:
                code[id(key.code)] = {part.name: part.digest for part in key.code.parts}
                for part in key.code.parts:
                    if part.digest not in seen:
                        seen.add(part.digest)
                        journal.hold(_seen(part))
            journal.hold(self._planned(node, keys, code[id(key.code)], data_of(node, sizes)))
            if node.id % PLANNED_TOGETHER == 0:
                journal.flush()
        journal.flush()
        keys.drop_inputs()

    def _planned(
        self, node: Node, keys: GraphKeys, code: dict[str, str], data: dict[str, int]
    ) -> NodePlanned:
        key, asked, is_map = keys[node.id], node.task.resources, node.kind == "map"
        return NodePlanned(
            at=self.clock.now(),
            node=node.id,
            task=node.task.name,
            key=key.key,
            kind=node.kind,
            items=node.items if is_map else 1,
            recipe=key.recipe if is_map else "",
            parents=self.graph.parents(node.id),
            code=code,
            notes=key.code.notes,
            inputs=keys.inputs(node.id),
            shown={name: short_argument(value) for name, value in node.arguments.items()},
            data=data,
            cpus=asked.cpus,
            memory=asked.memory,
            gpus=asked.gpus,
            retries=asked.retries if self.order.retries is None else self.order.retries,
            timeout_s=asked.timeout_s,
            cache=asked.cache,
            seed=self.seed,
            gang=asked.gang,
            least_ranks=asked.least_ranks,
            within=node.within,
            where=node.where,
        )


def _seen(part: CodePart) -> CodeSeen:
    return CodeSeen(digest=part.digest, name=part.name, kind=part.kind, where=part.where, text=part.text)


def prepare(order: RunOrder, project: Project, *, clock: Clock | None = None) -> Driver:
    """Check and trace a requested run. Raises UsageError and TraceError before anything is written."""
    workers = parse_workers(order.workers)
    place = find_backend(order.on, workers=workers, places=project.settings.places)
    check_engine(place)
    check_wanted(order.wanted, place, resumed=order.run is not None)
    check_cost(place)
    import_edited()
    clock = clock or SystemClock()
    _check_labels(order)
    run = order.run or order.new_id or new_run_id(order.name or order.pipeline.name, clock.now())
    durable = project.settings.journal.durable
    tracker = Tracker(project.runs.folder(run), DRIVER, durable=durable, held=True)
    with logging_into(tracker), RareCollections(clock):
        graph = trace(order.pipeline, order.args, order.params)
        if order.tags:
            tracker.set_tags(order.tags)
    check_gangs(graph, place)
    check_declared(graph, place)
    warn_of_changed_globals(graph)
    if order.run is None:
        _check_forced(order.force, graph)
    return Driver(
        project=project,
        order=order,
        run=run,
        graph=graph,
        place=place,
        clock=clock,
        tracker=tracker,
        seed=project.seed,
    )


def _output(graph: Graph, maker: CallMaker, store: Store) -> Ref:
    """The pipeline's return value, stored as a pickle of values and references to results."""
    try:
        return store.put(pack(graph.output, maker.refer))
    except HookeError:
        raise
    except Exception as error:  # whatever a user's __reduce__ raises
        raise NotPicklable(
            f"what pipeline {graph.pipeline!r} returns cannot be stored",
            why=f"{type(error).__name__}: {error}",
            fix="return only task results and plain values",
        ) from error


def _finish(journal: Journal, event: RunFinished) -> None:
    """Journal the end if that is still possible; the first error is the one to raise."""
    try:
        journal.append(event)
    except HookeError:
        return


def _stored(store: Store, value: Any, what: str) -> Ref:
    try:
        return store.put(by_value.dumps(value))
    except StoreError:
        raise
    except Exception as error:  # whatever a user's __reduce__ raises
        raise NotPicklable(
            f"{what} cannot be pickled, so the run could not be resumed",
            why=f"{type(error).__name__}: {error}",
            fix="create the object inside a task, from arguments that can be pickled",
        ) from error


def _parameters(order: RunOrder) -> dict[str, str]:
    """All parameters by name. Tracing has checked that they bind."""
    bound = order.pipeline.signature.bind(*order.args, **order.params)
    bound.apply_defaults()
    return {name: short_repr(value) for name, value in bound.arguments.items()}


def _forced_tasks(force: bool | Sequence[str], graph: Graph) -> tuple[str, ...]:  # noqa: FBT001 - as in `run`
    """The names of the forced tasks."""
    tasks = dict.fromkeys(node.task.name for node in graph.nodes)
    if isinstance(force, bool):
        return tuple(tasks) if force else ()
    return (force,) if isinstance(force, str) else tuple(force)


def _check_labels(order: RunOrder) -> None:
    """Raise UsageError for a name, tags or retries that cannot be."""
    if not isinstance(order.name, str):
        raise UsageError(
            f"name={order.name!r} is not text", fix='give the beginning of the run\'s id: "nightly"'
        )
    if not isinstance(order.tags, Mapping):
        raise UsageError(
            f"tags={short_repr(order.tags)} is not a dict",
            fix='give tags as text or numbers by name: {"team": "ours"}',
        )
    if order.name and order.run is None:
        check_run_name(order.name, said=f"the name {order.name!r}")
    for name, value in order.tags.items():
        if not isinstance(name, str) or not name.strip() or not isinstance(value, str | int | float):
            raise UsageError(
                f"the tag {name!r} = {short_repr(value)} is not text by name",
                fix='give tags as text or numbers: {"team": "ours"}, or --tag team=ours',
            )
    if order.retries is not None and (
        isinstance(order.retries, bool) or not isinstance(order.retries, int) or order.retries < 0
    ):
        raise UsageError(f"retries={order.retries!r} is not a number of retries", fix="give 0 or more")


def _check_forced(force: bool | Sequence[str], graph: Graph) -> None:  # noqa: FBT001 - as in `run`
    """Raise UsageError for a task that the pipeline has not."""
    tasks = _forced_tasks(True, graph)
    for name in _forced_tasks(force, graph):
        if name not in tasks:
            raise UsageError(
                f"the pipeline {graph.pipeline!r} has no task {name!r} to force",
                fix=f"{did_you_mean(str(name), tasks)}its tasks: {', '.join(tasks) or 'none'}",
            )
