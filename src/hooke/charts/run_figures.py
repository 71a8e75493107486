"""Learning curves and parallel coordinates of runs, as Plotly specs of plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hooke.charts.sheet import GREY, INK, SERIES

__all__ = ["Curves", "ParallelColumn", "Trace", "curves_spec", "dimension_of", "parallel_spec", "thinned"]


MOST_POINTS = 1000
"""Points of a line: more than a panel has pixels across."""
PANEL = 300
"""Height of a panel in pixels."""
GAP = 70
LEGEND_ROW = 20
MOST_IN_ROW = 3
"""Legend entries per row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A line through `steps` and `values`, in their order. Lines of one `source` share a color."""

    source: str
    steps: ArrayLike
    values: ArrayLike
    detail: str = ""
    """Distinguishes it from other lines of its source."""
    joined: bool = True
    """Whether the points are joined by a line."""
    stairs: bool = False
    """Whether a value holds until the next point, as the best so far does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A panel: one metric and its lines."""

    metric: str
    traces: Sequence[Trace]


def thinned(steps: ArrayLike, values: ArrayLike, most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` of the points: the minimum and the maximum of each block, and both ends."""
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
    """Plotly's traces and layout, one panel per metric. Values that are not finite are gaps. `steps` labels the x axis."""
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
        "line": {"color": colour, "width": 1.5, "simplify": False, "shape": "hv" if trace.stairs else "linear"}, "marker": {"size": 5},
        "hovertemplate": f"{detail}%{{x}}: %{{y:.4g}}<extra>{escape(trace.source)}</extra>",
    }  # fmt: skip


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title}, "zeroline": False, "showline": True, "linecolor": GREY, "gridcolor": "#e6e6e6",
        "ticks": "outside", "tickcolor": GREY,
    }  # fmt: skip


# --- Parallel coordinates.

LOG_FROM = 100.0
"""A column of positive numbers is logarithmic if its maximum is so many times its minimum."""
FEW = 6
"""Up to so many different whole numbers each get a tick."""
MISSING = "(none)"
WIDTH = 130
"""The least width of a column in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelColumn:
    """A column of numbers, or of texts if any value is a text; None is a missing value."""

    name: str
    values: Sequence[float | str | None]

    @property
    def is_numeric(self) -> bool:
        """Whether every present value is a number."""
        return all(value is None or isinstance(value, int | float) for value in self.values)


def parallel_spec(columns: Sequence[ParallelColumn], *, colour: str = "", title: str = "") -> dict[str, Any]:
    """Plotly's traces and layout. `colour` names the column that colors the lines; by default the last numeric one."""
    dimensions = [dimension_of(column) for column in columns]
    numeric = [at for at, column in enumerate(columns) if column.is_numeric]
    named = [at for at in numeric if columns[at].name == colour]
    shade = next(iter(named or reversed(numeric)), None)
    line: dict[str, Any] = {"color": "#0072b2"}
    if shade is not None:
        told = {
            name: dimensions[shade][name] for name in ("tickvals", "ticktext") if name in dimensions[shade]
        }
        line = {
            "color": dimensions[shade]["values"], "colorscale": "Viridis", "showscale": True,
            "colorbar": {"title": {"text": escape(columns[shade].name)}, "thickness": 12} | told,
        }  # fmt: skip
    layout = {
        "title": {"text": f"<b>{escape(title)}</b>", "x": 0, "xref": "paper", "font": {"size": 15}},
        "height": 460, "paper_bgcolor": "#ffffff", "font": {"color": INK, "size": 12},
        "margin": {"l": 80, "r": 60, "t": 110, "b": 40}, "minreducedwidth": WIDTH * len(columns),
    }  # fmt: skip
    return {"data": [{"type": "parcoords", "dimensions": dimensions, "line": line}], "layout": layout}


def dimension_of(column: ParallelColumn) -> dict[str, Any]:
    """Where its values lie on an axis, logarithmic for numbers of many magnitudes: Plotly's dimension, with its texts escaped for HTML."""
    made = _numbers(column) if column.is_numeric else _texts(column)
    return {"label": escape(column.name)} | made


def _texts(column: ParallelColumn) -> dict[str, Any]:
    texts = [MISSING if value is None else str(value) for value in column.values]
    kinds = sorted(set(texts))
    return {
        "values": [kinds.index(text) for text in texts],
        "tickvals": list(range(len(kinds))),
        "ticktext": [escape(kind) for kind in kinds],
        "range": [-0.1, max(len(kinds) - 0.9, 0.1)],
    }


def _numbers(column: ParallelColumn) -> dict[str, Any]:
    """Missing and infinite values lie below the minimum, at a tick of their own."""
    there = [_finite(value) for value in column.values]
    known = [value for value in there if value is not None]
    if not known:
        return _texts(ParallelColumn(name=column.name, values=[None] * len(there)))
    low, high = min(known), max(known)
    logarithmic = low > 0 and high / low >= LOG_FROM
    scale = math.log10 if logarithmic else float
    first, last = scale(low), scale(high)
    span = last - first or max(abs(last), 1.0)
    made: dict[str, Any] = {"values": [first - span / 5 if v is None else scale(v) for v in there]}
    gaps = len(known) < len(there)
    made["range"] = [
        first - span / 5 if gaps else first - (span / 20 if first == last else 0),
        last + (span / 20 if first == last else 0),
    ]
    whole = all(value == int(value) for value in known)
    few = sorted({scale(value) for value in known}) if whole and len(set(known)) <= FEW else []
    if logarithmic or gaps or few:
        ticks = few or _ticks(first, last, logarithmic=logarithmic)
        made["tickvals"] = ([first - span / 5] if gaps else []) + ticks
        made["ticktext"] = ([MISSING] if gaps else []) + [
            f"{10**tick if logarithmic else tick:.3g}" for tick in ticks
        ]
    return made


def _ticks(first: float, last: float, *, logarithmic: bool) -> list[float]:
    if not logarithmic:
        return [float(tick) for tick in np.linspace(first, last, 5 if first < last else 1)]
    whole = [float(power) for power in range(math.ceil(first), math.floor(last) + 1)]
    return sorted(
        {first, last, *(tick for tick in whole if min(tick - first, last - tick) > (last - first) / 20)}
    )


def _finite(value: float | str | None) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
