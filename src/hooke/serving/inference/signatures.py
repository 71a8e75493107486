"""A method's parameters and result as tensors: datatypes and shapes, as far as annotations tell."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np

from hooke.serving.inference.tensors import TensorError, datatype_of
from hooke.serving.inference.v2_messages import InferenceQuery, ModelMetadata, TensorMetadata, wrong_tensor
from hooke.serving.payloads import (
    Method,
    ResponseKind,
    array_from_json,
    cast,
    check_rank,
    convert,
    dtype_of,
    hints_of,
    is_array,
    rank_of,
)
from hooke.serving.problems import Problem
from hooke.serving.service import Service

__all__ = [
    "VERSION",
    "FieldColumn",
    "Form",
    "Parameter",
    "Table",
    "TensorModel",
    "arguments_of",
    "form_of",
    "form_of_type",
    "models_of",
    "outputs_of",
    "table_of",
    "tensors_of",
    "texts",
]


OPEN = "FP64"
"""The datatype shown where the annotation leaves it open; others are accepted, too."""
_SCALARS: tuple[tuple[type[msgspec.inspect.Type], str], ...] = (
    (msgspec.inspect.FloatType, "FP64"),
    (msgspec.inspect.IntType, "INT64"),
    (msgspec.inspect.BoolType, "BOOL"),
    (msgspec.inspect.StrType, "BYTES"),
    (msgspec.inspect.BytesType, "BYTES"),
    (msgspec.inspect.DateTimeType, "BYTES"),
    (msgspec.inspect.DateType, "BYTES"),
    (msgspec.inspect.UUIDType, "BYTES"),
    (msgspec.inspect.DecimalType, "BYTES"),
)
_LISTS = (
    msgspec.inspect.CollectionType,  # lists, sets, and tuples of any length
    msgspec.inspect.TupleType,
)


@dataclass(frozen=True, slots=True)
class Form:
    """The tensor that an annotation stands for."""

    datatype: str
    shape: tuple[int, ...]
    raw: bool = False
    """Elements of BYTES are bytes, not text."""
    open: bool = False
    """Whether the annotation leaves the datatype open: `datatype` is then only for display."""

    def metadata(self, name: str) -> TensorMetadata:
        """The metadata of a tensor with this name."""
        return TensorMetadata(name, self.datatype, self.shape or (1,))


def form_of(annotation: Any) -> Form | None:
    """The tensor of an annotation; None for others, such as an object with fields. An array of open rank counts as a table."""
    if is_array(annotation):
        dtype = dtype_of(annotation)
        datatype = datatype_of(dtype) if dtype is not None else None
        shape = (-1,) * (rank_of(annotation) or 2)
        return Form(datatype.name, shape) if datatype is not None else Form(OPEN, shape, open=True)
    return form_of_type(msgspec.inspect.type_info(annotation))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a method."""

    name: str
    annotation: Any
    form: Form | None
    """The tensor that it accepts; None if it accepts none."""
    default: Any
    is_array: bool
    dtype: np.dtype[Any] | None
    """The dtype of an array; None if it is open."""
    rank: int
    """The dimensions of an array; 0 if they are open."""

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any) -> Parameter:
        """The parameter of an annotation; `default` is `inspect.Parameter.empty` without one."""
        array = is_array(annotation)
        return cls(
            name=name,
            annotation=annotation,
            form=form_of(annotation),
            default=default,
            is_array=array,
            dtype=dtype_of(annotation) if array else None,
            rank=rank_of(annotation) if array else 0,
        )

    def value(self, tensor: np.ndarray) -> Any:
        """The argument made of a tensor. Raises TensorError, and msgspec.ValidationError."""
        assert self.form is not None, "no input"
        if tensor.dtype == object:
            tensor = texts(tensor, raw=self.form.raw)
        if not self.is_array:
            if self.form.shape or not tensor.size:
                return convert(tensor.tolist(), self.annotation)
            if tensor.size != 1:
                raise TensorError(f"expected one value, got {tensor.size}")
            return convert(tensor.reshape(1).tolist()[0], self.annotation)
        if tensor.dtype == object:
            tensor = _as_text_array(tensor)
        try:
            check_rank(tensor, self.rank)
            return tensor if self.dtype is None else cast(tensor, self.dtype)
        except ValueError as error:
            raise TensorError(str(error)) from None


