"""Reads a pipeline's body for what no promise can catch, because Python never asks the promise.

`x is None` and `isinstance(x, ...)` silently take one branch; `except` around a call of a task never sees the
task's error; a lambda carries a promise to where it cannot be replaced by the value.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from hooke.base.errors import TraceError
from hooke.pipeline.dataflow import Flow, Kind, Names
from hooke.pipeline.frames import Place, shorten_path
from hooke.pipeline.pipeline import Pipeline

__all__ = ["Finding", "lint", "read_body"]

_PROBES = frozenset({isinstance, type, id, callable, hasattr, getattr})
"""Builtins that ask about an object without asking the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in a body that would go wrong in silence."""

    what: str
    why: str
    mend: str
    line: int
    """Counted from the body's first line, which is 1."""


def lint(pipeline: Pipeline[..., Any]) -> None:
    """Raise TraceError for the first finding in the body, and name the others. A body without source is passed over."""
    function = inspect.unwrap(pipeline.function)
    if not isinstance(function, FunctionType):
        return
    source = _source(function)
    if source is None:
        return
    lines, start = source
    findings = read_body(function, "".join(lines))
    if not findings:
        return
    file = shorten_path(function.__code__.co_filename)
    first, *others = findings
    also = "".join(f"; also {file}:{start + other.line - 1}: it {other.what}" for other in others[:5])
    raise TraceError(
        f"pipeline {pipeline.name!r} {first.what}",
        where=str(Place(file, start + first.line - 1, lines[first.line - 1].strip())),
        why=first.why + also,
        mend=first.mend,
    )


def read_body(function: FunctionType, source: str) -> list[Finding]:
    """The findings in `function`, whose source is `source`, by line."""
    try:
        tree = ast.parse(textwrap.dedent(source)).body[0]
    except (SyntaxError, IndexError):  # a lambda's lines, say, that are no statement by themselves
        return []
    if not isinstance(tree, ast.FunctionDef):
        return []
    findings: list[Finding] = []
    flow = Flow(Names(function), lambda node, flow: findings.extend(_findings(node, flow)))
    flow.local_functions = _local_functions(tree)
    flow.walk(tree.body)
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.line)


def _source(function: FunctionType) -> tuple[list[str], int] | None:
    try:
        return inspect.getsourcelines(function)
    except (OSError, TypeError):
        return None


def _findings(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    for rule in _RULES:
        yield from rule(node, flow)


def _identity(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    if not isinstance(node, ast.Compare):
        return
    sides = [node.left, *node.comparators]
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        guilty = next((side for side in (left, right) if flow.kind(side) is Kind.RESULT), None)
        if isinstance(operator, (ast.Is, ast.IsNot)) and guilty is not None:
            sign = "is" if isinstance(operator, ast.Is) else "is not"
            yield Finding(
                what=f"asks `{ast.unparse(node)}` of a task's result, which does not exist yet",
                why=f"`{sign}` sees the promise that stands for {_shown(guilty)}, and always answers the same",
                mend="test it inside the task that uses it",
                line=node.lineno,
            )


def _probe(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    if not isinstance(node, ast.Call) or not node.args:
        return
    function = flow.names.object_at(node.func)
    if not inspect.isroutine(function) and not isinstance(function, type):
        return
    if function in _PROBES and flow.kind(node.args[0]) in {Kind.RESULT, Kind.MAP}:
        name = ast.unparse(node.func)
        yield Finding(
            what=f"asks {name}() about a task's result, which does not exist yet",
            why=f"{name}() sees the promise that stands for {_shown(node.args[0])}, not the value",
            mend="ask inside the task that uses it; what is known of it beforehand goes into the pipeline's parameters",
            line=node.lineno,
        )


def _match(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    if isinstance(node, ast.Match) and flow.kind(node.subject) in {Kind.RESULT, Kind.MAP}:
        yield Finding(
            what="matches a task's result, which does not exist yet",
            why=f"`match` sees the promise that stands for {_shown(node.subject)}, not the value",
            mend="put the `match` inside a task",
            line=node.lineno,
        )


def _except(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    if not isinstance(node, (ast.Try, ast.TryStar)) or not node.handlers:
        return
    for call in _outer_nodes(node.body):
        if isinstance(call, ast.Call) and (task := flow.names.called_task(call)) is not None:
            yield Finding(
                what=f"calls task {task.name!r} inside try/except",
                why="in a run the task runs later and elsewhere, so `except` here never sees its error",
                mend="put the try/except inside the task, or move the call out of the `try` (into its `else:`)",
                line=call.lineno,
            )


def _change(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    if not isinstance(node, (ast.Subscript, ast.Attribute)) or isinstance(node.ctx, ast.Load):
        return
    if flow.kind(node.value) in {Kind.RESULT, Kind.MAP}:
        yield Finding(
            what=f"changes a task's result, which does not exist yet: `{ast.unparse(node)}`",
            why=f"{_shown(node.value)} is a promise here; there is nothing to change",
            mend="return the changed value from a task",
            line=node.lineno,
        )


def _capture(node: ast.AST, flow: Flow) -> Iterator[Finding]:
    if not isinstance(node, ast.Call) or (task := flow.names.called_task(node)) is None:
        return
    for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
        for name in _captured(argument, flow):
            yield Finding(
                what=f"hands task {task.name!r} a function that captures {name!r}, a task's result",
                why="a function carries its variables along as they are: a promise in it never becomes the value",
                mend=f"pass {name!r} to the task as an argument of its own",
                line=argument.lineno,
            )


def _captured(argument: ast.expr, flow: Flow) -> list[str]:
    """Names of results that a lambda, or a function defined in the body, reads."""
    inner: ast.AST | None = argument if isinstance(argument, ast.Lambda) else None
    if isinstance(argument, ast.Name):
        inner = flow.local_functions.get(argument.id)
    if not isinstance(inner, (ast.Lambda, ast.FunctionDef)):
        return []
    own = {arg.arg for arg in ast.walk(inner.args) if isinstance(arg, ast.arg)}
    nodes = [node for node in ast.walk(inner) if isinstance(node, ast.Name)]
    own |= {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    return list(dict.fromkeys(node.id for node in nodes if node.id in flow.env and node.id not in own))


def _scope(node: ast.AST, _flow: Flow) -> Iterator[Finding]:
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        word = "global" if isinstance(node, ast.Global) else "nonlocal"
        yield Finding(
            what=f"declares `{word} {', '.join(node.names)}`",
            why="the body runs when the graph is drawn, before its tasks and again at each resume; "
            "tasks run in other processes and do not see what it sets",
            mend="pass the value to the tasks as an argument, and return what should come out",
            line=node.lineno,
        )


def _outer_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes of the statements but those inside functions, which run elsewhere."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))


def _local_functions(tree: ast.FunctionDef) -> dict[str, ast.FunctionDef]:
    return {
        node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node is not tree
    }


def _shown(tree: ast.AST) -> str:
    text = ast.unparse(tree)
    return f"`{text}`" if len(text) <= 40 else "it"


_RULES: tuple[Callable[[ast.AST, Flow], Iterator[Finding]], ...] = (
    _identity,
    _probe,
    _match,
    _except,
    _change,
    _capture,
    _scope,
)
