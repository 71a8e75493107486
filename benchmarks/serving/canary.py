"""Roll-outs with real processes, good and bad ones, with kills in each state of them.

`python -m benchmarks.serving.canary --record` from the repository's root (`make soak-canary`): each kill in each state, twelve minutes;
it writes `benchmarks/records/canary.json`. Each cycle serves an edited file under a load whose every answer is checked, kills one process in one
state of the roll-out, and waits until the service is at rest. A good version must then be served, and a bad one, which raises on each sixth
request, must not. A request counts as lost if it fails although neither the bad version nor what was killed had it: Envoy and the proxy's
process, in which the activator lives, have all open requests; the others none, since the service is idempotent.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import math
import os
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
from benchmarks.serving.peers import ROOT
from tests.services.supervisor.supervised import LIMIT_S, Load, Supervised, end_all, facts_of, kill, post

from hooke.project.folder import Project
from hooke.services.supervisor.service_folder import PROXY, ServiceFolder

RECORD = ROOT / "benchmarks" / "records" / "canary.json"
ROUNDS = 1
LOOK_S = 0.01
WORDS = ("--replicas", "2", "--lease", "120", "--healthy", "0.3", "--canary", "50%")
"""A half, so that a cycle takes seconds."""
PROGRAM = """
import itertools, time
from pathlib import Path
from hooke import service

calls = itertools.count(1)

@service(max_batch=8, timeout="10s", idempotent=True)
class Canary:
    def predict(self, rows: list[int]) -> list[int]:
        time.sleep(0.002)
        {fault}
        return [row * {factor} for row in rows]
"""
FAULT = 'if Path({gate!r}).exists() and len(rows) == 2 and next(calls) % 6 == 0: raise KeyError("weights")'
VICTIMS = ("supervisor", "proxy", "Envoy", "new replica", "old replica")
STATES = {
    "bad": ("starting", "on trial", "going back"),
    "good": ("starting", "on trial", "accepted", "taking over"),
}
BLOWS = tuple(
    (kind, state, victim) for kind, states in STATES.items() for state in states for victim in VICTIMS
)
MOST_TRIES = 5
"""Of a kill: a state of milliseconds may be over before it is seen."""
MOST_ERRORS = 40
"""Answers of a bad version that clients may see at a share of a half: a supervisor that is killed begins the trial anew."""
Facts = dict[str, Any]


@dataclass
class Counts:
    """What was seen."""

    cycles: int = 0
    right: int = 0
    errors: list[int] = field(default_factory=list)
    """Errors of the bad version that clients saw, by cycle."""
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Roll-outs with the wrong end."""
    blows: Counter[str] = field(default_factory=Counter)
    """Kills, when the process was gone."""
    cost: Counter[str] = field(default_factory=Counter)
    """Requests that failed with what was killed."""


