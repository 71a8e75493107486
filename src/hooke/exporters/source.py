"""The Python that exported files have in common: values, calls, and the few lines by which they run `hooke exec`."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hooke.base.distributions import HOOKE_VERSION
from hooke.base.syntax import parse_python
from hooke.exporters.plan import ExportPlan, ParameterValue, StepResult
from hooke.exporters.value_text import Construction, write_value
from hooke.pipeline.promise import shown_path

__all__ = [
    "Writer",
    "exec_helpers",
    "indented",
    "joined_call",
    "laid_out",
    "needs_code",
    "project_line",
    "quoted",
    "said_by",
]

WIDTH = 100
"""Characters of a line before a call goes over several."""


class Writer:
    """Writes the values of one plan. `variable` gives the Python name that holds a step's result, by the step's name."""

    def __init__(
        self, plan: ExportPlan, variable: Callable[[str], str] = str, parameter: Callable[[str], str] = str
    ) -> None:
        self._plan = plan
        self._variable = variable
        self._parameter = parameter
        self._mapped = {step.name: step for step in plan.steps if step.is_mapped}
        self.classes: set[tuple[str, str]] = set()
        """Module and name of the classes that constants are made of."""

    def value(self, value: Any) -> str:
        """The value as Python. Items of a mapped step that follow one another are a slice of its list."""
        return write_value(value, self._leaf, self._construct)

    def call(
        self, function: str, args: Sequence[str], arguments: Mapping[str, Any], *, indent: int = 0
    ) -> str:
        """`function(args..., name=value...)`, over several lines if it is long. `indent` is that of the line it begins in."""
        parts = [*args, *(f"{name}={self.value(value)}" for name, value in arguments.items())]
        return joined_call(function, parts, indent=indent)

    def _leaf(self, value: Any) -> str | None:
        if isinstance(value, ParameterValue):
            return self._parameter(value.name) + shown_path(value.path)
        if isinstance(value, StepResult):
            return self._part(value)
        if type(value) is list and any(self._item(each) for each in value):
            return self._list(value)
        return None

    def _part(self, value: StepResult) -> str:
        name, path = self._variable(value.step), value.path
        if self._plan.flavour == "plain":
            return name + shown_path(path)
        lists = 0
        if value.step in self._mapped:  # a list of references here, until one of its items is meant
            while lists < len(path):
                lists += 1
                if not isinstance(path[lists - 1], slice):
                    break
        text = name + shown_path(path[:lists])
        return f"{text} + {shown_path(path[lists:])!r}" if path[lists:] else text

    def _item(self, value: Any) -> bool:
        return (
            isinstance(value, StepResult)
            and value.step in self._mapped
            and len(value.path) == 1
            and type(value.path[0]) is int
        )

    def _list(self, values: list[Any]) -> str:
        """A list in which items of mapped steps are: those that follow one another as a slice."""
        parts: list[str] = []
        for run in _runs(values, self._item):
            first = run[0]
            if len(run) < 2:
                parts.append(self.value(first))
                continue
            start, stop = first.path[0], run[-1].path[0] + 1
            length = self._mapped[first.step].length
            whole = start == 0 and stop == length
            bounds = "" if whole else f"[{start or ''}:{'' if stop == length else stop}]"
            parts.append(f"*{self._variable(first.step)}{bounds}")
        if len(parts) == 1 and parts[0].startswith("*"):
            return parts[0][1:]
        return f"[{', '.join(parts)}]"

    def _construct(self, made: Construction) -> str:
        if self._plan.flavour == "plain":
            return self._called(made, self._construct)
        return f"Code({self._called(made, self._in_code)!r})"

    def _in_code(self, made: Construction) -> str:
        """An object inside of a constant that is a text already."""
        return self._called(made, self._in_code)

    def _called(self, made: Construction, construct: Callable[[Construction], str]) -> str:
        self.classes.add((made.module, made.name))
        args = [write_value(each, self._leaf, construct) for each in made.args]
        kwargs = [f"{name}={write_value(each, self._leaf, construct)}" for name, each in made.kwargs.items()]
        is_short = self._plan.flavour == "plain" or (made.module, made.name) in _SHORT
        return f"{made.name if is_short else f'{made.module}.{made.name}'}({', '.join([*args, *kwargs])})"


_SHORT = (("hooke", "File"), ("pathlib", "Path"))
"""Classes that `hooke exec` knows by their names alone."""


def _runs(values: Sequence[Any], is_item: Callable[[Any], bool]) -> Iterator[list[Any]]:
    """The values in groups: items of one step that follow one another together, any other value alone."""
    run: list[Any] = []
    for value in values:
        follows = (
            bool(run)
            and is_item(value)
            and is_item(run[-1])
            and run[-1].step == value.step
            and run[-1].path[0] + 1 == value.path[0]
        )
        if run and not follows:
            yield run
            run = []
        run.append(value)
    if run:
        yield run


def joined_call(function: str, parts: Sequence[str], *, indent: int = 0) -> str:
    """`function(parts...)`, over several lines if it is long."""
    line = f"{function}({', '.join(parts)})"
    if len(line) + indent <= WIDTH:
        return line
    inner = " " * (indent + 4)
    lines = "".join(f"{inner}{_wrapped(part, indent + 4)},\n" for part in parts)
    return f"{function}(\n{lines}{' ' * indent})"


def _wrapped(part: str, indent: int) -> str:
    """An argument of a call; a list, tuple or dict that is long with an element a line."""
    if len(part) + indent <= WIDTH:
        return part
    call = cast("ast.Call", parse_python(f"_({part})", "eval").body)
    node = call.keywords[0].value if call.keywords else call.args[0]
    node = node.value if isinstance(node, ast.Subscript) else node
    if isinstance(node, ast.List | ast.Tuple):
        elements = [(each, each) for each in node.elts]
    elif isinstance(node, ast.Dict) and all(node.keys):
        elements = [(cast("ast.expr", key), value) for key, value in zip(node.keys, node.values, strict=True)]
    else:
        return part
    data = part.encode()  # columns are counted in bytes, and `_(` stands before
    inner = " " * (indent + 4)
    texts = [data[first.col_offset - 2 : (last.end_col_offset or 0) - 2].decode() for first, last in elements]
    lines = "".join(f"{inner}{text},\n" for text in texts)
    start, end = node.col_offset - 1, (node.end_col_offset or 0) - 3
    return f"{data[:start].decode()}\n{lines}{' ' * indent}{data[end:].decode()}"


def laid_out(value: Any, indent: int = 0) -> str:
    """A manifest as Python: lists and dicts that are long with an element a line."""
    if not isinstance(value, (dict, list)):
        return quoted(value) if isinstance(value, str) else repr(value)
    inner = indent + 4
    if isinstance(value, dict):
        parts = [f"{quoted(key)}: {laid_out(each, inner)}" for key, each in value.items()]
        start, end = "{}"
    else:
        parts = [laid_out(each, inner) for each in value]
        start, end = "[]"
    line = f"{start}{', '.join(parts)}{end}"
    if len(line) + indent <= WIDTH and "\n" not in line:
        return line
    lines = "".join(f"{' ' * inner}{part},\n" for part in parts)
    return f"{start}\n{lines}{' ' * indent}{end}"


def quoted(text: str) -> str:
    """A text of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def indented(text: str, spaces: int) -> str:
    """The text with each of its lines moved to the right."""
    return "".join(f"{' ' * spaces if line.strip() else ''}{line}" for line in text.splitlines(keepends=True))


