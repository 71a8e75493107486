"""A grid of characters that lines are drawn on, finer than a character where Braille can be shown.

Kept here rather than taken from a library: those that plot in terminals draw neither bands nor lines that turn dashed
where the measurements end, and this is all that is needed of one.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Canvas"]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille cell, of 2 x 4 dots, by row and column (Unicode chapter 21, "Braille Patterns")."""


class Canvas:
    """`columns` x `rows` characters. Places are shares of its width and height from the left bottom, 0 to 1.

    What is drawn later lies above. `styles` names the ink of each character, for colours.
    """

    def __init__(self, columns: int, rows: int, *, braille: bool) -> None:
        self.columns, self.rows = columns, rows
        self.braille = braille
        self.across, self.up = (2, 4) if braille else (1, 1)
        self.characters = [[" "] * columns for _ in range(rows)]
        self.styles = [[""] * columns for _ in range(rows)]

    def line(
        self, points: Iterable[tuple[float, float]], style: str, *, on: int = 1, off: int = 0, ink: str = "*"
    ) -> None:
        """Join the points; `on` dots are drawn, then `off` are left out. `ink` stands for a dot without Braille."""
        drawn = -1
        last: tuple[int, int] | None = None
        for place in points:
            here = self._dot(*place)
            for dot in [here] if last is None else _between(last, here):
                drawn += 1
                if drawn % (on + off) < on:
                    self._mark(dot, style, ink)
            last = here

    def set(self, column: int, row: int, character: str, style: str) -> None:
        """One character at a cell, row 0 being the top; nothing outside the canvas."""
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.characters[row][column], self.styles[row][column] = character, style

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """Column and row (from the top) of a place."""
        column, dot = self._dot(x, y)
        return column // self.across, dot // self.up

    def _dot(self, x: float, y: float) -> tuple[int, int]:
        wide, high = self.columns * self.across - 1, self.rows * self.up - 1
        return round(x * wide), round((1 - y) * high)

    def _mark(self, dot: tuple[int, int], style: str, ink: str) -> None:
        column, row = dot[0] // self.across, dot[1] // self.up
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            return
        before = self.characters[row][column]
        if not self.braille:
            self.characters[row][column] = ink
        else:
            # Dots of another line stay; its colour gives way.
            there = ord(before) - 0x2800 if 0x2800 <= ord(before) < 0x2900 else 0
            self.characters[row][column] = chr(0x2800 + (there | _DOTS[dot[1] % 4][dot[0] % 2]))
        self.styles[row][column] = style


def _between(one: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots after `one` up to `other`, each beside the one before."""
    steps = max(abs(other[0] - one[0]), abs(other[1] - one[1]))
    return [
        (
            one[0] + round((other[0] - one[0]) * step / steps),
            one[1] + round((other[1] - one[1]) * step / steps),
        )
        for step in range(1, steps + 1)
    ]
