"""Which sinks a project ships into, and how they are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from inspect import Parameter, signature
from typing import Any

from hooke.base.errors import ConfigError
from hooke.base.registry import Registry
from hooke.journal.sink import Sink
from hooke.project.folder import Project
from hooke.project.settings import FILE, refuse_unknown

__all__ = ["SINKS", "open_sinks", "sink_names"]

SINKS = Registry(
    "hooke.sinks",
    {"comet": "hooke.sinks.comet:CometSink", "mlflow": "hooke.sinks.mlflow:MlflowSink"},
    extras={"comet": "comet", "mlflow": "mlflow"},
)

VARIABLE = "HOOKE_SINKS"
"""Names of sinks, with commas between; `none` is none of them. Goes before hooke.toml."""


def sink_names(project: Project) -> tuple[str, ...]:
    """The sinks of the project. Imports none of them."""
    if (said := os.environ.get(VARIABLE)) is not None:
        return tuple(name for each in said.split(",") if (name := each.strip()) not in ("", "none"))
    listed = project.settings.tracking.sinks
    if listed is not None:
        return listed
    return ("mlflow",) if find_spec("mlflow") is not None else ()


def open_sinks(project: Project) -> dict[str, Sink]:
    """The project's sinks, made. Raises MissingExtra, UsageError for an unknown name, ConfigError for an unknown option."""
    opened: dict[str, Sink] = {}
    with ExitStack() as undo:
        for name in sink_names(project):
            kind, options = SINKS.load(name), project.settings.tracking.options.get(name, {})
            _check(project, name, kind, options)
            try:
                opened[name] = kind(project.root, **options)
            except TypeError as error:
                raise ConfigError(f"hooke.toml: [tracking.{name}]: {error}") from error
            undo.callback(opened[name].close)
        undo.pop_all()
    return opened


def _check(project: Project, name: str, kind: Callable[..., Sink], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of `[tracking.NAME]` that the sink does not take."""
    _, *taken = signature(kind).parameters.values()
    if not any(each.kind is Parameter.VAR_KEYWORD for each in taken):
        refuse_unknown(project.root / FILE, f"tracking.{name}.", options, [each.name for each in taken])
