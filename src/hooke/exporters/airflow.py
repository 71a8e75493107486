"""Airflow 3: one file with a DAG, of `airflow.sdk` alone, or with `--pods` of KubernetesPodOperator.

Each step is a function with `@task`; its arguments are the results of the steps that it uses. By reference, an XCom is the text of a
reference. A map is `expand`: over the items themselves where that is one list of numbers and texts, or of references; else over their numbers.
With `--pods` the decorator is that of a pod, and the function returns the pod's command.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hooke.exporters.plain_source import PlainSource
from hooke.exporters.plan import ExportPlan, Refusal, Step, StepResult, TaskEntry, step_results_in
from hooke.exporters.source import CODE as CODE_CLASS
from hooke.exporters.source import (
    EXEC_IMPORTS,
    Writer,
    exec_helpers,
    indented,
    joined_call,
    laid_out,
    needs_code,
    quoted,
    said_by,
)
from hooke.exporters.targets import Abilities, ExportTarget
from hooke.images.contents import CODE, USER_ID

__all__ = ["TARGET"]

RETRY_DELAY_S = 10
"""Airflow's own is five minutes."""
START = "datetime(2026, 1, 1, tzinfo=UTC)"
"""Of every DAG with a schedule: Airflow needs one, and runs nothing of the time before it, since catchup is off."""

_CONTEXT = frozenset(
    [
        "conf",
        "conn",
        "context",
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "exception",
        "expanded_ti_count",
        "inlet_events",
        "inlets",
        "logical_date",
        "macros",
        "map_index_template",
        "outlet_events",
        "outlets",
        "params",
        "prev_data_interval_end_success",
        "reason",
        "run_id",
        "start_date",
        "prev_data_interval_start_success",
        "prev_end_date_success",
        "prev_start_date_success",
        "task",
        "task_instance",
        "task_instance_key_str",
        "task_reschedule_count",
        "templates_dict",
        "test_mode",
        "ti",
        "triggering_asset_events",
        "try_number",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    ]
)
"""Parameters of a function that Airflow fills itself."""
_MAPPED_PLAIN = frozenset({bool, float, int, str})


def _able(plan: ExportPlan) -> Abilities:
    if plan.pods:
        return Abilities(
            flavours=("reference",), reasons={"flavours": "a pod runs a command, which is `hooke exec`"}
        )
    reasons = {
        "gpus": "a worker of Airflow gives a task whatever the worker has",
        "image": "a worker of Airflow runs the task where it is itself",
        "secrets": "without `hooke exec` there is no process of a task to give them to",
    }
    return Abilities(gpus=False, image=False, secrets=plan.flavour == "reference", reasons=reasons)


def _refusals(plan: ExportPlan) -> list[Refusal]:
    used = {name for step in plan.steps for name in step.uses}
    by_value = [
        Refusal(
            what=f"{step.name}: returns {inspect.formatannotation(annotation)}",
            why="without Hooke values pass as XComs, which are JSON",
            fix="export by reference (without --plain), or return numbers, texts, lists and dicts",
        )
        for step in plan.steps
        if plan.flavour == "plain" and step.name in used and step.entry is not None
        for annotation in [_returned(step.entry)]
        if not _is_json(annotation)
    ]
    return by_value + [
        Refusal(
            what=f"{step.name}: a map over no items",
            why="Airflow skips such a task, and the export would hide that",
            fix="leave the call out of the pipeline's body when the list is empty",
        )
        for step in plan.steps
        if step.is_mapped and step.length == 0
    ]


def _returned(entry: TaskEntry) -> Any:
    """What a task is annotated to return; None if that is not known."""
    try:
        return get_type_hints(inspect.unwrap(entry.task.function)).get("return")
    except (NameError, TypeError):  # a name that only a type checker has
        return None


