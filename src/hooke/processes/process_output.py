"""The stdout and stderr of this process, which go to its log file whatever tasks do to them."""

from __future__ import annotations

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
        self._streams = {number: getattr(sys, name) for number, name in _STREAMS.items()}

    def position(self) -> int:
        """The number of bytes written so far. Undoes what a task did to the output."""
        flush_output()
        log = os.fstat(self._fd)
        for number, stream in enumerate((sys.stdout, sys.stderr), 1):
            if not _is(number, log):
                os.dup2(self._fd, number)
            if stream is not self._streams[number] or stream.closed:
                _open_stream(number, _STREAMS[number])
                self._streams[number] = getattr(sys, _STREAMS[number])
        return log.st_size

    def end(self) -> int:
        """The size of the file: as `position`, if nothing was printed and no output replaced since that was called. It flushes nothing."""
        return os.fstat(self._fd).st_size

    def flushed(self) -> int:
        """As `position`, if no output was replaced since that was called."""
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
        try:  # noqa: SIM105 - `suppress` takes longer than the flush, and each call of a task flushes
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def _is(number: int, log: os.stat_result) -> bool:
    try:
        found = os.fstat(number)
    except OSError:
        return False
    return found.st_ino == log.st_ino and found.st_dev == log.st_dev


def _open_stream(number: int, name: str) -> None:
    # Keep the stream object: others (a logging handler) hold it, and would still write to the old one.
    former = getattr(sys, f"__{name}__")
    if former is None or former.closed:
        former = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - a descriptor
        setattr(sys, f"__{name}__", former)
    former.reconfigure(line_buffering=True)
    setattr(sys, name, former)
