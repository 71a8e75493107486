"""What a model in a process of its own costs beside one in the replica's thread, and what it saves those who do not ask for it.

    python -m benchmarks.serving.apart [--rounds 3] [--seconds 2]

Prints two tables: CPU of a request, both forms up at once and measured in turns; and how long `GET /-/health` takes while the
model keeps the interpreter's lock.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from benchmarks.serving.__main__ import fit, say
from benchmarks.serving.measure import PROGRAMS, TOKEN, Load, Server, Window
from benchmarks.serving.peers import ECHO, ROOT, ROW, ROWS, served

LARGE = json.dumps({"x": [[0.5] * 16_384]})
"""128 KiB as numbers of eight bytes, and a text that an environment variable holds: wrk is given it as one."""
WORK = {
    "an echo, each by itself": (("Near", "Apart"), Load(path="/echo", body=ECHO, connections=32)),
    "an echo in batches": (("Near", "Apart"), Load(path="/rows", body=ROWS, connections=64)),
    "a prediction of scikit-learn, in batches": (
        ("Predict", "PredictApart"),
        Load(path="/predict", body=ROW, connections=64),
    ),
    "sums of rows of 128 KiB, in batches": (
        ("Near", "Apart"),
        Load(path="/sums", body=LARGE, connections=4),
    ),
}
BUSY = {"holds": "native code that holds the lock, 50 ms a call", "loops": "plain Python, 50 ms a call"}
HELD_S = 0.05


class Forms:
    """Servers of both forms, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = folder / "model.pickle"
        fit(self._model)
        shutil.copy(PROGRAMS / "hooke_service.py", folder)
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)

    @contextmanager
    def up(self, names: tuple[str, str], load: Load) -> Iterator[list[Server]]:
        """Both, in turn thread and process; ended at the end."""
        started: list[Server] = []
        try:
            for name in names:
                command = [part.replace("{python}", sys.executable) for part in served(name)]
                server = Server(command, folder=self._folder, model=self._model, python_path=(ROOT / "src",))
                started.append(server)
                server.start(load)
            yield started
        finally:
            for server in started:
                server.stop()


def costs(forms: Forms, rounds: int, seconds: float) -> str:
    """A table of the CPU of a request."""
    lines = [
        "| | thread: CPU us | requests/s | p99 ms | batch | MB | process: CPU us | requests/s | p99 ms | batch | MB |",
        "|---" * 11 + "|",
    ]
    for what, (names, load) in WORK.items():
        windows: list[list[Window]] = [[], []]
        with forms.up(names, load) as servers:
            for server in servers:
                server.under(load, 1.0)
            for _ in range(rounds):
                for server, seen in zip(servers, windows, strict=True):
                    seen.append(server.under(load, seconds))
                    say(f"{what}: {seen[-1]}")
            memory = [server.memory_mb() for server in servers]
        cells: list[str] = []
        for seen, held in zip(windows, memory, strict=True):
            best = min(seen, key=lambda window: window.cpu_us)
            cells.append(
                f"{best.cpu_us:.0f} | {best.rate:,.0f} | {best.p99_ms:.1f} | {best.mean_batch:.0f} | {held:.0f}"
            )
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def waits(forms: Forms, seconds: float) -> str:
    """A table of how long health takes, of some 100 questions a second, while three callers keep the model busy."""
    lines = ["| the model | thread: median ms | p99 ms | process: median ms | p99 ms |", "|---" * 5 + "|"]
    for path, what in BUSY.items():
        load = Load(path=f"/{path}", body=json.dumps({"s": HELD_S}), connections=3)
        cells: list[str] = []
        with forms.up(("BusyNear", "BusyApart"), load) as servers:
            for server in servers:
                took = _asked_while(server, load, seconds)
                cells.append(f"{1e3 * np.median(took):.1f} | {1e3 * np.quantile(took, 0.99):.0f}")
                say(f"{what}: {cells[-1]}, {len(took)} questions")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _asked_while(server: Server, load: Load, seconds: float) -> list[float]:
    ends = time.perf_counter() + seconds
    callers = [
        threading.Thread(target=_keep_busy, args=(server.port, load, ends)) for _ in range(load.connections)
    ]
    for caller in callers:
        caller.start()
    time.sleep(0.2)
    took: list[float] = []
    one = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    while (began := time.perf_counter()) < ends:
        one.request("GET", "/-/health")
        if (answer := one.getresponse()).status != 200:
            raise RuntimeError(f"health answered {answer.status}")
        answer.read()
        took.append(time.perf_counter() - began)
        time.sleep(0.01)
    one.close()
    for caller in callers:
        caller.join()
    return took


def _keep_busy(port: int, load: Load, ends: float) -> None:
    one = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    while time.perf_counter() < ends:
        one.request("POST", load.path, load.body, headers)
        one.getresponse().read()
    one.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.apart", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apart", ignore_cleanup_errors=True) as folder:
        forms = Forms(Path(folder))
        print(costs(forms, given.rounds, given.seconds), waits(forms, 2 * given.seconds), sep="\n\n")


if __name__ == "__main__":
    main()
