"""stderr as the runs of one process share it."""

from __future__ import annotations

import threading
from typing import Protocol, TextIO

__all__ = ["TERMINAL", "Terminal"]


class Above(Protocol):
    """A picture that is drawn again and again at the end of a terminal."""

    def above(self, line: str) -> None:
        """Print a line above the picture."""
        ...


class Terminal:
    """Holds at most one live picture; lines of other runs go above it, for below it the next frame would tear. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._picture: Above | None = None

    def claim(self, picture: Above) -> bool:
        """Take the place for a live picture; False where there is one already."""
        with self._lock:
            if self._picture is not None:
                return False
            self._picture = picture
            return True

    def release(self, picture: Above) -> None:
        """Give the place back."""
        with self._lock:
            if self._picture is picture:
                self._picture = None

    def say(self, line: str, out: TextIO) -> None:
        """Print a line to `out`. Raises what printing raises."""
        with self._lock:
            if self._picture is not None and out.isatty():
                self._picture.above(line)
            else:
                # One write: two runs' lines must not be woven into one another.
                out.write(f"{line}\n")
                out.flush()


TERMINAL = Terminal()
"""The process's own."""
