"""Figures drawn with characters: Braille and colors, or ASCII alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from hooke.charts.curve_picture import CurveLine, CurvePicture, Panel
from hooke.charts.sheet import Axis

__all__ = ["Canvas", "Ink", "Paint", "curve_plot", "inked", "plain_rows", "x_axis_rows"]


_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille cell, of 2 x 4 dots, by row and column (Unicode chapter 21, "Braille Patterns")."""


class Canvas:
    """A grid of `columns` x `rows` characters; Braille gives each 2 x 4 dots.

    Places are shares of width and height, 0 to 1, from the left bottom. Later lines lie above earlier ones. `styles` names
    the ink of each character.
    """

    def __init__(self, columns: int, rows: int, *, braille: bool) -> None:
        self.columns, self.rows = columns, rows
        self.braille = braille
        self.across, self.up = (2, 4) if braille else (1, 1)
        self.characters = [[" "] * columns for _ in range(rows)]
        self.styles = [[""] * columns for _ in range(rows)]

    def line(
        self, points: Iterable[tuple[float, float]], style: str, *, on: int = 1, off: int = 0, ink: str = "*"
    ) -> None:
        """Join the points with `on` dots, then a gap of `off`, and so on. `ink` is the character used without Braille."""
        drawn = -1
        last: tuple[int, int] | None = None
        for place in points:
            here = self._dot(*place)
            for dot in [here] if last is None else _between(last, here):
                drawn += 1
                if drawn % (on + off) < on:
                    self._mark(dot, style, ink)
            last = here

    def set(self, column: int, row: int, character: str, style: str) -> None:
        """Set one character, row 0 being the top. Cells outside the canvas are ignored."""
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.characters[row][column], self.styles[row][column] = character, style

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """The column and the row (from the top) of a place."""
        column, dot = self._dot(x, y)
        return column // self.across, dot // self.up

    def _dot(self, x: float, y: float) -> tuple[int, int]:
        wide, high = self.columns * self.across - 1, self.rows * self.up - 1
        return round(x * wide), round((1 - y) * high)

    def _mark(self, dot: tuple[int, int], style: str, ink: str) -> None:
        column, row = dot[0] // self.across, dot[1] // self.up
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            return
        before = self.characters[row][column]
        if not self.braille:
            self.characters[row][column] = ink
        else:
            # Dots of an earlier line stay and take the new color.
            there = ord(before) - 0x2800 if 0x2800 <= ord(before) < 0x2900 else 0
            self.characters[row][column] = chr(0x2800 + (there | _DOTS[dot[1] % 4][dot[0] % 2]))
        self.styles[row][column] = style


