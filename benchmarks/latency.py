"""An object server behind a latency proxy, and nodes a second of a driver with workers in processes of their own.

    python -m benchmarks.latency 2>record.jsonl         all figures as a table; each run in the record
    python -m benchmarks.latency --workers 8 --rounds 1 --graphs "empty tasks"

The server is moto's, in a process of its own, whose CPU is told apart. The proxy holds back the first byte of each request for
30 ms, of any number at once, and counts requests. Each figure is of a fresh driver with warm workers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from hooke import pipeline, run, task

LATENCY_S = 0.03
WORKERS = (1, 2, 4, 8)
CHAINS = 40
_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n")
SETTINGS = '[store]\nurl = "s3://hooke/{prefix}"\nsecret_file = "secret"\n'


# --- The proxy: every request takes at least so long, however many there are.


@dataclass(slots=True)
class LatencyProxy:
    """Passes connections to a port of this host, in a thread of its own."""

    to: int
    latency_s: float
    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    """By kind, since the last `reset`."""

    def reset(self) -> None:
        """Count from zero."""
        self.requests = Counter()

    async def serve(self, ready: Callable[[], Any]) -> None:
        """Until the thread's loop ends."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.to)
            await asyncio.gather(self._requests(reader, up_writer), self._answers(up_reader, writer))

    async def _requests(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            if begun := _REQUEST.match(
                data
            ):  # no client of these sends one before it has the answer to the last
                self.requests[_kind(begun)] += 1
                await asyncio.sleep(self.latency_s)
            up.write(data)
            await up.drain()
        up.close()

    async def _answers(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await up.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.close()


def _kind(begun: re.Match[bytes]) -> str:
    method, path = begun[1].decode(), begun[2].decode()
    if method == "GET" and "list-type" in path:
        return "list packs" if "packs" in path else "list claims" if "claims" in path else "list"
    what = next((part for part in ("packs", "claims", "live", "objects") if f"/{part}/" in path), "other")
    return f"{method.lower()} {what}"


@contextmanager
def slow_server(latency_s: float) -> Iterator[tuple[LatencyProxy, psutil.Process]]:
    """The proxy before an empty bucket `hooke`, and the server's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(port)
        proxy, ready = LatencyProxy(port, latency_s), threading.Event()
        threading.Thread(target=asyncio.run, args=(proxy.serve(ready.set),), daemon=True).start()
        assert ready.wait(10)
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("hooke")
        yield proxy, psutil.Process(server.pid)
    finally:
        server.kill()
        server.wait()


def _await_port(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no server at port {port}")


# --- The driver: a process of its own, which prints what a run took.


@task
def empty(x: int) -> int:
    return x + 1


@task
def short(x: int) -> int:
    time.sleep(0.01)
    return x + 1


@pipeline
def of_empty(nodes: int, begin: int):
    return [empty(begin + at) for at in range(nodes)]


@pipeline
def of_short(nodes: int, begin: int):
    return [short(begin + at) for at in range(nodes)]


@pipeline
def in_chains(nodes: int, begin: int):
    ends = []
    for at in range(CHAINS):
        value: Any = begin + nodes * at
        for _ in range(nodes // CHAINS):
            value = empty(value)
        ends.append(value)
    return ends


GRAPHS = {"empty tasks": of_empty, "tasks of 10 ms": of_short, "chains": in_chains}
BEGIN = 1_000_000_000
"""The first argument of what is measured; workers are warmed with others."""


def drive(graph: str, workers: int, nodes: int) -> dict[str, float]:
    """Of one run, without that which warms the workers."""
    body = GRAPHS[graph]
    for task_of in (of_empty, of_short):  # workers start as work arrives
        run(task_of, on=f"local:{workers}", nodes=4 * workers, begin=time.time_ns()).result()
    print("ready", flush=True)
    sys.stdin.readline()
    began, before = time.perf_counter(), os.times()
    run(body, on=f"local:{workers}", nodes=nodes, begin=BEGIN)
    seconds, after = time.perf_counter() - began, os.times()
    return {"s": seconds, "cpu_s": after.user + after.system - before.user - before.system}


# --- The figures.


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one run."""

    nodes_s: float
    """Nodes a second."""
    requests: float
    """Requests a node for what lies in packs, and claims."""
    all_requests: float
    """All requests a node, also those that open and end a run."""
    driver: float
    """The driver's CPU, and so on, in cores."""
    server: float
    proxy: float
    kinds: dict[str, int]


def measured(
    proxy: LatencyProxy, server: psutil.Process, folder: Path, graph: str, workers: int, nodes: int
) -> Figures:
    """Figures of one run in a process of its own."""
    shutil.copy(__file__, folder)  # a project is where its pipelines are
    command = [sys.executable, Path(__file__).name, "--drive", graph, str(workers), str(nodes)]
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"HOOKE_PROGRESS": "none", "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.5)  # the claims of what warmed the workers are let go
    proxy.reset()
    server_s, proxy_s = _cpu_s(server), time.process_time()
    child.stdin.write("go\n")
    child.stdin.flush()
    said = json.loads(child.stdout.readline())
    kinds = Counter(proxy.requests)
    server_s, proxy_s = _cpu_s(server) - server_s, time.process_time() - proxy_s
    assert child.wait(60) == 0
    seconds = said["s"]
    asked = sum(count for kind, count in kinds.items() if "packs" in kind or "claims" in kind)
    return Figures(
        nodes_s=nodes / seconds,
        requests=asked / nodes,
        all_requests=kinds.total() / nodes,
        driver=said["cpu_s"] / seconds,
        server=server_s / seconds,
        proxy=proxy_s / seconds,
        kinds=dict(kinds),
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def measured_often(
    proxy: LatencyProxy, server: psutil.Process, graph: str, workers: int, nodes: int, rounds: int
) -> Iterator[tuple[str, list[Figures]]]:
    """Of new and then of stored results, each round with a store of its own; and beside them with a store in a folder."""
    found: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        for place in ("", ", in a folder"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "hooke.toml").write_text("" if place else SETTINGS.format(prefix=folder.name))
                (folder / "secret").write_bytes(b"a secret of sixteen bytes or more")
                for which in ("new", "stored"):
                    got = measured(proxy, server, folder, graph, workers, nodes)
                    found.setdefault(which + place, []).append(got)
    yield from found.items()


def row(graph: str, workers: int, which: str, found: list[Figures]) -> str:
    """A line of the table: medians."""

    def of(name: str) -> float:
        return median(getattr(each, name) for each in found)

    low, high = min(each.nodes_s for each in found), max(each.nodes_s for each in found)
    return (
        f"| {graph}, {which} | {workers} | {of('nodes_s'):,.0f} ({low:,.0f} to {high:,.0f}) | {of('requests'):.3f} "
        f"| {of('all_requests'):.3f} | {of('driver'):.2f} | {of('server'):.2f} | {of('proxy'):.2f} |"
    )


def main() -> None:
    """Print the table; with `--drive`, be the driver of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--drive", nargs=3)
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--nodes", type=int, help="by itself 2,000, or of tasks of 10 ms 400 for each worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--graphs", nargs="*", default=list(GRAPHS))
    parser.add_argument("--kinds", action="store_true", help="the requests of the last round, too")
    asked = parser.parse_args()
    if asked.drive:
        graph, workers, nodes = asked.drive
        print(json.dumps(drive(graph, int(workers), int(nodes))), flush=True)
        return
    print("| | workers | nodes a second | requests a node | with all others | driver | server | proxy |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with slow_server(LATENCY_S) as (proxy, server):
        for graph in asked.graphs:
            for workers in asked.workers:
                nodes = asked.nodes or (400 * workers if graph == "tasks of 10 ms" else 2000)
                for which, found in measured_often(proxy, server, graph, workers, nodes, asked.rounds):
                    print(row(graph, workers, which, found), flush=True)
                    print(
                        json.dumps([graph, workers, which, [asdict(each) for each in found]]), file=sys.stderr
                    )
                    if asked.kinds:
                        print(dict(found[-1].kinds))


if __name__ == "__main__":
    main()
