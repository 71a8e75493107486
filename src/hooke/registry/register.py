"""`register()`: gives a model a name, a version and an alias."""

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
from hooke.models import registry_protocol as protocol
from hooke.models.bundle import Manifest, seal, size_of
from hooke.models.format import FORMATS, Format, LoadOptions, Saved, format_of
from hooke.pipeline.task import ACTIVE as TRACE
from hooke.processes.start import python_module
from hooke.project.folder import Project
from hooke.registry import loaded_models
from hooke.running.run import Run
from hooke.sync.background import ensure_shipper, sink_names
from hooke.sync.outbox import has_logged
from hooke.tracking.tracker import Muted, active

__all__ = ["ModelVersion", "register"]

SHIPPED_WITHIN_S = 20.0
"""How long a version waits until its run is in MLflow. It covers MLflow's import in the shipper's process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """The result of `register()`.

    `number` is None if nothing was registered; `moved` says whether this version now has `alias`, and `why` says why not.
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
    """The key of its run in trackers; empty if there is none."""
    mlflow_run: str = ""
    """MLflow's id of that run, if it is in MLflow."""
    notes: tuple[str, ...] = ()
    """Notes for those who load it."""

    @property
    def registered(self) -> bool:
        """Whether a new version exists."""
        return self.number is not None

    @property
    def uri(self) -> str:
        """The URI for plain MLflow, such as `models:/flights/3`; empty if nothing was registered."""
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

    With `if_better="auc"` this happens only if the metric is higher than that of the version that has the alias now;
    with `"-loss"`, only if it is lower. The metrics are the last ones logged by the
    caller (a task's attempt, a script's `start_run()`), or those of `run`, or those given. If several processes register at
    once, on any machines, the best version has the alias in the end.

    The format depends on the model: skops for scikit-learn, safetensors for PyTorch, ONNX for a ModelProto or bytes, else
    a pickle, which only this project loads (`hooke models trust` allows another). `format` chooses another one. `trust` names
    skops types that do not belong to scikit-learn. With `input_example`, MLflow also gets a signature.

    Registering takes some seconds, in a child process that imports MLflow; this one does not. While a task is measured or
    debugged, nothing is registered.

    Raises UsageError, UntrustedModel, MissingExtra; HookeError if the registry does not answer, and for a model that
    the format does not support.
    """
    aim = _checked(model, name, alias, if_better)
    if isinstance(active(), Muted):
        muted = _Request(
            name=name, alias=alias, if_better=if_better, metrics=metrics or {}, format=format, run=""
        )
        return _nothing(muted, "a task registers nothing while it is measured or debugged")
    source = loaded_models.source_of(run)
    request = _Request(
        name=name,
        alias=alias,
        if_better=if_better,
        metrics=_metrics(source, metrics, aim),
        format=format or format_of(model),
        run=source.key,
    )
    project, writer = loaded_models.project_here(), FORMATS.load(request.format)()
    if find_spec("mlflow") is None:
        raise loaded_models.missing_mlflow()
    if why := _worse(project, request, aim):
        return _nothing(request, why)
    models = loaded_models.models_of(project)
    project.create()
    with writing("a model", models.folder), models.making() as folder:
        saved = writer.save(model, folder, LoadOptions(label=name, trust=tuple(trust)))
        code, example = loaded_models.code_of(model), _example(writer, model, input_example)
        digest, manifest = seal(
            folder, format=request.format, details=saved.details, code=code, libraries=saved.libraries
        )
        tags = _tags(request, digest, manifest, folder)
        done = _put(project, source, _order(project, request, saved, folder, tags, example), digest)
    return _said(request, done, digest=digest, notes=saved.notes)


def _put(
    project: Project, source: loaded_models.ModelSource, order: protocol.PublishOrder, digest: str
) -> protocol.PublishResult:
    """Register the folder, and keep it as the project's copy."""
    models = loaded_models.models_of(project)
    models.known.add(digest, f"registered as {order.name}" + (f" by run {source.key}" if source.key else ""))
    done = _publish(msgspec.structs.replace(order, wait_s=_wait_s(project, source, order.name)))
    if done.number is not None:
        models.keep(Path(order.folder), digest)
        source.note(f"hooke.model.{order.name}", str(done.number))
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A complete request."""

    name: str
    alias: str
    if_better: str
    metrics: Mapping[str, float]
    format: str
    run: str


def _checked(model: Any, name: str, alias: str, if_better: str) -> protocol.Aim | None:
    protocol.check_name(name)
    if alias:
        protocol.check_alias(alias)
    if model is None:
        raise UsageError("there is no model to register: model is None")
    if TRACE.get() is not None:
        raise UsageError(
            "register() is called in a pipeline's body, which is traced before there is a model",
            fix="call it inside a task, or after run(...) with its result()",
        )
    if not if_better:
        return None
    if not alias:
        raise UsageError(
            f"if_better={if_better!r} needs an alias to compare with", fix='give one: alias="champion"'
        )
    return protocol.parse_aim(if_better)


def _metrics(
    source: loaded_models.ModelSource, given: Mapping[str, float] | None, aim: protocol.Aim | None
) -> dict[str, float]:
    """The model's metrics that are numbers. The aim's metric must be among them."""
    wanted = aim.metric if aim is not None else ""
    values = dict(loaded_models.measured(source, wanted if wanted not in (given or {}) else ""))
    for name, value in (given or {}).items():
        try:
            values[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"metrics: {name!r} is {value!r}, which is not a number") from error
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    if aim is not None and aim.metric not in values:
        there = ", ".join(values) or "none"
        where = (
            f"run {source.key} has not logged it"
            if source.key
            else "this process is not in a run, and none was given"
        )
        raise UsageError(
            f"if_better={str(aim)!r}: the model has no metric {aim.metric!r}",
            why=f"{where}; its metrics: {there}",
            fix=f"log it first, give the run with run=, or give the value: metrics={{{aim.metric!r}: ...}}",
        )
    return values


def _worse(project: Project, request: _Request, aim: protocol.Aim | None) -> str:
    """Why the model is not better, as far as this is known without MLflow. Raises if the registry does not answer."""
    holder = protocol.holder_of(request.alias, loaded_models.registry_of(project).versions(request.name))
    if aim is None or holder is None or (held := holder.metrics.get(aim.metric)) is None:
        return ""
    mine = request.metrics[aim.metric]
    return "" if aim.better(mine, held) else protocol.not_better(aim, mine, held, holder)


def _nothing(request: _Request, why: str) -> ModelVersion:
    return _said(request, protocol.PublishResult(why=why), digest="", notes=())


def _said(
    request: _Request, done: protocol.PublishResult, *, digest: str, notes: tuple[str, ...]
) -> ModelVersion:
    return ModelVersion(
        name=request.name,
        number=done.number,
        alias=request.alias,
        moved=done.moved,
        why=done.why,
        format=request.format,
        digest=digest,
        metrics=request.metrics,
        run=request.run,
        mlflow_run=done.mlflow_run,
        notes=notes,
    )


def _tags(request: _Request, digest: str, manifest: Manifest, folder: Path) -> dict[str, str]:
    """The version's tags."""
    tags = {
        protocol.DIGEST: digest,
        protocol.FORMAT: request.format,
        protocol.SIZE: str(size_of(folder, manifest)),
        protocol.METRICS: json.dumps(dict(sorted(request.metrics.items()))),
        protocol.RUN: request.run,
        protocol.CODE: manifest.code,
    }
    return {name: value for name, value in tags.items() if value}


