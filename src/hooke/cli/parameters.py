"""A pipeline's parameters as options of `hooke run` and of the verbs like it."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, get_type_hints

from hooke.base.errors import UsageError
from hooke.cli.conversion import FALSE, TRUE, convert, kind_shown
from hooke.pipeline.binding import unbind
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.shown import shown

__all__ = ["Option", "Parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One parameter: `--test-months` for `test_months`. `kind` is its annotation, None for no wish."""

    name: str
    kind: Any
    default: Any = Parameter.empty

    @property
    def flag(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is Parameter.empty

    def __str__(self) -> str:
        return f"{self.flag} {kind_shown(self.kind)}"

    def spellings(self) -> list[str]:
        """Everything that names it."""
        names = [self.flag, f"--{self.name}"]
        return names + [f"--no-{flag[2:]}" for flag in names] if self.kind is bool else names


class Parameters:
    """What `hooke VERB FILE` accepts besides its own options. `target` is the FILE as it was typed, for messages."""

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
        """The positional and keyword arguments for the pipeline. Raises UsageError naming the parameter and the valid ones."""
        try:
            return self._parsed(list(tokens))
        except UsageError as error:
            error.next = error.next or shlex.join(["hooke", self.verb, self.target, "--help"])
            raise

    def rows(self) -> list[tuple[str, str]]:
        """(option, what is to know of it), for help."""
        return [
            (str(option), "required" if option.required else f"default: {shown(option.default)}")
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
                raise UsageError(f"{option.flag} is given twice", mend=self._valid())
            values[option.name] = self._value(option, flag, value if has_value else None, rest)
        self._check_missing(values)
        return self._bound(values, others)

    def _option(self, token: str, flag: str) -> Option | None:
        """The option that `flag` names; None for one that the pipeline's `**` takes."""
        if not flag.startswith("--"):
            raise UsageError(
                f"what is {token!r}? a pipeline's parameters are given by name", mend=self._valid()
            )
        by_spelling = {spelling: option for option in self.options for spelling in option.spellings()}
        if flag in by_spelling:
            return by_spelling[flag]
        if self.takes_any:
            return None
        near = get_close_matches(flag, [option.flag for option in self.options], n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        mended = [near[0] + each[len(flag) :] if near and each == token else each for each in self._tokens]
        raise UsageError(
            f"pipeline {self.pipeline.name!r} has no parameter {flag}",
            where=self.target,
            mend=meant + self._valid(),
            next=shlex.join(["hooke", self.verb, self.target, *mended]) if near else "",
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
                mend=self._valid(),
                next=f"hooke {self.verb} {shlex.quote(self.target)} {' '.join(str(option) for option in missing)}",
            )

    def _bound(
        self, values: dict[str, Any], others: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """By name where that can be, as listings show the names."""
        kinds = {name: parameter.kind for name, parameter in self.signature.parameters.items()}
        by_position = {name for name, kind in kinds.items() if kind is Parameter.POSITIONAL_ONLY}
        if any(kinds[name] is Parameter.VAR_POSITIONAL for name in values):
            return unbind(self.signature, self._in_order(values, others))
        args, _ = unbind(self.signature, {name: values[name] for name in by_position if name in values})
        return args, {name: value for name, value in values.items() if name not in by_position} | others

    def _in_order(self, values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        """All parameters up to `*args` filled in, so that what goes to it stands behind them."""
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
        raise UsageError(f"{flag} lacks its value", mend=f"{flag} {kind}")
    return rest.pop(0)


def _option(parameter: Parameter, kind: Any) -> Option:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return Option(name=parameter.name, kind=tuple[kind, ...] if kind is not None else tuple, default=())
    if kind is None and isinstance(parameter.default, bool | int | float | str):
        kind = type(parameter.default)
    return Option(name=parameter.name, kind=kind, default=parameter.default)


def _hints(pipeline: Pipeline[..., Any]) -> dict[str, Any]:
    """Annotations as types; those that cannot be evaluated are as if they were not there."""
    function = inspect.unwrap(pipeline.function)
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation may be any expression
        return {
            name: kind for name, kind in inspect.get_annotations(function).items() if isinstance(kind, type)
        }
