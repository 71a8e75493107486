"""A sheet as PNG, by Pillow: no display, no browser, and the font that comes with it, so that it looks alike everywhere."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np

from hooke.charts.sheet import Area, Dot, Sheet, Stroke, Thing, Words
from hooke.scaling.families import Floats

__all__ = ["png_of"]

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
