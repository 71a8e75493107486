"""What came of a reproduction, and its text: which anchors hold, what differs and from where on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hooke.project.reproducing.anchors import Anchor
from hooke.project.reproducing.values import CLOSE, DIFFERENT, EQUAL
from hooke.project.reproducing.verdicts import MISSING, Verdict
from hooke.project.table import aligned

__all__ = ["Reproduction"]

MOST_SHOWN = 20
WORDS = {
    EQUAL: "bitwise equal",
    CLOSE: "within the tolerance",
    DIFFERENT: "different",
    MISSING: "nothing to compare",
}
KINDS = ("code", "python", "library", "data", "parameters", "seed", "threads", "hardware")


@dataclass(slots=True, kw_only=True)
class Reproduction:
    """What came of it. `str()` of it is the report.

    `status`: `checked` (no `verify`), `unmet` (stopped before the run), `reproduced`, `different`, or `failed`.
    """

    run: str
    status: str
    anchors: list[Anchor] = field(default_factory=list)
    tasks: list[Verdict] = field(default_factory=list)
    outputs: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    message: str = ""
    """Why it failed."""

    @property
    def unmet(self) -> list[Anchor]:
        """The anchors that are not as they were."""
        return [anchor for anchor in self.anchors if not anchor.met]

    def __str__(self) -> str:
        return _text_of(self)

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for `--json`."""
        return {
            "run": self.run,
            "status": self.status,
            "anchors": [msgspec.to_builtins(anchor) | {"met": anchor.met} for anchor in self.anchors],
            "tasks": [_verdict_facts(each) for each in self.tasks],
            "outputs": [_verdict_facts(each) for each in self.outputs],
            "notes": self.notes,
            "message": self.message or None,
        }


def _text_of(found: Reproduction) -> str:
    return "\n".join(
        [f"run {found.run}", "", *_anchor_lines(found.anchors), *_note_lines(found), *_result_lines(found)]
    )


def _verdict_facts(each: Verdict) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(each)
    return facts | {"kind": each.kind}


def _anchor_lines(anchors: Sequence[Anchor]) -> Iterator[str]:
    yield "anchors"
    for kind in dict.fromkeys((*KINDS, *(anchor.kind for anchor in anchors))):
        mine = [anchor for anchor in anchors if anchor.kind == kind]
        unmet = [anchor for anchor in mine if not anchor.met]
        if not unmet:
            yield f"  {kind:<10} {_as_it_was(kind, mine)}"
        for anchor in unmet[:MOST_SHOWN]:
            mend = f"  ({anchor.mend})" if anchor.mend else ""
            name = f"{anchor.name}: " if anchor.name else ""
            was, now = (_short(anchor, text) or "not there" for text in (anchor.was, anchor.now))
            yield f"  {kind:<10} DIFFERS  {name}{was} -> {now}{mend}"
        if len(unmet) > MOST_SHOWN:
            yield f"  {'':<10} and {len(unmet) - MOST_SHOWN} more: --json has all"


def _short(anchor: Anchor, text: str) -> str:
    return text[:8] if anchor.kind == "data" and anchor.name.startswith("/") else text


def _as_it_was(kind: str, anchors: Sequence[Anchor]) -> str:
    if not anchors:
        return {"threads": "as it was: no variable set", "data": "as it was: no file"}.get(
            kind, "nothing recorded"
        )
    if kind in ("library", "data"):
        what = {"library": "installed distribution", "data": "file"}[kind]
        return f"as it was: {len(anchors)} {what}{'s' * (len(anchors) != 1)}"
    return "as it was: " + ", ".join(anchor.was for anchor in anchors if anchor.was)


def _note_lines(found: Reproduction) -> Iterator[str]:
    for note in found.notes:
        yield f"  note: {note}"


def _result_lines(found: Reproduction) -> Iterator[str]:
    for title, verdicts in (("tasks", found.tasks), ("outputs", found.outputs)):
        if verdicts:
            yield ""
            rows = [_cells(each) for each in verdicts]
            yield from aligned(
                (title, "items", "equal", "close", "different", "missing", ""), rows, right=range(1, 6)
            )
    yield ""
    yield from _ending(found)


def _cells(each: Verdict) -> tuple[str, ...]:
    counts = (each.items, each.equal, each.close, each.different, each.missing)
    return (
        each.name,
        *(f"{count:,}" if count else "" for count in counts),
        "differs from here on" if each.begins else "",
    )


def _ending(found: Reproduction) -> Iterator[str]:
    unmet = len(found.unmet)
    if found.status == "checked":
        yield (
            f"{unmet} anchors differ"
            if unmet
            else "all anchors are as they were; --verify runs it again and compares"
        )
    elif found.status == "unmet":
        yield f"not run again: {_differ(unmet)}; --best-effort runs it all the same"
    elif found.status == "failed":
        yield f"it could not be made again: {found.message}"
    else:
        worst = [each.first for each in (*found.tasks, *found.outputs) if each.first]
        yield from (f"  {line}" for line in worst[:MOST_SHOWN])
        kinds = {each.kind for each in (*found.tasks, *found.outputs)}
        yield _sentence(found.status, kinds) + (
            f", though {_differ(unmet)}" if unmet and found.status == "reproduced" else ""
        )


def _differ(unmet: int) -> str:
    return "1 anchor differs" if unmet == 1 else f"{unmet} anchors differ"


def _sentence(status: str, kinds: set[str]) -> str:
    if status == "reproduced":
        return "reproduced: all results are " + (WORDS[CLOSE] if CLOSE in kinds else WORDS[EQUAL])
    if DIFFERENT in kinds:
        return "not reproduced: results are different"
    return "not reproduced: of some results there is " + WORDS[MISSING]
