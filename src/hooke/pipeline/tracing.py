"""The trace that is going on in this context, if any: what a task asks when it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["ACTIVE", "Tracer"]


class Tracer(Protocol):
    """Takes note of calls instead of making them. Each method returns promises."""

    def call(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A task was called."""
        ...

    def map(self, task: Any, iterables: Sequence[Any], constants: Mapping[str, Any]) -> Any:
        """A task was mapped."""
        ...

    def inline(self, pipeline: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A pipeline was called inside another one: its body becomes part of the outer graph."""
        ...


ACTIVE: ContextVar[Tracer | None] = ContextVar("hooke_trace", default=None)
"""None outside a trace, and in threads that a pipeline's body starts: those do not trace."""
