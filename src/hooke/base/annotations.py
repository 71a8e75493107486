"""Values of annotated parameters: from text as people type it, from TOML, YAML or JSON, and the check of values given in Python."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import math
import os
import re
import types
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import partial
from inspect import Parameter, Signature
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean, short_repr
from hooke.base.units import parse_seconds
from hooke.base.user_code import user_place

__all__ = [
    "FALSE",
    "NOTHING",
    "TRUE",
    "Unfit",
    "annotations_of",
    "check_arguments",
    "from_plain",
    "from_text",
    "from_texts",
    "is_flag",
    "is_repeated",
    "kind_of_default",
    "kind_shown",
]


TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
NOTHING = ("none", "null")

READER = "__hooke_text__"
"""A class's own way to read text: a class method, whose ValueError says what is valid."""

_UNKNOWN = (Any, None, object, Parameter.empty)
_UNIONS = (Union, types.UnionType)
_PLAIN = (bool, int, float, str, enum.Enum, date, time, timedelta, list, tuple, set, frozenset)


class Unfit(ValueError):
    """The value does not have the type; the message says what is valid."""


# --- Annotations.


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its annotation as a type, without those that cannot be evaluated."""
    function = inspect.unwrap(function)
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation is an arbitrary expression
        try:
            found = inspect.get_annotations(function)
        except (TypeError, ValueError):  # a callable object has none
            return {}
        return {name: kind for name, kind in found.items() if isinstance(kind, type)}


def kind_of_default(default: Any) -> Any:
    """The type of a parameter without annotation, from its default; None if that says little."""
    if isinstance(default, PurePath):
        return Path
    return type(default) if isinstance(default, _PLAIN) else None


def kind_shown(kind: Any) -> str:
    """A type as written in help: `INT`, `a|b`, `INT ...` for what can be repeated, `JSON`."""
    kind = _bare(kind)
    if kind in _UNKNOWN:
        return "VALUE"
    if get_origin(kind) is Literal:
        return "|".join(_text_of(value) for value in get_args(kind))
    if get_origin(kind) in _UNIONS:
        return "|".join(dict.fromkeys(map(kind_shown, _without_none(kind))))
    if _is_enum(kind):
        return "|".join(kind.__members__)
    parts = _Parts.of(kind)
    if parts is not None:
        shown = [kind_shown(each) for each in parts.each or (parts.every,)]
        shown = ["JSON" if each.endswith("...") else each for each in shown]
        return " ".join(shown) if parts.each is not None else f"{shown[0]} ..."
    if isinstance(kind, type) and hasattr(kind, READER):
        return kind.__name__.upper()
    return _NAMES.get(kind, "JSON")


def is_flag(kind: Any) -> bool:
    """Whether it is `bool`, or `bool | None`: an option that needs no value."""
    return _without_none(_bare(kind)) == [bool]


def is_repeated(kind: Any) -> bool:
    """Whether `--x 1 --x 2` gives one value: a list, tuple or set, or one of several types is."""
    return any(_Parts.of(each) is not None for each in _without_none(_bare(kind)))


def _bare(kind: Any) -> Any:
    """The type behind a NewType, an alias, a TypeVar."""
    while True:
        if isinstance(kind, NewType):
            kind = kind.__supertype__
        elif isinstance(kind, TypeVar):
            kind = kind.__bound__ or Any
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        elif get_origin(kind) in (typing.Final, typing.ClassVar, typing.Annotated):
            kind = get_args(kind)[0]
        else:
            return Any if isinstance(kind, str | typing.ForwardRef | typing.ParamSpec) else kind


def _without_none(kind: Any) -> list[Any]:
    """The types of a union, without None; the type itself if it is no union."""
    parts = get_args(kind) if get_origin(kind) in _UNIONS else (kind,)
    return [_bare(each) for each in parts if each is not type(None)]


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


_BUILDERS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    deque: deque,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_LISTED = (list, tuple, set, frozenset)
_CONTAINERS = (list, tuple, set, frozenset, deque, range, str)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class _Parts(msgspec.Struct, frozen=True):
    """A list, tuple or set: how it is made of a list, and the type of `every` item, or of `each` of a tuple of known length."""

    build: Callable[[list[Any]], Any]
    every: Any = Any
    each: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, kind: Any) -> _Parts | None:
        """Of a type; None if it is another one."""
        origin = get_origin(kind) or kind
        try:
            build = _BUILDERS.get(origin)
        except TypeError:  # not hashable
            return None
        if build is None:
            return None
        args = get_args(kind)
        if origin is tuple and args and args[-1] is not ...:
            return cls(build, each=args)
        return cls(build, every=args[0] if args else Any)

    def kinds(self, count: int) -> tuple[Any, ...]:
        """The types of `count` items. Raises Unfit if there are too many or too few."""
        if self.each is None:
            return (self.every,) * count
        if count != len(self.each):
            raise Unfit(f"it must be {len(self.each)} values, not {count}")
        return self.each


# --- From text, as typed on a command line.


def from_texts(texts: Sequence[str], kind: Any) -> Any:
    """The value of an option that was given once or, if `is_repeated(kind)`, several times. Raises Unfit."""
    if len(texts) == 1:
        return from_text(texts[0], kind)
    refusals = []
    for each in _without_none(_bare(kind)):
        parts = _Parts.of(each)
        if parts is None:
            continue
        try:
            kinds = parts.kinds(len(texts))
            return parts.build(
                [_item(from_text, *pair) for pair in zip(range(len(texts)), texts, kinds, strict=True)]
            )
        except Unfit as unfit:
            refusals.append(str(unfit))
    raise Unfit(", or ".join(dict.fromkeys(refusals)))


def from_text(text: str, kind: Any) -> Any:
    """The value that `text` stands for (without a type: guessed). Raises Unfit."""
    kind = _bare(kind)
    if kind in _UNKNOWN:
        return _guessed(text)
    if get_origin(kind) is Literal:
        return _literal(text, get_args(kind))
    if get_origin(kind) in _UNIONS:
        return _union(text, kind)
    if _is_enum(kind):
        return _member(text, kind)
    if (read := _simple(kind)) is not None:
        return read(text)
    if (parts := _Parts.of(kind)) is not None:
        return _sequence(text, kind, parts)
    return _json(text, kind)


def _item(read: Callable[[Any, Any], Any], index: int, value: Any, kind: Any) -> Any:
    try:
        return read(value, kind)
    except Unfit as unfit:
        raise Unfit(f"item {index} ({value!r}): {unfit}") from None


def _sequence(text: str, kind: Any, parts: _Parts) -> Any:
    """A list, tuple or set from JSON, or from its only item."""
    if text.lstrip().startswith("["):
        try:
            return _json(text, kind)
        except Unfit:
            if parts.each is not None or not _may_begin_with_bracket(parts.every):
                raise
    if parts.each is not None and len(parts.each) != 1:
        raise Unfit(
            f"it must be {len(parts.each)} values: repeat the option, or write JSON, such as '[1, 2]'"
        )
    try:
        return parts.build([from_text(text, parts.each[0] if parts.each else parts.every)])
    except Unfit as unfit:
        listed = "; repeat the option for several, or write JSON, such as '[1, 2]'"
        raise Unfit(f"{unfit}{listed if ',' in text or ' ' in text else ''}") from None


def _may_begin_with_bracket(kind: Any) -> bool:
    return any(each is str or _Parts.of(each) is not None for each in _without_none(_bare(kind)))


def _guessed(text: str) -> Any:
    """The value for a parameter without annotation: JSON if it parses, else the text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    if (
        re.fullmatch(r"\s*[+-]?\d+(\.\d+)?[eE]\+?\d{1,3}\s*", text)
        and (value := Fraction(text.strip())).denominator == 1
    ):
        return int(value)
    raise Unfit("it must be a whole number")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Unfit("it must be a number") from None
    if math.isnan(value):
        raise Unfit("it must be a number; nan is not allowed")
    return value


