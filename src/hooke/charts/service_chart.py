"""A service over time: requests, replicas with the reason of each change, and latencies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from hooke.charts import sheet
from hooke.charts.fleet_chart import LOST, SizeChange, change_marks, replica_lines, with_changes
from hooke.charts.terminal import Canvas, inked, plain_rows, x_axis_rows
from hooke.scaling.families import Floats

__all__ = ["SeriesLine", "ServicePicture", "SizeChange", "service_panels", "service_plot", "service_sheet"]


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
    (k,) on. `times` are latency percentiles in milliseconds, `limit` is the SLO. `busy` (m,) is how many replicas the
    batches kept busy on average, `batch` (m,) the mean rows of a batch, NaN without one; both are for pages. Of a language
    model, batches are steps and their rows requests, and `tokens` (m,) are those of answers per second; of others it is None.
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
    busy: Floats
    batch: Floats
    tokens: Floats | None = None

    @property
    def times_title(self) -> str:
        """What the times are of."""
        whole = "whole answers" if self.tokens is not None else "latency"
        return f"{whole}, measured in the service (ms)"

    @property
    def x(self) -> sheet.Axis:
        """The axis of time below all panels."""
        low, high = float(self.edges[0]), float(self.edges[-1])
        return sheet.Axis(label=f"time since the start ({self.unit})", low=low, high=max(high, low + 1e-3))

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
    yield from _load_drawn(frame, picture)
    yield from sheet.corner_labels(frame, _load_names(picture))


def _load_names(picture: ServicePicture) -> list[tuple[str, str]]:
    names = [(sheet.INK, "received"), (LOAD, "answered")]
    return [*names, (LOST, "not answered")] if (picture.unanswered > 0).any() else names


def _load_drawn(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    x = frame.across(np.repeat(picture.edges, 2)[1:-1])
    floor = np.full(x.size, frame.bottom)
    answered = frame.down(np.repeat(picture.answered, 2))
    yield sheet.Area(kind="answered", x=x, top=answered, bottom=floor, colour=LOAD, opacity=0.25)
    if (picture.unanswered > 0).any():
        lost = frame.down(np.repeat(picture.unanswered, 2))
        yield sheet.Area(kind="unanswered", x=x, top=lost, bottom=floor, colour=LOST, opacity=0.55)
    yield sheet.Stroke(
        kind="asked", x=x, y=frame.down(np.repeat(picture.asked, 2)), colour=sheet.INK, width=1.1
    )


def _replicas(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    yield from _axes(frame, "replicas", last=picture.times_axis is None)
    if picture.moments.size:
        moments = np.append(picture.moments, max(picture.edges[-1], picture.moments[-1]))
        yield from replica_lines(frame, moments, picture.ready, picture.wanted)
    yield from sheet.corner_labels(frame, [(sheet.COLOURS["peak"], "ready"), (LOST, "desired")])
    yield from change_marks(frame, picture.changes)


def _times(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    yield from _axes(frame, picture.times_title, last=True)
    yield from _times_drawn(frame, picture)
    names: list[tuple[float, str, str]] = []
    if picture.limit is not None:
        names.append((float(frame.down(picture.limit)), LIMIT, picture.limit_text))
    for at, line in enumerate(picture.times):
        last = line.value[np.isfinite(line.value)]
        if last.size:
            names.append((float(frame.down(last[-1])), sheet.SERIES[at], line.name))
    yield from sheet.side_labels(frame, names)


def _times_drawn(frame: sheet.PanelFrame, picture: ServicePicture) -> Iterator[sheet.SheetItem]:
    if picture.limit is not None:
        yield sheet.level(frame, picture.limit, kind="limit", colour=LIMIT, width=1.2, dash=sheet.LIMIT_DASH)
    middles = (picture.edges[1:] + picture.edges[:-1]) / 2
    for at, line in enumerate(picture.times):
        for part in _unbroken(line.value):
            x, y = frame.across(middles[part]), frame.down(line.value[part])
            yield sheet.Stroke(kind="quantile", x=x, y=y, colour=sheet.SERIES[at], width=1.4)
            if x.size == 1:
                yield sheet.circle("quantile", float(x[0]), float(y[0]), 1.6, sheet.SERIES[at])


def _unbroken(values: Floats) -> Iterator[slice]:
    """The runs of values without a NaN."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(values), [False]]).astype(int)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield slice(first, end)


# --- For a page.


def service_panels(picture: ServicePicture) -> list[sheet.PagePanel]:
    """Requests, tokens of a language model, latency, replicas, batches and unanswered requests for a page, always all of them, so that nothing moves while they change."""
    tokens = picture.tokens
    return [
        _requests_panel(picture),
        *(
            [_steps_panel(picture, "tokens of answers per second", tokens, LOAD)]
            if tokens is not None
            else []
        ),
        _latency_panel(picture),
        _replicas_panel(picture),
        _steps_panel(
            picture,
            "rows in a batch, on average" if tokens is None else "requests in a step, on average",
            picture.batch,
            LOAD,
        ),
        _steps_panel(picture, "not answered per second", picture.unanswered, LOST),
    ]


