"""Four pipelines, each held up by something else. What law does each follow, and how many workers pay?

    hooke measure examples/scaling/bottlenecks.py:computing --task compute
    hooke measure examples/scaling/bottlenecks.py:streaming --task stream
    hooke measure examples/scaling/bottlenecks.py:locking --task enter --workers 1,2,4,8,16
    hooke measure examples/scaling/bottlenecks.py:sleeping --workers 1,2,4,8,16,32

The last two only sleep, so that they go up to any N on any machine, and what holds them up is planted: the share of
the time in which one alone may work.
"""

from __future__ import annotations

import fcntl
import math
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from hooke import pipeline, task

DOOR = Path(tempfile.gettempdir()) / "hooke-bottlenecks.lock"


@task
def compute(item: int, *, rounds: int) -> int:
    """Arithmetic in a register: as many workers as cores do as many times as much."""
    for _ in range(rounds):
        item = (item * 1103515245 + 12345) % 2147483648
    return item


@task
def stream(item: int, *, megabytes: int, passes: int) -> float:
    """One multiplication for each number fetched from memory, which all cores share."""
    numbers = np.full(megabytes * 125_000, float(item + 1))
    for _ in range(passes):
        np.multiply(numbers, 1.0000001, out=numbers)
    return float(numbers[-1])


@task
def enter(item: int, *, seconds: float, held: float) -> int:
    """`seconds` of sleep, of which the share `held` behind a door that lets one in at a time."""
    with DOOR.open("a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        time.sleep(held * seconds)
    time.sleep((1 - held) * seconds)
    return item


@task
def prepare(seconds: float, *, jitter: float) -> float:
    """What all the others wait for. Gives how much slower this run is than others, by chance: about 1, give or take `jitter`."""
    slowness = math.exp(random.gauss(0, jitter))
    time.sleep(seconds * slowness)
    return slowness


@task
def sleep(seconds: float, *, slowness: float) -> float:
    """What any number can do at once, when what comes before is done."""
    time.sleep(seconds * slowness)
    return seconds


@pipeline
def computing(items: int = 32, rounds: int = 400_000) -> list[int]:
    """Bound by the cores: linear up to as many, and no further."""
    return compute.map(range(items), rounds=rounds)


@pipeline
def streaming(items: int = 32, megabytes: int = 64, passes: int = 10) -> list[float]:
    """Bound by the memory's bandwidth: linear until that is used up."""
    return stream.map(range(items), megabytes=megabytes, passes=passes)


@pipeline
def locking(items: int = 48, seconds: float = 0.1, held: float = 0.2) -> list[int]:
    """Bound by a lock: while one is behind the door others work, so it is linear up to N = 1 / `held`, a hard knee."""
    return enter.map(range(items), seconds=seconds, held=held)


@pipeline
def sleeping(
    items: int = 96, seconds: float = 6.4, serial: float = 0.05, jitter: float = 0.02
) -> list[float]:
    """Bound by its beginning: while that lasts nobody else works, which is Amdahl's law with the fraction `serial`."""
    slowness = prepare(serial * seconds, jitter=jitter)
    return sleep.map([(1 - serial) * seconds / items] * items, slowness=slowness)
