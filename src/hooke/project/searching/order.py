"""What somebody asked to search, checked: the pipeline that a trial runs, the space, the objective, and the key of all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hooke.base.errors import UsageError
from hooke.keys.code import fingerprint_code
from hooke.keys.combine import combine
from hooke.keys.value import fingerprint_value
from hooke.pipeline.binding import bind_call
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.shown import shown
from hooke.pipeline.task import Task
from hooke.project.searching.space import Choice, Dimension, Number, parse_space

__all__ = ["SearchOrder", "parse_order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOrder:
    """A search to be driven."""

    pipeline: Pipeline[..., Any]
    target: Pipeline[..., Any] | Task[..., Any]
    space: Mapping[str, Dimension]
    shown: Mapping[str, str]
    """By parameter, what it may be, as short text."""
    fixed: Mapping[str, Any]
    trials: int
    metric: str
    direction: str
    sampler: Any
    pruner: Any
    seed: int

    def key(self) -> str:
        """Searches of equal key are one. Not of the key: how many trials, how many at once, where. Raises NotFingerprintable."""
        numbers = {name: repr(each) for name, each in self.space.items() if isinstance(each, Number)}
        choices = {name: list(each.values) for name, each in self.space.items() if isinstance(each, Choice)}
        how = (self.metric, self.direction, _name(self.sampler), _name(self.pruner), self.seed)
        asked = {"numbers": numbers, "choices": choices, "parameters": dict(self.fixed), "how": how}
        return combine(
            "search", fingerprint_code(self.target).key, fingerprint_value(asked, where="search()")
        )


def parse_order(target: Any, space: Mapping[str, Any], fixed: Mapping[str, Any], **given: Any) -> SearchOrder:
    """Raises UsageError for what cannot be searched, and for parameters that the task or pipeline has not."""
    if not isinstance(target, (Pipeline, Task)):
        raise UsageError(
            f"search() takes a task or a pipeline, not {type(target).__name__} {getattr(target, '__name__', '')}".rstrip(),
            mend="mark the function with @task, or what composes tasks with @pipeline",
        )
    if type(given["trials"]) is not int or given["trials"] < 1:
        raise UsageError(f"trials={given['trials']!r}", mend="give the number of trials, from 1")
    if type(given["seed"]) is not int:
        raise UsageError(f"seed={given['seed']!r}", mend="give a whole number")
    if given["pruner"] != "none" and not given["metric"]:
        raise UsageError(
            "a pruner needs a metric to look at while a trial goes on",
            mend="metric='auc', and log_metric('auc', value, step) in the task",
        )
    dimensions = parse_space(space)
    twice = sorted(dimensions.keys() & fixed.keys())
    if twice:
        raise UsageError(
            f"{twice[0]!r} is in the space and given as {shown(fixed[twice[0]])}",
            mend="leave one of them out",
        )
    kind = "pipeline" if isinstance(target, Pipeline) else "task"
    bind_call(f"{kind} {target.name!r}", target.signature, (), {**fixed, **dimensions})
    pipeline = target if isinstance(target, Pipeline) else Pipeline(_trial_of(target), name=target.name)
    texts = {name: shown(value) for name, value in space.items()}
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
