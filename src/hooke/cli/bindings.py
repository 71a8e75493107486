"""What a service's `setup` takes, from the command line and from `hooke.toml`."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import ConfigError, UsageError
from hooke.cli.conversion import convert, kind_shown
from hooke.models.names import parse_wanted
from hooke.project.folder import Project
from hooke.project.reloading.files import look
from hooke.project.settings import FILE, refuse_unknown
from hooke.serving.service import SETUP, Service

__all__ = ["bindings"]

_PLAIN = (str, int, float, bool, Path, type(None), list, tuple, dict, set, frozenset)
"""Kinds of parameters that take a value from the command line; any other takes a registered model."""


def bindings(declared: Service, given: Sequence[str], project: Project) -> dict[str, Any]:
    """The values of `--with`, and of `hooke.toml` what these leave open: a `Wanted` for each registered model.

    Raises UsageError naming the option that is wrong, ConfigError naming the key.
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
    """Raise ConfigError for a table of nearly this service's name: of no class that a file of the project has, it is this one's."""
    tables = {name.lower(): name for name in project.settings.services}
    for near in get_close_matches(declared.name.lower(), tables):
        name = tables[near]
        if not _has_class(project, name):
            raise ConfigError(
                f"{project.root / FILE}: [services.{name}] is of no service: no file of the project has a class {name}",
                mend=f"did you mean [services.{declared.name}.with]? else leave it out",
            )


def _has_class(project: Project, name: str) -> bool:
    defined = re.compile(rf"^\s*class\s+{re.escape(name)}\b", re.MULTILINE)
    sources = (path for path in look(project.root).stamps if path.suffix == ".py")
    return any(defined.search(path.read_text("utf-8", errors="replace")) for path in sources)


def _configured(key: str, value: Any, kind: Any) -> Any:
    """A value of hooke.toml. A text is read as `--with` reads it, and anything else must be what is annotated."""
    try:
        if not _is_plain(kind):
            if not isinstance(value, str):
                raise UsageError(f"{value!r} names no model", mend='write a text such as "flights@champion"')
            return parse_wanted(value)
        if isinstance(value, str):
            return convert(value, kind, name="the text")
        return msgspec.convert(value, kind)
    except UsageError as error:
        raise ConfigError(f"{key}: {error.what}", mend=error.mend) from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{key} = {value!r} is not as {kind_shown(kind)}: {error}") from error


def _options(given: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                f"--with {text}: there is no NAME=VALUE in it", mend="write --with model=flights@champion"
            )
        if name in bound:
            raise UsageError(f"--with {name}= is given twice", mend=f"give one of: {shlex.join(given)}")
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
        # `model: Model` may name what is imported for checkers only; then all that is no builtin is a model.
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
