"""Values as text: Python literals, calls of a few constructors, and references into the store.

`hooke exec` reads its inputs so, and exported files write them. A text that is a reference, such as `hooke:DIGEST.SIZE['train'][0]`,
stands for the stored value, or for the part of it behind it, wherever it is in a value. `hooke:failed` stands for an item of a map that
failed and is left out: a list does not have it.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import enum
import importlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, cast

import msgspec

from hooke.base.errors import UsageError
from hooke.base.formats import short_repr
from hooke.base.ref import Ref
from hooke.base.syntax import parse_python
from hooke.keys.file import File
from hooke.pipeline.promise import shown_path
from hooke.pipeline.references import StoredValue

__all__ = [
    "FAILED",
    "FAILED_TEXT",
    "Construction",
    "construction_of",
    "read_value",
    "reference_text",
    "stored_value",
    "write_value",
]


# --- References.

_REFERENCE = re.compile(
    r"hooke:(?P<digest>[0-9a-f]{64})\.(?P<size>[0-9]{1,15})(?P<path>(\[.*\])?)", re.DOTALL
)


FAILED_TEXT = "hooke:failed"
"""The result of an item that failed in a map with `on_error="continue"`, in the place of a reference."""
FAILED = object()
"""What stands for FAILED_TEXT among values that were read."""


def reference_text(ref: Ref, path: tuple[Any, ...] = ()) -> str:
    """A stored object, or the part of it at `path`, as text. It names the content: equal values have the same text."""
    return f"hooke:{ref.digest}.{ref.size}{shown_path(path)}"


def stored_value(text: str) -> StoredValue | None:
    """What the text of a reference names; None for any other text. Raises UsageError for a part that cannot be read."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    return StoredValue(
        Ref(found["digest"], int(found["size"])), _path(found["path"]) if found["path"] else ()
    )


def _path(text: str) -> tuple[Any, ...]:
    steps: list[Any] = []
    try:
        node: ast.expr = parse_python(f"_{text}", "eval").body
        while isinstance(node, ast.Subscript):
            steps.append(_step(node.slice))
            node = node.value
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"the part {text} of a reference cannot be read", fix="write it as in Python: [0]['key'][1:3]"
        ) from error
    return tuple(reversed(steps))


def _step(node: ast.expr) -> Any:
    if isinstance(node, ast.Slice):
        bounds = (node.lower, node.upper, node.step)
        return slice(*(None if each is None else ast.literal_eval(each) for each in bounds))
    return ast.literal_eval(node)


# --- Objects that are written as a call of their class.


class Construction(msgspec.Struct, frozen=True, kw_only=True):
    """How to make an object again: `module` and `name` of its class, and the arguments."""

    module: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


