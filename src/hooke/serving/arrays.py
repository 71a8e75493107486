"""NumPy arrays and JSON: which arrays a JSON value may become, and arrays as JSON."""

from __future__ import annotations

import functools
from typing import Any, get_args, get_origin

import numpy as np

__all__ = ["array_from_json", "cast", "check_rank", "dtype_of", "is_array", "plain", "rank_of"]

_FITS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc", "U": "U"}
"""Kind of the annotated dtype -> kinds that JSON may give for it."""
_SAID = {
    "b": "booleans",
    "i": "whole numbers",
    "u": "whole numbers",
    "f": "numbers",
    "c": "numbers",
    "U": "text",
}


def is_array(annotation: Any) -> bool:
    """Whether it is `np.ndarray`, or `NDArray[...]`."""
    return annotation is np.ndarray or get_origin(annotation) is np.ndarray


def array_from_json(annotation: Any, value: Any) -> np.ndarray:
    """The array of a JSON value, of the annotation's dtype if it names one. Raises ValueError that says what does not fit.

    Nothing is bent: text becomes no number, a fraction no whole number, and a number that is too large none that wraps around.
    """
    if not isinstance(value, list):
        # msgspec makes its own error of a ValueError or TypeError, whichever.
        raise TypeError(f"Expected `array`, got {_shown(value)}")
    try:
        made = np.array(value)
    except (ValueError, OverflowError):
        raise ValueError("Expected rows of one length") from None
    if made.dtype.kind not in "biufU" or (made.dtype.kind == "U" and not _all_text(value)):
        raise ValueError("Expected numbers, or booleans, or text, and one kind only")
    check_rank(made, rank_of(annotation))
    wanted = dtype_of(annotation)
    return made if wanted is None else cast(made, wanted)


def plain(value: Any) -> Any:
    """What msgspec does not encode by itself: arrays and numbers of NumPy, and models of pydantic. Raises TypeError."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def cast(made: np.ndarray, wanted: np.dtype[Any]) -> np.ndarray:
    """The array of numbers, booleans or text as one of the wanted dtype. Raises ValueError that says what does not fit."""
    if made.dtype == wanted:
        return made
    if made.size == 0:
        return made.astype(wanted)
    if made.dtype.kind not in _FITS.get(wanted.kind, ""):
        raise ValueError(
            f"Expected {_SAID.get(wanted.kind, str(wanted))} ({wanted}), got {_SAID[made.dtype.kind]}"
        )
    with np.errstate(over="ignore"):
        bent = made.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(bent, made):
        raise ValueError(f"Expected whole numbers that a {wanted} can hold")
    return bent


def check_rank(made: np.ndarray, rank: int) -> None:
    """Raises ValueError where it has not so many dimensions; 0 means any."""
    if rank and made.ndim != rank:
        raise ValueError(f"Expected an array of {rank} dimension{'s' * (rank > 1)}, got {made.ndim}")


@functools.cache
def rank_of(annotation: Any) -> int:
    """The dimensions of `np.ndarray[tuple[int, int], ...]`; 0 where they are open."""
    arguments = get_args(annotation)
    lengths = get_args(arguments[0]) if arguments else ()
    return 0 if ... in lengths else len(lengths)


@functools.cache
def dtype_of(annotation: Any) -> np.dtype[Any] | None:
    """That of `NDArray[np.float32]`; None where it is open (`np.ndarray`, `NDArray[Any]`, `NDArray[np.floating]`)."""
    arguments = get_args(annotation)
    scalar = get_args(arguments[1]) if len(arguments) > 1 else ()
    if not scalar or not isinstance(scalar[0], type) or scalar[0].__subclasses__():
        return None
    return np.dtype(scalar[0])


def _all_text(value: Any) -> bool:
    """Text alone, and none that NumPy would shorten: it drops zeros at the end."""
    if isinstance(value, (list, tuple)):
        return all(map(_all_text, value))
    return isinstance(value, str) and not value.endswith("\0")


def _shown(value: Any) -> str:
    names = {dict: "`object`", str: "`str`", bool: "`bool`", type(None): "`null`"}
    return names.get(type(value), "a number")
