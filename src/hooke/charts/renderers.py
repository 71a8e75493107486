"""A picture laid out for print: two panels side by side, every name where nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from io import BytesIO
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from hooke.charts.picture import Mark, Panel, Picture
from hooke.charts.sheet import (
    COLOURS,
    GREY,
    INK,
    LAW_ON_EITHER,
    SHAPES,
    Area,
    Dot,
    PanelFrame,
    Sheet,
    Stroke,
    Thing,
    Words,
    axes_of,
    text_width,
)
from hooke.scaling.families import Floats

__all__ = ["inline_svg", "laid_out", "png_of", "svg_of"]


WIDTH = 518.0
"""Two columns of a paper, 7.2 inches."""
PANEL = (178.0, 150.0)
LEFT, BETWEEN = 28.0, 104.0
"""Room for an axis's numbers; and for the names at the lines' ends and the next axis's numbers."""
TITLE, HEAD, ROW, BELOW = 15.0, 35.0, 12.0, 46.0
"""Base lines of the title and of the panels' heads; the height of a mark's row, and of what is below the panels."""
SMALL, TEXT, LARGE = 7.0, 8.0, 9.5
LINE = TEXT + 1
POINT = 2.5
DASH, DOTTED = (4.5, 2.6), (1.0, 2.0)


def laid_out(picture: Picture) -> Sheet:
    """The sheet of a picture: speed-up left, efficiency right."""
    rows = len(picture.marks) + bool(picture.missing)
    top = HEAD + 7.0 + ROW * rows
    left, right = (
        PanelFrame(left=at, top=top, width=PANEL[0], height=PANEL[1], x=picture.x, y=panel.y)
        for at, panel in zip((LEFT, LEFT + PANEL[0] + BETWEEN), picture.panels, strict=True)
    )
    height = top + PANEL[1] + BELOW
    things = (
        Words(kind="title", x=6, y=TITLE, text=picture.title, colour=INK, size=LARGE, bold=True),
        *_rows(left, picture),
        *_panel(left, picture.panels[0], picture),
        *_panel(right, picture.panels[1], picture),
        *_names_at_ends(left, picture),
        *_ideal_name(left, picture),
        Words(kind="name", x=right.right + 4, y=float(right.down(1.0)) + 2.8, text="ideal", colour=GREY, size=TEXT),
        Words(kind="caption", x=6, y=height - 7, text=picture.caption, colour=GREY, size=SMALL),
    )  # fmt: skip
    return Sheet(width=WIDTH, height=height, title=picture.title, things=things)


def _panel(frame: PanelFrame, panel: Panel, picture: Picture) -> Iterator[Thing]:
    """Axes below, then ideal and plain call, bands, laws, bars and points, marks on the law."""
    head = panel.quantity if panel.y.percent else f"{panel.quantity} ({picture.unit_text})"
    yield Words(kind="head", x=frame.left, y=HEAD, text=head, colour=INK, size=TEXT)
    yield from axes_of(frame)
    for x, y in frame.inside(panel.ideal.n, panel.ideal.value):
        yield Stroke(kind="ideal", x=x, y=y, colour=GREY, width=1.0)
    if panel.plain is not None and panel.plain <= panel.y.high:
        ends, height = np.array([frame.left, frame.right]), float(frame.down(panel.plain))
        yield Stroke(
            kind="plain", x=ends, y=np.full(2, height), colour=COLOURS["plain"], width=1.1, dash=DOTTED
        )
    for line in panel.lines:
        yield Area(
            kind="band", x=frame.across(line.n), top=frame.down(line.high), bottom=frame.down(line.low),
            colour=COLOURS["law"], opacity=0.09 if line.dashed else 0.20,
        )  # fmt: skip
    for line in panel.lines:
        kind, dash = ("beyond", DASH) if line.dashed else ("law", None)
        for x, y in frame.inside(line.n, line.value):
            yield Stroke(kind=kind, x=x, y=y, colour=COLOURS["law"], width=1.6, dash=dash)
    at = picture.panels.index(panel)
    for mark in picture.marks:
        yield _sign(mark, float(frame.across(mark.n)), float(frame.down(mark.values[at])))
    yield from _points(frame, panel)


def _points(frame: PanelFrame, panel: Panel) -> Iterator[Thing]:
    points = panel.points
    across, bottom, top = frame.across(points.n), frame.down(points.low), frame.down(points.high)
    for x, low, high in zip(across.tolist(), bottom.tolist(), top.tolist(), strict=True):
        yield Stroke(kind="bar", x=np.full(2, x), y=np.array([low, high]), colour=INK, width=1.0)
    for x, y in zip(across.tolist(), frame.down(points.value).tolist(), strict=True):
        yield Dot(kind="point", x=x, y=y, shape="circle", radius=POINT, colour=INK)