def construction_of(value: object) -> Construction | None:
    """How a File, a path, a date or time, an Enum, a NamedTuple or a dataclass is made again; None for any other object.

    A dataclass counts if its fields are its arguments; a class inside a function does not count.
    """
    kind = type(value)
    if kind is File:
        return Construction(module="hooke", name="File", args=(str(cast("File", value).path),))
    if isinstance(value, PurePath):
        return Construction(module="pathlib", name="Path", args=(str(value),))
    if kind in _DATES:
        return _date(value)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        return None
    named = {"module": kind.__module__, "name": kind.__qualname__}
    if isinstance(value, enum.Enum):
        return Construction(**named, args=(value.value,))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        fields: tuple[str, ...] = cast("Any", value)._fields
        return Construction(**named, kwargs=dict(zip(fields, value, strict=True)))
    if dataclasses.is_dataclass(value) and all(field.init for field in dataclasses.fields(value)):
        return Construction(
            **named, kwargs={each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        )
    return None


_DATES = (datetime.date, datetime.datetime, datetime.time, datetime.timedelta)


def _date(value: Any) -> Construction | None:
    if getattr(value, "tzinfo", None) is not None:
        return None
    call = cast("ast.Call", parse_python(repr(value), "eval").body)
    return Construction(
        module="datetime",
        name=type(value).__name__,
        args=tuple(ast.literal_eval(each) for each in call.args),
        kwargs={str(each.arg): ast.literal_eval(each.value) for each in call.keywords},
    )


# --- Writing.

_PLAIN = frozenset({bool, bytes, complex, int, str, type(None)})


def write_value(
    value: object, leaf: Callable[[Any], str | None], construct: Callable[[Construction], str | None]
) -> str:
    """The value as Python. `leaf` gives the text of what stands for a value that does not exist yet, None for others; `construct` that of an object.

    Raises UsageError for a value that has no such text.
    """
    found = leaf(value)
    if found is not None:
        return found
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if isinstance(value, float) and kind is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if kind is range:
        return repr(value)
    if kind in (list, tuple, set, frozenset):
        return _group(kind, [write_value(each, leaf, construct) for each in cast("Iterable[object]", value)])
    if kind is dict:
        pairs = cast("dict[object, object]", value).items()
        texts = [[write_value(each, leaf, construct) for each in pair] for pair in pairs]
        return "{" + ", ".join(f"{key}: {each}" for key, each in texts) + "}"
    made = construction_of(value)
    text = construct(made) if made is not None else None
    if text is None:
        raise UsageError(
            f"{short_repr(value)} cannot be written as text: it is of the type {kind.__qualname__}"
        )
    return text


def _group(kind: type, parts: list[str]) -> str:
    if kind in (set, frozenset):
        parts = sorted(parts)
        if kind is set:
            return "{" + ", ".join(parts) + "}" if parts else "set()"
        return f"frozenset({{{', '.join(parts)}}})" if parts else "frozenset()"
    if kind is list:
        return f"[{', '.join(parts)}]"
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


# --- Reading.


def read_value(text: str) -> Any:
    """The value of the text, in which a StoredValue stands for each reference. Lists lack failed items. Raises UsageError.

    It is FAILED if the text is that of a failed item itself.
    """
    if text == FAILED_TEXT:
        return FAILED
    if text.startswith("hooke:"):
        stored = stored_value(text)
        if stored is None:
            raise UsageError(
                f"{text[:100]} is not a reference",
                fix="a reference is what `hooke exec` printed: hooke:DIGEST.SIZE",
            )
        return stored
    try:
        node = parse_python(text.strip(), "eval").body
        return FAILED if _is_failed(node) else _value(node)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{text[:100]!r} is not a value",
            why=str(error),
            fix="write a Python literal, such as 3, 'text' or [1, 2]; quote text; or give a reference: hooke:DIGEST.SIZE",
        ) from error


def _is_failed(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == FAILED_TEXT


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() as text):
            if text == FAILED_TEXT:
                raise ValueError(f"{text} is an input, or an item of a list, and nothing else")
            return stored_value(text) or text
        case ast.List(elts=parts):
            return [_value(each) for each in parts if not _is_failed(each)]
        case ast.Tuple(elts=parts):
            return tuple([_value(each) for each in parts])
        case ast.Set(elts=parts):
            return {_value(each) for each in parts}
        case ast.Dict(keys=keys, values=values):
            return {
                _value(cast("ast.expr", key)): _value(each) for key, each in zip(keys, values, strict=True)
            }
        case ast.Name(id="inf" | "nan" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.Call(func=function, args=args, keywords=keywords):
            kwargs = {str(each.arg): _value(each.value) for each in keywords}
            return _constructor(ast.unparse(function))(*[_value(each) for each in args], **kwargs)
        case _:
            return ast.literal_eval(node)


_BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "File": File,
    "Path": Path,
    "float": float,
    "frozenset": frozenset,
    "hooke.File": File,
    "pathlib.Path": Path,
    "range": range,
    "set": set,
    **{f"datetime.{each.__name__}": each for each in _DATES},
}


def _constructor(dotted: str) -> Callable[..., Any]:
    """What may be called: classes whose objects `construction_of` knows. Raises ValueError for anything else."""
    if dotted in _BUILT_IN:
        return _BUILT_IN[dotted]
    found = _found(dotted)
    is_data = isinstance(found, type) and (
        dataclasses.is_dataclass(found)
        or issubclass(found, enum.Enum)
        or (issubclass(found, tuple) and hasattr(found, "_fields"))
    )
    if not is_data:
        raise ValueError(f"{dotted} is not a dataclass, a NamedTuple or an Enum")
    return cast("Callable[..., Any]", found)


def _found(dotted: str) -> Any:
    """The object behind a dotted name: an attribute of the longest module that can be imported."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found
    raise ValueError(f"there is no {dotted}")
