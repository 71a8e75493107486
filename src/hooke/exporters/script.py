"""A plain Python script: one step after another, as a person would write it."""

from __future__ import annotations

from pathlib import Path

from hooke.exporters.plain_source import PlainSource
from hooke.exporters.plan import ExportPlan, ParameterValue, Step, StepResult, TaskEntry
from hooke.exporters.source import EXEC_IMPORTS, Writer, exec_helpers, needs_code, quoted, said_by
from hooke.exporters.targets import Abilities, ExportTarget

__all__ = ["TARGET"]

_IN_THIS_PROCESS = "a function of the same process cannot be ended from outside"


def _able(plan: ExportPlan) -> Abilities:
    reasons = {
        "schedule": "a script runs when it is started",
        "image": "a script runs where it is started",
        "timeouts": _IN_THIS_PROCESS,
    }
    return Abilities(schedule=False, image=False, timeouts=plan.flavour == "reference", reasons=reasons)


_NOTHING = "    pass\n"

RETRY = '''
def retry(times, call, /, *args, **inputs):
    """The call's result; if it raises, it is called again, so many times."""
    for left in range(times, -1, -1):
        try:
            return call(*args, **inputs)
        except Exception:
            if not left:
                raise
'''


def _write(plan: ExportPlan, out: Path) -> str:
    retries = [RETRY] if any(step.retries for step in plan.steps) else []
    last = (
        f'\nif __name__ == "__main__":\n{_secrets(plan)}    {"print(main())" if plan.output else "main()"}\n'
    )
    imports = ["import os", "import sys"] if plan.secrets else []
    if plan.flavour == "plain":
        source = PlainSource(plan)
        main = _plain_main(plan, source.functions)
        about = "Needs no Hooke. Prints what the pipeline returns."
        head = source.head(plan, out, imports)
    else:
        main = _main(plan, Writer(plan), _ByReference)
        about = "Each task runs by `hooke exec`, which finds what is stored already. Prints the reference of the result."
        lines = [f"import {name}" for name in EXEC_IMPORTS] + ["import sys"] * bool(plan.secrets)
        head = "\n".join(
            [*lines, "from pathlib import Path\n", exec_helpers(plan, out, with_code=needs_code(main))]
        )
    return "\n".join([f'"""{said_by(plan, "script")}\n\n{about}\n"""\n', head, *retries, f"\n{main}", last])


def _plain_main(plan: ExportPlan, functions: frozenset[str]) -> str:
    def parameter(name: str) -> str:
        return f"{name}_" if name in functions else name

    return _main(plan, Writer(plan, variable=lambda step: f"{step}_out", parameter=parameter), _Plain)


def _main(plan: ExportPlan, writer: Writer, kind: type[_ByReference]) -> str:
    made = kind(writer)
    lines = [f"    {writer.value(StepResult(step.name))} = {made.step(step)}\n" for step in plan.steps]
    if plan.output is not None:
        lines.append(f"    return {writer.value(plan.output)}\n")
    given = (
        f"{writer.value(ParameterValue(each.name))}={writer.value(each.default)}" for each in plan.parameters
    )
    return f"def main({', '.join(given)}):\n{''.join(lines) or _NOTHING}"


class _ByReference:
    """The steps as calls of `hooke exec`."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def step(self, step: Step) -> str:
        """What gives the step's result."""
        if step.entry is None:
            return self.value(step)
        function, args = self.called(step.entry)
        if step.on_error == "continue":
            function = "hooke_or_failed"
        if step.timeout_s is not None:
            args.append(f"{step.timeout_s:g}")
        if step.retries:
            function, args = "retry", [str(step.retries), function, *args]
        return self._mapped(step, function, args) if step.is_mapped else self._call(step, function, args, 4)

    def value(self, step: Step) -> str:
        """A step without a task."""
        function = "items_of" if step.kind == "list" else "stored"
        return self.writer.call(function, [self.writer.value(step.arguments["value"])], {}, indent=4)

    def called(self, entry: TaskEntry) -> tuple[str, list[str]]:
        """The function that runs a task, and its first arguments."""
        return "hooke", [quoted(entry.target)]

    def _call(self, step: Step, function: str, args: list[str], indent: int) -> str:
        return self.writer.call(function, args, step.arguments, indent=indent)

    def _mapped(self, step: Step, function: str, args: list[str]) -> str:
        names = {
            name: f"{name}_item" if name in (*step.uses, *args, function) else name for name in step.columns
        }
        columns = [self.writer.value(column) for column in step.columns.values()]
        items = [*args, *(f"{name}={item}" for name, item in names.items())]
        call = self._call(step, function, items, 8)
        over = columns[0] if len(columns) == 1 else f"zip({', '.join(columns)}, strict=True)"
        line = f"[{call} for {', '.join(names.values())} in {over}]"
        if "\n" not in call and len(line) < 90:
            return line
        return f"[\n        {call}\n        for {', '.join(names.values())} in {over}\n    ]"


class _Plain(_ByReference):
    """The steps as calls of the functions."""

    def value(self, step: Step) -> str:
        return self.writer.value(step.arguments["value"])

    def called(self, entry: TaskEntry) -> tuple[str, list[str]]:
        return entry.function, []


def _secrets(plan: ExportPlan) -> str:
    if not plan.secrets:
        return ""
    names = ", ".join(f'"{each.variable}"' for each in plan.secrets)
    return (
        f"    if missing := [name for name in ({names},) if name not in os.environ]:\n"
        "        sys.exit(f\"set these environment variables: {', '.join(missing)}\")\n"
    )


TARGET = ExportTarget(title="a script", able=_able, write=_write)
