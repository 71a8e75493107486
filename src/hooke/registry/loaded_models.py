"""`load_model()`: loads a registered model; and where a model to register comes from."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.distributions import install_command
from hooke.base.errors import CorruptObject, HookeError, MissingExtra, NotFingerprintable, UsageError
from hooke.base.files import write_atomic, writing
from hooke.keys.fingerprint import fingerprint_code
from hooke.keys.module_origin import origin_of
from hooke.models.bundle import MANIFEST, Manifest, check_files, decode
from hooke.models.format import FORMATS, Format, LoadOptions
from hooke.models.registries.rest import RestRegistry
from hooke.models.registries.sqlite import SqliteRegistry
from hooke.models.registry_protocol import ModelRegistry, RegisteredVersion, find, parse_wanted
from hooke.project.folder import Project, start_of
from hooke.running.run import Run
from hooke.tracking.logged_values import Point, logged_in
from hooke.tracking.mlflow_runs import tracking_uri
from hooke.tracking.tracker import Tracker, active

__all__ = [
    "KnownModels",
    "ModelSource",
    "code_of",
    "fetched",
    "load_model",
    "load_version",
    "measured",
    "missing_mlflow",
    "models_of",
    "project_here",
    "registry_of",
    "registry_uri",
    "source_of",
]


# --- A project's model registry, and its copies of models.

# --- Trusted models: those registered from the project, and those trusted by command.


class KnownModels:
    """Digests of trusted models, one file each, so that processes do not interfere. A registry cannot write there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, digest: str) -> bool:
        return bool(re.fullmatch(r"[0-9a-f]{64}", digest)) and (self._folder / digest).is_file()

    def add(self, digest: str, why: str) -> None:
        """Trust this model. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / digest, msgspec.json.encode({"why": why}))


MAKING = ".new-"
LEFT_AFTER_S = 86_400.0

_OTHER_TLS = (
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
_MLFLOW_CLIENT_ONLY = (*_OTHER_TLS, "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE")
"""Variables that only MLflow's own client supports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectModels:
    """A folder with copies of registered and loaded models, by digest, and with the trusted digests."""

    folder: Path

    @property
    def known(self) -> KnownModels:
        """The models that this project trusts."""
        return KnownModels(self.folder / "known")

    @contextmanager
    def making(self) -> Iterator[Path]:
        """An empty temporary folder for a new model. Removes folders that killed processes left more than a day ago."""
        self.folder.mkdir(exist_ok=True)
        for left in self.folder.glob(f"{MAKING}*"):
            with suppress(FileNotFoundError):  # its process has just ended
                if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
                    shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=MAKING, dir=self.folder) as made:
            folder = Path(made, "model")
            folder.mkdir()
            yield folder

    def keep(self, made: Path, digest: str) -> None:
        """Make the folder the copy of this model, unless there is one."""
        try:
            made.rename(self.copy(digest))
        except OSError:
            if not self.copy(digest).is_dir():
                raise

    def copy(self, digest: str) -> Path:
        """The path of this model's copy, whether or not it exists."""
        return self.folder / digest


def project_here() -> Project:
    """The project of the run that this process logs into, else of the script, else of the working directory."""
    tracker = active()
    return Project.at(tracker.folder.parents[2]) if isinstance(tracker, Tracker) else Project.find(start_of())


def models_of(project: Project) -> ProjectModels:
    """The models in `.hooke/models`."""
    return ProjectModels(folder=project.data / "models")


def registry_uri(project: Project) -> str:
    """MLFLOW_REGISTRY_URI, else MLFLOW_TRACKING_URI, else MLflow's `uri` in hooke.toml, else the project's `mlflow.db`."""
    said = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    options = project.settings.tracking.options.get("mlflow", {})
    # A URI from the environment is relative to the working directory, as for MLflow itself.
    return tracking_uri(Path.cwd(), said) if said else tracking_uri(project.root, str(options.get("uri", "")))


