"""A service over time: what was asked, how many replicas answered and why, how long answers took; laid out for print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hooke.charts.axes import axes_of
from hooke.charts.axis import Axis
from hooke.charts.changes import LINE, LOST, SMALL, TEXT, WIDTH, Change, marked, sentence, staffed, told_below
from hooke.charts.frame import Frame
from hooke.charts.palette import COLOURS, GREY, INK, SERIES
from hooke.charts.sheet import Area, Dot, Sheet, Stroke, Thing, Words
from hooke.scaling.families import Floats

__all__ = ["Change", "Line", "ServicePicture", "sheet_of"]

LEFT, PANEL = 40.0, 396.0
HEIGHTS = (92.0, 76.0, 100.0)
"""Of the panels: load, replicas, times."""
TOP, HEAD, BELOW = 42.0, 24.0, 34.0
LARGE = 9.5
LOAD, LIMIT = COLOURS["law"], COLOURS["plain"]
MOST_CHANGES = 16
"""Sentences below the panels: the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A value (m,) of each stretch of time; NaN where there is none."""

    name: str
    value: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePicture:
    """`edges` (m + 1,) are the stretches' ends, in `unit` since the beginning, as are all moments.

    `asked`, `answered` and `unanswered` (m,) are requests a second; `ready` and `wanted` (k,) hold from `moments` (k,) on; `times` are
    percentiles of answers in milliseconds, the promise is at `limit`.
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
    changes: tuple[Change, ...]
    times: tuple[Line, ...]
    limit: float | None
    limit_text: str
    caption: str

    @property
    def x(self) -> Axis:
        """The axis of time, under all panels."""
        return Axis(label=f"time since the start ({self.unit})", low=0.0, high=float(self.edges[-1]))

    @property
    def load_axis(self) -> Axis:
        """The axis of requests a second."""
        return Axis(
            label="", low=0.0, high=1.1 * max(float(self.asked.max()), float(self.answered.max()), 1e-3)
        )

    @property
    def replicas_axis(self) -> Axis:
        """The axis of replicas."""
        most = max(1.0, float(self.ready.max(initial=0)), float(self.wanted.max(initial=0)))
        return Axis(label="", low=0.0, high=1.2 * most, whole=True)  # with room for a mark above the line

    @property
    def times_axis(self) -> Axis | None:
        """The axis of milliseconds; None where nothing was answered."""
        drawn = np.concatenate([*(line.value for line in self.times), [self.limit or math.nan]])
        drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
        if not drawn.size or not any(np.isfinite(line.value).any() for line in self.times):
            return None
        return Axis(label="", low=float(drawn.min()) / 1.4, high=float(drawn.max()) * 1.4, logarithmic=True)


def sheet_of(picture: ServicePicture) -> Sheet:
    """The sheet of a picture: three panels one below the other, and the sentences of the changes."""
    frames = _frames(picture)
    shown = picture.changes[-MOST_CHANGES:]
    before = len(picture.changes) - len(shown)
    left_out = f"; {before} changes before are not told" if before else ""
    told = [line for each in shown for line in sentence(picture.changes, each, picture.unit)]
    below = frames[-1].bottom + BELOW
    height = below + LINE * len(told) + (LINE if told else 0) + 14
    things = [
        Words(kind="title", x=6, y=15, text=picture.title, colour=INK, size=LARGE, bold=True),
        *_load(frames[0], picture),
        *_replicas(frames[1], picture, shown),
        *(_times(frames[2], picture) if len(frames) > 2 else ()),
        *told_below(told, below),
        Words(kind="caption", x=6, y=height - 6, text=picture.caption + left_out, colour=GREY, size=SMALL),
    ]  # fmt: skip
    return Sheet(width=WIDTH, height=height, title=picture.title, things=tuple(things))


def _frames(picture: ServicePicture) -> list[Frame]:
    axes = [picture.load_axis, picture.replicas_axis, picture.times_axis]
    frames: list[Frame] = []
    top = TOP
    for height, axis in zip(HEIGHTS, axes, strict=True):
        if axis is not None:
            frames.append(Frame(left=LEFT, top=top, width=PANEL, height=height, x=picture.x, y=axis))
            top += height + HEAD
    return frames


