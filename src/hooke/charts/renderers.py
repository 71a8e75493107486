"""A sheet as an SVG or PNG file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.base.files import write_atomic
from hooke.base.formats import readable
from hooke.charts.sheet import (
    COLOURS,
    GREY,
    INK,
    LAW_ON_EITHER,
    SERIES,
    Area,
    Dot,
    Label,
    Sheet,
    SheetItem,
    Stroke,
)
from hooke.scaling.families import Floats

__all__ = ["inline_svg", "page_svg", "png_of", "save_as", "svg_of", "theme_class"]


def save_as(path: str | Path, what: str, makers: Mapping[str, Callable[[], str | bytes]]) -> Path:
    """Write the file that the maker of the path's ending returns, and return the path; `what` is named in messages.

    Raises UsageError for another ending and for a missing folder, OSError, and what the maker raises.
    """
    file = Path(path)
    make = makers.get(file.suffix.lower())
    if make is None:
        raise UsageError(
            f"{what} cannot be saved as {file.name!r}", fix=f"end the name with {', '.join(makers)}"
        )
    if not file.absolute().parent.is_dir():
        raise UsageError(
            f"{file}: its folder does not exist", fix=f"mkdir -p {file.parent}, or choose another path"
        )
    made = make()
    write_atomic(file, made.encode() if isinstance(made, str) else made)
    return file


# --- SVG: text stays text.

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


def svg_of(sheet: Sheet) -> str:
    """An SVG file, on white."""
    size = f'width="{sheet.width:g}pt" height="{sheet.height:g}pt"'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_svg(sheet, size, ground)}\n'


def inline_svg(sheet: Sheet) -> str:
    """Markup inside a page, in the page's background and text color, as wide as there is room."""
    size = f'style="width:{1.5 * sheet.width:g}px;max-width:100%;height:auto"'
    return _svg(sheet, size, "").replace(INK, "currentColor").replace(COLOURS["law"], LAW_ON_EITHER)


_THEME = {INK: "ink", GREY: "grey"} | {
    colour: f"series{at}" for at, colour in enumerate(SERIES, 1) if colour not in (INK, GREY)
}
"""Colour -> its name in the style of pages, which has a light and a dark one."""


def theme_class(colour: str) -> str:
    """The CSS class, and the variable without its dashes, of one of the charts' colours."""
    return _THEME[colour]


def page_svg(sheet: Sheet) -> str:
    """Markup for a page under a policy without inline styles: colours are CSS variables, and hints are `data-t`.

    It takes the focus, so that a script can say its hints to those who use a keyboard.
    """
    body = "\n".join(_element(item, page=True) for item in sheet.items)
    return (
        f'<svg class="chart" tabindex="0" viewBox="0 0 {sheet.width:g} {sheet.height:g}" role="img" '
        f"aria-label={quoteattr(readable(sheet.title))}>\n{body}\n</svg>"
    )


