"""`load_model`: a registered model, ready to predict."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooke.base.errors import CorruptObject, HookeError, NotFingerprintable, UsageError
from hooke.base.files import writing
from hooke.keys.fingerprint import fingerprint_code
from hooke.keys.module_origin import origin_of
from hooke.models.bundle import MANIFEST, Manifest, check_files, decode
from hooke.models.format import FORMATS, Format, LoadOptions
from hooke.models.registry_protocol import ModelRegistry, RegisteredVersion, find, parse_wanted
from hooke.project.folder import Project
from hooke.registry.project_registry import ProjectModels, models_of, project_here, registry_of
from hooke.running.run import Run
from hooke.tracking.logged_values import Point, logged_in
from hooke.tracking.tracker import Tracker, active

__all__ = [
    "NOWHERE",
    "ModelSource",
    "code_of",
    "fetched",
    "load_model",
    "load_version",
    "measured",
    "source_of",
]


# --- Which run and which code a model comes from, and what was measured of it there.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A run, or an attempt (of an item) in one; all empty for none."""

    folder: Path | None = None
    attempt: int | None = None
    item: int | None = None
    tracker: Tracker | None = None
    """What logs into it, where it goes on in this process."""

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.name if self.folder is not None else ""

    @property
    def key(self) -> str:
        """As trackers know it: `RUN`, `RUN/ATTEMPT` or `RUN/ATTEMPT/ITEM`."""
        return "/".join([self.run, *(str(part) for part in (self.attempt, self.item) if part is not None)])

    def note(self, name: str, value: str) -> None:
        """Set a tag, if the run goes on here."""
        if self.tracker is not None:
            self.tracker.set_tags({name: value})


NOWHERE = ModelSource()


def source_of(run: Run | None) -> ModelSource:
    """`run`, else where this process logs to. Raises UsageError for what is no run."""
    if run is not None:
        if not isinstance(run, Run):
            raise UsageError(
                f"run={run!r} is no run", fix="give what hooke.run() or hooke.start_run() returned"
            )
        return ModelSource(folder=run.folder)
    tracker = active()
    if not isinstance(tracker, Tracker):
        return NOWHERE
    return ModelSource(folder=tracker.folder, attempt=tracker.attempt, item=tracker.item, tracker=tracker)


def measured(source: ModelSource, wanted: str = "") -> Mapping[str, float]:
    """The last value of each metric that the source logged; of a whole run also `wanted`, if one task alone logged it.

    Raises UsageError where several did: which of them is meant?
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
                fix=f"give the one that is meant: metrics={{{wanted!r}: ...}}",
            )
        own |= {name: point.value for point in by.values() for name in (point.name,)}
    return {name: value for name, value in own.items() if math.isfinite(value)}


def code_of(model: Any) -> str:
    """Fingerprint of the code of the model's class, where that is a module of the project; else empty."""
    kind = type(model)
    module = sys.modules.get(kind.__module__)
    # What a pickle carries by value is another class in each process.
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


def load_version(
    project: Project, version: RegisteredVersion, *, trust: tuple[str, ...] = (), into: Any = None
) -> Any:
    """Read one version. Raises as `load_model`."""
    models = models_of(project)
    folder, manifest = fetched(project, registry_of(project), version)
    terms = LoadOptions(label=version.label, trust=trust, known=version.digest in models.known, into=into)
    if into is not None and manifest.format != "safetensors":
        raise UsageError(
            f"{version.label} is saved as {manifest.format}, which goes into no module",
            fix="load it without into=",
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


def fetched(project: Project, registry: ModelRegistry, version: RegisteredVersion) -> tuple[Path, Manifest]:
    """The project's copy of a version, fetched if it has none, and checked."""
    if not version.digest:
        raise HookeError(
            f"{version.label} was not registered by Hooke, so nothing says what its files should be",
            fix=f"mlflow.pyfunc.load_model('models:/{version.name}/{version.number}') reads it, if you trust it",
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
            fix="remove it: it is fetched anew",
        ) from error
    manifest = decode(data, version.digest, where=str(folder))
    check_files(folder, manifest)
    return folder, manifest


def _digest(version: RegisteredVersion) -> str:
    """A tag of the registry becomes a folder's name: it must be one."""
    if len(version.digest) != 64 or set(version.digest) - set("0123456789abcdef"):
        raise CorruptObject(
            f"the digest of {version.label} is none: {version.digest[:80]!r}", where="its tag hooke.digest"
        )
    return version.digest


def _fetch(registry: ModelRegistry, version: RegisteredVersion, models: ProjectModels) -> None:
    """Whole or not at all; of two that fetch at once one is kept."""
    with models.making() as made:
        registry.fetch(version, MANIFEST, made / MANIFEST)
        manifest = decode((made / MANIFEST).read_bytes(), version.digest, where=version.location)
        for name in manifest.files:
            registry.fetch(version, name, made / name)
        check_files(made, manifest)
        models.keep(made, version.digest)
