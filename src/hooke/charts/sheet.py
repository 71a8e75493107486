"""What a sheet holds: strokes, areas, dots and words at their places, in points of 1/72 inch, y downwards.

Whoever lays it out knows nothing of files; whoever writes a file decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from hooke.scaling.families import Floats

__all__ = [
    "COLOURS",
    "GREY",
    "INK",
    "LAW_ON_EITHER",
    "SERIES",
    "SHAPES",
    "Area",
    "Axis",
    "Dot",
    "PanelFrame",
    "Sheet",
    "Stroke",
    "Thing",
    "Words",
    "axes_of",
    "text_width",
]


# --- An axis: where a number lies on it, and which numbers are written at it.

STEPS = (1, 2, 5, 10)
MOST_TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From `low` to `high`; by the logarithm, or evenly.

    `percent` says how its numbers are written, `whole` that it counts things, so that no part of one is written at it.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False
    whole: bool = False

    def share(self, values: Floats | float) -> Floats:
        """Where each of `values` (...) lies: 0 at `low`, 1 at `high`, outside of these beyond; (...)."""
        numbers = np.asarray(values, dtype=np.float64)
        if not self.logarithmic:
            return (numbers - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore"):
            return np.log(numbers / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Round numbers between the ends: powers of two on a logarithmic axis."""
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
        """A tick's number: `4`, `0.5`, `80%`."""
        return f"{value:.0%}" if self.percent else f"{value:.4g}"


# --- A panel's place on a sheet: where N and a quantity lie there, and what of a line is inside.


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFrame:
    """The rectangle within the axes, in points, and what lies along its sides."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    @property
    def right(self) -> float:
        """The right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The lower side."""
        return self.top + self.height

    def across(self, n: Floats | float) -> Floats:
        """Where each N lies, from the sheet's left side."""
        return self.left + self.width * self.x.share(n)

    def down(self, value: Floats | float) -> Floats:
        """Where each value lies, from the sheet's top; one beyond the axis lies on the frame's edge."""
        return self.bottom - self.height * np.clip(self.y.share(value), 0.0, 1.0)

    def inside(self, n: Floats, value: Floats) -> Iterator[tuple[Floats, Floats]]:
        """The line through (n, value) as far as it is within the frame: x and y of each piece, ends on the edge included."""
        x, share = self.across(n), self.y.share(value)
        cut_x, cut_share = _with_crossings(x, share)
        within = (cut_share >= 0.0) & (cut_share <= 1.0)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], within, [False]]).astype(int)))
        for first, end in edges.reshape(-1, 2):
            if end - first > 1:
                yield cut_x[first:end], self.bottom - self.height * cut_share[first:end]


def _with_crossings(x: Floats, share: Floats) -> tuple[Floats, Floats]:
    """The line with a corner more wherever it crosses 0 or 1."""
    rise = np.diff(share)
    more = [np.arange(x.size, dtype=np.float64)]
    for edge in (0.0, 1.0):
        crossed = np.flatnonzero((share[:-1] - edge) * (share[1:] - edge) < 0)
        more.append(crossed + (edge - share[crossed]) / rise[crossed])
    at = np.sort(np.concatenate(more))
    corners = np.interp(at, np.arange(x.size), share)
    # What rounding put just outside is on the edge.
    near = np.rint(corners)
    edge_too = (np.abs(corners - near) < 1e-9) & ((near == 0.0) | (near == 1.0))
    return np.interp(at, np.arange(x.size), x), np.where(edge_too, near, corners)


# --- How wide text is, for laying it out before anybody knows the font: by the widths of Helvetica, which its like share.

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
"""Digits and most small letters; taken for what is not in the table, too."""
_WIDTH_OF = {letter: width for width, letters in _WIDTHS.items() for letter in letters}


def text_width(text: str, size: float) -> float:
    """How wide a line of text is where an em is `size`, in the units of `size`."""
    return size * sum(_WIDTH_OF.get(letter, _OTHER) for letter in text)