def _svg(sheet: Sheet, size: str, ground: str) -> str:
    body = "\n".join(filter(None, [ground, *map(_element, sheet.items)]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {sheet.width:g} {sheet.height:g}" '
        f'role="img" aria-label={quoteattr(sheet.title)} font-family="{FONTS}">\n{body}\n</svg>'
    )


def _element(item: SheetItem, *, page: bool = False) -> str:
    colour = f"var(--{_THEME[item.colour]})" if page else item.colour
    kind = f"chart-{item.kind}" if page else item.kind
    match item:
        case Stroke():
            dash = "" if item.dash is None else f' stroke-dasharray="{item.dash[0]:g} {item.dash[1]:g}"'
            faint = "" if item.opacity == 1 else f' stroke-opacity="{item.opacity:g}"'
            return (
                f'<path class="{kind}" d="{_path(zip(item.x, item.y, strict=True))}" fill="none" '
                f'stroke="{colour}" stroke-width="{item.width:g}" stroke-linejoin="round"{dash}{faint}/>'
            )
        case Area():
            x, y = np.append(item.x, item.x[::-1]), np.append(item.top, item.bottom[::-1])
            drawn = f'class="{kind}" d="{_path(zip(x, y, strict=True))}Z" fill="{colour}"'
            return _hinted("path", f'{drawn} fill-opacity="{item.opacity:g}"', item.hint, page=page)
        case Dot():
            return _dot(item, kind, colour, page=page)
        case Label():
            return _text(item, kind, colour)


def _hinted(tag: str, drawn: str, hint: str, *, page: bool) -> str:
    """An element with its tooltip: a page's script shows `data-t`, a viewer of files a title."""
    if not hint:
        return f"<{tag} {drawn}/>"
    if page:
        return f"<{tag} {drawn} data-t={quoteattr(readable(hint))}/>"
    return f"<{tag} {drawn}><title>{escape(hint)}</title></{tag}>"


def _dot(dot: Dot, kind: str, colour: str, *, page: bool) -> str:
    drawn = f'class="{kind}" fill="{colour}"'
    if dot.shape == "circle":
        tag, form = "circle", f'cx="{dot.x:.2f}" cy="{dot.y:.2f}" r="{dot.radius:g}"'
    else:
        corners = [(dot.x + dot.radius * x, dot.y + dot.radius * y) for x, y in dot.corners]
        tag, form = "path", f'd="{_path(corners)}Z"'
    return _hinted(tag, f"{drawn} {form}", dot.hint, page=page)


def _text(words: Label, kind: str, colour: str) -> str:
    anchor = "" if words.anchor == "start" else f' text-anchor="{words.anchor}"'
    bold = ' font-weight="bold"' if words.bold else ""
    return (
        f'<text class="{kind}" x="{words.x:.2f}" y="{words.y:.2f}" font-size="{words.size:g}" '
        f'fill="{colour}"{anchor}{bold}>{escape(words.text)}</text>'
    )


def _path(corners: Iterable[tuple[float, float] | Floats]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in corners)


# --- PNG, drawn by Pillow with its own font: no display, no browser, the same bytes everywhere.

DPI = 96
"""Dots per inch at scale 1, as on screens."""
OVERSAMPLING = 3
"""Figures are drawn so many times larger and then reduced, because Pillow does not antialias lines."""
BOLD = 0.03
"""The extra stroke of bold letters, in ems."""


def png_of(sheet: Sheet, *, scale: float = 2.0) -> bytes:
    """A PNG file on white, with 96 dots an inch times `scale`.

    Raises UsageError for a scale out of bounds, MissingExtra if Pillow is not installed.
    """
    if not (math.isfinite(scale) and 0.25 <= scale <= 16):
        raise UsageError(
            f"scale is {scale!r}", fix="use a number from 0.25 to 16, such as 2 for sharp screens"
        )
    dots = DPI * scale
    size = round(sheet.width * dots / 72), round(sheet.height * dots / 72)
    raster = _Raster((size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), dots / 72 * OVERSAMPLING)
    for item in sheet.items:
        raster.draw(item)
    file = BytesIO()
    raster.image.resize(size, raster.library.Resampling.BOX).save(
        file, "PNG", optimize=True, dpi=(dots, dots)
    )
    return file.getvalue()


class _Raster:
    """White pixels to draw on. Coordinates are in points."""

    def __init__(self, size: tuple[int, int], scale: float) -> None:
        try:
            self.library: Any = import_module("PIL.Image")
            self._font: Any = import_module("PIL.ImageFont").load_default
            self._pen: Any = import_module("PIL.ImageDraw").Draw
        except ImportError as error:
            raise MissingExtra(
                "a PNG file needs Pillow, which is not installed",
                why=str(error),
                fix=f"{install_command('plot')}, or save as .svg",
            ) from error
        self.image: Any = self.library.new("RGB", size, "white")
        self._scale = scale

    def draw(self, item: SheetItem) -> None:
        """Draw `item` on top."""
        match item:
            case Stroke(opacity=1):
                self._stroke(self._pen(self.image), item, item.colour)
            case Stroke() | Area():
                self._faintly(item)
            case Dot():
                self._dot(item)
            case Label():
                self._words(item)

    def _faintly(self, item: Stroke | Area) -> None:
        """Blend the colour in through a mask of the item's form."""
        mask = self.library.new("L", self.image.size, 0)
        if isinstance(item, Stroke):
            self._stroke(self._pen(mask), item, 255)
        else:
            self._pen(mask).polygon(self._around(item), fill=255)
        self.image.paste(item.colour, mask=mask.point([round(item.opacity * share) for share in range(256)]))

    def _stroke(self, pen: Any, stroke: Stroke, ink: str | int) -> None:
        line = np.column_stack([stroke.x, stroke.y]) * self._scale
        dash = None if stroke.dash is None else (stroke.dash[0] * self._scale, stroke.dash[1] * self._scale)
        for part in [line] if dash is None else _dashes(line, *dash):
            corners = [tuple(corner) for corner in part.tolist()]
            pen.line(corners, fill=ink, width=max(1, round(stroke.width * self._scale)), joint="curve")

    def _around(self, area: Area) -> list[tuple[float, float]]:
        x = np.append(area.x, area.x[::-1])
        y = np.append(area.top, area.bottom[::-1])
        return [tuple(corner) for corner in (np.column_stack([x, y]) * self._scale).tolist()]

    def _dot(self, dot: Dot) -> None:
        middle, radius = np.array([dot.x, dot.y]) * self._scale, dot.radius * self._scale
        pen = self._pen(self.image)
        if dot.shape == "circle":
            pen.ellipse([*(middle - radius), *(middle + radius)], fill=dot.colour)
        else:
            pen.polygon(
                [tuple(middle + radius * np.array(corner)) for corner in dot.corners], fill=dot.colour
            )

    def _words(self, words: Label) -> None:
        size = words.size * self._scale
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[words.anchor]
        self._pen(self.image).text(
            (words.x * self._scale, words.y * self._scale),
            words.text,
            fill=words.colour,
            font=self._font(size),
            anchor=anchor,
            stroke_width=BOLD * size if words.bold else 0,
        )


def _dashes(line: Floats, on: float, off: float) -> list[Floats]:
    """The dashes of `line` (m, 2): pieces of length `on` with gaps of length `off`."""
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    pieces = []
    for start in np.arange(0.0, lengths[-1], on + off):
        end = min(start + on, lengths[-1])
        at = np.concatenate([[start], lengths[(lengths > start) & (lengths < end)], [end]])
        pieces.append(np.column_stack([np.interp(at, lengths, line[:, axis]) for axis in (0, 1)]))
    return pieces
