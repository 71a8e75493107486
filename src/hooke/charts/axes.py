"""The axes of a panel: lines, numbers, and the name of the lower one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hooke.charts.frame import Frame
from hooke.charts.palette import GREY, INK
from hooke.charts.sheet import Stroke, Thing, Words

__all__ = ["axes_of"]

SIZE = 8.0


def axes_of(frame: Frame, *, size: float = SIZE) -> Iterator[Thing]:
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
