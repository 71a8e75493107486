"""Parameters of pipelines and of services' `setup` as command-line options, converted to their annotations."""

from __future__ import annotations

import enum
import inspect
import math
import os
import re
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from hooke.base.errors import ConfigError, UsageError
from hooke.base.formats import short_repr
from hooke.keys.file import File
from hooke.models.registry_protocol import parse_wanted
from hooke.pipeline.arguments import unbind
from hooke.pipeline.pipeline import Pipeline
from hooke.project.folder import Project
from hooke.project.settings import FILE, refuse_unknown
from hooke.services.reload.reloader import snapshot
from hooke.serving.service import SETUP, Service

__all__ = ["Option", "Parameters", "bindings", "convert", "kind_shown"]


# --- Conversion of text to the type of an annotation.

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
NOTHING = ("none", "null")

_UNKNOWN = (Any, None)


class _Unfit(ValueError):
    """The text does not have the type; the message says what is valid."""


def convert(text: str, kind: Any, *, name: str) -> Any:
    """`text` as a value of the annotation `kind` (None or Any: guessed). Raises UsageError, which mentions `name`."""
    try:
        return _converted(text, kind)
    except _Unfit as unfit:
        raise UsageError(f"{name} {text!r}: {unfit}") from None


def kind_shown(kind: Any) -> str:
    """A type as written in help: `INT`, `a|b`, `JSON`."""
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
    """The value for a parameter without annotation: JSON if it parses, else the text."""
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
        raise _Unfit("it must be a number; nan is not allowed")
    return value


