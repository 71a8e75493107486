"""A service over time drawn with characters: load, replicas and times one below the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hooke.charts.axis import Axis
from hooke.charts.beside import numbers_below, numbers_left
from hooke.charts.canvas import Canvas
from hooke.charts.service import ServicePicture
from hooke.scaling.families import Floats

__all__ = ["drawn_service"]

ROWS = 7
"""Of each panel."""
SIDE = 6
LEAST_WIDTH = 40
_INKS = {
    "asked": 252,
    "answered": 33,
    "lost": 166,
    "ready": 36,
    "wanted": 166,
    "limit": 132,
    "time0": 33,
    "time1": 166,
    "time2": 36,
}
"""In the 256 colours of terminals."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A line, with the character that stands for a dot without Braille. `off` of its dots are left out."""

    name: str
    style: str
    ink: str
    x: Floats
    y: Floats
    off: int = 0


def drawn_service(picture: ServicePicture, *, width: int, colour: bool, ascii_only: bool) -> str:
    """The picture in lines of `width` characters (40 at least)."""
    width = max(width, LEAST_WIDTH)
    edges = picture.edges
    panels = [
        ("requests a second", picture.load_axis, list(_load(picture))),
        ("replicas", picture.replicas_axis, list(_replicas(picture))),
    ]
    if (axis := picture.times_axis) is not None:
        panels.append(("time to an answer (ms)", axis, list(_times(picture, edges))))
    lines: list[str] = []
    for head, axis, drawn in panels:
        names = "   ".join(
            _painted(each.ink if ascii_only else "━╌"[bool(each.off)], each.style, colour=colour)
            + f" {each.name}"
            for each in drawn
        )
        lines += [
            f"{head}   {names}",
            *_panel(picture.x, axis, drawn, width, colour=colour, ascii_only=ascii_only),
        ]
    canvas = Canvas(width - SIDE - 1, 1, braille=not ascii_only)
    return "\n".join(
        [*lines, " " * (SIDE + 1) + numbers_below(picture.x, canvas), f"{picture.x.label:>{width}}"]
    )


def _load(picture: ServicePicture) -> Iterator[_Drawn]:
    x = np.repeat(picture.edges, 2)[1:-1]
    yield _Drawn("answered", "answered", ".", x, np.repeat(picture.answered, 2))
    if (picture.unanswered > 0).any():
        yield _Drawn("not answered", "lost", "x", x, np.repeat(picture.unanswered, 2))
    yield _Drawn("asked", "asked", "*", x, np.repeat(picture.asked, 2), off=1)


def _replicas(picture: ServicePicture) -> Iterator[_Drawn]:
    moments = np.append(picture.moments, picture.edges[-1:])
    x = np.repeat(moments, 2)[1:-1]
    yield _Drawn("ready", "ready", "#", x, np.repeat(picture.ready, 2))
    yield _Drawn("wanted", "wanted", ".", x, np.repeat(picture.wanted, 2), off=2)


def _times(picture: ServicePicture, edges: Floats) -> Iterator[_Drawn]:
    middles = (edges[1:] + edges[:-1]) / 2
    for at, line in enumerate(picture.times):
        yield _Drawn(line.name, f"time{at}", "ox+"[at % 3], middles, line.value)
    if picture.limit is not None:
        yield _Drawn(picture.limit_text, "limit", "=", edges[[0, -1]], np.full(2, picture.limit), off=2)


def _panel(
    x: Axis, y: Axis, drawn: Sequence[_Drawn], width: int, *, colour: bool, ascii_only: bool
) -> Iterator[str]:
    canvas = Canvas(width - SIDE - 1, ROWS, braille=not ascii_only)
    for each in drawn:
        whole = np.isfinite(each.y)
        places = zip(x.share(each.x[whole]).tolist(), y.share(each.y[whole]).tolist(), strict=True)
        canvas.line(
            ((min(max(across, 0.0), 1.0), min(max(up, 0.0), 1.0)) for across, up in places),
            each.style, on=2 if each.off else 1, off=each.off, ink=each.ink,
        )  # fmt: skip
    numbers = numbers_left(y, canvas)
    for row in range(ROWS):
        cells = zip(canvas.characters[row], canvas.styles[row], strict=True)
        body = "".join(_painted(character, style, colour=colour) for character, style in cells)
        yield f"{numbers.get(row, ''):>{SIDE}}{'|' if ascii_only else '│'}{body}".rstrip()
    yield " " * SIDE + ("+" + "-" * canvas.columns if ascii_only else "└" + "─" * canvas.columns)


def _painted(text: str, style: str, *, colour: bool) -> str:
    return f"\x1b[38;5;{_INKS[style]}m{text}\x1b[0m" if colour and style and text.strip() else text
