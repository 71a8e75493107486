"""What the page of a store of 100,000 objects costs: the longest request, other pages meanwhile, and the server's memory.

python -m benchmarks.store_page --record
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import served

from hooke.project.folder import Project
from hooke.store.entries import Entry

RECORD = Path(__file__).parent / "records" / "store_page.json"
OBJECTS, TASKS, FLOATS = 100_000, 7, 300


def fill(folder: Path) -> None:
    """A store of small objects, each with an entry."""
    project = Project.at(folder)
    project.create()
    store = project.store()
    with store.together():
        for number in range(OBJECTS):
            ref = store.put(np.full(FLOATS, number), inline_bytes=0)
            name, seconds = f"task{number % TASKS}", number % 13 / 10
            store.commit(
                Entry(key=f"{number:032x}", ref=ref, task=name, run="r", seconds=seconds, at=time.time())
            )
    store.sync()


def asked() -> dict[str, Any]:
    """Ask for the page until it is whole, and for the list of runs in between."""
    with tempfile.TemporaryDirectory(prefix="hooke-pages-") as made:
        folder = Path(made)
        fill(folder)
        with served(folder) as server:
            began = time.monotonic()
            requests, others = [], []
            while True:
                page, took = server.get("/store?max=100MB")
                requests.append(took)
                if "fills in by itself" not in page:
                    break
                others.append(server.get("/runs")[1])
            whole = round(time.monotonic() - began, 1)
            again = server.get("/store?max=100MB")[1]
            return {
                "objects": OBJECTS,
                "requests": len(requests),
                "longest_s": max(requests),
                "whole_s": whole,
                "again_s": again,
                "other_page_longest_s": max(others),
                "peak_mb": server.peak_mb,
            }


def table(record: dict[str, Any]) -> str:
    """The figures, for the decision page."""
    found = record["store"]
    rows = [
        ("the page of a store of 100,000 objects answers, at most", f"{found['longest_s']:.2f} s"),
        ("it is complete", f"{found['whole_s']:.1f} s, in {found['requests']} requests"),
        ("it opens again", f"{found['again_s']:.2f} s"),
        ("another page meanwhile, at most", f"{found['other_page_longest_s']:.2f} s"),
        ("memory of the server, at most", f"{found['peak_mb']} MB"),
    ]
    return "| what | measured |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    given = parser.parse_args()
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "store": asked(),
        "load_at_the_end": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(record, indent=1))
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
