"""ONNX: a graph of operators, saved unchanged and run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hooke.base.errors import HookeError, UsageError
from hooke.models.format import LoadOptions, Saved, versions_of

__all__ = ["OnnxFormat", "OnnxModel"]

FILE = "model.onnx"
PROVIDERS = ["CPUExecutionProvider"]


class OnnxModel:
    """A loaded graph. `inputs` and `outputs` are its names, in order; `session` is onnxruntime's session."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.inputs = [each.name for each in session.get_inputs()]
        self.outputs = [each.name for each in session.get_outputs()]

    def __repr__(self) -> str:
        return f"OnnxModel({', '.join(self.inputs)} -> {', '.join(self.outputs)})"

    def predict(self, rows: Any) -> Any:
        """The outputs for `rows`: an array for the only input, or a mapping of arrays by name. A single output is an array, several are a mapping.

        Raises UsageError for inputs that the graph does not have.
        """
        if not isinstance(rows, Mapping):
            if len(self.inputs) != 1:
                raise UsageError(
                    f"the model has {len(self.inputs)} inputs but was given one array",
                    fix=f"give a mapping with {', '.join(self.inputs)}",
                )
            rows = {self.inputs[0]: rows}
        if set(rows) != set(self.inputs):
            raise UsageError(
                f"the model has no inputs {', '.join(map(str, rows))}", fix=f"valid: {', '.join(self.inputs)}"
            )
        found = self.session.run(None, {name: np.asarray(value) for name, value in rows.items()})
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))


class OnnxFormat:
    """Takes bytes, or onnx's ModelProto, including the weights."""

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Save a graph. Raises HookeError if onnxruntime cannot run it."""
        if not isinstance(model, bytes) and not hasattr(model, "SerializeToString"):
            raise UsageError(f"{terms.label}: ONNX holds bytes or a ModelProto, not {type(model).__name__}")
        (folder / FILE).write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        self.load(folder, {}, terms)
        versions = versions_of("onnx", "onnxruntime", "numpy")
        flavor = {
            "onnx_version": versions.get("onnx", ""),
            "data": FILE,
            "providers": PROVIDERS,
            "onnx_session_options": None,
            "code": None,
        }
        return Saved(
            details={},
            flavors={"onnx": flavor, "python_function": {"loader_module": "mlflow.onnx", "data": FILE}},
            libraries=versions,
        )

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:  # noqa: ARG002 - signature of every format
        """An OnnxModel. Raises HookeError if onnxruntime cannot run the graph."""
        try:
            return OnnxModel(onnxruntime.InferenceSession(str(folder / FILE), providers=PROVIDERS))
        except Exception as error:  # its errors have no common base class
            raise HookeError(
                f"onnxruntime cannot run {terms.label}",
                why=f"{type(error).__name__}: {error}",
                fix="give the bytes of a complete ONNX file (without external weights) whose operators this onnxruntime supports",
            ) from error

    def predict(self, model: Any, rows: Any) -> Any:
        """The outputs from onnxruntime."""
        if isinstance(model, OnnxModel):
            return model.predict(rows)
        data = model if isinstance(model, bytes) else model.SerializeToString()
        return OnnxModel(onnxruntime.InferenceSession(data, providers=PROVIDERS)).predict(rows)
