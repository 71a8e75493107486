"""Loader for plain `mlflow.pyfunc.load_model`, for formats that MLflow does not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hooke.models.bundle import MANIFEST, Manifest, check_files
from hooke.models.format import FORMATS, Format, LoadOptions

__all__ = ["PlainModel"]


class PlainModel:
    """A model with the `predict` method that MLflow calls."""

    def __init__(self, folder: Path) -> None:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        check_files(folder, manifest)
        self._format: Format = FORMATS.load(manifest.format)()
        # Safetensors models are known here, because MLflow imports the modules that a model names anyway. Pickles are not.
        terms = LoadOptions(label=str(folder), known=manifest.format == "safetensors")
        self._model = self._format.load(folder, manifest.details, terms)

    def predict(self, rows: Any, params: Any = None) -> Any:  # noqa: ARG002 - MLflow's signature
        """The prediction for an array or a frame."""
        return self._format.predict(self._model, rows.to_numpy() if hasattr(rows, "to_numpy") else rows)


def _load_pyfunc(path: str) -> PlainModel:
    return PlainModel(Path(path))
