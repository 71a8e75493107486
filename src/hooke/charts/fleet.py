"""A run's workers over time against what could have used them: laid out for print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hooke.charts.axes import axes_of
from hooke.charts.axis import Axis
from hooke.charts.changes import LINE, LOST, SMALL, TEXT, WIDTH, Change, marked, sentence, staffed, told_below
from hooke.charts.frame import Frame
from hooke.charts.palette import COLOURS, GREY, INK
from hooke.charts.sheet import Area, Sheet, Thing, Words
from hooke.scaling.families import Floats

__all__ = ["FleetPicture", "fleet_sheet"]

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
    changes: tuple[Change, ...]
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
    frame = Frame(left=LEFT, top=TOP, width=PANEL, height=HEIGHT, x=x, y=y)
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


def _panel(frame: Frame, picture: FleetPicture) -> Iterator[Thing]:
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
