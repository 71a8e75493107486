"""Which registry of models a project uses, and the models that it has seen."""

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


# --- The models that a project knows: those that were registered from it, and those that somebody said to trust.


class KnownModels:
    """Digests, each a file in a folder of the project, so that no two processes meet in one. A registry cannot write there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, digest: str) -> bool:
        return bool(re.fullmatch(r"[0-9a-f]{64}", digest)) and (self._folder / digest).is_file()

    def add(self, digest: str, why: str) -> None:
        """Know this model from now on. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / digest, msgspec.json.encode({"why": why}))


MAKING = ".new-"
LEFT_AFTER_S = 86_400.0

_OTHER_TLS = (
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
_OTHER_WAYS = (*_OTHER_TLS, "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE")
"""Variables that only MLflow's own client obeys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectModels:
    """A folder with the copies of models that were registered or loaded here, by digest, and with what is known of them."""

    folder: Path

    @property
    def known(self) -> KnownModels:
        """Which models this project trusts."""
        return KnownModels(self.folder / "known")

    @contextmanager
    def making(self) -> Iterator[Path]:
        """An empty folder to make a model in, gone afterwards. What a process that was killed left there a day ago goes, too."""
        self.folder.mkdir(exist_ok=True)
        for left in self.folder.glob(f"{MAKING}*"):
            if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=MAKING, dir=self.folder) as made:
            folder = Path(made, "model")
            folder.mkdir()
            yield folder

    def keep(self, made: Path, digest: str) -> None:
        """Make a whole folder the copy of this model, unless there is one."""
        try:
            made.rename(self.copy(digest))
        except OSError:
            if not self.copy(digest).is_dir():
                raise

    def copy(self, digest: str) -> Path:
        """Where the copy of this model lies, if there is one."""
        return self.folder / digest


def project_here() -> Project:
    """The project of the run that this process logs into, else that of the script, else the working directory's."""
    tracker = active()
    return Project.find(tracker.folder.parents[2] if isinstance(tracker, Tracker) else start_of())


def models_of(project: Project) -> ProjectModels:
    """Those below `.hooke/models`."""
    return ProjectModels(folder=project.data / "models")


def registry_uri(project: Project) -> str:
    """MLFLOW_REGISTRY_URI, else MLFLOW_TRACKING_URI, else what hooke.toml names for MLflow, else `mlflow.db` of the project."""
    said = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    options = project.settings.tracking.options.get("mlflow", {})
    # One from the environment is relative to the working directory, as for MLflow itself.
    return tracking_uri(Path.cwd(), said) if said else tracking_uri(project.root, str(options.get("uri", "")))


def registry_of(project: Project) -> ModelRegistry:
    """Reads the project's registry: MLflow is imported only for one that is neither an SQLite file nor a plain server."""
    uri = registry_uri(project)

    def elsewhere(version: RegisteredVersion, file: str, target: Path) -> None:
        _through_mlflow(uri).fetch(version, file, target)

    plain = not any(os.environ.get(name) for name in _OTHER_WAYS)
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
    """The error where MLflow is needed and not installed."""
    return MissingExtra(
        "the registry of models needs mlflow, which is not installed", fix='pip install "hooke[mlflow]"'
    )