def _truth(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise Unfit("it must be true or false")


def _nothing(text: str) -> None:
    if text.lower() not in NOTHING:
        raise Unfit("it must be none")


def _duration(text: str) -> timedelta:
    text = text.strip()
    try:
        seconds = timedelta(seconds=parse_seconds(text.removeprefix("-")))
    except (UsageError, OverflowError):
        raise Unfit(
            'it must be a duration, such as 90s, 1h30m, 2d or "1h 30m"; a number is seconds'
        ) from None
    return -seconds if text.startswith("-") else seconds


def _made(kind: Callable[[str], Any], example: str) -> Callable[[str], Any]:
    """Reads the text by a type, or by its class method."""

    def read(text: str) -> Any:
        try:
            return kind(text.strip())
        except (ValueError, ArithmeticError, InvalidOperation):
            raise Unfit(f"it must be {example}") from None

    return read


def _path(text: str) -> Path:
    return Path(text).expanduser()


_SIMPLE: dict[Any, Callable[[str], Any]] = {
    int: _whole,
    float: _number,
    bool: _truth,
    str: str,
    Path: _path,
    PurePath: _path,
    os.PathLike: _path,
    type(None): _nothing,
    date: _made(date.fromisoformat, "a date, such as 2026-11-28"),
    datetime: _made(
        datetime.fromisoformat, "a date and a time, such as '2026-11-28 09:30' or 2026-11-28T09:30:00Z"
    ),
    time: _made(time.fromisoformat, "a time, such as 09:30 or 09:30:15"),
    timedelta: _duration,
    Decimal: _made(Decimal, "a number, such as 0.10"),
    Fraction: _made(Fraction, "a fraction, such as 1/3"),
    UUID: _made(UUID, "a UUID"),
}
_NAMES: dict[Any, str] = {
    int: "INT",
    float: "NUMBER",
    bool: "true|false",
    str: "TEXT",
    Path: "PATH",
    PurePath: "PATH",
    os.PathLike: "PATH",
    date: "DATE",
    datetime: "DATETIME",
    time: "TIME",
    timedelta: "DURATION",
    Decimal: "NUMBER",
    Fraction: "FRACTION",
    UUID: "UUID",
}


def _simple(kind: Any) -> Callable[[str], Any] | None:
    kind = os.PathLike if get_origin(kind) is os.PathLike else kind
    if isinstance(kind, type) and hasattr(kind, READER):
        return partial(_own_text, kind)
    try:
        return _SIMPLE.get(kind)
    except TypeError:  # not hashable
        return None


def _own_text(kind: Any, text: str) -> Any:
    try:
        return getattr(kind, READER)(text)
    except ValueError as error:
        raise Unfit(str(error)) from None


def _text_of(value: Any) -> str:
    return value.name if isinstance(value, enum.Enum) else str(value)


def _literal(text: str, values: tuple[Any, ...]) -> Any:
    for value in values:
        if text in (_text_of(value), str(value)):
            return value
    if None in values and text.lower() in NOTHING:
        return None
    raise Unfit(f"it must be one of {', '.join(map(_text_of, values))}")


def _member(text: str, kind: type[enum.Enum]) -> enum.Enum:
    """By name, else by value, else by name in other letters."""
    if text in kind.__members__:
        return kind[text]
    alike = [member for name, member in kind.__members__.items() if name.lower() == text.lower()]
    for member in (*(each for each in kind if text == str(each.value)), *alike):
        return member
    values = [str(member.value) for member in kind]
    more = f", or a value: {', '.join(values)}" if values != list(kind.__members__) else ""
    raise Unfit(f"it must be one of {', '.join(kind.__members__)}{more}")


_LAST = (float, bool, str, Path, PurePath, os.PathLike)
"""A union tries these last, in this order: what the others refuse, and text, which is never refused."""


def _union(text: str, kind: Any) -> Any:
    """The value for the first type that fits: None first, text, which always fits, last."""
    kinds = _without_none(kind)
    refusals: list[str] = []
    if len(kinds) < len(get_args(kind)) and text.lower() in NOTHING:
        return None
    for each in sorted(kinds, key=lambda each: _LAST.index(each) + 1 if each in _LAST else 0):
        try:
            # Beside another type, a list is JSON: its only item would be a value of that type.
            return (
                _json(text, each) if len(kinds) > 1 and _Parts.of(each) is not None else from_text(text, each)
            )
        except Unfit as unfit:
            refusals.append(str(unfit))
    raise Unfit(
        ", or ".join(dict.fromkeys(refusals)) + (", or none" if len(kinds) < len(get_args(kind)) else "")
    )


def _json(text: str, kind: Any) -> Any:
    _check_possible(kind)
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        example = "'{\"a\": 1}'" if _Parts.of(kind) is None else "'[1, 2]'"
        raise Unfit(f"it must be JSON, such as {example}") from None
    return _inside(value, kind)


def _check_possible(kind: Any) -> None:
    """Raise Unfit for a class that only Python code can make."""
    if (
        is_dataclass(kind)
        or _is_pydantic(kind)
        or _Parts.of(kind) is not None
        or (get_origin(kind) or kind) in _MAPPINGS
    ):
        return
    try:
        possible = not isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType)
    except (TypeError, NotImplementedError):
        possible = False
    if not possible:
        raise Unfit(f"a {_python_name(kind)} cannot be passed on a command line; call run() from Python")


