"""The functions of a pipeline's tasks as source without Hooke: for files that call them directly.

A task's function is copied without its decorator, with what it uses of its module. What it uses of a module that does not import Hooke
is imported from there. A use of Hooke itself, and code that a module runs when it is imported, are refused.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator, Sequence
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

import msgspec

from hooke.base.syntax import parse_python
from hooke.base.user_code import is_users
from hooke.exporters.plan import ExportPlan, Refusal, Step
from hooke.exporters.source import Writer, project_line
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import BoundTask, Task

__all__ = ["PlainSource"]

_OURS = "hooke"
_OWN_NAMES = frozenset({"dag", "exported", "flow", "main", "not_none", "params", "retry", "task"})
"""Names that exported files have themselves."""
_FIX = "export by reference (without --plain), or keep Hooke out of the task"


class _Module(msgspec.Struct, kw_only=True):
    """The source of a module of the user's, by the names that its top level binds."""

    module: ModuleType
    text: str
    statements: list[ast.stmt]
    binds: dict[str, ast.stmt]

    @property
    def name(self) -> str:
        return self.module.__name__

    def line(self, node: ast.AST) -> str:
        return f"{Path(self.module.__file__ or '').name}:{getattr(node, 'lineno', 0)}"


class PlainSource:
    """Collects what the functions of a plan need: definitions to copy and imports, in the order of their modules."""

    def __init__(self, plan: ExportPlan) -> None:
        self.refusals: list[Refusal] = []
        self._modules: dict[str, _Module | None] = {}
        self._with_hooke: dict[str, bool] = {}
        self._taken: dict[tuple[str, int], ast.stmt] = {}
        self._owners: dict[str, str] = {}
        self._imports: dict[str, None] = {}
        self._folders: dict[Path, None] = {}
        self._seen: set[tuple[str, str]] = set()
        writer = Writer(plan)
        for step in plan.steps:
            if step.entry is not None:
                self._take_task(step, step.entry.task)
            writer.value([step.arguments, step.columns])
        for module, name in sorted(writer.classes):
            self._need(module, name)
        self._root = plan.root

    @property
    def functions(self) -> frozenset[str]:
        """The names that the copied and the imported definitions have."""
        return frozenset(name for _, name in self._seen)

    def head(self, plan: ExportPlan, out: Path, imports: Sequence[str] = ()) -> str:
        """The beginning of a file: imports, with these, and the definitions."""
        first = [
            *imports,
            *(["import os", "import sys", "from pathlib import Path"] if self._folders else []),
        ]
        paths = [f"sys.path.insert(0, str({self._below(folder)}))" for folder in self._folders]
        own = [project_line(plan, out), *paths] if paths else []
        lines = "\n".join(sorted(set(first), key=_import_order)) + "\n" if first else ""
        between = "\n" + "\n".join(own) + "\n\n" if own else ""
        return f"{self._future()}{lines}{between}{self._import_lines()}{self._definitions()}"

    def _future(self) -> str:
        """Annotations stay text where the modules have them so."""
        sources = [self._module(owner) for owner, _ in self._taken]
        later = any(isinstance(each.binds.get("annotations"), ast.ImportFrom) for each in sources if each)
        return "from __future__ import annotations\n\n" if later else ""

    def _below(self, folder: Path) -> str:
        below = folder.relative_to(self._root).as_posix() if folder.is_relative_to(self._root) else ""
        if not below:
            return repr(str(folder))
        return "PROJECT" if below == "." else f'PROJECT / "{below}"'

    def _need(self, module: str, name: str) -> None:
        """A class that constants are made of."""
        if module.partition(".")[0] == _OURS:
            self._refuse(f"a constant is a hooke.{name}", "give its path as pathlib.Path", "")
        else:
            self._take(module, name.partition(".")[0])

    def _import_lines(self) -> str:
        return "".join(f"{line}\n" for line in sorted(self._imports, key=_import_order))

    def _definitions(self) -> str:
        """The copied definitions, in the order in which their modules have them."""
        parts: list[str] = []
        for name in self._order():
            module = self._modules[name]
            assert module is not None
            taken = [stmt for (owner, _), stmt in self._taken.items() if owner == name]
            parts += [_text(module, stmt) for stmt in sorted(taken, key=lambda each: each.lineno)]
        return _spaced(parts)

    # -- what is needed

    def _take_task(self, step: Step, task: Task[..., object]) -> None:
        function = inspect.unwrap(task.function)
        odd = [each.name for each in task.signature.parameters.values() if each.kind in _ODD]
        if isinstance(task, BoundTask) or "." in getattr(function, "__qualname__", "."):
            self._refuse(
                f"{step.name}: its function is not at the top of a module",
                "a method or an inner function has no source of its own",
                "",
            )
        elif odd:
            self._refuse(
                f"{step.name}: its parameter {odd[0]} has no name to be given by",
                "it is positional only, or * or **",
                "",
            )
        else:
            self._take(function.__module__, function.__name__, of=step.name)

    def _take(self, module: str, name: str, *, of: str = "") -> None:
        """The name of a module, by copying or by importing it."""
        if (module, name) in self._seen:
            return
        self._seen.add((module, name))
        source = self._module(module) if self._has_hooke(module) else None
        if source is None:
            self._import(module, name)
            return
        stmt = source.binds.get(name)
        if stmt is None:
            self._refuse(
                f"{module}.{name} is not defined at the top of its module", "its source is not found", ""
            )
        elif isinstance(stmt, ast.Import | ast.ImportFrom):
            self._take_imported(source, stmt, name, of=of)
        elif name in _OWN_NAMES:
            self._refuse(
                f"{of or name} uses {name} of {module}", "the file has a name of its own like it", "rename it"
            )
        elif self._owners.setdefault(name, module) != module:
            self._refuse(
                f"{name} is defined in {module} and in {self._owners[name]}",
                "one file has one of each name",
                "rename one",
            )
        else:
            self._copy(source, stmt, of=of or name)

    def _copy(self, source: _Module, stmt: ast.stmt, *, of: str) -> None:
        self._taken[source.name, stmt.lineno] = stmt
        self._refuse_side_effects(source)
        for node, name in _names_in(source, stmt):
            value = getattr(source.module, name, None)
            if isinstance(value, (Task, Pipeline)) and _is_asked(stmt, name):
                self._refuse(
                    f"{of} uses {name}.map or the like ({source.line(node)})",
                    "without Hooke it is a function",
                    "loop in the task",
                )
            self._take(source.name, name, of=of)

    def _take_imported(
        self, source: _Module, stmt: ast.Import | ast.ImportFrom, name: str, *, of: str
    ) -> None:
        alias = next(each for each in stmt.names if (each.asname or each.name.partition(".")[0]) == name)
        module = alias.name if isinstance(stmt, ast.Import) else _origin(source, stmt)
        if module.partition(".")[0] == _OURS:
            self._refuse(
                f"{of} uses {alias.name if alias.name == _OURS else f'hooke.{alias.name}'} ({source.line(stmt)})",
                "the file is to run without Hooke",
                _FIX,
            )
        elif isinstance(stmt, ast.ImportFrom):
            if self._has_hooke(module) and alias.asname in (None, alias.name):
                self._take(module, alias.name, of=of)
            elif self._has_hooke(module):
                self._refuse(
                    f"{of} imports {alias.name} under another name ({source.line(stmt)})",
                    f"{module} imports Hooke",
                    "import it under its own name",
                )
            else:
                self._import(module, alias.name, alias.asname)
        elif self._has_hooke(module):
            self._refuse(
                f"{of} uses the module {module} ({source.line(stmt)})",
                "it imports Hooke",
                f"import names from it: from {module} import ...",
            )
        else:
            self._imports[f"import {alias.name}{f' as {alias.asname}' if alias.asname else ''}"] = None
            self._note_folder(module)

    def _import(self, module: str, name: str, asname: str | None = None) -> None:
        self._imports[
            f"from {module} import {name}{f' as {asname}' if asname and asname != name else ''}"
        ] = None
        self._note_folder(module)

    def _note_folder(self, module: str) -> None:
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is not None and is_users(file):
            depth = module.count(".") + (Path(file).name == "__init__.py")
            self._folders[Path(file).resolve().parents[depth]] = None

    def _refuse_side_effects(self, source: _Module) -> None:
        for stmt in source.statements:
            text = isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant)
            if isinstance(stmt, ast.Expr | ast.For | ast.While | ast.With) and not text:
                self._refuse(
                    f"{source.name} runs code when it is imported ({source.line(stmt)})",
                    "only definitions are copied",
                    "move it into a function",
                )

    # -- modules

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            self._modules[name] = _read(sys.modules.get(name))
        return self._modules[name]

    def _has_hooke(self, name: str) -> bool:
        """Whether a module of the user's imports Hooke, itself or through others of the user's."""
        if name not in self._with_hooke:
            self._with_hooke[name] = False  # for modules that import one another
            source = self._module(name)
            self._with_hooke[name] = source is not None and any(
                each.partition(".")[0] == _OURS or self._has_hooke(each) for each in _imported_by(source)
            )
        return self._with_hooke[name]

    def _order(self) -> list[str]:
        """Modules with copied definitions, each after those that it imports."""
        found: dict[str, None] = {}

        def visit(name: str) -> None:
            source = self._module(name)
            if source is None or name in found or name in visiting:
                return
            visiting.add(name)
            for each in _imported_by(source):
                visit(each)
            found[name] = None

        visiting: set[str] = set()
        owners = list(dict.fromkeys(owner for owner, _ in self._taken))
        for name in owners:
            visit(name)
        return [name for name in found if name in owners]

    def _refuse(self, what: str, why: str, fix: str) -> None:
        made = Refusal(what=what, why=why, fix=fix or _FIX)
        if made not in self.refusals:
            self.refusals.append(made)


