"""Pipelines that sleep."""

import time

from hooke import pipeline, task


@task
def nap(item: int, seconds: float = 0.2) -> int:
    time.sleep(seconds)
    return item


@task
def count(items: list[int]) -> int:
    time.sleep(6.0)  # meanwhile the fleet gets smaller, on a busy machine slowly
    return len(items)


@pipeline
def naps(items: int, seconds: float = 0.2) -> int:
    return count(nap.map(range(items), seconds=seconds))