def registry_of(project: Project) -> ModelRegistry:
    """The project's registry. MLflow is imported only if it is neither an SQLite file nor a plain server."""
    uri = registry_uri(project)

    def elsewhere(version: RegisteredVersion, file: str, target: Path) -> None:
        _through_mlflow(uri).fetch(version, file, target)

    plain = not any(os.environ.get(name) for name in _MLFLOW_CLIENT_ONLY)
    scheme = "sqlite:///"
    if uri.startswith(scheme) and plain:
        return SqliteRegistry(project.root / uri.removeprefix(scheme), elsewhere=elsewhere)
    if uri.startswith(("http://", "https://")) and plain:
        return RestRegistry(uri, os.environ, elsewhere=elsewhere)
    return _through_mlflow(uri)


def _through_mlflow(uri: str) -> ModelRegistry:
    try:
        from hooke.models.registries.mlflow_client import MlflowRegistry
    except ModuleNotFoundError as error:
        raise missing_mlflow() from error
    return MlflowRegistry(uri)


def missing_mlflow() -> MissingExtra:
    """The error if MLflow is needed and not installed."""
    return MissingExtra(
        "the model registry needs mlflow, which is not installed", fix=install_command("mlflow")
    )


# --- The run, code and metrics that a model comes from.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A run, or an attempt or item in it; all empty if there is none."""

    folder: Path | None = None
    attempt: int | None = None
    item: int | None = None
    tracker: Tracker | None = None
    """Its tracker, if it is running in this process."""

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.name if self.folder is not None else ""

    @property
    def key(self) -> str:
        """Its key in trackers: `RUN`, `RUN/ATTEMPT` or `RUN/ATTEMPT/ITEM`."""
        return "/".join([self.run, *(str(part) for part in (self.attempt, self.item) if part is not None)])

    def note(self, name: str, value: str) -> None:
        """Set a tag, if it is running in this process."""
        if self.tracker is not None:
            self.tracker.set_tags({name: value})


NOWHERE = ModelSource()


def source_of(run: Run | None) -> ModelSource:
    """`run`, else what this process logs into. Raises UsageError if it is not a run."""
    if run is not None:
        if not isinstance(run, Run):
            raise UsageError(
                f"run={run!r} is not a run", fix="give the result of hooke.run() or hooke.start_run()"
            )
        return ModelSource(folder=run.folder)
    tracker = active()
    if not isinstance(tracker, Tracker):
        return NOWHERE
    return ModelSource(folder=tracker.folder, attempt=tracker.attempt, item=tracker.item, tracker=tracker)


def measured(source: ModelSource, wanted: str = "") -> Mapping[str, float]:
    """The last value of each metric of the source; for a whole run also `wanted`, if only one task logged it.

    Raises UsageError if several tasks logged it.
    """
    if source.folder is None:
        return {}
    points = logged_in(source.folder).points
    own = {
        point.name: point.value
        for point in points
        if (point.attempt, point.item) == (source.attempt, source.item)
        and not point.name.startswith("system/")
    }
    if wanted and wanted not in own and source.attempt is None:
        by = {(point.task, point.item): point for point in points if point.name == wanted}
        if len(by) > 1:
            raise UsageError(
                f"metric {wanted!r} was logged by {len(by)} tasks or items of run {source.run}: {_listed(by)}",
                fix=f"give the value: metrics={{{wanted!r}: ...}}",
            )
        own |= {name: point.value for point in by.values() for name in (point.name,)}
    return {name: value for name, value in own.items() if math.isfinite(value)}


def code_of(model: Any) -> str:
    """Fingerprint of the model's class if it is in a module of the project; else empty."""
    kind = type(model)
    module = sys.modules.get(kind.__module__)
    # A class that is pickled by value differs in each process.
    if module is None or kind.__module__ == "__main__" or getattr(module, kind.__name__, None) is not kind:
        return ""
    if not origin_of(kind.__module__, getattr(module, "__file__", None)).local:
        return ""
    try:
        return fingerprint_code(kind).key
    except NotFingerprintable:
        return ""


