"""Rows that are objects, such as `list[Flight]`, from columns: each field is an input of its own, as tables are sent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hooke.serving.inference.parameters import Form, form_of_type, texts
from hooke.serving.inference.requests import wrong_tensor
from hooke.serving.inference.tensors import Misfit
from hooke.serving.payloads import convert

__all__ = ["Column", "Table", "table_of"]

_OBJECTS = (msgspec.inspect.StructType, msgspec.inspect.DataclassType, msgspec.inspect.TypedDictType)
_AT = re.compile(r" - at `\$\[(?P<row>\d+)\]\.?(?P<name>[^`]*)`$")


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a row. Where it `may_be_null`, NaN stands for null, which no tensor has."""

    form: Form
    required: bool
    may_be_null: bool

    def values(self, tensor: np.ndarray) -> list[Any]:
        """One for each row. Raises Misfit for a tensor of more than one column, and for bytes that are no text."""
        if not tensor.ndim or tensor.shape[0] != tensor.size:
            raise Misfit(f"a column has the shape [rows] or [rows, 1], not {list(tensor.shape)}")
        if tensor.dtype == object:
            tensor = texts(tensor, raw=self.form.raw)
        flat: list[Any] = tensor.ravel().tolist()
        if self.may_be_null and tensor.dtype.kind == "f":
            return [None if value != value else value for value in flat]  # noqa: PLR0124 - NaN alone is not itself
        return flat


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows that a parameter takes, by its columns."""

    annotation: Any
    columns: Mapping[str, Column]

    def rows(self, tensors: Mapping[str, np.ndarray]) -> Any:
        """The argument. Raises Problem (422) that names the column which is missing, of another length, or does not fit."""
        given: dict[str, list[Any]] = {}
        for name, column in self.columns.items():
            if name in tensors:
                try:
                    given[name] = column.values(tensors[name])
                except Misfit as misfit:
                    raise wrong_tensor(name, str(misfit)) from None
            elif column.required or not given:
                raise wrong_tensor(name, "it is missing")
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
    """That of a list of objects all of whose fields are plain values, or may be left out; None for all else."""
    kind = msgspec.inspect.type_info(annotation)
    if not isinstance(kind, msgspec.inspect.ListType) or not isinstance(kind.item_type, _OBJECTS):
        return None
    item = kind.item_type
    if isinstance(item, msgspec.inspect.StructType) and item.array_like:
        return None
    columns: dict[str, Column] = {}
    for field in item.fields:
        form = form_of_type(field.type)
        if form is not None and not form.shape:
            null = isinstance(field.type, msgspec.inspect.UnionType) and field.type.includes_none
            column = dataclasses.replace(form, shape=(-1,))
            columns[field.encode_name] = Column(column, field.required, null)
        elif field.required:
            return None
    return Table(annotation, columns) if columns else None
