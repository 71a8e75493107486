"""Arguments and parameters: which value goes to which name, and what to say where that fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, Signature
from typing import Any

from hooke.base.errors import UsageError
from hooke.pipeline.frames import user_place

__all__ = ["bind_call", "bind_map", "signature_of", "unbind"]

_ANYTHING = Signature(
    [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(function: Callable[..., Any]) -> Signature:
    """The signature, or `(*args, **kwargs)` where a function written in C does not tell it."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return _ANYTHING


def bind_call(
    subject: str, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameter -> value, defaults applied; `*args` as a tuple and `**kwargs` as a dict under their own names.

    `subject` names what is called, for the UsageError that says which parameter is wrong.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise _misbound(subject, signature, args, kwargs, error) from None
    bound.apply_defaults()
    return dict(bound.arguments)


def unbind(signature: Signature, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the call that `bind_call` gave `arguments` for."""
    bound = inspect.BoundArguments(signature, dict(arguments))  # type: ignore[arg-type]
    return bound.args, bound.kwargs


def bind_map(
    subject: str, signature: Signature, columns: int, constants: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the parameters that `columns` positional iterables go to, and keyword -> value for the rest.

    An item is called as `function(*items, **keywords)`; the keywords include defaults, but for those of
    positional-only parameters, which cannot be passed so.
    """
    arguments = bind_call(subject, signature, [None] * columns, constants)
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in _POSITIONAL and len(names) < columns:
            names.append(parameter.name)
        elif parameter.kind is Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{index}]" for index in range(columns - len(names))]
    return tuple(names), _keywords(signature, arguments, taken=names)


def _keywords(signature: Signature, arguments: Mapping[str, Any], *, taken: Sequence[str]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in _KEYWORD and name not in taken:
            keywords[name] = arguments[name]
        elif parameter.kind is Parameter.VAR_KEYWORD:
            keywords |= arguments[name]
    return keywords


def _misbound(
    subject: str, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], error: TypeError
) -> UsageError:
    parameters = signature.parameters.values()
    positional = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    keyword = [parameter.name for parameter in parameters if parameter.kind in _KEYWORD]
    unknown = [name for name in kwargs if name not in keyword]
    what = f"{subject}: {error}"
    mend = ""
    if unknown and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        what = f"{subject} has no parameter {unknown[0]!r}"
        near = get_close_matches(unknown[0], keyword, n=1)
        mend = f"did you mean {near[0]}=? " if near else ""
    elif len(args) > len(positional) and not any(p.kind is Parameter.VAR_POSITIONAL for p in parameters):
        what = f"{subject} takes {len(positional)} positional arguments, but got {len(args)}"
    elif twice := [name for name in positional[: len(args)] if name in kwargs]:
        what = f"{subject} got two values for its parameter {twice[0]!r}"
        mend = "give it once, by position or by name; "
    elif missing := _missing(signature, len(args), kwargs):
        what = f"{subject} lacks a value for its parameter{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"
    return UsageError(what, where=str(user_place()), mend=f"{mend}its parameters are {_shown(signature)}")


def _missing(signature: Signature, given: int, kwargs: Mapping[str, Any]) -> list[str]:
    required = [
        parameter
        for index, parameter in enumerate(signature.parameters.values())
        if parameter.default is Parameter.empty
        and parameter.kind in (*_POSITIONAL, *_KEYWORD)
        and not (index < given and parameter.kind in _POSITIONAL)
    ]
    return [parameter.name for parameter in required if parameter.name not in kwargs]


def _shown(signature: Signature) -> str:
    bare = [p.replace(annotation=Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=Signature.empty))
