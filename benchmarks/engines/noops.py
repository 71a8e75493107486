"""Tasks that do nothing, in a module that needs nothing: a worker imports it."""

from __future__ import annotations

from typing import Any

from hooke import pipeline, task

__all__ = ["noop", "noops"]


@task
def noop(x: int) -> int:
    return x


@pipeline
def noops(many: int) -> Any:
    return noop.map(range(many))