def _order(
    project: Project, request: _Request, saved: Saved, folder: Path, tags: Mapping[str, str], example: bytes
) -> protocol.PublishOrder:
    return protocol.PublishOrder(
        uri=loaded_models.registry_uri(project),
        root=str(project.root),
        folder=str(folder),
        name=request.name,
        alias=request.alias,
        if_better=request.if_better,
        metrics=dict(request.metrics),
        tags=dict(tags),
        flavors={name: dict(facts) for name, facts in saved.flavors.items()},
        libraries=dict(saved.libraries),
        run_key=request.run,
        wait_s=0.0,
        example=example,
    )


def _wait_s(project: Project, source: loaded_models.ModelSource, name: str) -> float:
    """How long to wait until the run is in MLflow, if it is being sent there."""
    elsewhere = os.environ.get("MLFLOW_REGISTRY_URI")  # then runs go to another server
    if source.folder is None or elsewhere or "mlflow" not in sink_names(project):
        return 0.0
    source.note("hooke.registers", name)  # an attempt that logs nothing is not sent
    if not has_logged(source.folder):
        return 0.0
    ensure_shipper(project, source.folder)
    return SHIPPED_WITHIN_S


def _example(writer: Format, model: Any, rows: Any) -> bytes:
    """The pickled input example and its prediction, for the child process."""
    if rows is None:
        return pickle.dumps((None, None))
    try:
        return pickle.dumps((_portable(rows), _portable(writer.predict(model, rows))))
    except Exception as error:  # the user's model may raise anything
        raise UsageError(
            "the model fails on its input_example", why=f"{type(error).__name__}: {error}"
        ) from error


def _portable(value: Any) -> Any:
    """The value in a type that MLflow supports: Polars frames as pandas, tensors as arrays."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    return value.to_pandas() if hasattr(value, "to_pandas") else value


def _publish(order: protocol.PublishOrder) -> protocol.PublishResult:
    asked = subprocess.run(
        python_module("hooke.models.publish"),
        input=msgspec.msgpack.encode(order),
        capture_output=True,
        check=False,
    )
    if asked.returncode:
        raise HookeError(
            f"{order.name} is not registered: the registering process ended with exit code {asked.returncode}",
            why=asked.stderr.decode(errors="replace")[-2000:].strip(),
        )
    done = msgspec.msgpack.decode(asked.stdout, type=protocol.PublishResult)
    if done.error is not None:
        raise HookeError(done.error.pop("what"), **done.error)
    return done
