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
        UntrustedModel,
        UsageError,
        UserError,
        WorkerDied,
    )
    from hooke.keys.file import File
    from hooke.project.comparing.comparison import Comparison
    from hooke.project.comparing.runs import Runs, compare, runs
    from hooke.project.fleets import Fleet
    from hooke.project.loaded_models import load_model
    from hooke.project.mapping import map_service
    from hooke.project.measuring import Study, measure
    from hooke.project.planning.plan import Plan, plan
    from hooke.project.registering import ModelVersion, register
    from hooke.project.reproducing.case import reproduce
    from hooke.project.reproducing.reproduction import Reproduction
    from hooke.project.running import Run, run
    from hooke.project.scripts import ScriptRun, start_run
    from hooke.project.searching.conducting import search
    from hooke.project.searching.search import Search
    from hooke.project.searching.space import loguniform
    from hooke.serving.contexts import request_contexts
    from hooke.serving.service import service
    from hooke.tracking.log import (
        log_artifact,
        log_figure,
        log_metric,
        log_metrics,
        log_param,
        log_params,
        log_table,
        log_text,
        set_tag,
        set_tags,
    )

__all__ = [
    "BeyondTheData",
    "Comparison",
    "ConfigError",
    "CorruptObject",
    "EnvironmentMismatch",
    "File",
    "Fleet",
    "HookeError",
    "JournalError",
    "MissingExtra",
    "MissingObject",
    "ModelVersion",
    "NotEnoughData",
    "NotFingerprintable",
    "NotPicklable",
    "OutOfMemory",
    "Permanent",
    "Plan",
    "Reproduction",
    "Run",
    "RunStopped",
    "Runs",
    "ScriptRun",
    "Search",
    "StoreError",
    "StoreFull",
    "Study",
    "TaskFailed",
    "Temporary",
    "TimedOut",
    "TraceError",
    "UntrustedModel",
    "UsageError",
    "UserError",
    "WorkerDied",
    "compare",
    "load_model",
    "log_artifact",
    "log_figure",
    "log_metric",
    "log_metrics",
    "log_param",
    "log_params",
    "log_table",
    "log_text",
    "loguniform",
    "map_service",
    "measure",
    "pipeline",
    "plan",
    "register",
    "reproduce",
    "request_contexts",
    "run",
    "runs",
    "search",
    "service",
    "set_tag",
    "set_tags",
    "start_run",
    "task",
]

_ELSEWHERE = {
    "Comparison": "hooke.project.comparing.comparison",
    "File": "hooke.keys.file",
    "ModelVersion": "hooke.project.registering",
    "Plan": "hooke.project.planning.plan",
    "Run": "hooke.project.running",
    "Runs": "hooke.project.comparing.runs",
    "Reproduction": "hooke.project.reproducing.reproduction",
    "ScriptRun": "hooke.project.scripts",
    "Search": "hooke.project.searching.search",
    "Fleet": "hooke.project.fleets",
    "Study": "hooke.project.measuring",
    "compare": "hooke.project.comparing.runs",
    "load_model": "hooke.project.loaded_models",
    "map_service": "hooke.project.mapping",
    "log_artifact": "hooke.tracking.log",
    "log_figure": "hooke.tracking.log",
    "log_metric": "hooke.tracking.log",
    "log_metrics": "hooke.tracking.log",
    "log_param": "hooke.tracking.log",
    "log_params": "hooke.tracking.log",
    "log_table": "hooke.tracking.log",
    "log_text": "hooke.tracking.log",
    "loguniform": "hooke.project.searching.space",
    "measure": "hooke.project.measuring",
    "plan": "hooke.project.planning.plan",
    "register": "hooke.project.registering",
    "reproduce": "hooke.project.reproducing.case",
    "request_contexts": "hooke.serving.contexts",
    "run": "hooke.project.running",
    "runs": "hooke.project.comparing.runs",
    "search": "hooke.project.searching.conducting",
    "service": "hooke.serving.service",
    "set_tag": "hooke.tracking.log",
    "set_tags": "hooke.tracking.log",
    "start_run": "hooke.project.scripts",
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
