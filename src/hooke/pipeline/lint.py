"""Reads a pipeline's body for what no promise can catch, because Python never asks the promise.

`x is None` and `isinstance(x, ...)` silently take one branch; `except` around a call of a task never sees the
task's error; a lambda carries a promise to where it cannot be replaced by the value.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import FunctionType
from typing import Any, TypeAlias

from hooke.base.errors import TraceError
from hooke.base.user_code import SourceLine, shorten_path
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import Task

__all__ = ["Env", "ExpressionKind", "Flow", "LintFinding", "OuterNames", "lint", "read_body"]


# --- Which expressions of a pipeline's body are results of tasks, found by reading the body, not by running it.


class ExpressionKind(Enum):
    """What an expression is known to be."""

    RESULT = "the result of a task, or a part of it"
    MAP = "the list of results that .map gives"
    LISTED = "a plain list, tuple or set of results"


Env: TypeAlias = dict[str, ExpressionKind]


class OuterNames:
    """What the names in a function refer to that are not its own variables."""

    def __init__(self, function: FunctionType) -> None:
        code = function.__code__
        self._own = {*code.co_varnames, *code.co_cellvars}
        self._known = {**vars(builtins), **function.__globals__}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._known[name] = cell.cell_contents
            except ValueError:  # a name that is given its value later
                self._own.add(name)

    def object_at(self, tree: ast.expr) -> object:
        """The object that a name or a dotted name refers to; None where that is not known."""
        if isinstance(tree, ast.Name):
            return None if tree.id in self._own else self._known.get(tree.id)
        if isinstance(tree, ast.Attribute) and (owner := self.object_at(tree.value)) is not None:
            found = inspect.getattr_static(owner, tree.attr, None)
            return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        return None

    def called_task(self, tree: ast.expr) -> Task[..., Any] | None:
        """The task that an expression calls or maps."""
        if not isinstance(tree, ast.Call):
            return None
        found = self.object_at(tree.func)
        return found if isinstance(found, Task) else self._mapped_task(tree)

    def is_map(self, tree: ast.Call) -> bool:
        """Whether a call is one of `task.map`."""
        return self._mapped_task(tree) is not None

    def _mapped_task(self, tree: ast.Call) -> Task[..., Any] | None:
        if not isinstance(tree.func, ast.Attribute) or tree.func.attr != "map":
            return None
        found = self.object_at(tree.func.value)
        return found if isinstance(found, Task) else None


Observe: TypeAlias = Callable[[ast.AST, "Flow"], None]


class Flow:
    """Walks a body in the order in which it runs. `observe` sees each statement and expression, with the kinds then."""

    def __init__(self, names: OuterNames, observe: Observe) -> None:
        self.names = names
        self.env: Env = {}
        self.local_functions: Mapping[str, ast.FunctionDef] = {}
        """Functions defined in the body, by name."""
        self._observe = observe
        self._is_quiet = False

    def kind(self, tree: ast.AST | None) -> ExpressionKind | None:
        """What an expression is known to be."""
        match tree:
            case ast.Name():
                return self.env.get(tree.id)
            case ast.Call() if self.names.called_task(tree) is not None:
                return ExpressionKind.MAP if self.names.is_map(tree) else ExpressionKind.RESULT
            case ast.Subscript():
                return self._kind_of_part(tree)
            case ast.List() | ast.Tuple() | ast.Set():
                is_listed = tree.elts and all(self.kind(item) is ExpressionKind.RESULT for item in tree.elts)
                return ExpressionKind.LISTED if is_listed else None
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self._kind_of_comprehension(tree)
            case ast.IfExp():
                return self.kind(tree.body) if self.kind(tree.body) is self.kind(tree.orelse) else None
            case ast.NamedExpr() | ast.Starred():
                return self.kind(tree.value)
            case _:
                return None

    def walk(self, body: Sequence[ast.stmt]) -> bool:
        """Walk statements. Returns whether what follows them can be reached."""
        return all(self._step(statement) for statement in body)  # stops at the first `return` or `raise`

    # -- expressions -------------------------------------------------------------------------------

    def _kind_of_part(self, tree: ast.Subscript) -> ExpressionKind | None:
        whole = self.kind(tree.value)
        if whole in {ExpressionKind.MAP, ExpressionKind.LISTED}:
            return ExpressionKind.LISTED if isinstance(tree.slice, ast.Slice) else ExpressionKind.RESULT
        return whole

    def _kind_of_comprehension(
        self, tree: ast.ListComp | ast.SetComp | ast.GeneratorExp
    ) -> ExpressionKind | None:
        saved = dict(self.env)
        self._bind_generators(tree.generators)
        element = self.kind(tree.elt)
        self.env = saved
        return ExpressionKind.LISTED if element is ExpressionKind.RESULT else None

    def _bind_generators(self, generators: Iterable[ast.comprehension]) -> None:
        for generator in generators:
            self._bind_items(generator.target, generator.iter)

    def _see(self, tree: ast.AST) -> None:
        """Show an expression and those inside it to the observer; a lambda's body runs elsewhere."""
        if not self._is_quiet:
            self._observe(tree, self)
        if isinstance(tree, ast.Lambda):
            return
        saved = dict(self.env)
        if isinstance(tree, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            self._bind_generators(tree.generators)
        for inner in ast.iter_child_nodes(tree):
            self._see(inner)
        self.env = saved
        if isinstance(tree, ast.NamedExpr):
            self._bind(tree.target, self.kind(tree.value))

    # -- names -------------------------------------------------------------------------------------

    def _bind(self, target: ast.expr, kind: ExpressionKind | None) -> None:
        match target:
            case ast.Name():
                self.env.pop(target.id, None)
                if kind is not None:
                    self.env[target.id] = kind
            case ast.Tuple() | ast.List():
                item = None if kind is None else ExpressionKind.RESULT
                for element in target.elts:
                    self._bind(element, item)
            case ast.Starred():
                self._bind(target.value, kind and ExpressionKind.LISTED)
            case _:
                pass

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
        values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
        if (
            parts
            and len(parts) == len(values)
            and not any(isinstance(p, ast.Starred) for p in parts + values)
        ):
            for part, kind in zip(parts, [self.kind(item) for item in values], strict=True):
                self._bind(part, kind)
        else:
            self._bind(target, self.kind(value))

    def _bind_items(self, target: ast.expr, iterable: ast.expr) -> None:
        """Bind the target of a loop over `iterable`."""
        function = self.names.object_at(iterable.func) if isinstance(iterable, ast.Call) else None
        parts = target.elts if isinstance(target, ast.Tuple) else []
        if isinstance(iterable, ast.Call) and function in {zip, enumerate} and parts:
            columns = list(iterable.args) if function is zip else [None, *iterable.args[:1]]
            for part, column in zip(parts, columns, strict=False):
                self._bind(part, None if self.kind(column) is None else ExpressionKind.RESULT)
        else:
            self._bind(target, None if self.kind(iterable) is None else ExpressionKind.RESULT)

    # -- statements --------------------------------------------------------------------------------

    def _step(self, statement: ast.stmt) -> bool:
        if not self._is_quiet:
            self._observe(statement, self)
        match statement:
            case ast.If():
                self._see(statement.test)
                goes_on = self._branches([statement.body, statement.orelse])
            case ast.For() | ast.While():
                goes_on = self._loop(statement)
            case ast.Try() | ast.TryStar():
                goes_on = self._try(statement)
            case ast.With():
                goes_on = self._with(statement)
            case ast.Match():
                self._see(statement.subject)
                goes_on = self._branches([*(case.body for case in statement.cases), []])
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.env.pop(statement.name, None)
                goes_on = True
            case _:
                goes_on = self._simple(statement)
        return goes_on

    def _with(self, statement: ast.With) -> bool:
        for item in statement.items:
            self._see(item)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, None)
        return self.walk(statement.body)

    def _simple(self, statement: ast.stmt) -> bool:
        for inner in ast.iter_child_nodes(statement):
            self._see(inner)
        match statement:
            case ast.Assign():
                for target in statement.targets:
                    self._assign(target, statement.value)
            case ast.AnnAssign() if statement.value is not None:
                self._assign(statement.target, statement.value)
            case ast.AugAssign():
                self._bind(statement.target, None)
            case ast.Return() | ast.Raise() | ast.Continue() | ast.Break():
                return False
            case _:
                pass
        return True

    def _branches(self, bodies: Iterable[Sequence[ast.stmt]]) -> bool:
        """Walk ways of which one is taken; afterwards a name is what it is on all that go on."""
        before = self.env
        ends: list[Env] = []
        for body in bodies:
            self.env = dict(before)
            if self.walk(body):
                ends.append(self.env)
        self.env = _meet(ends)
        return bool(ends)

    def _loop(self, loop: ast.For | ast.While) -> bool:
        self._see(loop.test if isinstance(loop, ast.While) else loop.iter)
        before = dict(self.env)
        was_quiet, self._is_quiet = self._is_quiet, True
        self._loop_body(loop)
        self._is_quiet = was_quiet
        self.env = _meet([before, self.env])
        start = dict(self.env)
        self._loop_body(loop)
        self.env = _meet([start, self.env])
        return self.walk(loop.orelse)

    def _loop_body(self, loop: ast.For | ast.While) -> None:
        if not isinstance(loop, ast.While):
            self._bind_items(loop.target, loop.iter)
        self.walk(loop.body)

    def _try(self, statement: ast.Try | ast.TryStar) -> bool:
        before = dict(self.env)
        goes_on = self.walk([*statement.body, *statement.orelse])
        ends = [self.env] if goes_on else []
        for handler in statement.handlers:
            self.env = _meet([before, self.env])
            if self.walk(handler.body):
                ends.append(self.env)
        self.env = _meet(ends or [before])
        return self.walk(statement.finalbody) and bool(ends)


