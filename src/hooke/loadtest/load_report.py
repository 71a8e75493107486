"""The report of a load test: lines, table, sentences, JSON, figure and HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from hooke.base.formats import aligned, format_bytes, format_seconds
from hooke.base.table import html_table
from hooke.charts.html import static_page
from hooke.charts.latency_chart import Latencies, LoadPicture, SafeRange, latency_sheet
from hooke.charts.renderers import inline_svg
from hooke.loadtest.load_result import BenchResult, LevelResult
from hooke.loadtest.rate_search import LevelSummary, LevelVerdict
from hooke.loadtest.sweep import Sweep, SweepRow
from hooke.scaling.measurements import Estimate, finite
from hooke.scaling.provision import IDLE_SHARE
from hooke.serving.slo import Slo

__all__ = ["compared", "heading", "level_line", "page_of", "picture_of", "sentences", "sweep_facts", "table"]


def columns(result: BenchResult) -> list[str]:
    """The names of the table's columns."""
    slo = result.order.slo
    named = [
        "requested/s",
        "answered/s",
        *_percents(slo),
        *([f"within {format_seconds(slo.limit_s)}"] if slo else []),
    ]
    named += ["refused", "failed", "generator lag"]
    if any(level.server for level in result.levels):
        named += ["batch", "CPU/answer", "cores", "memory"]
    return [*named, "verdict"]


def cells(level: LevelResult, slo: Slo | None) -> list[str]:
    """A level's row, without percentiles if the generator was the limit."""
    summary = level.summary
    row = [_rate(level.asked), _rate(summary.throughput)]
    shown = f"p{slo.percent:g}" if slo else "p99"  # the relevant one, with its interval
    row += [
        "-" if summary.unknown else _time(summary.at(float(name[1:])), interval=name == shown)
        for name in _percents(slo)
    ]
    if summary.kept is not None:
        row.append("-" if summary.unknown else _share(summary.kept.value))
    row += [
        _count(sum(summary.refused.values())),
        _count(sum(summary.failed.values())),
        format_seconds(summary.lag),
    ]
    if level.server is not None:
        cpu = "-" if level.cpu_us is None else format_seconds(level.cpu_us / 1e6)
        batch = level.server.mean_batch
        row += [
            "" if batch is None else f"{batch:.1f}",
            cpu,
            f"{level.server.cores:.2f}",
            format_bytes(level.server.rss),
        ]
    return [*row, _verdict(summary)]


def table(result: BenchResult) -> str:
    """All levels as a table, by rate."""
    names = columns(result)
    levels = sorted(result.levels, key=lambda level: level.asked)
    rows = [cells(level, result.order.slo) for level in levels]
    return "\n".join(aligned(names, rows, right=range(len(names) - 1)))


def level_line(level: LevelResult, slo: Slo | None) -> str:
    """The line printed after a level."""
    summary = level.summary
    if summary.unknown:
        return f"{_rate(level.asked)}/s: {summary.limited}"
    percent = slo.percent if slo else 99.0
    bad = summary.unanswered
    return (
        f"{_rate(level.asked)}/s: p{percent:g} {_time(summary.at(percent))}"
        + (f", {bad:,} of {summary.count:,} without an answer" if bad else "")
        + (f", {_verdict(summary)}" if summary.verdict else "")
    )


def sentences(result: BenchResult) -> Iterator[str]:
    """The conclusions, the most important first."""
    if result.stopped:
        yield "stopped early; the results so far are above"
    yield from _safe(result)
    yield from _limits(result)
    for level in sorted(result.levels, key=lambda level: level.asked):
        wrong = {
            **{str(status): number for status, number in level.summary.refused.items()},
            **level.summary.failed,
        }
        if wrong:
            yield f"at {_rate(level.asked)}/s without a 2xx answer: " + ", ".join(
                f"{name} {number:,}" for name, number in wrong.items()
            )
    crowded = [level for level in result.levels if level.waited]
    if crowded:
        least = min(crowded, key=lambda level: level.asked)
        open_files = (
            ", the limit of open files (ulimit -n)" if least.most_open < result.order.connections else ""
        )
        yield (
            f"from {_rate(least.asked)}/s on, requests waited for one of {least.most_open} connections"
            f"{open_files or '; use --connections for more'}"
        )
    yield from _handled(result)
    if result.order.sent.bodies:
        yield f"sent: {result.order.sent}"


