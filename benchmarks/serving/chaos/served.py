"""A service that runs for real: its supervisor, the next one after that was killed, its models, and the load that it is under."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from benchmarks.serving.measure import PROGRAMS
from tests.services.supervisor.supervised import Supervised, end_all, hooke, of_service

from hooke.base.errors import HookeError
from hooke.loadtest.generator_protocol import Goal, LevelReport, Outcomes
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import constant, parse_target, request_bytes
from hooke.project.folder import Project
from hooke.services.supervisor.service_folder import ServiceFolder

__all__ = ["FACTORS", "Load", "Served", "ready_pids"]

FACTORS = (2, 3)
"""What models say, in turn: an answer is right for one of them."""
KINDS = 4096
"""Different requests; those that are under way at once all differ."""
LIMIT_S = 120.0
LOOK_S = 0.05
MEMORY = "200MiB"
WORDS = (
    "--healthy",
    "2",
    "--poll",
    "0.5",
    "--lease",
    "30",
    "--memory",
    MEMORY,
    "--canary",
    "50%",  # at 5 % and some 60 requests a second a trial takes minutes
    "--with",
    "model=factor@champion",
)

Facts = dict[str, Any]


def ready_pids(facts: Facts) -> set[int]:
    """Processes of the replicas that answer."""
    return {one["pid"] for one in facts["replicas"] if one["state"] == "ready"}


class Served:
    """One service of a file of `programs` in a project of its own; a context manager that leaves no process behind."""

    def __init__(self, name: str, folder: Path, replicas: int, *, program: str = "chaos_service.py") -> None:
        self.name = name
        self.folder = folder
        self.replicas = replicas
        self.program = program
        self.supervisors: list[Supervised] = []
        self.runs: list[str] = []
        self._factor = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        for file in (self.program, "chaos_models.py"):
            shutil.copy(PROGRAMS / file, self.folder)
        self._trainer = subprocess.Popen(
            [sys.executable, "chaos_models.py"],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"HOOKE_SINKS": "none"},
        )
        try:
            self.train()()
            self.supervise()
            self.until(self.strong)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for one in self.supervisors:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
        end_all(self.folder)
        self._trainer.kill()
        self._trainer.communicate()

    def supervise(self) -> None:
        """Start a supervisor; it takes up what an earlier one left."""
        one = Supervised(
            self.folder, "--replicas", str(self.replicas), *WORDS, file=f"{self.program}:{self.name}"
        )
        self.supervisors.append(one)
        self.url = one.url
        self.token = one.token
        self.runs.append(self.facts()["run"])

    def train(self) -> Callable[[], None]:
        """Begin to register another version of the model, which gets the alias; what is given waits until it has."""
        stdin, stdout = self._trainer.stdin, self._trainer.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"factor {FACTORS[self._factor % len(FACTORS)]}\n")
        stdin.flush()
        self._factor += 1

        def wait() -> None:
            if not stdout.readline():
                raise RuntimeError("no model could be registered")

        return wait

    def command(self, *words: str) -> None:
        """A command of `hooke serve`. Raises RuntimeError where it fails."""
        done = hooke(self.folder, *words)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def post(self, path: str, value: object) -> Any:
        """One request, beside the load. Raises OSError where it fails."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.url + path, json.dumps(value).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def facts(self) -> Facts:
        """As `hooke serve status --json`. Raises HookeError where no supervisor answers."""
        folder = ServiceFolder.of(Project.find(self.folder), self.name)
        return folder.send("status")

    def strong(self, facts: Facts) -> bool:
        """Whether as many replicas as it is to have are ready, and none is to come."""
        coming = any(one["state"] == "starting" for one in facts["replicas"])
        return len(ready_pids(facts)) == self.replicas and not coming and not facts["rolling_out"]

    def until(self, holds: Callable[[Facts], bool]) -> Facts:
        """Wait for facts of which that holds. Raises TimeoutError with what the supervisors said."""
        ends = time.monotonic() + LIMIT_S
        while time.monotonic() < ends:
            try:
                facts = self.facts()
                if holds(facts):
                    return facts
            except HookeError:
                pass  # it is gone, or stopped, and another one comes
            time.sleep(LOOK_S)
        raise TimeoutError("\n".join(one.text for one in self.supervisors))

    def processes(self) -> dict[int, str]:
        """What it consists of now: pid -> `supervisor`, `replica`, `keeper`, `Envoy`."""
        found = {self.supervisors[-1].process.pid: "supervisor"}
        for one in of_service(self.folder):
            words = " ".join(one.cmdline())
            role = (
                "replica"
                if "supervisor.replica_child" in words
                else "keeper"
                if "supervisor.proxy_process" in words
                else "Envoy"
            )
            found[one.pid] = role
        return found

    def roll_outs(self) -> list[str]:
        """How each ended, from the journals of all supervisors."""
        told: list[str] = []
        for run in self.runs:
            shown = subprocess.run(
                [sys.executable, "-m", "hooke", "show", run, "--json"],
                cwd=self.folder, capture_output=True, text=True, check=True,
            )  # fmt: skip
            events = json.loads(shown.stdout)["replicas"]
            told += [event["status"] for event in events if event["event"] == "roll_out_changed"]
        return told


class Load:
    """Requests at a steady rate, sent when they are due, from a process of its own; each answer is checked. A context manager."""

    def __init__(self, served: Served, rate: float, most_s: float, timeout_s: float = 40.0) -> None:
        target = parse_target(served.url)
        rows = [(number, 7 * number + 1) for number in range(KINDS)]
        bodies = [json.dumps({"rows": row}).encode() for row in rows]
        self._generator = Generator(
            Goal(
                host=target.host,
                port=target.port,
                requests=tuple(
                    request_bytes(target, "/predict", body, token=served.token) for body in bodies
                ),
                answers=tuple(
                    tuple(json.dumps([n * f for n in row], separators=(",", ":")).encode() for f in FACTORS)
                    for row in rows
                ),
                connections=1024,
            )
        )
        self._due = constant(rate, most_s)
        self._timeout_s = timeout_s
        self._report: LevelReport | None = None
        self._thread = threading.Thread(target=self._run, name=f"load-{served.name}", daemon=True)

    def __enter__(self) -> Self:
        self._generator.__enter__()
        self._generator.run(constant(10, 0.5), timeout_s=self._timeout_s)  # it is up, and has connections
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._generator.__exit__(None, None, None)
        self._thread.join()

    def end(self) -> Outcomes:
        """Send no more; what became of all that were sent."""
        self._generator.stop()
        self._thread.join()
        if self._report is None:
            raise RuntimeError("the process that sends the requests has ended")
        whole = outcomes_of(self._due, self._report)
        return whole.sent()

    @property
    def started(self) -> float:
        """When its first request was due, by `time.monotonic`. Once it has ended."""
        assert self._report is not None
        return self._report.started

    @property
    def said(self) -> dict[int, str]:
        """The first answer of each kind of failure."""
        return self._report.said if self._report is not None else {}

    def _run(self) -> None:
        self._report = self._generator.run(self._due, timeout_s=self._timeout_s)
