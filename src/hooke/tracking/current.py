"""Which run this process logs into: said by whoever runs user code, looked up by each call that logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hooke.tracking.tracker import Tracker

__all__ = ["MUTED", "Muted", "active", "current", "enter", "leave", "logging_into"]

_logger = logging.getLogger("hooke")


class Muted:
    """In the place of a tracker where what is logged is meant to be lost: a measurement, a debugger's rerun."""


MUTED = Muted()


_here: ContextVar[Tracker | Muted | None] = ContextVar("hooke_tracker", default=None)
"""Of this thread or coroutine: the serial engine runs several runs' tasks in threads of one process."""
_process: list[Tracker | Muted] = []
"""Of the process, the last one counts: threads that a task starts inherit no context variable."""
_said = False


def current(call: str) -> Tracker | None:
    """Where `call` logs to; None where nothing is to be logged. That there is no run is said once a process."""
    tracker = active()
    if isinstance(tracker, Tracker):
        return tracker
    if tracker is None:
        _say_nowhere(call)
    return None


def enter(tracker: Tracker | Muted) -> None:
    """Log into this from now on, in all threads of the process that have none of their own."""
    _process.append(tracker)


def leave(tracker: Tracker | Muted) -> None:
    """No longer log into this."""
    _process.remove(tracker)


@contextmanager
def logging_into(tracker: Tracker | Muted) -> Iterator[None]:
    """Inside, log into this: in this thread, and in those that have none of their own."""
    enter(tracker)
    token = _here.set(tracker)
    try:
        yield
    finally:
        _here.reset(token)
        leave(tracker)


def active() -> Tracker | Muted | None:
    """What this process logs into now."""
    return _here.get() or (_process[-1] if _process else None)


def _say_nowhere(call: str) -> None:
    global _said  # noqa: PLW0603 - once a process
    if not _said:
        _said = True
        _logger.warning(
            "%s() outside a run: what it says is kept nowhere. hooke.start_run() begins a run of a plain script",
            call,
        )
