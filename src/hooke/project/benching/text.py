"""A load test in words: a line for each level, a table of them all, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hooke.base.formats import format_bytes, format_seconds
from hooke.load.summary import Summary, Verdict
from hooke.project.benching.result import BenchResult, LevelResult
from hooke.project.benching.sweep import Line
from hooke.project.table import aligned
from hooke.scaling.estimate import Estimate
from hooke.scaling.provision import IDLE_SHARE
from hooke.serving.slo import Slo

__all__ = ["cells", "columns", "compared", "heading", "level_line", "sentences", "table"]


def columns(result: BenchResult) -> list[str]:
    """Names of the table's columns."""
    slo = result.order.slo
    named = [
        "asked/s",
        "answered/s",
        *_percents(slo),
        *([f"within {format_seconds(slo.limit_s)}"] if slo else []),
    ]
    named += ["refused", "failed", "own lag"]
    if any(level.server for level in result.levels):
        named += ["batch", "CPU/answer", "cores", "memory"]
    return [*named, "verdict"]


def cells(level: LevelResult, slo: Slo | None) -> list[str]:
    """A level's row; percentiles are left out where the generator was the limit."""
    summary = level.summary
    row = [_rate(level.asked), _rate(summary.throughput)]
    shown = f"p{slo.percent:g}" if slo else "p99"  # the one that matters, with its interval
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
    """All levels, by their rate."""
    names = columns(result)
    levels = sorted(result.levels, key=lambda level: level.asked)
    rows = [cells(level, result.order.slo) for level in levels]
    return "\n".join(aligned(names, rows, right=range(len(names) - 1)))


def level_line(level: LevelResult, slo: Slo | None) -> str:
    """What is said when a level is over."""
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
    """What follows from the levels, the most important first."""
    if result.stopped:
        yield "stopped before all was measured; what there is stands above"
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
            "; more files may not be open (ulimit -n)" if least.most_open < result.order.connections else ""
        )
        yield (
            f"from {_rate(least.asked)}/s on requests waited for one of {least.most_open} connections"
            f"{open_files or '; --connections allows more'}"
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


def compared(line: Line, *, cores: int) -> Iterator[str]:
    """What each N of a study bears of what the first does, between the ends of both: what holds without any law."""
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
        yield f"{heading(crowded[0])}: more than this machine's {cores} cores, so it tells of the machine, not of the service"


def _is_crowded(result: BenchResult, cores: int) -> bool:
    """Whether it wanted more cores than there are; one that waits for something else leaves them idle."""
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
            yield f"{slo} is never met: a request that is alone takes {format_seconds(result.lone_s)}"
        elif any(level.summary.verdict is Verdict.UNCLEAR for level in result.levels):
            yield f"no safe rate: whether {slo} holds could not be told of so few requests; a longer --for tells"
        elif result.levels:
            tried = min((level.asked for level in result.levels), default=0.0)
            yield f"no safe rate: {slo} did not hold at any of the rates, down to {_rate(tried)}/s"
        return
    yield f"safe rate: {_rate(safe.low)}/s. There {slo} holds with 95 % confidence, failures counted as late"
    if math.isfinite(safe.high):
        between = ", and the generator was the limit in between" if safe.limited else ""
        yield f"at {_rate(safe.high)}/s it surely breaks{between}"
    elif safe.limited:
        yield "the service may take more: above it the generator was the limit"
    else:
        yield "no rate surely broke it"


def _limits(result: BenchResult) -> Iterator[str]:
    for level in result.levels:
        if level.summary.unknown:
            yield f"no figure at {_rate(level.asked)}/s: {level.summary.limited}"


def _handled(result: BenchResult) -> Iterator[str]:
    handled = result.handled
    if handled is None:
        return
    mean = f", mean batch {handled.mean_batch:.1f} rows" if handled.mean_batch else ""
    if result.consistent:
        yield f"the service counted {handled.requests:,} answers, the client {result.asked_for:,}{mean}"
    else:
        yield (
            f"the counts do not agree: the service says {handled.requests:,} answers, the client {result.asked_for:,}, "
            f"and {result.unheard:,} may have been answered unheard; these figures are not to be trusted"
        )
    yield from handled.law


def _verdict(summary: Summary) -> str:
    if summary.verdict is not None:
        return summary.verdict.value
    return "generator" if summary.limited else ""


def _time(estimate: Estimate | None, *, interval: bool = True) -> str:
    if estimate is None:
        return "-"
    if not interval:
        return format_seconds(estimate.value)
    low, high = estimate.interval
    reach = "?" if math.isinf(high) else format_seconds(high)
    return f"{format_seconds(estimate.value)} ({format_seconds(low)} to {reach})"


def _share(value: float) -> str:
    return f"{value:.2%}" if value < 1 else "100%"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
