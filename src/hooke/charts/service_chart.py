"""A service over time: requests, replicas with the reason of each change, and latencies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hooke.charts import sheet
from hooke.charts.fleet_chart import LOST, SizeChange, change_marks, replica_lines, with_changes
from hooke.charts.terminal import Canvas, inked, plain_rows, x_axis_rows
from hooke.scaling.families import Floats

__all__ = ["SeriesLine", "ServicePicture", "SizeChange", "service_plot", "service_sheet"]


LEFT, PANEL = 40.0, 396.0
HEIGHTS = (92.0, 76.0, 100.0)
"""Heights of the panels: requests, replicas, latencies."""
TOP, HEAD, BELOW = 42.0, 24.0, 34.0
LOAD, LIMIT = sheet.COLOURS["law"], sheet.COLOURS["plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLine:
    """A value (m,) for each interval of time; NaN if unknown."""

    name: str
    value: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePicture:
    """The chart as plain numbers. `edges` (m + 1,) bound the intervals, in `unit` since the start, as are all moments.

    `asked`, `answered` and `unanswered` (m,) are requests per second. `ready` and `wanted` (k,) replicas hold from `moments`
    (k,) on. `times` are latency percentiles in milliseconds, `limit` is the SLO.
    """

    title: str
    unit: str
    edges: Floats
    asked: Floats
    answered: Floats
    unanswered: Floats
    moments: Floats
    ready: Floats
    wanted: Floats
    changes: tuple[SizeChange, ...]
    times: tuple[SeriesLine, ...]
    limit: float | None
    limit_text: str
    caption: str

    @property
    def x(self) -> sheet.Axis:
        """The axis of time below all panels."""
        return sheet.Axis(label=f"time since the start ({self.unit})", low=0.0, high=float(self.edges[-1]))

    @property
    def load_axis(self) -> sheet.Axis:
        """The axis of requests per second."""
        return sheet.Axis(
            label="", low=0.0, high=1.1 * max(float(self.asked.max()), float(self.answered.max()), 1e-3)
        )

    @property
    def replicas_axis(self) -> sheet.Axis:
        """The axis of replicas."""
        most = max(1.0, float(self.ready.max(initial=0)), float(self.wanted.max(initial=0)))
        return sheet.Axis(label="", low=0.0, high=1.2 * most, whole=True)  # with room for a mark above

    @property
    def times_axis(self) -> sheet.Axis | None:
        """The axis of milliseconds; None if nothing was answered."""
        drawn = np.concatenate([*(line.value for line in self.times), [self.limit or math.nan]])
        drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
        if not drawn.size or not any(np.isfinite(line.value).any() for line in self.times):
            return None
        return sheet.Axis(
            label="", low=float(drawn.min()) / 1.4, high=float(drawn.max()) * 1.4, logarithmic=True
        )


def service_sheet(picture: ServicePicture) -> sheet.Sheet:
    """The chart laid out for print: three panels one below the other, and the reasons of the changes."""
    frames = _frames(picture)
    body = [
        *_load(frames[0], picture),
        *_replicas(frames[1], picture),
        *(_times(frames[2], picture) if len(frames) > 2 else ()),
    ]
    top = frames[-1].bottom + BELOW
    return with_changes(picture.title, picture.caption, body, picture.changes, unit=picture.unit, top=top)


def _frames(picture: ServicePicture) -> list[sheet.PanelFrame]:
    axes = [picture.load_axis, picture.replicas_axis, picture.times_axis]
    frames: list[sheet.PanelFrame] = []
    top = TOP
    for height, axis in zip(HEIGHTS, axes, strict=True):
        if axis is not None:
            frames.append(
                sheet.PanelFrame(left=LEFT, top=top, width=PANEL, height=height, x=picture.x, y=axis)
            )
            top += height + HEAD
    return frames


def _axes(frame: sheet.PanelFrame, head: str, *, last: bool) -> Iterator[sheet.SheetItem]:
    """Only the lowest panel has ticks and a label below."""
    yield sheet.Label(kind="head", x=frame.left, y=frame.top - 6, text=head, colour=sheet.INK)
    for item in sheet.axes_of(frame):
        if last or not (isinstance(item, sheet.Label) and item.y > frame.bottom + 5):
            yield item


def _load(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    yield from _axes(frame, "requests per second", last=False)
    x = frame.across(np.repeat(picture.edges, 2)[1:-1])
    floor = np.full(x.size, frame.bottom)
    answered = frame.down(np.repeat(picture.answered, 2))
    yield sheet.Area(kind="answered", x=x, top=answered, bottom=floor, colour=LOAD, opacity=0.25)
    names = [(sheet.INK, "received"), (LOAD, "answered")]
    if (picture.unanswered > 0).any():
        lost = frame.down(np.repeat(picture.unanswered, 2))
        yield sheet.Area(kind="unanswered", x=x, top=lost, bottom=floor, colour=LOST, opacity=0.55)
        names.append((LOST, "not answered"))
    yield sheet.Stroke(
        kind="asked", x=x, y=frame.down(np.repeat(picture.asked, 2)), colour=sheet.INK, width=1.1
    )
    yield from sheet.corner_labels(frame, names)


def _replicas(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    yield from _axes(frame, "replicas", last=picture.times_axis is None)
    if picture.moments.size:
        moments = np.append(picture.moments, max(picture.edges[-1], picture.moments[-1]))
        yield from replica_lines(frame, moments, picture.ready, picture.wanted)
    yield from sheet.corner_labels(frame, [(sheet.COLOURS["peak"], "ready"), (LOST, "desired")])
    yield from change_marks(frame, picture.changes)


def _times(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    yield from _axes(frame, "latency, measured in the service (ms)", last=True)
    names: list[tuple[float, str, str]] = []
    if picture.limit is not None:
        yield sheet.level(frame, picture.limit, kind="limit", colour=LIMIT, width=1.2, dash=sheet.LIMIT_DASH)
        names.append((float(frame.down(picture.limit)), LIMIT, picture.limit_text))
    middles = (picture.edges[1:] + picture.edges[:-1]) / 2
    for at, line in enumerate(picture.times):
        for part in _unbroken(line.value):
            x, y = frame.across(middles[part]), frame.down(line.value[part])
            yield sheet.Stroke(kind="quantile", x=x, y=y, colour=sheet.SERIES[at], width=1.4)
            if x.size == 1:
                yield sheet.circle("quantile", float(x[0]), float(y[0]), 1.6, sheet.SERIES[at])
        last = line.value[np.isfinite(line.value)]
        if last.size:
            names.append((float(frame.down(last[-1])), sheet.SERIES[at], line.name))
    yield from sheet.side_labels(frame, names)


def _unbroken(values: Floats) -> Iterator[slice]:
    """The runs of values without a NaN."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(values), [False]]).astype(int)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield slice(first, end)