def _is_json(annotation: Any) -> bool:
    """Whether values of the annotation are the same after they were JSON; True where that is not known."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return all(map(_is_json, parts))
    if origin is list:
        return all(map(_is_json, parts))
    if origin is dict:
        return parts[0] is str and _is_json(parts[1])
    return annotation in (None, Any, bool, dict, float, int, list, str, NoneType)


def _write(plan: ExportPlan, out: Path) -> str:
    names = _Names(plan)
    made = _PodStep if plan.pods else _PlainStep if plan.flavour == "plain" else _StepSource
    steps = [made(plan, step, names) for step in plan.steps]
    functions = "".join(f"\n\n{each.function()}" for each in steps)
    used = {name for step in plan.steps for name in step.uses}
    wiring = indented("".join(each.wiring(is_used=each.name in used) for each in steps) or "pass\n", 4)
    variables = plan.secrets and not plan.pods
    own = [
        f"from datetime import {'UTC, datetime, timedelta' if plan.schedule else 'timedelta'}",
        f"from airflow.sdk import {'Variable, ' if variables else ''}dag, task",
    ]
    if plan.pods:
        about = _IN_PODS
        head = _pod_head(plan, own, functions)
    elif plan.flavour == "plain":
        about = _PLAIN
        head = PlainSource(plan).head(plan, out, own)
        functions += NOT_NONE if "not_none(" in functions else ""
    else:
        about = _BY_REFERENCE
        lines = [f"import {name}" for name in EXEC_IMPORTS]
        helpers = exec_helpers(plan, out, with_code=needs_code(functions), environment=_environment(plan))
        head = "\n".join([*lines, own[0], "from pathlib import Path\n", f"{own[1]}\n", helpers])
    about = f'"""{said_by(plan, "airflow")}\n\n{about}\n"""\n'
    return f"{about}\n{head}{functions}\n\n{_dag(plan)}\ndef main():\n{wiring}\n\nexported = main()\n"


_BY_REFERENCE = """Each task runs by `hooke exec`, which finds what is stored already. An XCom is the reference of a result in the project's store."""
_IN_PODS = f"""Each task is a pod, which runs `hooke exec` in the project's folder in the image, /{CODE}. An XCom is the reference of a result in the
project's store. Needs the provider cncf.kubernetes."""
_PLAIN = """Needs no Hooke. An XCom is a result itself, so results are JSON."""

NOT_NONE = '''

def not_none(value):
    """The value. Airflow leaves None out of the list of a mapped task's results."""
    if value is None:
        raise ValueError("an item of a mapped task returned None")
    return value
'''


def _dag(plan: ExportPlan) -> str:
    given = {each.name: each.default for each in plan.parameters}
    parts = [
        f'dag_id="{plan.name}"',
        f'schedule="{plan.schedule}"' if plan.schedule else "schedule=None",
        *([f"start_date={START}"] if plan.schedule else []),
        "catchup=False",
        *([f"params={Writer(plan).value(given)}"] if given else []),
        f'default_args={{"retries": 0, "retry_delay": timedelta(seconds={RETRY_DELAY_S})}}',
    ]
    return joined_call("@dag", parts)


def _environment(plan: ExportPlan) -> str:
    """The variables of `hooke exec`: secrets are Airflow's variables, each a JSON object."""
    if not plan.secrets:
        return ""
    parts = [
        f'"{each.variable}": Variable.get("{each.secret}", deserialize_json=True)["{each.key}"]'
        for each in plan.secrets
    ]
    return "{**os.environ, " + ", ".join(parts) + "}"


# --- The flavour of pods.

STARTUP_S = 600
"""How long a pod may wait for a node and its image; Airflow's own is two minutes, in which a cluster does not get a node."""

