"""The end of a dead worker's log: what its task printed, then where native code crashed."""

from __future__ import annotations

from pathlib import Path

from hooke.base.crashes import CRASH, LONGEST_STACK, MOST_LINES, with_short_stack
from hooke.pipeline.logs import last_lines

__all__ = ["death_tail"]

_LONGEST_STACK_BYTES = 64 * 1024


def death_tail(log: Path, start: int) -> tuple[str, ...]:
    """The last lines after byte `start` of a worker's log, at most 20."""
    lines = last_lines(log, start, MOST_LINES + LONGEST_STACK, most_bytes=_LONGEST_STACK_BYTES)
    if any(line.startswith(CRASH) for line in lines):
        return with_short_stack(lines)
    return last_lines(log, start, MOST_LINES)
