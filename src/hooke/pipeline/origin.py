"""Where a promise comes from, and what is said when something needs the value behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hooke.base.errors import TraceError
from hooke.pipeline.frames import Place, user_place
from hooke.pipeline.shape import Shape

__all__ = ["NoSuchAttributeYet", "Origin", "Session", "no_attribute", "refusal", "shown_path"]

_ATTRIBUTE = (
    "read it inside a task; parts of a tuple, list or dict are taken by result[0] or result['key']; "
    "a task maps over items by task.map(...)"
)


class NoSuchAttributeYet(TraceError, AttributeError):
    """An attribute of a value that does not exist yet. An AttributeError too: tools probe with hasattr and getattr."""


class Session:
    """One tracing of one pipeline; `is_open` while its body runs."""

    __slots__ = ("is_open", "pipeline")

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.is_open = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """The call that a promise comes from: the graph node, its task, the line, and what is known of its result."""

    session: Session
    node: int
    task: str
    place: Place
    shape: Shape | None = None
    """Of the call's result; for a map, of each item."""


def refusal(origin: Origin, path: tuple[Any, ...], needs: str, mend: str) -> TraceError:
    """The error for an operation that needs the value, with the user's line. `needs` completes "pipeline needs ..."."""
    return TraceError(**_told(origin, path, needs, mend))


def no_attribute(origin: Origin, path: tuple[Any, ...], name: str) -> NoSuchAttributeYet:
    """The error for reading the attribute `name`."""
    return NoSuchAttributeYet(**_told(origin, path, f"the attribute {name!r}", _ATTRIBUTE))


def shown_path(path: tuple[Any, ...]) -> str:
    """A path as it is written behind a name: `[0]['key'][1:3]`."""
    return "".join(f"[{_shown_step(step)}]" for step in path)


def _told(origin: Origin, path: tuple[Any, ...], needs: str, mend: str) -> dict[str, str]:
    part = f"part {shown_path(path)} of task {origin.task!r}'s result"
    thing = part if path else f"result of task {origin.task!r}"
    called = f"{origin.task!r} was called at {origin.place.file}:{origin.place.line}"
    return {
        "what": f"pipeline {origin.session.pipeline!r} needs {needs} of the {thing}, which does not exist yet",
        "where": str(user_place()),
        "why": f"a pipeline's body is run once, before its tasks, to draw the graph; {called}",
        "mend": mend,
    }


def _shown_step(step: Any) -> str:
    if not isinstance(step, slice):
        return repr(step)
    text = ":".join("" if bound is None else str(bound) for bound in (step.start, step.stop))
    return text if step.step is None else f"{text}:{step.step}"
