"""Prefect 3: a `@task` for each task and one `@flow`, with how to run, serve and deploy it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hooke.exporters.plain_source import PlainSource
from hooke.exporters.plan import ExportPlan, Refusal, Step, StepResult
from hooke.exporters.source import EXEC_IMPORTS, Writer, exec_helpers, needs_code, said_by
from hooke.exporters.targets import Abilities, ExportTarget

__all__ = ["TARGET"]

TAKEN = frozenset({"deferred", "return_state", "self", "wait_for"})
"""Parameters of Prefect's own `submit` and `map`."""


OWN = frozenset({"NO_CACHE", "Secret", "ThreadPoolTaskRunner", "flow", "main", "task", "unmapped"})
"""Names that the file uses itself."""


def _able(plan: ExportPlan) -> Abilities:
    return Abilities(
        timeouts=plan.flavour == "reference",
        reasons={"timeouts": "a function in a thread of the flow cannot be ended from outside"},
    )


def _refusals(plan: ExportPlan) -> list[Refusal]:
    taken = [(step, name) for step in plan.steps for name in sorted(TAKEN & {*step.arguments, *step.columns})]
    found = [
        Refusal(
            what=f"{step.name}: its parameter {name!r}",
            why="Prefect's submit() and map() have a parameter of this name, too",
            fix="rename the parameter",
        )
        for step, name in taken
    ]
    own = sorted(OWN & PlainSource(plan).functions) if plan.flavour == "plain" else []
    return found + [
        Refusal(
            what=f"the name {name}",
            why="the file has it from Prefect",
            fix="rename it in the module",
        )
        for name in own
    ]


PART = '''
@dataclass
class Part:
    """A part of a result. Prefect puts the reference in the place of `of` before a task runs."""

    of: str
    path: str

    def __repr__(self):
        return repr(self.of + self.path)
'''

OWN_TASKS = {"list": "items_of", "value": "stored"}
"""Kind of a step without a task -> the helper that does it."""


class _Flow(Writer):
    """Writes values in which results are futures, which Prefect resolves wherever they are in an argument."""

    def __init__(self, plan: ExportPlan) -> None:
        super().__init__(plan)
        self._plain = plan.flavour == "plain"
        self._references = Writer(msgspec.structs.replace(plan, flavour="reference"))

    def _part(self, value: StepResult) -> str:
        """A future. A part of a result exists only at run time: by reference it is a Part, else it is awaited."""
        future, plus, path = self._references.value(value).partition(" + ")
        if not plus:
            return future
        return f"{future}.result(){ast.literal_eval(path)}" if self._plain else f"Part({future}, {path})"

    def step(self, step: Step, functions: Mapping[str, str]) -> str:
        """The call that begins a step."""
        function = functions[step.name]
        if step.is_mapped:
            once = {
                name: _Written(f"unmapped({self.value(value)})") for name, value in step.arguments.items()
            }
            columns = {name: self._column(column) for name, column in step.columns.items()}
            return self.call(f"{function}.map", [], columns | once, indent=4)
        return self.call(f"{function}.submit", [], step.arguments, indent=4)

    def _column(self, column: Any) -> Any:
        """How many items a list from a task has is known when that has ended. Several futures are a list already."""
        if not isinstance(column, StepResult) or (self._plan.step(column.step).is_mapped and not column.path):
            return column
        text = self.value(column)
        is_list = ".result()" in text or (bool(column.path) and isinstance(column.path[-1], slice))
        return _Written(text if is_list else f"{text}.result()")

    def _leaf(self, value: Any) -> str | None:
        if isinstance(value, _Written):
            return value.text
        if type(value) is range:
            return f"list({value!r})"
        return super()._leaf(value)


class _Written(NamedTuple):
    """An argument that is written already."""

    text: str


def _write(plan: ExportPlan, out: Path) -> str:
    writer = _Flow(plan)
    tasks, functions = _tasks(plan)
    steps = "".join(f"    {step.name} = {writer.step(step, functions)}\n" for step in plan.steps)
    given = ", ".join(f"{each.name}={writer.value(each.default)}" for each in plan.parameters)
    body = _secrets(plan) + steps + _end(plan)
    source = PlainSource(plan) if plan.flavour == "plain" else None
    flow = f"{_runner(plan)}def main({given}):\n{body}"
    parts = [
        _docstring(plan, out),
        _imports(plan, steps) + (source.head(plan, out) if source is not None else ""),
        *([exec_helpers(plan, out, with_code=needs_code(flow))] if source is None else []),
        *([PART] if "Part(" in steps else []),
        *(text for text in tasks if text.startswith("\n")),
        "".join(["\n", *(text for text in tasks if not text.startswith("\n"))]),
        f"\n{flow}",
        _main(plan),
    ]
    return "\n".join(parts)


