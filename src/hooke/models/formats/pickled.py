"""Pickle, for models without a safe format. Loading a pickle can run any code, so only trusted models are loaded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from hooke.base.errors import HookeError, UntrustedModel
from hooke.models.format import LoadOptions, Saved, versions_of

__all__ = ["PickleFormat"]

FILE = "model.pkl"


class PickleFormat:
    """One pickle. It has no MLflow flavor, because plain MLflow would load it without a check."""

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Save a pickle. Raises HookeError if the model cannot be pickled."""
        try:
            data = cloudpickle.dumps(model)
        except Exception as error:  # a user's reducer may raise anything
            raise HookeError(
                f"{terms.label} cannot be pickled",
                why=f"{type(error).__name__}: {error}",
                fix="register only the trained state, without locks, files and connections",
            ) from error
        (folder / FILE).write_bytes(data)
        return Saved(details={}, flavors={}, libraries=versions_of("cloudpickle"))

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:  # noqa: ARG002 - signature of every format
        """Load the pickle. Raises UntrustedModel unless the model is known."""
        if not terms.known:
            raise UntrustedModel(
                f"{terms.label} is a pickle that this project does not trust",
                why="loading a pickle can run any code; it was registered elsewhere, or changed",
                fix="if you know who registered it, trust this version",
                next=f"hooke models trust {terms.label}",
            )
        return pickle.loads((folder / FILE).read_bytes())

    def predict(self, model: Any, rows: Any) -> Any:
        """The result of its `predict`, or of calling it."""
        return model.predict(rows) if hasattr(model, "predict") else model(rows)