def _requests_panel(picture: ServicePicture) -> sheet.PagePanel:
    frame = sheet.page_frame(picture.x, picture.load_axis)
    values = zip(picture.asked, picture.answered, picture.unanswered, strict=True)
    hints = [
        f"{asked:.3g} received, {answered:.3g} answered, {lost:.3g} not answered per second"
        for asked, answered, lost in values
    ]
    body = [*sheet.axes_of(frame), *_load_drawn(frame, picture), *_said(frame, picture, hints)]
    return sheet.page_panel("requests per second", body, _load_names(picture))


def _latency_panel(picture: ServicePicture) -> sheet.PagePanel:
    axis = picture.times_axis or sheet.Axis(label="", low=1.0, high=100.0, logarithmic=True)
    frame = sheet.page_frame(picture.x, axis)
    names = [(sheet.SERIES[at], line.name) for at, line in enumerate(picture.times)]
    limit = [(LIMIT, f"SLO: {picture.limit_text}")] * (picture.limit is not None)
    hints = []
    for at in range(picture.asked.size):
        told = [f"{line.name} {_ms(float(line.value[at]))}" for line in picture.times]
        hints.append("; ".join([", ".join(told), *(text for _, text in limit)]))
    body = [*sheet.axes_of(frame), *_times_drawn(frame, picture), *_said(frame, picture, hints)]
    return sheet.page_panel(picture.times_title, body, [*names, *limit])


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if math.isfinite(value) else "unknown"


def _replicas_panel(picture: ServicePicture) -> sheet.PagePanel:
    """What was ready and desired, and what the load kept busy; under the cursor the decision that held then."""
    frame = sheet.page_frame(picture.x, picture.replicas_axis)
    first, last = float(picture.edges[0]), float(picture.edges[-1])
    moments = np.clip(np.append(picture.moments, last), first, last)
    body = [*sheet.axes_of(frame), *replica_lines(frame, moments, picture.ready, picture.wanted)]
    x = frame.across(np.repeat(picture.edges, 2)[1:-1])
    body.append(
        sheet.Stroke(kind="busy", x=x, y=frame.down(np.repeat(picture.busy, 2)), colour=LOAD, width=1.2)
    )
    shown = [each for each in picture.changes if first <= each.at <= last]
    marks = [item for item in change_marks(frame, shown) if isinstance(item, sheet.Dot)]
    hints = [_decision(picture, at) for at in range(picture.asked.size)]
    names = [
        (sheet.COLOURS["peak"], "ready"),
        (LOST, "desired (dots: decisions)"),
        (LOAD, "busy with batches" if picture.tokens is None else "busy with steps"),
    ]
    return sheet.page_panel("replicas and demand", [*body, *marks, *_said(frame, picture, hints)], names)


def _decision(picture: ServicePicture, at: int) -> str:
    """The replicas in an interval, and the last decision before its end."""
    until = picture.edges[at + 1]
    held = max(int(np.searchsorted(picture.moments, until, side="right")) - 1, 0)
    text = f"{picture.ready[held]:g} ready, {picture.wanted[held]:g} desired, {picture.busy[at]:.2g} busy"
    before = [each for each in picture.changes if each.at <= until]
    return f"{text}; {before[-1].text} (at {before[-1].at:.4g} {picture.unit})" if before else text


def _steps_panel(picture: ServicePicture, title: str, values: Floats, colour: str) -> sheet.PagePanel:
    most = float(np.nanmax(values, initial=0.0))
    frame = sheet.page_frame(picture.x, sheet.Axis(label="", low=0.0, high=1.15 * max(most, 0.1)))
    x, known = frame.across(np.repeat(picture.edges, 2)[1:-1]), np.nan_to_num(np.repeat(values, 2))
    area = sheet.Area(
        kind="steps", x=x, top=frame.down(known), bottom=np.full(x.size, frame.bottom), colour=colour, opacity=0.55
    )  # fmt: skip
    hints = [f"{each:.3g} {title}" if math.isfinite(each) else "none" for each in values.tolist()]
    return sheet.page_panel(title, [*sheet.axes_of(frame), area, *_said(frame, picture, hints)], ())


def _said(frame: sheet.PanelFrame, picture: ServicePicture, hints: Sequence[str]) -> Iterator[sheet.Area]:
    """Each interval with its time and what is said of it."""
    edges = picture.edges
    times = [f"{begin:.4g} to {end:.4g} {picture.unit}" for begin, end in pairwise(edges.tolist())]
    yield from sheet.strips(
        frame, edges, [f"{time}: {hint}" for time, hint in zip(times, hints, strict=True)]
    )


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
    if (tokens := picture.tokens) is not None:
        axis = sheet.Axis(label="", low=0.0, high=1.1 * max(float(tokens.max()), 1e-3))
        x = np.repeat(picture.edges, 2)[1:-1]
        drawn = _Drawn("of answers", "answered", ".", x, np.repeat(tokens, 2))
        panels.insert(1, ("tokens per second", axis, [drawn]))
    if (axis := picture.times_axis) is not None:
        head = "latency (ms)" if picture.tokens is None else "whole answers (ms)"
        panels.append((head, axis, list(_times_text(picture))))
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
