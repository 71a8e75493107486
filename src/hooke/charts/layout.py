"""A picture laid out for print: two panels side by side, every name where nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from hooke.charts.axes import axes_of
from hooke.charts.frame import Frame
from hooke.charts.lettering import text_width
from hooke.charts.palette import COLOURS, GREY, INK, SHAPES
from hooke.charts.picture import Mark, Panel, Picture
from hooke.charts.sheet import Area, Dot, Sheet, Stroke, Thing, Words

__all__ = ["laid_out"]

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
        Frame(left=at, top=top, width=PANEL[0], height=PANEL[1], x=picture.x, y=panel.y)
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


def _panel(frame: Frame, panel: Panel, picture: Picture) -> Iterator[Thing]:
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


def _points(frame: Frame, panel: Panel) -> Iterator[Thing]:
    points = panel.points
    across, bottom, top = frame.across(points.n), frame.down(points.low), frame.down(points.high)
    for x, low, high in zip(across.tolist(), bottom.tolist(), top.tolist(), strict=True):
        yield Stroke(kind="bar", x=np.full(2, x), y=np.array([low, high]), colour=INK, width=1.0)
    for x, y in zip(across.tolist(), frame.down(points.value).tolist(), strict=True):
        yield Dot(kind="point", x=x, y=y, shape="circle", radius=POINT, colour=INK)


def _sign(mark: Mark, x: float, y: float) -> Dot:
    return Dot(kind=mark.kind, x=x, y=y, shape=SHAPES[mark.kind], radius=3.8, colour=COLOURS[mark.kind])


def _rows(frame: Frame, picture: Picture) -> Iterator[Thing]:
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


def _names_at_ends(frame: Frame, picture: Picture) -> Iterator[Words]:
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


def _ideal_name(frame: Frame, picture: Picture) -> Iterator[Words]:
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


def _taken(frame: Frame, picture: Picture) -> list[tuple[float, float, float, float]]:
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


def _is_free(words: Words, frame: Frame, taken: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, right, bottom = words.box
    if left < frame.left + 2 or right > frame.right:
        return False
    return not any(
        one < right and left < other and above < bottom and top < below for one, above, other, below in taken
    )
