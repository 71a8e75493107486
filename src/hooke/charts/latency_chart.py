"""Latency over load: percentiles at each rate with their intervals, the SLO, and the safe rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from hooke.charts import sheet
from hooke.charts.terminal import Canvas, Paint, inked, plain_rows, x_axis_rows
from hooke.scaling.families import Floats

__all__ = ["Latencies", "LoadPicture", "SafeRange", "latency_plot", "latency_sheet"]


WIDTH, HEIGHT = 518.0, 280.0
PANEL = (52.0, 46.0, 372.0, 186.0)
"""Left, top, width and height, with room for ticks and labels around."""
POINT = 2.3
WIDE = 8.0
"""The axis is logarithmic if the highest rate is so many times the lowest."""
SAFE, BROKEN, LIMIT = sheet.COLOURS["peak"], sheet.COLOURS["knee"], sheet.COLOURS["plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """A percentile in milliseconds at each rate (m,), ascending, with its interval; `high` may be infinite."""

    name: str
    rate: Floats
    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeRange:
    """The rate that kept the SLO, and the rate that surely broke it (infinite if none did)."""

    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPicture:
    """The chart as plain numbers: percentiles over rates, the SLO at `limit` milliseconds if any, and the caption."""

    title: str
    series: tuple[Latencies, ...]
    limit: float | None
    limit_text: str
    safe: SafeRange | None
    caption: str

    @property
    def x(self) -> sheet.Axis:
        """The axis of rates."""
        rates = np.concatenate([each.rate for each in self.series])
        low, high = float(rates.min()), float(rates.max())
        if high / low >= WIDE:
            return sheet.Axis(
                label="requests per second, offered", low=low / 1.15, high=high * 1.15, logarithmic=True
            )
        return sheet.Axis(label="requests per second, offered", low=0.0, high=high * 1.08)

    @property
    def y(self) -> sheet.Axis:
        """The axis of latencies."""
        drawn = [np.concatenate([each.value, each.low]) for each in self.series]
        ends = [each.high[np.isfinite(each.high)] for each in self.series]
        values = np.concatenate([*drawn, *ends, [self.limit or np.nan]])
        values = values[np.isfinite(values) & (values > 0)]
        return sheet.Axis(
            label="latency (ms)",
            low=float(values.min()) / 1.3,
            high=float(values.max()) * 1.3,
            logarithmic=True,
        )


def latency_sheet(picture: LoadPicture) -> sheet.Sheet:
    """The chart laid out for print."""
    left, top, width, height = PANEL
    frame = sheet.PanelFrame(left=left, top=top, width=width, height=height, x=picture.x, y=picture.y)
    named = [
        (float(frame.down(each.value[-1])), sheet.SERIES[at], each.name)
        for at, each in enumerate(picture.series)
    ]
    limit: list[sheet.SheetItem] = []
    if picture.limit is not None:
        named.append((float(frame.down(picture.limit)), LIMIT, picture.limit_text))
        limit = [
            sheet.level(frame, picture.limit, kind="limit", colour=LIMIT, width=1.2, dash=sheet.LIMIT_DASH)
        ]
    body = (
        sheet.Label(
            kind="head",
            x=frame.left,
            y=top - 8,
            text="latency from the due time of a request (ms)",
            colour=sheet.INK,
        ),
        *_safe(frame, picture.safe),
        *sheet.axes_of(frame),
        *limit,
        *(item for at, each in enumerate(picture.series) for item in _series(frame, each, sheet.SERIES[at])),
        *sheet.side_labels(frame, named),
    )
    return sheet.framed(picture.title, picture.caption, body, width=WIDTH, height=HEIGHT)


def _safe(frame: sheet.PanelFrame, safe: SafeRange | None) -> Iterator[sheet.SheetItem]:
    """A green zone up to the safe rate, a red zone from the rate that surely broke the SLO; unknown between them."""
    if safe is None:
        return
    low = float(frame.across(safe.low))
    high = min(float(frame.across(safe.high)), frame.right) if math.isfinite(safe.high) else frame.right
    for begin, end, colour in ((frame.left, low, SAFE), (high, frame.right, BROKEN)):
        if end - begin > 1:
            yield sheet.Area(
                kind="zone", x=np.array([begin, end]), top=np.full(2, frame.top), bottom=np.full(2, frame.bottom),
                colour=colour, opacity=0.08,
            )  # fmt: skip
    yield sheet.vertical(low, frame.top, frame.bottom, kind="safe", colour=SAFE, width=1.4)
    anchor = "end" if low > frame.left + frame.width / 2 else "start"
    yield sheet.Label(
        kind="name", x=low + (-4 if anchor == "end" else 4), y=frame.top + 10, text=safe.text, colour=SAFE, anchor=anchor
    )  # fmt: skip


def _series(frame: sheet.PanelFrame, each: Latencies, colour: str) -> Iterator[sheet.SheetItem]:
    x = frame.across(each.rate)
    if each.rate.size > 1:
        yield sheet.Stroke(kind="series", x=x, y=frame.down(each.value), colour=colour, width=1.5)
    top = frame.down(np.where(np.isfinite(each.high), each.high, frame.y.high))
    for at, low, high, open_ended in zip(x, frame.down(each.low), top, ~np.isfinite(each.high), strict=True):
        # A dotted bar has no upper end: too few answers.
        dash = (1.0, 2.0) if open_ended else None
        yield sheet.vertical(at, low, high, kind="bar", colour=colour, width=0.9, opacity=0.5, dash=dash)
    for at, height in zip(x.tolist(), frame.down(each.value).tolist(), strict=True):
        yield sheet.circle("point", at, height, POINT, colour)


# --- For terminals.

ROWS = 14
SIDE = 6
LEAST_WIDTH = 40
_INKS = (33, 166, 36, 132)
"""Terminal colors of the series; the safe rate has that of the third, the SLO the last."""
_LIMIT_COLOUR, _SAFE_COLOUR = "3", "2"
_SIGNS, _PLAIN_SIGNS = "○●▲■◆◇", "o*^#+x"


def latency_plot(picture: LoadPicture, *, width: int, colour: bool, ascii_only: bool) -> str:
    """The chart in lines of `width` characters (at least 40)."""
    width = max(width, LEAST_WIDTH)
    canvas = Canvas(width - SIDE - 1, ROWS, braille=not ascii_only)
    signs = _PLAIN_SIGNS if ascii_only else _SIGNS
    _fill(canvas, picture, signs, ascii_only=ascii_only)
    paint = partial(_painted, colour=colour)
    lines = [
        "ms",
        *plain_rows(canvas, picture.y, paint, side=SIDE),
        *x_axis_rows(canvas, picture.x, side=SIDE),
    ]
    return "\n".join([*lines, _legend(picture, signs, paint, ascii_only=ascii_only)])


def _fill(canvas: Canvas, picture: LoadPicture, signs: str, *, ascii_only: bool) -> None:
    """From bottom to top: SLO, safe rate, lines, points."""
    x, y = picture.x, picture.y
    if picture.limit is not None:
        height = float(y.share(picture.limit))
        canvas.line([(0.0, height), (1.0, height)], _LIMIT_COLOUR, on=4, off=2, ink="=")
    if picture.safe is not None:
        column = canvas.cell(float(x.share(picture.safe.low)), 0.0)[0]
        for row in range(canvas.rows):
            canvas.set(column, row, "|" if ascii_only else "┆", _SAFE_COLOUR)
    for at, each in enumerate(picture.series):
        places = list(zip(x.share(each.rate).tolist(), y.share(each.value).tolist(), strict=True))
        canvas.line(places, str(at), ink=".")
        for place in places:
            canvas.set(*canvas.cell(*place), signs[at], str(at))


def _legend(picture: LoadPicture, signs: str, paint: Paint, *, ascii_only: bool) -> str:
    limit_sign, safe_sign = "=|" if ascii_only else "╌┆"
    entries = [f"{paint(signs[at], str(at))} {each.name}" for at, each in enumerate(picture.series)]
    if picture.limit is not None:
        entries.append(f"{paint(limit_sign, _LIMIT_COLOUR)} {picture.limit_text}")
    if picture.safe is not None:
        above = f", surely broken from {picture.safe.high:,.0f}" if math.isfinite(picture.safe.high) else ""
        entries.append(f"{paint(safe_sign, _SAFE_COLOUR)} {picture.safe.text}{above}")
    return "   ".join(entries)


def _painted(text: str, style: str, *, colour: bool) -> str:
    return inked(text, _INKS[int(style)] if style else None, colour=colour)
