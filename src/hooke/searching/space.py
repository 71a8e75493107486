"""The space of a search in plain Python, its translation to Optuna, and the checked request for a search.

{"depth": (2, 12), "rate": loguniform(1e-4, 1e-1), "width": range(16, 129, 16), "kind": ["forest", "linear"]}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.formats import short_repr
from hooke.keys.fingerprint import fingerprint_code, fingerprint_value
from hooke.keys.fingerprint_parts import combine
from hooke.pipeline.arguments import bind_call
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import Task

__all__ = [
    "Choice",
    "Dimension",
    "Number",
    "SearchOrder",
    "loguniform",
    "parse_order",
    "parse_space",
    "values_of",
]


VOCABULARY = "(low, high), loguniform(low, high), range(low, high, step), or a list of choices"


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A range in which each decade is equally likely. `loguniform` makes it."""

    low: float
    high: float

    def __repr__(self) -> str:
        return f"loguniform({self.low!r}, {self.high!r})"


def loguniform(low: float, high: float) -> LogUniform:
    """For the space of a search: numbers from `low` to `high`, each decade equally likely. Whole numbers if both are.

    Raises UsageError unless 0 < low <= high.
    """
    if not (_is_number(low) and _is_number(high) and 0 < low <= high and math.isfinite(high)):
        raise UsageError(
            f"loguniform({low!r}, {high!r}) is not valid", fix="give two numbers with 0 < low <= high"
        )
    return LogUniform(low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number from `low` to `high`, inclusive; a whole number may have a step."""

    low: float
    high: float
    whole: bool
    step: int = 1
    log: bool = False

    def value(self, asked: float) -> Any:
        """The task's argument for Optuna's value."""
        return int(asked) if self.whole else float(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of several values of any type, which Optuna knows by index."""

    values: tuple[Any, ...]

    def value(self, asked: float) -> Any:
        """The task's argument for Optuna's value."""
        return self.values[int(asked)]


Dimension = Number | Choice


def parse_space(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """The dimensions by parameter. Raises UsageError, which names the parameter, for an invalid one."""
    if not isinstance(space, Mapping) or not space:
        raise UsageError(
            f"a space is a dict of parameters, not {short_repr(space)}",
            fix=f"write for example {{'depth': (2, 12)}}; valid: {VOCABULARY}",
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
        f"the space of {name!r} is not valid: {short_repr(given)}",
        fix=f"valid: {VOCABULARY}; pass fixed parameters as arguments of search()",
    )


def _interval(name: str, low: float, high: float) -> Number:
    if not low <= high or not math.isfinite(low) or not math.isfinite(high):
        raise UsageError(
            f"the space of {name!r} goes from {low!r} to {high!r}", fix="give (low, high) with low <= high"
        )
    return Number(low=low, high=high, whole=isinstance(low, int) and isinstance(high, int))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def values_of(space: Mapping[str, Dimension], asked: Mapping[str, float]) -> dict[str, Any]:
    """The task's arguments."""
    return {name: dimension.value(asked[name]) for name, dimension in space.items()}


# --- The request for a search, checked, and its key.


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOrder:
    """A checked request for a search."""

    pipeline: Pipeline[..., Any]
    target: Pipeline[..., Any] | Task[..., Any]
    space: Mapping[str, Dimension]
    shown: Mapping[str, str]
    """Parameter -> its space as short text."""
    fixed: Mapping[str, Any]
    trials: int
    metric: str
    direction: str
    sampler: Any
    pruner: Any
    seed: int

    def key(self) -> str:
        """Calls with equal keys are one search. Numbers of trials and workers, and the backend, are not part of the key. Raises NotFingerprintable."""
        numbers = {name: repr(each) for name, each in self.space.items() if isinstance(each, Number)}
        choices = {name: list(each.values) for name, each in self.space.items() if isinstance(each, Choice)}
        how = (self.metric, self.direction, _name(self.sampler), _name(self.pruner), self.seed)
        asked = {"numbers": numbers, "choices": choices, "parameters": dict(self.fixed), "how": how}
        return combine(
            "search", fingerprint_code(self.target).key, fingerprint_value(asked, where="search()")
        )


def parse_order(target: Any, space: Mapping[str, Any], fixed: Mapping[str, Any], **given: Any) -> SearchOrder:
    """Check a request. Raises UsageError for an invalid target or option, and for unknown parameters."""
    if not isinstance(target, (Pipeline, Task)):
        raise UsageError(
            f"search() takes a task or a pipeline, not {type(target).__name__} {getattr(target, '__name__', '')}".rstrip(),
            fix="decorate the function with @task, or with @pipeline if it calls tasks",
        )
    if type(given["trials"]) is not int or given["trials"] < 1:
        raise UsageError(f"trials={given['trials']!r} is not valid", fix="give the number of trials, from 1")
    if type(given["seed"]) is not int:
        raise UsageError(f"seed={given['seed']!r} is not valid", fix="give a whole number")
    if given["pruner"] != "none" and not given["metric"]:
        raise UsageError(
            "a pruner needs a metric that trials log",
            fix="pass metric='auc', and call log_metric('auc', value, step) in the task",
        )
    dimensions = parse_space(space)
    twice = sorted(dimensions.keys() & fixed.keys())
    if twice:
        raise UsageError(
            f"{twice[0]!r} is both in the space and given as {short_repr(fixed[twice[0]])}",
            fix="remove one of them",
        )
    kind = "pipeline" if isinstance(target, Pipeline) else "task"
    bind_call(f"{kind} {target.name!r}", target.signature, (), {**fixed, **dimensions})
    pipeline = target if isinstance(target, Pipeline) else Pipeline(_trial_of(target), name=target.name)
    texts = {name: short_repr(value) for name, value in space.items()}
    return SearchOrder(pipeline=pipeline, target=target, space=dimensions, shown=texts, fixed=fixed, **given)


def _trial_of(task: Task[..., Any]) -> Callable[..., Any]:
    """A pipeline's body that calls one task."""

    def trial(*args: Any, **kwargs: Any) -> Any:
        return task(*args, **kwargs)

    trial.__signature__ = task.signature  # type: ignore[attr-defined]
    trial.__name__ = trial.__qualname__ = task.name
    return trial


def _name(given: Any) -> str:
    return given if isinstance(given, str) else type(given).__qualname__
