"""The page of the documentation that shows the comparison."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from benchmarks.serving.measure import WRK, Window
from benchmarks.serving.peers import BARE, CONNECTIONS, FAR, NEAR

__all__ = ["KINDS", "Row", "page"]

KINDS = ("echo", "rows", "predict")
_SAID = {
    "echo": "An echo of eight numbers, without batches",
    "rows": "An echo in batches, in the model's thread",
    "predict": "A prediction: scikit-learn gradient boosting, one row per request, in batches",
}
_HEAD = (
    "server, one replica", "CPU us", "x bare", "requests/s", "p99 ms", "mean batch", "memory MB", "cold start s",
)  # fmt: skip
_INTRODUCTION = """\
# The cost of a request

The same two services behind Hooke, behind code hand-written for speed, and behind other model servers. This page is the
output of

```text
python -m benchmarks.serving > docs/explanation/serving-speed.md
```

*CPU* is the CPU time of the server's whole process tree per answered request; the client is a separate process. The code of every server counts
the rows that it handles, in a mapped file that the benchmark reads. A measurement window counts only if this number equals the number of responses that the client received, and no request failed.
Hooke runs with all its defaults: bearer token, checks of `Host` and `Origin`, request ids and trace context, deadlines, metrics, and statistics windows for its
journal. *Bare* is an ASGI app of a few lines on uvicorn that can do nothing else, with Hooke's own batcher where requests are batched; the first row
has no ASGI either. The fastest servers are measured in turns, and again beside each of the others. For each server, the table shows the window with the
least CPU, because other processes can only add to it. Memory counts shared pages once. A cold start is the time from the shell command to the first
response. A server that batches may hold 64 rows. Servers that wait for rows wait at most 2 ms (BentoML chooses its own wait). Each server runs one replica, without an access log, on one OpenMP thread.
"""
_BATCHES = """\
## Batch size determines the cost

A call of the model costs a fixed part plus a part for each row. So splitting requests, or delaying them before they form a batch, costs more than any parser.
Compare the mean batches before you compare the servers.
"""


@dataclass(slots=True)
class Row:
    """What was seen of one server at one kind of work."""

    windows: list[Window] = field(default_factory=list)
    start_s: float = 0.0
    memory_mb: float = 0.0
    why_none: str = ""

    @property
    def best(self) -> Window:
        """The window in which others disturbed it least."""
        return min(self.windows, key=lambda window: window.cpu_us)


def page(rows: Mapping[tuple[str, str], Row]) -> str:
    """As Markdown."""
    parts = [_INTRODUCTION, _about()]
    for kind in KINDS:
        parts += [f"## {_SAID[kind]}", f"{CONNECTIONS[kind]} connections.", _table(kind, rows)]
    return "\n\n".join(part.rstrip() for part in [*parts, _BATCHES])


def _about() -> str:
    names = ("hooke-ml", "uvicorn", "httptools", "uvloop", "msgspec", "fastapi", "litserve", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    client = "wrk" if WRK else "a client in Python"
    return (
        f"{versions}, Python {platform.python_version()}; {client} on the same {os.cpu_count()} shared cores as the server, "
        "so requests a second and p99 are those of a machine that runs both."
    )


def _table(kind: str, rows: Mapping[tuple[str, str], Row]) -> str:
    bare = rows[BARE.title, kind].best.cpu_us
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
    for peer in (*NEAR, *FAR):
        row = rows.get((peer.title, kind))
        if row is None:
            continue
        if not row.windows:
            lines.append(f"| {peer.title} | none: {row.why_none.splitlines()[0]} |" + " |" * 6)
            continue
        best = row.best
        lines.append(
            f"| {peer.title} | {best.cpu_us:.1f} | {best.cpu_us / bare:.2f} | {best.rate:,.0f} | {best.p99_ms:.1f} "
            f"| {best.mean_batch:.0f} | {row.memory_mb:.0f} | {row.start_s:.1f} |"
        )
    return "\n".join(lines)
