"""A sheet as SVG: real text and lines, for papers and pages."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from hooke.charts.palette import COLOURS, INK, LAW_ON_EITHER
from hooke.charts.sheet import Area, Dot, Sheet, Stroke, Thing, Words
from hooke.scaling.families import Floats

__all__ = ["inline_svg", "svg_of"]

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


def svg_of(sheet: Sheet) -> str:
    """A file of its own, on white."""
    size = f'width="{sheet.width:g}pt" height="{sheet.height:g}pt"'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_svg(sheet, size, ground)}\n'


def inline_svg(sheet: Sheet) -> str:
    """Markup within a page, on the page's ground and in its text colour, no wider than there is room."""
    size = f'style="width:{1.5 * sheet.width:g}px;max-width:100%;height:auto"'
    return _svg(sheet, size, "").replace(INK, "currentColor").replace(COLOURS["law"], LAW_ON_EITHER)


def _svg(sheet: Sheet, size: str, ground: str) -> str:
    body = "\n".join(filter(None, [ground, *map(_element, sheet.things)]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {sheet.width:g} {sheet.height:g}" '
        f'role="img" aria-label={quoteattr(sheet.title)} font-family="{FONTS}">\n{body}\n</svg>'
    )


def _element(thing: Thing) -> str:
    match thing:
        case Stroke():
            dash = "" if thing.dash is None else f' stroke-dasharray="{thing.dash[0]:g} {thing.dash[1]:g}"'
            faint = "" if thing.opacity == 1 else f' stroke-opacity="{thing.opacity:g}"'
            return (
                f'<path class="{thing.kind}" d="{_path(zip(thing.x, thing.y, strict=True))}" fill="none" '
                f'stroke="{thing.colour}" stroke-width="{thing.width:g}" stroke-linejoin="round"{dash}{faint}/>'
            )
        case Area():
            x, y = np.append(thing.x, thing.x[::-1]), np.append(thing.top, thing.bottom[::-1])
            return (
                f'<path class="{thing.kind}" d="{_path(zip(x, y, strict=True))}Z" fill="{thing.colour}" '
                f'fill-opacity="{thing.opacity:g}"/>'
            )
        case Dot():
            return _dot(thing)
        case Words():
            return _text(thing)


def _dot(dot: Dot) -> str:
    drawn = f'class="{dot.kind}" fill="{dot.colour}"'
    if dot.shape == "circle":
        tag, form = "circle", f'cx="{dot.x:.2f}" cy="{dot.y:.2f}" r="{dot.radius:g}"'
    else:
        corners = [(dot.x + dot.radius * x, dot.y + dot.radius * y) for x, y in dot.corners]
        tag, form = "path", f'd="{_path(corners)}Z"'
    if not dot.hint:
        return f"<{tag} {drawn} {form}/>"
    return f"<{tag} {drawn} {form}><title>{escape(dot.hint)}</title></{tag}>"


def _text(words: Words) -> str:
    anchor = "" if words.anchor == "start" else f' text-anchor="{words.anchor}"'
    bold = ' font-weight="bold"' if words.bold else ""
    return (
        f'<text class="{words.kind}" x="{words.x:.2f}" y="{words.y:.2f}" font-size="{words.size:g}" '
        f'fill="{words.colour}"{anchor}{bold}>{escape(words.text)}</text>'
    )


def _path(corners: Iterable[tuple[float, float] | Floats]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in corners)
