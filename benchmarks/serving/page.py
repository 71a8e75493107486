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
    "echo": "An echo of eight numbers, each request by itself",
    "rows": "An echo in batches, in the model's thread",
    "predict": "A prediction: gradient boosting of scikit-learn, one row a request, in batches",
}
_HEAD = (
    "server, one replica", "CPU us", "x bare", "requests/s", "p99 ms", "mean batch", "memory MB", "cold start s",
)  # fmt: skip
_INTRODUCTION = """\
# What a request costs

The same two services behind Hooke, behind what one would write by hand for speed, and behind other servers of models. This page is the
output of

```text
python -m benchmarks.serving > docs/explanation/serving-speed.md
```

*CPU* is that of the server's whole tree of processes for one answered request; the client is another process. Every server's own code counts
the rows that it handles, in a mapped file that the benchmark reads: a window counts only where that is what the client had answers for, and none failed.
Hooke has everything on that is on by default: token, `Host` and `Origin`, request ids and trace context, deadlines, metrics, windows for its
journal. *Bare* is an ASGI app of a few lines on uvicorn that can do nothing else, with Hooke's own batcher where there are batches; the first row
has no ASGI either. The nearest ones are measured in turns, and beside each of the others; of each server's windows the one that took the
least CPU is shown, for other processes can only add to it. Memory counts what processes share once. A cold start is the time from the shell to the first
answer. A server that makes batches may hold 64 rows; those that wait for rows wait 2 ms at most (BentoML for as long as it finds good). \
Each runs one replica, without an access log, on one thread of OpenMP.
"""
_BATCHES = """\
## Batch size decides the price

A call of the model costs a fixed part and a part for each row, so what splits requests, or delays them before they meet, costs more than any parser.
Compare the mean batches before the servers.
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
    names = ("hooke", "uvicorn", "httptools", "uvloop", "msgspec", "fastapi", "litserve", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    client = "wrk" if WRK else "a client in Python"
    return (
        f"{versions}, Python {platform.python_version()}; {client} on the same {os.cpu_count()} shared cores as the server, "
        "so requests a second and p99 are those of a machine that does both."
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
