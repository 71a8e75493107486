"""A printed figure as strokes, areas, dots and labels, in points of 1/72 inch with y downwards.

The charts lay sheets out and know no file format. `renderers` writes them as SVG or PNG.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from hooke.scaling.families import Floats

__all__ = [
    "COLOURS",
    "GREY",
    "INK",
    "LAW_ON_EITHER",
    "LIMIT_DASH",
    "SERIES",
    "SHAPES",
    "SIZE",
    "Area",
    "Axis",
    "Dot",
    "Label",
    "PagePanel",
    "PanelFrame",
    "Sheet",
    "SheetItem",
    "Stroke",
    "axes_of",
    "circle",
    "corner_labels",
    "framed",
    "level",
    "page_frame",
    "page_panel",
    "side_labels",
    "strips",
    "text_width",
    "vertical",
]


# --- Axes.

STEPS = (1, 2, 5, 10)
MOST_TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`.

    `percent` formats ticks as percentages. `whole` keeps ticks at whole numbers.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False
    whole: bool = False

    def share(self, values: Floats | float) -> Floats:
        """The position of each of `values` (...): 0 at `low`, 1 at `high`; not clipped."""
        numbers = np.asarray(values, dtype=np.float64)
        if not self.logarithmic:
            return (numbers - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore"):
            return np.log(numbers / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Round numbers between the ends, powers of two on a logarithmic axis."""
        if self.logarithmic:
            first, last = math.ceil(math.log2(self.low) - 1e-9), math.floor(math.log2(self.high) + 1e-9)
            step = max(1, math.ceil((last - first + 1) / MOST_TICKS))
            return [2.0**power for power in range(first, last + 1, step)]
        least = max((self.high - self.low) / MOST_TICKS, 1.0 if self.whole else 0.0)
        scale = 10.0 ** math.floor(math.log10(least))
        step = next(scale * factor for factor in STEPS if scale * factor >= least * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [step * at for at in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def written(self, value: float) -> str:
        """The label of a tick: `4`, `0.5`, `80%`."""
        return f"{value:.0%}" if self.percent else f"{value:.4g}"


# --- Panels.


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFrame:
    """The rectangle inside the axes, in points, with its two axes."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    @property
    def right(self) -> float:
        """The x of the right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The y of the lower side."""
        return self.top + self.height

    def across(self, n: Floats | float) -> Floats:
        """The x of each N."""
        return self.left + self.width * self.x.share(n)

    def down(self, value: Floats | float) -> Floats:
        """The y of each value, clipped to the frame."""
        return self.bottom - self.height * np.clip(self.y.share(value), 0.0, 1.0)

    def inside(self, n: Floats, value: Floats) -> Iterator[tuple[Floats, Floats]]:
        """The pieces of the line through (n, value) that lie inside the frame, as x and y."""
        x, share = self.across(n), self.y.share(value)
        cut_x, cut_share = _with_crossings(x, share)
        within = (cut_share >= 0.0) & (cut_share <= 1.0)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], within, [False]]).astype(int)))
        for first, end in edges.reshape(-1, 2):
            if end - first > 1:
                yield cut_x[first:end], self.bottom - self.height * cut_share[first:end]


def _with_crossings(x: Floats, share: Floats) -> tuple[Floats, Floats]:
    """The line with one more corner wherever it crosses 0 or 1."""
    rise = np.diff(share)
    more = [np.arange(x.size, dtype=np.float64)]
    for edge in (0.0, 1.0):
        crossed = np.flatnonzero((share[:-1] - edge) * (share[1:] - edge) < 0)
        more.append(crossed + (edge - share[crossed]) / rise[crossed])
    at = np.sort(np.concatenate(more))
    corners = np.interp(at, np.arange(x.size), share)
    # Rounding may put a crossing just outside the edge.
    near = np.rint(corners)
    edge_too = (np.abs(corners - near) < 1e-9) & ((near == 0.0) | (near == 1.0))
    return np.interp(at, np.arange(x.size), x), np.where(edge_too, near, corners)


# --- Text widths. The layout does not know the font; Helvetica and its metric clones share these widths.

_WIDTHS = {
    0.191: "'",
    0.222: "ijl",
    0.26: "|",
    0.278: " !,./:;I[\\]ft·",
    0.333: "()-`r{}",
    0.355: '"',
    0.389: "*°",
    0.469: "^",
    0.5: "Jcksvxyz",
    0.584: "+<=>~\N{MINUS SIGN}\N{MULTIPLICATION SIGN}",
    0.611: "FTZ",
    0.667: "&ABEKPSVXY",
    0.722: "CDHNRUw",
    0.778: "GOQ",
    0.833: "Mm",
    0.889: "%",
    0.944: "W",
    1.015: "@",
}
"""Width in ems -> the characters that have it (Adobe's Core 14 metrics, Helvetica)."""
_OTHER = 0.556
"""Digits, most small letters, and characters that are not in the table."""
_WIDTH_OF = {letter: width for width, letters in _WIDTHS.items() for letter in letters}


def text_width(text: str, size: float) -> float:
    """The width of a line of text set at `size`, in the units of `size`."""
    return size * sum(_WIDTH_OF.get(letter, _OTHER) for letter in text)


# --- Colours: distinguishable by the colour-blind, readable on white and on near-black (Okabe & Ito).

COLOURS: Mapping[str, str] = {
    "law": "#0072b2",
    "knee": "#d55e00",
    "peak": "#009e73",
    "COST": "#b0568f",
    "plain": "#b0568f",
}
LAW_ON_EITHER = "#2b8ccf"
"""The law on a background that may be dark: contrast 3.6 to white, 5.2 to near-black."""
INK = "#222222"
"""Points and text on white."""
GREY = "#757575"
"""The ideal line, axes and ticks: contrast 4.6 to white, 4.0 to near-black."""
SHAPES: Mapping[str, str] = {"knee": "diamond", "peak": "triangle", "COST": "square"}
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0568f", "#e69f00", "#56b4e9", "#222222", "#757575")
"""Colours of named lines, repeated after eight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """A line through (x, y), each (m,). `dash` is the length of a dash and of a gap; `kind` says what the line shows."""

    kind: str
    x: Floats
    y: Floats
    colour: str
    width: float
    dash: tuple[float, float] | None = None
    opacity: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The area between `top` and `bottom` over ascending `x`, each (m,). `hint` is its tooltip."""

    kind: str
    x: Floats
    top: Floats
    bottom: Floats
    colour: str
    opacity: float
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A marker of a `shape` (circle, diamond, triangle, square). `hint` is its tooltip."""

    kind: str
    x: float
    y: float
    shape: str
    radius: float
    colour: str
    hint: str = ""

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The corners of a polygon, clockwise about the centre, in radii."""
        return _CORNERS[self.shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A line of text on the baseline `y`; `anchor` (start, middle, end) says which point of it `x` is."""

    kind: str
    x: float
    y: float
    text: str
    colour: str
    size: float = 8.0
    anchor: str = "start"
    bold: bool = False

    @property
    def left(self) -> float:
        """The x of its left end."""
        width = text_width(self.text, self.size)
        return self.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        right = self.left + text_width(self.text, self.size)
        return self.left, self.y - 0.75 * self.size, right, self.y + 0.25 * self.size


_CORNERS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "diamond": ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)),
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)),
}
SheetItem: TypeAlias = Stroke | Area | Dot | Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A figure of `width` x `height` points. Later items lie above earlier ones. `title` is read by screen readers."""

    width: float
    height: float
    title: str
    items: tuple[SheetItem, ...]


# --- Parts that the charts share.

TITLE_SIZE, SIZE, CAPTION_SIZE = 9.5, 8.0, 7.0
LINE = SIZE + 1
"""From one baseline to the next."""
LIMIT_DASH = (4.5, 2.6)


def framed(title: str, caption: str, body: Sequence[SheetItem], *, width: float, height: float) -> Sheet:
    """A sheet with its title above `body` and its caption below."""
    above = Label(kind="title", x=6, y=15, text=title, colour=INK, size=TITLE_SIZE, bold=True)
    below = Label(kind="caption", x=6, y=height - 7, text=caption, colour=GREY, size=CAPTION_SIZE)
    return Sheet(width=width, height=height, title=title, items=(above, *body, below))


def axes_of(frame: PanelFrame) -> Iterator[SheetItem]:
    """Grid lines, both axes, their ticks and the label of the x axis."""
    for tick in frame.y.ticks():
        height = float(frame.down(tick))
        if tick > frame.y.low or frame.y.logarithmic:
            yield level(frame, tick, kind="grid", colour=GREY, width=0.6, opacity=0.2)
        yield Label(
            kind="tick",
            x=frame.left - 5,
            y=height + 2.7,
            text=frame.y.written(tick),
            colour=GREY,
            anchor="end",
        )
    corner = (
        np.array([frame.left, frame.left, frame.right]),
        np.array([frame.top, frame.bottom, frame.bottom]),
    )
    yield Stroke(kind="axis", x=corner[0], y=corner[1], colour=GREY, width=0.8)
    for tick in frame.x.ticks():
        x = float(frame.across(tick))
        yield vertical(x, frame.bottom, frame.bottom + 3, kind="axis", colour=GREY, width=0.8)
        yield Label(
            kind="tick", x=x, y=frame.bottom + 12, text=frame.x.written(tick), colour=GREY, anchor="middle"
        )
    middle = frame.left + frame.width / 2
    yield Label(kind="label", x=middle, y=frame.bottom + 23, text=frame.x.label, colour=INK, anchor="middle")


def level(  # noqa: PLR0913 - a line's style
    frame: PanelFrame, value: float, *, kind: str, colour: str, width: float,
    dash: tuple[float, float] | None = None, opacity: float = 1.0,
) -> Stroke:  # fmt: skip
    """A horizontal line across the panel at `value`."""
    x, y = np.array([frame.left, frame.right]), np.full(2, float(frame.down(value)))
    return Stroke(kind=kind, x=x, y=y, colour=colour, width=width, dash=dash, opacity=opacity)


def vertical(  # noqa: PLR0913 - a line's style
    x: float, top: float, bottom: float, *, kind: str, colour: str, width: float,
    dash: tuple[float, float] | None = None, opacity: float = 1.0,
) -> Stroke:  # fmt: skip
    """A vertical line at `x`."""
    y = np.array([top, bottom])
    return Stroke(kind=kind, x=np.full(2, x), y=y, colour=colour, width=width, dash=dash, opacity=opacity)


def circle(kind: str, x: float, y: float, radius: float, colour: str, hint: str = "") -> Dot:
    """A round marker."""
    return Dot(kind=kind, x=x, y=y, shape="circle", radius=radius, colour=colour, hint=hint)


def side_labels(frame: PanelFrame, named: Sequence[tuple[float, str, str]]) -> Iterator[Label]:
    """Labels right of the panel for lines that end at a height: (y, colour, text), moved apart where they would overlap."""
    ordered = sorted(named)
    blocks = [each[2].split("\n") for each in ordered]
    heights = [LINE * len(lines) for lines in blocks]
    middles = _apart([each[0] for each in ordered], heights, frame.top)
    for middle, (_, colour, _), lines in zip(middles, ordered, blocks, strict=True):
        first = middle - LINE * (len(lines) - 1) / 2 + 0.35 * SIZE
        for at, text in enumerate(lines):
            yield Label(kind="name", x=frame.right + 5, y=first + LINE * at, text=text, colour=colour)


def _apart(middles: Sequence[float], heights: Sequence[float], top: float) -> list[float]:
    """Ascending middles of blocks of these heights, moved as little as keeps the blocks apart and below `top`.

    Blocks that would touch are stacked about the mean of their places (pool adjacent violators).
    """
    if not middles:
        return []
    offsets = np.cumsum([0.0, *((one + other) / 2 + 1 for one, other in pairwise(heights))])
    stacks: list[list[float]] = []
    for shift in (np.asarray(middles) - offsets).tolist():
        stacks.append([shift])
        while len(stacks) > 1 and np.mean(stacks[-2]) > np.mean(stacks[-1]):
            last = stacks.pop()
            stacks[-1] += last
    shifts = np.array([float(np.mean(stack)) for stack in stacks for _ in stack])
    placed: list[float] = (np.maximum(shifts, top + heights[0] / 2) + offsets).tolist()
    return placed


def corner_labels(frame: PanelFrame, named: Sequence[tuple[str, str]]) -> Iterator[Label]:
    """Labels right of the panel, one below the other from its top: (colour, text)."""
    for at, (colour, text) in enumerate(named):
        yield Label(kind="name", x=frame.right + 5, y=frame.top + 8 + 10.5 * at, text=text, colour=colour)


# --- One panel for a page: its title and legend are text of the page, and what is under the cursor is said.

PAGE_WIDTH, PAGE_HEIGHT = 270.0, 172.0
"""On a phone that is 1.35 pixels a point, so that ticks have the size of small text."""
_PAGE_LEFT, _PAGE_TOP, _PAGE_RIGHT, _PAGE_BELOW = 34.0, 8.0, 8.0, 28.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePanel:
    """A figure of a page. `legend` has (colour, text) for each line."""

    title: str
    sheet: Sheet
    legend: tuple[tuple[str, str], ...]


def page_frame(x: Axis, y: Axis) -> PanelFrame:
    """The rectangle inside the axes of a page's panel."""
    return PanelFrame(
        left=_PAGE_LEFT, top=_PAGE_TOP, width=PAGE_WIDTH - _PAGE_LEFT - _PAGE_RIGHT,
        height=PAGE_HEIGHT - _PAGE_TOP - _PAGE_BELOW, x=x, y=y,
    )  # fmt: skip


def page_panel(title: str, body: Sequence[SheetItem], legend: Sequence[tuple[str, str]]) -> PagePanel:
    """A panel with `body`, which is laid out in a `page_frame`."""
    made = Sheet(width=PAGE_WIDTH, height=PAGE_HEIGHT, title=title, items=tuple(body))
    return PagePanel(title=title, sheet=made, legend=tuple(legend))


def strips(frame: PanelFrame, edges: Floats, hints: Sequence[str]) -> Iterator[Area]:
    """Invisible strips between `edges` (m + 1,), in units of the x axis, each with what is said of it (m,). They lie above all else."""
    across = np.clip(frame.across(edges), frame.left, frame.right)
    for (begin, end), hint in zip(pairwise(across.tolist()), hints, strict=True):
        if end > begin:
            yield Area(
                kind="at", x=np.array([begin, end]), top=np.full(2, frame.top), bottom=np.full(2, frame.bottom),
                colour=INK, opacity=0.0, hint=hint,
            )  # fmt: skip
