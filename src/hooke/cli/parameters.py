"""Parameters of pipelines and of services' `setup` as command-line options, converted to their annotations."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from hooke.base.annotations import (
    FALSE,
    NOTHING,
    TRUE,
    Unfit,
    annotations_of,
    from_plain,
    from_texts,
    is_flag,
    is_repeated,
    kind_of_default,
    kind_shown,
)
from hooke.base.errors import ConfigError, UsageError
from hooke.base.formats import did_you_mean, short_repr
from hooke.base.yaml_text import parse_yaml
from hooke.cli.options import TYPED, options_of_command
from hooke.models.registry_protocol import parse_wanted
from hooke.pipeline.arguments import unbind
from hooke.pipeline.pipeline import Pipeline
from hooke.project.folder import Project
from hooke.project.settings import FILE, refuse_unknown

if TYPE_CHECKING:
    from hooke.serving.service import Service

__all__ = ["Option", "Parameters", "bindings", "convert", "convert_all", "kind_shown", "read_params"]


def convert(text: str, kind: Any, *, name: str) -> Any:
    """`text` as a value of the annotation `kind` (None or Any: guessed). Raises UsageError, which mentions `name`."""
    return convert_all([text], kind, name=name)


def convert_all(texts: Sequence[str], kind: Any, *, name: str) -> Any:
    """As `convert`, for an option that may be repeated."""
    try:
        return from_texts(texts, kind)
    except Unfit as unfit:
        raise UsageError(f"{name} {' '.join(map(repr, texts))}: {unfit}") from None


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
    from hooke.services.reload.reloader import (
        snapshot,
    )  # not at the start of `hooke run`, which serves nothing

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
        return from_plain(value, kind)
    except UsageError as error:
        raise ConfigError(f"{key}: {error.what}", fix=error.fix) from error
    except Unfit as error:
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
    from hooke.serving.service import SETUP  # imports asyncio, a tenth of the start of `hooke run`

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


# --- A file of parameters.


def read_params(path: Path) -> dict[str, Any]:
    """Parameter -> value, from a TOML, YAML or JSON file. Raises UsageError, which names the file."""
    readers = {".toml": _toml, ".json": msgspec.json.decode, ".yaml": parse_yaml, ".yml": parse_yaml}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"--params {path}: a file of parameters ends in .toml, .yaml, .yml or .json", fix="rename it"
        )
    try:
        found = read(path.read_bytes())
    except OSError as error:
        near = get_close_matches(path.name, [each.name for each in _siblings(path)], n=1)
        fix = f"did you mean {path.parent / near[0]}?" if near else ""
        raise UsageError(f"--params {path}: {error.strerror}", where=os.getcwd(), fix=fix) from None
    except ValueError as error:  # of each of the three, and of bytes that are no UTF-8
        kind = path.suffix.lstrip(".").upper().replace("YML", "YAML")
        raise UsageError(f"--params {path} is not valid {kind}", why=str(error)) from None
    if found is None and path.suffix.lower() in (".yaml", ".yml"):
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(
            f"--params {path} must hold parameters by name, such as months = 3 (TOML) or months: 3 (YAML)"
        )
    return found


def _siblings(path: Path) -> list[Path]:
    return (
        [each for each in path.parent.iterdir() if each.suffix == path.suffix] if path.parent.is_dir() else []
    )


def _toml(data: bytes) -> Any:
    return tomllib.loads(data.decode())


# --- Parameters of a pipeline.


class Option(msgspec.Struct, frozen=True, kw_only=True):
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
        return names + [f"--no-{flag[2:]}" for flag in names] if is_flag(self.kind) else names


class Parameters:
    """The pipeline's options of `hooke VERB FILE`. `target` is FILE as typed, for messages."""

    def __init__(self, pipeline: Pipeline[..., Any], *, target: str, verb: str = "run") -> None:
        self.pipeline = pipeline
        self.target = target
        self.verb = verb
        self.signature = pipeline.signature
        self._tokens: tuple[str, ...] = ()
        self.given: frozenset[str] = frozenset()
        """The parameters that the last `parse` found."""
        hints = annotations_of(pipeline.function)
        parameters = self.signature.parameters.values()
        others = [parameter.name for parameter in parameters if parameter.kind is Parameter.VAR_KEYWORD]
        self.takes_any = bool(others)
        self._kind_of_others = hints.get(others[0]) if others else None
        self.options = [
            _option(parameter, hints.get(parameter.name))
            for parameter in parameters
            if parameter.kind is not Parameter.VAR_KEYWORD
        ]

    def parse(
        self, tokens: Sequence[str], file: Path | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments for the pipeline, from the command line and from a file of parameters, which it overrides.

        Raises UsageError with the parameter and the valid ones.
        """
        try:
            return self._parsed(list(tokens), file)
        except UsageError as error:
            error.next = error.next or shlex.join(["hooke", self.verb, self.target, "--help"])
            raise

    def refuse_shared(self, ctx: click.Context) -> None:
        """Raise UsageError for an option of the command that is a parameter, too, unless `parse` found that parameter."""
        spelt = {spelling: option for option in self.options for spelling in option.spellings()}
        for parameter in ctx.command.params:
            typed = ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
            shared = [name for name in parameter.opts if name in spelt]
            if typed and shared and spelt[shared[0]].name not in self.given:
                raise UsageError(
                    f"{shared[0]} is an option of hooke {self.verb}, and a parameter of pipeline {self.pipeline.name!r}",
                    where=self.target,
                    fix=f"give the parameter after --, as in hooke {self.verb} {self.target} -- {shared[0]} ...",
                )

    def rows(self) -> list[tuple[str, str]]:
        """(option, description), for help."""
        return [
            (str(option), "required" if option.required else f"default: {short_repr(option.default)}")
            for option in self.options
        ]

    def _parsed(self, rest: list[str], file: Path | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._tokens = tuple(rest)
        values, others = self._in_file(file) if file is not None else ({}, {})
        texts: dict[tuple[str, str], list[str]] = {}
        options: dict[str, Option] = {}
        while rest:
            token = rest.pop(0)
            flag, has_value, value = token.partition("=")
            found = self._option(token, flag)
            option = found or Option(name=flag[2:].replace("-", "_"), kind=self._kind_of_others)
            options[option.name] = option
            text = self._text(option, flag, value if has_value else None, rest)
            texts.setdefault((option.name, "" if found is not None else flag), []).append(text)
        for (name, flag), given in texts.items():
            option = options[name]
            if len(given) > 1 and not is_repeated(option.kind):
                raise UsageError(f"{flag or option.flag} is given twice", fix=self._valid())
            made = convert_all(given, option.kind, name=flag or option.flag)
            (others if flag else values)[name] = made
        self.given = frozenset(values) | frozenset(others)
        self._check_missing(values)
        return self._bound(values, others)

    def _in_file(self, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of a file of parameters: of the pipeline's own, and of others that go to its `**`."""
        known = {option.name: option for option in self.options}
        values: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key, value in read_params(file).items():
            name = key if key in known else key.replace("-", "_")
            if name not in known and not self.takes_any:
                raise UsageError(
                    f"pipeline {self.pipeline.name!r} has no parameter {key}",
                    where=str(file),
                    fix=did_you_mean(name, known) + self._valid(),
                )
            kind = known[name].kind if name in known else self._kind_of_others
            try:
                (values if name in known else others)[name] = from_plain(value, kind)
            except Unfit as unfit:
                raise UsageError(f"{key} = {short_repr(value)}: {unfit}", where=str(file)) from None
        return values, others

    def _option(self, token: str, flag: str) -> Option | None:
        """The option of `flag`; None if it goes to the pipeline's `**`."""
        if not flag.startswith("--"):
            meant = did_you_mean(f"--{token.lstrip('-')}", [option.flag for option in self.options])
            raise UsageError(
                f"unexpected argument {token!r}: pass a pipeline's parameters by name",
                fix=meant + self._valid(),
            )
        by_spelling = {spelling: option for option in self.options for spelling in option.spellings()}
        if flag in by_spelling:
            return by_spelling[flag]
        if self.takes_any:
            return None
        near = get_close_matches(
            flag, [*(option.flag for option in self.options), *options_of_command()], n=1
        )
        meant = f"did you mean {near[0]}? " if near else ""
        words = self._words()
        fixed = [near[0] + each[len(flag) :] if near and each == token else each for each in words]
        raise UsageError(
            f"pipeline {self.pipeline.name!r} has no parameter {flag}",
            where=self.target,
            fix=meant + self._valid(),
            next=shlex.join(["hooke", self.verb, *fixed]) if near else "",
        )

    def _words(self) -> list[str]:
        """The words after the verb, as typed if the command keeps them."""
        context = click.get_current_context(silent=True)
        before, after = context.meta.get(TYPED, ([], [])) if context is not None else ([], [])
        return [*before, *after] or [self.target, *self._tokens]

    def _text(self, option: Option, flag: str, text: str | None, rest: list[str]) -> str:
        """The value of an option as typed; of a flag, `true` or `false`."""
        if not is_flag(option.kind):
            return text if text is not None else _next(rest, flag, kind_shown(option.kind))
        negated = flag not in (option.flag, f"--{option.name}")
        if text is None:
            words = (*TRUE, *FALSE, *(NOTHING if option.kind is not bool else ()))
            given = bool(rest) and not negated and rest[0].lower() in words
            text = rest.pop(0) if given else "true"
        return str(not convert(text, bool, name=flag)) if negated else text

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
    if kind is None:
        kind = kind_of_default(parameter.default)
    return Option(name=parameter.name, kind=kind, default=parameter.default)