POD_HELPERS = r'''
def pod(**options):
    """A task that is a pod: its function returns the command. Options are those of KubernetesPodOperator."""
    return task.kubernetes_cmd(
        COMMON
        **options,
    )


def hooke(target, /, **inputs):
    """The command that runs a task; its XCom is the reference of the result. Inputs are values or references."""
    return _hooke(target, "--out", inputs)


def items_of(value):
    """The command whose XCom is the list of the references of a list's items."""
    return _hooke("FILE", "--items", {"value": value})


def stored(value):
    """The command whose XCom is the reference of a value that has references in it."""
    return _hooke("FILE", "--out", {"value": value})


def _hooke(target, wanted, inputs):
    given = [word for name, value in inputs.items() for word in ("--in", f"{name}={_text(value)}")]
    return ["hooke", "exec", target, *given, wanted, "/airflow/xcom/return.json"]


def _text(value):
    """The value as Python, without what Airflow ({{) or Kubernetes ($) would fill in: these can only be in texts."""
    return re.sub(r"\{(?=[{%#])|\$", lambda found: f"\\x{ord(found[0]):02x}", repr(value))
'''
POD_OR_FAILED = '''

def hooke_or_failed(target, /, **inputs):
    """As hooke(), with the task's own retries and timeout. If the item fails, the XCom is hooke:failed, and later tasks leave it out of their lists."""
    return _hooke(target, "--out", inputs, "--on-error", "continue")
'''


def _pod_head(plan: ExportPlan, own: list[str], functions: str) -> str:
    """What stands before the tasks: imports, what all pods have, and the commands."""
    security = plan.pod["spec"]["containers"][0]["securityContext"]
    common = [
        "image=IMAGE",
        *([f"namespace={quoted(plan.namespace)}"] if plan.namespace else []),
        "pod_template_dict=POD",
        "do_xcom_push=True",
        "xcom_sidecar_container_security_context=SIDECAR",
        f"startup_timeout_seconds={STARTUP_S}",
    ]
    helpers = POD_HELPERS.replace("COMMON", "\n        ".join(f"{each}," for each in common))
    if any(step.on_error == "continue" for step in plan.steps):
        helpers = helpers.replace("\n\ndef items_of", f"{POD_OR_FAILED}\n\ndef items_of")
        helpers = helpers.replace("wanted, inputs):", "wanted, inputs, *options):")
        helpers = helpers.replace("target, *given", "target, *options, *given")
    imports = ["import re", own[0], "", own[1]]
    if "k8s." in functions:
        imports.append("from kubernetes.client import models as k8s")
    sidecar = {**security, "runAsUser": USER_ID}
    return "\n".join(
        [
            *imports,
            f"\nIMAGE = {quoted(plan.image)}",
            f"POD = {laid_out(dict(plan.pod))}",
            f"# For the sidecar container, which keeps the XCom until Airflow reads it. Its image runs as root unless told otherwise.\nSIDECAR = {laid_out(sidecar)}\n",
            *([CODE_CLASS] if needs_code(functions) else []),
            helpers.replace("FILE", plan.file),
        ]
    )


class _Names:
    """Names of functions and parameters that Airflow does not fill itself."""

    def __init__(self, plan: ExportPlan) -> None:
        self._steps = {step.name for step in plan.steps}
        self._after = _after_dynamic(plan)

    def parameter(self, name: str, taken: Iterable[str] = ()) -> str:
        """The parameter of a step's function that an item goes to."""
        while name in _CONTEXT or name in taken or name in ("Code", "hooke", "hooke_or_failed", "list"):
            name += "_item"
        return name

    def counting(self, step: str) -> str:
        """The function that counts the items of a step."""
        name = f"{step}_numbers"
        while name in self._steps:
            name += "_"
        return name

    def may_be_skipped(self, step: Step) -> bool:
        """Whether Airflow may skip what the step uses: a map over a list that turns out to be empty."""
        return step.name in self._after


def _after_dynamic(plan: ExportPlan) -> set[str]:
    skipped = {step.name for step in plan.steps if step.is_mapped and step.length is None}
    after: set[str] = set()
    for step in plan.steps:
        if any(used in skipped or used in after for used in step.uses):
            after.add(step.name)
    return after


