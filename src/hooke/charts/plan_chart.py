"""A plan's configurations by time and cost: intervals, the front, the recommended one, and what a run took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hooke.charts import sheet

__all__ = ["PlanPicture", "PlannedPoint", "plan_panel"]

FRONT, CHOSEN, TAKEN = sheet.COLOURS["law"], sheet.COLOURS["knee"], sheet.COLOURS["peak"]
WIDE = 8.0
"""The axis of time is logarithmic if the longest time is so many times the shortest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPoint:
    """A configuration: seconds and US dollars as (low, value, high). `text` is said under the cursor."""

    seconds: tuple[float, float, float]
    usd: tuple[float, float, float]
    front: bool
    chosen: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPicture:
    """All configurations with a price, and (seconds, US dollars, text) of each run that followed the plan."""

    title: str
    points: tuple[PlannedPoint, ...]
    taken: tuple[tuple[float, float, str], ...]

    @property
    def unit(self) -> tuple[float, str]:
        """The seconds of a unit of the axis of time, and its name."""
        most = max(self._seconds())
        units = ((3600.0, "hours"), (60.0, "minutes"))
        return next(((seconds, name) for seconds, name in units if most >= 3 * seconds), (1.0, "s"))

    @property
    def axes(self) -> tuple[sheet.Axis, sheet.Axis]:
        """Of time and of cost, with room for every interval."""
        unit_s, name = self.unit
        least, most = max(min(self._seconds()), 1e-3) / unit_s, max(*self._seconds(), 2e-3) / unit_s
        wide = most >= WIDE * least
        low, high = (least / 1.3, most * 1.3) if wide else (0.0, most * 1.08)
        x = sheet.Axis(label=f"time ({name})", low=low, high=high, logarithmic=wide)
        dearest = max(each.usd[2] for each in self.points) or 1.0
        # Below zero there is room for the marks of what costs nothing.
        return x, sheet.Axis(label="", low=-0.06 * dearest, high=1.12 * dearest)

    def _seconds(self) -> list[float]:
        return [*(end for each in self.points for end in each.seconds), *(at for at, _, _ in self.taken)]


def plan_panel(picture: PlanPicture) -> sheet.PagePanel:
    """Cost over time, for a page."""
    x, y = picture.axes
    frame = sheet.page_frame(x, y)
    body = [*sheet.axes_of(frame), *_front(frame, picture)]
    for point in sorted(picture.points, key=lambda each: (each.chosen, each.front)):
        body += _point(frame, point, picture.unit[0])
    for seconds, usd, text in picture.taken:
        body.append(_mark(frame, (seconds / picture.unit[0], usd), "triangle", TAKEN, text))
    names = [(FRONT, "no other is both faster and cheaper"), (CHOSEN, "recommended"), (sheet.GREY, "others")]
    shown = [(colour, name) for colour, name in names if colour in {_colour(each) for each in picture.points}]
    if picture.taken:
        shown.append((TAKEN, "runs that followed it"))
    return sheet.page_panel("cost (US dollars) over time", body, shown)


def _front(frame: sheet.PanelFrame, picture: PlanPicture) -> Iterator[sheet.Stroke]:
    """Steps from one to the next."""
    kept = sorted((each.seconds[1], each.usd[1]) for each in picture.points if each.front)
    if len(kept) > 1:
        x = np.repeat([seconds / picture.unit[0] for seconds, _ in kept], 2)[1:]
        y = np.repeat([usd for _, usd in kept], 2)[:-1]
        yield sheet.Stroke(
            kind="front", x=frame.across(x), y=frame.down(y), colour=FRONT, width=1.0, opacity=0.6
        )


def _point(frame: sheet.PanelFrame, point: PlannedPoint, unit_s: float) -> list[sheet.SheetItem]:
    """A cross of both intervals, and a mark that says what it is."""
    low, value, high = (seconds / unit_s for seconds in point.seconds)
    colour = _colour(point)
    at = float(frame.down(point.usd[1]))
    along = frame.across(np.array([low, high]))
    cross = sheet.Stroke(kind="interval", x=along, y=np.full(2, at), colour=colour, width=1.0, opacity=0.7)
    middle = float(frame.across(value))
    ends = (float(frame.down(point.usd[2])), float(frame.down(point.usd[0])))
    upright = sheet.vertical(middle, *ends, kind="interval", colour=colour, width=1.0, opacity=0.7)
    shape = "diamond" if point.chosen else "circle"
    return [cross, upright, _mark(frame, (value, point.usd[1]), shape, colour, point.text)]


def _colour(point: PlannedPoint) -> str:
    return CHOSEN if point.chosen else FRONT if point.front else sheet.GREY


def _mark(frame: sheet.PanelFrame, at: tuple[float, float], shape: str, colour: str, text: str) -> sheet.Dot:
    radius = 3.2 if shape == "circle" else 4.6
    x, y = float(frame.across(at[0])), float(frame.down(at[1]))
    return sheet.Dot(kind="planned", x=x, y=y, shape=shape, radius=radius, colour=colour, hint=text)
