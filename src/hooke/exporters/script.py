"""A plain Python script: one step after another, as a person would write it."""

from __future__ import annotations

from pathlib import Path

from hooke.exporters.plan import ExportPlan, Step
from hooke.exporters.source import EXEC_IMPORTS, Writer, exec_helpers, needs_code, said_by
from hooke.exporters.targets import Abilities, ExportTarget

__all__ = ["TARGET"]

_IN_THIS_PROCESS = "a function of the same process cannot be ended from outside"


def _able(plan: ExportPlan) -> Abilities:
    reasons = {
        "schedule": "a script runs when it is started",
        "image": "a script runs where it is started",
        "timeouts": _IN_THIS_PROCESS,
    }
    return Abilities(
        flavours=("reference",),
        schedule=False,
        image=False,
        timeouts=plan.flavour == "reference",
        reasons=reasons,
    )


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
    writer = Writer(plan)
    body = "".join(f"    {step.name} = {_step(writer, step)}\n" for step in plan.steps)
    if plan.output is not None:
        body += f"    return {writer.value(plan.output)}\n"
    given = ", ".join(f"{each.name}={writer.value(each.default)}" for each in plan.parameters)
    main = f"def main({given}):\n{body or _NOTHING}"
    parts = [
        f'"""{said_by(plan, "script")}\n\nEach task runs by `hooke exec`, which finds what is stored already. Prints the reference of the result.\n"""\n',
        "\n".join(f"import {name}" for name in (*EXEC_IMPORTS, *(["sys"] if plan.secrets else []))),
        "from pathlib import Path\n",
        exec_helpers(plan, out, with_code=needs_code(main)),
        *([RETRY] if any(step.retries for step in plan.steps) else []),
        f"\n{main}",
        f'\nif __name__ == "__main__":\n{_secrets(plan)}    {"print(main())" if plan.output else "main()"}',
    ]
    return "\n".join(parts) + "\n"


def _step(writer: Writer, step: Step) -> str:
    if step.entry is None:
        function = "items_of" if step.kind == "list" else "stored"
        return writer.call(function, [writer.value(step.arguments["value"])], {}, indent=4)
    target = f'"{step.entry.target}"'
    args = [target, f"{step.timeout_s:g}"] if step.timeout_s is not None else [target]
    function = "hooke"
    if step.retries:
        function, args = "retry", [str(step.retries), "hooke", *args]
    if not step.is_mapped:
        return writer.call(function, args, step.arguments, indent=4)
    names = {name: f"{name}_item" if name in step.uses else name for name in step.columns}
    columns = [writer.value(column) for column in step.columns.values()]
    items = [*args, *(f"{name}={item}" for name, item in names.items())]
    call = writer.call(function, items, step.arguments, indent=8)
    over = columns[0] if len(columns) == 1 else f"zip({', '.join(columns)}, strict=True)"
    line = f"[{call} for {', '.join(names.values())} in {over}]"
    if "\n" not in call and len(line) < 90:
        return line
    return f"[\n        {call}\n        for {', '.join(names.values())} in {over}\n    ]"


def _secrets(plan: ExportPlan) -> str:
    if not plan.secrets:
        return ""
    names = ", ".join(f'"{each.variable}"' for each in plan.secrets)
    return (
        f"    if missing := [name for name in ({names},) if name not in os.environ]:\n"
        "        sys.exit(f\"set these environment variables: {', '.join(missing)}\")\n"
    )


TARGET = ExportTarget(title="a script", able=_able, write=_write)
