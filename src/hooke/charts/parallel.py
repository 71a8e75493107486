"""Parallel coordinates: a line for each thing through its value in each column, as Plotly's plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from hooke.charts.palette import INK

__all__ = ["Column", "parallel_spec"]

LOG_FROM = 100.0
"""A column of positive numbers whose greatest is so many times its least is drawn in logarithms."""
FEW = 6
"""So many different whole numbers are all written at their axis."""
MISSING = "(none)"
WIDTH = 130
"""Pixels a column, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: numbers, or texts (one that is not a number makes all of them texts); None where a thing has none."""

    name: str
    values: Sequence[float | str | None]

    @property
    def is_numeric(self) -> bool:
        """Whether every value that is there is a number."""
        return all(value is None or isinstance(value, int | float) for value in self.values)


def parallel_spec(columns: Sequence[Column], *, colour: str = "", title: str = "") -> dict[str, Any]:
    """Traces and layout in Plotly's words. `colour` names the column that lines are coloured by; else the last numeric one."""
    dimensions = [_dimension(column) for column in columns]
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


def _dimension(column: Column) -> dict[str, Any]:
    made = _numbers(column) if column.is_numeric else _texts(column)
    return {"label": escape(column.name)} | made


def _texts(column: Column) -> dict[str, Any]:
    texts = [MISSING if value is None else str(value) for value in column.values]
    kinds = sorted(set(texts))
    return {
        "values": [kinds.index(text) for text in texts],
        "tickvals": list(range(len(kinds))),
        "ticktext": [escape(kind) for kind in kinds],
        "range": [-0.1, max(len(kinds) - 0.9, 0.1)],
    }


def _numbers(column: Column) -> dict[str, Any]:
    """What is missing (or not finite) lies below the least, at a tick of its own."""
    there = [_finite(value) for value in column.values]
    known = [value for value in there if value is not None]
    if not known:
        return _texts(Column(name=column.name, values=[None] * len(there)))
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
