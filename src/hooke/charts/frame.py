"""A panel's place on a sheet: where N and a quantity lie there, and what of a line is inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hooke.charts.axis import Axis
from hooke.scaling.families import Floats

__all__ = ["Frame"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
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
