"""Lets a service go through all that can happen to it, under steady load, and prints what it cost its callers.

    python -m benchmarks.serving.chaos > docs/explanation/serving-chaos.md
    python -m benchmarks.serving.chaos --minutes 0 --method again      one blow of each kind, to one service

Ends with 1 where a promise was not kept. Takes ten minutes; every process that it starts is ended with it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.serving.chaos.page import page
from benchmarks.serving.chaos.programme import Course, run

METHODS = {"both": ("Again", "Once"), "again": ("Again",), "once": ("Once",)}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; 0: one blow of each kind")
    parser.add_argument("--replicas", type=int, default=2, help="of each service")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, of each service")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="both",
        help="whether its requests may be sent again, or not; side by side by default",
    )
    given = parser.parse_args()
    if given.replicas < 2 or given.rate <= 0 or given.minutes < 0:
        parser.error("give at least 2 replicas, a rate above 0, and no negative time")
    course = Course(
        seconds=60 * given.minutes,
        rate=given.rate,
        replicas=given.replicas,
        services=METHODS[given.method],
    )
    with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as folder:
        try:
            results = run(course, Path(folder))
        except KeyboardInterrupt:
            raise SystemExit("stopped: nothing is printed, and no process is left") from None
    print(page(results, course))
    return int(any(result.broken or result.unsaid for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
