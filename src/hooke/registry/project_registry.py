"""A project's model registry, and its copies of models."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hooke.base.errors import MissingExtra
from hooke.base.files import write_atomic
from hooke.base.mlflow_uri import tracking_uri
from hooke.models.registries.rest import RestRegistry
from hooke.models.registries.sqlite import SqliteRegistry
from hooke.models.registry_protocol import ModelRegistry, RegisteredVersion
from hooke.project.folder import Project, start_of
from hooke.tracking.tracker import Tracker, active

__all__ = [
    "KnownModels",
    "ProjectModels",
    "missing_mlflow",
    "models_of",
    "project_here",
    "registry_of",
    "registry_uri",
]


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
    return Project.find(tracker.folder.parents[2] if isinstance(tracker, Tracker) else start_of())


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
        "the model registry needs mlflow, which is not installed", fix='pip install "hooke[mlflow]"'
    )
