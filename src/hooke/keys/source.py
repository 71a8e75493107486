"""Normalised source, for people to read: no docstrings, comments or layout. Keys never depend on it."""

from __future__ import annotations

import ast
import functools
import linecache
import types
from weakref import WeakKeyDictionary

from hooke.keys.bytecode import listing

__all__ = ["class_source", "code_source", "module_code"]

_TEXTS: WeakKeyDictionary[types.CodeType, str] = WeakKeyDictionary()
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def code_source(code: types.CodeType) -> str:
    """The source of a function's code, or its instructions where no source can be found."""
    known = _TEXTS.get(code)
    if known is None:
        known = _TEXTS[code] = _definition(
            code.co_filename, code.co_firstlineno, code.co_name
        ) or _instructions(code)
    return known


def class_source(file: str, name: str) -> str:
    """The source of a class by its qualified name; empty if it cannot be found."""
    parts = [part for part in name.split(".") if part != "<locals>"]
    body: list[ast.stmt] = list(_tree(file).body)
    found: ast.AST | None = None
    for part in parts:
        found = next((node for node in body if getattr(node, "name", None) == part), None)
        body = getattr(found, "body", [])
    return _unparse(found) if isinstance(found, ast.ClassDef) else ""


def module_code(file: str) -> types.CodeType | None:
    """The compiled source of a module's file as it is on disk now; None if it cannot be read or compiled."""
    try:
        return compile("".join(linecache.getlines(file)), file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


def _definition(file: str, line: int, name: str) -> str:
    found = _definitions(file, len(linecache.getlines(file))).get((line, name))
    return _unparse(found) if found is not None else ""


@functools.lru_cache(maxsize=256)
def _definitions(file: str, _lines: int) -> dict[tuple[int, str], _Definition]:
    found: dict[tuple[int, str], _Definition] = {}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Lambda):
            found.setdefault((node.lineno, "<lambda>"), node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[first, node.name] = node
    return found


def _tree(file: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _unparse(node: ast.AST) -> str:
    for each in ast.walk(node):
        body = getattr(each, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return ast.unparse(node)


def _is_docstring(statement: ast.AST) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _instructions(code: types.CodeType) -> str:
    return "\n".join(
        f"{i.op} {i.value!r}" if not isinstance(i.value, types.CodeType) else f"{i.op} {i.value.co_name}"
        for i in listing(code).instructions
    )
