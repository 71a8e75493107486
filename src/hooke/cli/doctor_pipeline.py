"""The pipeline that `hooke doctor` runs on each backend."""

from __future__ import annotations

from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task

__all__ = ["checkup"]


@task
def doubled(x: int) -> int:
    """A quick task with a known result."""
    return 2 * x


@task
def added(x: int, y: int) -> int:
    """A second task, which reads the first result from the store."""
    return x + y


@pipeline
def checkup(x: int) -> int:
    """Returns 42 for 20."""
    return added(doubled(x), y=2)
