"""How a process ended: the last lines of its output, with native crashes (`faulthandler`) shortened, and its exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hooke.base.formats import readable
from hooke.base.user_code import HOOKE_FOLDER

__all__ = [
    "CRASH",
    "LONGEST_STACK",
    "MOST_LINES",
    "LogFile",
    "death_tail",
    "ended_by",
    "last_lines",
    "with_short_stack",
]


MOST_LINES = 20
MOST_STACK = 10
"""Half of what an error shows; the crash is at the top of its stack."""
LONGEST_STACK = 110
"""Lines: faulthandler stops after 100 frames."""
CRASH = "Fatal Python error: "


def with_short_stack(lines: Sequence[str]) -> tuple[str, ...]:
    """The last 20 lines; of a crash's stack only the top frames of the user, so that the output before it stays."""
    crash = next((n for n, line in enumerate(lines) if line.startswith(CRASH)), None)
    if crash is None:
        return tuple(lines[-MOST_LINES:])
    frames = [line for line in lines[crash:] if line.startswith('  File "/') and HOOKE_FOLDER not in line]
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


# --- Captured output of a worker: one file a worker; an attempt's part of it is a span of bytes.

_TAIL_BYTES = 16 * 1024
"""Twenty lines of 800 characters."""


class LogFile:
    """Appends text to a file. The kernel has each write at once, so a killed process loses none of it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.name = path.name
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, text: str) -> None:
        """Append. Raises OSError on a full disk."""
        if text:
            os.write(self._fd, text.encode("utf-8", "backslashreplace"))

    def position(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._fd).st_size

    def end(self) -> int:
        """The same."""
        return self.position()

    def flushed(self) -> int:
        """The same."""
        return self.position()

    def tail(self, start: int, lines: int) -> tuple[str, ...]:
        """The last `lines` lines written since byte `start`."""
        return last_lines(self.path, start, lines)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def last_lines(path: Path, start: int, lines: int, *, most_bytes: int = _TAIL_BYTES) -> tuple[str, ...]:
    """The last `lines` lines of a file after byte `start`, or of its last `most_bytes`; empty where it does not exist."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - most_bytes))
        text = file.read().decode("utf-8", "replace")
    return tuple(readable(line) for line in text.splitlines()[-lines:])


# --- The end of a dead worker's log: what its task printed, then where native code crashed.

_LONGEST_STACK_BYTES = 64 * 1024


def death_tail(log: Path, start: int) -> tuple[str, ...]:
    """The last lines after byte `start` of a worker's log, at most 20."""
    lines = last_lines(log, start, MOST_LINES + LONGEST_STACK, most_bytes=_LONGEST_STACK_BYTES)
    if any(line.startswith(CRASH) for line in lines):
        return with_short_stack(lines)
    return last_lines(log, start, MOST_LINES)
