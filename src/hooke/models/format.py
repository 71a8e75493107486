"""The protocol of a model format, and the choice of a model's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from hooke.base.distributions import Plugins

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
    """How a model is saved or loaded."""

    label: str
    """The model's name in errors, such as `flights:3`."""
    trust: tuple[str, ...] = ()
    """Full names of allowed types, beyond those that the format considers safe."""
    known: bool = False
    """Whether the project trusts this model's digest."""
    into: Any = None
    """A model made by the user that takes the weights, if the format saved only weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The result of saving a model."""

    details: Mapping[str, Any]
    """JSON values for the format's `load`."""
    flavors: Mapping[str, Mapping[str, Any]]
    """MLflow's flavors, by which plain MLflow reads the files; empty if it should not."""
    libraries: Mapping[str, str]
    """Distributions needed to read it, with their versions."""
    notes: tuple[str, ...] = field(default=())
    """Notes for those who load it."""


class Format(Protocol):
    """Saves models of one kind in a folder, and loads them.

    `load` returns the saved model, or one with equal predictions. It runs no code from the files: a format that
    cannot guarantee this raises UntrustedModel for a model that is not `known`.
    """

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Write into the empty `folder`. Raises HookeError for a model that the format does not support, UntrustedModel."""

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:
        """Load the model. The digests of the files have been checked."""

    def predict(self, model: Any, rows: Any) -> Any:
        """The prediction for an input example, as plain MLflow would get it. Raises what the model raises."""


def format_of(model: Any) -> str:
    """The default format of a model. Imports no library."""
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
    """The versions of those distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
