"""What a fingerprint of code is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hooke.keys.combine import Key

__all__ = ["CodePart", "CodePrint", "Edge", "Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePart:
    """One thing that a function reaches.

    `kind` is function, class, global, closure, default, module, distribution or opaque; `digest` is of its own
    content, not of what it reaches in turn; `where` is "file.py:34" relative to the project; `text` is its normalised
    source or short repr, to show differences with.
    """

    name: str
    kind: str
    digest: str
    where: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePrint:
    """The key of a function's code with its parts, the function first; `notes` say where static reach failed.

    `foreign` are the qualified names of what it reaches of the standard library and of distributions.
    """

    key: Key
    parts: tuple[CodePart, ...]
    notes: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """By what name a part reaches another, and which (its number in the order of discovery)."""

    label: str
    qualifier: str
    target: int


@dataclass(slots=True, kw_only=True)
class Part:
    """A part while the walk fills it in; `file` is its module's, and `text` is asked for at the end, if at all."""

    kind: str
    name: str
    file: str = ""
    line: int = 0
    digest: bytes = b""
    text: Callable[[], str] = str
    edges: list[Edge] = field(default_factory=list)
