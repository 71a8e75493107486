"""A load test as plain values, for JSON."""

from __future__ import annotations

import math
from typing import Any

from hooke.project.benching.result import BenchResult, LevelResult
from hooke.project.benching.sweep import Sweep
from hooke.project.benching.text import sentences
from hooke.scaling.estimate import Estimate

__all__ = ["facts_of", "sweep_facts"]


def facts_of(result: BenchResult) -> dict[str, Any]:
    """All of it; times are seconds, what is infinite or unknown is None."""
    order, safe, handled = result.order, result.safe, result.handled
    return {
        "url": order.url,
        "slo": None if order.slo is None else {"percent": order.slo.percent, "limit_s": order.slo.limit_s},
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
        "lone_s": _finite(result.lone_s),
        "safe": None if safe is None else {"rate": safe.low, "breaks_at": _finite(safe.high), "generator_limited": safe.limited},
        "levels": [_level(level) for level in result.levels],
        "handled": None if handled is None else {
            "run": handled.run, "requests": handled.requests, "client": result.asked_for, "unheard": result.unheard,
            "consistent": result.consistent, "batches": handled.batches, "rows": handled.rows, "law": list(handled.law),
        },
        "notes": list(sentences(result)),
    }  # fmt: skip


def sweep_facts(sweep: Sweep) -> dict[str, Any]:
    """Of a single result its own; of several theirs; with the studies that hold their safe rates."""
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
        "latency_s": None if hidden else {each.name: _estimate(each) for each in summary.percentiles},
        "kept": None if hidden or summary.kept is None else _estimate(summary.kept),
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


def _estimate(each: Estimate) -> dict[str, Any]:
    return {"value": each.value, "interval": [*map(_finite, each.interval)], "level": each.level}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