def heading(result: BenchResult) -> str:
    """`2 replicas, 1 thread each`."""
    replicas, threads = result.replicas or 1, result.threads or 0
    told = [f"{replicas} replica{'s' * (replicas != 1)}"]
    told += [f"{threads} thread{'s' * (threads != 1)}{' each' * (replicas != 1)}"] if threads else []
    return ", ".join(told)


def compared(line: SweepRow, *, cores: int) -> Iterator[str]:
    """The safe rate of each N relative to the first, with the bounds from both intervals; needs no law."""
    known = [
        (result, result.safe.low, result.safe.high)
        for result in line.results
        if result.safe is not None and result.safe.low is not None and not result.stopped
    ]
    for result, held, broke in known[1:]:
        first, first_held, first_broke = known[0]
        ends = (held / first_broke, broke / first_held)
        low, high = (f"{end:.2f}" if 0 < end < math.inf else "?" for end in ends)
        yield f"{heading(result)}: {held / first_held:.2f} times the safe rate of {heading(first)} ({low} to {high})"
    crowded = [each for each in line.results if _is_crowded(each, cores)]
    if crowded:
        yield f"{heading(crowded[0])}: more than this machine's {cores} cores, so the machine is the limit, not the service"


def _is_crowded(result: BenchResult, cores: int) -> bool:
    """Whether it needs more cores than there are. A service that waits for something else leaves cores idle."""
    used = result.at_safe_rate
    waits = used is not None and used.cores <= IDLE_SHARE * cores
    return (result.replicas or 1) * (result.threads or 1) > cores and not waits


def _percents(slo: Slo | None) -> list[str]:
    wanted = {50.0, 90.0, 99.0, 99.9} | ({slo.percent} if slo else set())
    return [f"p{percent:g}" for percent in sorted(wanted)]


def _safe(result: BenchResult) -> Iterator[str]:
    safe, slo = result.safe, result.order.slo
    if safe is None or slo is None:
        return
    if safe.low is None:
        if not result.levels and result.lone_s >= slo.limit_s:
            yield f"{slo} is never met: a single request takes {format_seconds(result.lone_s)}"
        elif any(level.summary.verdict is LevelVerdict.UNCLEAR for level in result.levels):
            yield f"no safe rate: too few requests to decide whether {slo} holds; use a longer --for"
        elif result.levels:
            tried = min((level.asked for level in result.levels), default=0.0)
            yield f"no safe rate: {slo} did not hold at any rate, down to {_rate(tried)}/s"
        return
    yield f"safe rate: {_rate(safe.low)}/s. {slo} holds there with 95 % confidence; failures count as late"
    if math.isfinite(safe.high):
        between = "; in between the generator was the limit" if safe.limited else ""
        yield f"at {_rate(safe.high)}/s it surely breaks{between}"
    elif safe.limited:
        yield "higher rates may be safe, too: there the generator was the limit"
    else:
        yield "no measured rate surely broke it"


def _limits(result: BenchResult) -> Iterator[str]:
    for level in result.levels:
        if level.summary.unknown:
            yield f"no result at {_rate(level.asked)}/s: {level.summary.limited}"


def _handled(result: BenchResult) -> Iterator[str]:
    handled = result.handled
    if handled is None:
        return
    mean = f", mean batch {handled.mean_batch:.1f} rows" if handled.mean_batch else ""
    if result.consistent:
        yield f"the service counted {handled.requests:,} answers, the client {result.asked_for:,}{mean}"
    else:
        yield (
            f"the counts disagree: the service counted {handled.requests:,} answers, the client {result.asked_for:,}, "
            f"and {result.unheard:,} answers may not have arrived; do not trust these results"
        )
    yield from handled.law


def _verdict(summary: LevelSummary) -> str:
    if summary.verdict is not None:
        return summary.verdict.value
    return "generator" if summary.limited else ""


def _time(estimate: Estimate | None, *, interval: bool = True) -> str:
    if estimate is None:
        return "-"
    if not interval:
        return format_seconds(estimate.value)
    return estimate.shown(lambda seconds: "?" if math.isinf(seconds) else format_seconds(seconds))