# --- Colours that the colour-blind can tell apart, and that can be seen on white and on near-black alike.

COLOURS: Mapping[str, str] = {
    "law": "#0072b2",
    "knee": "#d55e00",
    "peak": "#009e73",
    "COST": "#b0568f",
    "plain": "#b0568f",
}
LAW_ON_EITHER = "#2b8ccf"
"""The law's colour where the ground may be dark: a contrast of 3.6 to white, and of 5.2 to near-black."""
INK = "#222222"
"""Points and text on white."""
GREY = "#757575"
"""The ideal line, axes and their numbers: a contrast of 4.6 to white, and of 4.0 to near-black."""
SHAPES: Mapping[str, str] = {"knee": "diamond", "peak": "triangle", "COST": "square"}
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0568f", "#e69f00", "#56b4e9", "#222222", "#757575")
"""Of lines that are told apart by name; after eight they come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """A line through (x, y), each (m,). `dash` is how far it is drawn and then left out; `kind` says what it shows."""

    kind: str
    x: Floats
    y: Floats
    colour: str
    width: float
    dash: tuple[float, float] | None = None
    opacity: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What lies between `top` and `bottom` over ascending `x`, each (m,)."""

    kind: str
    x: Floats
    top: Floats
    bottom: Floats
    colour: str
    opacity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A sign of `shape` (circle, diamond, triangle, square) that reaches `radius` from its middle. `hint` is said to who points at it."""

    kind: str
    x: float
    y: float
    shape: str
    radius: float
    colour: str
    hint: str = ""

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """Of a shape that has some, clockwise about its middle, in radii."""
        return _CORNERS[self.shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A line of text on the base line `y`; `x` is its left end, middle or right end, as `anchor` says (start, middle, end)."""

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
        """Where it begins."""
        width = text_width(self.text, self.size)
        return self.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its left, top, right and bottom."""
        right = self.left + text_width(self.text, self.size)
        return self.left, self.y - 0.75 * self.size, right, self.y + 0.25 * self.size


_CORNERS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "diamond": ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)),
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)),
}
Thing: TypeAlias = Stroke | Area | Dot | Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A page of `width` x `height` points; what comes later in `things` lies above. `title` names it for readers aloud."""

    width: float
    height: float
    title: str
    things: tuple[Thing, ...]


# --- The axes of a panel: lines, numbers, and the name of the lower one.

SIZE = 8.0


def axes_of(frame: PanelFrame, *, size: float = SIZE) -> Iterator[Thing]:
    """Grid lines, the two axes, their numbers and what the lower one counts."""
    for tick in frame.y.ticks():
        height = float(frame.down(tick))
        if tick > frame.y.low or frame.y.logarithmic:
            ends = np.array([frame.left, frame.right])
            yield Stroke(kind="grid", x=ends, y=np.full(2, height), colour=GREY, width=0.6, opacity=0.2)
        yield Words(
            kind="tick", x=frame.left - 5, y=height + 2.7, text=frame.y.written(tick), colour=GREY, size=size,
            anchor="end",
        )  # fmt: skip
    corner = (
        np.array([frame.left, frame.left, frame.right]),
        np.array([frame.top, frame.bottom, frame.bottom]),
    )
    yield Stroke(kind="axis", x=corner[0], y=corner[1], colour=GREY, width=0.8)
    for tick in frame.x.ticks():
        x = float(frame.across(tick))
        down = np.array([frame.bottom, frame.bottom + 3])
        yield Stroke(kind="axis", x=np.full(2, x), y=down, colour=GREY, width=0.8)
        yield Words(
            kind="tick", x=x, y=frame.bottom + 12, text=frame.x.written(tick), colour=GREY, size=size,
            anchor="middle",
        )  # fmt: skip
    yield Words(
        kind="label", x=frame.left + frame.width / 2, y=frame.bottom + 23, text=frame.x.label, colour=INK,
        size=size, anchor="middle",
    )  # fmt: skip