def outputs_of(function: Callable[..., Any], hint: Any) -> dict[str, Form]:
    """The outputs of a function with this return annotation, as far as it tells."""
    if hint in (None, inspect.Parameter.empty, tuple, dict):
        return {}
    kind = None if is_array(hint) else _type_info(hint)
    parts: dict[str, Any] = {function.__name__: hint}
    if isinstance(kind, msgspec.inspect.TupleType):
        parts = {f"output_{at}": part for at, part in enumerate(get_args(hint))}
    elif isinstance(kind, (msgspec.inspect.TypedDictType, msgspec.inspect.NamedTupleType)):
        parts = get_type_hints(hint)
    forms = {name: _output(part) for name, part in parts.items()}
    return {name: form for name, form in forms.items() if form is not None}


def _output(hint: Any) -> Form | None:
    """As `form_of`, but an array of open rank has one value a row, and types unknown to msgspec may be returned."""
    if is_array(hint):
        form = form_of(hint)
        return form if form is None or rank_of(hint) else dataclasses.replace(form, shape=(-1,))
    kind = _type_info(hint)
    return form_of_type(kind) if kind is not None else None


def _type_info(annotation: Any) -> msgspec.inspect.Type | None:
    """None for types unknown to msgspec: a returned value need not have a type that can be read."""
    try:
        return msgspec.inspect.type_info(annotation)
    except (TypeError, NotImplementedError, NameError):
        return None


def form_of_type(kind: msgspec.inspect.Type) -> Form | None:
    """As `form_of`, of a type as msgspec describes it."""
    for scalar, datatype in _SCALARS:
        if isinstance(kind, scalar):
            return Form(datatype, (), raw=isinstance(kind, msgspec.inspect.BytesType))
    if isinstance(kind, msgspec.inspect.AnyType):
        return Form(OPEN, (-1,), open=True)
    if isinstance(kind, msgspec.inspect.CustomType):
        return form_of(kind.cls) if is_array(kind.cls) else None
    if isinstance(kind, msgspec.inspect.LiteralType):
        return Form("INT64" if isinstance(kind.values[0], int) else "BYTES", ())
    if isinstance(kind, msgspec.inspect.UnionType):
        forms = [form for form in map(form_of_type, kind.types) if form is not None]
        return forms[0] if forms else None
    return _form_of_list(kind) if isinstance(kind, _LISTS) else None


def _form_of_list(kind: msgspec.inspect.Type) -> Form | None:
    if isinstance(kind, msgspec.inspect.TupleType):
        forms = {form_of_type(item) for item in kind.item_types}
        length, form = len(kind.item_types), forms.pop() if len(forms) == 1 else None
    else:
        assert isinstance(kind, msgspec.inspect.CollectionType)
        length = -1
        open_ended = isinstance(kind.item_type, msgspec.inspect.AnyType)
        form = Form(OPEN, (), open=True) if open_ended else form_of_type(kind.item_type)
    return dataclasses.replace(form, shape=(length, *form.shape)) if form is not None else None


def texts(tensor: np.ndarray, *, raw: bool) -> np.ndarray:
    """Elements of BYTES as text, or as bytes. Raises TensorError for bytes that are not UTF-8."""
    made = np.empty(tensor.size, dtype=object)
    flat = tensor.ravel().tolist()
    try:
        if raw:
            made[:] = [one if isinstance(one, bytes) else one.encode() for one in flat]
        else:
            made[:] = [one if isinstance(one, str) else one.decode() for one in flat]
    except UnicodeError:
        raise TensorError("its bytes are not UTF-8 text") from None
    return made.reshape(tensor.shape)


def _as_text_array(tensor: np.ndarray) -> np.ndarray:
    flat = tensor.ravel().tolist()
    if any(one.endswith("\0") for one in flat):
        raise TensorError("an array of text drops zeros at its end")
    return np.array(flat, dtype=np.str_).reshape(tensor.shape)


