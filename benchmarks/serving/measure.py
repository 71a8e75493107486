"""A server under load: the CPU of its whole tree of processes for a request, and whether it handled as many as were answered."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

PROGRAMS = Path(__file__).parent / "programs"
WRK = shutil.which("wrk")
START_LIMIT_S = 90.0
TOKEN = "a-token-of-the-benchmark"
"""Hooke asks for it; the others are shown it, too."""
_GOOD = b"HTTP/1.1 200"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked, by how many connections."""

    path: str
    body: str
    connections: int
    rows: int = 1
    """Rows of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A few seconds of load."""

    cpu_us: float
    """Of all the server's processes, for a request."""
    rate: float
    p99_ms: float
    mean_batch: float
    """Rows of a call of the model."""


class Server:
    """A server's process and all that it started, on a port of its own; a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        model: Path,
        python_path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.start_s = 0.0
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._folder = folder
        handled = tempfile.NamedTemporaryFile(dir=folder, prefix="handled-", delete=False)  # noqa: SIM115 - it is kept for the server
        handled.write(bytes(16))
        handled.close()
        with Path(handled.name).open("rb") as file:
            self._handled = mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ)
        self._environment = os.environ | {
            "HANDLED": handled.name,
            "MODEL": str(model),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, [PROGRAMS, *python_path])),
            "NO_COLOR": "1",
            **(environment or {}),
        }
        self.output = folder / f"output-{self.port}"

    def start(self, load: Load, seconds: float = START_LIMIT_S) -> Server:
        """Until it gives the first good answer. Raises RuntimeError with its last lines where it gives none."""
        began = time.monotonic()
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        while not answers(self.port, load):
            if self.process.poll() is not None or time.monotonic() > began + seconds:
                self.stop()
                raise RuntimeError(f"{self._command[:3]} gives no answer:\n{self.output.read_text()[-2000:]}")
            time.sleep(0.005)
        self.start_s = time.monotonic() - began
        return self

    def stop(self) -> None:
        """End it and, where they stay, those that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = self._tree()
            self.process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(tree, timeout=10)
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(left, timeout=10)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def handled(self) -> tuple[int, int]:
        """Calls of the model, and their rows, as its own code counted them."""
        return struct.unpack("qq", self._handled[:16])

    def cpu_s(self) -> float:
        """User and system time of the whole tree."""
        spent = 0.0
        for one in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                spent += sum(one.cpu_times()[:2])
        return spent

    def memory_mb(self) -> float:
        """Of the whole tree; what processes share is counted once."""
        held = 0
        for one in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                held += one.memory_full_info().pss
        return held / 2**20

    def under(self, load: Load, seconds: float) -> Window:
        """Load it. Raises RuntimeError where an answer failed, or where it handled others than were answered."""
        return under_load([self], [self.port], load, seconds)

    def _tree(self) -> list[psutil.Process]:
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]


def under_load(servers: Sequence[Server], ports: Sequence[int], load: Load, seconds: float) -> Window:
    """Load what listens there, each with its part of the connections; all of these servers do the work together."""
    before, spent = [one.handled() for one in servers], sum(one.cpu_s() for one in servers)
    part = dataclasses.replace(load, connections=load.connections // len(ports))
    with ThreadPoolExecutor(len(ports)) as clients:
        done = _joined(clients.map(lambda port: (_wrk if WRK else _client)(port, part, seconds), ports))
    spent = sum(one.cpu_s() for one in servers) - spent
    time.sleep(0.2)  # what wrk left unanswered at its end is handled, too
    after = [one.handled() for one in servers]
    calls = sum(new[0] - old[0] for new, old in zip(after, before, strict=True))
    rows = sum(new[1] - old[1] for new, old in zip(after, before, strict=True))
    answered = int(done["answers"])
    if done["failures"] or not answered:
        raise RuntimeError(f"{done['failures']} of {answered} requests failed")
    extra = rows - answered * load.rows
    if not 0 <= extra <= load.rows * load.connections * bool(WRK):
        raise RuntimeError(f"{answered} requests were answered, and {rows} rows were handled")
    return Window(
        cpu_us=spent / answered * 1e6,
        rate=answered / seconds,
        p99_ms=done["p99_ms"],
        mean_batch=rows / max(1, calls),
    )


def _joined(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """What clients side by side saw; the worse p99 of theirs stands for all."""
    several = list(parts)
    return {
        "answers": sum(one["answers"] for one in several),
        "failures": sum(one["failures"] for one in several),
        "p99_ms": max(one["p99_ms"] for one in several),
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(port: int, load: Load) -> bool:
    """Whether one request is answered well."""
    head = f"POST {load.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {len(load.body)}\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
            one.sendall((head + load.body).encode())
            return one.recv(12) == _GOOD
    except OSError:
        return False


def _wrk(port: int, load: Load, seconds: float) -> dict[str, float]:
    assert WRK is not None
    done = subprocess.run(
        [WRK, "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s",
         str(PROGRAMS / "wrk.lua"), f"http://127.0.0.1:{port}{load.path}"],
        env=os.environ | {"BODY": load.body, "TOKEN": TOKEN}, capture_output=True, text=True, timeout=seconds + 60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _client(port: int, load: Load, seconds: float) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "client.py"), str(port), load.path, load.body, TOKEN, str(load.connections), str(seconds)],
        capture_output=True, text=True, timeout=seconds + 60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)
