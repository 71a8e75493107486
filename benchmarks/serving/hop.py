"""CPU of Envoy for a request, with one and two replicas behind it, and with what else it could have been told, all in one run.

    python -m benchmarks.serving.hop [--rounds 4] [--seconds 1.5]

The replicas are bare uvicorn, which echoes. All candidates are up at once and measured in turns; the least CPU of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from benchmarks.serving.measure import PROGRAMS, free_port

from hooke.proxy.envoy import Admin, envoy_path
from hooke.proxy.envoy_config import bootstrap, endpoints
from hooke.proxy.proxy_settings import ProxySettings, Upstream

BODY = json.dumps({"x": [0.5, 1.5, 2.5, 3.5]})
CONNECTIONS = 32
Told = dict[str, Any]


def scan_all(told: Told) -> None:
    policy = told["static_resources"]["clusters"][0]["load_balancing_policy"]["policies"][0]
    config = policy["typed_extension_config"]["typed_config"]
    del config["choice_count"]
    config["selection_method"] = "FULL_SCAN"


def start_slowly(told: Told) -> None:
    policy = told["static_resources"]["clusters"][0]["load_balancing_policy"]["policies"][0]
    policy["typed_extension_config"]["typed_config"]["slow_start_config"] = {"slow_start_window": "5s"}


def gather_bodies(told: Told) -> None:
    manager = told["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["@type"] = (
        "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"
    )


def count_everything(told: Told) -> None:
    del told["stats_config"]


def as_it_is(told: Told) -> None:
    """Nothing is changed."""


CANDIDATES: dict[str, tuple[int, int, Callable[[Told], None]]] = {
    "1 replica": (1, 1, as_it_is),
    "2 replicas": (2, 1, as_it_is),
    "2 threads": (2, 2, as_it_is),
    "a scan of all": (2, 1, scan_all),
    "slow start": (2, 1, start_slowly),
    "bodies gathered": (2, 1, gather_bodies),
    "everything counted": (2, 1, count_everything),
    "unix sockets": (2, 1, as_it_is),
}


@contextmanager
def running(*command: str | Path, handled: Path) -> Iterator[psutil.Process]:
    handled.write_bytes(bytes(16))
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"HANDLED": str(handled)})
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError("it did not come up")


@contextmanager
def front(
    folder: Path, name: str, ports: list[int], sockets: list[Path]
) -> Iterator[tuple[psutil.Process, Admin, int]]:
    """Envoy before these replicas, told what the candidate says; its process, admin and port."""
    replicas, threads, change = CANDIDATES[name]
    settings = ProxySettings(service="Echo", folder=folder, threads=threads, idempotent=True)
    settings.endpoints_file.parent.mkdir(parents=True)
    found = endpoints(Upstream(port=port) for port in ports[:replicas])
    if name == "unix sockets":
        for place, one in zip(found["resources"][0]["endpoints"][0]["lb_endpoints"], sockets, strict=True):
            place["endpoint"]["address"] = {"pipe": {"path": str(one)}}
    settings.endpoints_file.write_text(json.dumps(found))
    told = bootstrap(settings, folder / "admin.sock")
    change(told)
    (folder / "envoy.json").write_text(json.dumps(told))
    options = ["--config-path", folder / "envoy.json", "--concurrency", str(threads), "--disable-hot-restart"]
    with running(envoy_path(), *options, "--log-level", "error", handled=folder / "unused") as process:
        admin = Admin(folder / "admin.sock")
        until(admin.is_live)
        yield process, admin, int(admin.listeners()[0].rpartition(":")[2])


def asked(port: int, seconds: float) -> dict[str, float]:
    words = [str(port), "/echo", BODY, "no-token", str(CONNECTIONS), str(seconds)]
    command = [sys.executable, str(PROGRAMS / "client.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def used(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def cpu_us(
    seconds: float, envoy: psutil.Process, admin: Admin, port: int, replicas: Sequence[psutil.Process]
) -> tuple[float, float, float]:
    """CPU microseconds of Envoy for a request, of the replicas, and requests a second. It handled as many as were answered."""
    name = "http.front.downstream_rq_total"
    handled, before, beside = admin.counters(f"^{name}$").get(name, 0), used([envoy]), used(replicas)
    done = asked(port, seconds)
    answers = done["answers"]
    its_own, theirs = used([envoy]) - before, used(replicas) - beside
    assert done["failures"] == 0
    assert answers == admin.counters(f"^{name}$")[name] - handled > 100
    return its_own / answers * 1e6, theirs / answers * 1e6, answers / seconds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.hop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CANDIDATES}
    bare = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(PROGRAMS),
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    with tempfile.TemporaryDirectory(prefix="hop") as name, ExitStack() as stack:
        folder = Path(name)
        ports, sockets = [free_port(), free_port()], [folder / "a", folder / "b"]
        replicas: list[psutil.Process] = []
        places = [*(("--port", str(port)) for port in ports), *(("--uds", str(one)) for one in sockets)]
        for at, place in enumerate(places):
            command = (*bare, *place, "bare:echo")
            replicas.append(stack.enter_context(running(*command, handled=folder / f"handled-{at}")))
        until(lambda: all(one.exists() for one in sockets))
        fronts = {
            name: stack.enter_context(front(folder / str(at), name, ports, sockets))
            for at, name in enumerate(CANDIDATES)
        }
        for _, _, port in fronts.values():
            until(lambda port=port: asked(port, 0.2)["failures"] == 0)
        for _ in range(given.rounds):
            for candidate, started in fronts.items():
                seen[candidate].append(cpu_us(given.seconds, *started, replicas))
    print("| front | its CPU us | that of the replicas | requests/s |\n|---|---|---|---|")
    for name, figures in seen.items():
        least = min(figures)
        print(f"| {name} | {least[0]:.1f} | {least[1]:.1f} | {least[2]:,.0f} |")


if __name__ == "__main__":
    main()