def _share(value: float) -> str:
    return f"{value:.2%}" if value < 1 else "100%"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


# --- As plain values, for JSON.


def facts_of(result: BenchResult) -> dict[str, Any]:
    """The result as plain values. Times are seconds; infinite and unknown numbers are None."""
    order, safe, handled = result.order, result.safe, result.handled
    return {
        "url": order.url,
        "slo": None if order.slo is None else order.slo.facts(),
        "replicas": result.replicas,
        "threads": result.threads,
        "sent": {
            "bodies": len(order.sent.bodies), "example": order.sent.bodies[0].decode(errors="replace") if order.sent.bodies else None,
            "made_from": order.sent.made_from or None,
        },
        "arrivals": order.arrivals_name,
        "seed": order.seed,
        "connections": order.connections,
        "timeout_s": order.timeout_s,
        "stopped": result.stopped,
        "lone_s": finite(result.lone_s),
        "safe": None if safe is None else {"rate": safe.low, "breaks_at": finite(safe.high), "generator_limited": safe.limited},
        "levels": [_level(level) for level in result.levels],
        "handled": None if handled is None else {
            "run": handled.run, "requests": handled.requests, "client": result.asked_for, "unheard": result.unheard,
            "consistent": result.consistent, "batches": handled.batches, "rows": handled.rows, "law": list(handled.law),
        },
        "notes": list(sentences(result)),
    }  # fmt: skip


def sweep_facts(sweep: Sweep) -> dict[str, Any]:
    """The facts of a single result, or of several, with the studies of their safe rates."""
    studies = [line.study for line in sweep.lines if line.study]
    kept = {"study": studies[0] if studies else None, "studies": studies}
    results = [facts_of(result) for result in sweep.results]
    return (results[0] if len(results) == 1 else {"results": results}) | kept


def _level(level: LevelResult) -> dict[str, Any]:
    summary, server = level.summary, level.server
    hidden = summary.unknown
    return {
        "asked": level.asked,
        "rate": summary.rate,
        "seconds": summary.seconds,
        "requests": summary.count,
        "answered": summary.answered,
        "throughput": summary.throughput,
        "latency_s": None if hidden else {each.name: each.facts() for each in summary.percentiles},
        "kept": None if hidden or summary.kept is None else summary.kept.facts(),
        "verdict": summary.verdict.value if summary.verdict else None,
        "refused": {str(status): number for status, number in summary.refused.items()},
        "failed": summary.failed,
        "said": {str(status): text for status, text in level.said.items()},
        "generator": {"lag_p99_s": summary.lag, "cpu": summary.cpu, "limited": summary.limited or None},
        "connections": {"opened": level.opened, "most": level.most_open, "waited": level.waited},
        "server": None if server is None else {
            "cpu_s": server.cpu_s, "cpu_us_per_answer": level.cpu_us, "cores": server.cores, "rss_bytes": server.rss,
            "mean_batch": server.mean_batch,
        },
        "hdr_us": None if hidden else level.histogram,
    }  # fmt: skip


# --- As a figure, and as a self-contained HTML page.


def picture_of(result: BenchResult) -> LoadPicture | None:
    """The data of the figure; None if no level has a result."""
    slo, safe = result.order.slo, result.safe
    # If a rate was measured twice, the last result counts.
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
        else SafeRange(
            low=safe.low,
            high=safe.high,
            text=f"safe: {safe.low:,.0f}/s" if safe.low >= 100 else f"safe: {safe.low:.3g}/s",
        ),
        caption="bars: 95 % intervals, dotted if too few answers determine the end; "
        f"{result.order.arrivals_name} arrivals; percentiles are of 2xx answers only",
    )


def _behind(result: BenchResult) -> str:
    return f", {result.replicas} replica{'s' if result.replicas != 1 else ''}" if result.replicas else ""


def page_of(results: Sequence[BenchResult]) -> str:
    """A self-contained HTML page. Text from services is escaped."""
    return static_page(f"load on {results[0].order.named}", "".join(map(_section, results)))


def _section(result: BenchResult) -> str:
    picture = picture_of(result)
    drawn = inline_svg(latency_sheet(picture)) if picture is not None else ""
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
