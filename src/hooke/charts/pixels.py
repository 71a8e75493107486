"""A sheet as PNG, by NumPy alone: no display, no browser, no drawing library, and the same bytes on every machine.

Each thing covers a share of each pixel, by the pixel's distance to it; shares are laid over one another in order.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hooke.charts.lettering import letters
from hooke.charts.sheet import Area, Dot, Sheet, Stroke, Thing, Words
from hooke.scaling.families import Floats

__all__ = ["png_of"]

PEN, BOLD_PEN = 0.085, 0.135
"""How thick letters are, in ems."""


def png_of(sheet: Sheet, scale: float) -> bytes:
    """A PNG file on white with `scale` pixels a point."""
    ground = _Ground(round(sheet.width * scale), round(sheet.height * scale), scale)
    for thing in sheet.things:
        ground.draw(thing)
    return _png(np.rint(ground.colours * 255).astype(np.uint8), scale)


class _Ground:
    """White pixels that things are laid on. Places are in points, pixels counted from the top left."""

    def __init__(self, width: int, height: int, scale: float) -> None:
        self.colours = np.ones((height, width, 3))
        self.scale = scale

    def draw(self, thing: Thing) -> None:
        match thing:
            case Stroke():
                self._stroke(thing)
            case Area():
                self._area(thing)
            case Dot():
                self._dot(thing)
            case Words():
                pen = (BOLD_PEN if thing.bold else PEN) * thing.size
                for line in letters(thing.text, thing.size):
                    self._line(line + np.array([thing.left, thing.y]), pen, _colour(thing.colour), 1.0)

    def _stroke(self, stroke: Stroke) -> None:
        line = np.column_stack([stroke.x, stroke.y])
        parts = [line] if stroke.dash is None else _dashes(line, *stroke.dash)
        for part in parts:
            self._line(part, stroke.width, _colour(stroke.colour), stroke.opacity)

    def _line(self, line: Floats, width: float, colour: Floats, opacity: float) -> None:
        """A pen of round tip along `line` (m, 2)."""
        corners, half = line * self.scale, width * self.scale / 2
        rows, columns = self._window(corners, half + 1)
        share = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
        for one, other in pairwise(corners):
            own_rows, own_columns = self._window(np.stack([one, other]), half + 1)
            y, x = _middles(own_rows, own_columns)
            covered = np.clip(half + 0.5 - _distance(x, y, one, other), 0.0, min(2 * half, 1.0))
            there = share[
                own_rows.start - rows.start : own_rows.stop - rows.start,
                own_columns.start - columns.start : own_columns.stop - columns.start,
            ]
            np.maximum(there, covered, out=there)
        self._lay(rows, columns, share * opacity, colour)

    def _area(self, area: Area) -> None:
        """Column by column: of each pixel the part between the two lines at the column's middle."""
        rows, columns = slice(0, self.colours.shape[0]), self._span(area.x * self.scale, 1)
        y, x = _middles(rows, columns)
        top = np.interp(x / self.scale, area.x, area.top) * self.scale
        bottom = np.interp(x / self.scale, area.x, area.bottom) * self.scale
        high = np.clip(np.minimum(y + 0.5, bottom) - np.maximum(y - 0.5, top), 0.0, 1.0)
        ends = area.x[[0, -1]] * self.scale
        wide = np.clip(np.minimum(x + 0.5, ends[1]) - np.maximum(x - 0.5, ends[0]), 0.0, 1.0)
        self._lay(rows, columns, high * wide * area.opacity, _colour(area.colour))

    def _dot(self, dot: Dot) -> None:
        middle, radius = np.array([dot.x, dot.y]) * self.scale, dot.radius * self.scale
        rows, columns = self._window(middle[None], radius + 1)
        y, x = _middles(rows, columns)
        if dot.shape == "circle":
            outside = np.hypot(x - middle[0], y - middle[1]) - radius
        else:
            corners = middle + radius * np.array(dot.corners)
            sides = zip(corners, np.roll(corners, -1, axis=0), strict=True)
            outside = np.max([_beyond(x, y, one, other) for one, other in sides], axis=0)
        self._lay(rows, columns, np.clip(0.5 - outside, 0.0, 1.0), _colour(dot.colour))

    def _lay(self, rows: slice, columns: slice, share: Floats, colour: Floats) -> None:
        there = self.colours[rows, columns]
        there += share[..., None] * (colour - there)

    def _window(self, corners: Floats, margin: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels within `margin` of the corners (m, 2)."""
        return self._span(corners[:, 1], margin, axis=0), self._span(corners[:, 0], margin)

    def _span(self, places: Floats, margin: float, *, axis: int = 1) -> slice:
        first, last = np.floor(places.min() - margin), np.ceil(places.max() + margin)
        start, stop = np.clip([first, last], 0, self.colours.shape[axis]).astype(int)
        return slice(int(start), int(stop))


def _middles(rows: slice, columns: slice) -> tuple[Floats, Floats]:
    """The middles of pixels: y (rows, 1) and x (1, columns)."""
    return np.arange(rows.start, rows.stop)[:, None] + 0.5, np.arange(columns.start, columns.stop)[None] + 0.5


def _distance(x: Floats, y: Floats, one: Floats, other: Floats) -> Floats:
    """From each (x, y) to the line between two corners."""
    along = other - one
    length = max(float(along @ along), 1e-12)
    at = np.clip(((x - one[0]) * along[0] + (y - one[1]) * along[1]) / length, 0.0, 1.0)
    return np.hypot(x - one[0] - at * along[0], y - one[1] - at * along[1])


def _beyond(x: Floats, y: Floats, one: Floats, other: Floats) -> Floats:
    """How far each (x, y) lies left of the way from one corner to the next, which is outside where these go clockwise."""
    along = other - one
    return ((x - one[0]) * along[1] - (y - one[1]) * along[0]) / np.hypot(*along)


def _dashes(line: Floats, on: float, off: float) -> list[Floats]:
    """The pieces of `line` (m, 2) that are drawn: `on` of its length, then `off` of it not."""
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    pieces = []
    for start in np.arange(0.0, lengths[-1], on + off):
        end = min(start + on, lengths[-1])
        at = np.concatenate([[start], lengths[(lengths > start) & (lengths < end)], [end]])
        pieces.append(np.column_stack([np.interp(at, lengths, line[:, axis]) for axis in (0, 1)]))
    return pieces


def _colour(written: str) -> Floats:
    """`#rrggbb` as three shares."""
    return np.array([int(written[at : at + 2], 16) for at in (1, 3, 5)]) / 255


def _png(pixels: NDArray[np.uint8], scale: float) -> bytes:
    """Portable Network Graphics (W3C, third edition): 8 bits a colour, no filter, its size in metres given."""
    height, width, _ = pixels.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)])
    a_metre = round(scale * 72 / 0.0254)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"pHYs", struct.pack(">IIB", a_metre, a_metre, 1)),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
