"""Airflow 3: one file with a DAG, of `airflow.sdk` alone.

Each step is a function with `@task`; its arguments are the results of the steps that it uses. By reference, an XCom is the text of a
reference. A map is `expand`: over the items themselves where that is one list of numbers and texts, or of references; else over their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hooke.exporters.plan import ExportPlan, Refusal, Step, StepResult, step_results_in
from hooke.exporters.source import (
    EXEC_IMPORTS,
    Writer,
    exec_helpers,
    indented,
    joined_call,
    needs_code,
    said_by,
)
from hooke.exporters.targets import Abilities, ExportTarget

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
    reasons = {
        "gpus": "a worker of Airflow gives a task whatever the worker has",
        "image": "a worker of Airflow runs the task where it is itself",
        "secrets": "without `hooke exec` there is no process of a task to give them to",
    }
    by_reference = plan.flavour == "reference"
    return Abilities(flavours=("reference",), gpus=False, image=False, secrets=by_reference, reasons=reasons)


def _refusals(plan: ExportPlan) -> list[Refusal]:
    return [
        Refusal(
            what=f"{step.name}: a map over no items",
            why="Airflow skips such a task, and the export would hide that",
            fix="leave the call out of the pipeline's body when the list is empty",
        )
        for step in plan.steps
        if step.is_mapped and step.length == 0
    ]


def _write(plan: ExportPlan, out: Path) -> str:
    names = _Names(plan)
    steps = [_StepSource(plan, step, names) for step in plan.steps]
    functions = "".join(f"\n\n{each.function()}" for each in steps)
    used = {name for step in plan.steps for name in step.uses}
    wiring = indented("".join(each.wiring(is_used=each.name in used) for each in steps) or "pass\n", 4)
    head = [
        f'"""{said_by(plan, "airflow")}\n\n{_ABOUT}\n"""\n',
        "\n".join(f"import {name}" for name in EXEC_IMPORTS),
        f"from datetime import {_datetime_names(plan)}",
        "from pathlib import Path\n",
        f"from airflow.sdk import {'Variable, ' if plan.secrets else ''}dag, task\n",
        exec_helpers(plan, out, with_code=needs_code(functions), environment=_environment(plan)),
    ]
    return "\n".join(head) + f"{functions}\n\n{_dag(plan)}\ndef main():\n{wiring}\n\nexported = main()\n"


_ABOUT = """Each task runs by `hooke exec`, which finds what is stored already. An XCom is the reference of a result in the project's store."""


def _datetime_names(plan: ExportPlan) -> str:
    return "UTC, datetime, timedelta" if plan.schedule else "timedelta"


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


