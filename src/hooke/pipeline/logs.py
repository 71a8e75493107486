"""Captured output of a worker: one file a worker; an attempt's part of it is a span of bytes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["LogFile", "last_lines"]

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
    return tuple(text.splitlines()[-lines:])
