"""The pipeline that chaos is let loose on: maps, chains, dynamic maps, large results, and tasks that want more memory.

Every answer follows from the arguments, so that a serial run of the same is the truth.
"""

from __future__ import annotations

import time
from typing import Any

from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task

__all__ = ["job"]

MEBIBYTE = 1 << 20


@task(retries=3)
def blend(item: int, salt: int) -> int:
    """Arithmetic that takes up to 20 ms."""
    time.sleep((item * 7919 + salt) % 20 / 1000)
    return item * item + salt


@task(retries=3)
def block(item: int, salt: int) -> bytes:
    """A result of 0 to 600 KB, below and above what a journal holds itself."""
    return bytes([(item + salt) % 251]) * ((item * 104_729 + salt) % 600_000)


@task(retries=3)
def length(data: bytes) -> int:
    """What of a block is compared."""
    return len(data) + 7 * sum(data[:100])


@task(retries=3)
def step(value: int, number: int) -> int:
    """One link of a chain."""
    time.sleep(0.002)
    return (value * 31 + number) % 1_000_003


@task(retries=3)
def listed(total: int) -> list[int]:
    """The list of a dynamic map."""
    return [total % (number + 2) for number in range(total % 20 + 10)]


@task(memory="64MiB", retries=3)
def hungry(item: int, salt: int) -> int:
    """Needs twice the memory that it declares."""
    held = bytearray(100 * MEBIBYTE)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(0.15)
    return len(held) + item + salt


@task(retries=3)
def total(values: list[int]) -> int:
    """The sum of other tasks' results."""
    print("total of", len(values))
    return sum(values)


@pipeline
def job(salt: int, items: int = 60, links: int = 15) -> Any:
    """Every shape of graph, once."""
    blends = blend.map(range(items), salt=salt)
    lengths = length.map(block.map(range(items // 4), salt=salt))
    first = total(blends)
    value = first
    for number in range(links):
        value = step(value, number)
    dynamic = blend.map(listed(first), salt=salt)
    eaten = [hungry(salt % 5, salt)]
    return {"blends": blends, "lengths": lengths, "chain": value, "dynamic": total(dynamic), "eaten": eaten}
