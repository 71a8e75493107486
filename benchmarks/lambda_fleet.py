"""Histories of a fleet on Lambda Cloud with every fault, and keepers that are killed at each step of a launch.

`python -m benchmarks.lambda_fleet --record` from the repository's root (`make soak-lambda`), some minutes; it writes
`benchmarks/records/lambda_fleet.json`. The API is a server of ours that follows its documentation: no account at Lambda was used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.providers.test_lambda_kills import STEPS, check_kill
from tests.support import REPOSITORY
from tests.support.simulation.lambda_histories import USD, check_lambda, play_lambda

RECORD = REPOSITORY / "benchmarks" / "records" / "lambda_fleet.json"
HISTORIES, KILLS, SEED = 2000, 50, 0
FAULTS = {
    "lost": "no answer, half of them done",
    "broken": "500 or 502, half of them done",
    "busy": "429 although the rate was kept",
    "early": "429 of a new keeper, which does not know when the last request was",
    "invalid_key": "the key is refused",
    "quota": "over the quota",
    "shortage": "capacity is gone although it was listed",
    "doubled": "two instances for one launch",
    "late": "listed only after up to 100 s",
    "slow": "boots for up to 15 minutes",
    "sick": "unhealthy, for a while or for good",
    "preempted": "preempted",
}


def played(seed: int) -> tuple[Mapping[str, int], int, int, bool]:
    """Faults, launches, killed keepers, and whether the cap was reached. Raises AssertionError where an invariant is broken."""
    history = play_lambda(seed)
    check_lambda(history)
    at_cap = history.most == history.caps.most(USD)
    return history.refused, len(history.launches), history.crashes, at_cap


def histories(count: int, seed: int) -> dict[str, Any]:
    """Play and check so many, in as many processes as there are cores. Raises AssertionError where an invariant is broken."""
    faults: Counter[str] = Counter()
    launches = crashes = reached = 0
    with ProcessPoolExecutor() as pool:
        for refused, launched, killed, at_cap in pool.map(played, range(seed, seed + count), chunksize=20):
            faults.update(refused)
            launches += launched
            crashes += killed
            reached += at_cap
    return {
        "histories": count,
        "launches": launches,
        "keepers_killed": crashes,
        "reached_their_cap": reached,
        "faults": dict(faults),
        "beyond_the_cap": 0,
        "launched_twice": 0,
        "left_billing": 0,
    }


def kills(count: int) -> dict[str, Any]:
    """Kill real keepers. Raises AssertionError where something is leaked or launched twice."""
    steps: Counter[str] = Counter()
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            step = STEPS[number % len(STEPS)]
            found += check_kill(Path(folder) / str(number), step, number // len(STEPS) % 2)
            steps[step] += 1
    return {"kills": count, "steps": dict(steps), "found_without_an_answer": found, "left_billing": 0}


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown."""
    played, killed = record["simulated"], record["killed"]
    lines = ["| fault | times |", "|---|---:|"]
    lines += [f"| {text} | {played['faults'].get(name, 0):,} |" for name, text in FAULTS.items()]
    lines += [
        f"| the keeper is killed, in virtual time | {played['keepers_killed']:,} |",
        f"| the keeper is killed with `kill -9`, real processes | {killed['kills']} |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--histories", type=int, default=HISTORIES)
    asked.add_argument("--kills", type=int, default=KILLS)
    asked.add_argument("--seed", type=int, default=SEED)
    asked.add_argument("--record", action="store_true")
    given = asked.parse_args()
    began = time.monotonic()
    record = {
        "seed": given.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "simulated": histories(given.histories, given.seed),
        "killed": kills(given.kills),
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(record, indent=1))
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
