"""The end of a dead worker's log: what its task printed, then where native code crashed (`faulthandler` wrote that)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hooke.pipeline.logs import last_lines

__all__ = ["death_tail", "with_short_stack"]

MOST_LINES = 20
MOST_STACK = 10
"""Half of what an error shows; the crash is at the top of its stack."""

_LONGEST_STACK = 110
"""Lines: faulthandler stops after 100 frames."""
_LONGEST_STACK_BYTES = 64 * 1024

_CRASH = "Fatal Python error: "

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def death_tail(log: Path, start: int) -> tuple[str, ...]:
    """The last lines after byte `start` of a worker's log, at most 20."""
    lines = last_lines(log, start, MOST_LINES + _LONGEST_STACK, most_bytes=_LONGEST_STACK_BYTES)
    if any(line.startswith(_CRASH) for line in lines):
        return with_short_stack(lines)
    return last_lines(log, start, MOST_LINES)


def with_short_stack(lines: Sequence[str]) -> tuple[str, ...]:
    """The last 20 lines; of a crash's stack only the user's frames, the top ones, so that what was printed before stays."""
    crash = next((n for n, line in enumerate(lines) if line.startswith(_CRASH)), None)
    if crash is None:
        return tuple(lines[-MOST_LINES:])
    frames = [line for line in lines[crash:] if line.startswith('  File "/') and _PACKAGE not in line]
    stack = [lines[crash], *frames[:MOST_STACK]]
    if len(frames) > MOST_STACK:
        stack.append(f"  ... {len(frames) - MOST_STACK} lines below")
    return (*lines[:crash][-(MOST_LINES - len(stack)) :], *stack)
