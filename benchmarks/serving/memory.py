"""Whether a replica's memory stays flat: its resident size over a million requests, on many connections that come and go.

    python -m benchmarks.serving.memory > docs/explanation/serving-memory.md
    python -m benchmarks.serving.memory --requests 200_000

Prints a page with a table and the slope after the warm-up. Some minutes; `wrk` is the client where it is installed, else a client in Python.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from benchmarks.serving.measure import PROGRAMS, TOKEN, WRK, Server
from benchmarks.serving.peers import HOOKE, ROOT
from scipy.stats import theilslopes

from hooke.base.distributions import HOOKE_VERSION

EVERY = 50_000
"""Requests between two rows of the table."""
WINDOW_S = 1.0
FEWEST = 10
"""The least number of windows. On a fast machine, few windows would hold all requests and determine no slope."""
WARM = 0.2
"""The share of requests during which pools, caches and the allocator's arenas fill."""
INTRO = """# Memory over a million requests

One replica serves requests from 32 connections on its event loop and from 64 connections in batches, alternating every second, with new connections each time. If any request fails, or
is missing in the count of the service's own code, the measurement fails. This page is the output of

```text
python -m benchmarks.serving.memory > docs/explanation/serving-memory.md
```

Resident memory is that of the single process, which serves and writes its own journal. The first fifth of the requests is warm-up.
"""
KINDS = ("echo", "rows")
"""In turn: on the event loop, and in batches in the model's thread."""


@dataclass(frozen=True, slots=True)
class Sample:
    """After so many requests, so many bytes."""

    requests: int
    resident: int


@dataclass(frozen=True, slots=True)
class Growth:
    """After the warm-up. `slope` is bytes a request by Theil and Sen, `low` and `high` its 95 % interval."""

    first: Sample
    last: Sample
    slope: float
    low: float
    high: float

    @property
    def grown(self) -> int:
        """Bytes."""
        return self.last.resident - self.first.resident


def sampled(requests: int, folder: Path) -> list[Sample]:
    """Serve an echo by one replica, and ask it so often. Raises RuntimeError where a request fails, or was handled and not answered."""
    shutil.copy(PROGRAMS / "hooke_service.py", folder)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    loads = [HOOKE.asked[kind].load(kind) for kind in KINDS]
    python = str(HOOKE.python())
    command = [part.replace("{python}", python) for part in HOOKE.asked["echo"].command]
    found: list[Sample] = []
    with Server(command, folder=folder, model=folder / "none", python_path=(ROOT / "src",)) as server:
        server.start(loads[0])
        process = psutil.Process(server.process.pid)
        while len(found) < FEWEST or found[-1].requests < requests:
            server.under(loads[len(found) % len(loads)], WINDOW_S)
            found.append(Sample(server.handled()[1], process.memory_info().rss))
            print(f"{found[-1].requests:,} requests: {found[-1].resident / 2**20:.1f} MB", file=sys.stderr)
    return found


def growth(samples: Sequence[Sample], warm: float = WARM) -> Growth:
    """What it grew by after that share of the requests. Pure. Raises ValueError for fewer than three samples after it."""
    total = samples[-1].requests
    later = [one for one in samples if one.requests >= warm * total]
    if len(later) < 3:
        raise ValueError(f"{len(later)} samples after the warm-up are too few for a slope: use more requests")
    slope, _, low, high = theilslopes([one.resident for one in later], [one.requests for one in later], 0.95)
    return Growth(later[0], later[-1], float(slope), float(low), float(high))


def table(samples: Sequence[Sample], every: int = EVERY) -> list[str]:
    """The first sample in each so many requests, as rows."""
    lines = ["| requests | resident memory, MB |", "|---|---|"]
    mark = 0
    for one in samples:
        if one.requests >= mark:
            lines.append(f"| {one.requests:,} | {one.resident / 2**20:.1f} |")
            mark = (one.requests // every + 1) * every
    return lines


def _made_on() -> str:
    client = "wrk" if WRK else "a client in Python"
    return f"hooke {HOOKE_VERSION}, Python {platform.python_version()}; {client}, on the same {os.cpu_count()} cores, shared with other work."


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="at least so many, all answered well")
    given = parser.parse_args()
    if given.requests < 1:
        parser.error("give at least one request")
    with tempfile.TemporaryDirectory(prefix="memory", ignore_cleanup_errors=True) as folder:
        samples = sampled(given.requests, Path(folder))
    print(INTRO)
    print(f"{_made_on()}\n")
    print("\n".join(table(samples)))
    try:
        found = growth(samples)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(
        f"\nAfter {found.first.requests:,} requests of warm-up, memory grew by {found.grown / 2**20:.1f} MB over "
        f"{found.last.requests - found.first.requests:,} requests, all answered correctly: {found.slope:.2f} bytes a request "
        f"({found.low:.2f} to {found.high:.2f}; Theil-Sen, 95 %)."
    )


if __name__ == "__main__":
    main()
