"""A pipeline that sleeps on one of a few seats: however many workers there are, no more than so many sleep at once."""

import os
import time

from hooke import pipeline, task


@task
def nap(item: int, seats: str, seconds: float) -> int:
    """`seats` is a FIFO with a byte for each seat, kept open by whoever made it."""
    fifo = os.open(seats, os.O_RDWR)
    try:
        os.read(fifo, 1)  # waits for one
        time.sleep(seconds)
        os.write(fifo, b".")
    finally:
        os.close(fifo)
    return item


@task
def count(items: list[int]) -> int:
    time.sleep(3.0)
    return len(items)


@pipeline
def naps(first: int, last: int, seats: str, seconds: float = 0.25) -> int:
    return count(nap.map(range(first, last), seats=seats, seconds=seconds))
