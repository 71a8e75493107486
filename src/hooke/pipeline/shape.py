"""The shape of a result that is known from an annotation: how many parts a fixed-length tuple has."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeAlias, get_args, get_origin

__all__ = ["Shape", "result_shape"]

Shape: TypeAlias = tuple["Shape | None", ...]
"""One entry a part; the entry is the shape of that part, or None where it is no fixed-length tuple."""


def result_shape(function: Callable[..., Any]) -> Shape | None:
    """The shape of what `function` returns, by its annotation: `tuple[A, B]` or a NamedTuple; else None."""
    annotations = getattr(inspect.unwrap(function), "__annotations__", None)
    annotation = annotations.get("return") if isinstance(annotations, dict) else None
    if isinstance(annotation, str):
        return _of_text(annotation, _namespace(function))
    return _of_type(annotation)


def _of_type(annotation: Any) -> Shape | None:
    if get_origin(annotation) is tuple:
        parts = get_args(annotation)
        return None if Ellipsis in parts else tuple(map(_of_type, parts))
    if isinstance(annotation, str):
        return _of_text(annotation, {})
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        hints = getattr(annotation, "__annotations__", {})
        return tuple(_of_type(hints.get(name)) for name in annotation._fields)
    return None


def _of_text(annotation: str, namespace: dict[str, Any]) -> Shape | None:
    """Read by its syntax, since the names in it may exist for type checkers only."""
    try:
        tree = ast.parse(annotation.strip(), mode="eval").body
    except SyntaxError:
        return None
    return _of_tree(tree, namespace)


def _of_tree(tree: ast.expr, namespace: dict[str, Any]) -> Shape | None:
    if isinstance(tree, ast.Subscript) and _last_name(tree.value) in {"tuple", "Tuple"}:
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        if any(isinstance(part, ast.Constant) and part.value is Ellipsis for part in parts):
            return None
        return tuple(_of_tree(part, namespace) for part in parts)
    if isinstance(tree, ast.Name):
        return _of_type(namespace.get(tree.id))
    return None


def _last_name(tree: ast.expr) -> str:
    return tree.attr if isinstance(tree, ast.Attribute) else getattr(tree, "id", "")


def _namespace(function: Callable[..., Any]) -> dict[str, Any]:
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    own = getattr(inspect.unwrap(function), "__globals__", None)
    return own if own is not None else getattr(module, "__dict__", {})
