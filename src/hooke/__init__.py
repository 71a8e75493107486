"""Hooke: plain Python pipelines, cached honestly, journalled, resumable, on one scheduler.

    from hooke import task, pipeline, run

`run`, `Run`, `File` and the errors load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

# Not lazy: importing the folder `hooke.pipeline` later would put the module in the place of the decorator.
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task

if TYPE_CHECKING:
    from hooke.base.errors import (
        BeyondTheData,
        ConfigError,
        CorruptObject,
        EnvironmentMismatch,
        HookeError,
        JournalError,
        MissingExtra,
        MissingObject,
        NotEnoughData,
        NotFingerprintable,
        NotPicklable,
        OutOfMemory,
        Permanent,
        RunStopped,
        StoreError,
        StoreFull,
        TaskFailed,
        Temporary,
        TimedOut,
        TraceError,
        UsageError,
        UserError,
        WorkerDied,
    )
    from hooke.keys.file import File
    from hooke.project.measuring import Study, measure
    from hooke.project.planning.plan import Plan, plan
    from hooke.project.running import Run, run

__all__ = [
    "BeyondTheData",
    "ConfigError",
    "CorruptObject",
    "EnvironmentMismatch",
    "File",
    "HookeError",
    "JournalError",
    "MissingExtra",
    "MissingObject",
    "NotEnoughData",
    "NotFingerprintable",
    "NotPicklable",
    "OutOfMemory",
    "Permanent",
    "Plan",
    "Run",
    "RunStopped",
    "StoreError",
    "StoreFull",
    "Study",
    "TaskFailed",
    "Temporary",
    "TimedOut",
    "TraceError",
    "UsageError",
    "UserError",
    "WorkerDied",
    "measure",
    "pipeline",
    "plan",
    "run",
    "task",
]

_ELSEWHERE = {
    "File": "hooke.keys.file",
    "Plan": "hooke.project.planning.plan",
    "Run": "hooke.project.running",
    "Study": "hooke.project.measuring",
    "measure": "hooke.project.measuring",
    "plan": "hooke.project.planning.plan",
    "run": "hooke.project.running",
}


if not TYPE_CHECKING:  # a checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'hooke' has no attribute {name!r}")
        value = getattr(import_module(_ELSEWHERE.get(name, "hooke.base.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
