"""CPU of the server for a request, beside a bare ASGI app on uvicorn in the same run; the client is another process."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
PROGRAMS = str(HERE / "service_programs.py")
TOKEN = "a-token-of-the-benchmark"
BODY = json.dumps({"x": [0.5, 1.5, 2.5, 3.5]})
CONNECTIONS, SECONDS, ROUNDS = 32, 1.0, 3


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def served(*command: str, port: int) -> Iterator[subprocess.Popen]:
    """A server that answers; its process."""
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(400):
            if load(port, "/-/ready" if "serve" in command else "/", 1, 0)["answers"]:
                break
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.said = process.communicate(timeout=20)[1]


def load(port: int, path: str, connections: int = CONNECTIONS, seconds: float = SECONDS) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, PROGRAMS, "load", str(port), path, BODY, str(connections), str(seconds), TOKEN],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else {"answers": 0, "failures": 0}


def cpu_us(process: subprocess.Popen, port: int, path: str) -> tuple[float, float]:
    """CPU microseconds of the server for a request, and requests a second."""
    watched = psutil.Process(process.pid)
    before = sum(watched.cpu_times()[:2])
    done = load(port, path)
    used = sum(watched.cpu_times()[:2]) - before
    assert done["answers"] > 100, done
    assert done["failures"] == 0, done
    return used / done["answers"] * 1e6, done["answers"] / SECONDS


@pytest.mark.benchmark(group="serving: CPU of a request")
def test_an_echo_beside_bare_uvicorn(benchmark, tmp_path):
    """32 connections, each asking again when it has its answer; rounds alternate, and the least of each counts."""
    ours, bare = free_port(), free_port()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    seen: dict[str, list[tuple[float, float]]] = {"bare": [], "echo": [], "rows": []}

    def rounds() -> None:
        for _ in range(ROUNDS):
            seen["bare"].append(cpu_us(uvicorn, bare, "/echo"))
            seen["echo"].append(cpu_us(hooke, ours, "/echo"))
            seen["rows"].append(cpu_us(hooke, ours, "/rows"))

    with (
        served(PROGRAMS, "bare", str(bare), port=bare) as uvicorn,
        served(
            "-m",
            "hooke",
            "serve",
            str(HERE / "service_echo.py"),
            "--port",
            str(ours),
            "--token-file",
            str(token),
            port=ours,
        ) as hooke,
    ):
        benchmark.pedantic(rounds, rounds=1, iterations=1)
    least = {name: min(figures) for name, figures in seen.items()}
    batch = re.search(r"mean batch ([\d.]+)", hooke.said)
    benchmark.extra_info |= {name: f"{us:.1f} us, {rate:.0f}/s" for name, (us, rate) in least.items()}
    benchmark.extra_info["mean batch"] = batch and batch[1]
    print("\nCPU of a request:", benchmark.extra_info)
    assert least["echo"][0] < 2.5 * least["bare"][0]
    assert least["rows"][0] < 5 * least["bare"][0]