class _Names:
    """Names of functions and parameters that Airflow does not fill itself."""

    def __init__(self, plan: ExportPlan) -> None:
        self._steps = {step.name for step in plan.steps}
        self._after = _after_dynamic(plan)

    def parameter(self, name: str, taken: Iterable[str] = ()) -> str:
        """The parameter of a step's function that an item goes to."""
        while name in _CONTEXT or name in taken:
            name += "_item"
        return name

    def rows(self, step: str) -> str:
        """The function that pairs the items of several lists."""
        name = f"{step}_rows"
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
    """One step: its function, and the line that calls it."""

    def __init__(self, plan: ExportPlan, step: Step, names: _Names) -> None:
        self.name = step.name
        self._plan = plan
        self._step = step
        self._names = names
        self._writer = Writer(plan, variable=_variable, parameter=lambda name: f'params["{name}"]')
        self._is_direct = self._can_expand_items()
        self._is_paired = step.is_mapped and not self._is_direct and step.length is None

    # -- the function

    def function(self) -> str:
        """The function, and the one that pairs its items if there is one."""
        step, used = self._step, self._used()
        items = self._item_names()
        call = self._call(items)
        parameters = [*map(_variable, used), *items.values()]
        if 'params["' in call:
            parameters.append("params=None")
        lists = "".join(f"    {name} = list({name})\n" for name in map(_variable, self._lists(used)))
        decorator = joined_call("@task", self._options()) if self._options() else "@task"
        made = f"{decorator}\ndef {step.name}({', '.join(parameters)}):\n{lists}    return {call}\n"
        return f"{self._pairing()}{made}" if self._is_paired else made

    def _options(self, *, body: bool = True) -> list[str]:
        step = self._step
        rule = ['trigger_rule="none_failed"'] if self._names.may_be_skipped(step) else []
        if not body:
            return rule
        limit = (
            [f"execution_timeout=timedelta(seconds={step.timeout_s:g})"] if step.timeout_s is not None else []
        )
        return [*([f"retries={step.retries}"] if step.retries else []), *limit, *rule]

    def _call(self, items: dict[str, str]) -> str:
        step = self._step
        if step.entry is None:
            function = "items_of" if step.kind == "list" else "stored"
            return self._writer.call(function, [self._writer.value(step.arguments["value"])], {}, indent=4)
        given = [f'"{step.entry.target}"', *self._items(items)]
        return self._writer.call("hooke", given, step.arguments, indent=4)

    def _items(self, items: dict[str, str]) -> list[str]:
        """The arguments that an item has of its own."""
        columns = self._step.columns
        if self._is_direct:
            return [f"{name}={items[name]}" for name in columns]
        if self._is_paired:
            return [f"{name}={items['']}[{at}]" for at, name in enumerate(columns)]
        return [f"{name}={self._writer.value(column)}[{items['']}]" for name, column in columns.items()]

    def _item_names(self) -> dict[str, str]:
        """Column -> the parameter for its items; under "" the one for the number of an item, or for its row."""
        step = self._step
        if not step.is_mapped:
            return {}
        taken = set(map(_variable, self._used()))
        if self._is_direct:
            return {name: self._names.parameter(name, taken) for name in step.columns}
        return {"": self._names.parameter("row" if self._is_paired else "i", taken)}

    def _pairing(self) -> str:
        """A task of its own that pairs the items of several lists, which must be of one length."""
        used = self._mapped_over()
        lists = [self._writer.value(column) for column in self._step.columns.values()]
        options = self._options(body=False)
        decorator = joined_call("@task", options) if options else "@task"
        return (
            f"{decorator}\ndef {self._names.rows(self._step.name)}({', '.join(map(_variable, used))}):\n"
            f"    return [list(row) for row in zip({', '.join(lists)}, strict=True)]\n\n\n"
        )

    # -- the call of it

    def wiring(self, *, is_used: bool) -> str:
        """The lines of the DAG that call the function; its result has a name if another step uses it."""
        step = self._step
        name = f"{step.name}_out = " if is_used else ""
        given = [f"{_variable(name)}={name}_out" for name in self._used()]
        if not step.is_mapped:
            return f"{name}{joined_call(step.name, given, indent=4)}\n"
        start = f"{step.name}.partial({', '.join(given)})" if given else step.name
        items = self._item_names()
        if self._is_direct:
            ((parameter, column),) = step.columns.items()
            over, before = f"{items[parameter]}={self._expanded(column)}", ""
        elif self._is_paired:
            rows = self._names.rows(step.name)
            given = [f"{_variable(name)}={name}_out" for name in self._mapped_over()]
            before = f"{rows}_out = {joined_call(rows, given, indent=4)}\n"
            over = f"{items['']}={rows}_out"
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
        return type(column) is range or {type(each) for each in column} <= _MAPPED_PLAIN

    def _used(self) -> list[str]:
        """The steps whose results the function itself gets."""
        step = self._step
        if step.is_mapped and (self._is_direct or self._is_paired):
            return _steps_in(step.arguments.values())
        return list(step.uses)

    def _mapped_over(self) -> list[str]:
        return _steps_in(self._step.columns.values())

    def _lists(self, used: Iterable[str]) -> list[str]:
        """Those of them that are mapped: Airflow gives a sequence of theirs that is no list."""
        return [name for name in used if self._plan.step(name).is_mapped]


def _variable(step: str) -> str:
    """The parameter that a step's result has in the functions of others."""
    return f"{step}_" if step in _CONTEXT else step


def _steps_in(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(each.step for each in step_results_in(list(values))))


TARGET = ExportTarget(title="Airflow", able=_able, write=_write, refusals=_refusals)