class Canaries:
    """The service, its versions, and whoever kills; a context manager that leaves no process behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = Counts()
        self.served = 2
        """The factor of the version that is served."""
        self.newest = 2

    def __enter__(self) -> Self:
        self.write(self.served, "")
        self.supervisor = Supervised(self.folder, *WORDS, file="canary.py")
        self.supervisor.until_ready(2)
        return self

    def __exit__(self, *_error: object) -> None:
        if self.supervisor.process.poll() is None:
            self.supervisor.process.kill()
        self.supervisor.process.wait()
        end_all(self.folder)

    def write(self, factor: int, fault: str) -> None:
        """Write a version: it multiplies by `factor`."""
        (self.folder / "canary.py").write_text(PROGRAM.format(factor=factor, fault=fault))

    def supervise(self) -> None:
        """Another supervisor, after a kill; it serves what the file says now."""
        self.supervisor.process.kill()
        self.supervisor.process.wait()
        self.supervisor = Supervised(self.folder, *WORDS, file="canary.py")

    def facts(self) -> Facts | None:
        """Its state; None where no supervisor answers."""
        return facts_of(self.folder, "Canary")

    def until(self, what: str, holds: Callable[[Facts], bool]) -> Facts | None:
        """Wait for that; None, and a note, if it does not come."""
        ends = time.monotonic() + LIMIT_S
        facts = None
        while time.monotonic() < ends:
            facts = self.facts()
            if facts is not None and holds(facts):
                return facts
            time.sleep(LOOK_S)
        self.counts.stuck.append(f"{what}: {facts}\n{self.supervisor.text[-3000:]}")
        return None

    def cycle(self, blow: tuple[str, str, str]) -> None:
        """One roll-out."""
        kind, state, _ = blow
        self.newest += 1
        gate = self.folder / f"faulty-{self.newest}"  # a bad version raises once this file is there
        if state != "on trial":  # a trial whose answers are errors may be over before it is seen
            gate.touch()
        load = Load(self.supervisor.url, self.supervisor.token, factors=f"{self.served},{self.newest}")
        try:
            self.write(self.newest, FAULT.format(gate=str(gate)) if kind == "bad" else "")
            self.supervise()
            found = self.until(f"{blow}", lambda facts: in_state(facts, state) or over(facts))
            if found is not None and in_state(found, state):
                gate.touch()
                self.strike(blow, found)
            self.until(f"{blow}, at rest", at_rest)
        finally:
            answers = load.end()
        self.judge(blow, answers, good=kind == "good" or not gate.exists())

    def judge(self, blow: tuple[str, str, str], answers: Mapping[str, Any], *, good: bool) -> None:
        """Count the answers, and look which version is served now: the new one if it was good."""
        victim = blow[-1]
        counts = self.counts
        counts.right += answers["right"]
        errors = 0
        for said, count in answers["failed"].items():
            if not good and re.match(r"500 .*predict raised KeyError", said):
                errors += count
            elif victim in ("proxy", "Envoy"):
                counts.cost[", ".join(blow)] += count
            else:
                counts.lost.append(f"{blow}: {said}, {count} times")
        if not good:
            counts.errors.append(errors)
        served = self.ask()
        if good:
            self.served = self.newest
        if served != self.served or errors > MOST_ERRORS:
            counts.wrong.append(f"{blow}: {served}, {errors} errors\n{self.supervisor.text}")
            self.served = served or self.served
        counts.cycles += 1

    def ask(self) -> int | None:
        """The factor of the version that answers; None, and a note, if nobody does."""
        ends = time.monotonic() + LIMIT_S
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = post(self.supervisor, "/predict", {"rows": [1]})
                return int(answer[0])
            time.sleep(LOOK_S)  # Envoy was killed a moment ago
        self.counts.stuck.append(f"nobody answers\n{self.supervisor.text[-3000:]}")
        return None

    def strike(self, blow: tuple[str, str, str], facts: Facts) -> None:
        """Kill it, and note that it is gone."""
        _, state, victim = blow
        if victim == "supervisor":
            self.supervise()
            self.counts.blows[", ".join(blow)] += 1
            return
        pid = self.pid_of(victim, state, facts)
        if pid is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process = psutil.Process(pid)
            kill(pid)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(LIMIT_S)
            self.counts.blows[", ".join(blow)] += 1

    def pid_of(self, victim: str, state: str, facts: Facts) -> int | None:
        """The process to kill."""
        if victim == "Envoy":
            return int(facts["front_pid"]) or None
        if victim == "proxy":
            folder = ServiceFolder.of(Project.find(self.folder), "Canary")
            return next((one.pid for one in folder.living() if one.name == PROXY), None)
        wants_new = victim == "new replica"
        fitting = [one["pid"] for one in facts["replicas"] if is_new(one, facts, state) == wants_new]
        return fitting[0] if fitting else None


def is_new(replica: Mapping[str, Any], facts: Facts, state: str) -> bool:
    """Whether a replica is of the version that is rolled out, or was last."""
    if facts["rolling_out"]:
        return bool(replica["generation"] == facts["rolling_out"])
    return bool((replica["generation"] == facts["generation"]) == (state == "taking over"))


def leaves_back(replica: Mapping[str, Any]) -> bool:
    """Whether it leaves because its version went back."""
    return "went back" in str(replica["why"])


def in_state(facts: Facts, state: str) -> bool:
    """Whether the roll-out is in this state."""
    replicas, rolling = facts["replicas"], facts["rolling_out"]
    new = [one for one in replicas if one["generation"] == rolling]
    going = [one for one in replicas if one["state"] in ("leaving", "ending")]
    return {
        "starting": bool(rolling) and any(one["state"] == "starting" for one in new),
        "on trial": facts["trial"] is not None and bool(facts["trial"]["new"]["answered"]),
        "accepted": bool(rolling) and facts["trial"] is None,
        "going back": not rolling and any(leaves_back(one) for one in going),
        "taking over": not rolling and bool(going) and not any(leaves_back(one) for one in going),
    }[state]


def over(facts: Facts) -> bool:
    """Whether the roll-out has ended: a state was missed."""
    return not facts["rolling_out"] and facts["state"] == "serving"


def at_rest(facts: Facts) -> bool:
    """Whether two replicas of one version answer, and nothing comes or goes."""
    replicas = facts["replicas"]
    return (
        not facts["rolling_out"]
        and bool(facts["url"])
        and len(replicas) == 2
        and all(one["state"] == "ready" for one in replicas)
        and len({one["generation"] for one in replicas}) == 1
    )


def soak(folder: Path, blows: tuple[tuple[str, str, str], ...], *, most_s: float = math.inf) -> Counts:
    """The counts of a cycle for each kill, until something is wrong or the time is up."""
    ends = time.monotonic() + most_s
    with Canaries(folder) as canaries:
        counts = canaries.counts
        for blow in blows:
            for _ in range(MOST_TRIES):
                before = counts.blows.total()
                canaries.cycle(blow)
                if counts.stuck or counts.lost or counts.wrong or time.monotonic() > ends:
                    return counts
                if counts.blows.total() > before:
                    break
        return counts


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = [
        "| version | while | killed, each | requests that failed with the proxy or Envoy | with supervisor or replica |",
        "|---|---|---:|---:|---:|",
    ]
    for kind, state in ((kind, state) for kind, states in STATES.items() for state in states):
        names = {victim: f"{kind}, {state}, {victim}" for victim in VICTIMS}
        cost = {victim: record["cost"].get(name, 0) for victim, name in names.items()}
        front = cost["proxy"] + cost["Envoy"]
        times = min(record["blows"].get(name, 0) for name in names.values())
        lines.append(f"| {kind} | {state} | {times} | {front} | {sum(cost.values()) - front} |")
    errors = sorted(record["errors"])
    lines.append(
        f"| in all | {record['cycles']} rollouts, {record['right']:,} right answers | {sum(record['blows'].values())} kills |"
        f" {sum(record['cost'].values())}; lost: {len(record['lost'])}, stuck: {len(record['stuck'])} |"
        f" wrong end: {len(record['wrong'])} |"
    )
    lines.append(
        f"| bad | errors of it that clients saw | {len(errors)} rollouts | median {errors[len(errors) // 2]}, most {errors[-1]} | |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=ROUNDS)
    asked.add_argument("--minutes", type=float, default=math.inf, help="the most")
    asked.add_argument("--record", action="store_true")
    given = asked.parse_args()
    blows = tuple(itertools.chain.from_iterable(itertools.repeat(BLOWS, given.rounds)))
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        counts = soak(Path(name), blows, most_s=60 * given.minutes)
    record = {
        "seed": "none: all kills in order",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
        **vars(counts),
    }
    print(json.dumps(record, indent=1), flush=True)
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
