"""How a process ended: the end of its output, with native crashes (from `faulthandler`) shortened, and its exit code in words."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

__all__ = ["CRASH", "LONGEST_STACK", "MOST_LINES", "ended_by", "with_short_stack"]


MOST_LINES = 20
MOST_STACK = 10
"""Half of what an error shows; the crash is at the top of its stack."""
LONGEST_STACK = 110
"""Lines: faulthandler stops after 100 frames."""
CRASH = "Fatal Python error: "

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def with_short_stack(lines: Sequence[str]) -> tuple[str, ...]:
    """The last 20 lines; of a crash's stack only the top frames of the user, so that the output before it stays."""
    crash = next((n for n, line in enumerate(lines) if line.startswith(CRASH)), None)
    if crash is None:
        return tuple(lines[-MOST_LINES:])
    frames = [line for line in lines[crash:] if line.startswith('  File "/') and _PACKAGE not in line]
    stack = [lines[crash], *frames[:MOST_STACK]]
    if len(frames) > MOST_STACK:
        stack.append(f"  ... {len(frames) - MOST_STACK} lines below")
    return (*lines[:crash][-(MOST_LINES - len(stack)) :], *stack)


# --- The exit code in words.


def ended_by(exit_code: int | None, *, asked: bool = False) -> str:
    """`exit_code` is minus the signal; None if another process was its parent. `asked`: this process sent the signal."""
    if exit_code is None:
        return "it ended, and nobody knows how: its parent was gone"
    if exit_code >= 0:
        return f"it ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "a signal"
    hint = ", as the system does where memory is short" if name == "SIGKILL" and not asked else ""
    return f"it was killed by {name} ({-exit_code}){hint}"
