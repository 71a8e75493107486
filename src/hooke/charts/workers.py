"""A run's workers over time against what could have used them: laid out for print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hooke.charts.sheet import (
    COLOURS,
    GREY,
    INK,
    Area,
    Axis,
    Dot,
    PanelFrame,
    Sheet,
    Stroke,
    Thing,
    Words,
    axes_of,
    text_width,
)
from hooke.scaling.families import Floats

__all__ = [
    "LINE",
    "LOST",
    "SMALL",
    "TEXT",
    "WIDTH",
    "FleetPicture",
    "SizeChange",
    "fleet_sheet",
    "marked",
    "sentence",
    "staffed",
    "told_below",
]


# --- How many there were and how many were wanted, over time: the lines, the numbered changes, and their sentences below.

WIDTH = 518.0
"""Of a sheet with sentences."""
LINE, TEXT, SMALL = 10.5, 8.0, 7.0
LOST = COLOURS["knee"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChange:
    """At `at`, from then on `after` replicas were wanted and not `before`, as `text` says."""

    at: float
    before: int
    after: int
    text: str


def staffed(frame: PanelFrame, moments: Floats, ready: Floats, wanted: Floats) -> Iterator[Thing]:
    """Those that were ready and those that were wanted (k,), from each of `moments` (k + 1,) until the next."""
    x = frame.across(np.repeat(moments, 2)[1:-1])
    there, floor = frame.down(np.repeat(ready, 2)), np.full(x.size, frame.bottom)
    yield Area(kind="ready", x=x, top=there, bottom=floor, colour=COLOURS["peak"], opacity=0.25)
    yield Stroke(kind="ready", x=x, y=there, colour=COLOURS["peak"], width=1.4)
    yield Stroke(
        kind="wanted", x=x, y=frame.down(np.repeat(wanted, 2)), colour=LOST, width=1.0, dash=(3.0, 2.0)
    )


def marked(frame: PanelFrame, changes: Sequence[SizeChange], shown: Sequence[SizeChange]) -> Iterator[Thing]:
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


def sentence(changes: Sequence[SizeChange], change: SizeChange, unit: str) -> Iterator[tuple[bool, str]]:
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


LEFT, TOP, PANEL, HEIGHT, BELOW = 40.0, 42.0, 396.0, 150.0, 34.0
LARGE = 9.5
MOST_CHANGES = 16
"""Sentences below the panel: the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPicture:
    """`could` (k,) are items that ran or could run, `ready` and `wanted` (k,) workers, each from `moments` (k,), in seconds, until the next; the last until `end`."""

    title: str
    moments: Floats
    end: float
    could: Floats
    ready: Floats
    wanted: Floats
    changes: tuple[SizeChange, ...]
    caption: str

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Of time and of workers. Demand may be a thousand times as much, and is cut off."""
        most = max(1.0, float(self.ready.max(initial=0)), float(self.wanted.max(initial=0)))
        return (
            Axis(label="time since the start (s)", low=0.0, high=max(self.end, 1e-3)),
            Axis(label="", low=0.0, high=1.4 * most, whole=True),
        )


def fleet_sheet(picture: FleetPicture) -> Sheet:
    """The sheet of a picture: one panel, and the sentences of the decisions."""
    x, y = picture.axes
    frame = PanelFrame(left=LEFT, top=TOP, width=PANEL, height=HEIGHT, x=x, y=y)
    shown = picture.changes[-MOST_CHANGES:]
    before = len(picture.changes) - len(shown)
    caption = picture.caption + (f"; {before} decisions before are not told" if before else "")
    told = [line for each in shown for line in sentence(picture.changes, each, "s")]
    below = frame.bottom + BELOW
    height = below + LINE * (len(told) + 1) + 14
    things = [
        Words(kind="title", x=6, y=15, text=picture.title, colour=INK, size=LARGE, bold=True),
        *_panel(frame, picture),
        *marked(frame, picture.changes, shown),
        *told_below(told, below),
        Words(kind="caption", x=6, y=height - 6, text=caption, colour=GREY, size=SMALL),
    ]
    return Sheet(width=WIDTH, height=height, title=picture.title, things=tuple(things))


def _panel(frame: PanelFrame, picture: FleetPicture) -> Iterator[Thing]:
    yield Words(kind="head", x=frame.left, y=frame.top - 6, text="workers", colour=INK, size=TEXT)
    yield from axes_of(frame)
    moments = np.append(picture.moments, max(picture.end, picture.moments[-1]))
    across = frame.across(np.repeat(moments, 2)[1:-1])
    demand = frame.down(np.repeat(np.minimum(picture.could, frame.y.high), 2))
    floor = np.full(across.size, frame.bottom)
    yield Area(kind="demand", x=across, top=demand, bottom=floor, colour=COLOURS["law"], opacity=0.12)
    yield from staffed(frame, moments, picture.ready, picture.wanted)
    most = float(picture.could.max(initial=0))
    cut = [(COLOURS["law"], f"up to {most:,.0f}")] if most > frame.y.high else []
    names = [(COLOURS["law"], "could be used"), *cut, (COLOURS["peak"], "ready"), (LOST, "wanted")]
    for at, (colour, text) in enumerate(names):
        yield Words(
            kind="name", x=frame.right + 5, y=frame.top + 8 + LINE * at, text=text, colour=colour, size=TEXT
        )