_ODD = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _read(module: ModuleType | None) -> _Module | None:
    file = getattr(module, "__file__", None)
    if module is None or file is None or not file.endswith(".py") or not is_users(file):
        return None
    text = Path(file).read_text(encoding="utf-8")
    statements = parse_python(text).body
    binds: dict[str, ast.stmt] = {}
    for stmt in statements:
        for name in _bound_by(stmt):
            binds[name] = stmt
    return _Module(module=module, text=text, statements=statements, binds=binds)


def _bound_by(stmt: ast.stmt) -> Iterator[str]:
    """The names that a statement of the top level binds."""
    match stmt:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield stmt.name
        case ast.Import() | ast.ImportFrom():
            yield from (each.asname or each.name.partition(".")[0] for each in stmt.names)
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return
        case _:
            for node in ast.walk(stmt):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.Import | ast.ImportFrom):
                    yield from (each.asname or each.name.partition(".")[0] for each in node.names)


def _imported_by(source: _Module) -> Iterator[str]:
    """The modules that a module's import statements name, wherever they are in it."""
    for stmt in source.statements:
        for node in ast.walk(stmt):
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = _origin(source, node)
                yield module
                yield from (f"{module}.{each.name}" for each in node.names)


def _origin(source: _Module, stmt: ast.ImportFrom) -> str:
    """The module of `from ... import`, also of a relative one."""
    if not stmt.level:
        return stmt.module or ""
    return resolve_name("." * stmt.level + (stmt.module or ""), str(vars(source.module)["__package__"]))


