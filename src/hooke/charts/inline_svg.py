"""Parallel coordinates, and values over steps, as SVG inside of a page: classes carry the colors, `data-t` what is said under the pointer.

The page's style has the rules: `s0` to `s11` are the colors of lines, `q0` to `q4` the fifths of a value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from typing import Any

import numpy as np

from hooke.base.formats import clip, readable
from hooke.charts.run_figures import Curves, ParallelColumn, Trace, dimension_of, thinned

__all__ = ["InlineSvg", "StepsPlot", "parallel_svg", "steps_plot"]

KINDS = 12
"""Of lines that can be told apart: six colors, plain and dashed."""
MOST_POINTS = 300
"""Of a line in a plot over steps."""
MOST_TOLD = 300
"""Letters of what is said under the pointer."""
LONGEST = 18
"""Letters of an axis' name and ticks."""


class InlineSvg(str):
    """Markup that templates take as it is; all texts in it are escaped."""

    __slots__ = ()

    def __html__(self) -> str:
        """Itself, by the protocol of template engines."""
        return str(self)


def _safe(text: str) -> str:
    return escape(readable(clip(text, MOST_TOLD)))


def _cut(text: str) -> str:
    return _safe(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


# --- Parallel coordinates: a line for each trial or run, an axis for each parameter, the last one for the value.

GAP, HEIGHT, TOP, SIDE, BELOW = 150, 250, 40, 60, 16
FIFTHS = 5


def parallel_svg(
    columns: Sequence[ParallelColumn],
    told: Sequence[str],
    *,
    name: str,
    best: int | None = None,
    downwards: bool = False,
) -> InlineSvg:
    """A line through the values of all columns for each of `told`, which says what it is; the fifth of its last value is its class.

    The higher the value, the stronger the line; `downwards`, the lower.
    """
    axes = [dimension_of(column) for column in columns]
    width = SIDE * 2 + GAP * (len(axes) - 1)
    height = TOP + HEIGHT + BELOW
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [f'<svg class="parallel" {size} role="img" aria-label="{_safe(name)}">']
    shades = _fifths([-value if downwards else value for value in axes[-1]["values"]])
    order = sorted(range(len(told)), key=lambda at: (at == best, shades[at]))  # the best ones lie above
    for at in order:
        points = " ".join(
            f"{SIDE + GAP * number},{_height(axis, axis['values'][at]):.1f}"
            for number, axis in enumerate(axes)
        )
        kind = "best" if at == best else f"q{shades[at]}"
        parts.append(
            f'<g class="{kind}" data-t="{_safe(told[at])}"><polyline class="reach" points="{points}"/><polyline points="{points}"/></g>'
        )
    for number, (column, axis) in enumerate(zip(columns, axes, strict=True)):
        parts += _axis(SIDE + GAP * number, column.name, axis)
    return InlineSvg("".join([*parts, "</svg>"]))


def _fifths(values: Sequence[float]) -> list[int]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [min(int(FIFTHS * _share(value, low, high)), FIFTHS - 1) for value in values]


def _share(value: float, low: float, high: float) -> float:
    """Where it lies between the two, 0 to 1; halves, for the difference of two numbers may be too large for one."""
    share = (value / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _ends(axis: Mapping[str, Any]) -> tuple[float, float]:
    low, high = axis.get("range", (0.0, 1.0))
    return low, high if high > low else low + 1.0


def _height(axis: Mapping[str, Any], value: float) -> float:
    return TOP + HEIGHT * (1 - _share(value, *_ends(axis)))


def _axis(x: int, name: str, axis: Mapping[str, Any]) -> Iterator[str]:
    yield f'<line class="axis" x1="{x}" x2="{x}" y1="{TOP}" y2="{TOP + HEIGHT}"/>'
    yield f'<text x="{x}" y="16" text-anchor="middle" data-t="{_safe(name)}">{_cut(name)}</text>'
    ticks = axis.get("tickvals")
    low, high = _ends(axis)
    middle = (low + high) / 2
    at = [low, middle, high] if ticks is None else ticks
    texts = [f"{tick:.3g}" for tick in at] if ticks is None else axis["ticktext"]
    free = math.inf
    for tick, text in sorted(zip(at, texts, strict=True)):
        y = _height(axis, tick)
        if y > free - 12 and free != math.inf:  # it would overlap the one below
            continue
        free = y
        plain = unescape(text)  # a dimension's texts are escaped for Plotly
        yield f'<text class="tick" x="{x + 5}" y="{y + 4:.1f}" data-t="{_safe(plain)}">{_cut(plain)}</text>'


# --- Values over steps: lines and dots in a box that is as wide as the page, its ends told beside it.


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsPlot:
    """A plot, and what its ends are: the highest and lowest value, the first and last step."""

    name: str
    svg: InlineSvg
    high: str
    low: str
    first: str
    last: str


def steps_plot(panel: Curves, *, sources: Sequence[str], steps: str = "step") -> StepsPlot | None:
    """The panel's lines, each in the color of its source's number in `sources`; None where no value is a number, or they span more than numbers can."""
    lines = [(trace, *_finite(trace)) for trace in panel.traces]
    xs = [x for _, x, _ in lines if x.size]
    ys = [y for _, _, y in lines if y.size]
    if not ys:
        return None
    first, last = float(min(x.min() for x in xs)), float(max(x.max() for x in xs))
    low, high = float(min(y.min() for y in ys)), float(max(y.max() for y in ys))
    across, up = (last - first) or 1.0, (high - low) or 1.0
    if not math.isfinite(across * up):
        return None
    label = _safe(f"{panel.metric} over {steps}s, from {low:.4g} to {high:.4g}")
    parts = [f'<svg viewBox="-8 -6 1016 112" preserveAspectRatio="none" role="img" aria-label="{label}">']
    for trace, x, y in lines:
        kind = f"s{sources.index(trace.source) % KINDS}"
        places = [
            (1000 * (step - first) / across, 100 - 100 * (value - low) / up)
            for step, value in zip(x, y, strict=True)
        ]
        whose = trace.source + (f", {trace.detail}" if trace.detail else "")
        if trace.joined and len(places) > 1:
            if trace.stairs:
                corners = [(after[0], before[1]) for before, after in itertools.pairwise(places)]
                places = [*itertools.chain.from_iterable(zip(places, corners, strict=False)), places[-1]]
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            said = _safe(f"{whose}: last {y[-1]:.6g}, from {y.min():.6g} to {y.max():.6g}")
            parts.append(
                f'<g class="{kind}" data-t="{said}"><polyline class="reach" points="{points}" vector-effect="non-scaling-stroke"/>'
                f'<polyline points="{points}" vector-effect="non-scaling-stroke"/></g>'
            )
            continue
        for (a, b), step, value in zip(places, x, y, strict=True):
            said = _safe(f"{whose}, {steps} {step:g}: {value:.6g}")
            parts.append(
                f'<path class="dot {kind}" d="M{a:.1f},{b:.1f}h0" vector-effect="non-scaling-stroke" data-t="{said}"/>'
            )
    return StepsPlot(
        name=panel.metric,
        svg=InlineSvg("".join([*parts, "</svg>"])),
        high=f"{high:.4g}",
        low=f"{low:.4g}",
        first=f"{first:g}",
        last=f"{last:g}",
    )


def _finite(trace: Trace) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x, y = (np.asarray(each) for each in thinned(trace.steps, trace.values, MOST_POINTS))
    known = np.isfinite(y) & np.isfinite(x)
    return x[known], y[known]
