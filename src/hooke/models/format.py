"""What a format of models does, and which format a model is saved in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from hooke.base.plugins import Plugins

__all__ = ["FORMATS", "Format", "LoadOptions", "Saved", "format_of", "versions_of"]

FORMATS = Plugins(
    "hooke.formats",
    {
        "onnx": "hooke.models.formats.onnx:OnnxFormat",
        "pickle": "hooke.models.formats.pickled:PickleFormat",
        "safetensors": "hooke.models.formats.torch:SafetensorsFormat",
        "skops": "hooke.models.formats.sklearn:SkopsFormat",
    },
    extras={"onnx": "models", "safetensors": "models", "skops": "models"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """On which a model is read."""

    label: str
    """What errors call it: `flights:3`."""
    trust: tuple[str, ...] = ()
    """Full names of types that may be made, beyond those that the format takes for safe."""
    known: bool = False
    """Whether the project knows this model's digest."""
    into: Any = None
    """A model of the user's making that takes the weights, where the format has only those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a format wrote."""

    details: Mapping[str, Any]
    """For its own `load`; JSON."""
    flavors: Mapping[str, Mapping[str, Any]]
    """How plain MLflow reads the files, by MLflow's names; empty where it should not."""
    libraries: Mapping[str, str]
    """Distributions that are needed to read it, with their versions."""
    notes: tuple[str, ...] = field(default=())
    """What whoever loads it should know."""


class Format(Protocol):
    """Writes models of one kind into a folder, and reads them back.

    `load` gives what `save` was given, or what predicts as it does. It runs no code that the files bring: a format that
    cannot promise that refuses, with UntrustedModel, a model that is not `known`.
    """

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Write into the empty `folder`. Raises HookeError for a model that the format cannot hold, UntrustedModel."""
        ...

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:
        """Read it. The files are those that were saved: their digests have been checked."""
        ...

    def predict(self, model: Any, rows: Any) -> Any:
        """What the model says of an input example, as plain MLflow would get it. Raises whatever the model does."""
        ...


def format_of(model: Any) -> str:
    """The name of the format that a model is saved in unless one is asked for. Imports no library."""
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__]
    if "torch.nn.modules.module.Module" in kinds:
        return "safetensors"
    if "sklearn.base.BaseEstimator" in kinds:
        return "skops"
    if isinstance(model, bytes) or any(
        kind.startswith("onnx.") and kind.endswith(".ModelProto") for kind in kinds
    ):
        return "onnx"
    return "pickle"


def versions_of(*distributions: str) -> dict[str, str]:
    """The installed versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