def _meet(ends: Sequence[Env]) -> Env:
    """What is so in all of them."""
    if not ends:
        return {}
    first, *others = ends
    return {name: kind for name, kind in first.items() if all(end.get(name) is kind for end in others)}


_PROBES = frozenset({isinstance, type, id, callable, hasattr, getattr})
"""Builtins that ask about an object without asking the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """Something in a body that would go wrong in silence."""

    what: str
    why: str
    fix: str
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
        where=str(SourceLine(file, start + first.line - 1, lines[first.line - 1].strip())),
        why=first.why + also,
        fix=first.fix,
    )


def read_body(function: FunctionType, source: str) -> list[LintFinding]:
    """The findings in `function`, whose source is `source`, by line."""
    try:
        tree = ast.parse(textwrap.dedent(source)).body[0]
    except (SyntaxError, IndexError):  # a lambda's lines, say, that are no statement by themselves
        return []
    if not isinstance(tree, ast.FunctionDef):
        return []
    findings: list[LintFinding] = []
    flow = Flow(OuterNames(function), lambda node, flow: findings.extend(_findings(node, flow)))
    flow.local_functions = _local_functions(tree)
    flow.walk(tree.body)
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.line)


def _source(function: FunctionType) -> tuple[list[str], int] | None:
    try:
        return inspect.getsourcelines(function)
    except (OSError, TypeError):
        return None


def _findings(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    for rule in _RULES:
        yield from rule(node, flow)


def _identity(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    if not isinstance(node, ast.Compare):
        return
    sides = [node.left, *node.comparators]
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        guilty = next((side for side in (left, right) if flow.kind(side) is ExpressionKind.RESULT), None)
        if isinstance(operator, (ast.Is, ast.IsNot)) and guilty is not None:
            sign = "is" if isinstance(operator, ast.Is) else "is not"
            yield LintFinding(
                what=f"asks `{ast.unparse(node)}` of a task's result, which does not exist yet",
                why=f"`{sign}` sees the promise that stands for {_shown(guilty)}, and always answers the same",
                fix="test it inside the task that uses it",
                line=node.lineno,
            )


def _probe(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    if not isinstance(node, ast.Call) or not node.args:
        return
    function = flow.names.object_at(node.func)
    if not inspect.isroutine(function) and not isinstance(function, type):
        return
    if function in _PROBES and flow.kind(node.args[0]) in {ExpressionKind.RESULT, ExpressionKind.MAP}:
        name = ast.unparse(node.func)
        yield LintFinding(
            what=f"asks {name}() about a task's result, which does not exist yet",
            why=f"{name}() sees the promise that stands for {_shown(node.args[0])}, not the value",
            fix="ask inside the task that uses it; what is known of it beforehand goes into the pipeline's parameters",
            line=node.lineno,
        )


def _match(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    if isinstance(node, ast.Match) and flow.kind(node.subject) in {ExpressionKind.RESULT, ExpressionKind.MAP}:
        yield LintFinding(
            what="matches a task's result, which does not exist yet",
            why=f"`match` sees the promise that stands for {_shown(node.subject)}, not the value",
            fix="put the `match` inside a task",
            line=node.lineno,
        )


def _except(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    if not isinstance(node, (ast.Try, ast.TryStar)) or not node.handlers:
        return
    for call in _outer_nodes(node.body):
        if isinstance(call, ast.Call) and (task := flow.names.called_task(call)) is not None:
            yield LintFinding(
                what=f"calls task {task.name!r} inside try/except",
                why="in a run the task runs later and elsewhere, so `except` here never sees its error",
                fix="put the try/except inside the task, or move the call out of the `try` (into its `else:`)",
                line=call.lineno,
            )


def _change(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    if not isinstance(node, (ast.Subscript, ast.Attribute)) or isinstance(node.ctx, ast.Load):
        return
    if flow.kind(node.value) in {ExpressionKind.RESULT, ExpressionKind.MAP}:
        yield LintFinding(
            what=f"changes a task's result, which does not exist yet: `{ast.unparse(node)}`",
            why=f"{_shown(node.value)} is a promise here; there is nothing to change",
            fix="return the changed value from a task",
            line=node.lineno,
        )


def _capture(node: ast.AST, flow: Flow) -> Iterator[LintFinding]:
    if not isinstance(node, ast.Call) or (task := flow.names.called_task(node)) is None:
        return
    for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
        for name in _captured(argument, flow):
            yield LintFinding(
                what=f"hands task {task.name!r} a function that captures {name!r}, a task's result",
                why="a function carries its variables along as they are: a promise in it never becomes the value",
                fix=f"pass {name!r} to the task as an argument of its own",
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


def _scope(node: ast.AST, _flow: Flow) -> Iterator[LintFinding]:
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        word = "global" if isinstance(node, ast.Global) else "nonlocal"
        yield LintFinding(
            what=f"declares `{word} {', '.join(node.names)}`",
            why="the body runs when the graph is drawn, before its tasks and again at each resume; "
            "tasks run in other processes and do not see what it sets",
            fix="pass the value to the tasks as an argument, and return what should come out",
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


_RULES: tuple[Callable[[ast.AST, Flow], Iterator[LintFinding]], ...] = (
    _identity,
    _probe,
    _match,
    _except,
    _change,
    _capture,
    _scope,
)
