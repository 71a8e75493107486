"""`hooke exec`: one task with inputs by reference, without a run. Other schedulers call it for each task.

The result is in the store, and survives a power loss, before its reference is told. What is stored already for the same code and
the same inputs is found: inputs that are references count by their content. Retries and timeouts are those of the caller, but for items
of maps that go on without failed items: whether the last try failed is for the scheduler of runs to say, so it has all tries.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError, TaskFailed, UsageError
from hooke.base.formats import did_you_mean
from hooke.base.ref import Ref
from hooke.exporters.value_text import FAILED, FAILED_TEXT, read_value, reference_text
from hooke.journal.run_folders import DRIVER
from hooke.journal.writer import Journal
from hooke.keys.file import files_loaded
from hooke.pipeline.arguments import unbind
from hooke.pipeline.engine import EngineContext
from hooke.pipeline.failures import task_failed
from hooke.pipeline.file_results import FileResults
from hooke.pipeline.graph import Graph, Node
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.references import StoredValue, pack, unpack
from hooke.pipeline.retries import is_items_own
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import Task
from hooke.project.backends import BackendChoice, open_engine
from hooke.project.folder import Project, new_run_id
from hooke.project.pipeline_file import load_file
from hooke.store.store import Store

__all__ = ["ExecOrder", "Executed", "execute_task"]


class ExecOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    target: str
    """`FILE.py:TASK`; with `FILE.py` alone the only input itself is the result."""
    inputs: Mapping[str, str] = {}
    """Parameter -> its value as text, as `hooke.exporters.value_text` reads it."""
    listed: bool = False
    """Whether the result is a list whose items are wanted as references of their own."""
    on_error: Literal["raise", "continue"] = "raise"
    """`continue` for an item of such a map: with the task's own retries and timeout, in a process of its own, and it may fail."""


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """The reference of the result, and those of its items if they were wanted. Each item is an object of its own."""

    reference: str
    """FAILED_TEXT for an item that is left out: it failed, or one of its inputs is such an item."""
    items: tuple[str, ...] = ()
    failure: TaskFailed | None = None
    """Why an item is left out that failed itself."""


def execute_task(order: ExecOrder, project: Project | None = None) -> Executed:
    """Run the task, or find its stored result. By default the project is that of the file.

    Raises UsageError for a target or inputs that do not fit, and for a list that is wanted of what may fail; MissingObject for a reference
    that the store lacks; TaskFailed as a run does; StoreFull. With `on_error="continue"` a failure that is the item's own is told instead of raised.
    """
    if order.listed and order.on_error == "continue":
        raise UsageError(
            "the items of a result are wanted, and the task may fail",
            why="a failed task has no items",
            fix="leave out --items or --on-error",
        )
    task, path = _loaded(order.target)
    project = project or Project.find(path)
    if task is None and str(project.root) not in sys.path:
        sys.path.append(str(project.root))  # stored values may be of classes in the project's modules
    values = {name: _read(name, text) for name, text in order.inputs.items()}
    if any(value is FAILED for value in values.values()):
        if order.listed:
            raise UsageError("an item that failed has no items", fix="give the reference of a list")
        return Executed(reference=FAILED_TEXT)
    project.create()
    store = project.store()
    try:
        if task is None:
            ref = _carried(project, store, values)
        else:
            ref = _Execution(project, store, task, order.on_error).run(values)
        if isinstance(ref, TaskFailed):
            return Executed(reference=FAILED_TEXT, failure=ref)
        ref = store.apart(ref)
        items = _items(project, store, ref) if order.listed else ()
        store.sync([ref, *items])
    finally:
        store.close_files()
    return Executed(reference=reference_text(ref), items=tuple(map(reference_text, items)))


def _read(name: str, text: str) -> Any:
    try:
        return read_value(text)
    except UsageError as error:
        error.what = f"--in {name}: {error.what}"
        raise


# --- The task, by file and name.


def _loaded(target: str) -> tuple[Task[..., Any] | None, Path]:
    with contextlib.redirect_stdout(sys.stderr):
        module, path, name = load_file(target, "task")
    if not name:
        return None, path.resolve()
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Task):
        tasks = sorted(key for key, value in vars(module).items() if isinstance(value, Task))
        raise UsageError(
            f"{path} has no task {name!r}",
            fix=f"{did_you_mean(name, tasks)}it has: {', '.join(tasks)}"
            if tasks
            else "write @task above the function",
        )
    return found, path.resolve()


