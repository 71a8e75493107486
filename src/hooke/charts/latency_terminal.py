"""Latency over load drawn with characters: Braille and colours where they can be shown, ASCII alone where not."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hooke.charts.beside import numbers_below, numbers_left
from hooke.charts.canvas import Canvas
from hooke.charts.latency import LoadPicture

__all__ = ["drawn_load"]

ROWS = 14
SIDE = 6
LEAST_WIDTH = 40
_INKS = (33, 166, 36, 132)
"""In the 256 colours of terminals, of the series; the last is the promise's, and the safe rate has that of the third."""
LIMIT, SAFE = "3", "2"
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
        canvas.line([(0.0, height), (1.0, height)], LIMIT, on=4, off=2, ink="=")
    if picture.safe is not None:
        column = canvas.cell(float(x.share(picture.safe.low)), 0.0)[0]
        for row in range(canvas.rows):
            canvas.set(column, row, "|" if ascii_only else "┆", SAFE)
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
        entries.append(_painted("=" if ascii_only else "╌", LIMIT, colour=colour) + f" {picture.limit_text}")
    if picture.safe is not None:
        above = f", surely broken from {picture.safe.high:,.0f}" if math.isfinite(picture.safe.high) else ""
        entries.append(
            _painted("|" if ascii_only else "┆", SAFE, colour=colour) + f" {picture.safe.text}{above}"
        )
    yield "   ".join(entries)


def _painted(text: str, style: str, *, colour: bool) -> str:
    return f"\x1b[38;5;{_INKS[int(style)]}m{text}\x1b[0m" if colour and style and text.strip() else text
