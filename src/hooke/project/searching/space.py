"""The space of a search, in plain Python: what each parameter may be, and how Optuna's words for it are the user's values.

{"depth": (2, 12), "rate": loguniform(1e-4, 1e-1), "width": range(16, 129, 16), "kind": ["forest", "linear"]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hooke.base.errors import UsageError
from hooke.pipeline.shown import shown

__all__ = ["Choice", "Dimension", "LogUniform", "Number", "loguniform", "parse_space", "values_of"]

VOCABULARY = "(low, high), loguniform(low, high), range(low, high, step), or a list of choices"


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A range of which each decade is as likely as another. `loguniform` makes it."""

    low: float
    high: float

    def __repr__(self) -> str:
        return f"loguniform({self.low!r}, {self.high!r})"


def loguniform(low: float, high: float) -> LogUniform:
    """In the space of a search: numbers from `low` to `high`, each decade as likely as another. Whole numbers if both are.

    Raises UsageError where they are not 0 < low <= high.
    """
    if not (_is_number(low) and _is_number(high) and 0 < low <= high and math.isfinite(high)):
        raise UsageError(f"loguniform({low!r}, {high!r})", mend="give two numbers, 0 < low <= high")
    return LogUniform(low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number from `low` to `high`, both included; whole, and then maybe in steps."""

    low: float
    high: float
    whole: bool
    step: int = 1
    log: bool = False

    def value(self, asked: float) -> Any:
        """What the task gets for what Optuna asked."""
        return int(asked) if self.whole else float(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the values. Optuna knows them by number: they may be anything."""

    values: tuple[Any, ...]

    def value(self, asked: float) -> Any:
        """What the task gets for what Optuna asked."""
        return self.values[int(asked)]


Dimension = Number | Choice


def parse_space(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """By parameter. Raises UsageError, naming the parameter, for what is no range and no list."""
    if not isinstance(space, Mapping) or not space:
        raise UsageError(
            f"a space is a dict of parameters, not {shown(space)}",
            mend=f"as {{'depth': (2, 12)}}; valid are {VOCABULARY}",
        )
    return {str(name): _dimension(str(name), given) for name, given in space.items()}


def _dimension(name: str, given: Any) -> Dimension:
    if isinstance(given, LogUniform):
        whole = isinstance(given.low, int) and isinstance(given.high, int)
        return Number(low=given.low, high=given.high, whole=whole, log=True)
    if isinstance(given, range) and len(given):
        low, high = sorted((given[0], given[-1]))
        return Number(low=low, high=high, whole=True, step=abs(given.step))
    if isinstance(given, tuple) and len(given) == 2 and all(map(_is_number, given)):
        return _interval(name, *given)
    if isinstance(given, list) and given:
        return Choice(values=tuple(given))
    raise UsageError(
        f"the space of {name!r} is {shown(given)}",
        mend=f"valid are {VOCABULARY}; what does not vary is a parameter of search() itself",
    )


def _interval(name: str, low: float, high: float) -> Number:
    if not low <= high or not math.isfinite(low) or not math.isfinite(high):
        raise UsageError(
            f"the space of {name!r} goes from {low!r} to {high!r}", mend="give (low, high), low <= high"
        )
    return Number(low=low, high=high, whole=isinstance(low, int) and isinstance(high, int))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def values_of(space: Mapping[str, Dimension], asked: Mapping[str, float]) -> dict[str, Any]:
    """What the task gets."""
    return {name: dimension.value(asked[name]) for name, dimension in space.items()}