def _names_in(source: _Module, stmt: ast.stmt) -> Iterator[tuple[ast.AST, str]]:
    """The names of the module's top level that a definition uses, but for the decorators of Hooke."""
    ours = {id(part) for each in _decorators(stmt) if _is_ours(source, each) for part in ast.walk(each)}
    for node in ast.walk(stmt):
        if isinstance(node, ast.Name) and id(node) not in ours and isinstance(node.ctx, ast.Load):
            in_module = node.id in source.binds and source.binds[node.id] is not stmt
            if in_module and not (hasattr(builtins, node.id) and node.id not in source.binds):
                yield node, node.id


def _decorators(stmt: ast.stmt) -> list[ast.expr]:
    return (
        stmt.decorator_list if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
    )


def _is_ours(source: _Module, decorator: ast.expr) -> bool:
    """Whether a decorator is `@task` or `@pipeline`, as a name or by the module hooke."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(called, ast.Attribute):
        called = called.value
    stmt = source.binds.get(called.id) if isinstance(called, ast.Name) else None
    if isinstance(stmt, ast.ImportFrom):
        return (stmt.module or "").partition(".")[0] == _OURS
    return isinstance(stmt, ast.Import) and any(each.name == _OURS for each in stmt.names)


def _is_asked(stmt: ast.stmt, name: str) -> bool:
    """Whether an attribute of the name is read in the statement: a task has some that its function lacks."""
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
        for node in ast.walk(stmt)
    )


def _text(module: _Module, stmt: ast.stmt) -> str:
    """The source of a definition, without the decorators of Hooke."""
    body = ast.get_source_segment(module.text, stmt) or ast.unparse(stmt)
    kept = [each for each in _decorators(stmt) if not _is_ours(module, each)]
    above = "".join(f"@{ast.get_source_segment(module.text, each)}\n" for each in kept)
    return f"{above}{body}\n"


def _spaced(parts: Sequence[str]) -> str:
    """Definitions with the blank lines that people leave between them."""
    text = ""
    for part in parts:
        is_block = "\n" in part.rstrip("\n") or part.startswith(("def ", "class ", "@"))
        text += ("\n\n" if is_block or text.endswith("\n\n\n") else "") + part
    return text


def _import_order(line: str) -> tuple[int, str]:
    module = line.split()[1].partition(".")[0]
    return (0 if module in sys.stdlib_module_names else 1), line
