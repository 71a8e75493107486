"""The targets of `hooke export`: a table of them, what each can express, and the export itself.

A target is a module with a TARGET, named in the table TARGETS. Its `able` says what it can express: whatever a plan has beyond
that is refused here, all of it at once, before anything is written. Its `refusals` may find more; its `write` gives the text of the file
and finds nothing wrong any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal

import msgspec

from hooke.base.distributions import Plugins
from hooke.base.errors import UsageError
from hooke.base.formats import format_bytes, format_seconds
from hooke.exporters.plain_source import PlainSource
from hooke.exporters.plan import ExportPlan, Flavour, PipelineParameter, Refusal, Secret, Step, plan_of_graph
from hooke.exporters.pod_settings import pod_settings, refused_as_pods, store_refusal
from hooke.pipeline.arguments import bind_call, unbind
from hooke.pipeline.graph import Graph
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import Task
from hooke.pipeline.trace import trace
from hooke.project.folder import Project

__all__ = ["TARGETS", "Abilities", "ExportOrder", "ExportTarget", "export", "refuse_all", "refused_by"]

TARGETS = Plugins(
    "hooke.exporters",
    {
        "airflow": "hooke.exporters.airflow:TARGET",
        "kubeflow": "hooke.exporters.kubeflow:TARGET",
        "prefect": "hooke.exporters.prefect:TARGET",
        "script": "hooke.exporters.script:TARGET",
    },
)
"""Name -> its ExportTarget."""


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a target can express. An ability that is False is refused with `why`, or with words of its own in `reasons`."""

    flavours: tuple[Flavour, ...] = ("reference", "plain")
    maps: bool = True
    dynamic_maps: bool = True
    """Maps over a list that exists only at run time."""
    several_columns: bool = True
    """Maps over more than one list."""
    gangs: bool = True
    """A task of several processes, which `hooke exec` starts on one machine; never without Hooke."""
    gpus: bool = True
    memory: bool = True
    retries: bool = True
    timeouts: bool = True
    schedule: bool = True
    secrets: bool = True
    image: bool = True
    parameters: bool = True
    """Whether who starts the pipeline there may give its parameters. Else they have the values that they are exported with."""
    most_items: int = 0
    """Of one map; 0 for any number."""
    reasons: dict[str, str] = {}
    """Name of an ability -> why the target lacks it, for the message."""


class ExportTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target: its `title` for messages, its abilities by flavour, and the function that writes the file."""

    title: str
    able: Callable[[ExportPlan], Abilities]
    """By the plan's flavour, and whether its steps are pods."""
    write: Callable[[ExportPlan, Path], str]
    """The text of the file for a plan, given where the file will be. Pure."""
    refusals: Callable[[ExportPlan], list[Refusal]] = lambda _: []
    """More that it cannot express."""
    pods: Literal["never", "asked", "always"] = "never"
    """When each step is a pod of a Kubernetes cluster: with `--pods`, or always; then `--pods` may mean a flavour of its own."""


class ExportOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to export, and how."""

    target: str
    """A name in TARGETS."""
    pipeline: Pipeline[..., Any]
    file: Path
    """The pipeline's file."""
    out: Path
    """Where the file will be, which decides how it finds the project."""
    args: tuple[Any, ...] = ()
    params: Mapping[str, Any] = {}
    flavour: Flavour = "reference"
    pods: bool = False
    place: str = ""
    """The place in hooke.toml that describes the pods; empty for the only one, if there is one."""
    schedule: str = ""
    image: str = ""
    secrets: tuple[Secret, ...] = ()


