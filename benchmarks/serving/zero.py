"""From no replica to one and back with real processes, many times, with kills in each state; and how long the first answer takes.

`python -m benchmarks.serving.zero` from the repository's root (`make soak-zero`): 200 cycles, half an hour; it writes `benchmarks/records/zero.json`.
Each cycle waits until no replica runs, sends requests (a small one, a body that is longer than what is held, a stream, and one whose client
leaves), checks each answer, and in every second cycle kills one of replica, supervisor, Envoy and the proxy's process with the activator. A
request counts as lost if it fails although what was killed did not have it: Envoy and the proxy's process have all open requests, a replica
those that were sent to it, and the supervisor none.
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
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
from benchmarks.serving.peers import ROOT
from tests.services.supervisor.simulated_zero import ZeroWorld
from tests.services.supervisor.supervised import LIMIT_S, Supervised, end_all, facts_of, kill

from hooke.journal.service_events import ReplicaReady
from hooke.project.folder import Project
from hooke.services.service_report import read_service
from hooke.services.supervisor.service_folder import ServiceFolder

RECORD = ROOT / "benchmarks" / "records" / "zero.json"
CYCLES, SEED, KEEP_S = 200, 7, "0.3s"
SIMULATED = 10_000
LOOK_S = 0.01
LEASE_S = "120"
"""A busy machine may take longer than the usual half minute to start the next supervisor."""
PROGRAM = """
import time
from collections.abc import Iterator
from hooke import service

@service(replicas=(0, 2), timeout="100s")
class Zero:
    def double(self, number: int, takes_s: float = 0.0) -> int:
        time.sleep(takes_s)
        return 2 * number

    def length(self, text: str) -> int:
        return len(text)

    def count(self, to: int) -> Iterator[int]:
        yield from range(to)