def _sign(mark: Mark, x: float, y: float) -> Dot:
    return Dot(kind=mark.kind, x=x, y=y, shape=SHAPES[mark.kind], radius=3.8, colour=COLOURS[mark.kind])


def _rows(frame: PanelFrame, picture: Picture) -> Iterator[Thing]:
    """Above the panel a row a mark: its interval of N, its name, and a thin line down to it on the law.

    The marks are in the order of N, so that none of these lines crosses the name of another.
    """
    first = HEAD + 12.0
    if picture.missing:
        yield Words(kind="name", x=frame.left, y=first + 2.8, text=picture.missing, colour=GREY, size=TEXT)
        first += ROW
    for at, mark in enumerate(picture.marks):
        height, colour = first + ROW * at, COLOURS[mark.kind]
        low, n, high = (
            float(frame.across(np.clip(end, frame.x.low, frame.x.high)))
            for end in (mark.interval[0], mark.n, mark.interval[1])
        )
        on_law = float(frame.down(mark.values[0]))
        down, along = np.array([height, on_law]), np.array([low, high])
        yield Stroke(kind="leader", x=np.full(2, n), y=down, colour=colour, width=0.8, opacity=0.6)
        yield Stroke(kind="interval", x=along, y=np.full(2, height), colour=colour, width=1.6)
        yield _sign(mark, n, height)
        after, room = max(high, n + 4) + 5, text_width(mark.text, TEXT)
        fits = after + room < frame.right + BETWEEN - 8
        before = max(min(low, n - 4) - 5, room)
        place, anchor = (after, "start") if fits else (before, "end")
        yield Words(
            kind="name", x=place, y=height + 2.8, text=mark.text, colour=colour, size=TEXT, anchor=anchor
        )


def _names_at_ends(frame: PanelFrame, picture: Picture) -> Iterator[Words]:
    """Right of the panel, at the heights at which they leave it: the law, the plain call, the ideal line if it does."""
    panel = picture.panels[0]
    law = float(frame.down(panel.lines[-1].value[-1]))
    named: list[tuple[float, str, tuple[str, ...]]] = [
        (law, COLOURS["law"], (picture.law_text, picture.band_text))
    ]
    if panel.plain is not None and panel.plain <= panel.y.high:
        named.append((float(frame.down(panel.plain)), COLOURS["plain"], ("plain call,", "one thread")))
    if _leaves_right(panel):
        named.append((float(frame.down(panel.ideal.value[-1])), GREY, ("ideal",)))
    named.sort(key=lambda each: each[0])
    heights = [LINE * len(each[2]) for each in named]
    middles = _below(_apart([each[0] for each in named], heights), heights, frame.top)
    for middle, (_, colour, lines) in zip(middles, named, strict=True):
        first = middle - LINE * (len(lines) - 1) / 2 + 0.35 * TEXT
        for at, text in enumerate(lines):
            yield Words(
                kind="name", x=frame.right + 5, y=first + LINE * at, text=text, colour=colour, size=TEXT
            )


