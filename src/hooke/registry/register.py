"""`register`: give a model a name, a version and an alias."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import writing
from hooke.models.bundle import Manifest, seal, size_of
from hooke.models.format import FORMATS, Format, LoadOptions, Saved, format_of
from hooke.models.registry_protocol import (
    CODE,
    DIGEST,
    FORMAT,
    METRICS,
    RUN,
    SIZE,
    Aim,
    PublishOrder,
    PublishResult,
    check_alias,
    check_name,
    holder_of,
    not_better,
    parse_aim,
)
from hooke.pipeline.task import ACTIVE as TRACE
from hooke.processes.start import python_module
from hooke.project.folder import Project
from hooke.registry.loaded_models import ModelSource, code_of, measured, source_of
from hooke.registry.project_registry import missing_mlflow, models_of, project_here, registry_of, registry_uri
from hooke.running.run import Run
from hooke.sync.background import ensure_shipper, sink_names
from hooke.sync.outbox import has_logged
from hooke.tracking.tracker import Muted, active

__all__ = ["ModelVersion", "register"]

SHIPPED_WITHIN_S = 20.0
"""How long a version waits for its run to be shipped: MLflow's import in the shipper's process, and some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """What became of `register`.

    `number` is None where nothing was registered; `moved` says whether `alias` is this version's now, and `why` why not.
    """

    name: str
    number: int | None
    alias: str
    moved: bool
    why: str
    format: str
    digest: str
    metrics: Mapping[str, float]
    run: str
    """The run that it comes from, as trackers know it; empty for none."""
    mlflow_run: str = ""
    """MLflow's id of that run, where it had been shipped."""
    notes: tuple[str, ...] = ()
    """What whoever loads it should know."""

    @property
    def registered(self) -> bool:
        """Whether there is a new version."""
        return self.number is not None

    @property
    def uri(self) -> str:
        """As plain MLflow takes it: `models:/flights/3`; empty where nothing was registered."""
        return f"models:/{self.name}/{self.number}" if self.registered else ""

    def __str__(self) -> str:
        if not self.registered:
            return f"{self.name} is not registered: {self.why}"
        alias = (
            f", now @{self.alias}" if self.moved else f", not @{self.alias}: {self.why}" if self.alias else ""
        )
        return f"{self.name}:{self.number} ({self.format}){alias}"


# Nine parameters: the facts of one version, each named by the caller and with a default.
def register(  # noqa: PLR0913
    model: Any,
    name: str,
    *,
    alias: str = "",
    if_better: str = "",
    metrics: Mapping[str, float] | None = None,
    input_example: Any = None,
    run: Run | None = None,
    format: str = "",
    trust: Sequence[str] = (),
) -> ModelVersion:
    """Register a model in MLflow as the next version of `name`, and give that version `alias`.

    With `if_better="auc"` that is done only if the metric is better than that of the version that has the alias now, and
    more is better; with `"-loss"` less is. An equal one is not better. The metrics are those that were logged last by whoever
    calls (a task's attempt, a script's `start_run()`), those of `run` otherwise, or those given. Of several that register at
    once, in any processes and on any machines, the best has the alias in the end.

    The format is chosen by the model: skops for scikit-learn, safetensors for PyTorch, ONNX for a ModelProto or bytes, else
    a pickle, which only this project will read (`hooke models trust` lets another). `format` names another one. `trust` names
    types of skops that are not scikit-learn's own. With `input_example` MLflow gets the signature, too.

    It takes some seconds, in a process of its own that imports MLflow; this one does not. While a task is measured or
    debugged nothing is registered.

    Raises UsageError, UntrustedModel, MissingExtra; HookeError where the registry does not answer, and for a model that
    the format cannot hold.
    """
    aim = _checked(model, name, alias, if_better)
    if isinstance(active(), Muted):
        muted = _Wish(
            name=name, alias=alias, if_better=if_better, metrics=metrics or {}, format=format, run=""
        )
        return _nothing(muted, "a task that is measured or debugged registers nothing")
    source = source_of(run)
    wish = _Wish(
        name=name,
        alias=alias,
        if_better=if_better,
        metrics=_metrics(source, metrics, aim),
        format=format or format_of(model),
        run=source.key,
    )
    project, writer = project_here(), FORMATS.load(wish.format)()
    if find_spec("mlflow") is None:
        raise missing_mlflow()
    if why := _worse(project, wish, aim):
        return _nothing(wish, why)
    models = models_of(project)
    project.create()
    with writing("a model", models.folder), models.making() as folder:
        saved = writer.save(model, folder, LoadOptions(label=name, trust=tuple(trust)))
        code, example = code_of(model), _example(writer, model, input_example)
        digest, manifest = seal(
            folder, format=wish.format, details=saved.details, code=code, libraries=saved.libraries
        )
        tags = _tags(wish, digest, manifest, folder)
        done = _put(project, source, _order(project, wish, saved, folder, tags, example), digest)
    return _said(wish, done, digest=digest, notes=saved.notes)