# --- Rows that are objects, such as `list[Flight]`, as columns: each field is an input of its own, as in a table.

_OBJECTS = (msgspec.inspect.StructType, msgspec.inspect.DataclassType, msgspec.inspect.TypedDictType)
_AT = re.compile(r" - at `\$\[(?P<row>\d+)\]\.?(?P<name>[^`]*)`$")


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """A field of a row. If it `may_be_null`, NaN stands for null, which tensors lack."""

    form: Form
    required: bool
    may_be_null: bool

    def values(self, tensor: np.ndarray) -> list[Any]:
        """One value for each row. Raises TensorError for a tensor of several columns, and for bytes that are not text."""
        if not tensor.ndim or tensor.shape[0] != tensor.size:
            raise TensorError(f"a column has the shape [rows] or [rows, 1], not {list(tensor.shape)}")
        if tensor.dtype == object:
            tensor = texts(tensor, raw=self.form.raw)
        flat: list[Any] = tensor.ravel().tolist()
        if self.may_be_null and tensor.dtype.kind == "f":
            return [None if value != value else value for value in flat]  # noqa: PLR0124 - NaN alone is not itself
        return flat


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a parameter, by column."""

    annotation: Any
    columns: Mapping[str, FieldColumn]

    def rows(self, tensors: Mapping[str, np.ndarray]) -> Any:
        """The argument made of its columns. Raises Problem (422) that names a column that is missing, has another length, or does not fit."""
        given: dict[str, list[Any]] = {}
        for name, column in self.columns.items():
            if name in tensors:
                try:
                    given[name] = column.values(tensors[name])
                except TensorError as misfit:
                    raise wrong_tensor(name, str(misfit)) from None
            elif column.required or not given:
                raise wrong_tensor(name, "missing")
        first, count = next((name, len(values)) for name, values in given.items())
        for name, values in given.items():
            if len(values) != count:
                raise wrong_tensor(name, f"it has {len(values)} rows, and {first} has {count}")
        rows = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
        try:
            return convert(rows, self.annotation)
        except msgspec.ValidationError as error:
            text = str(error)
            at = _AT.search(text)
            name = at["name"] if at else first
            raise wrong_tensor(name, f"{text[: at.start()]}, in row {at['row']}" if at else text) from None


def table_of(annotation: Any) -> Table | None:
    """The table of a list of objects whose fields are plain values or optional; None for other annotations."""
    kind = msgspec.inspect.type_info(annotation)
    if not isinstance(kind, msgspec.inspect.ListType) or not isinstance(kind.item_type, _OBJECTS):
        return None
    item = kind.item_type
    if isinstance(item, msgspec.inspect.StructType) and item.array_like:
        return None
    columns: dict[str, FieldColumn] = {}
    for field in item.fields:
        form = form_of_type(field.type)
        if form is not None and not form.shape:
            null = isinstance(field.type, msgspec.inspect.UnionType) and field.type.includes_none
            column = dataclasses.replace(form, shape=(-1,))
            columns[field.encode_name] = FieldColumn(column, field.required, null)
        elif field.required:
            return None
    return Table(annotation, columns) if columns else None


# --- A service's methods as models of the protocol, with tensors in and out.

VERSION = "1"
"""A replica has one version of each model: `setup` knows which registered model it got."""
PLATFORM = "hooke"
_RESERVED = frozenset({"binary_data_output", "priority", "timeout"})
"""Parameters of a request that are not arguments."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorModel:
    """A method with tensors as inputs and outputs."""

    name: str
    method: str
    parameters: Mapping[str, Parameter]
    """All parameters of the method, in order."""
    inputs: Mapping[str, Form]
    """The parameters that accept tensors, and the columns of a table."""
    outputs: Mapping[str, Form]
    """The outputs that its annotation tells; it may return others."""
    tables: Mapping[str, Table]
    """By the parameter that takes the rows; one at most."""

    def metadata(self) -> ModelMetadata:
        """Its inputs and outputs."""
        return ModelMetadata(
            name=self.name,
            versions=(VERSION,),
            platform=PLATFORM,
            inputs=tuple(form.metadata(name) for name, form in self.inputs.items()),
            outputs=tuple(form.metadata(name) for name, form in self.outputs.items()),
        )