# --- From plain values: those of TOML, YAML, JSON.


def from_plain(value: Any, kind: Any) -> Any:
    """A value of TOML, YAML or JSON as a value of `kind`; text is read as from a command line. Raises Unfit."""
    return from_text(value, kind) if isinstance(value, str) else _inside(value, kind)


def _inside(value: Any, kind: Any) -> Any:
    """As `from_plain`, for a value that may be inside another: text is not the only item of a list."""
    kind = _bare(kind)
    if kind in _UNKNOWN:
        return value
    if get_origin(kind) in _UNIONS:
        return _inside_union(value, kind)
    if get_origin(kind) is Literal:
        return _inside_literal(value, get_args(kind))
    if (parts := _Parts.of(kind)) is not None:
        return _inside_parts(value, parts)
    if (get_origin(kind) or kind) in _MAPPINGS:
        return _inside_mapping(value, get_args(kind))
    if isinstance(value, str):
        return (
            from_text(value, kind) if _is_enum(kind) or _simple(kind) is not None else _msgspec(value, kind)
        )
    if _is_enum(kind):
        return _inside_member(value, kind)
    if _simple(kind) is not None:
        return _inside_simple(value, get_origin(kind) or kind)
    if isinstance(value, Mapping) and is_dataclass(kind) and isinstance(kind, type):
        return _inside_dataclass(value, kind)
    return _msgspec(value, kind)


