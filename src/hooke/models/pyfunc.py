"""What plain `mlflow.pyfunc.load_model` calls for a model whose format MLflow does not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hooke.models.bundle import MANIFEST, Manifest, check_files
from hooke.models.format import FORMATS, Format, LoadOptions

__all__ = ["PlainModel"]


class PlainModel:
    """A model with the method that MLflow calls."""

    def __init__(self, folder: Path) -> None:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        check_files(folder, manifest)
        self._format: Format = FORMATS.load(manifest.format)()
        # MLflow imports what a model names, as it imported this module; a pickle is read by nobody who did not ask.
        terms = LoadOptions(label=str(folder), known=manifest.format == "safetensors")
        self._model = self._format.load(folder, manifest.details, terms)

    def predict(self, rows: Any, params: Any = None) -> Any:  # noqa: ARG002 - MLflow's signature
        """What the model says of an array or a frame."""
        return self._format.predict(self._model, rows.to_numpy() if hasattr(rows, "to_numpy") else rows)


def _load_pyfunc(path: str) -> PlainModel:
    return PlainModel(Path(path))