def export(order: ExportOrder, project: Project) -> str:
    """The text of the exported file. Nothing runs but the pipeline's body, and nothing is written.

    Raises UsageError with all that the target cannot express, and what `trace` raises.
    """
    target: ExportTarget = TARGETS.load(order.target)
    plan, refusals = _planned(order, project, _with_parameters(order))
    if plan.parameters and not target.able(plan).parameters:
        plan, refusals = _planned(order, project, {})
    if target.pods == "always" or (target.pods == "asked" and order.pods):
        plan, more = _in_pods(plan, order, project)
        refusals += more
    elif order.place:
        refusals.append(
            Refusal(what="--place", why="it describes pods, and there are none", fix="leave out --place")
        )
    refuse_all(f"pipeline {plan.name!r}", refusals + refused_by(target, plan))
    return target.write(plan, order.out)


def _in_pods(plan: ExportPlan, order: ExportOrder, project: Project) -> tuple[ExportPlan, list[Refusal]]:
    """The plan with what its pods have, and what they cannot do."""
    pods = pod_settings(project, place=order.place, image=order.image, secrets=order.secrets)
    plan = msgspec.structs.replace(plan, image=pods.image, namespace=pods.namespace, pod=pods.manifest)
    store = store_refusal(project, pods.manifest)
    return plan, [*refused_as_pods(plan), *([store] if store else [])]


def _planned(
    order: ExportOrder, project: Project, symbols: Mapping[str, Any]
) -> tuple[ExportPlan, list[Refusal]]:
    graph, nodes = _traced(order, symbols)
    plan, refusals = plan_of_graph(
        graph, file=order.file.resolve(), root=project.root, flavour=order.flavour, symbols=nodes
    )
    given = tuple(PipelineParameter(name=name, default=value) for name, value in symbols.items())
    plan = msgspec.structs.replace(
        plan,
        parameters=given,
        pods=order.pods,
        schedule=order.schedule,
        image=order.image,
        secrets=order.secrets,
    )
    return plan, refusals


# --- Parameters of the pipeline that stay parameters there: those whose values its body only hands to tasks.


def _with_parameters(order: ExportOrder) -> dict[str, Any]:
    """The parameters that the body does not look at, with their values."""
    pipeline = order.pipeline
    given = bind_call(f"pipeline {pipeline.name!r}", pipeline.signature, order.args, order.params)
    kinds = {name: each.kind for name, each in pipeline.signature.parameters.items()}
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    may = {name: value for name, value in given.items() if kinds[name] in named and _is_json(value)}
    if not may or _can_trace(order, may):
        return may
    may = {name: value for name, value in may.items() if _can_trace(order, {name: value})}
    return may if _can_trace(order, may) else {}


def _can_trace(order: ExportOrder, symbols: Mapping[str, Any]) -> bool:
    try:
        _traced(order, symbols)
    except Exception:  # noqa: BLE001 - a body that looks at a value which is not there may raise anything
        return False
    return True


def _traced(order: ExportOrder, symbols: Mapping[str, Any]) -> tuple[Graph, dict[int, str]]:
    """The graph, and the nodes in it that stand for these parameters: node -> name."""
    if not symbols:
        return trace(order.pipeline, order.args, order.params), {}
    pipeline = order.pipeline
    tasks = {name: Task(_symbol, name=name) for name in symbols}

    def body() -> Any:
        given = bind_call(f"pipeline {pipeline.name!r}", pipeline.signature, order.args, order.params)
        args, kwargs = unbind(pipeline.signature, given | {name: task() for name, task in tasks.items()})
        return pipeline(*args, **kwargs)

    trace(pipeline, order.args, order.params)  # what is wrong with the values themselves is said as usual
    graph = trace(Pipeline(body, name=pipeline.name))
    names = {id(task): name for name, task in tasks.items()}
    return graph, {node.id: names[id(node.task)] for node in graph.nodes if id(node.task) in names}


def _symbol() -> None:
    """What stands for a parameter in a graph; never called."""


def _is_json(value: Any) -> bool:
    kind = type(value)
    if kind is list:
        return all(map(_is_json, value))
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    return kind in (bool, int, float, str, type(None))


# --- What is refused.


