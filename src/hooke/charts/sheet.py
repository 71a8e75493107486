"""What a sheet holds: strokes, areas, dots and words at their places, in points of 1/72 inch, y downwards.

Whoever lays it out knows nothing of files; whoever writes a file decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from hooke.charts.lettering import text_width
from hooke.scaling.families import Floats

__all__ = ["Area", "Dot", "Sheet", "Stroke", "Thing", "Words"]


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