def _listed(by: Mapping[tuple[str, int | None], Point]) -> str:
    known = sorted(by, key=lambda whose: (whose[0], -1 if whose[1] is None else whose[1]))
    names = [task if item is None else f"{task}[{item}]" for task, item in known]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


_log = logging.getLogger("hooke")


def load_model(model: str, *, trust: Sequence[str] = (), into: Any = None) -> Any:
    """Load the model `name@alias`, `name:3` or `name` (its newest version).

    The registry is asked for the version each time. Its files are fetched once, into the project's `.hooke/models`,
    and their digests are checked at each load. MLflow is imported only if the registry or the files
    are neither in SQLite and a folder nor behind a plain server. A pickle, or a type unknown to skops, is loaded only
    if the model was registered from this project or trusted with `hooke models trust`.

    A scikit-learn model is returned unchanged, a PyTorch model on the CPU and in `eval()`, an ONNX model as an object with `predict`,
    `inputs`, `outputs` and onnxruntime's `session`. `trust` names skops types; `into` is a module that takes the weights
    if its class cannot be rebuilt.

    If the code of the model's class has changed since, the logger `hooke` warns.

    Raises UsageError for an unknown name, with the valid names; UntrustedModel; CorruptObject for files
    that differ from those registered; MissingExtra; HookeError if the registry does not answer.
    """
    project = project_here()
    version = find(registry_of(project), parse_wanted(model))
    return load_version(project, version, trust=tuple(trust), into=into)


def load_version(
    project: Project, version: RegisteredVersion, *, trust: tuple[str, ...] = (), into: Any = None
) -> Any:
    """Load one version. Raises as `load_model` does."""
    models = models_of(project)
    folder, manifest = fetched(project, registry_of(project), version)
    terms = LoadOptions(label=version.label, trust=trust, known=version.digest in models.known, into=into)
    if into is not None and manifest.format != "safetensors":
        raise UsageError(
            f"{version.label} is saved as {manifest.format}, so into= does not apply",
            fix="load it without into=",
        )
    reader: Format = FORMATS.load(manifest.format)()
    model = reader.load(folder, manifest.details, terms)
    if manifest.code and code_of(model) not in ("", manifest.code):
        _log.warning(
            "the code of %s has changed since %s was registered, so its predictions may differ",
            type(model).__qualname__,
            version.label,
        )
    return model


def fetched(project: Project, registry: ModelRegistry, version: RegisteredVersion) -> tuple[Path, Manifest]:
    """The project's copy of a version, fetched if needed, and checked."""
    if not version.digest:
        raise HookeError(
            f"{version.label} was not registered by Hooke, so its files cannot be verified",
            fix=f"if you trust it, use mlflow.pyfunc.load_model('models:/{version.name}/{version.number}')",
        )
    models = models_of(project)
    folder = models.copy(_digest(version))
    if not folder.is_dir():
        project.create()
        with writing("the copy of a model", models.folder):
            _fetch(registry, version, models)
    try:
        data = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise CorruptObject(
            f"the copy of {version.label} has no manifest",
            where=str(folder),
            fix="remove it, so that it is fetched again",
        ) from error
    manifest = decode(data, version.digest, where=str(folder))
    check_files(folder, manifest)
    return folder, manifest


def _digest(version: RegisteredVersion) -> str:
    """The version's digest, checked, because this tag of the registry becomes a folder name."""
    if len(version.digest) != 64 or set(version.digest) - set("0123456789abcdef"):
        raise CorruptObject(
            f"the digest of {version.label} is not valid: {version.digest[:80]!r}",
            where="its tag hooke.digest",
        )
    return version.digest


def _fetch(registry: ModelRegistry, version: RegisteredVersion, models: ProjectModels) -> None:
    """Fetch a copy atomically. If two processes fetch at once, one copy is kept."""
    with models.making() as made:
        registry.fetch(version, MANIFEST, made / MANIFEST)
        manifest = decode((made / MANIFEST).read_bytes(), version.digest, where=version.location)
        for name in manifest.files:
            registry.fetch(version, name, made / name)
        check_files(made, manifest)
        models.keep(made, version.digest)
