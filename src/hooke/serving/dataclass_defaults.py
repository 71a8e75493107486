"""msgspec leaves a dataclass's default in the class, where its encoder does not look: an answer would lack the field."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

__all__ = ["complete", "has_dataclasses"]


def has_dataclasses(annotation: Any) -> bool:
    """Whether a value that is read as this may hold an object of a dataclass."""
    return "DataclassType(" in repr(msgspec.inspect.type_info(annotation))


def complete(value: Any) -> None:
    """Give each dataclass's object in this value the defaults that it lacks."""
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
