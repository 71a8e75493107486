"""A traced graph as steps that another scheduler can run. Nothing is read or written: a value in, a value out.

For whoever writes a target, this is all there is to know:

- `ExportPlan.steps` are in an order in which each comes after those that it uses. Names are unique Python identifiers.
- An argument is a Python value in which a StepResult stands for the result of another step, and a ParameterValue for a
  parameter of the pipeline. `hooke.exporters.source` writes it.
- In the flavour by reference, a step's result is a text: a reference such as `hooke:DIGEST.SIZE`. `hooke exec` takes it wherever
  a value is, also deep inside. A part of it is the same text with the part behind it: `REFERENCE + "['train'][0]"`.
- A step with `columns` is mapped: it runs once for each item, and its result is the list of the items' results, in order. Item i
  gets element i of each column and the same `arguments`. A column is a Python list or range (of values as above), or one StepResult: the
  list of another mapped step, or of a `list` step.
- A `list` step (by reference only) has one argument, `value`, a list that exists only at run time; its result is the list of
  the references of its items: `hooke exec FILE --in value=... --items PATH`, with PATH a JSON list (FILE: `ExportPlan.file`).
- A `value` step, the last, has one argument, `value`: what the pipeline returns, where that is not just what one step returns. By
  reference it is `hooke exec FILE --in value=...`, so that the pipeline's result is one reference, too: `ExportPlan.output`.
- A step with `on_error="continue"` is mapped, by reference, and runs by `hooke exec --on-error continue`. The result of an item that failed
  is the text `hooke:failed`. A target hands it on like any other; `hooke exec` leaves it out of lists, and of the maps that follow item by item.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from hooke.base.errors import UsageError
from hooke.base.formats import short_repr
from hooke.exporters.value_text import FAILED_TEXT, stored_value, write_value
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.graph import Graph, Node
from hooke.pipeline.promise import MapPromise, Promise
from hooke.pipeline.task import Task, is_importable

__all__ = [
    "ExportPlan",
    "Flavour",
    "ParameterValue",
    "PipelineParameter",
    "Refusal",
    "Secret",
    "Step",
    "StepResult",
    "TaskEntry",
    "plan_of_graph",
    "step_results_in",
]

Flavour: TypeAlias = Literal["reference", "plain"]
"""Whether steps call `hooke exec` and pass references, or call the functions themselves and pass values."""


# --- What a plan is made of.


class StepResult(msgspec.Struct, frozen=True):
    """The result of another step, or the part of it at `path`. For a mapped step a first whole number in `path` is an item."""

    step: str
    path: tuple[Any, ...] = ()

    def __hash__(self) -> int:
        return hash((self.step, len(self.path)))


class ParameterValue(msgspec.Struct, frozen=True):
    """The value of a parameter of the pipeline, which whoever starts it there may give, or the part of it at `path`."""

    name: str
    path: tuple[Any, ...] = ()

    def __hash__(self) -> int:
        return hash((self.name, len(self.path)))


class PipelineParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter that the exported pipeline has: a number, a text, a truth value, or a list or dict of these."""

    name: str
    default: Any


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """An environment variable of every step, by the name of the secret that has its value: never the value itself."""

    variable: str
    secret: str
    key: str


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task is: `file` below the project's folder with "/", and its `name` in it. `hooke exec FILE:NAME` runs it."""

    file: str
    name: str
    task: Task[..., Any]

    @property
    def target(self) -> str:
        """As `hooke exec` takes it."""
        return f"{self.file}:{self.name}"

    @property
    def function(self) -> str:
        """The name of its function, as files without Hooke call it."""
        return str(inspect.unwrap(self.task.function).__name__)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `kind` says which: a task, or one of the two that the module's docstring explains."""

    name: str
    kind: Literal["task", "list", "value"] = "task"
    entry: TaskEntry | None = None
    """None for the kinds without a task."""
    arguments: Mapping[str, Any] = {}
    """In the order of the signature, without those that are equal to their default."""
    columns: Mapping[str, Any] = {}
    """Parameter -> what each item gets one element of; empty for a step that is not mapped."""
    length: int | None = None
    """Of a mapped step: how many items, if that is known."""
    cpus: float = 1
    memory: int | None = None
    """Bytes."""
    gpus: float = 0
    retries: int = 0
    timeout_s: float | None = None
    """Of an attempt, which the target ends; None, too, for a step with on_error="continue", whose attempts `hooke exec` ends."""
    on_error: Literal["raise", "continue"] = "raise"
    """`continue`: `hooke exec --on-error continue` runs it, with the tries of the task; an item that fails is left out of lists."""
    ranks: int = 0
    """Of a gang: its processes, or the most of them, each with these cpus, this memory and these gpus; 0 for another task."""

    @property
    def is_mapped(self) -> bool:
        """Whether it runs once for each item of its columns."""
        return bool(self.columns)

    @property
    def processes(self) -> int:
        """How many times it needs its cpus, memory and gpus: the ranks of a gang, which run in one pod."""
        return max(1, self.ranks)

    @property
    def uses(self) -> tuple[str, ...]:
        """The names of the steps whose results it uses, each once, in the order of its arguments."""
        found = step_results_in([*self.columns.values(), *self.arguments.values()])
        return tuple(dict.fromkeys(each.step for each in found))


class ExportPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as another scheduler runs it."""

    name: str
    """The pipeline's."""
    file: str
    """The pipeline's file, below the project's folder."""
    flavour: Flavour
    steps: tuple[Step, ...]
    output: StepResult | None
    """The step whose result is what the pipeline returns; None if it returns nothing."""
    parameters: tuple[PipelineParameter, ...] = ()
    secrets: tuple[Secret, ...] = ()
    pods: bool = False
    """Whether each step is to be a pod of a Kubernetes cluster, where the target has that."""
    image: str = ""
    """The container image of every step; empty if there is none."""
    namespace: str = ""
    """Where the pods run; empty for where the scheduler runs them by default."""
    pod: Mapping[str, Any] = {}
    """Of steps that are pods: the manifest without command and image, as `hooke.exporters.pod_settings` makes it."""
    schedule: str = ""
    """Five fields of cron; empty for a pipeline that is started by hand."""
    root: Path = Path()
    """The project's folder."""

    def step(self, name: str) -> Step:
        """The step of this name. Raises KeyError."""
        found = next((step for step in self.steps if step.name == name), None)
        if found is None:
            raise KeyError(name)
        return found


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an export cannot express. `where` is the line of the call, or the step."""

    what: str
    why: str
    fix: str
    where: str = ""


def step_results_in(value: Any) -> list[StepResult]:
    """The StepResults in a nested value, in its order."""
    if isinstance(value, StepResult):
        return [value]
    if isinstance(value, Mapping):
        return step_results_in([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple, set, frozenset)):
        return [found for each in value for found in step_results_in(each)]
    return []


# --- From a graph to a plan.

RESERVED = frozenset(dir(builtins)) | frozenset(
    [
        "Code",
        "DAG",
        "FILE",
        "HOOKE",
        "IMAGE",
        "POD",
        "PROJECT",
        "Part",
        "Path",
        "SIDECAR",
        "Secret",
        "UTC",
        "Variable",
        "_hooke",
        "_text",
        "airflow",
        "dag",
        "datetime",
        "dsl",
        "flow",
        "hooke",
        "hooke_or_failed",
        "items",
        "items_of",
        "json",
        "k8s",
        "kfp",
        "loop",
        "main",
        "os",
        "params",
        "pod",
        "prefect",
        "re",
        "result",
        "retry",
        "started",
        "stored",
        "subprocess",
        "sys",
        "task",
        "timedelta",
        "unmapped",
    ]
)
"""Names that exported files use themselves."""
LONGEST_CONSTANT = 32 * 1024
"""Characters of a constant in a file that people read."""


def plan_of_graph(
    graph: Graph,
    *,
    file: Path,
    root: Path,
    flavour: Flavour = "reference",
    symbols: Mapping[int, str] | None = None,
) -> tuple[ExportPlan, list[Refusal]]:
    """The plan of a traced pipeline in `file`, and what no target can express. If there are such refusals, the plan is incomplete.

    `symbols` are nodes that stand for parameters of the pipeline: node -> name.
    """
    maker = _PlanMaker(graph, file, root, flavour, symbols or {})
    steps = maker.make()
    plan = ExportPlan(
        name=graph.pipeline,
        file=_below(root, file),
        flavour=flavour,
        steps=tuple(steps),
        output=maker.output,
        root=root,
    )
    return plan, maker.refusals


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


class _PlanMaker:
    def __init__(
        self, graph: Graph, file: Path, root: Path, flavour: Flavour, symbols: Mapping[int, str]
    ) -> None:
        self._graph = graph
        self._file = file
        self._root = root
        self._flavour = flavour
        self._symbols = symbols
        self._names: dict[int, str] = {}
        self._taken: set[str] = set(self._symbols.values())
        self._lists: dict[StepResult | ParameterValue, str] = {}
        self._steps: list[Step] = []
        self.output: StepResult | None = None
        self.refusals: list[Refusal] = []

    def make(self) -> list[Step]:
        """All steps, in the order of the calls, so that an edit changes few lines."""
        for node in self._graph.nodes:
            if node.id not in self._symbols:
                self._add(node)
        self._return(self._graph.output)
        return self._steps

    def _add(self, node: Node) -> None:
        name = self._names[node.id] = self._new_name(node.task.name)
        self._refuse_unable(node)
        asked = node.task.resources
        columns = {
            parameter: self._column(node, parameter, column)
            for parameter, column in zip(node.columns, node.iterables, strict=True)
        }
        arguments = {
            parameter: self._taken_value(node, parameter, value)
            for parameter, value in node.arguments.items()
            if not _is_default(node.task, parameter, value)
        }
        self._steps.append(
            Step(
                name=name,
                entry=self._entry(node),
                arguments=arguments,
                columns=columns,
                length=node.items if node.kind == "map" else None,
                cpus=asked.cpus,
                memory=asked.memory,
                gpus=asked.gpus,
                retries=asked.retries,
                timeout_s=asked.timeout_s if node.on_error == "raise" else None,
                on_error=node.on_error,
                ranks=asked.gang,
            )
        )

    def _return(self, output: Any) -> None:
        if output is None:
            return
        value = self._replaced(output)
        if isinstance(value, StepResult) and not value.path and not self._is_list(value.step):
            self.output = value
            return
        self._check_constant("what the pipeline returns", value, where="")
        name = self._new_name("result", own=True)
        self._steps.append(Step(name=name, kind="value", arguments={"value": value}))
        self.output = StepResult(name)

    def _is_list(self, step: str) -> bool:
        """Whether the step's result is several references."""
        return self._flavour == "reference" and any(
            each.name == step and each.is_mapped for each in self._steps
        )

    # -- names and tasks

    def _new_name(self, wanted: str, *, own: bool = False) -> str:
        """`fit`, `fit_2`, ...: a Python identifier that is not taken."""
        name = wanted.replace(".", "_").replace("-", "_")
        if keyword.iskeyword(name) or (name in RESERVED and not own):
            name = f"{name}_"
        number, found = 1, name
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def _entry(self, node: Node) -> TaskEntry | None:
        task = node.task
        module = sys.modules.get(_module_of_file(self._file))
        held = [name for name, value in vars(module).items() if value is task] if module is not None else []
        if held:
            return TaskEntry(file=_below(self._root, self._file), name=min(held, key=len), task=task)
        own = sys.modules.get(task.__module__)
        file = getattr(own, "__file__", None)
        if is_importable(task) and file is not None:
            return TaskEntry(
                file=_below(self._root, Path(file).resolve()), name=str(vars(task)["__qualname__"]), task=task
            )
        self._refuse(
            node,
            f"task {task.name!r} cannot be found by another process",
            "it is not a name of its module, but made inside a function or renamed",
            "define it at the top of a module, under its own name",
        )
        return None

    # -- values

    def _column(self, node: Node, parameter: str, column: Any) -> Any:
        if isinstance(column, MapPromise):
            return StepResult(self._names[column.node])
        if isinstance(column, Promise):
            value = self._replaced(column)
            return value if self._flavour == "plain" else StepResult(self._list_step(value))
        if type(column) is range:
            return column
        if type(column) not in (list, tuple):
            self._refuse(
                node,
                f"{node.task.name}.map goes over a {type(column).__name__}",
                "its items cannot be written as text",
                "map over a list of plain values, or make the list in a task",
            )
            return ()
        return [self._taken_value(node, parameter, each) for each in column]

    def _list_step(self, value: Any) -> str:
        """The step that lists the items of a value; the same for all maps over it."""
        if value not in self._lists:
            source = value.step if isinstance(value, StepResult) else value.name
            name = self._lists[value] = self._new_name(f"{source}_items")
            self._steps.append(Step(name=name, kind="list", arguments={"value": value}))
        return self._lists[value]

    def _taken_value(self, node: Node, parameter: str, value: Any) -> Any:
        made = self._replaced(value)
        self._check_constant(f"argument `{parameter}` of `{node.task.name}`", made, where=node.where)
        return made

    def _replaced(self, value: Any) -> Any:
        """The value with StepResults and ParameterValues instead of promises."""
        if isinstance(value, Promise):
            if value.node in self._symbols:
                return ParameterValue(self._symbols[value.node], tuple(value.path))
            return StepResult(self._names[value.node], tuple(value.path))
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            return kind([self._replaced(each) for each in value])
        if kind is dict:
            return {key: self._replaced(each) for key, each in value.items()}
        return value

    def _check_constant(self, what: str, value: Any, *, where: str) -> None:
        if later := promises_in(value):  # in an object: lists and dicts have StepResults instead
            inside = ", ".join(dict.fromkeys(self._shown(each) for each in later))
            self.refusals.append(
                Refusal(
                    what=f"{what} is an object that has {inside} inside",
                    why="an exported file has such objects as text, which is written before anything runs",
                    fix="make the object in a task, which takes what is inside; or pass that to the task by itself",
                    where=where,
                )
            )
            return
        try:
            text = write_value(value, _is_symbol, lambda _: "_")
        except UsageError as error:
            self.refusals.append(
                Refusal(
                    what=f"{what}: {error.what}",
                    why="an exported file has constants as text",
                    fix="make the value in a task, or pass plain data: numbers, text, lists, dicts, paths, dates, dataclasses",
                    where=where,
                )
            )
            return
        if len(text) > LONGEST_CONSTANT:
            self.refusals.append(
                Refusal(
                    what=f"{what} is a constant of {len(text):,} characters",
                    why=f"an exported file has constants as text, and at most {LONGEST_CONSTANT:,} characters of one",
                    fix="make the value in a task, or read it from a file",
                    where=where,
                )
            )

    # -- refusals

    def _shown(self, promise: Promise) -> str:
        """What it stands for, in words."""
        parameter = self._symbols.get(promise.node)
        return (
            f"the result of {self._names[promise.node]}"
            if parameter is None
            else f"the parameter {parameter}"
        )

    def _refuse_unable(self, node: Node) -> None:
        if node.on_error == "continue" and self._flavour == "plain":
            self._refuse(
                node,
                f'{node.task.name}.map has on_error="continue"',
                "without `hooke exec` a result and the mark of a failed item look alike",
                "export by reference (without --plain), or return a value that says that the item failed",
            )
        odd = [name for name in node.columns if not name.isidentifier()]
        if odd:
            self._refuse(
                node,
                f"{node.task.name}.map gives items to {odd[0]}",
                "an item goes to a parameter by its name",
                "give the task a named parameter instead of *args",
            )

    def _refuse(self, node: Node, what: str, why: str, fix: str) -> None:
        self.refusals.append(Refusal(what=what, why=why, fix=fix, where=node.where))


def _is_symbol(value: Any) -> str | None:
    """A text for what stands for a value; raises UsageError for a text that would be taken for a reference."""
    if isinstance(value, (StepResult, ParameterValue)):
        return "_"
    if isinstance(value, str) and (value == FAILED_TEXT or stored_value(value) is not None):
        raise UsageError(
            f"{short_repr(value)} is the text of a reference, which would be read as the stored value"
        )
    return None


def _is_default(task: Task[..., Any], parameter: str, value: Any) -> bool:
    """Whether an argument need not be written, since the function has it by default."""
    declared = task.signature.parameters.get(parameter)
    if declared is None:
        return False
    if declared.kind in (declared.VAR_POSITIONAL, declared.VAR_KEYWORD):
        return type(value) in (tuple, dict) and not value
    if declared.default is declared.empty:
        return False
    if value is declared.default:
        return True
    return type(value) in _COMPARED and type(value) is type(declared.default) and value == declared.default


_COMPARED = frozenset({bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple})


def _module_of_file(file: Path) -> str:
    end = file.name
    for name, module in list(sys.modules.items()):
        found = getattr(module, "__file__", None)
        if isinstance(found, str) and found.endswith(end) and name != "__main__" and Path(found) == file:
            return name
    return ""
