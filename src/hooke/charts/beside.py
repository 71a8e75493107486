"""What stands beside a drawing of characters: an axis's numbers, left of it and below."""

from __future__ import annotations

from hooke.charts.axis import Axis
from hooke.charts.canvas import Canvas

__all__ = ["numbers_below", "numbers_left"]


def numbers_left(y: Axis, canvas: Canvas) -> dict[int, str]:
    """By row of the canvas, the number at its height."""
    return {canvas.cell(0.0, float(y.share(tick)))[1]: y.written(tick) for tick in y.ticks()}


def numbers_below(x: Axis, canvas: Canvas) -> str:
    """Numbers centred below their place; one that would touch the one before it is left out."""
    line = ""
    for tick in x.ticks():
        text = x.written(tick)
        start = max(canvas.cell(float(x.share(tick)), 0.0)[0] - len(text) // 2, 0)
        if (not line or start > len(line)) and start + len(text) <= canvas.columns:
            line = line.ljust(start) + text
    return line
