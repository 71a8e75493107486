"""Anchors: what a run's results hang on, as the run recorded it and as it is now. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

__all__ = ["Anchor", "Edit", "changed_lines", "compared", "libraries"]


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a result hangs on. `kind` is code, python, library, data, parameter, seed, threads or hardware.

    `was` and `now` are short text, empty where there is none.
    """

    kind: str
    name: str
    was: str
    now: str
    mend: str = ""

    @property
    def met(self) -> bool:
        """Whether it is as it was."""
        return self.was == self.now

    def __str__(self) -> str:
        name = f"{self.kind} {self.name}".strip()
        if self.met:
            return f"{name}: {self.was}"
        return f"{name}: was {self.was or 'not there'}, is {self.now or 'not there'}"


MENDS = {
    "code": "without --here the recorded tree is restored and run",
    "data": "put the file of then back",
    "hardware": "run it on a machine of that kind, or with --best-effort",
    "library": "pip install {name}=={was}",
    "python": "use that Python",
    "seed": "set `[run] seed` in hooke.toml, or HOOKE_SEED, to {was}",
    "threads": "export {name}={was}",
}


def compared(kind: str, was: Mapping[str, str], now: Mapping[str, str]) -> list[Anchor]:
    """An anchor for each name, in the order of then; those of now alone follow."""
    names = dict.fromkeys((*was, *now))
    return [_anchor(kind, name, was.get(name, ""), now.get(name, "")) for name in names]


def libraries(was: Mapping[str, str], now: Mapping[str, str]) -> list[Anchor]:
    """An anchor for each distribution of then. One that has come since cannot have had a part in the results."""
    return [_anchor("library", name, version, now.get(name, "")) for name, version in was.items()]


def _anchor(kind: str, name: str, was: str, now: str) -> Anchor:
    mend = MENDS.get(kind, "").format(name=name, was=was)
    if kind == "threads" and not was:
        mend = f"unset {name}"
    if kind == "library" and was.endswith(" (editable)"):
        mend = f"check that version of {name} out"
    return Anchor(kind=kind, name=name, was=was, now=now, mend="" if was == now else mend)


_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(?P<line>\d+)(?:,\d+)? @@")


class Edit(NamedTuple):
    """A place in a file that was changed, `file:line` of the new side, with the first line of each side that differs."""

    place: str
    was: str
    now: str


def changed_lines(diff: str) -> list[Edit]:
    """The places of a unified diff without context. A file that is gone, binary, or of another mode is one place."""
    return [
        edit for part in re.split(r"^(?=diff --git )", diff, flags=re.MULTILINE)[1:] for edit in _edits(part)
    ]


def _edits(part: str) -> Iterator[Edit]:
    """Of one file: the header's lines, then hunks."""
    first, *lines = part.splitlines()
    file = first.rpartition(" b/")[2]
    hunks = [at for at, line in enumerate(lines) if _HUNK.match(line)]
    if not hunks or any(line.startswith("deleted file mode") for line in lines[: hunks[0]]):
        gone = any(line.startswith("deleted file mode") for line in lines)
        yield Edit(file, "as it was", "gone" if gone else "changed")
        return
    for at, end in zip(hunks, (*hunks[1:], len(lines)), strict=True):
        found = _HUNK.match(lines[at])
        assert found is not None
        was, now = (
            next((line[1:] for line in lines[at + 1 : end] if line.startswith(sign)), "") for sign in "-+"
        )
        if was.strip() != now.strip():
            was, now = was.strip(), now.strip()
        yield Edit(f"{file}:{found['line']}", was or "no line", now or "no line")
