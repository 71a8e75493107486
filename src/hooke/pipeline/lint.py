"""Finds mistakes in a pipeline's body that a promise cannot catch, because Python never calls the promise.

`x is None` and `isinstance(x, ...)` silently take one branch. `except` around a call of a task never sees the
task's error. A lambda captures a promise, and nothing replaces it by the value.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import FunctionType
from typing import Any, TypeAlias

import msgspec

from hooke.base.errors import TraceError
from hooke.base.syntax import parse_python
from hooke.base.user_code import SourceLine, shorten_path
from hooke.pipeline.task import Task, Traceable

__all__ = ["ExpressionKind", "LintFinding", "NameScope", "OuterNames", "lint", "read_body", "source_of"]

_Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_UNKNOWN = ast.Constant(None)
"""Stands for a value that is not a result."""
_PROBES = frozenset({isinstance, type, id, callable, hasattr, getattr})
"""Builtins that inspect an object without calling its methods."""


class LintFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A mistake in a body that Python would not report."""

    what: str
    why: str
    fix: str
    line: int
    """Counted from the body's first line, which is 1."""


def lint(pipeline: Traceable) -> None:
    """Raise TraceError for the first finding in the body, and name the others. Skips a body without source."""
    function = inspect.unwrap(pipeline.function)
    if not isinstance(function, FunctionType):
        return
    try:
        lines, start = source_of(function)
    except (OSError, TypeError):
        return
    findings = read_body(function, "".join(lines))
    if not findings:
        return
    file = shorten_path(function.__code__.co_filename)
    first, *others = findings
    also = "".join(f"; also {file}:{start + other.line - 1}: it {other.what}" for other in others[:5])
    raise TraceError(
        f"pipeline {pipeline.name!r} {first.what}",
        where=str(SourceLine(file, start + first.line - 1, lines[first.line - 1].strip())),
        why=first.why + also,
        fix=first.fix,
    )


def source_of(function: FunctionType) -> tuple[list[str], int]:
    """As `inspect.getsourcelines`, whose tokenizer takes 8 ms to be compiled. Raises OSError."""
    lines, above = inspect.findsource(function)
    first = lines[above]
    margin = first[: len(first) - len(first.lstrip())]
    inner = re.compile(rf"{margin}[ \t]|[ \t\f]*(#.*)?$")
    head = next((at for at in range(above, len(lines)) if _HEAD.match(lines[at])), above)
    end = next((at for at in range(head + 1, len(lines)) if not inner.match(lines[at])), len(lines))
    block = lines[above:end]
    try:  # what does not parse was cut within a bracket or a text, whose lines may begin anywhere
        (found,) = parse_python(textwrap.dedent("".join(block))).body
    except (SyntaxError, ValueError):
        found = None
    if not isinstance(found, ast.FunctionDef) or found.name != function.__code__.co_name:
        return inspect.getsourcelines(function)
    return block, above + 1


_HEAD = re.compile(r"[ \t]*(async[ \t]+)?def\b")


def read_body(function: FunctionType, source: str) -> list[LintFinding]:
    """The findings in `function`, whose source is `source`, by line."""
    try:
        tree = parse_python(textwrap.dedent(source)).body[0]
    except (
        SyntaxError,
        IndexError,
    ):  # for example the lines of a lambda, which are not a statement by themselves
        return []
    if not isinstance(tree, ast.FunctionDef):
        return []
    scope = NameScope.of_function(tree, OuterNames(function))
    findings = [finding for statement in tree.body for finding in _check(statement, scope)]
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.line)