def models_of(
    declared: Service, methods: Mapping[str, Method]
) -> tuple[dict[str, TensorModel], dict[str, str]]:
    """The models of a service by name, and the reason why each other method is not one.

    A model is called `Class.method`; if a service has only one, it is also called `Class`.
    """
    found: dict[str, TensorModel] = {}
    refused: dict[str, str] = {}
    for name, function in declared.methods().items():
        made = (
            "its model is chosen by a name, which no tensor is"
            if methods[name].by_name
            else _model(declared, methods[name], function)
        )
        if isinstance(made, str):
            refused[f"{declared.name}.{name}"] = made
        else:
            found[made.name] = made
    if len(found) == 1:
        only = next(iter(found.values()))
        found = {declared.name: dataclasses.replace(only, name=declared.name), only.name: only}
    return found, refused


def arguments_of(model: TensorModel, query: InferenceQuery) -> dict[str, Any]:
    """The arguments of its method, in the order of the parameters. Raises Problem (422) that names the input."""
    for name in query.tensors:
        if name not in model.inputs:
            raise wrong_tensor(name, f"unknown input; inputs: {', '.join(model.inputs) or 'none'}")
    return {
        name: model.tables[name].rows(query.tensors) if name in model.tables else _argument(parameter, query)
        for name, parameter in model.parameters.items()
    }


def tensors_of(model: TensorModel, result: Any) -> dict[str, np.ndarray]:
    """The method's result as outputs. Raises Problem (406) for values that are not tensors.

    The values of a dict or a named tuple are outputs of these names; those of a tuple are `output_0`, `output_1`; any other
    value is one output with the method's name.
    """
    if isinstance(result, dict):
        parts = {str(name): value for name, value in result.items()}
    elif isinstance(result, tuple):
        names = getattr(result, "_fields", None) or [f"output_{at}" for at in range(len(result))]
        parts = dict(zip(names, result, strict=True))
    else:
        parts = {model.method: result}
    return {name: _tensor(model, name, value) for name, value in parts.items()}


def _model(declared: Service, method: Method, function: Callable[..., Any]) -> TensorModel | str:
    """The model, or the reason why the method is not one."""
    if method.kind in (ResponseKind.STREAM, ResponseKind.ASYNC_STREAM):
        return f"it streams, which the protocol does not support; use POST /{method.name}"
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
    return TensorModel(name, method.name, parameters, inputs, outputs, tables)


def _argument(parameter: Parameter, query: InferenceQuery) -> Any:
    name = parameter.name
    try:
        if name in query.tensors:
            return parameter.value(query.tensors[name])
        if name in query.parameters and name not in _RESERVED:
            return convert(query.parameters[name], parameter.annotation)
    except msgspec.ValidationError as error:
        raise wrong_tensor(name, str(error).replace("`$", f"`{name}")) from None
    except TensorError as misfit:
        raise wrong_tensor(name, str(misfit)) from None
    if parameter.default is inspect.Parameter.empty:
        raise wrong_tensor(name, "missing")
    return parameter.default


def _tensor(model: TensorModel, name: str, value: Any) -> np.ndarray:
    if isinstance(value, (bool, int, float, str, bytes, np.generic)):
        value = [value]
    if isinstance(value, list):
        value = _listed(model, name, value)
    if not isinstance(value, np.ndarray):
        raise _no_tensor(model, name, f"a {type(value).__name__}")
    return value if value.ndim else value.reshape(1)


def _listed(model: TensorModel, name: str, value: list[Any]) -> np.ndarray:
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
        return made.astype(np.float64)  # in a list, an integral float is still annotated as a float
    return made


def _no_tensor(model: TensorModel, name: str, what: str) -> Problem:
    return Problem(
        406, f"output {name} is {what}, which a tensor cannot hold; POST /{model.method} returns it as JSON"
    )
