"""`hooke serve --replicas` as a process, what it said, and a load beside it; everything is ended at the end, whatever happens."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from hooke.base.errors import HookeError
from hooke.project.folder import Project
from hooke.services.supervisor.service_folder import ServiceFolder

LIMIT_S = 150.0
"""A busy machine may take long; nothing here takes longer without being broken."""

SERVICE = """
import os, sys, time
from hooke import service

@service(max_batch=8, timeout="10s", idempotent=True)
class Delay:
    def setup(self, factor: int = 2):
        if factor == 0:
            print("looking for weights", flush=True)
            raise ValueError("no weights")
        self.factor = factor
        self.kept = []

    def predict(self, rows: list[int]) -> list[int]:
        time.sleep(0.002)
        return [row * self.factor for row in rows]

    def threads(self) -> str:
        return os.environ["OMP_NUM_THREADS"]

    def grow(self, mb: int) -> int:
        self.kept.append(bytearray(os.urandom(1 << 20) * mb))
        return os.getpid()

    def hang(self, s: float) -> float:
        time.sleep(s)
        return s

    async def block(self, s: float) -> float:
        time.sleep(s)
        return s
"""


def hooke(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of `hooke serve` in the folder's project."""
    return subprocess.run(
        [sys.executable, "-m", "hooke", "serve", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


class Supervised:
    """A supervisor that runs. `lines` are those that it has said so far."""

    def __init__(
        self, folder: Path, *words: str, file: str = "delays.py", said_in: Path | None = None
    ) -> None:
        self.folder = folder
        self.said = (said_in or folder) / f"said-{time.monotonic_ns()}.txt"
        with self.said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hooke", "serve", file, "--port", "0", *words],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.said.read_text()

    def until(self, pattern: str, *, count: int = 1) -> list[re.Match[str]]:
        """Wait until it has said this so often."""
        ends = time.monotonic() + LIMIT_S
        while len(found := list(re.finditer(pattern, self.text, re.MULTILINE))) < count:
            assert time.monotonic() < ends, f"it did not say {pattern!r}:\n{self.text}"
            assert (
                self.process.poll() is None
                or len(list(re.finditer(pattern, self.text, re.MULTILINE))) >= count
            ), f"it ended before {pattern!r}:\n{self.text}"
            time.sleep(0.02)
        return found

    @property
    def url(self) -> str:
        return self.until(r"listens on (http://127\.0\.0\.1:\d+)$")[0][1]

    @property
    def token(self) -> str:
        return next(self.folder.glob(".hooke/services/*/token")).read_text().strip()

    def status(self) -> dict:
        done = hooke(self.folder, "status", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def until_ready(self, count: int) -> dict:
        """Wait until it listens, so many replicas are ready, and none is about to leave or to come."""
        assert self.url
        ends = time.monotonic() + LIMIT_S
        while True:
            facts = self.status()
            ready = [one for one in facts["replicas"] if one["state"] == "ready"]
            if len(ready) == len(facts["replicas"]) == count and not facts["rolling_out"]:
                return facts
            assert time.monotonic() < ends, (facts, self.text)
            time.sleep(0.1)

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


class Load:
    """Requests, one after the other on several connections, from a process of its own."""

    def __init__(self, url: str, token: str = "", threads: int = 4, factors: str = "2") -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("load_client.py")),
                url,
                token,
                str(threads),
                factors,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> dict:
        out, _ = self.process.communicate("", timeout=LIMIT_S)
        return json.loads(out)


def facts_of(folder: Path, service: str) -> dict[str, Any] | None:
    """As `hooke serve status --json`, from the supervisor itself; None where none answers."""
    with contextlib.suppress(HookeError, OSError):
        return ServiceFolder.of(Project.find(folder), service).send("status")
    return None


def post(
    service: Supervised,
    path: str,
    value: object,
    more: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> Any:
    """The answer to one request, with more headers, through the front. Raises TimeoutError where there is none in time."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {service.token}", **(more or {})}
    request = urllib.request.Request(service.url + path, json.dumps(value).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise


def end_all(folder: Path) -> None:
    """End what is left of the services of the folder's project, by pid: also what a failing test left behind."""
    for path in folder.glob(".hooke/services/*/children/*.json"):
        record = json.loads(path.read_text())
        try:
            process = psutil.Process(record["pid"])
            if abs(process.create_time() - record["created"]) < 0.05:
                below = process.children(recursive=True)
                for one in [process, *below]:
                    one.kill()
        except psutil.NoSuchProcess:
            continue


def of_service(folder: Path) -> list[psutil.Process]:
    """All processes of the services of the folder's project: children and what they started."""
    found: dict[int, psutil.Process] = {}
    for path in folder.glob(".hooke/services/*/children/*.json"):
        record = json.loads(path.read_text())
        if psutil.pid_exists(record["pid"]):
            process = psutil.Process(record["pid"])
            found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
    return list(found.values())


def bound(service: Supervised) -> set[tuple[str, int]]:
    """Address and port of each socket on which a process of the service listens, as `ss -ltn` has them."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in [service.process.pid, *(one.pid for one in of_service(service.folder))]
        for connection in psutil.Process(process).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def printed(service: Supervised) -> set[tuple[str, int]]:
    """Those that it said: the front's, and one of each replica that runs."""
    ports = {one["port"] for one in service.status()["replicas"]}
    said = {int(match[1]) for match in re.finditer(r"starts \(pid \d+, port (\d+)\)", service.text)}
    assert ports <= said
    return {("127.0.0.1", port) for port in {int(service.url.rpartition(":")[2]), *ports}}


def gone(pids: list[int]) -> bool:
    """Whether none of them lives."""
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        if not any(psutil.pid_exists(pid) and _lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
