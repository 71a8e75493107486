"""Why a process ended, in words."""

from __future__ import annotations

import signal

__all__ = ["ended_by"]


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
