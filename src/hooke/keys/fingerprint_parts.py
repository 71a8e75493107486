"""Keys from labelled parts, the parts of a function's code, and the changes between two fingerprints."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from blake3 import blake3

__all__ = [
    "CodeChange",
    "CodePart",
    "CodePrint",
    "Edge",
    "FingerprintPart",
    "Key",
    "combine",
    "expansion_key",
    "explain",
    "frame",
]


# --- Recipe keys from labelled parts.

Key = str
"""32 hex characters: the first 128 bits of a BLAKE3 digest."""


def frame(part: str | int | bytes) -> bytes:
    """A part after its type and length, so that joined parts stay distinct."""
    if isinstance(part, str):
        data, tag = part.encode("utf-8", "surrogatepass"), b"s"
    elif isinstance(part, bytes):
        data, tag = part, b"b"
    else:
        data, tag = b"%d" % part, b"i"
    return tag + len(data).to_bytes(8, "little") + data


def combine(label: str, *parts: str | int | bytes) -> Key:
    """The key of ordered parts under a label. Another label, order, split or type of a part gives another key."""
    return blake3(b"".join(map(frame, (label, *parts)))).hexdigest(length=16)


def expansion_key(key: Key) -> Key:
    """The key of the list of a dynamic map with this key."""
    return combine("expansion", key)


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
    """The key of a function's code with its parts, the function first; `notes` say where static analysis failed.

    `foreign` has the qualified names that it uses from the standard library and from distributions.
    """

    key: Key
    parts: tuple[CodePart, ...]
    notes: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """The name by which a part reaches another, and that part's number in the order of discovery."""

    label: str
    qualifier: str
    target: int


@dataclass(slots=True, kw_only=True)
class FingerprintPart:
    """A part while the walk fills it in. `file` is its module's; `text` is called at the end, if at all."""

    kind: str
    name: str
    file: str = ""
    line: int = 0
    digest: bytes = b""
    text: Callable[[], str] = str
    edges: list[Edge] = field(default_factory=list)


# --- The changes between two fingerprints of code, for people.


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeChange:
    """A part that changed: `what` is `changed`, `added` or `removed`; `diff` is a unified diff of its text."""

    what: str
    name: str
    kind: str
    where: str
    diff: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.kind} {self.name}{place} {self.what}" + (f"\n{self.diff}" if self.diff else "")


def explain(old_parts: Iterable[CodePart], new_parts: Iterable[CodePart]) -> list[CodeChange]:
    """The changes from the old parts to the new: changed first, in the order of the new, then added, then removed."""
    old = {part.name: part for part in old_parts}
    new = {part.name: part for part in new_parts}
    changed = [
        _change("changed", old[name], part)
        for name, part in new.items()
        if name in old and (old[name].digest, old[name].kind) != (part.digest, part.kind)
    ]
    added = [_change("added", None, part) for name, part in new.items() if name not in old]
    removed = [_change("removed", part, None) for name, part in old.items() if name not in new]
    return changed + added + removed


def _change(what: str, old: CodePart | None, new: CodePart | None) -> CodeChange:
    part = new or old
    assert part is not None
    before, after = (part.text.splitlines() if part else [] for part in (old, new))
    lines = difflib.unified_diff(before, after, "before", "after", lineterm="", n=2)
    return CodeChange(
        what=what, name=part.name, kind=part.kind, where=part.where, diff="\n".join(list(lines)[2:])
    )
