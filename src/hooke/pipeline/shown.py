"""Values as short text, for listings and messages: shapes of big things, never their contents."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["shown", "shown_call", "shown_parameters"]

_LONGEST = 60

_BRIEF = (int, float, bool, type(None))

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _LONGEST
_repr.maxlist = _repr.maxtuple = _repr.maxset = _repr.maxdict = 4
_repr.maxlevel = 2


def shown(value: Any) -> str:
    """`value` in at most about 60 characters; never raises, whatever its `__repr__` does."""
    if type(value) in _BRIEF and (type(value) is not int or -1 << 63 <= value < 1 << 63):
        return repr(value)
    try:
        text = _text_of(value)
    except Exception:  # noqa: BLE001 - a user's property, or Python's own refusal to print an enormous number
        text = f"<{type(value).__name__}>"
    # In a trace a promise says that it has not run; here that is no news.
    return text.replace("\n", " ").replace(", not run yet>", ">")[: 2 * _LONGEST]


def _text_of(value: Any) -> str:
    shape = getattr(type(value), "shape", None) is not None and getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__}{shape}"
    return _repr.repr(value)


def shown_call(arguments: Mapping[str, Any]) -> str:
    """Arguments as they would be written in a call: `month=3, depth=6`."""
    return ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())


def shown_parameters(args: Sequence[Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a pipeline as short text, by name or position."""
    positional = {f"[{at}]": shown(value) for at, value in enumerate(args)}
    return positional | {name: shown(value) for name, value in params.items()}
