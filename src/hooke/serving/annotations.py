"""What annotations are made of, as msgspec sees them, and what it leaves undone with dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec

__all__ = ["complete", "custom_types", "has_dataclasses"]


def custom_types(annotation: Any) -> list[Any]:
    """The types in it, at any depth, that msgspec cannot read by itself."""
    return [part.cls for part in _parts(annotation) if isinstance(part, msgspec.inspect.CustomType)]


def has_dataclasses(annotation: Any) -> bool:
    """Whether a value that is read as this may hold an object of a dataclass."""
    return any(isinstance(part, msgspec.inspect.DataclassType) for part in _parts(annotation))


def complete(value: Any) -> None:
    """Give each dataclass's object in this value the defaults that it lacks.

    msgspec leaves a default in the class, where its encoder does not look: an answer would lack the field.
    """
    if isinstance(value, dict):
        for item in value.values():
            complete(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            complete(item)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            complete(getattr(value, name))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            held = getattr(value, field.name, dataclasses.MISSING)
            if held is not dataclasses.MISSING:
                object.__setattr__(value, field.name, held)  # of a frozen one, too
                complete(held)


def _parts(annotation: Any) -> Iterator[msgspec.inspect.Type]:
    """The annotation and all below it, each once: a type may refer to itself."""
    left: list[Any] = [msgspec.inspect.type_info(annotation)]
    seen: dict[int, Any] = {}
    while left:
        part = left.pop()
        if isinstance(part, tuple):
            left.extend(part)
        elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
            seen[id(part)] = part
            if isinstance(part, msgspec.inspect.Type):
                yield part
            left.extend(getattr(part, name) for name in part.__struct_fields__)