def _check(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    """The findings in a node and the nodes inside it. A nested function or lambda runs elsewhere, so it is skipped."""
    for rule in _RULES:
        yield from rule(node, scope)
    if not isinstance(node, _FUNCTIONS):
        inner = scope.of_comprehension(node) if isinstance(node, _Comprehension) else scope
        for child in ast.iter_child_nodes(node):
            yield from _check(child, inner)


# --- What names and expressions stand for.


class ExpressionKind(Enum):
    """What an expression is known to be."""

    RESULT = "the result of a task, or a part of it"
    MAP = "the list of results that .map gives"
    LISTED = "a plain list, tuple or set of results"


class OuterNames:
    """What the names that a function does not bind refer to."""

    def __init__(self, function: FunctionType) -> None:
        code = function.__code__
        self._own = {*code.co_varnames, *code.co_cellvars}
        self._known = {**vars(builtins), **function.__globals__}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._known[name] = cell.cell_contents
            except ValueError:  # the outer function binds the name later
                self._own.add(name)

    def object_at(self, tree: ast.expr) -> object:
        """The object that a name or a dotted name refers to; None if it is not known."""
        if isinstance(tree, ast.Name):
            return None if tree.id in self._own else self._known.get(tree.id)
        if isinstance(tree, ast.Attribute) and (owner := self.object_at(tree.value)) is not None:
            found = inspect.getattr_static(owner, tree.attr, None)
            return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        return None

    def called_task(self, tree: ast.expr) -> tuple[Task[..., Any], ExpressionKind] | None:
        """The task that an expression calls or maps, and what the expression gives."""
        if not isinstance(tree, ast.Call):
            return None
        if isinstance(found := self.object_at(tree.func), Task):
            return found, ExpressionKind.RESULT
        if isinstance(tree.func, ast.Attribute) and tree.func.attr == "map":
            found = self.object_at(tree.func.value)
        return (found, ExpressionKind.MAP) if isinstance(found, Task) else None


class NameScope:
    """What is known of each name in a function or a comprehension.

    A name has a kind if everything that it is ever bound to has that kind; the order of statements does not matter.
    """

    def __init__(self, outer: OuterNames, parent: NameScope | None = None) -> None:
        self.outer = outer
        self.functions: dict[str, ast.FunctionDef] = parent.functions if parent else {}
        """Functions defined in the body, by name."""
        self._parent = parent
        self._bound: dict[str, list[ast.expr]] = {}
        self._assumed: dict[str, ExpressionKind | None] = {}
        """The kinds of names whose bindings are being read: they may lead back to the name, as in `a, b = b, a`."""

    @classmethod
    def of_function(cls, tree: ast.FunctionDef, outer: OuterNames) -> NameScope:
        """The names of a function's body."""
        scope = cls(outer)
        for node in [*ast.walk(tree.args), *_outer_nodes(tree.body)]:
            scope._read(node)
            if isinstance(node, ast.FunctionDef):
                scope.functions[node.name] = node
        return scope

    def of_comprehension(self, tree: _Comprehension) -> NameScope:
        """The names inside a comprehension."""
        scope = NameScope(self.outer, self)
        for generator in tree.generators:
            scope._bind_items(generator.target, generator.iter)
        return scope

    def kind(self, tree: ast.AST) -> ExpressionKind | None:
        """What an expression is known to be."""
        match tree:
            case ast.Name():
                return self._kind_of_name(tree.id)
            case ast.Call():
                called = self.outer.called_task(tree)
                return called and called[1]
            case ast.Subscript():
                whole = self.kind(tree.value)
                part = ExpressionKind.LISTED if isinstance(tree.slice, ast.Slice) else ExpressionKind.RESULT
                return part if whole in {ExpressionKind.MAP, ExpressionKind.LISTED} else whole
            case ast.List() | ast.Tuple() | ast.Set():
                return _listed({self.kind(item) for item in tree.elts})
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return _listed({self.of_comprehension(tree).kind(tree.elt)})
            case ast.IfExp():
                kind = self.kind(tree.body)
                return kind if kind is self.kind(tree.orelse) else None
            case ast.NamedExpr() | ast.Starred():
                return self.kind(tree.value)
            case _:
                return None

    def _kind_of_name(self, name: str) -> ExpressionKind | None:
        if name in self._assumed:
            return self._assumed[name]
        if name not in self._bound:
            return self._parent.kind(ast.Name(name)) if self._parent else None
        self._assumed[name] = None
        first, *others = self._bound[name]
        kind = self._assumed[name] = self.kind(first)
        if not all(self.kind(value) is kind for value in others):
            kind = None
        del self._assumed[name]
        return kind

    def _read(self, node: ast.AST) -> None:
        match node:
            case ast.Assign():
                for target in node.targets:
                    self._bind(target, node.value)
            case ast.AnnAssign() | ast.NamedExpr() if node.value is not None:
                self._bind(node.target, node.value)
            case ast.AugAssign():
                self._bind(node.target, _UNKNOWN)
            case ast.For() | ast.AsyncFor():
                self._bind_items(node.target, node.iter)
            case ast.withitem(optional_vars=ast.expr() as target):
                self._bind(target, _UNKNOWN)
            case ast.arg():
                self._bind(ast.Name(node.arg), _UNKNOWN)
            case _:
                for field in (
                    "name",
                    "asname",
                    "rest",
                ):  # of a definition, an import, an `except` or a `case`
                    name: object = getattr(node, field, None)
                    if isinstance(name, str):
                        self._bind(ast.Name(name), _UNKNOWN)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        match target:
            case ast.Name():
                self._bound.setdefault(target.id, []).append(value)
            case ast.Starred():  # a list of some of the items
                self._bind(target.value, ast.List([value]))
            case ast.Tuple() | ast.List():
                values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
                if len(values) != len(target.elts) or any(
                    isinstance(tree, ast.Starred) for tree in target.elts + values
                ):
                    values = [ast.Subscript(value, _UNKNOWN)] * len(target.elts)  # an item, whichever it is
                for part, part_value in zip(target.elts, values, strict=True):
                    self._bind(part, part_value)
            case _:
                pass

    def _bind_items(self, target: ast.expr, iterable: ast.expr) -> None:
        """Bind the target of a loop over `iterable`."""
        function = self.outer.object_at(iterable.func) if isinstance(iterable, ast.Call) else None
        if isinstance(iterable, ast.Call) and function in {zip, enumerate} and isinstance(target, ast.Tuple):
            columns = iterable.args if function is zip else [_UNKNOWN, *iterable.args[:1]]
            for part, column in zip(target.elts, columns, strict=False):
                self._bind(part, ast.Subscript(column, _UNKNOWN))
        else:
            self._bind(target, ast.Subscript(iterable, _UNKNOWN))


def _listed(kinds: set[ExpressionKind | None]) -> ExpressionKind | None:
    return ExpressionKind.LISTED if kinds == {ExpressionKind.RESULT} else None


def _outer_nodes(trees: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes in the order of the source, except those inside functions, which run elsewhere."""
    for tree in trees:
        yield tree
        if not isinstance(tree, _FUNCTIONS):
            yield from _outer_nodes(ast.iter_child_nodes(tree))


# --- The rules.

_TASK_KINDS = {ExpressionKind.RESULT, ExpressionKind.MAP}


def _identity(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    if not isinstance(node, ast.Compare):
        return
    sides = [node.left, *node.comparators]
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        result = next((side for side in (left, right) if scope.kind(side) is ExpressionKind.RESULT), None)
        if isinstance(operator, (ast.Is, ast.IsNot)) and result is not None:
            sign = "is" if isinstance(operator, ast.Is) else "is not"
            yield LintFinding(
                what=f"tests `{ast.unparse(node)}` on a task's result, which does not exist yet",
                why=f"`{sign}` compares the promise that stands for {_shown(result)}, so the answer is always the same",
                fix="test it inside the task that uses it",
                line=node.lineno,
            )


def _probe(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    if not isinstance(node, ast.Call) or not node.args:
        return
    function = scope.outer.object_at(node.func)
    if not inspect.isroutine(function) and not isinstance(function, type):
        return
    if function in _PROBES and scope.kind(node.args[0]) in _TASK_KINDS:
        name = ast.unparse(node.func)
        yield LintFinding(
            what=f"calls {name}() on a task's result, which does not exist yet",
            why=f"{name}() sees the promise that stands for {_shown(node.args[0])}, not the value",
            fix="call it inside the task that uses the result; pass what is known beforehand as a pipeline parameter",
            line=node.lineno,
        )


def _match(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    if isinstance(node, ast.Match) and scope.kind(node.subject) in _TASK_KINDS:
        yield LintFinding(
            what="matches a task's result, which does not exist yet",
            why=f"`match` sees the promise that stands for {_shown(node.subject)}, not the value",
            fix="put the `match` inside a task",
            line=node.lineno,
        )


def _except(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    if not isinstance(node, (ast.Try, ast.TryStar)) or not node.handlers:
        return
    for call in _outer_nodes(node.body):
        if isinstance(call, ast.Call) and (called := scope.outer.called_task(call)) is not None:
            yield LintFinding(
                what=f"calls task {called[0].name!r} inside try/except",
                why="the task runs later and in another process, so this `except` never sees its error",
                fix="put the try/except inside the task, or move the call out of the `try` (into its `else:`)",
                line=call.lineno,
            )


def _change(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    if not isinstance(node, (ast.Subscript, ast.Attribute)) or isinstance(node.ctx, ast.Load):
        return
    if scope.kind(node.value) in _TASK_KINDS:
        yield LintFinding(
            what=f"changes a task's result, which does not exist yet: `{ast.unparse(node)}`",
            why=f"{_shown(node.value)} is a promise here; there is nothing to change",
            fix="return the changed value from a task",
            line=node.lineno,
        )


def _capture(node: ast.AST, scope: NameScope) -> Iterator[LintFinding]:
    if not isinstance(node, ast.Call) or (called := scope.outer.called_task(node)) is None:
        return
    for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
        for name in _captured(argument, scope):
            yield LintFinding(
                what=f"hands task {called[0].name!r} a function that captures {name!r}, a task's result",
                why="a function keeps its captured variables as they are, so the promise never becomes the value",
                fix=f"pass {name!r} to the task as an argument of its own",
                line=argument.lineno,
            )


def _captured(argument: ast.expr, scope: NameScope) -> list[str]:
    """Names of results that a lambda, or a function defined in the body, reads."""
    inner = scope.functions.get(argument.id) if isinstance(argument, ast.Name) else argument
    if not isinstance(inner, (ast.Lambda, ast.FunctionDef)):
        return []
    names = [node for node in ast.walk(inner) if isinstance(node, ast.Name)]
    own = {arg.arg for arg in ast.walk(inner.args) if isinstance(arg, ast.arg)}
    own |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return list(dict.fromkeys(name.id for name in names if name.id not in own and scope.kind(name)))


def _scope_statement(node: ast.AST, _scope: NameScope) -> Iterator[LintFinding]:
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        word = "global" if isinstance(node, ast.Global) else "nonlocal"
        yield LintFinding(
            what=f"declares `{word} {', '.join(node.names)}`",
            why="the body runs when the graph is drawn, before its tasks and again at each resume; "
            "tasks run in other processes and do not see what it sets",
            fix="pass the value to the tasks as an argument, and return the new value",
            line=node.lineno,
        )


def _shown(tree: ast.AST) -> str:
    text = ast.unparse(tree)
    return f"`{text}`" if len(text) <= 40 else "it"


_RULES: tuple[Callable[[ast.AST, NameScope], Iterator[LintFinding]], ...] = (
    _identity,
    _probe,
    _match,
    _except,
    _change,
    _capture,
    _scope_statement,
)