class _StepSource:
    """One step by reference: its function, and the line that calls it."""

    def __init__(self, plan: ExportPlan, step: Step, names: _Names) -> None:
        self.name = step.name
        self._plan = plan
        self._step = step
        self._names = names
        self._writer = Writer(plan, variable=self._variable, parameter=lambda name: f'params["{name}"]')
        self._is_direct = self._can_expand_items()
        self._is_counted = step.is_mapped and not self._is_direct and step.length is None

    # -- the function

    def function(self) -> str:
        """The function, and the one that counts its items if there is one."""
        used = self._used()
        items = self._item_names()
        call = self._call(items)
        parameters = [*map(self._variable, used), *items.values()]
        if 'params["' in call:
            parameters.append("params=None")
        lists = "".join(f"    {name} = list({name})\n" for name in map(self._variable, self._lists(used)))
        options = self._options()
        made = f"{self._decorator(options)}\ndef {self._function()}({', '.join(parameters)}):\n{lists}    return {call}\n"
        return f"{self._counting()}{made}" if self._is_counted else made

    def _function(self) -> str:
        """The name of the function."""
        return self._step.name

    def _decorator(self, options: list[str]) -> str:
        return _task(options)

    def _variable(self, step: str) -> str:
        """The parameter that a step's result has in the functions of others."""
        return f"{step}_" if step in _CONTEXT else step

    def _rule(self) -> list[str]:
        return ['trigger_rule="none_failed"'] if self._names.may_be_skipped(self._step) else []

    def _options(self) -> list[str]:
        step = self._step
        limit = (
            [f"execution_timeout=timedelta(seconds={step.timeout_s:g})"] if step.timeout_s is not None else []
        )
        return [*([f"retries={step.retries}"] if step.retries else []), *limit, *self._rule()]

    def _call(self, items: dict[str, str]) -> str:
        step = self._step
        if step.entry is None:
            function = "items_of" if step.kind == "list" else "stored"
            return self._writer.call(function, [self._writer.value(step.arguments["value"])], {}, indent=4)
        given = [quoted(step.entry.target), *self._items(items)]
        function = "hooke_or_failed" if step.on_error == "continue" else "hooke"
        return self._writer.call(function, given, step.arguments, indent=4)

    def _items(self, items: dict[str, str]) -> list[str]:
        """The arguments that an item has of its own."""
        columns = self._step.columns
        if self._is_direct:
            return [f"{name}={items[name]}" for name in columns]
        return [f"{name}={self._writer.value(column)}[{items['']}]" for name, column in columns.items()]

    def _item_names(self) -> dict[str, str]:
        """Column -> the parameter for its items; or under "" the one for the number of an item."""
        step = self._step
        if not step.is_mapped:
            return {}
        taken = {*map(self._variable, self._used()), *([step.entry.function] if step.entry else [])}
        if self._is_direct:
            return {name: self._names.parameter(name, taken) for name in step.columns}
        return {"": self._names.parameter("i", taken)}

    def _counting(self) -> str:
        """A task of its own that counts the items of lists, which must be of one length."""
        used = self._mapped_over()
        columns = self._step.columns.values()
        lists = [
            f"range({len(each)})" if type(each) in (list, range) else self._writer.value(each)
            for each in columns
        ]
        parameters = [*map(self._variable, used), *(["params=None"] if 'params["' in "".join(lists) else [])]
        return (
            f"{_task(self._rule())}\ndef {self._names.counting(self._step.name)}({', '.join(parameters)}):\n"
            f"    return [i for i, _ in enumerate(zip({', '.join(lists)}, strict=True))]\n\n\n"
        )

    # -- the call of it

    def wiring(self, *, is_used: bool) -> str:
        """The lines of the DAG that call the function; its result has a name if another step uses it."""
        step = self._step
        name = f"{step.name}_out = " if is_used else ""
        given = [f"{self._variable(name)}={name}_out" for name in self._used()]
        if not step.is_mapped:
            return f"{name}{joined_call(self._function(), given, indent=4)}\n"
        start = f"{self._function()}.partial({', '.join(given)})" if given else self._function()
        items = self._item_names()
        if self._is_direct:
            ((parameter, column),) = step.columns.items()
            over, before = f"{items[parameter]}={self._expanded(column)}", ""
        elif self._is_counted:
            numbers = self._names.counting(step.name)
            given = [f"{self._variable(name)}={name}_out" for name in self._mapped_over()]
            before = f"{numbers}_out = {joined_call(numbers, given, indent=4)}\n"
            over = f"{items['']}={numbers}_out"
        else:
            over, before = f"{items['']}=list(range({step.length}))", ""
        return f"{before}{name}{joined_call(f'{start}.expand', [over], indent=4)}\n"

    def _expanded(self, column: Any) -> str:
        if isinstance(column, StepResult):
            return f"{column.step}_out"
        return f"list({self._writer.value(column)})" if type(column) is range else self._writer.value(column)

    # -- what it uses

    def _can_expand_items(self) -> bool:
        """Whether `expand` may go over the items themselves: one list, of results or of numbers and texts."""
        columns = list(self._step.columns.values())
        if len(columns) != 1:
            return False
        column = columns[0]
        if isinstance(column, StepResult):
            return not column.path
        if type(column) is range:
            return True
        is_plain = {type(each) for each in column} <= _MAPPED_PLAIN
        return is_plain and not any(_is_template(each) for each in column if type(each) is str)

    def _used(self) -> list[str]:
        """The steps whose results the function itself gets."""
        step = self._step
        if step.is_mapped and self._is_direct:
            return _steps_in(step.arguments.values())
        return list(step.uses)

    def _mapped_over(self) -> list[str]:
        """The steps whose lists must be there to be counted."""
        return _steps_in(each for each in self._step.columns.values() if isinstance(each, StepResult))

    def _lists(self, used: Iterable[str]) -> list[str]:
        """Those of them that are mapped: Airflow gives a sequence of theirs that is no list."""
        return [name for name in used if self._plan.step(name).is_mapped]


