"""The figure and the tables of the landing page: a task's scaling law, and a plan by it.

    python -m benchmarks.first_contact.law            prints what docs/index.md quotes, and writes docs/law.svg

It takes about five minutes, most of them asleep, so a busy machine changes little.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FIGURE = Path(__file__).parents[2] / "docs" / "law.svg"
PROGRAM = """\
import fcntl
import time

from hooke import pipeline, task


@task
def fetch(page: int) -> int:
    time.sleep(0.1)  # the network, which serves many at once
    with open("log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        time.sleep(0.01)  # the log, which takes one line at a time
    return page


@pipeline
def crawl(pages: int = 240) -> list[int]:
    return fetch.map(range(pages))
"""
COMMANDS = (
    ("measure", "crawl.py", "--task", "fetch", "--workers", "1,2,4,8,12,16,24"),
    ("curve", "--save", str(FIGURE)),
    ("plan", "crawl.py", "--pages", "20000", "--workers", "4,8,10", "--deadline", "10m"),
)


def main() -> None:
    """Run the commands in an empty folder, and show what they print."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "crawl.py").write_text(PROGRAM, "utf-8")
        for words in COMMANDS:
            print("$ hooke", *words, flush=True)
            subprocess.run([sys.executable, "-m", "hooke", *words], cwd=folder, check=True)


if __name__ == "__main__":
    main()