# --- For terminals.

ROWS = 7
"""Rows of a panel."""
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
"""Terminal colors."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A line; `ink` is its character without Braille, `off` the length of its gaps in dots."""

    name: str
    style: str
    ink: str
    x: Floats
    y: Floats
    off: int = 0


def service_plot(picture: ServicePicture, *, width: int, colour: bool, ascii_only: bool) -> str:
    """The chart in lines of `width` characters (at least 40)."""
    paint = partial(_painted, colour=colour)
    panels = [
        ("requests per second", picture.load_axis, list(_load_text(picture))),
        ("replicas", picture.replicas_axis, list(_replicas_text(picture))),
    ]
    if (axis := picture.times_axis) is not None:
        panels.append(("latency (ms)", axis, list(_times_text(picture))))
    columns = max(width, LEAST_WIDTH) - SIDE - 1
    lines: list[str] = []
    for head, axis, drawn in panels:
        names = [
            f"{paint(each.ink if ascii_only else '━╌'[bool(each.off)], each.style)} {each.name}"
            for each in drawn
        ]
        canvas = Canvas(columns, ROWS, braille=not ascii_only)
        _draw(canvas, picture.x, axis, drawn)
        lines += ["   ".join([head, *names]), *plain_rows(canvas, axis, paint, side=SIDE)]
    below = Canvas(columns, 1, braille=not ascii_only)
    return "\n".join([*lines, *x_axis_rows(below, picture.x, side=SIDE)])


def _load_text(picture: ServicePicture) -> Iterator[_Drawn]:
    x = np.repeat(picture.edges, 2)[1:-1]
    yield _Drawn("answered", "answered", ".", x, np.repeat(picture.answered, 2))
    if (picture.unanswered > 0).any():
        yield _Drawn("not answered", "lost", "x", x, np.repeat(picture.unanswered, 2))
    yield _Drawn("received", "asked", "*", x, np.repeat(picture.asked, 2), off=1)


def _replicas_text(picture: ServicePicture) -> Iterator[_Drawn]:
    moments = np.append(picture.moments, picture.edges[-1:])
    x = np.repeat(moments, 2)[1:-1]
    yield _Drawn("ready", "ready", "#", x, np.repeat(picture.ready, 2))
    yield _Drawn("desired", "wanted", ".", x, np.repeat(picture.wanted, 2), off=2)


def _times_text(picture: ServicePicture) -> Iterator[_Drawn]:
    edges = picture.edges
    middles = (edges[1:] + edges[:-1]) / 2
    for at, line in enumerate(picture.times):
        yield _Drawn(line.name, f"time{at}", "ox+"[at % 3], middles, line.value)
    if picture.limit is not None:
        yield _Drawn(picture.limit_text, "limit", "=", edges[[0, -1]], np.full(2, picture.limit), off=2)


def _draw(canvas: Canvas, x: sheet.Axis, y: sheet.Axis, drawn: Sequence[_Drawn]) -> None:
    for each in drawn:
        whole = np.isfinite(each.y)
        across, up = (
            np.clip(axis.share(part[whole]), 0, 1).tolist() for axis, part in ((x, each.x), (y, each.y))
        )
        places = zip(across, up, strict=True)
        canvas.line(places, each.style, on=2 if each.off else 1, off=each.off, ink=each.ink)


def _painted(text: str, style: str, *, colour: bool) -> str:
    return inked(text, _INKS.get(style), colour=colour)