"""
BLOWS = (
    ("supervisor", "zero"),
    ("proxy", "zero"),
    ("Envoy", "zero"),
    ("replica", "starting"),
    ("supervisor", "starting"),
    ("proxy", "starting"),
    ("Envoy", "starting"),
    ("replica", "serving"),
    ("supervisor", "serving"),
    ("proxy", "serving"),
    ("Envoy", "serving"),
    ("replica", "leaving"),
    ("supervisor", "leaving"),
    ("proxy", "leaving"),
    ("Envoy", "leaving"),
)
Facts = dict[str, Any]


@dataclass
class Counts:
    """What was seen."""

    cycles: int = 0
    requests: int = 0
    right: int = 0
    left: int = 0
    """Requests whose client left on purpose."""
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    blows: Counter[str] = field(default_factory=Counter)
    """Kills by victim and state, when the process was gone."""
    cost: Counter[str] = field(default_factory=Counter)
    """Requests that failed with what was killed, by victim and state."""
    first: list[tuple[float, float]] = field(default_factory=list)
    """When the first request of a cycle without a kill was sent (seconds since the epoch), and the seconds until its answer."""


class Zero:
    """The service, its clients, and whoever kills; a context manager that leaves no process behind."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.counts = Counts()
        self.numbers = itertools.count(1)

    def __enter__(self) -> Self:
        (self.folder / "zero.py").write_text(PROGRAM)
        self.supervise()
        place = self.supervisor.url.removeprefix("http://").partition(":")
        self.host, self.port = place[0], int(place[2])
        self.headers = {
            "authorization": f"Bearer {self.supervisor.token}",
            "content-type": "application/json",
        }
        return self

    def __exit__(self, *_error: object) -> None:
        if self.supervisor.process.poll() is None:
            self.supervisor.process.kill()
        self.supervisor.process.wait()
        end_all(self.folder)

    def supervise(self) -> None:
        """A supervisor, which takes over what there is."""
        self.supervisor = Supervised(self.folder, "--keep-alive", KEEP_S, "--lease", LEASE_S, file="zero.py")

    def facts(self) -> Facts | None:
        """Its state; None where no supervisor answers."""
        return facts_of(self.folder, "Zero")

    def until(self, what: str, holds: Callable[[Facts], bool]) -> Facts | None:
        """Wait for that; None, and a note, if it does not come."""
        ends = time.monotonic() + LIMIT_S
        while time.monotonic() < ends:
            facts = self.facts()
            if facts is not None and holds(facts):
                return facts
            time.sleep(LOOK_S)
        self.counts.stuck.append(
            f"cycle {self.counts.cycles}: {what}: {facts}\n{self.supervisor.text[-2000:]}"
        )
        return None

    # -- one cycle ---------------------------------------------------------------------------------

    def cycle(self, blow: tuple[str, str] | None) -> None:
        """From no replica to one and back."""
        victim, state = blow or ("", "")
        if (
            self.until("no replica runs", lambda facts: facts["state"] == "idle" and not facts["replicas"])
            is None
        ):
            return
        if state == "zero":
            self.strike(victim, state)
            self.until_ready()
        work = self.work() if victim else [Call(self, "/double", {"number": next(self.numbers)})]
        began = time.time()
        for call in work:
            call.start()
        if state == "starting":
            self.until("a replica starts", lambda facts: in_state(facts, "starting"))
            self.strike(victim, state, work)
        self.settle(work)
        if not victim:
            self.counts.first.append((began, work[0].seconds))
        if state == "serving":
            slow = [Call(self, "/double", {"number": next(self.numbers), "takes_s": 1.0}) for _ in range(2)]
            for call in slow:
                call.start()
            self.until("it answers", lambda facts: any(one["in_flight"] for one in facts["replicas"]))
            self.strike(victim, state, slow)
            self.settle(slow)
        if state == "leaving":
            self.until("a replica leaves", lambda facts: in_state(facts, "leaving", "ending"))
            self.strike(victim, state)
            self.until_ready()
            again = [Call(self, "/double", {"number": next(self.numbers)})]
            again[0].start()
            self.settle(again)
        self.counts.cycles += 1

    def work(self) -> list[Call]:
        """Requests of all kinds, one of whose clients leaves."""
        return [
            Call(self, "/double", {"number": next(self.numbers)}),
            Call(self, "/length", {"text": "x" * self.chance.randint(100_000, 400_000)}),
            Call(self, "/count", {"to": 5}),
            Call(self, "/double", {"number": next(self.numbers)}, leaves_s=self.chance.random()),
        ]

    def strike(self, victim: str, state: str, open_calls: list[Call] | None = None) -> None:
        """Kill it, and note that it is gone."""
        if victim == "supervisor":
            self.supervisor.process.kill()
            self.supervisor.process.wait()
            self.counts.blows[f"{victim}, {state}"] += 1
            self.supervise()
            return
        facts = self.facts()
        assert facts is not None
        pid = self.pid_of(victim, facts)
        if pid is None:
            return  # it ended by itself a moment ago
        process = psutil.Process(pid)
        kill(pid)
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(LIMIT_S)
        self.counts.blows[f"{victim}, {state}"] += 1
        for call in open_calls or ():
            call.excuse(victim, state)

    def pid_of(self, victim: str, facts: Facts) -> int | None:
        """The process to kill."""
        if victim == "Envoy":
            return facts["front_pid"]
        folder = ServiceFolder.of(Project.find(self.folder), "Zero")
        if victim == "proxy":
            return next((one.pid for one in folder.living() if one.name == "front"), None)
        return next((one["pid"] for one in facts["replicas"]), None)

    def until_ready(self) -> None:
        """Wait until the service says that it is ready, and the supervisor knows which replicas live."""
        ends = time.monotonic() + LIMIT_S
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
                connection.request("GET", "/-/ready")
                answer = connection.getresponse()
                answer.read()
                connection.close()
                facts = self.facts()
                # The supervisor knows of a death before Envoy does.
                if (
                    answer.status == 200
                    and facts is not None
                    and all(psutil.pid_exists(one["pid"]) for one in facts["replicas"])
                ):
                    return
            time.sleep(LOOK_S)
        self.counts.stuck.append(
            f"cycle {self.counts.cycles}: it is not ready\n{self.supervisor.text[-2000:]}"
        )

    def settle(self, calls: list[Call]) -> None:
        """Wait for the outcome of each, and count it; what a kill cost is sent again, and must be answered then."""
        again: list[Call] = []
        for call in calls:
            call.join(LIMIT_S)
            self.counts.requests += 1
            if call.is_alive():
                self.counts.stuck.append(f"cycle {self.counts.cycles}: {call.path} has no outcome")
            elif call.leaves_s is not None:
                self.counts.left += 1
            elif call.error is None:
                self.counts.right += 1
            elif call.excused:
                self.counts.cost[call.excused] += 1
                again.append(Call(self, call.path, call.value))
            else:
                self.counts.lost.append(f"cycle {self.counts.cycles}: {call.path}: {call.error}")
        if again:
            self.until_ready()
            for call in again:
                call.start()
            self.settle(again)

    def start_ups(self) -> list[tuple[float, float]]:
        """When each replica was ready, and the seconds from its start until then."""
        runs = Project.find(self.folder).runs
        found = [
            (event.at, event.seconds)
            for run in (self.folder / ".hooke" / "runs").iterdir()
            for event in read_service(runs.folder(run.name)).replicas
            if isinstance(event, ReplicaReady)
        ]
        return sorted(found)