def _inside_union(value: Any, kind: Any) -> Any:
    kinds = [type(None) if each is None else each for each in get_args(kind)]
    if not isinstance(value, str):
        for each in kinds:
            if each is not Any and _misfit(value, each, "", exact=True) is None:
                return value
    refusals: list[str] = []
    for each in sorted(kinds, key=lambda each: _LAST.index(each) + 1 if each in _LAST else 0):
        try:
            return _inside(value, each)
        except Unfit as unfit:
            refusals.append(str(unfit))
    raise Unfit(", or ".join(dict.fromkeys(refusals)))


def _inside_literal(value: Any, values: tuple[Any, ...]) -> Any:
    for each in values:
        if type(value) is type(each) and value == each:
            return each
    return _literal(str(value), values)


def _inside_parts(value: Any, parts: _Parts) -> Any:
    if not isinstance(value, _LISTED):
        raise Unfit("it must be a list")
    kinds = parts.kinds(len(value))
    return parts.build(
        [
            _item(_inside, index, each, kind)
            for index, (each, kind) in enumerate(zip(value, kinds, strict=True))
        ]
    )


def _inside_mapping(value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        raise Unfit("it must be JSON of an object, such as '{\"a\": 1}'")
    key_kind, kind = args or (Any, Any)
    made = {}
    for key, each in value.items():
        known = key if key_kind in _UNKNOWN else _inside(key, key_kind)
        try:
            made[known] = _inside(each, kind)
        except Unfit as unfit:
            raise Unfit(f"[{key!r}]: {unfit}") from None
    return made


def _inside_member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        return _member(str(value), kind)


def _inside_simple(value: Any, kind: Any) -> Any:
    """A number, a date of TOML or YAML, or None, where the annotation is one of those."""
    number = type(value) in (int, float) and math.isfinite(value)
    if kind is float and (number or (type(value) is float and math.isinf(value))):
        return float(value)
    if kind is int and number and value == int(value):
        return int(value)
    if kind is timedelta and number:
        return timedelta(seconds=value)
    if kind in (Decimal, Fraction) and number:
        return kind(str(value))
    if kind is datetime and type(value) is date:
        return datetime.combine(value, time())
    exact = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    if (
        exact
        and not (kind is date and isinstance(value, datetime))
        and not (kind is float and math.isnan(value))
    ):
        return value
    if kind is str:
        raise Unfit("it must be text: put it in quotes")
    from_text("none" if value is None else str(value), kind)  # raises, and says what is valid
    raise Unfit(f"it must be {_python_name(kind)}, not {type(value).__name__}")


def _inside_dataclass(value: Mapping[Any, Any], kind: type) -> Any:
    hints = _annotations_of_class(kind)
    known = {each.name: each for each in fields(kind) if each.init}
    for name in value:
        if name not in known:
            raise Unfit(
                f"{kind.__name__} has no field {name!r}: {did_you_mean(str(name), known)}it has {', '.join(known)}"
            )
    lacking = [
        name
        for name, each in known.items()
        if name not in value and each.default is MISSING and each.default_factory is MISSING
    ]
    if lacking:
        raise Unfit(f"{kind.__name__} needs {' and '.join(lacking)}")
    made = {}
    for name, each in value.items():
        try:
            made[name] = _inside(each, hints.get(name))
        except Unfit as unfit:
            raise Unfit(f"{name}: {unfit}") from None
    try:
        return kind(**made)
    except (ValueError, TypeError) as error:  # of its own __post_init__
        raise Unfit(f"{kind.__name__} refuses it: {error}") from error


def _annotations_of_class(kind: type) -> dict[str, Any]:
    """Field -> its annotation, of a class; empty if one cannot be evaluated."""
    try:
        return get_type_hints(kind)
    except Exception:  # noqa: BLE001 - an annotation is an arbitrary expression
        return {}


def _is_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and callable(getattr(kind, "model_validate", None))


def _msgspec(value: Any, kind: Any) -> Any:
    """A value of the types that are left: records of msgspec, attrs, typing and Pydantic."""
    _check_possible(kind)
    if _is_pydantic(kind):
        try:
            return kind.model_validate(value)
        except ValueError as error:
            raise Unfit(f"{kind.__name__} refuses it: {error}") from None
    try:
        return msgspec.convert(value, type=kind, strict=False, dec_hook=lambda each, own: _inside(own, each))
    except msgspec.ValidationError as error:
        raise Unfit(f"{str(error)[0].lower()}{str(error)[1:]}") from None


# --- The check of values given in Python.

_TOWER: dict[Any, tuple[str, ...]] = {
    int: ("__index__",),
    float: ("__float__", "__index__"),
    complex: ("__complex__", "__float__", "__index__"),
}
"""The methods of values that Python takes for such a number."""
MOST_CHECKED = 1000
"""Of a longer list the first so many items are checked: a million take a tenth of a second."""


def check_arguments(
    subject: str, signature: Signature, hints: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    """Raise UsageError for a value that is surely a mistake for its parameter's annotation. `arguments` are those of `bind_call`.

    Whatever code written for the annotation can work with is passed as it is: another number for a number (NumPy's, too; but no float
    for an int), text for a path, a path for text, anything with items for a list, tuple or set, any mapping for a dict, and an object
    of any class for a class. Refused is plain data of another kind: text, None or a list for a number, a number for text, a dict for a
    dataclass. Items of lists, tuples, sets and dicts are checked, too. A default always fits.
    """
    for name, value in arguments.items():
        parameter = signature.parameters[name]
        kind = hints.get(name, Any)
        if value is parameter.default:
            continue
        if parameter.kind is Parameter.VAR_POSITIONAL:
            kind = tuple[kind, ...]
        elif parameter.kind is Parameter.VAR_KEYWORD:
            kind = dict[str, kind]
        if (found := _misfit(value, kind, name)) is not None:
            raise _wrong(subject, name, *found)


def _wrong(subject: str, parameter: str, name: str, value: Any, kind: Any) -> UsageError:
    return UsageError(
        f"{subject}: {name} takes {_python_name(kind)}, not {type(value).__name__}: {short_repr(value)}",
        where=str(user_place()),
        fix=_instead(value, kind) or f"pass a value of that type, or change the annotation of {parameter}",
    )


def _instead(value: Any, kind: Any) -> str:
    """What to pass instead of a value that does not fit, if that can be told."""
    if value is None:
        return f"pass a value, or annotate it as {_python_name(kind)} | None if it may be None"
    if isinstance(value, str) and isinstance(kind, type) and hasattr(kind, READER):
        return f"pass {kind.__name__}({short_repr(value)})"
    if not isinstance(value, (str, int, float, dict)):
        return ""
    try:
        return f"pass {short_repr(from_plain(value, kind))}"
    except (Unfit, UsageError):
        return ""


def _misfit(value: Any, kind: Any, name: str, *, exact: bool = False) -> tuple[str, Any, Any] | None:
    """The first part of the value that does not fit: its place, such as `months[3]`, itself and its type.

    With `exact`, only a value of the type itself fits, as far as `isinstance` tells, and numbers as in Python's numeric tower.
    """
    kind = _bare(kind)
    if kind in _UNKNOWN:
        return None
    origin = get_origin(kind)
    if origin in _UNIONS:
        fits = any(_misfit(value, each, "", exact=exact) is None for each in get_args(kind))
        return None if fits else (name, value, kind)
    if origin is Literal:
        fits = any(
            (type(value) is type(each) or not exact) and _equal(value, each) for each in get_args(kind)
        )
        return None if fits else (name, value, kind)
    if not (_is_one(value, origin or kind) or (not exact and _serves(value, origin or kind))):
        return name, value, kind
    parts = _Parts.of(kind) if isinstance(value, _CONTAINERS) and kind is not str else None
    if parts is not None and parts.each is not None and len(value) != len(parts.each):
        return name, value, kind
    for at, each, own in _checked_parts(value, kind, name, parts):
        if (found := _misfit(each, own, at, exact=exact)) is not None:
            return found
    return None


def _checked_parts(value: Any, kind: Any, name: str, parts: _Parts | None) -> Iterator[tuple[str, Any, Any]]:
    """Place, value and type of the items of a list or dict."""
    args = get_args(kind)
    if type(value) is dict and (get_origin(kind) or kind) in _MAPPINGS and args:
        for key, each in islice(value.items(), MOST_CHECKED):
            yield f"a key of {name}", key, args[0]
            yield f"{name}[{key!r}]", each, args[1]
    if parts is None or (
        parts.each is None and (parts.every in _UNKNOWN or type(value) is parts.every is str)
    ):
        return
    some = list(islice(value, MOST_CHECKED))
    for place, (each, own) in enumerate(zip(some, parts.kinds(len(some)), strict=False)):
        yield f"{name}[{place}]" if isinstance(value, Sequence) else f"an item of {name}", each, own


def _is_one(value: Any, kind: Any) -> bool:
    """Whether the value is one of that class, or of a special form that can be checked; True for other forms."""
    if kind in _TOWER:
        likes = any(hasattr(type(value), way) for way in _TOWER[kind]) and not isinstance(value, str)
        return isinstance(value, kind) or likes
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    if kind is os.PathLike:
        return hasattr(type(value), "__fspath__")
    if typing.is_typeddict(kind):
        return isinstance(value, dict)
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if kind.__module__ == "collections.abc" and kind in _BUILDERS:
        return isinstance(value, kind) or hasattr(type(value), "__iter__")  # arrays are no Sequence to Python
    try:
        return isinstance(value, kind)
    except Exception:  # noqa: BLE001 - a class may decide in code of its own
        return True


_DATA = (*_PLAIN, type(None), bytes, complex, dict, range, Decimal, Fraction, UUID, PurePath)
"""Plain data: surely a mistake for a class that it is not of. Objects of other classes may do what the class does."""


def _serves(value: Any, kind: Any) -> bool:
    """Whether code that was written for the class can work with this value of another one."""
    if kind in _TOWER:
        return _is_one(value, bool)  # that of NumPy, which is no number to Python
    if kind is bool:
        return _is_one(value, int) and (_equal(value, 0) or _equal(value, 1))
    if kind is str:
        return hasattr(type(value), "__fspath__")
    if kind is os.PathLike or issubclass(kind, PurePath):
        return isinstance(value, str) or hasattr(type(value), "__fspath__")
    if kind in _BUILDERS:
        return hasattr(type(value), "__iter__") and not isinstance(value, (str, bytes, Mapping))
    if typing.is_typeddict(kind) or kind in _MAPPINGS:
        return isinstance(value, Mapping) or not isinstance(value, _DATA)
    if _is_enum(kind):
        return any(_equal(value, member) for member in kind)
    if kind in (Decimal, Fraction):
        return _is_one(value, float)
    if kind.__name__ == "ndarray":
        return value is not None and not isinstance(value, (str, bytes, Mapping))
    return not isinstance(value, _DATA)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an array has no truth, and a class compares in code of its own
        return False


def _python_name(kind: Any) -> str:
    """A type as code spells it, without modules: `int | None`."""
    if isinstance(kind, type) and get_origin(kind) is None:
        return kind.__name__
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(kind))