def _between(one: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots after `one` up to `other`, each beside the one before."""
    steps = max(abs(other[0] - one[0]), abs(other[1] - one[1]))
    return [
        (
            one[0] + round((other[0] - one[0]) * step / steps),
            one[1] + round((other[1] - one[1]) * step / steps),
        )
        for step in range(1, steps + 1)
    ]


# --- Axes beside a canvas.

Paint: TypeAlias = Callable[[str, str], str]
"""A text in the color of a style."""


def inked(text: str, number: int | None, *, colour: bool) -> str:
    """The text in a color of the 256 of terminals."""
    return f"\x1b[38;5;{number}m{text}\x1b[0m" if colour and number and text.strip() else text


def plot_rows(canvas: Canvas, y: Axis, paint: Paint, *, side: int, axis: str) -> Iterator[str]:
    """The rows of the canvas, each after its tick in `side` columns and the `axis` character."""
    ticks = {canvas.cell(0.0, float(y.share(tick)))[1]: y.written(tick) for tick in y.ticks()}
    for row in range(canvas.rows):
        cells = zip(canvas.characters[row], canvas.styles[row], strict=True)
        body = "".join(paint(character, style) for character, style in cells)
        yield f"{ticks.get(row, ''):>{side}}{axis}{body}"


def plain_rows(canvas: Canvas, y: Axis, paint: Paint, *, side: int) -> Iterator[str]:
    """The rows of the canvas and the line of the x axis below."""
    axis, corner, rule = "│└─" if canvas.braille else "|+-"
    yield from (row.rstrip() for row in plot_rows(canvas, y, paint, side=side, axis=axis))
    yield " " * side + corner + rule * canvas.columns


def x_axis_rows(canvas: Canvas, x: Axis, *, side: int) -> Iterator[str]:
    """The ticks of the x axis, each centered below its place unless it would touch the one before, and the label."""
    line = ""
    for tick in x.ticks():
        text = x.written(tick)
        start = max(canvas.cell(float(x.share(tick)), 0.0)[0] - len(text) // 2, 0)
        if (not line or start > len(line)) and start + len(text) <= canvas.columns:
            line = line.ljust(start) + text
    yield " " * (side + 1) + line
    yield f"{x.label:>{side + 1 + canvas.columns}}"


# --- A curve.

ROWS = 14
LEAST_BESIDE = 72
"""The least width for two panels side by side."""
LEAST_WIDTH = 40
GAP = 3
SIDE = 5
"""Columns for the ticks of the y axis."""

_COLOURS = {
    "law": 33,
    "band": 33,
    "ideal": 244,
    "plain": 132,
    "knee": 166,
    "peak": 36,
    "COST": 132,
    "axis": 244,
}
"""The palette of the other figures in the 256 colors of terminals; points have the text's own color."""
_NAMES = (
    "points",
    "bar",
    "band",
    "law",
    "beyond",
    "ideal",
    "plain",
    "knee",
    "peak",
    "COST",
    "rule",
    "side",
    "corner",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """Whether the terminal shows colors, and whether only ASCII."""

    colour: bool
    ascii_only: bool

    def symbol(self, name: str) -> str:
        """The character for an item of `_NAMES`."""
        symbols = "o|:*-.=kpc-|+" if self.ascii_only else "●│░⠉⠉⠂⠤◆▲■─│└"
        return symbols[_NAMES.index(name)]

    def paint(self, text: str, style: str) -> str:
        """The text in the color of its style."""
        return inked(text, _COLOURS.get(style), colour=self.colour)


@dataclass(frozen=True, slots=True)
class _Text:
    """A line and its visible length."""

    text: str
    length: int


def curve_plot(picture: CurvePicture, *, width: int, ink: Ink) -> str:
    """The curve in lines of at most `width` characters (at least 40), panels side by side if they fit."""
    width = max(width, LEAST_WIDTH)
    beside = width >= LEAST_BESIDE
    each = (width - GAP) // 2 if beside else width
    blocks = [list(_panel(picture, panel, each, ink)) for panel in picture.panels]
    if beside:
        rows = zip_longest(*blocks, fillvalue=_Text("", 0))
        lines = [(" " * GAP).join(part.text + " " * (each - part.length) for part in row) for row in rows]
    else:
        lines = [part.text for block in blocks for part in block]
    return "\n".join(line.rstrip() for line in [*lines, *_legend(picture, ink, width)])


def _panel(picture: CurvePicture, panel: Panel, width: int, ink: Ink) -> Iterator[_Text]:
    """The title, the plot with its axes, and what N counts."""
    canvas = Canvas(width - SIDE - 1, ROWS, braille=not ink.ascii_only)
    _fill(canvas, picture, panel, ink)
    title = panel.y.label if panel.y.percent else f"{panel.y.label}; {picture.unit_text}"
    yield _Text(title[:width], len(title[:width]))
    axis = ink.paint(ink.symbol("side"), "axis")
    for row in plot_rows(canvas, panel.y, ink.paint, side=SIDE, axis=axis):
        yield _Text(row, width)
    yield _Text(" " * SIDE + _rule(picture, canvas, ink), width)
    for row in x_axis_rows(canvas, picture.x, side=SIDE):
        yield _Text(row, len(row))


def _fill(canvas: Canvas, picture: CurvePicture, panel: Panel, ink: Ink) -> None:
    """From bottom to top: ideal, plain call, band, law, points."""
    sparse = (1, 5) if canvas.braille else (1, 1)
    canvas.line(
        _places(picture, panel, panel.ideal), "ideal", on=sparse[0], off=sparse[1], ink=ink.symbol("ideal")
    )
    if panel.plain is not None:
        height = float(panel.y.share(panel.plain))
        canvas.line([(0.0, height), (1.0, height)], "plain", on=4, off=2, ink=ink.symbol("plain"))
    for line in panel.lines:
        _shade(canvas, picture, panel, line, ink)
    for line in panel.lines:
        on, off = (3, 3) if line.dashed and canvas.braille else (1, 0)
        symbol = ink.symbol("beyond" if line.dashed else "law")
        canvas.line(_places(picture, panel, line), "law", on=on, off=off, ink=symbol)
    _dots(canvas, picture, panel, ink)


def _places(picture: CurvePicture, panel: Panel, line: CurveLine) -> list[tuple[float, float]]:
    return list(zip(picture.x.share(line.n).tolist(), panel.y.share(line.value).tolist(), strict=True))


def _shade(canvas: Canvas, picture: CurvePicture, panel: Panel, line: CurveLine, ink: Ink) -> None:
    """The band, where it is more than a character high and nothing else is drawn."""
    shares = (picture.x.share(line.n), panel.y.share(line.low), panel.y.share(line.high))
    for x, low, high in zip(*(each.tolist() for each in shares), strict=True):
        column, top = canvas.cell(x, min(high, 1.0))
        bottom = canvas.cell(x, max(low, 0.0))[1]
        for row in range(max(top, 0), min(bottom, canvas.rows - 1) + 1 if bottom > top else 0):
            if column < canvas.columns and canvas.characters[row][column] == " ":
                canvas.characters[row][column], canvas.styles[row][column] = ink.symbol("band"), "band"


def _dots(canvas: Canvas, picture: CurvePicture, panel: Panel, ink: Ink) -> None:
    points = panel.points
    shares = (
        picture.x.share(points.n),
        *(panel.y.share(each) for each in (points.value, points.low, points.high)),
    )
    places = list(zip(*(each.tolist() for each in shares), strict=True))
    for x, _, low, high in places:
        column, top = canvas.cell(x, min(high, 1.0))
        bottom = canvas.cell(x, max(low, 0.0))[1]
        for row in range(top, bottom + 1 if bottom > top else top):
            canvas.set(column, row, ink.symbol("bar"), "points")
    for x, value, _, _ in places:
        canvas.set(*canvas.cell(x, value), ink.symbol("points"), "points")


def _rule(picture: CurvePicture, canvas: Canvas, ink: Ink) -> str:
    """The x axis with the marks on it."""
    cells = [ink.paint(ink.symbol("rule"), "axis")] * canvas.columns
    for mark in picture.marks:
        column = canvas.cell(float(picture.x.share(mark.n)), 0.0)[0]
        if 0 <= column < canvas.columns:
            cells[column] = ink.paint(ink.symbol(mark.kind), mark.kind)
    return ink.paint(ink.symbol("corner"), "axis") + "".join(cells)


def _legend(picture: CurvePicture, ink: Ink, width: int) -> list[str]:
    """The meaning of the symbols, in as few lines as the width allows."""
    entries = [
        ("points", "points", picture.points_text),
        ("law", "law", picture.law_text),
        ("band", "band", picture.band_text),
        ("ideal", "ideal", "ideal"),
        *((mark.kind, mark.kind, mark.text) for mark in picture.marks),
    ]
    if picture.panels[0].plain is not None:
        entries.append(("plain", "plain", "plain call"))
    lines: list[str] = []
    length = width
    for name, style, words in entries:
        symbol = (
            ink.symbol(name)
            if name not in {"law", "ideal"} or ink.ascii_only
            else {"law": "⠤⠤", "ideal": "⠂⠂"}[name]
        )
        text, size = f"{ink.paint(symbol, style)} {words}", len(symbol) + 1 + len(words)
        if length + 3 + size > width:
            lines.append(text)
            length = size
        else:
            lines[-1] += "   " + text
            length += 3 + size
    return lines
