"""Runs side by side as lines of text that fit a terminal."""

from __future__ import annotations

import shutil
import string
import textwrap
from collections.abc import Iterator, Sequence

from hooke.project.comparing.sections import Section
from hooke.project.table import aligned

__all__ = ["letters", "side_by_side"]

LEAST = 11
"""Characters of a column: a number with six digits, such as 0.000398483."""
LABEL = 26
"""Characters of a name; a longer one is cut."""
INDENT = "  "


def letters(count: int) -> list[str]:
    """What runs are called in a table: a, b, ... z, then a2, b2, ..."""
    kinds = string.ascii_lowercase
    return [kinds[at % 26] + (str(at // 26 + 1) if at >= 26 else "") for at in range(count)]


def side_by_side(
    legend: Sequence[Sequence[str]], sections: Sequence[Section], *, width: int | None = None
) -> str:
    """`legend` has a row a run, which begins with its letter. A row that no column has room for is written one run a line."""
    width = max(shutil.get_terminal_size().columns if width is None else width, 40)
    names = [row[0] for row in legend]
    parts = ["\n".join(line.rstrip() for line in aligned(*_headless(legend)))]
    parts += ["\n".join(_section_lines(section, names, width)) for section in sections if section.differ]
    if alike := [_equal(section, width) for section in sections if section.equal]:
        parts.append("\n".join(["equal", *alike]))
    return "\n\n".join(parts)


def _headless(rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return rows[0], rows[1:]


def _section_lines(section: Section, names: Sequence[str], width: int) -> Iterator[str]:
    yield section.title
    label = min(max(len(name) for name in section.differ), LABEL)
    room = width - len(INDENT) - label
    blocks = -(-len(names) // max(room // (LEAST + 2), 1))
    most = -(-len(names) // blocks)
    for first in range(0, len(names), most):
        block = slice(first, first + most)
        if first:
            yield ""
        yield from _block(section, names, block, label=label, room=room)


def _block(section: Section, names: Sequence[str], block: slice, *, label: int, room: int) -> Iterator[str]:
    cap = room // len(names[block]) - 2
    rows: list[tuple[str, list[str]]] = []
    long: list[tuple[str, list[str]]] = []
    for name in section.differ:
        cells = section.cells(name)[block]
        (rows if max(map(len, cells)) <= cap else long).append((name, cells))
    lines = aligned(["", *names[block]], [[_cut(name, label).ljust(label), *cells] for name, cells in rows])
    if rows:
        yield from (INDENT + line for line in lines)
    for name, cells in long:
        yield INDENT + name
        for letter, cell in zip(names[block], cells, strict=True):
            yield from textwrap.wrap(
                cell, label + room, initial_indent=f"{INDENT * 2}{letter}  ", subsequent_indent=INDENT * 4
            ) or [f"{INDENT * 2}{letter}"]


def _equal(section: Section, width: int) -> str:
    """`parameters (3): depth, rate, kind`, cut to a line."""
    return _cut(f"{INDENT}{section.title} ({len(section.equal)}): {', '.join(section.equal)}", width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
