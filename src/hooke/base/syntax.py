"""The syntax tree of Python source, also where several threads ask for one at once."""

from __future__ import annotations

import ast
from typing import Literal, overload

__all__ = ["parse_python"]

TRIES = 10


@overload
def parse_python(source: str) -> ast.Module: ...
@overload
def parse_python(source: str, mode: Literal["eval"]) -> ast.Expression: ...
def parse_python(source: str, mode: Literal["exec", "eval"] = "exec") -> ast.Module | ast.Expression:
    """As `ast.parse`, for Python up to 3.11.7 too.

    There the threads of a process count the depth of their trees in one variable, and a switch between them in the middle
    of a tree ends in a SystemError (cpython issue 106905). Such a switch is rare, so the next try succeeds.

    Raises SyntaxError and ValueError, as `ast.parse` does.
    """
    for _ in range(TRIES - 1):
        try:
            return _parse(source, mode)
        except SystemError:
            continue
    return _parse(source, mode)


def _parse(source: str, mode: Literal["exec", "eval"]) -> ast.Module | ast.Expression:
    return ast.parse(source) if mode == "exec" else ast.parse(source, mode=mode)
