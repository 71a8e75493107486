"""How many there were and how many were wanted, over time: the lines, the numbered changes, and their sentences below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hooke.charts.frame import Frame
from hooke.charts.lettering import text_width
from hooke.charts.palette import COLOURS, INK
from hooke.charts.sheet import Area, Dot, Stroke, Thing, Words
from hooke.scaling.families import Floats

__all__ = ["LINE", "LOST", "SMALL", "TEXT", "WIDTH", "Change", "marked", "sentence", "staffed", "told_below"]

WIDTH = 518.0
"""Of a sheet with sentences."""
LINE, TEXT, SMALL = 10.5, 8.0, 7.0
LOST = COLOURS["knee"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """At `at`, from then on `after` replicas were wanted and not `before`, as `text` says."""

    at: float
    before: int
    after: int
    text: str


def staffed(frame: Frame, moments: Floats, ready: Floats, wanted: Floats) -> Iterator[Thing]:
    """Those that were ready and those that were wanted (k,), from each of `moments` (k + 1,) until the next."""
    x = frame.across(np.repeat(moments, 2)[1:-1])
    there, floor = frame.down(np.repeat(ready, 2)), np.full(x.size, frame.bottom)
    yield Area(kind="ready", x=x, top=there, bottom=floor, colour=COLOURS["peak"], opacity=0.25)
    yield Stroke(kind="ready", x=x, y=there, colour=COLOURS["peak"], width=1.4)
    yield Stroke(
        kind="wanted", x=x, y=frame.down(np.repeat(wanted, 2)), colour=LOST, width=1.0, dash=(3.0, 2.0)
    )


def marked(frame: Frame, changes: Sequence[Change], shown: Sequence[Change]) -> Iterator[Thing]:
    """A dot for each change that is shown, with its number; one that would lie on the one before has none."""
    free = -math.inf
    for each in shown:
        x = float(frame.across(each.at))
        text = str(changes.index(each) + 1)
        width = text_width(text, SMALL) + 1
        fits = x - width / 2 >= free
        free = x + width / 2 if fits else free
        y, above = float(frame.down(each.after)), float(frame.down(max(each.after, each.before)))
        yield Dot(kind="change", x=x, y=y, shape="circle", radius=2.0, colour=LOST, hint=each.text)
        written = text if fits else ""
        yield Words(kind="mark", x=x, y=above - 4, text=written, colour=LOST, size=SMALL, anchor="middle")


def sentence(changes: Sequence[Change], change: Change, unit: str) -> Iterator[tuple[bool, str]]:
    """The lines of a change's sentence, as long as a sheet is wide; the first one with its number and moment."""
    text = f"{changes.index(change) + 1}   at {change.at:.4g} {unit}: {change.text}"
    line, first = "", True
    for word in text.split(" "):
        if line and text_width(f"{line} {word}", TEXT) > WIDTH - (12 if first else 28):
            yield first, line
            line, first = word, False
        else:
            line = f"{line} {word}" if line else word
    yield first, line


def told_below(told: Sequence[tuple[bool, str]], top: float) -> Iterator[Thing]:
    """Lines of sentences one below the other, those that go on further to the right."""
    for at, (first, text) in enumerate(told):
        x = 6 + (0 if first else 16)
        yield Words(kind="sentence", x=x, y=top + LINE * (at + 1), text=text, colour=INK, size=TEXT)
