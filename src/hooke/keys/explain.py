"""What changed between two fingerprints of code, for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from hooke.keys.parts import CodePart

__all__ = ["Change", "explain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One part that is not as it was: `what` is changed, added or removed; `diff` a unified diff of its text."""

    what: str
    name: str
    kind: str
    where: str
    diff: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.kind} {self.name}{place} {self.what}" + (f"\n{self.diff}" if self.diff else "")


def explain(old_parts: Iterable[CodePart], new_parts: Iterable[CodePart]) -> list[Change]:
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


def _change(what: str, old: CodePart | None, new: CodePart | None) -> Change:
    part = new or old
    assert part is not None
    before, after = (part.text.splitlines() if part else [] for part in (old, new))
    lines = difflib.unified_diff(before, after, "before", "after", lineterm="", n=2)
    return Change(
        what=what, name=part.name, kind=part.kind, where=part.where, diff="\n".join(list(lines)[2:])
    )
