"""Pickle, for whatever has no safe format. Reading it runs what it says, so only a model that the project knows is read."""

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
    """One pickle. Plain MLflow is not told how to read it: it would not ask whether the project knows it."""

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Raises HookeError for what cannot be pickled."""
        try:
            data = cloudpickle.dumps(model)
        except Exception as error:  # a reducer of the user's may raise anything
            raise HookeError(
                f"{terms.label} cannot be pickled",
                why=f"{type(error).__name__}: {error}",
                fix="register what it was trained to, without locks, files and connections",
            ) from error
        (folder / FILE).write_bytes(data)
        return Saved(details={}, flavors={}, libraries=versions_of("cloudpickle"))

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:  # noqa: ARG002 - as every format's
        """Raises UntrustedModel unless the model is known."""
        if not terms.known:
            raise UntrustedModel(
                f"{terms.label} is a pickle that this project does not know",
                why="to read a pickle is to run what whoever wrote it wants run; it was registered elsewhere, or changed",
                fix="if you know who registered it, trust this version from now on",
                next=f"hooke models trust {terms.label}",
            )
        return pickle.loads((folder / FILE).read_bytes())

    def predict(self, model: Any, rows: Any) -> Any:
        """By its `predict`, or by calling it."""
        return model.predict(rows) if hasattr(model, "predict") else model(rows)