def _bound(task: Task[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, checked, with defaults. `*args` and `**kwargs` may be given under their own names."""
    parameters = task.signature.parameters
    named = {name: value for name, value in given.items() if name in parameters}
    more = {name: value for name, value in given.items() if name not in parameters}
    keywords = next((name for name, each in parameters.items() if each.kind is Parameter.VAR_KEYWORD), None)
    if more and keywords is not None:
        named[keywords] = {**named.get(keywords, {}), **more}
        more.clear()
    args, kwargs = unbind(task.signature, named)
    return task.binder.bind(args, {**kwargs, **more})


# --- One task, by the scheduler of runs: a graph of one node.


class _Execution(msgspec.Struct):
    project: Project
    store: Store
    task: Task[..., Any]
    on_error: Literal["raise", "continue"]

    def run(self, values: Mapping[str, Any]) -> Ref | TaskFailed:
        """The result, or why there is none if this may be. Raises TaskFailed, and KeyboardInterrupt after Ctrl-C."""
        name = new_run_id(f"exec-{self.task.name}", SystemClock().now())
        node = Node(id=0, task=self.task, arguments=_bound(self.task, values))
        graph = Graph(pipeline=self.task.name, nodes=(node,))
        keys = GraphKeys(graph, run=name, seed=self.project.seed)
        with tempfile.TemporaryDirectory(prefix="hooke-exec-") as folder, self.store.live(name):
            return self._run(graph, keys, Path(folder))

    def _run(self, graph: Graph, keys: GraphKeys, folder: Path) -> Ref | TaskFailed:
        asked, clock = self.task.resources, SystemClock()
        place = self._place()
        plan = NodePlan(
            cpus=asked.cpus,
            memory=asked.memory,
            gpus=0.0 if place.engine == "serial" else asked.gpus,  # this process sees those of the caller
            retries=asked.retries if self._may_fail else 0,
            timeout_s=asked.timeout_s if self._may_fail else None,
            ranks=asked.gang,
            least_ranks=asked.least_ranks,
        )
        state = RunState(graph, [plan])
        context = EngineContext(
            run=keys.run,
            store=self.store,
            secret=self.project.secret(),
            logs=folder / "logs",
            clock=clock,
            root=self.project.root,
        )
        engine = open_engine(place, context)
        with (
            contextlib.closing(engine),
            Journal.create(folder, DRIVER, durable="none", clock=clock) as journal,
        ):
            parts = RunnerParts(
                run=keys.run,
                graph=graph,
                keys=keys,
                state=state,
                engine=engine,
                store=self.store,
                journal=journal,
                clock=clock,
                logs=context.logs,
                inputs=self.project.inputs_now(),
            )
            with contextlib.redirect_stdout(sys.stderr):
                status = Runner(parts).run()
        return self._result(state, status)

    @property
    def _may_fail(self) -> bool:
        return self.on_error == "continue"

    def _place(self) -> BackendChoice:
        """In this process; the ranks of a gang each in one of their own, and what may fail, too, since it may die."""
        count = self.task.resources.gang or int(self._may_fail)
        return BackendChoice(
            name="exec", engine="local" if count else "serial", workers=(count, count) if count else None
        )

    def _result(self, state: RunState, status: str) -> Ref | TaskFailed:
        if state.failure is not None:
            failed = task_failed(
                state.failure, task=self.task.name, run="", unseal=self.store.unseal, joined=False
            )
            if self._may_fail and is_items_own(state.failure):
                return failed
            raise failed
        if status == "stopped":
            raise KeyboardInterrupt
        if not state.nodes[0].complete:
            raise HookeError(f"task {self.task.name!r} ended as {status}, without a result")
        return state.nodes[0].done.cut(0, 1)[0][2]


# --- Values without a task: the one input, and the items of a list.


def _carried(project: Project, store: Store, values: Mapping[str, Any]) -> Ref:
    if len(values) != 1:
        raise UsageError(
            f"without a task, exactly one input is the result, but {len(values)} are given",
            fix="write --in value=...",
        )
    (value,) = values.values()
    if isinstance(value, StoredValue) and not value.path and all(store.keep([value.ref])):
        return value.ref
    with files_loaded(project.root) as files:
        try:
            made = unpack(pack(value, _no_promise), store)
        except (LookupError, TypeError, AttributeError, ImportError) as error:
            raise UsageError(
                f"the value cannot be made: {type(error).__name__}: {error}",
                why="\n".join(getattr(error, "__notes__", ())),
                fix="name the file whose modules its classes are in: hooke exec FILE.py --in value=...",
            ) from error
        return FileResults(project.root, store).carry(made, inputs=files)


def _no_promise(promise: object) -> Any:
    raise TypeError(promise)


def _items(project: Project, store: Store, ref: Ref) -> list[Ref]:
    """Each item as an object of its own: what is made from it does not depend on the others."""
    with files_loaded(project.root) as files:
        value = store.get(ref)
        try:
            items = list(value)
        except TypeError as error:
            raise UsageError(
                f"the items of a {type(value).__name__} are wanted, which cannot be iterated",
                fix="return a list from the task",
            ) from error
        results = FileResults(project.root, store)
        return [store.apart(results.carry(item, inputs=files)) for item in items]
