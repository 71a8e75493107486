"""The stdout and stderr of this process, which go to its log file whatever tasks do to them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from pathlib import Path

from hooke.processes.exit_report import last_lines

__all__ = ["ProcessOutput", "flush_output"]

_STREAMS = {1: "stdout", 2: "stderr"}

_FIRST_FD = 64
"""Above the descriptors that programs use by number, or close in a loop."""


class ProcessOutput:
    """Redirects this process's output to a file. A task that closes or replaces its output affects only itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._fd = fcntl.fcntl(log, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
        os.close(log)
        for number, name in _STREAMS.items():
            flush_output()
            os.dup2(self._fd, number)
            _open_stream(number, name)
        self._streams = {name: getattr(sys, name) for name in _STREAMS.values()}

    def position(self) -> int:
        """The number of bytes written so far. Undoes what a task did to the output."""
        flush_output()
        log = os.fstat(self._fd)
        for number, name in _STREAMS.items():
            if not _is(number, log):
                os.dup2(self._fd, number)
            if getattr(sys, name) is not self._streams[name] or self._streams[name].closed:
                _open_stream(number, name)
                self._streams[name] = getattr(sys, name)
        return log.st_size

    def end(self) -> int:
        """The same, where nobody else has changed the output since the last `position`."""
        flush_output()
        return os.fstat(self._fd).st_size

    def tail(self, start: int, lines: int) -> tuple[str, ...]:
        """The last lines written since `start`."""
        return last_lines(self.path, start, lines)

    def write(self, text: str) -> None:
        """Append, below what tasks have printed. Raises OSError on a full disk."""
        flush_output()
        os.write(self._fd, text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close the file; the output still goes there."""
        os.close(self._fd)


def flush_output() -> None:
    """Write what is buffered, as far as possible: the disk may be full, the stream closed or missing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _is(number: int, log: os.stat_result) -> bool:
    try:
        found = os.fstat(number)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (log.st_dev, log.st_ino)


def _open_stream(number: int, name: str) -> None:
    # Keep the stream object: others (a logging handler) hold it, and would still write to the old one.
    former = getattr(sys, f"__{name}__")
    if former is None or former.closed:
        former = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - a descriptor
        setattr(sys, f"__{name}__", former)
    former.reconfigure(line_buffering=True)
    setattr(sys, name, former)
