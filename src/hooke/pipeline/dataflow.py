"""Which expressions of a pipeline's body are results of tasks, found by reading the body, not by running it.

Sure ones only: where branches meet, a name is a result if it is one on every way there. Parameters and
whatever comes from other functions are plain values.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import FunctionType
from typing import Any, TypeAlias

from hooke.pipeline.task import Task

__all__ = ["Env", "Flow", "Kind", "Names"]


class Kind(Enum):
    """What an expression is known to be."""

    RESULT = "the result of a task, or a part of it"
    MAP = "the list of results that .map gives"
    LISTED = "a plain list, tuple or set of results"


Env: TypeAlias = dict[str, Kind]


class Names:
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

    def __init__(self, names: Names, observe: Observe) -> None:
        self.names = names
        self.env: Env = {}
        self.local_functions: Mapping[str, ast.FunctionDef] = {}
        """Functions defined in the body, by name."""
        self._observe = observe
        self._is_quiet = False

    def kind(self, tree: ast.AST | None) -> Kind | None:
        """What an expression is known to be."""
        match tree:
            case ast.Name():
                return self.env.get(tree.id)
            case ast.Call() if self.names.called_task(tree) is not None:
                return Kind.MAP if self.names.is_map(tree) else Kind.RESULT
            case ast.Subscript():
                return self._kind_of_part(tree)
            case ast.List() | ast.Tuple() | ast.Set():
                is_listed = tree.elts and all(self.kind(item) is Kind.RESULT for item in tree.elts)
                return Kind.LISTED if is_listed else None
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

    def _kind_of_part(self, tree: ast.Subscript) -> Kind | None:
        whole = self.kind(tree.value)
        if whole in {Kind.MAP, Kind.LISTED}:
            return Kind.LISTED if isinstance(tree.slice, ast.Slice) else Kind.RESULT
        return whole

    def _kind_of_comprehension(self, tree: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Kind | None:
        saved = dict(self.env)
        self._bind_generators(tree.generators)
        element = self.kind(tree.elt)
        self.env = saved
        return Kind.LISTED if element is Kind.RESULT else None

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

    def _bind(self, target: ast.expr, kind: Kind | None) -> None:
        match target:
            case ast.Name():
                self.env.pop(target.id, None)
                if kind is not None:
                    self.env[target.id] = kind
            case ast.Tuple() | ast.List():
                item = None if kind is None else Kind.RESULT
                for element in target.elts:
                    self._bind(element, item)
            case ast.Starred():
                self._bind(target.value, kind and Kind.LISTED)
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
                self._bind(part, None if self.kind(column) is None else Kind.RESULT)
        else:
            self._bind(target, None if self.kind(iterable) is None else Kind.RESULT)

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