def _apart(middles: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The ascending middles of blocks of these heights, moved as little as keeps the blocks off one another.

    Blocks that would touch are stacked about the mean of their places (pool adjacent violators).
    """
    gaps = [0.0, *((one + other) / 2 + 1 for one, other in pairwise(heights))]
    offsets = np.cumsum(gaps)
    stacks: list[list[float]] = []
    for middle, offset in zip(middles, offsets.tolist(), strict=True):
        stacks.append([middle - offset])
        while len(stacks) > 1 and np.mean(stacks[-2]) > np.mean(stacks[-1]):
            last = stacks.pop()
            stacks[-1] += last
    shifts = [float(np.mean(stack)) for stack in stacks for _ in stack]
    return [shift + offset for shift, offset in zip(shifts, offsets.tolist(), strict=True)]


def _below(middles: Sequence[float], heights: Sequence[float], top: float) -> list[float]:
    """The blocks moved down where the first reaches above `top`."""
    moved: list[float] = []
    for middle, height in zip(middles, heights, strict=True):
        moved.append(max(middle, top + height / 2))
        top = moved[-1] + height / 2 + 1
    return moved


def _leaves_right(panel: Panel) -> bool:
    return bool(panel.ideal.value[-1] < panel.y.high)


def _ideal_name(frame: PanelFrame, picture: Picture) -> Iterator[Words]:
    """Beside the ideal line near the top, where nothing else is drawn, where the line leaves the panel there."""
    panel = picture.panels[0]
    if _leaves_right(panel):
        return
    *_, (x, y) = frame.inside(panel.ideal.n, panel.ideal.value)
    style = {"kind": "name", "text": "ideal", "colour": GREY, "size": TEXT}
    taken = _taken(frame, picture)
    places: list[Words] = []
    for down in np.arange(0.8 * TEXT, frame.height / 2, TEXT):
        base = frame.top + float(down)
        there = [float(np.interp(height, y[::-1], x[::-1])) for height in (base, base - 0.8 * TEXT)]
        places.append(Words(x=there[0] - 4, y=base, anchor="end", **style))
        places += [Words(x=there[1] + away, y=base, **style) for away in (4, 12, 20, 28, 36)]
    free = (words for words in places if _is_free(words, frame, taken))
    yield next(free, places[1])


def _taken(frame: PanelFrame, picture: Picture) -> list[tuple[float, float, float, float]]:
    """Boxes of what no name may lie on: error bars, the law, lines down from the marks."""
    panel = picture.panels[0]
    points = panel.points
    across, tops, bottoms = frame.across(points.n), frame.down(points.high), frame.down(points.low)
    boxes = [
        (x - POINT, top - POINT, x + POINT, bottom + POINT)
        for x, top, bottom in zip(across.tolist(), tops.tolist(), bottoms.tolist(), strict=True)
    ]
    for line in panel.lines:
        places = zip(frame.across(line.n).tolist(), frame.down(line.value).tolist(), strict=True)
        boxes += [(x - 1, y - 1, x + 1, y + 1) for x, y in places]
    for mark in picture.marks:
        x = float(frame.across(mark.n))
        boxes.append((x - 1, 0.0, x + 1, float(frame.down(mark.values[0]))))
    return boxes


def _is_free(words: Words, frame: PanelFrame, taken: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, right, bottom = words.box
    if left < frame.left + 2 or right > frame.right:
        return False
    return not any(
        one < right and left < other and above < bottom and top < below for one, above, other, below in taken
    )


# --- A sheet as PNG, by Pillow: no display, no browser, and the font that comes with it, so that it looks alike everywhere.

FINER = 3
"""Drawn so many times as large and then reduced: Pillow's lines have no soft edges of their own."""
BOLD = 0.03
"""How much thicker bold letters are, in ems."""


def png_of(sheet: Sheet, scale: float) -> bytes:
    """A PNG file on white with `scale` pixels a point. Raises ImportError where Pillow is not installed."""
    image = import_module("PIL.Image")
    size = round(sheet.width * scale), round(sheet.height * scale)
    ground = _Ground(image, (size[0] * FINER, size[1] * FINER), scale * FINER)
    for thing in sheet.things:
        ground.draw(thing)
    file = BytesIO()
    dots = scale * 72
    ground.image.resize(size, image.Resampling.BOX).save(file, "PNG", optimize=True, dpi=(dots, dots))
    return file.getvalue()


class _Ground:
    """White pixels that things are laid on. Places are in points."""

    def __init__(self, image: Any, size: tuple[int, int], scale: float) -> None:
        self.image: Any = image.new("RGB", size, "white")
        self._image = image
        self._font: Any = import_module("PIL.ImageFont").load_default
        self._pen: Any = import_module("PIL.ImageDraw").Draw
        self._scale = scale

    def draw(self, thing: Thing) -> None:
        """Lay `thing` on what is there."""
        match thing:
            case Stroke(opacity=1):
                self._stroke(self._pen(self.image), thing, thing.colour)
            case Stroke() | Area():
                self._faintly(thing)
            case Dot():
                self._dot(thing)
            case Words():
                self._words(thing)

    def _faintly(self, thing: Stroke | Area) -> None:
        """Lay the colour through a mask in the thing's form, as opaque as it is."""
        mask = self._image.new("L", self.image.size, 0)
        if isinstance(thing, Stroke):
            self._stroke(self._pen(mask), thing, 255)
        else:
            self._pen(mask).polygon(self._around(thing), fill=255)
        self.image.paste(
            thing.colour, mask=mask.point([round(thing.opacity * share) for share in range(256)])
        )

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

    def _words(self, words: Words) -> None:
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
    """The pieces of `line` (m, 2) that are drawn: `on` of its length, then `off` of it not."""
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    pieces = []
    for start in np.arange(0.0, lengths[-1], on + off):
        end = min(start + on, lengths[-1])
        at = np.concatenate([[start], lengths[(lengths > start) & (lengths < end)], [end]])
        pieces.append(np.column_stack([np.interp(at, lengths, line[:, axis]) for axis in (0, 1)]))
    return pieces


# --- A sheet as SVG: real text and lines, for papers and pages.

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