def _axes(frame: Frame, head: str, *, last: bool) -> Iterator[Thing]:
    """Only the lowest panel has numbers and a name below."""
    yield Words(kind="head", x=frame.left, y=frame.top - 6, text=head, colour=INK, size=TEXT)
    for thing in axes_of(frame):
        if last or not (isinstance(thing, Words) and thing.y > frame.bottom + 5):
            yield thing


def _load(frame: Frame, picture: ServicePicture) -> Iterator[Thing]:
    yield from _axes(frame, "requests a second", last=False)
    x = frame.across(np.repeat(picture.edges, 2)[1:-1])
    floor = np.full(x.size, frame.bottom)
    answered = frame.down(np.repeat(picture.answered, 2))
    yield Area(kind="answered", x=x, top=answered, bottom=floor, colour=LOAD, opacity=0.25)
    if (picture.unanswered > 0).any():
        lost = frame.down(np.repeat(picture.unanswered, 2))
        yield Area(kind="unanswered", x=x, top=lost, bottom=floor, colour=LOST, opacity=0.55)
    yield Stroke(kind="asked", x=x, y=frame.down(np.repeat(picture.asked, 2)), colour=INK, width=1.1)
    names = [(INK, "asked"), (LOAD, "answered"), (LOST, "not answered")]
    for at, (colour, text) in enumerate(names[: 3 if (picture.unanswered > 0).any() else 2]):
        yield Words(
            kind="name", x=frame.right + 5, y=frame.top + 8 + LINE * at, text=text, colour=colour, size=TEXT
        )


def _replicas(frame: Frame, picture: ServicePicture, shown: Sequence[Change]) -> Iterator[Thing]:
    yield from _axes(frame, "replicas", last=picture.times_axis is None)
    if picture.moments.size:
        moments = np.append(picture.moments, max(picture.edges[-1], picture.moments[-1]))
        yield from staffed(frame, moments, picture.ready, picture.wanted)
    for at, (colour, text) in enumerate([(COLOURS["peak"], "ready"), (LOST, "wanted")]):
        yield Words(
            kind="name", x=frame.right + 5, y=frame.top + 8 + LINE * at, text=text, colour=colour, size=TEXT
        )
    yield from marked(frame, picture.changes, shown)


def _times(frame: Frame, picture: ServicePicture) -> Iterator[Thing]:
    yield from _axes(frame, "time to an answer, within the service (ms)", last=True)
    if picture.limit is not None:
        ends, height = np.array([frame.left, frame.right]), float(frame.down(picture.limit))
        yield Stroke(kind="limit", x=ends, y=np.full(2, height), colour=LIMIT, width=1.2, dash=(4.5, 2.6))
    middles = (picture.edges[1:] + picture.edges[:-1]) / 2
    names: list[tuple[float, str, str]] = []
    for at, line in enumerate(picture.times):
        for part in _unbroken(line.value):
            x, y = frame.across(middles[part]), frame.down(line.value[part])
            yield Stroke(kind="quantile", x=x, y=y, colour=SERIES[at], width=1.4)
            if x.size == 1:
                yield Dot(
                    kind="quantile",
                    x=float(x[0]),
                    y=float(y[0]),
                    shape="circle",
                    radius=1.6,
                    colour=SERIES[at],
                )
        last = line.value[np.isfinite(line.value)]
        if last.size:
            names.append((float(frame.down(last[-1])), SERIES[at], line.name))
    if picture.limit is not None:
        names.append((float(frame.down(picture.limit)), LIMIT, picture.limit_text))
    free = -math.inf
    for height, colour, text in sorted(names):
        free = max(height, free + TEXT + 1.5)
        yield Words(kind="name", x=frame.right + 5, y=free + 2.8, text=text, colour=colour, size=TEXT)


def _unbroken(values: Floats) -> Iterator[slice]:
    """Where values follow one another without a NaN."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(values), [False]]).astype(int)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield slice(first, end)
