"""JSON Schema (2020-12) of what annotations stand for in requests and answers, for the OpenAPI document."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import msgspec
import numpy as np

from hooke.serving.arrays import dtype_of, is_array, rank_of

__all__ = ["COMPONENTS", "schemas_of"]

COMPONENTS = "#/components/schemas/"
_ITEMS: Mapping[str, dict[str, Any]] = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer", "minimum": 0},
    "f": {"type": "number"},
    "c": {"type": "number"},
    "U": {"type": "string"},
}
"""By the kind of a dtype."""
_ANY_ITEM: dict[str, Any] = {"type": ["number", "boolean", "string"]}


def schemas_of(annotations: Sequence[Any], *, answers: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """A schema for each annotation, and the named ones that these refer to, at COMPONENTS.

    In `answers` an array of fractions may have null, which stands for NaN. What has no schema may be anything.
    """
    named: dict[str, Any] = {}

    def hook(kind: Any) -> dict[str, Any]:
        if kind is np.ndarray or issubclass(kind, _Array):
            return _array(getattr(kind, "annotation", kind), named, answers=answers)
        return _pydantic(kind, named, answers=answers)

    found = []
    for annotation in annotations:
        try:
            schemas, parts = msgspec.json.schema_components(
                [_marked(annotation)], schema_hook=hook, ref_template=COMPONENTS + "{name}"
            )
        except (TypeError, NotImplementedError, AttributeError):
            found.append({})
        else:
            named |= parts
            found.append(schemas[0])
    return found, named


class _Array:
    """What stands for an array with its dtype while msgspec looks at a type: it asks about the bare `np.ndarray`."""

    annotation: Any


def _marked(annotation: Any) -> Any:
    """The annotation with an `_Array` for each array, but for those in fields of classes, whose dtype is left open."""
    if is_array(annotation):
        return type("Array", (_Array,), {"annotation": annotation})
    origin, parts = get_origin(annotation), get_args(annotation)
    marked = tuple(map(_marked, parts))
    if origin is None or marked == parts:
        return annotation
    union = origin in (Union, types.UnionType)
    return functools.reduce(operator.or_, marked) if union else origin[marked]


def _array(annotation: Any, named: dict[str, Any], *, answers: bool) -> dict[str, Any]:
    """Rows in rows, as deep as its dimensions or, where these are open, as one wants. That rows are of one length no schema can say."""
    dtype = dtype_of(annotation)
    item = _ANY_ITEM if dtype is None else _item(dtype)
    null = answers and (dtype is None or dtype.kind in "fc")
    if rank := rank_of(annotation):
        return _nested({"anyOf": [item, {"type": "null"}]} if null else item, rank, least=0 if answers else 1)
    name = f"{'Any' if dtype is None else dtype.name.capitalize()}Array{'OrNull' if null else ''}"
    ref = {"$ref": COMPONENTS + name}
    either = [item, {"type": "null"}, ref] if null else [item, ref]
    named[name] = {"type": "array", "items": {"anyOf": either}}
    return ref


def _nested(item: dict[str, Any], rank: int, *, least: int) -> dict[str, Any]:
    """An array of so many dimensions. What is read has `least` of all but the last: an empty one would have fewer dimensions."""
    rows: dict[str, Any] = {"type": "array", "items": item}
    for _ in range(rank - 1):
        rows = {"type": "array", "items": rows, **({"minItems": least} if least else {})}
    return rows


def _item(dtype: np.dtype[Any]) -> dict[str, Any]:
    item = dict(_ITEMS.get(dtype.kind, {}))
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        item |= {"minimum": int(bounds.min), "maximum": int(bounds.max)}
    return item


def _pydantic(kind: Any, named: dict[str, Any], *, answers: bool) -> dict[str, Any]:
    """That of a model of pydantic, whose parts get the model's name before theirs."""
    schema = kind.model_json_schema(
        ref_template=f"{COMPONENTS}{kind.__name__}.{{model}}",
        mode="serialization" if answers else "validation",
    )
    for name, part in schema.pop("$defs", {}).items():
        named[f"{kind.__name__}.{name}"] = part
    ref: dict[str, Any] = schema
    return ref
