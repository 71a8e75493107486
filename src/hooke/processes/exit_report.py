"""The end of what a dead process printed: its own lines, then where native code crashed (`faulthandler` wrote that)."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from hooke.base.user_code import HOOKE_FOLDER

__all__ = ["CRASH", "LONGEST_STACK", "MOST_LINES", "ended_by", "with_short_stack"]


MOST_LINES = 20
MOST_STACK = 10
"""Half of what an error shows; the crash is at the top of its stack."""
LONGEST_STACK = 110
"""Lines: faulthandler stops after 100 frames."""
CRASH = "Fatal Python error: "


def with_short_stack(lines: Sequence[str]) -> tuple[str, ...]:
    """The last 20 lines; of a crash's stack only the user's frames, the top ones, so that what was printed before stays."""
    crash = next((n for n, line in enumerate(lines) if line.startswith(CRASH)), None)
    if crash is None:
        return tuple(lines[-MOST_LINES:])
    frames = [line for line in lines[crash:] if line.startswith('  File "/') and HOOKE_FOLDER not in line]
    stack = [lines[crash], *frames[:MOST_STACK]]
    if len(frames) > MOST_STACK:
        stack.append(f"  ... {len(frames) - MOST_STACK} lines below")
    return (*lines[:crash][-(MOST_LINES - len(stack)) :], *stack)


# --- Why a process ended, in words.


def ended_by(exit_code: int | None, *, asked: bool = False) -> str:
    """`exit_code` is minus the signal; None where another process was its parent. `asked`: it was we who sent it."""
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
