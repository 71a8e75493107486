"""A service's methods as models of the protocol: what they take, and what they give, as tensors."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hooke.serving.arrays import array_from_json
from hooke.serving.inference.messages import ModelMetadata
from hooke.serving.inference.parameters import Form, Parameter, outputs_of
from hooke.serving.inference.requests import Query, wrong_tensor
from hooke.serving.inference.tables import Table, table_of
from hooke.serving.inference.tensors import Misfit
from hooke.serving.payloads import Kind, Method, convert, hints_of
from hooke.serving.problems import Problem
from hooke.serving.service import Service

__all__ = ["VERSION", "Model", "arguments_of", "models_of", "tensors_of"]

VERSION = "1"
"""A replica has one of each model: which registered model it was given, `setup` knows."""
PLATFORM = "hooke"
_RESERVED = frozenset({"binary_data_output", "priority", "timeout"})
"""Parameters of a request that mean something else than an argument."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A method that takes and gives tensors."""

    name: str
    method: str
    parameters: Mapping[str, Parameter]
    """All of the method's, in their order."""
    inputs: Mapping[str, Form]
    """The parameters that may be given as tensors, and the columns of a table."""
    outputs: Mapping[str, Form]
    """Those that its annotation tells; what it returns may be others."""
    tables: Mapping[str, Table]
    """By the parameter that takes its rows; one at most."""

    def metadata(self) -> ModelMetadata:
        """What it takes and gives."""
        return ModelMetadata(
            name=self.name,
            versions=(VERSION,),
            platform=PLATFORM,
            inputs=tuple(form.metadata(name) for name, form in self.inputs.items()),
            outputs=tuple(form.metadata(name) for name, form in self.outputs.items()),
        )


def models_of(declared: Service, methods: Mapping[str, Method]) -> tuple[dict[str, Model], dict[str, str]]:
    """The models of a service by name, and why each of its other methods is none.

    Each is called `Class.method`; the only one of a service is called as its class, too.
    """
    found: dict[str, Model] = {}
    refused: dict[str, str] = {}
    for name, function in declared.methods().items():
        made = _model(declared, methods[name], function)
        if isinstance(made, str):
            refused[f"{declared.name}.{name}"] = made
        else:
            found[made.name] = made
    if len(found) == 1:
        only = next(iter(found.values()))
        found = {declared.name: dataclasses.replace(only, name=declared.name), only.name: only}
    return found, refused


def arguments_of(model: Model, query: Query) -> dict[str, Any]:
    """What its method is called with, in the order of the parameters. Raises Problem (422) that names the input."""
    for name in query.tensors:
        if name not in model.inputs:
            raise wrong_tensor(name, f"there is none; there are {', '.join(model.inputs) or 'none'}")
    return {
        name: model.tables[name].rows(query.tensors) if name in model.tables else _argument(parameter, query)
        for name, parameter in model.parameters.items()
    }


def tensors_of(model: Model, result: Any) -> dict[str, np.ndarray]:
    """What its method returned, as outputs. Raises Problem (406) for what is no tensor.

    The values of a dict, or of a named tuple, are outputs of these names; those of a tuple are `output_0`, `output_1`; anything
    else is one output with the method's name.
    """
    if isinstance(result, dict):
        parts = {str(name): value for name, value in result.items()}
    elif isinstance(result, tuple):
        names = getattr(result, "_fields", None) or [f"output_{at}" for at in range(len(result))]
        parts = dict(zip(names, result, strict=True))
    else:
        parts = {model.method: result}
    return {name: _tensor(model, name, value) for name, value in parts.items()}


def _model(declared: Service, method: Method, function: Callable[..., Any]) -> Model | str:
    """Or why it is none."""
    if method.kind in (Kind.STREAM, Kind.ASYNC_STREAM):
        return f"it streams, which the protocol does not; use POST /{method.name}"
    name = f"{declared.name}.{method.name}"
    hints = hints_of(name, function)
    parameters: dict[str, Parameter] = {}
    inputs: dict[str, Form] = {}
    tables: dict[str, Table] = {}
    for key, one in list(inspect.signature(function).parameters.items())[1:]:
        annotation = hints.get(key, Any)
        parameters[key] = parameter = Parameter.of(key, annotation, one.default)
        if parameter.form is not None:
            found = {key: parameter.form}
        elif one.default is not one.empty:
            continue
        else:
            table = table_of(annotation) if not tables else None
            if table is None:
                return f"{key} cannot be given as tensors; use POST /{method.name}"
            tables[key] = table
            found = {column: of.form for column, of in table.columns.items()}
        twice = inputs.keys() & found
        if twice:
            return f"{min(twice)} would be two inputs; use POST /{method.name}"
        inputs |= found
    outputs = outputs_of(function, hints.get("return"))
    return Model(name, method.name, parameters, inputs, outputs, tables)


def _argument(parameter: Parameter, query: Query) -> Any:
    name = parameter.name
    try:
        if name in query.tensors:
            return parameter.value(query.tensors[name])
        if name in query.parameters and name not in _RESERVED:
            return convert(query.parameters[name], parameter.annotation)
    except msgspec.ValidationError as error:
        raise wrong_tensor(name, str(error).replace("`$", f"`{name}")) from None
    except Misfit as misfit:
        raise wrong_tensor(name, str(misfit)) from None
    if parameter.default is inspect.Parameter.empty:
        raise wrong_tensor(name, "it is missing")
    return parameter.default


def _tensor(model: Model, name: str, value: Any) -> np.ndarray:
    if isinstance(value, (bool, int, float, str, bytes, np.generic)):
        value = [value]
    if isinstance(value, list):
        value = _listed(model, name, value)
    if not isinstance(value, np.ndarray):
        raise _no_tensor(model, name, f"a {type(value).__name__}")
    return value if value.ndim else value.reshape(1)


def _listed(model: Model, name: str, value: list[Any]) -> np.ndarray:
    if value and all(isinstance(one, bytes) for one in value):
        made = np.empty(len(value), dtype=object)
        made[:] = value
        return made
    try:
        made = array_from_json(np.ndarray, value)
    except ValueError:
        raise _no_tensor(model, name, "a list of unequal or mixed values") from None
    form = model.outputs.get(name)
    if form is not None and not form.open and form.datatype == "FP64" and made.dtype.kind in "iu":
        return made.astype(np.float64)  # a float that is whole, in a list, is still annotated as a float
    return made


def _no_tensor(model: Model, name: str, what: str) -> Problem:
    return Problem(
        406, f"output {name} is {what}, which no tensor holds; POST /{model.method} gives it as JSON"
    )
