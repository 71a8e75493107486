"""Latency over load: percentiles at each rate with their intervals, the promise, and the safe rate; laid out for print."""

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
from hooke.scaling.families import Floats

__all__ = ["Latencies", "LoadPicture", "Safe", "drawn_load", "sheet_of"]


WIDTH, HEIGHT = 518.0, 280.0
PANEL = (52.0, 46.0, 372.0, 186.0)
"""Left, top, width and height, within room for numbers and names."""
TEXT, LARGE, SMALL = 8.0, 9.5, 7.0
POINT = 2.3
WIDE = 8.0
"""The highest rate over the lowest from which the axis is logarithmic."""
SAFE, BROKEN, LIMIT = COLOURS["peak"], COLOURS["knee"], COLOURS["plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """A percentile: milliseconds at each rate (m,), ascending, within `low` and `high`, which may be infinite."""

    name: str
    rate: Floats
    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Safe:
    """The rate that held, and the one that surely broke the promise (infinite where none did)."""

    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPicture:
    """What is drawn: series of one or more rates, the promise at `limit` milliseconds if there is one, and what is said below."""

    title: str
    series: tuple[Latencies, ...]
    limit: float | None
    limit_text: str
    safe: Safe | None
    caption: str

    @property
    def x(self) -> Axis:
        """The axis of rates."""
        rates = np.concatenate([each.rate for each in self.series])
        low, high = float(rates.min()), float(rates.max())
        if high / low >= WIDE:
            return Axis(label="requests due a second", low=low / 1.15, high=high * 1.15, logarithmic=True)
        return Axis(label="requests due a second", low=0.0, high=high * 1.08)

    @property
    def y(self) -> Axis:
        """The axis of latencies."""
        drawn = [np.concatenate([each.value, each.low]) for each in self.series]
        ends = [each.high[np.isfinite(each.high)] for each in self.series]
        values = np.concatenate([*drawn, *ends, [self.limit or np.nan]])
        values = values[np.isfinite(values) & (values > 0)]
        return Axis(
            label="latency (ms)",
            low=float(values.min()) / 1.3,
            high=float(values.max()) * 1.3,
            logarithmic=True,
        )


def sheet_of(picture: LoadPicture) -> Sheet:
    """The sheet of a picture."""
    left, top, width, height = PANEL
    frame = PanelFrame(left=left, top=top, width=width, height=height, x=picture.x, y=picture.y)
    things = (
        Words(kind="title", x=6, y=15, text=picture.title, colour=INK, size=LARGE, bold=True),
        Words(kind="head", x=frame.left, y=top - 8, text="latency, counted from when a request was due (ms)", colour=INK, size=TEXT),
        *_safe(frame, picture.safe),
        *axes_of(frame),
        *_limit(frame, picture),
        *(thing for at, each in enumerate(picture.series) for thing in _series(frame, each, SERIES[at])),
        *_names(frame, picture),
        Words(kind="caption", x=6, y=HEIGHT - 7, text=picture.caption, colour=GREY, size=SMALL),
    )  # fmt: skip
    return Sheet(width=WIDTH, height=HEIGHT, title=picture.title, things=things)


def _safe(frame: PanelFrame, safe: Safe | None) -> Iterator[Thing]:
    """Green up to the safe rate; between it and the one that surely broke it nobody knows."""
    if safe is None:
        return
    low = float(frame.across(safe.low))
    high = min(float(frame.across(safe.high)), frame.right) if math.isfinite(safe.high) else frame.right
    for begin, end, colour in ((frame.left, low, SAFE), (high, frame.right, BROKEN)):
        if end - begin > 1:
            x = np.array([begin, end])
            yield Area(
                kind="zone",
                x=x,
                top=np.full(2, frame.top),
                bottom=np.full(2, frame.bottom),
                colour=colour,
                opacity=0.08,
            )
    yield Stroke(
        kind="safe", x=np.full(2, low), y=np.array([frame.top, frame.bottom]), colour=SAFE, width=1.4
    )
    anchor = "end" if low > frame.left + frame.width / 2 else "start"
    yield Words(
        kind="name", x=low + (-4 if anchor == "end" else 4), y=frame.top + 10, text=safe.text, colour=SAFE, size=TEXT, anchor=anchor
    )  # fmt: skip


def _limit(frame: PanelFrame, picture: LoadPicture) -> Iterator[Thing]:
    if picture.limit is not None:
        height = float(frame.down(picture.limit))
        ends = np.array([frame.left, frame.right])
        yield Stroke(kind="limit", x=ends, y=np.full(2, height), colour=LIMIT, width=1.2, dash=(4.5, 2.6))


def _series(frame: PanelFrame, each: Latencies, colour: str) -> Iterator[Thing]:
    x = frame.across(each.rate)
    if each.rate.size > 1:
        yield Stroke(kind="series", x=x, y=frame.down(each.value), colour=colour, width=1.5)
    top = frame.down(np.where(np.isfinite(each.high), each.high, frame.y.high))
    for at, low, high, open_ended in zip(x, frame.down(each.low), top, ~np.isfinite(each.high), strict=True):
        # An end that so few answers cannot tell is dotted.
        yield Stroke(
            kind="bar", x=np.full(2, at), y=np.array([low, high]), colour=colour, width=0.9, opacity=0.5,
            dash=(1.0, 2.0) if open_ended else None,
        )  # fmt: skip
    for at, height in zip(x.tolist(), frame.down(each.value).tolist(), strict=True):
        yield Dot(kind="point", x=at, y=height, shape="circle", radius=POINT, colour=colour)


def _names(frame: PanelFrame, picture: LoadPicture) -> Iterator[Words]:
    """Right of the panel, at the height of each line's end, none on another."""
    named = [
        (float(frame.down(each.value[-1])), SERIES[at], each.name) for at, each in enumerate(picture.series)
    ]
    if picture.limit is not None:
        named.append((float(frame.down(picture.limit)), LIMIT, picture.limit_text))
    for height, (_, colour, text) in zip(
        _apart([each[0] for each in sorted(named)]), sorted(named), strict=True
    ):
        yield Words(kind="name", x=frame.right + 5, y=height + 2.8, text=text, colour=colour, size=TEXT)


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, each at least a line below the one before."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + TEXT + 1.5) if moved else height)
    return moved


# --- Latency over load drawn with characters: Braille and colours where they can be shown, ASCII alone where not.

ROWS = 14
SIDE = 6
LEAST_WIDTH = 40
_INKS = (33, 166, 36, 132)
"""In the 256 colours of terminals, of the series; the last is the promise's, and the safe rate has that of the third."""
_LIMIT_COLOUR, _SAFE_COLOUR = "3", "2"
_SIGNS, _PLAIN_SIGNS = "○●▲■◆◇", "o*^#+x"


def drawn_load(picture: LoadPicture, *, width: int, colour: bool, ascii_only: bool) -> str:
    """The picture in lines of `width` characters (40 at least)."""
    width = max(width, LEAST_WIDTH)
    canvas = Canvas(width - SIDE - 1, ROWS, braille=not ascii_only)
    signs = _PLAIN_SIGNS if ascii_only else _SIGNS
    _fill(canvas, picture, signs, ascii_only=ascii_only)
    numbers = numbers_left(picture.y, canvas)
    lines = ["ms"]
    for row in range(ROWS):
        cells = zip(canvas.characters[row], canvas.styles[row], strict=True)
        body = "".join(_painted(character, style, colour=colour) for character, style in cells)
        lines.append(f"{numbers.get(row, ''):>{SIDE}}{'|' if ascii_only else '│'}{body}".rstrip())
    lines.append(" " * SIDE + ("+" + "-" * canvas.columns if ascii_only else "└" + "─" * canvas.columns))
    lines.append(" " * (SIDE + 1) + numbers_below(picture.x, canvas))
    lines.append(f"{picture.x.label:>{width}}")
    return "\n".join([*lines, *_legend(picture, signs, colour=colour, ascii_only=ascii_only)])


def _fill(canvas: Canvas, picture: LoadPicture, signs: str, *, ascii_only: bool) -> None:
    """What is drawn later lies above: the promise, the safe rate, lines, points."""
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


def _legend(picture: LoadPicture, signs: str, *, colour: bool, ascii_only: bool) -> Iterator[str]:
    entries = [
        _painted(signs[at], str(at), colour=colour) + f" {each.name}"
        for at, each in enumerate(picture.series)
    ]
    if picture.limit is not None:
        entries.append(
            _painted("=" if ascii_only else "╌", _LIMIT_COLOUR, colour=colour) + f" {picture.limit_text}"
        )
    if picture.safe is not None:
        above = f", surely broken from {picture.safe.high:,.0f}" if math.isfinite(picture.safe.high) else ""
        entries.append(
            _painted("|" if ascii_only else "┆", _SAFE_COLOUR, colour=colour) + f" {picture.safe.text}{above}"
        )
    yield "   ".join(entries)


def _painted(text: str, style: str, *, colour: bool) -> str:
    return f"\x1b[38;5;{_INKS[int(style)]}m{text}\x1b[0m" if colour and style and text.strip() else text
