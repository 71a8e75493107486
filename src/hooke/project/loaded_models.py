"""`load_model`: a registered model, ready to predict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hooke.base.errors import CorruptObject, HookeError, UsageError
from hooke.base.refusals import writing
from hooke.models.bundle import MANIFEST, Manifest, check_files, decode
from hooke.models.format import FORMATS, Format, Terms
from hooke.models.names import parse_wanted
from hooke.models.registry import Registry, Version, find
from hooke.project.folder import Project
from hooke.project.model_source import code_of
from hooke.project.registry import ProjectModels, models_of, project_here, registry_of

__all__ = ["fetched", "load_model", "load_version"]

_log = logging.getLogger("hooke")


def load_model(model: str, *, trust: Sequence[str] = (), into: Any = None) -> Any:
    """The model that was registered as `name@alias`, `name:3` or `name` (its newest version).

    Which version that is is asked of the registry each time; its files are fetched once, into `.hooke/models` of the
    project, and their digests are checked at each load. MLflow is imported only for a registry, or a place of files, that
    is neither an SQLite file nor behind a plain server. What a pickle, or a type unknown to skops, might do is not risked
    unless the model was registered from this project, or `hooke models trust` was said.

    A model of scikit-learn comes back as it was, one of PyTorch on the CPU and in `eval()`, ONNX as an object with `predict`,
    `inputs`, `outputs` and onnxruntime's `session`. `trust` names types of skops, `into` is a module that takes the weights
    where its class cannot be made again.

    A class of the project whose code has changed since is said on the logger `hooke`.

    Raises UsageError for a name that there is not, with those that there are; UntrustedModel; CorruptObject for files
    that are not those that were registered; MissingExtra; HookeError where the registry does not answer.
    """
    project = project_here()
    version = find(registry_of(project), parse_wanted(model))
    return load_version(project, version, trust=tuple(trust), into=into)


def load_version(project: Project, version: Version, *, trust: tuple[str, ...] = (), into: Any = None) -> Any:
    """Read one version. Raises as `load_model`."""
    models = models_of(project)
    folder, manifest = fetched(project, registry_of(project), version)
    terms = Terms(label=version.label, trust=trust, known=version.digest in models.known, into=into)
    if into is not None and manifest.format != "safetensors":
        raise UsageError(
            f"{version.label} is saved as {manifest.format}, which goes into no module",
            mend="load it without into=",
        )
    reader: Format = FORMATS.load(manifest.format)()
    model = reader.load(folder, manifest.details, terms)
    if manifest.code and code_of(model) not in ("", manifest.code):
        _log.warning(
            "the code of %s is not what it was when %s was registered: it may predict otherwise",
            type(model).__qualname__,
            version.label,
        )
    return model


def fetched(project: Project, registry: Registry, version: Version) -> tuple[Path, Manifest]:
    """The project's copy of a version, fetched if it has none, and checked."""
    if not version.digest:
        raise HookeError(
            f"{version.label} was not registered by Hooke, so nothing says what its files should be",
            mend=f"mlflow.pyfunc.load_model('models:/{version.name}/{version.number}') reads it, if you trust it",
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
            mend="remove it: it is fetched anew",
        ) from error
    manifest = decode(data, version.digest, where=str(folder))
    check_files(folder, manifest)
    return folder, manifest


def _digest(version: Version) -> str:
    """A tag of the registry becomes a folder's name: it must be one."""
    if len(version.digest) != 64 or set(version.digest) - set("0123456789abcdef"):
        raise CorruptObject(
            f"the digest of {version.label} is none: {version.digest[:80]!r}", where="its tag hooke.digest"
        )
    return version.digest


def _fetch(registry: Registry, version: Version, models: ProjectModels) -> None:
    """Whole or not at all; of two that fetch at once one is kept."""
    with models.making() as made:
        registry.fetch(version, MANIFEST, made / MANIFEST)
        manifest = decode((made / MANIFEST).read_bytes(), version.digest, where=version.location)
        for name in manifest.files:
            registry.fetch(version, name, made / name)
        check_files(made, manifest)
        models.keep(made, version.digest)
