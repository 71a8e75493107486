"""Hooke: plain Python pipelines, cached honestly, journalled, resumable, on one scheduler.

    from hooke import task, pipeline, run

`run`, `Run`, `File` and the errors load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hooke.base.distributions import HOOKE_VERSION

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
        InputChanged,
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
        StoreUnavailable,
        TaskError,
        TaskFailed,
        Temporary,
        TimedOut,
        TraceError,
        UntrustedModel,
        UsageError,
        WorkerDied,
    )
    from hooke.comparing.run_list import Runs, compare, runs
    from hooke.comparing.side_by_side import Comparison
    from hooke.data.weights import weights
    from hooke.generation.token_scheduler import TokenLimits
    from hooke.keys.file import File
    from hooke.measuring.studies import Study, measure
    from hooke.planning.pipeline_plan import Plan, plan
    from hooke.project.backends import Fleet
    from hooke.registry.loaded_models import load_model
    from hooke.registry.register import ModelVersion, register
    from hooke.running.reproduce.reproduce import Reproduction, reproduce
    from hooke.running.run import Run, follow, run, run_async
    from hooke.running.start_run import AttachedRun, ScriptRun, attach_run, start_run
    from hooke.searching.search_driver import search
    from hooke.searching.search_result import Search
    from hooke.searching.space import loguniform
    from hooke.services.map_service import map_service
    from hooke.serving.openai.token_engine import TokenModel, TokenPiece
    from hooke.serving.request_context import request_contexts
    from hooke.serving.service import from_command, service
    from hooke.store.checkpoints import checkpoint_dir, checkpoint_saved
    from hooke.tracking.log import (
        log_artifact,
        log_figure,
        log_histogram,
        log_image,
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
    "AttachedRun",
    "BeyondTheData",
    "Comparison",
    "ConfigError",
    "CorruptObject",
    "EnvironmentMismatch",
    "File",
    "Fleet",
    "HookeError",
    "InputChanged",
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
    "StoreUnavailable",
    "Study",
    "TaskError",
    "TaskFailed",
    "Temporary",
    "TimedOut",
    "TokenLimits",
    "TokenModel",
    "TokenPiece",
    "TraceError",
    "UntrustedModel",
    "UsageError",
    "WorkerDied",
    "attach_run",
    "checkpoint_dir",
    "checkpoint_saved",
    "compare",
    "follow",
    "from_command",
    "load_model",
    "log_artifact",
    "log_figure",
    "log_histogram",
    "log_image",
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
    "run_async",
    "runs",
    "search",
    "service",
    "set_tag",
    "set_tags",
    "start_run",
    "task",
    "weights",
]

__version__ = HOOKE_VERSION

_NAMES = {
    "hooke.comparing.run_list": ("Runs", "compare", "runs"),
    "hooke.comparing.side_by_side": ("Comparison",),
    "hooke.data.weights": ("weights",),
    "hooke.generation.token_scheduler": ("TokenLimits",),
    "hooke.keys.file": ("File",),
    "hooke.measuring.studies": ("Study", "measure"),
    "hooke.planning.pipeline_plan": ("Plan", "plan"),
    "hooke.project.backends": ("Fleet",),
    "hooke.registry.loaded_models": ("load_model",),
    "hooke.registry.register": ("ModelVersion", "register"),
    "hooke.running.reproduce.reproduce": ("Reproduction", "reproduce"),
    "hooke.running.run": ("Run", "follow", "run", "run_async"),
    "hooke.running.start_run": ("AttachedRun", "ScriptRun", "attach_run", "start_run"),
    "hooke.searching.search_driver": ("search",),
    "hooke.searching.search_result": ("Search",),
    "hooke.searching.space": ("loguniform",),
    "hooke.services.map_service": ("map_service",),
    "hooke.serving.openai.token_engine": ("TokenModel", "TokenPiece"),
    "hooke.serving.request_context": ("request_contexts",),
    "hooke.serving.service": ("from_command", "service"),
    "hooke.store.checkpoints": ("checkpoint_dir", "checkpoint_saved"),
    "hooke.tracking.log": (
        "log_artifact",
        "log_figure",
        "log_histogram",
        "log_image",
        "log_metric",
        "log_metrics",
        "log_param",
        "log_params",
        "log_table",
        "log_text",
        "set_tag",
        "set_tags",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


if not TYPE_CHECKING:  # a checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'hooke' has no attribute {name!r}")
        value = getattr(import_module(_MODULES.get(name, "hooke.base.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
