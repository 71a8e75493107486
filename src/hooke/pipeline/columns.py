"""The iterables of `.map`: kept as they are where they can be sliced, listed where not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hooke.base.errors import HookeError, UsageError
from hooke.pipeline.frames import user_place
from hooke.pipeline.promise import MapPromise, Promise

__all__ = ["as_columns", "check_lengths"]


def as_columns(task: str, iterables: Sequence[Any], constants: Mapping[str, Any]) -> list[Any]:
    """One column an iterable: a list, tuple, range, NumPy array, or promise of a list.

    Generators and other iterables are listed; a promise of a tuple of known length becomes its parts.
    Raises UsageError for no iterable, and for one that cannot be iterated or never ends.
    """
    if not iterables:
        given = f" (it got the keyword {next(iter(constants))!r} only)" if constants else ""
        raise UsageError(
            f"{task}.map got nothing to go over{given}",
            where=str(user_place()),
            mend="give the items by position, as in task.map(items, same_for_all=1): keywords are the same for every item",
        )
    return [_as_column(task, iterable) for iterable in iterables]


def check_lengths(task: str, lengths: Sequence[int]) -> None:
    """Raise UsageError unless the lengths are equal."""
    if len(set(lengths)) > 1:
        raise UsageError(
            f"{task}.map got iterables of different lengths: {', '.join(map(str, lengths))}",
            where=str(user_place()),
            mend="give iterables of equal length; what is the same for every item goes in as a keyword",
        )


def _as_column(task: str, iterable: Any) -> Any:
    if isinstance(iterable, MapPromise):
        return iterable
    if isinstance(iterable, Promise):
        return iterable if iterable.hooke_shape is None else list(iterable)
    if type(iterable) in {list, tuple, range} or _is_array(iterable):
        return iterable
    if _is_endless(iterable):
        raise UsageError(
            f"{task}.map got {iterable!r}, which never ends",
            where=str(user_place()),
            mend="give a list or a range; what is the same for every item goes in as a keyword",
        )
    return _listed(task, iterable)


def _listed(task: str, iterable: Any) -> list[Any]:
    try:
        iterator = iter(iterable)
    except TypeError as error:
        if isinstance(error, HookeError):
            raise
        raise UsageError(
            f"{task}.map got {_short(iterable)}, which cannot be iterated",
            where=str(user_place()),
            mend="give a list, range, array or generator; what is the same for every item goes in as a keyword",
        ) from None
    return list(iterator)


def _is_array(value: object) -> bool:
    """Whether it is a NumPy array of one dimension or more; NumPy is not imported to find out."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.ndim > 0


def _is_endless(value: object) -> bool:
    if isinstance(value, itertools.repeat):
        try:
            value.__length_hint__()  # not operator.length_hint: that takes the error for 0
        except TypeError:
            return True
    return isinstance(value, (itertools.count, itertools.cycle))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
