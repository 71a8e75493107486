"""A service over time: what was asked, how many replicas answered and why, how long answers took; laid out for print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hooke.charts.sheet import (
    COLOURS,
    GREY,
    INK,
    SERIES,
    Area,
    Axis,
    Dot,
    PanelFrame,
    Sheet,
    Stroke,
    Thing,
    Words,
    axes_of,
)
from hooke.charts.terminal import Canvas, numbers_below, numbers_left
from hooke.charts.workers import (
    LINE,
    LOST,
    SMALL,
    TEXT,
    WIDTH,
    SizeChange,
    marked,
    sentence,
    staffed,
    told_below,
)
from hooke.scaling.families import Floats

__all__ = ["SeriesLine", "ServicePicture", "SizeChange", "drawn_service", "sheet_of"]


LEFT, PANEL = 40.0, 396.0
HEIGHTS = (92.0, 76.0, 100.0)
"""Of the panels: load, replicas, times."""
TOP, HEAD, BELOW = 42.0, 24.0, 34.0
LARGE = 9.5
LOAD, LIMIT = COLOURS["law"], COLOURS["plain"]
MOST_CHANGES = 16
"""Sentences below the panels: the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLine:
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
    changes: tuple[SizeChange, ...]
    times: tuple[SeriesLine, ...]
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


def _frames(picture: ServicePicture) -> list[PanelFrame]:
    axes = [picture.load_axis, picture.replicas_axis, picture.times_axis]
    frames: list[PanelFrame] = []
    top = TOP
    for height, axis in zip(HEIGHTS, axes, strict=True):
        if axis is not None:
            frames.append(PanelFrame(left=LEFT, top=top, width=PANEL, height=height, x=picture.x, y=axis))
            top += height + HEAD
    return frames


def _axes(frame: PanelFrame, head: str, *, last: bool) -> Iterator[Thing]:
    """Only the lowest panel has numbers and a name below."""
    yield Words(kind="head", x=frame.left, y=frame.top - 6, text=head, colour=INK, size=TEXT)
    for thing in axes_of(frame):
        if last or not (isinstance(thing, Words) and thing.y > frame.bottom + 5):
            yield thing


def _load(frame: PanelFrame, picture: ServicePicture) -> Iterator[Thing]:
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


def _replicas(frame: PanelFrame, picture: ServicePicture, shown: Sequence[SizeChange]) -> Iterator[Thing]:
    yield from _axes(frame, "replicas", last=picture.times_axis is None)
    if picture.moments.size:
        moments = np.append(picture.moments, max(picture.edges[-1], picture.moments[-1]))
        yield from staffed(frame, moments, picture.ready, picture.wanted)
    for at, (colour, text) in enumerate([(COLOURS["peak"], "ready"), (LOST, "wanted")]):
        yield Words(
            kind="name", x=frame.right + 5, y=frame.top + 8 + LINE * at, text=text, colour=colour, size=TEXT
        )
    yield from marked(frame, picture.changes, shown)


def _times(frame: PanelFrame, picture: ServicePicture) -> Iterator[Thing]:
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


# --- A service over time drawn with characters: load, replicas and times one below the other.

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
        ("requests a second", picture.load_axis, list(_load_text(picture))),
        ("replicas", picture.replicas_axis, list(_replicas_text(picture))),
    ]
    if (axis := picture.times_axis) is not None:
        panels.append(("time to an answer (ms)", axis, list(_times_text(picture, edges))))
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


def _load_text(picture: ServicePicture) -> Iterator[_Drawn]:
    x = np.repeat(picture.edges, 2)[1:-1]
    yield _Drawn("answered", "answered", ".", x, np.repeat(picture.answered, 2))
    if (picture.unanswered > 0).any():
        yield _Drawn("not answered", "lost", "x", x, np.repeat(picture.unanswered, 2))
    yield _Drawn("asked", "asked", "*", x, np.repeat(picture.asked, 2), off=1)


def _replicas_text(picture: ServicePicture) -> Iterator[_Drawn]:
    moments = np.append(picture.moments, picture.edges[-1:])
    x = np.repeat(moments, 2)[1:-1]
    yield _Drawn("ready", "ready", "#", x, np.repeat(picture.ready, 2))
    yield _Drawn("wanted", "wanted", ".", x, np.repeat(picture.wanted, 2), off=2)


def _times_text(picture: ServicePicture, edges: Floats) -> Iterator[_Drawn]:
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
