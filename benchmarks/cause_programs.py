"""Tasks that lose time to one planted cause each, and controls. `benchmarks/causes.py` draws their parameters."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from mmap import mmap
from pathlib import Path

import numpy as np

from hooke import pipeline, task

HERE = Path(__file__).parent


def compute(seconds: float) -> int:
    """Arithmetic in pure Python that takes so long on a free core of this machine, by its speed in `speed`."""
    value = 1
    for _ in range(round(seconds * float((HERE / "speed").read_text()))):
        value = (value * 1103515245 + 12345) % 2147483648
    return value


def in_threads(seconds: float, count: int) -> None:
    threads = [threading.Thread(target=compute, args=(seconds,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@task(observe=False)
def locked(x: int, inside: float, outside: float, computed: float) -> int:
    time.sleep(outside)
    compute(computed)
    with open(HERE / "door", "a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        time.sleep(inside)
    return x


@task(observe=False)
def threads(x: int, seconds: float, count: int, rounds: int) -> int:
    for _ in range(rounds):
        in_threads(seconds / rounds / count, count)
    return x


@task(observe=False)
def share_lines(x: int, rounds: int, lines: int) -> int:
    with open(HERE / "lines", "r+b") as file, mmap(file.fileno(), 4096) as memory:
        numbers = np.frombuffer(memory, dtype=np.int64)
        at = np.arange(20_000) % lines * 8
        for _ in range(rounds):
            np.add.at(numbers, at, 1)
        del numbers
    return x


@task(observe=False)
def save(x: int, writes: int, size: int, computed: float) -> int:
    compute(computed)
    with open(HERE / f"saved-{x}", "wb", buffering=0) as file:
        for _ in range(writes):
            file.seek(0)
            file.write(b"x" * size)
            os.fsync(file.fileno())
    return x


@task(observe=False)
def ask(x: int, port: int, requests: int, computed: float) -> int:
    for _ in range(requests):
        with socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(b"x")
            server.recv(1)
    compute(computed)
    return x


@task(observe=False)
def calculate(x: int, seconds: float) -> int:
    compute(seconds)
    return x


@task(observe=False)
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def measurements() -> int:
    """How many measurements of this study have begun: each has a journal beside the folder of the worker's log."""
    return len(list(Path(os.readlink("/proc/self/fd/1")).parents[1].glob("attempts-*.journal")))


@task(observe=False)
def begin_slowly(x: int, first: float, seconds: float) -> int:
    used = HERE / f"used-{os.getpid()}-{measurements()}"
    if not used.exists():
        time.sleep(first)
    time.sleep(seconds)
    used.touch()
    return x


@pipeline
def lock(items: int, inside: float, outside: float, computed: float) -> list[int]:
    return locked.map(range(items), inside=inside, outside=outside, computed=computed)


@pipeline
def gil(items: int, seconds: float, count: int, rounds: int) -> list[int]:
    return threads.map(range(items), seconds=seconds, count=count, rounds=rounds)


@pipeline
def memory(items: int, rounds: int, lines: int) -> list[int]:
    return share_lines.map(range(items), rounds=rounds, lines=lines)


@pipeline
def disk(items: int, writes: int, size: int, computed: float) -> list[int]:
    return save.map(range(items), writes=writes, size=size, computed=computed)


@pipeline
def network(items: int, port: int, requests: int, computed: float) -> list[int]:
    return ask.map(range(items), port=port, requests=requests, computed=computed)


@pipeline
def computing(items: int, seconds: float) -> list[int]:
    return calculate.map(range(items), seconds=seconds)


@pipeline
def sleeping(seconds: list[float]) -> list[float]:
    return nap.map(seconds)


@pipeline
def starting(items: int, first: float, seconds: float) -> list[int]:
    return begin_slowly.map(range(items), first=first, seconds=seconds)