# --- What every exported file begins with.


def said_by(plan: ExportPlan, target: str) -> str:
    """The first line of an exported file: what it is, and how to write it again."""
    pods = " --pods" if plan.pods else ""
    return (
        f"{plan.name}, exported by Hooke {HOOKE_VERSION}: hooke export {target}{pods} {plan.file}:{plan.name}"
    )


def project_line(plan: ExportPlan, out: Path) -> str:
    """`PROJECT = ...`: the project's folder, from that of the exported file if it lies in the project."""
    folder = out.resolve().parent
    if not folder.is_relative_to(plan.root):
        return f"PROJECT = Path(os.environ.get('HOOKE_PROJECT', {str(plan.root)!r}))"
    depth = len(folder.relative_to(plan.root).parts)
    own = "Path(__file__).resolve().parent" + (f"s[{depth}]" if depth else "")
    return f'PROJECT = Path(os.environ.get("HOOKE_PROJECT", {own}))'


def needs_code(text: str) -> bool:
    """Whether written values have constants that are made by a call."""
    return "Code(" in text


CODE = '''
class Code(str):
    """A constant that is made by a call, as Python."""

    __repr__ = str.__str__
'''

HELPERS = '''
def hooke(target, timeout=None, /, **inputs):
    """Run a task by `hooke exec`; returns the reference of its result. Inputs are values or references."""
    return _hooke(target, "--out", inputs, timeout)


def items_of(value):
    """The references of the items of a list."""
    return json.loads(_hooke("FILE", "--items", {"value": value}))


def stored(value):
    """The reference of a value that has references in it."""
    return _hooke("FILE", "--out", {"value": value})


def _hooke(target, wanted, inputs, timeout=None):
    command = [HOOKE, "exec", target, "--in", "-", wanted, "-"]
    lines = "".join(f"{name}={value!r}\\n" for name, value in inputs.items())
    done = subprocess.run(
        command, cwd=PROJECT, input=lines, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout
    )
    return done.stdout.splitlines()[-1]
'''

OR_FAILED = '''
def hooke_or_failed(target, /, **inputs):
    """As hooke(), with the task's own retries and timeout. If the item fails, the result is hooke:failed, and later tasks leave it out of their lists."""
    return _hooke(target, "--out", inputs, None, "--on-error", "continue")
'''

EXEC_IMPORTS = ("json", "os", "subprocess")


def exec_helpers(plan: ExportPlan, out: Path, *, with_code: bool, environment: str = "") -> str:
    """What a file of the flavour by reference has at its beginning, after its imports.

    `environment` is the Python of the environment variables of `hooke exec`; empty for those of the process itself.
    """
    first = f'{project_line(plan, out)}\nHOOKE = os.environ.get("HOOKE", "hooke")\n'
    helpers = HELPERS.replace("FILE", plan.file)
    if any(step.on_error == "continue" for step in plan.steps):
        helpers = helpers.replace("\n\ndef _hooke(", f"\n{OR_FAILED}\n\ndef _hooke(")
        helpers = helpers.replace("timeout=None):", "timeout=None, *options):")
        helpers = helpers.replace('target, "--in"', 'target, *options, "--in"')
    if environment:
        helpers = helpers.replace(
            "timeout=timeout\n    )", f"timeout=timeout,\n        env={environment},\n    )"
        )
    return "\n".join([first, *([CODE] if with_code else []), helpers])
