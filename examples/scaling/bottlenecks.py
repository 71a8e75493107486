"""Four pipelines with different bottlenecks. Which law does each follow, and how many workers are worth it?

    hooke measure examples/scaling/bottlenecks.py:computing --task compute
    hooke measure examples/scaling/bottlenecks.py:streaming --task stream
    hooke measure examples/scaling/bottlenecks.py:locking --task enter --workers 1,2,4,8,16
    hooke measure examples/scaling/bottlenecks.py:sleeping --workers 1,2,4,8,16,32

Each study ends with a `cause`: none for `computing` on free cores, `memory-bound` for `streaming` once memory bandwidth is used up, `waits
for a lock in bottlenecks.py:52` for `locking`, and `a serial part` for `sleeping`.

The last two only sleep, so they can use any N on any machine. Their bottleneck is known: the share of the time in which
only one worker may run.
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
    """Arithmetic in registers, which scales up to the number of cores."""
    for _ in range(rounds):
        item = (item * 1103515245 + 12345) % 2147483648
    return item


@task
def stream(item: int, *, megabytes: int, passes: int) -> float:
    """One multiplication per number from memory, which all cores share."""
    numbers = np.full(megabytes * 125_000, float(item + 1))
    for _ in range(passes):
        np.multiply(numbers, 1.0000001, out=numbers)
    return float(numbers[-1])


@task
def enter(item: int, *, seconds: float, held: float) -> int:
    """Sleep `seconds`, the share `held` of them under a lock."""
    with DOOR.open("a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        time.sleep(held * seconds)
    time.sleep((1 - held) * seconds)
    return item


@task
def prepare(seconds: float, *, jitter: float) -> float:
    """A serial part that all other calls wait for. Returns a random slowdown of this run, 1 plus or minus `jitter`."""
    slowness = math.exp(random.gauss(0, jitter))
    time.sleep(seconds * slowness)
    return slowness


@task
def sleep(seconds: float, *, slowness: float) -> float:
    """Parallel work after the serial part."""
    time.sleep(seconds * slowness)
    return seconds


@pipeline
def computing(items: int = 32, rounds: int = 400_000) -> list[int]:
    """Bound by the cores: linear up to their number."""
    return compute.map(range(items), rounds=rounds)


@pipeline
def streaming(items: int = 32, megabytes: int = 64, passes: int = 10) -> list[float]:
    """Bound by memory bandwidth: linear until it is used up."""
    return stream.map(range(items), megabytes=megabytes, passes=passes)


@pipeline
def locking(items: int = 48, seconds: float = 0.1, held: float = 0.2) -> list[int]:
    """Bound by a lock: linear up to N = 1 / `held`, a hard knee."""
    return enter.map(range(items), seconds=seconds, held=held)


@pipeline
def sleeping(
    items: int = 96, seconds: float = 6.4, serial: float = 0.05, jitter: float = 0.02
) -> list[float]:
    """Bound by a serial part: Amdahl's law with the fraction `serial`."""
    slowness = prepare(serial * seconds, jitter=jitter)
    return sleep.map([(1 - serial) * seconds / items] * items, slowness=slowness)
