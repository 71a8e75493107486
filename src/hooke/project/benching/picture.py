"""A load test as a picture, and as a page to mail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from hooke.charts.latency import Latencies, LoadPicture, Safe, sheet_of
from hooke.charts.svg import inline_svg
from hooke.project.benching.result import BenchResult, LevelResult
from hooke.project.benching.text import cells, columns, sentences
from hooke.project.comparing.html import html_table

__all__ = ["page_of", "picture_of"]

_STYLE = "font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1rem"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def picture_of(result: BenchResult) -> LoadPicture | None:
    """What is drawn of it; None where no level gave a figure."""
    slo, safe = result.order.slo, result.safe
    # Of a rate that was measured twice the last word counts.
    last = {
        level.asked: level
        for level in result.levels
        if not level.summary.unknown and level.summary.percentiles
    }
    levels = [last[rate] for rate in sorted(last)]
    if not levels:
        return None
    percents = sorted({50.0, 99.0, slo.percent if slo else 99.0})
    return LoadPicture(
        title=f"{result.order.named} under load{_behind(result)}",
        series=tuple(_series(levels, percent) for percent in percents),
        limit=None if slo is None else slo.limit_s * 1e3,
        limit_text=str(slo or ""),
        safe=None
        if safe is None or safe.low is None
        else Safe(
            low=safe.low,
            high=safe.high,
            text=f"safe: {safe.low:,.0f}/s" if safe.low >= 100 else f"safe: {safe.low:.3g}/s",
        ),
        caption="bars: 95 % intervals, dotted where so few answers cannot tell the end; "
        f"{result.order.arrivals_name} arrivals; answers other than 2xx are in no percentile",
    )


def _behind(result: BenchResult) -> str:
    return f", {result.replicas} replica{'s' if result.replicas != 1 else ''}" if result.replicas else ""


def page_of(results: Sequence[BenchResult]) -> str:
    """One file of HTML, which loads nothing and runs nothing. What services said is escaped."""
    title = f"load on {results[0].order.named}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"></head>\n'
        f'<body style="{_STYLE}">{"".join(map(_section, results))}</body></html>\n'
    )


def _section(result: BenchResult) -> str:
    picture = picture_of(result)
    drawn = inline_svg(sheet_of(picture)) if picture is not None else ""
    levels = sorted(result.levels, key=lambda level: level.asked)
    table = html_table(columns(result), [cells(level, result.order.slo) for level in levels])
    told = "".join(f"<p>{escape(each)}</p>" for each in sentences(result))
    return f'{drawn}{told}<div style="overflow-x:auto;white-space:nowrap">{table}</div>'


def _series(levels: list[LevelResult], percent: float) -> Latencies:
    found = [
        (level.asked, estimate) for level in levels if (estimate := level.summary.at(percent)) is not None
    ]
    ends = [(max(each.interval[0], 1e-6), each.interval[1]) for _, each in found]
    return Latencies(
        name=f"p{percent:g}",
        rate=np.array([rate for rate, _ in found]),
        value=1e3 * np.array([each.value for _, each in found]),
        low=1e3 * np.array([low for low, _ in ends]),
        high=np.array([1e3 * high if math.isfinite(high) else math.inf for _, high in ends]),
    )