class Call(threading.Thread):
    """A request on a connection of its own. `error` says why it has no right answer."""

    def __init__(
        self, zero: Zero, path: str, value: Mapping[str, Any], leaves_s: float | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.path, self.value, self.leaves_s = path, value, leaves_s
        self.error: str | None = None
        self.seconds = 0.0
        self.excused = ""
        self._zero = zero

    def excuse(self, victim: str, state: str) -> None:
        """What was killed may have had it; one that has an answer needs no excuse, and a starting replica has none."""
        if victim in ("proxy", "Envoy") or state == "serving":
            self.excused = f"{victim}, {state}"

    def run(self) -> None:
        """Send it, and check the answer."""
        began = time.monotonic()
        zero = self._zero
        timeout_s = LIMIT_S if self.leaves_s is None else self.leaves_s
        connection = http.client.HTTPConnection(zero.host, zero.port, timeout=timeout_s)
        try:
            body = json.dumps(self.value).encode()
            parts: Iterator[bytes] = (body[at : at + 30_000] for at in range(0, len(body), 30_000))
            chunked = {"transfer-encoding": "chunked"} if self.path == "/length" else {}
            sent: Any = parts if chunked else body
            connection.request("POST", self.path, sent, zero.headers | chunked, encode_chunked=bool(chunked))
            answer = connection.getresponse()
            said = answer.read().decode()
            self.seconds = time.monotonic() - began
            if answer.status != 200 or not self.is_right(said):
                self.error = f"{answer.status} {said[:200]}"
        except (OSError, http.client.HTTPException) as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def is_right(self, said: str) -> bool:
        """Whether it is the answer to this request."""
        if self.path == "/double":
            return json.loads(said) == 2 * self.value["number"]
        if self.path == "/length":
            return json.loads(said) == len(self.value["text"])
        return [line for line in said.splitlines() if line.startswith("data: ")][:5] == [
            f"data: {number}" for number in range(self.value["to"])
        ]


def in_state(facts: Facts, *states: str) -> bool:
    """Whether a replica is in one of these."""
    return any(one["state"] in states for one in facts["replicas"])


def soak(
    cycles: int, seed: int, folder: Path, *, every: int = 2, most_s: float = math.inf
) -> tuple[Counts, list[float]]:
    """The counts, and by how many seconds each first answer without a kill came later than its replica's start-up time."""
    ends = time.monotonic() + most_s
    with Zero(folder, seed) as zero:
        blows = itertools.cycle(BLOWS)
        for number in range(cycles):
            zero.cycle(next(blows) if number % every == every - 1 else None)
            if zero.counts.stuck or zero.counts.lost or time.monotonic() > ends:
                break
        zero.until("no replica runs", lambda facts: facts["state"] == "idle" and not facts["replicas"])
        starts = zero.start_ups()
    late: list[float] = []
    for began, seconds in zero.counts.first:
        took = [start for at, start in starts if began < at < began + seconds + 0.5]
        late += [seconds - took[0]] if took else []
    return zero.counts, late


def simulated(cycles: int, seed: int) -> dict[str, Any]:
    """Cycles under a virtual clock; raises AssertionError where a request has no outcome, or the service does not come to rest."""
    world = ZeroWorld(seed).lived(cycles)
    return {
        "seed": seed,
        "cycles": world.cycles,
        "outcomes": dict(world.outcomes),
        "blows": dict(world.done),
        "had": world.had,
        "without_outcome": len(world.pending),
    }


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = ["| killed | while | times | requests that failed with it |", "|---|---|---:|---:|"]
    for victim, state in BLOWS:
        name = f"{victim}, {state}"
        lines.append(
            f"| {victim} | {state} | {record['blows'].get(name, 0)} | {record['cost'].get(name, 0)} |"
        )
    late, world = record["late_ms"], record["simulated"]
    lines.append(
        f"| in all | {record['cycles']} cycles, {record['requests']:,} requests | {sum(record['blows'].values())} |"
        f" {sum(record['cost'].values())}; lost: {len(record['lost'])}, stuck: {len(record['stuck'])} |"
    )
    lines.append(
        f"| first answer after the start-up time | {len(late)} cold starts without a kill | |"
        f" median {statistics.median(late):.0f} ms, p95 {sorted(late)[int(0.95 * len(late))]:.0f} ms |"
    )
    lost = world["without_outcome"] + max(world["outcomes"]["killed"] - world["had"], 0)
    lines.append(
        f"| under a virtual clock | {world['cycles']:,} cycles, {sum(world['outcomes'].values()):,} requests |"
        f" {sum(world['blows'].values()):,} | {world['outcomes']['killed']:,}; lost: {lost}, stuck: 0 |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--cycles", type=int, default=CYCLES)
    asked.add_argument("--seed", type=int, default=SEED)
    asked.add_argument("--minutes", type=float, default=math.inf, help="the most")
    asked.add_argument("--record", action="store_true")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        counts, late = soak(given.cycles, given.seed, Path(name), most_s=60 * given.minutes)
    record = {
        "seed": given.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "cycles": counts.cycles,
        "requests": counts.requests,
        "right": counts.right,
        "clients_left": counts.left,
        "lost": counts.lost,
        "stuck": counts.stuck,
        "blows": dict(counts.blows),
        "cost": dict(counts.cost),
        "late_ms": [round(1e3 * each, 1) for each in late],
        "simulated": simulated(SIMULATED, given.seed),
    }
    print(json.dumps(record, indent=1))
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
