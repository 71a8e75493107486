"""Edits of a source file that plant one fault each: a kind, the bytes to replace, and the text in their place.

Edits go by the positions of the syntax tree, so all other bytes of the file stay the same. Left out are places whose change no caller
can notice: docstrings, annotations, f-strings, what is raised, logged or asserted, `__repr__`, `TYPE_CHECKING`, and branches for other
systems than Linux.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["KINDS", "Fault", "find_faults", "plant"]

OFF_BY_ONE, CONDITION, AWAIT = "off by one", "swapped condition", "dropped await"
LOCK, FSYNC, UNIT, STATEMENT = "lost lock", "forgotten fsync", "wrong unit", "dropped statement"
KINDS = (OFF_BY_ONE, CONDITION, AWAIT, LOCK, FSYNC, UNIT, STATEMENT)

NO_LOCK = '__import__("contextlib").nullcontext()'
LOCK_NAME = re.compile(r"(^|_)(lock|locked|locks|mutex)(_|$)")
REAL = re.compile(
    r"\bnow\b|time|deadline|until|since|elapsed|begun|clock|random|\bat\b|_s\b|_at\b", re.IGNORECASE
)
"""A moment or a random number is almost never equal to another, so `<` and `<=` are the same for it."""
ORDER = {ast.Lt: (b"<", "<="), ast.LtE: (b"<=", "<"), ast.Gt: (b">", ">="), ast.GtE: (b">=", ">")}
UNITS: dict[float, dict[type, str]] = {
    1e9: {int: "1_000_000", float: "1e6"},
    1e6: {int: "1_000", float: "1e3"},
    1e3: {int: "1", float: "1.0"},
    86400: {int: "3600", float: "3600.0"},
    3600: {int: "60", float: "60.0"},
    60: {int: "1", float: "1.0"},
    1024: {int: "1", float: "1.0"},
}
"""A factor, and the one in its place: a unit too small."""
SHIFTS = {10: "20", 20: "10", 30: "20", 40: "30"}
SCALED = re.compile(r"_(S|MS|NS|MINUTES|HOURS|BYTES|KB|MB|GB)$")
WAITS = frozenset(
    {
        "acquire",
        "get",
        "join",
        "poll",
        "result",
        "select",
        "settimeout",
        "sleep",
        "timeout",
        "wait",
        "wait_for",
    }
)
LOGS = frozenset(
    {"critical", "debug", "echo", "error", "exception", "info", "log", "print", "secho", "warn", "warning"}
)
CLEANING = frozenset({"cancel", "close", "freeze", "gc", "join", "sleep", "terminate"})
"""Calls that no answer depends on, if they are dropped: they give something back, or only wait."""

Edit = tuple[ast.AST, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Bytes `start` to `stop` of a file, and `text` in their place. `name` is the same as long as the changed line is."""

    path: str
    kind: str
    operator: str
    line: int
    start: int
    stop: int
    text: str
    name: str
    change: str


def plant(source: bytes, fault: Fault) -> bytes:
    """The source with the fault in it."""
    return source[: fault.start] + fault.text.encode() + source[fault.stop :]


def find_faults(source: bytes, path: str) -> list[Fault]:
    """All faults that the operators can plant into a file, in the order of the file."""
    finder = _Finder(source=source, path=path)
    finder.walk(finder.tree, ())
    return sorted(finder.faults, key=lambda each: (each.start, each.stop, each.operator))


# --- The operators. Each yields what it replaces of a node, and by which text.


@dataclass(slots=True)
class _Source:
    """A file's bytes with the offsets of its lines."""

    bytes: bytes
    tree: ast.Module
    lines: list[int]

    def start(self, node: ast.AST) -> int:
        return self.lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def stop(self, node: ast.AST) -> int:
        return self.lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        return self.bytes[self.start(node) : self.stop(node)].decode()


Spans = Iterator[tuple[int, int, str]]


