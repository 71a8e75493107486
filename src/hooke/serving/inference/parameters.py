"""A method's parameters and returned value as tensors: their datatypes and shapes, as far as annotations tell."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np

from hooke.serving.arrays import cast, check_rank, dtype_of, is_array, rank_of
from hooke.serving.inference.datatypes import datatype_of
from hooke.serving.inference.messages import TensorMetadata
from hooke.serving.inference.tensors import Misfit
from hooke.serving.payloads import convert

__all__ = ["Form", "Parameter", "form_of", "form_of_type", "outputs_of", "texts"]

OPEN = "FP64"
"""What metadata say where the annotation leaves it open; others are taken, too."""
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
    """What tensor an annotation stands for."""

    datatype: str
    shape: tuple[int, ...]
    raw: bool = False
    """Elements of BYTES are bytes, not text."""
    open: bool = False
    """The annotation leaves the datatype open: it is only shown to those who ask."""

    def metadata(self, name: str) -> TensorMetadata:
        """Of a tensor of this name."""
        return TensorMetadata(name, self.datatype, self.shape or (1,))


def form_of(annotation: Any) -> Form | None:
    """The tensor that it stands for; None for what is none, such as an object with fields. An array of open rank is a table."""
    if is_array(annotation):
        dtype = dtype_of(annotation)
        datatype = datatype_of(dtype) if dtype is not None else None
        shape = (-1,) * (rank_of(annotation) or 2)
        return Form(datatype.name, shape) if datatype is not None else Form(OPEN, shape, open=True)
    return form_of_type(msgspec.inspect.type_info(annotation))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One of a method's."""

    name: str
    annotation: Any
    form: Form | None
    """The tensor that may be given for it; None where none can."""
    default: Any
    is_array: bool
    dtype: np.dtype[Any] | None
    """Of an array; None where that is open."""
    rank: int
    """How many dimensions an array has; 0 where that is open."""

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any) -> Parameter:
        """From its annotation; `default` is `inspect.Parameter.empty` where there is none."""
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
        """The argument that this tensor is. Raises Misfit, and msgspec.ValidationError."""
        assert self.form is not None, "no input"
        if tensor.dtype == object:
            tensor = texts(tensor, raw=self.form.raw)
        if not self.is_array:
            if self.form.shape or not tensor.size:
                return convert(tensor.tolist(), self.annotation)
            if tensor.size != 1:
                raise Misfit(f"it is one value, and there are {tensor.size}")
            return convert(tensor.reshape(1).tolist()[0], self.annotation)
        if tensor.dtype == object:
            tensor = _as_text_array(tensor)
        try:
            check_rank(tensor, self.rank)
            return tensor if self.dtype is None else cast(tensor, self.dtype)
        except ValueError as error:
            raise Misfit(str(error)) from None


def outputs_of(function: Callable[..., Any], hint: Any) -> dict[str, Form]:
    """The outputs of a function whose return annotation is this, as far as that tells them."""
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
    """As `form_of`, but an array of open rank has a value for each row, and what msgspec does not know may be returned."""
    if is_array(hint):
        form = form_of(hint)
        return form if form is None or rank_of(hint) else dataclasses.replace(form, shape=(-1,))
    kind = _type_info(hint)
    return form_of_type(kind) if kind is not None else None


def _type_info(annotation: Any) -> msgspec.inspect.Type | None:
    """None for what msgspec does not know: nothing says that an answer must be annotated with what could be read."""
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
    """Elements of BYTES as text, or as bytes. Raises Misfit for bytes that are no UTF-8."""
    made = np.empty(tensor.size, dtype=object)
    flat = tensor.ravel().tolist()
    try:
        if raw:
            made[:] = [one if isinstance(one, bytes) else one.encode() for one in flat]
        else:
            made[:] = [one if isinstance(one, str) else one.decode() for one in flat]
    except UnicodeError:
        raise Misfit("its bytes are no text in UTF-8") from None
    return made.reshape(tensor.shape)


def _as_text_array(tensor: np.ndarray) -> np.ndarray:
    flat = tensor.ravel().tolist()
    if any(one.endswith("\0") for one in flat):
        raise Misfit("an array of text drops zeros at its end")
    return np.array(flat, dtype=np.str_).reshape(tensor.shape)