def _put(project: Project, source: ModelSource, order: PublishOrder, digest: str) -> PublishResult:
    """Have the folder registered, and keep it as the project's own copy."""
    models = models_of(project)
    models.known.add(digest, f"registered as {order.name}" + (f" by run {source.key}" if source.key else ""))
    done = _publish(msgspec.structs.replace(order, wait_s=_wait_s(project, source, order.name)))
    if done.number is not None:
        models.keep(Path(order.folder), digest)
        source.note(f"hooke.model.{order.name}", str(done.number))
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for, complete."""

    name: str
    alias: str
    if_better: str
    metrics: Mapping[str, float]
    format: str
    run: str


def _checked(model: Any, name: str, alias: str, if_better: str) -> Aim | None:
    check_name(name)
    if alias:
        check_alias(alias)
    if model is None:
        raise UsageError("there is no model to register: it is None")
    if TRACE.get() is not None:
        raise UsageError(
            "register() in a pipeline's body, which is traced before anything runs, so before there is a model",
            fix="call it inside a task, or after run(...) with its result()",
        )
    if not if_better:
        return None
    if not alias:
        raise UsageError(
            f"if_better={if_better!r} compares with the version that has the alias, and no alias is given",
            fix='give one: alias="champion"',
        )
    return parse_aim(if_better)


def _metrics(source: ModelSource, given: Mapping[str, float] | None, aim: Aim | None) -> dict[str, float]:
    """What was measured of the model, as far as it is a number; the aim's metric is among it."""
    wanted = aim.metric if aim is not None else ""
    values = dict(measured(source, wanted if wanted not in (given or {}) else ""))
    for name, value in (given or {}).items():
        try:
            values[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"metrics: {name!r} is {value!r}, which is no number") from error
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    if aim is not None and aim.metric not in values:
        there = ", ".join(values) or "none"
        where = (
            f"run {source.key} has logged no such number"
            if source.key
            else "this is no run, and none was given"
        )
        raise UsageError(
            f"if_better={str(aim)!r}: there is no metric {aim.metric!r} of this model",
            why=f"{where}; metrics there are: {there}",
            fix=f"log it before, name the run with run=, or give it: metrics={{{aim.metric!r}: ...}}",
        )
    return values


def _worse(project: Project, wish: _Wish, aim: Aim | None) -> str:
    """Why it is not worth saving, as far as that is known without MLflow. A registry that does not answer is met here."""
    holder = holder_of(wish.alias, registry_of(project).versions(wish.name))
    if aim is None or holder is None or (held := holder.metrics.get(aim.metric)) is None:
        return ""
    mine = wish.metrics[aim.metric]
    return "" if aim.better(mine, held) else not_better(aim, mine, held, holder)


def _nothing(wish: _Wish, why: str) -> ModelVersion:
    return _said(wish, PublishResult(why=why), digest="", notes=())


def _said(wish: _Wish, done: PublishResult, *, digest: str, notes: tuple[str, ...]) -> ModelVersion:
    return ModelVersion(
        name=wish.name,
        number=done.number,
        alias=wish.alias,
        moved=done.moved,
        why=done.why,
        format=wish.format,
        digest=digest,
        metrics=wish.metrics,
        run=wish.run,
        mlflow_run=done.mlflow_run,
        notes=notes,
    )


def _tags(wish: _Wish, digest: str, manifest: Manifest, folder: Path) -> dict[str, str]:
    """What the registry is told of the version."""
    tags = {
        DIGEST: digest,
        FORMAT: wish.format,
        SIZE: str(size_of(folder, manifest)),
        METRICS: json.dumps(dict(sorted(wish.metrics.items()))),
        RUN: wish.run,
        CODE: manifest.code,
    }
    return {name: value for name, value in tags.items() if value}


def _order(
    project: Project, wish: _Wish, saved: Saved, folder: Path, tags: Mapping[str, str], example: bytes
) -> PublishOrder:
    return PublishOrder(
        uri=registry_uri(project),
        root=str(project.root),
        folder=str(folder),
        name=wish.name,
        alias=wish.alias,
        if_better=wish.if_better,
        metrics=dict(wish.metrics),
        tags=dict(tags),
        flavors={name: dict(facts) for name, facts in saved.flavors.items()},
        libraries=dict(saved.libraries),
        run_key=wish.run,
        wait_s=0.0,
        example=example,
    )


def _wait_s(project: Project, source: ModelSource, name: str) -> float:
    """How long the run may take to reach MLflow, where it is on its way there."""
    elsewhere = os.environ.get("MLFLOW_REGISTRY_URI")  # runs are shipped to another place then
    if source.folder is None or elsewhere or "mlflow" not in sink_names(project):
        return 0.0
    source.note("hooke.registers", name)  # an attempt that logs nothing is not shipped
    if not has_logged(source.folder):
        return 0.0
    ensure_shipper(project, source.folder)
    return SHIPPED_WITHIN_S


def _example(writer: Format, model: Any, rows: Any) -> bytes:
    """Input example and answer, for the child."""
    if rows is None:
        return pickle.dumps((None, None))
    try:
        return pickle.dumps((_portable(rows), _portable(writer.predict(model, rows))))
    except Exception as error:  # the user's model may raise anything
        raise UsageError(
            "the model does not take its input_example", why=f"{type(error).__name__}: {error}"
        ) from error


def _portable(value: Any) -> Any:
    """As MLflow takes it: frames of Polars as pandas, tensors as arrays."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    return value.to_pandas() if hasattr(value, "to_pandas") else value


def _publish(order: PublishOrder) -> PublishResult:
    asked = subprocess.run(
        python_module("hooke.models.publish"),
        input=msgspec.msgpack.encode(order),
        capture_output=True,
        check=False,
    )
    if asked.returncode:
        raise HookeError(
            f"{order.name} is not registered: the process that does it ended with {asked.returncode}",
            why=asked.stderr.decode(errors="replace")[-2000:].strip(),
        )
    done = msgspec.msgpack.decode(asked.stdout, type=PublishResult)
    if done.error is not None:
        raise HookeError(done.error.pop("what"), **done.error)
    return done
