"""A law's numbers as a table for people, and as plain values for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from hooke.base.errors import NotEnoughData
from hooke.charts.points import points_of
from hooke.scaling.cost import Cost
from hooke.scaling.estimate import Estimate
from hooke.scaling.law import Law

__all__ = ["COLUMNS", "cells_of", "facts_of", "number", "table_of"]

COLUMNS = ("N", "measured", "interval", "speed-up", "efficiency", "serial fraction")


def cells_of(law: Law) -> list[tuple[str, ...]]:
    """A row for each N measured: throughput with its interval, then the law's speed-up, efficiency, serial fraction."""
    points = points_of(law)
    rows: list[tuple[str, ...]] = []
    for n, value, low, high in zip(points.n, points.value, points.low, points.high, strict=True):
        serial = law.karp_flatt(float(n)).value if n > 1 else math.nan
        rows.append(
            (
                f"{n:g}",
                number(value),
                f"{number(low)} to {number(high)}",
                f"{law.speedup(float(n)).value:.3g}",
                f"{law.efficiency(float(n)).value:.0%}",
                f"{serial:.3f}" if math.isfinite(serial) else "",
            )
        )
    return rows


def table_of(law: Law, unit: str) -> str:
    """The cells in columns; numbers end at the same place."""
    header = (COLUMNS[0], f"{unit}/s", *COLUMNS[2:])
    rows: Sequence[tuple[str, ...]] = [header, *cells_of(law)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def number(value: float, digits: int = 4) -> str:
    """A number of things or a rate, to so many digits: `0.02857`, `1,290`."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.{digits}g}"


def facts_of(law: Law, cost: Cost | None) -> dict[str, Any]:
    """The law, its points and what follows, in values that JSON has; infinite and unknown numbers are None."""
    points = points_of(law)
    columns = (points.n, points.value, points.low, points.high, points.count)
    return {
        "family": law.family,
        "level": law.level,
        "parameters": {symbol: _estimate(each) for symbol, each in law.parameters.items()},
        "knee": _answer(law.determined_knee),
        "peak": _estimate(law.peak),
        "alternatives": [each.family for each in law.alternatives],
        "flags": list(law.flags),
        "points": [
            {"n": n, "throughput": value, "interval": [low, high], "measurements": int(count)}
            for n, value, low, high, count in zip(*(column.tolist() for column in columns), strict=True)
        ],
        "next_measurement": law.next_measurement().n,
        "cost": None if cost is None else {"n": _finite(cost.n), "interval": [*map(_finite, cost.interval)], "plain": cost.plain},
    }  # fmt: skip


def _answer(ask: Callable[[], Estimate]) -> dict[str, Any]:
    """The estimate, or why there is none."""
    try:
        return _estimate(ask())
    except NotEnoughData as refusal:
        return {"value": None, "refused": refusal.what, "why": refusal.why, "measure_at": refusal.measure_at}


def _estimate(each: Estimate) -> dict[str, Any]:
    return {"value": _finite(each.value), "interval": [*map(_finite, each.interval)]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
