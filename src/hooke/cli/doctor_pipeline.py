"""The pipeline that `hooke doctor` runs at each place."""

from __future__ import annotations

from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task

__all__ = ["checkup"]


@task
def doubled(x: int) -> int:
    """Something that is quickly done and easily checked."""
    return 2 * x


@task
def added(x: int, y: int) -> int:
    """The second task, which reads the first one's result from the store."""
    return x + y


@pipeline
def checkup(x: int) -> int:
    """42 for 20."""
    return added(doubled(x), y=2)