def _runner(plan: ExportPlan) -> str:
    """The decorator of the flow. Prefect does not divide a machine: what asks for much of it runs alone."""
    alone = [step.name for step in plan.steps if step.cpus > 1 or step.memory is not None or step.gpus]
    says = f"# One task at a time, since Prefect does not divide a machine: {', '.join(alone)} asked for cpus, memory or GPUs.\n"
    most = "1" if alone else "os.cpu_count()"
    return f'{says if alone else ""}@flow(name="{plan.name}", task_runner=ThreadPoolTaskRunner(max_workers={most}))\n'


def _docstring(plan: ExportPlan, out: Path) -> str:
    deploy = (
        f"    python {out.name} deploy POOL    has the workers of a pool run it in containers of the image\n"
        if plan.image
        else ""
    )
    about = (
        "Needs no Hooke. The flow returns what the pipeline does."
        if plan.flavour == "plain"
        else "Each task runs by `hooke exec`, which finds what is stored already. The flow returns the reference of the result."
    )
    return f'''"""{said_by(plan, "prefect")}

{about}

    python {out.name}          runs it once
    python {out.name} serve    waits here for the schedule, and for who starts it in Prefect's pages
{deploy}"""
'''


def _imports(plan: ExportPlan, steps: str) -> str:
    own = ["flow", "task", *(["unmapped"] if "unmapped(" in steps else [])]
    plain = plan.flavour == "plain"
    names = ["os", "sys"] if plain else sorted({*EXEC_IMPORTS, "sys"})
    lines = [f"import {name}" for name in names]
    lines += ["from dataclasses import dataclass"] if "Part(" in steps else []
    lines += [*([] if plain else ["from pathlib import Path"]), "", f"from prefect import {', '.join(own)}"]
    lines += ["from prefect.blocks.system import Secret"] if plan.secrets else []
    lines += [
        "from prefect.cache_policies import NO_CACHE",
        "from prefect.task_runners import ThreadPoolTaskRunner",
        "",
    ]
    return "\n".join(lines)


def _tasks(plan: ExportPlan) -> tuple[list[str], dict[str, str]]:
    """The tasks of Prefect, and step -> the function that it calls. Steps of one task share it."""
    texts: list[str] = []
    functions: dict[str, str] = {}
    made: dict[str, str] = {}
    names = [*(step.name for step in plan.steps), *(each.name for each in plan.parameters)]
    prefix = "run_" if not any(name.startswith("run_") for name in names) else "begin_"
    for step in plan.steps:
        if step.entry is None:
            key = OWN_TASKS[step.kind]
            function = f"{prefix}{key}"
            called = key if plan.flavour == "reference" else "lambda value: value"
            text = f'{function} = task({called}, name="{key}", cache_policy=NO_CACHE)\n'
        else:
            key, function = f"{step.entry.target} {step.on_error}", f"{prefix}{step.name}"
            text = _plain_task(step, function) if plan.flavour == "plain" else _task(step, function)
        if key not in made:
            made[key] = function
            texts.append(text)
        functions[step.name] = made[key]
    return texts, functions


def _task(step: Step, function: str) -> str:
    assert step.entry is not None
    timeout = f", {step.timeout_s:g}" if step.timeout_s is not None else ""
    call = "hooke_or_failed" if step.on_error == "continue" else "hooke"
    retries = f"retries={step.retries}, " if step.retries else ""
    return (
        f'\n@task(name="{step.entry.task.name}", {retries}cache_policy=NO_CACHE)\n'
        f'def {function}(**inputs):\n    return {call}("{step.entry.target}"{timeout}, **inputs)\n'
    )


def _plain_task(step: Step, function: str) -> str:
    assert step.entry is not None
    retries = f", retries={step.retries}" if step.retries else ""
    return f"{function} = task({step.entry.function}{retries}, cache_policy=NO_CACHE)\n"


def _secrets(plan: ExportPlan) -> str:
    return "".join(
        f'    os.environ["{each.variable}"] = Secret.load("{each.secret}").get()["{each.key}"]\n'
        for each in plan.secrets
    )


def _end(plan: ExportPlan) -> str:
    """Waits for what nobody uses, and returns the result."""
    used = {name for step in plan.steps for name in step.uses}
    if plan.output is not None:
        used.add(plan.output.step)
    lines = "".join(f"    {step.name}.result()\n" for step in plan.steps if step.name not in used)
    if plan.output is None:
        return lines or "    pass\n"
    return f"{lines}    return {plan.output.step}.result()\n"


def _main(plan: ExportPlan) -> str:
    cron = f', cron="{plan.schedule}"' if plan.schedule else ""
    deploy = (
        '    elif sys.argv[1:2] == ["deploy"]:\n'
        f'        main.deploy("{plan.name}", work_pool_name=sys.argv[2], image="{plan.image}", build=False, push=False{cron})\n'
        if plan.image
        else ""
    )
    return (
        '\nif __name__ == "__main__":\n'
        '    if sys.argv[1:] == ["serve"]:\n'
        f'        main.serve("{plan.name}"{cron})\n'
        f"{deploy}"
        "    else:\n"
        f"        print(main())\n"
    )


TARGET = ExportTarget(title="Prefect", able=_able, write=_write, refusals=_refusals)
"""The target `prefect`."""
