"""Learning curves: values of metrics over steps, a panel a metric and a colour a source, as Plotly's plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hooke.charts.palette import GREY, INK, SERIES

__all__ = ["Curves", "Trace", "curves_spec", "thinned"]

MOST_POINTS = 1000
"""Of a line: more than there are pixels across a panel."""
PANEL = 300
"""Pixels of height."""
GAP = 70
LEGEND_ROW = 20
MOST_IN_ROW = 3
"""Names of runs that find room beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A line: `steps` and `values` of one length, in the order in which they are joined. Lines of one `source` share a colour."""

    source: str
    steps: ArrayLike
    values: ArrayLike
    detail: str = ""
    """What tells it from other lines of its source."""
    joined: bool = True
    """Whether the points are joined by a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A panel: a metric and its lines."""

    metric: str
    traces: Sequence[Trace]


def thinned(steps: ArrayLike, values: ArrayLike, most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` of the points: the least and the greatest of each stretch, and the first and the last point."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if len(x) <= most:
        return x.tolist(), y.tolist()
    size = -(-len(x) // max(most // 2 - 1, 1))
    rows = -(-len(x) // size)
    known = np.full(rows * size, np.nan)
    known[: len(x)] = np.where(np.isfinite(y), y, np.nan)
    blocks = known.reshape(rows, size)
    there = np.isfinite(blocks).any(axis=1)
    start = np.arange(rows) * size
    least = start + np.where(np.isnan(blocks), np.inf, blocks).argmin(axis=1)
    greatest = start + np.where(np.isnan(blocks), -np.inf, blocks).argmax(axis=1)
    order = np.unique(np.concatenate([[0, len(x) - 1], least[there], greatest[there]]))
    return x[order].tolist(), y[order].tolist()


def curves_spec(panels: Sequence[Curves], *, title: str = "", steps: str = "step") -> dict[str, Any]:
    """Traces and layout in Plotly's words. What is not finite is a gap in its line. `steps` says what is counted along x."""
    sources = list(dict.fromkeys(trace.source for panel in panels for trace in panel.traces))
    colours = {source: SERIES[at % len(SERIES)] for at, source in enumerate(sources)}
    top_margin = GAP + LEGEND_ROW * -(-len(sources) // MOST_IN_ROW)
    height = PANEL * len(panels) + GAP * len(panels) + top_margin
    layout: dict[str, Any] = {
        "title": {
            "text": f"<b>{escape(title)}</b>", "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 20}, "font": {"size": 15},
        },
        "height": height, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "hovermode": "closest",
        "font": {"color": INK, "size": 12}, "margin": {"l": 70, "r": 30, "t": top_margin, "b": 60},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "groupclick": "togglegroup"},
    }  # fmt: skip
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    share = (PANEL + GAP) / max((PANEL + GAP) * len(panels) - GAP, 1)
    for at, panel in enumerate(panels):
        own = "" if not at else str(at + 1)
        top = 1 - at * share
        layout[f"xaxis{own}"] = _axis(escape(steps)) | {"anchor": f"y{own}"}
        layout[f"yaxis{own}"] = _axis(escape(panel.metric)) | {
            "anchor": f"x{own}",
            "domain": [max(top - share * PANEL / (PANEL + GAP), 0.0), top],
        }
        for trace in panel.traces:
            data.append(
                _line(trace, colours[trace.source])
                | {"xaxis": f"x{own}", "yaxis": f"y{own}", "showlegend": trace.source not in named}
            )
            named.add(trace.source)
    return {"data": data, "layout": layout}


def _line(trace: Trace, colour: str) -> dict[str, Any]:
    steps, values = thinned(trace.steps, trace.values)
    detail = f"{escape(trace.detail)}<br>" if trace.detail else ""
    return {
        "mode": "markers" if not trace.joined else "lines+markers" if len(steps) < 30 else "lines",
        "x": steps, "y": [value if np.isfinite(value) else None for value in values],
        "name": escape(trace.source), "legendgroup": trace.source,
        "line": {"color": colour, "width": 1.5, "simplify": False}, "marker": {"size": 5},
        "hovertemplate": f"{detail}%{{x}}: %{{y:.4g}}<extra>{escape(trace.source)}</extra>",
    }  # fmt: skip


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title}, "zeroline": False, "showline": True, "linecolor": GREY, "gridcolor": "#e6e6e6",
        "ticks": "outside", "tickcolor": GREY,
    }  # fmt: skip