def _move_bound(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in ORDER:
            written, other = ORDER[type(op)]
            span = source.stop(left), source.start(right)
            if source.bytes[slice(*span)].strip() == written and not REAL.search(source.text(node)):
                yield *span, f" {other} "


def _drop_one(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.BinOp(op=ast.Add() | ast.Sub(), right=ast.Constant(value=1) as one):
            yield source.start(one), source.stop(one), "0"


def _shorten_range(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Call(func=ast.Name(id="range"), args=[stop] | [_, stop] | [_, stop, _]):
            yield source.start(stop), source.stop(stop), f"({source.text(stop)}) - 1"


def _shift_slice(node: ast.AST, source: _Source) -> Spans:
    if isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper):
            if bound is not None:
                sign = "-" if isinstance(bound, ast.UnaryOp) else "+"
                yield source.start(bound), source.stop(bound), f"({source.text(bound)}) {sign} 1"


def _negate(node: ast.AST, source: _Source) -> Spans:
    tests: list[ast.expr] = []
    match node:
        case ast.If(test=test) | ast.IfExp(test=test):
            tests = [test]
        case ast.comprehension(ifs=ifs):
            tests = list(ifs)
    for test in tests:
        if _is_never(test) or _is_always(test) or any(_invert_none(test, source)):
            continue  # it is always so on Linux, or the other operator's
        inner = test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else None
        text = f"({source.text(inner)})" if inner else f"(not ({source.text(test)}))"
        yield source.start(test), source.stop(test), text


def _swap_and_or(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.BoolOp(op=op, values=[left, right]):
            word, other = (b"and", " or ") if isinstance(op, ast.And) else (b"or", " and ")
            span = source.stop(left), source.start(right)
            if source.bytes[slice(*span)].strip() == word:
                yield *span, other


def _invert_none(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Compare(
            left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None) as none]
        ):
            span = source.stop(left), source.start(none)
            other = " is not " if isinstance(op, ast.Is) else " is "
            if b"is" in source.bytes[slice(*span)].split():
                yield *span, other


def _drop_await(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Expr(value=ast.Await(value=ast.Call() as call) as awaited) if _called(call) not in CLEANING:
            yield source.start(awaited), source.start(call), ""


def _lose_lock(node: ast.AST, source: _Source) -> Spans:
    if isinstance(node, ast.With | ast.AsyncWith):
        for item in node.items:
            if item.optional_vars is None and LOCK_NAME.search(_last_name(item.context_expr)):
                yield source.start(item.context_expr), source.stop(item.context_expr), NO_LOCK


def _forget_fsync(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Expr(value=ast.Call() as call) if _syncs(call):
            yield source.start(call), source.stop(call), "pass"


def _mistake_unit(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.BinOp(op=ast.Mult() | ast.Div() | ast.FloorDiv(), left=left, right=right):
            for side in (left, right):
                if (
                    isinstance(side, ast.Constant)
                    and type(side.value) in (int, float)
                    and side.value in UNITS
                ):
                    yield source.start(side), source.stop(side), UNITS[side.value][type(side.value)]
        case ast.BinOp(op=ast.LShift(), right=ast.Constant(value=int(bits)) as shift) if bits in SHIFTS:
            yield source.start(shift), source.stop(shift), SHIFTS[bits]


def _scale_constant(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int() | float()) as value):
            if SCALED.search(name) and node.col_offset == 0 and not _only_waits(name, source.tree):
                yield source.start(value), source.stop(value), f"{source.text(value)} * 1000"


def _drop_call(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.Expr(value=ast.Call() as call) if not _syncs(call) and _called(
            call
        ) not in CLEANING | LOGS | {"flush"}:
            if "super()" not in source.text(call):
                yield source.start(call), source.stop(call), "pass"


def _drop_assignment(node: ast.AST, source: _Source) -> Spans:
    match node:
        case ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield source.start(node), source.stop(node), "pass"


OPERATORS: dict[str, dict[str, Callable[[ast.AST, _Source], Spans]]] = {
    OFF_BY_ONE: {"bound": _move_bound, "one": _drop_one, "range": _shorten_range, "slice": _shift_slice},
    CONDITION: {"negated": _negate, "and/or": _swap_and_or, "is None": _invert_none},
    AWAIT: {"await": _drop_await},
    LOCK: {"lock": _lose_lock},
    FSYNC: {"fsync": _forget_fsync},
    UNIT: {"factor": _mistake_unit, "constant": _scale_constant},
    STATEMENT: {"call": _drop_call, "assignment": _drop_assignment},
}


def _last_name(node: ast.AST) -> str:
    """`lock` of `self.store.lock`."""
    return getattr(node, "attr", getattr(node, "id", ""))


def _called(call: ast.Call) -> str:
    return _last_name(call.func)


def _syncs(call: ast.Call) -> bool:
    """Whether a call brings bytes to the disk, or to the system at least. The streams of a terminal are messages."""
    match call.func:
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="sys"))):
            return False
    return "fsync" in _called(call) or _called(call) in {"fdatasync", "flush"}


def _only_waits(name: str, tree: ast.Module) -> bool:
    """Whether a module uses a constant only to limit waits, or not at all."""
    limits: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = list(node.args) if _called(node) in WAITS else []
            given += [each.value for each in node.keywords if "timeout" in (each.arg or "")]
            limits |= {id(part) for each in given for part in ast.walk(each)}
    return all(
        id(node) in limits
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
    )


# --- The walk over a file.


@dataclass(slots=True)
class _Finder:
    """Applies each operator to each node that a caller can notice."""

    source: bytes
    path: str
    tree: ast.Module = field(init=False)
    faults: list[Fault] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)
    _file: _Source = field(init=False)
    _lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source)
        offsets = [0]
        for line in self.source.splitlines(keepends=True):
            offsets.append(offsets[-1] + len(line))
        self._file = _Source(self.source, self.tree, offsets)
        self._lines = self.source.decode().splitlines()

    def walk(self, node: ast.AST, scope: tuple[str, ...]) -> None:
        """Find the faults of a node and of all below it."""
        for kind, operators in OPERATORS.items():
            for operator, find in operators.items():
                for span in find(node, self._file):
                    self._add(kind, operator, scope, span)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = (*scope, node.name)
        for child in _noticed_children(node):
            if not self._is_skipped(child):
                self.walk(child, scope)

    def _is_skipped(self, node: ast.AST) -> bool:
        match node:
            case ast.JoinedStr() | ast.Raise() | ast.Assert():
                return True
            case ast.FunctionDef(name="__repr__" | "__str__" | "__dir__"):
                return True
            case ast.Call() if _called(node) in LOGS:
                return True
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                return True
            case ast.stmt():
                return "pragma: no cover" in self._lines[node.lineno - 1]
        return False

    def _add(self, kind: str, operator: str, scope: tuple[str, ...], span: tuple[int, int, str]) -> None:
        start, stop, text = span
        line = bisect_right(self._file.lines, start) - 1
        first, last = self._file.lines[line], self.source.find(b"\n", stop)
        old = " ".join(self.source[first:last].decode().split())
        new = " ".join((self.source[first:start].decode() + text + self.source[stop:last].decode()).split())
        module = self.path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        name = f"{module}:{'.'.join(scope) or 'module'}: {old} -> {new}"
        count = self._names[name] = self._names.get(name, 0) + 1
        self.faults.append(
            Fault(
                path=self.path,
                kind=kind,
                operator=operator,
                line=line + 1,
                start=start,
                stop=stop,
                text=text,
                name=name if count == 1 else f"{name} ({count})",
                change=f"{old} -> {new}",
            )
        )


def _noticed_children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one that run on Linux and are neither types nor decorators."""
    left_out = {"annotation", "returns", "decorator_list", "type_params"}
    match node:
        case ast.If(test=test) if _is_never(test):
            left_out |= {"test", "body"}
        case ast.If(test=test) if _is_always(test):
            left_out |= {"test", "orelse"}
        case ast.ExceptHandler(type=ast.Name(id="ImportError")):
            return
    for name, value in ast.iter_fields(node):
        if name not in left_out:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield child


def _is_never(test: ast.expr) -> bool:
    """Whether a test is false on Linux, in a running program that imports this file."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.Compare(left=ast.Name(id="__name__")):
            return True
        case ast.Compare(
            left=ast.Attribute(attr="platform"), ops=[op], comparators=[ast.Constant(value=system)]
        ):
            return isinstance(op, ast.Eq) != (system == "linux")
    return False


def _is_always(test: ast.expr) -> bool:
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _is_never(operand)
        case ast.Compare(
            left=ast.Attribute(attr="platform"), ops=[op], comparators=[ast.Constant(value="linux")]
        ):
            return isinstance(op, ast.Eq)
    return False