def refused_by(target: ExportTarget, plan: ExportPlan) -> list[Refusal]:
    """What the target cannot express of the plan, in the order of the steps."""
    able = target.able(plan)
    found = [*_of_plan(target, able, plan)]
    for step in plan.steps:
        found += _of_step(target.title, able, plan, step)
    if plan.flavour == "plain":
        found += PlainSource(plan).refusals
    return found + target.refusals(plan)


def refuse_all(what: str, refusals: list[Refusal]) -> None:
    """Raise UsageError that lists all refusals, if there are any."""
    if not refusals:
        return
    lines: list[str] = []
    for each in refusals:
        lines.append(f"{each.what}{f' ({each.where})' if each.where else ''}: {each.why}")
        lines.append(f"  fix: {each.fix}")
    count = "a reason" if len(refusals) == 1 else f"{len(refusals)} reasons"
    raise UsageError(
        f"{what} cannot be exported, for {count}; nothing is written",
        why="\n".join(lines),
        fix="change what is named above",
    )


def _of_plan(target: ExportTarget, able: Abilities, plan: ExportPlan) -> Iterator[Refusal]:
    title = target.title
    if plan.pods and target.pods == "never":
        yield Refusal(what="--pods", why=f"{title} has no such flavour", fix="leave out --pods")
    if plan.flavour not in able.flavours:
        yield Refusal(
            what="--plain",
            why=able.reasons.get("flavours", f"{title} has only the flavour by reference"),
            fix="leave out --plain",
        )
    for name, is_asked, option in (
        ("schedule", bool(plan.schedule), "--schedule"),
        ("secrets", bool(plan.secrets), "--secret"),
        ("image", bool(plan.image), "--image"),
    ):
        if is_asked and not getattr(able, name):
            yield Refusal(what=option, why=_why(title, able, name), fix=f"leave out {option}")


def _of_step(title: str, able: Abilities, plan: ExportPlan, step: Step) -> Iterator[Refusal]:
    dynamic = step.is_mapped and step.length is None
    plain = plan.flavour == "plain"
    memory = f"memory={format_bytes(step.memory)}" if step.memory is not None else ""
    timeout = f"timeout={format_seconds(step.timeout_s)}" if step.timeout_s is not None else ""
    asked = (
        ("maps", step.is_mapped, "it is mapped", "loop inside a task"),
        (
            "dynamic_maps",
            dynamic,
            "it is mapped over a list that exists only at run time",
            "map over a list that the pipeline's body has",
        ),
        (
            "several_columns",
            len(step.columns) > 1,
            "it is mapped over several lists",
            "map over one list of tuples",
        ),
        ("gpus", step.gpus > 0, f"gpus={step.gpus:g}", "leave out gpus="),
        ("memory", bool(memory), memory, "leave out memory="),
        ("retries", step.retries > 0, f"retries={step.retries}", "leave out retries="),
        ("timeouts", bool(timeout), timeout, "leave out timeout="),
    )
    for name, is_asked, what, fix in asked:
        if is_asked and not getattr(able, name):
            yield Refusal(what=f"{step.name}: {what}", why=_why(title, able, name), fix=fix)
    if step.ranks and (plain or not able.gangs):
        why = "only Hooke starts the ranks of a gang" if plain else _why(title, able, "gangs")
        yield Refusal(
            what=f"{step.name}: gang={step.ranks}",
            why=why,
            fix="export by reference (without --plain), or leave out gang=",
        )
    if able.most_items and step.length is not None and step.length > able.most_items:
        yield Refusal(
            what=f"{step.name}: {step.length:,} items",
            why=able.reasons.get("most_items", f"{title} takes at most {able.most_items:,} items of a map"),
            fix="give each item of the map a part of the list, and loop inside the task",
        )


def _why(title: str, able: Abilities, name: str) -> str:
    return able.reasons.get(name, f"{title} cannot express it")
