"""A picture drawn with characters: Braille and colours where they can be shown, ASCII alone where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from hooke.charts.beside import numbers_below, numbers_left
from hooke.charts.canvas import Canvas
from hooke.charts.picture import Line, Panel, Picture

__all__ = ["Ink", "drawn"]

ROWS = 14
LEAST_BESIDE = 72
"""Columns from which two panels fit side by side."""
LEAST_WIDTH = 40
GAP = 3
SIDE = 5
"""Columns of the y axis's numbers."""

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
"""The palette of the other pictures (Okabe & Ito), in the 256 colours of terminals; points in the text's own."""
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
    """What the terminal can show."""

    colour: bool
    ascii_only: bool

    def symbol(self, name: str) -> str:
        """The character for a thing that is drawn."""
        symbols = "o|:*-.=kpc-|+" if self.ascii_only else "●│░⠉⠉⠂⠤◆▲■─│└"
        return symbols[_NAMES.index(name)]

    def paint(self, text: str, style: str) -> str:
        """The text in the colour of its style, where there are colours."""
        number = _COLOURS.get(style)
        return f"\x1b[38;5;{number}m{text}\x1b[0m" if self.colour and number and text.strip() else text


@dataclass(frozen=True, slots=True)
class _Text:
    """A line with its visible length."""

    text: str
    length: int


def drawn(picture: Picture, *, width: int, ink: Ink) -> str:
    """The picture in lines of at most `width` characters (40 at least): panels side by side where they fit."""
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


def _panel(picture: Picture, panel: Panel, width: int, ink: Ink) -> Iterator[_Text]:
    """The panel's lines: what it shows, the plot with its axes, what N is."""
    canvas = Canvas(width - SIDE - 1, ROWS, braille=not ink.ascii_only)
    _fill(canvas, picture, panel, ink)
    title = panel.y.label if panel.y.percent else f"{panel.y.label}; {picture.unit_text}"
    yield _Text(title[:width], len(title[:width]))
    numbers = numbers_left(panel.y, canvas)
    side = ink.paint(ink.symbol("side"), "axis")
    for row in range(ROWS):
        cells = zip(canvas.characters[row], canvas.styles[row], strict=True)
        body = "".join(ink.paint(character, style) for character, style in cells)
        yield _Text(f"{numbers.get(row, ''):>{SIDE}}{side}{body}", width)
    yield _Text(" " * SIDE + _rule(picture, canvas, ink), width)
    below = numbers_below(picture.x, canvas)
    yield _Text(" " * (SIDE + 1) + below, SIDE + 1 + len(below))
    yield _Text(f"{picture.x.label:>{width}}", width)


def _fill(canvas: Canvas, picture: Picture, panel: Panel, ink: Ink) -> None:
    """What is drawn later lies above: ideal, plain call, band, law, points."""
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


def _places(picture: Picture, panel: Panel, line: Line) -> list[tuple[float, float]]:
    return list(zip(picture.x.share(line.n).tolist(), panel.y.share(line.value).tolist(), strict=True))


def _shade(canvas: Canvas, picture: Picture, panel: Panel, line: Line, ink: Ink) -> None:
    """The band, where it is higher than a character and nothing else is drawn."""
    shares = (picture.x.share(line.n), panel.y.share(line.low), panel.y.share(line.high))
    for x, low, high in zip(*(each.tolist() for each in shares), strict=True):
        column, top = canvas.cell(x, min(high, 1.0))
        bottom = canvas.cell(x, max(low, 0.0))[1]
        for row in range(max(top, 0), min(bottom, canvas.rows - 1) + 1 if bottom > top else 0):
            if column < canvas.columns and canvas.characters[row][column] == " ":
                canvas.characters[row][column], canvas.styles[row][column] = ink.symbol("band"), "band"


def _dots(canvas: Canvas, picture: Picture, panel: Panel, ink: Ink) -> None:
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


def _rule(picture: Picture, canvas: Canvas, ink: Ink) -> str:
    """The x axis, with the marks on it."""
    cells = [ink.paint(ink.symbol("rule"), "axis")] * canvas.columns
    for mark in picture.marks:
        column = canvas.cell(float(picture.x.share(mark.n)), 0.0)[0]
        if 0 <= column < canvas.columns:
            cells[column] = ink.paint(ink.symbol(mark.kind), mark.kind)
    return ink.paint(ink.symbol("corner"), "axis") + "".join(cells)


def _legend(picture: Picture, ink: Ink, width: int) -> list[str]:
    """What the signs mean, in as few lines as the width allows."""
    entries = [
        ("points", "points", "measured"),
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
