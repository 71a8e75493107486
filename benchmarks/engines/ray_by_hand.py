"""The same work given to Ray by hand: a task of Ray's each, and ObjectRefs for what passes between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from benchmarks.engines import work
from benchmarks.engines.noops import noop

__all__ = ["RayByHand"]


@dataclass(frozen=True)
class _At:
    """Where a result is among those that the task is given: Ray waits for arguments, not for what lists hold."""

    number: int


@ray.remote
def _call(function: Any, arguments: Any, *results: Any) -> Any:
    args, kwargs = _filled(arguments, results)
    return function(*args, **kwargs)


class RayByHand:
    def __init__(self, _: Any) -> None:
        self._noop: Any = ray.remote(noop.function)

    def flights(self, months: int) -> dict[str, Any]:
        """Ray's refs for promises."""

        def go(each: Any, *args: Any, **kwargs: Any) -> Any:
            refs: list[Any] = []
            arguments = _without(([*args], kwargs), refs)
            return _call.remote(each.function, arguments, *refs)

        wanted = work.flights(go, months)
        return dict(zip(wanted, ray.get(list(wanted.values())), strict=True))

    def noops(self, many: int) -> list[int]:
        return ray.get([self._noop.remote(x) for x in range(many)])


def _without(value: Any, refs: list[Any]) -> Any:
    match value:
        case ray.ObjectRef():
            refs.append(value)
            return _At(len(refs) - 1)
        case list() | tuple():
            return [_without(each, refs) for each in value]
        case dict():
            return {name: _without(each, refs) for name, each in value.items()}
    return value


def _filled(value: Any, results: tuple[Any, ...]) -> Any:
    match value:
        case _At():
            return results[value.number]
        case list():
            return [_filled(each, results) for each in value]
        case dict():
            return {name: _filled(each, results) for name, each in value.items()}
    return value
