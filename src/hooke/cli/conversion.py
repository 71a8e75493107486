"""From the text of a command line to the value that a parameter's annotation asks for."""

from __future__ import annotations

import enum
import math
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from hooke.base.errors import UsageError
from hooke.keys.file import File

__all__ = ["convert", "kind_shown"]

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
NOTHING = ("none", "null")

_UNKNOWN = (Any, None)


class _Unfit(ValueError):
    """The text is not of the kind; the message says what would be."""


def convert(text: str, kind: Any, *, name: str) -> Any:
    """`text` as a value of the annotation `kind` (None or Any: guessed). Raises UsageError naming the option `name`."""
    try:
        return _converted(text, kind)
    except _Unfit as unfit:
        raise UsageError(f"{name} {text!r}: {unfit}") from None


def kind_shown(kind: Any) -> str:
    """How a kind is written in help: `INT`, `a|b`, `JSON`."""
    if kind in _UNKNOWN:
        return "VALUE"
    origin = get_origin(kind)
    if origin is Literal:
        return "|".join(str(value) for value in get_args(kind))
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(kind_shown(part) for part in get_args(kind) if part is not type(None)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(kind.__members__)
    return _NAMES.get(kind, "JSON")


def _converted(text: str, kind: Any) -> Any:
    if kind in _UNKNOWN:
        return _guessed(text)
    origin = get_origin(kind)
    if origin is Literal:
        return _literal(text, get_args(kind))
    if origin in (Union, types.UnionType):
        return _union(text, get_args(kind))
    if kind in _SIMPLE:
        return _SIMPLE[kind](text)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _member(text, kind)
    return _json(text, kind)


def _guessed(text: str) -> Any:
    """A parameter without annotation: JSON where it is JSON, else the text itself."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _Unfit("it must be a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _Unfit("it must be a number") from None
    if math.isnan(value):
        raise _Unfit("it must be a number, and nan is none")
    return value


def _truth(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise _Unfit("it must be true or false")


def _file(text: str) -> File:
    if not os.path.isfile(text):
        raise _Unfit(f"there is no such file in {os.getcwd()}")
    return File(text)


def _nothing(text: str) -> None:
    if text.lower() not in NOTHING:
        raise _Unfit("it must be none")


def _literal(text: str, values: tuple[Any, ...]) -> Any:
    for value in values:
        if text == str(value):
            return value
    raise _Unfit(f"it must be one of {', '.join(str(value) for value in values)}")


def _member(text: str, kind: type[enum.Enum]) -> enum.Enum:
    if text in kind.__members__:
        return kind[text]
    for member in kind:
        if text == str(member.value):
            return member
    raise _Unfit(f"it must be one of {', '.join(kind.__members__)}")


def _union(text: str, kinds: tuple[Any, ...]) -> Any:
    """The first kind that fits; text, which fits all, is tried last."""
    refusals: list[str] = []
    for kind in sorted(kinds, key=lambda kind: (kind in (str, Path), kind is not type(None))):
        try:
            return _converted(text, kind)
        except _Unfit as unfit:
            refusals.append(str(unfit))
    raise _Unfit(", or ".join(dict.fromkeys(refusals)))


def _json(text: str, kind: Any) -> Any:
    try:
        if isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType):
            raise TypeError(kind)
        return msgspec.json.decode(text, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise _Unfit(f"{str(error)[0].lower()}{str(error)[1:]}") from None
    except msgspec.DecodeError:
        raise _Unfit("it must be JSON, such as '[1, 2]' or '{\"a\": 1}'") from None
    except (TypeError, NotImplementedError):
        shown = getattr(kind, "__name__", str(kind))
        raise _Unfit(f"a {shown} cannot be given on a command line; call run() from Python") from None


_SIMPLE: dict[Any, Callable[[str], Any]] = {
    int: _whole,
    float: _number,
    bool: _truth,
    str: str,
    Path: Path,
    os.PathLike: Path,
    File: _file,
    type(None): _nothing,
}
_NAMES: dict[Any, str] = {
    int: "INT",
    float: "NUMBER",
    bool: "true|false",
    str: "TEXT",
    Path: "PATH",
    os.PathLike: "PATH",
    File: "FILE",
}