class _PlainStep(_StepSource):
    """One step without Hooke: its function calls the task's own, which has the step's name."""

    def _function(self) -> str:
        return f"{self._step.name}_step"

    def _variable(self, step: str) -> str:
        return f"{step}_out"

    def _options(self) -> list[str]:
        return [f'task_id="{self._step.name}"', *super()._options()]

    def _call(self, items: dict[str, str]) -> str:
        step = self._step
        if step.entry is None:
            return self._writer.value(step.arguments["value"])
        function = step.entry.function
        call = self._writer.call(function, self._items(items), step.arguments, indent=4)
        return f"not_none({call})" if step.is_mapped else call


class _PodStep(_StepSource):
    """One step as a pod: its function returns the pod's command, by `hooke`, `items_of` or `stored`."""

    def _decorator(self, options: list[str]) -> str:
        return joined_call("@pod", options)

    def _options(self) -> list[str]:
        step = self._step
        limit = [f"active_deadline_seconds={math.ceil(step.timeout_s)}"] if step.timeout_s is not None else []
        retries = [f"retries={step.retries}"] if step.retries else []
        return [*retries, *limit, *_resources(step), *self._rule()]


def _resources(step: Step) -> list[str]:
    """What a step asks for, if that is not just the one cpu that all pods have: all ranks of a gang are in its pod."""
    limits: dict[str, str] = {}
    if step.memory is not None:
        limits["memory"] = _binary(step.memory * step.processes)
    if step.gpus:
        limits["nvidia.com/gpu"] = str(int(step.gpus) * step.processes)
    cpus = step.cpus * step.processes
    requests = {"cpu": f"{cpus:g}"} | limits
    if requests == {"cpu": "1"}:
        return []
    shown = [f"requests={requests!r}", *([f"limits={limits!r}"] if limits else [])]
    return [joined_call("container_resources=k8s.V1ResourceRequirements", shown, indent=4)]


def _binary(size: int) -> str:
    """Bytes as Kubernetes has them: 8Gi."""
    for power, unit in ((30, "Gi"), (20, "Mi"), (10, "Ki")):
        if size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return str(size)


def _task(options: list[str]) -> str:
    return joined_call("@task", options) if options else "@task"


def _is_template(text: str) -> bool:
    """Whether Airflow would fill in something."""
    return any(each in text for each in ("{{", "{%", "{#"))


def _steps_in(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(each.step for each in step_results_in(list(values))))


TARGET = ExportTarget(title="Airflow", able=_able, write=_write, refusals=_refusals, pods="asked")