def _truth(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise _Unfit("it must be true or false")


def _file(text: str) -> File:
    if not os.path.isfile(text):
        raise _Unfit(f"the file does not exist in {os.getcwd()}")
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
    """The value for the first type that fits; text, which always fits, is tried last."""
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
        raise _Unfit(f"a {shown} cannot be passed on a command line; call run() from Python") from None


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


# --- Parameters of a service's `setup`, from the command line and from `hooke.toml`.

_PLAIN = (str, int, float, bool, Path, type(None), list, tuple, dict, set, frozenset)
"""Parameters of these types take values; parameters of other types take a registered model."""


def bindings(declared: Service, given: Sequence[str], project: Project) -> dict[str, Any]:
    """The values of `--with`, completed from `hooke.toml`; registered models as their parsed names.

    Raises UsageError, which names the option, and ConfigError, which names the key.
    """
    kinds = _kinds(declared)
    bound = _options(given, kinds)
    settings = project.settings.services.get(declared.name)
    if settings is None:
        _refuse_misspelt(declared, project)
    else:
        file, prefix = project.root / FILE, f"services.{declared.name}.with."
        parameters = declared.setup_parameters()
        if all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
            refuse_unknown(file, prefix, settings.given, list(parameters))
        for name, value in settings.given.items():
            if name not in bound:
                bound[name] = _configured(f"{file}: {prefix}{name}", value, kinds.get(name, object))
    return bound


def _refuse_misspelt(declared: Service, project: Project) -> None:
    """Raise ConfigError for a table whose name resembles the service's, unless the project defines a class of that name."""
    tables = {name.lower(): name for name in project.settings.services}
    for near in get_close_matches(declared.name.lower(), tables):
        name = tables[near]
        if not _has_class(project, name):
            raise ConfigError(
                f"{project.root / FILE}: [services.{name}] belongs to no service: no file of the project defines a class {name}",
                fix=f"rename it to [services.{declared.name}.with], or remove it",
            )


def _has_class(project: Project, name: str) -> bool:
    defined = re.compile(rf"^\s*class\s+{re.escape(name)}\b", re.MULTILINE)
    sources = (path for path in snapshot(project.root).stamps if path.suffix == ".py")
    return any(defined.search(path.read_text("utf-8", errors="replace")) for path in sources)


def _configured(key: str, value: Any, kind: Any) -> Any:
    """A value of hooke.toml. Text is read as by `--with`; other values must have the annotated type."""
    try:
        if not _is_plain(kind):
            if not isinstance(value, str):
                raise UsageError(
                    f"{value!r} is not the name of a model", fix='write a text such as "flights@champion"'
                )
            return parse_wanted(value)
        if isinstance(value, str):
            return convert(value, kind, name="the text")
        return msgspec.convert(value, kind)
    except UsageError as error:
        raise ConfigError(f"{key}: {error.what}", fix=error.fix) from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{key} = {value!r} is not of type {kind_shown(kind)}: {error}") from error


def _options(given: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--with {text}: NAME=VALUE expected", fix="write --with model=flights@champion")
        if name in bound:
            raise UsageError(f"--with {name}= is given twice", fix=f"keep one of: {shlex.join(given)}")
        kind = kinds.get(name, object)
        bound[name] = convert(value, kind, name=f"--with {name}") if _is_plain(kind) else parse_wanted(value)
    return bound


def _kinds(declared: Service) -> dict[str, Any]:
    function = getattr(declared.made_by, SETUP, None)
    if function is None:
        return {}
    try:
        return typing.get_type_hints(function)
    except NameError:
        # `model: Model` may be imported for type checkers only; then every name except a builtin means a model.
        return {name: _builtin(kind) for name, kind in function.__annotations__.items()}


def _builtin(kind: Any) -> Any:
    return {"str": str, "int": int, "float": float, "bool": bool}.get(kind, object)


def _is_plain(kind: Any) -> bool:
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, type(int | None)):
        return all(map(_is_plain, parts))
    return (origin or kind) in _PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One parameter: `--test-months` for `test_months`. `kind` is its annotation, None without one."""

    name: str
    kind: Any
    default: Any = Parameter.empty

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is Parameter.empty

    def __str__(self) -> str:
        return f"{self.flag} {kind_shown(self.kind)}"

    def spellings(self) -> list[str]:
        """All names on the command line."""
        names = [self.flag, f"--{self.name}"]
        return names + [f"--no-{flag[2:]}" for flag in names] if self.kind is bool else names


class Parameters:
    """The pipeline's options of `hooke VERB FILE`. `target` is FILE as typed, for messages."""

    def __init__(self, pipeline: Pipeline[..., Any], *, target: str, verb: str = "run") -> None:
        self.pipeline = pipeline
        self.target = target
        self.verb = verb
        self.signature = pipeline.signature
        self._tokens: tuple[str, ...] = ()
        hints = _hints(pipeline)
        parameters = self.signature.parameters.values()
        self.takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
        self.options = [
            _option(parameter, hints.get(parameter.name))
            for parameter in parameters
            if parameter.kind is not Parameter.VAR_KEYWORD
        ]

    def parse(self, tokens: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments for the pipeline. Raises UsageError with the parameter and the valid ones."""
        try:
            return self._parsed(list(tokens))
        except UsageError as error:
            error.next = error.next or shlex.join(["hooke", self.verb, self.target, "--help"])
            raise

    def rows(self) -> list[tuple[str, str]]:
        """(option, description), for help."""
        return [
            (str(option), "required" if option.required else f"default: {short_repr(option.default)}")
            for option in self.options
        ]

    def _parsed(self, rest: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._tokens = tuple(rest)
        values: dict[str, Any] = {}
        others: dict[str, Any] = {}
        while rest:
            token = rest.pop(0)
            flag, has_value, value = token.partition("=")
            option = self._option(token, flag)
            if option is None:
                others[flag[2:].replace("-", "_")] = convert(
                    value if has_value else _next(rest, flag, "VALUE"), None, name=flag
                )
                continue
            if option.name in values:
                raise UsageError(f"{option.flag} is given twice", fix=self._valid())
            values[option.name] = self._value(option, flag, value if has_value else None, rest)
        self._check_missing(values)
        return self._bound(values, others)

    def _option(self, token: str, flag: str) -> Option | None:
        """The option of `flag`; None if it goes to the pipeline's `**`."""
        if not flag.startswith("--"):
            raise UsageError(
                f"unexpected argument {token!r}: pass a pipeline's parameters by name", fix=self._valid()
            )
        by_spelling = {spelling: option for option in self.options for spelling in option.spellings()}
        if flag in by_spelling:
            return by_spelling[flag]
        if self.takes_any:
            return None
        near = get_close_matches(flag, [option.flag for option in self.options], n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        fixed = [near[0] + each[len(flag) :] if near and each == token else each for each in self._tokens]
        raise UsageError(
            f"pipeline {self.pipeline.name!r} has no parameter {flag}",
            where=self.target,
            fix=meant + self._valid(),
            next=shlex.join(["hooke", self.verb, self.target, *fixed]) if near else "",
        )

    def _value(self, option: Option, flag: str, text: str | None, rest: list[str]) -> Any:
        if option.kind is bool:
            negated = flag not in (option.flag, f"--{option.name}")
            if text is None:
                given = bool(rest) and not negated and rest[0].lower() in (*TRUE, *FALSE)
                text = rest.pop(0) if given else "true"
            return convert(text, bool, name=flag) is not negated
        if text is None:
            text = _next(rest, flag, kind_shown(option.kind))
        return convert(text, option.kind, name=flag)

    def _check_missing(self, values: dict[str, Any]) -> None:
        missing = [option for option in self.options if option.required and option.name not in values]
        if missing:
            names = " and ".join(option.flag for option in missing)
            raise UsageError(
                f"pipeline {self.pipeline.name!r} needs {names}",
                where=self.target,
                fix=self._valid(),
                next=f"hooke {self.verb} {shlex.quote(self.target)} {' '.join(str(option) for option in missing)}",
            )

    def _bound(
        self, values: dict[str, Any], others: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """By name if possible, because listings show the names."""
        kinds = {name: parameter.kind for name, parameter in self.signature.parameters.items()}
        by_position = {name for name, kind in kinds.items() if kind is Parameter.POSITIONAL_ONLY}
        if any(kinds[name] is Parameter.VAR_POSITIONAL for name in values):
            return unbind(self.signature, self._in_order(values, others))
        args, _ = unbind(self.signature, {name: values[name] for name in by_position if name in values})
        return args, {name: value for name, value in values.items() if name not in by_position} | others

    def _in_order(self, values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        """All parameters before `*args` filled in, so that its values come after them."""
        arguments: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is Parameter.VAR_KEYWORD:
                arguments[name] = others
            elif name in values or parameter.default is not Parameter.empty:
                arguments[name] = values.get(name, parameter.default)
        return arguments

    def _valid(self) -> str:
        if not self.options:
            return "it takes no parameters"
        return f"its parameters: {', '.join(map(str, self.options))}"


def _next(rest: list[str], flag: str, kind: str) -> str:
    if not rest:
        raise UsageError(f"{flag} needs a value", fix=f"{flag} {kind}")
    return rest.pop(0)


def _option(parameter: Parameter, kind: Any) -> Option:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return Option(name=parameter.name, kind=tuple[kind, ...] if kind is not None else tuple, default=())
    if kind is None and isinstance(parameter.default, bool | int | float | str):
        kind = type(parameter.default)
    return Option(name=parameter.name, kind=kind, default=parameter.default)


def _hints(pipeline: Pipeline[..., Any]) -> dict[str, Any]:
    """Annotations as types, without those that cannot be evaluated."""
    function = inspect.unwrap(pipeline.function)
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation is an arbitrary expression
        return {
            name: kind for name, kind in inspect.get_annotations(function).items() if isinstance(kind, type)
        }
