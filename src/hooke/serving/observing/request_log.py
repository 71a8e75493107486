"""The request log: a line of JSON for each request, or for a sample of them, written in a thread of its own."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

import msgspec

from hooke.base.errors import UsageError
from hooke.base.files import writing

__all__ = [
    "STDOUT",
    "LoggedRequest",
    "RequestLog",
    "RequestLogOptions",
    "check_writable",
    "parse_sample",
]

STDOUT = "-"
MOST_BYTES = 4 << 20
"""Of lines that wait to be written: some seconds of full load, for a disk that pauses."""
FLUSH_S = 0.25
WARN_EVERY_S = 60.0
CLOSE_S = 2.0

_log = logging.getLogger("hooke")


class RequestLogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests are logged, and how many of them."""

    path: str
    """An absolute path, or `-` for stdout."""
    sample: float = 1.0
    """The share of those that are neither errors nor slow; these are all logged."""


def check_writable(options: RequestLogOptions) -> None:
    """Raises HookeError if the file cannot be written."""
    os.close(_open_first(options))


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the log. Neither the path as it was sent nor headers or bodies are in it: they may hold secrets."""

    time: str
    """Of the request's head: UTC, by RFC 3339."""
    id: str
    method: str
    route: str | None
    """The route's path, such as `/v2/models/{name}/infer`; null if there is none."""
    status: int
    """499: the client disconnected."""
    ms: float
    key: str | None = None
    """The name of the client whose key it has."""
    why: str | None = None
    """Why it was refused."""
    queue_ms: float | None = None
    """In the queue of the model."""
    batch: int | None = None
    """Rows of its batch."""
    version: str | None = None
    replica: str | None = None
    bytes_in: int
    bytes_out: int
    low: bool = False
    """Whether it is of low priority."""
    trace: str | None = None
    """The id of its trace."""
    sample: float | None = None
    """The share of requests like it that is logged; left out for 1."""


def parse_sample(text: str, *, name: str = "--request-log-sample") -> float:
    """`1%` or `0.01` as a share above 0 and up to 1. Raises UsageError."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if rest or not 0 < share <= 1:
        raise UsageError(
            f"{name} {text}: not a valid share", fix=f"write {name} 1%, or 0.01; 100% logs each request"
        )
    return share


class RequestLog:
    """Writes lines to a file that other processes append to as well. `write` never waits: what finds no room is counted.

    A file that was moved away is opened anew by its name within a second, as logrotate expects it; no signal is needed. Lines are
    written whole: several replicas share one file.
    """

    def __init__(
        self, options: RequestLogOptions, *, flush_s: float = FLUSH_S, most_bytes: int = MOST_BYTES
    ) -> None:
        """Open it. Raises HookeError if the file cannot be written."""
        self.options = options
        self.dropped = 0
        """Lines that could not be written."""
        self._flush_s = flush_s
        self._most_bytes = most_bytes
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._ends = threading.Event()
        self._torn = False
        """Whether the file may end within a line."""
        self._said = (0, -WARN_EVERY_S)
        """How many dropped lines were last told, and when."""
        self._fd = _open_first(options)
        self._thread = threading.Thread(target=self._run, name="hooke-request-log", daemon=True)
        self._thread.start()

    def write(self, line: LoggedRequest) -> None:
        """Log a request soon. Any thread may call this."""
        data = self._encoder.encode(line) + b"\n"
        with self._lock:
            if self._waiting + len(data) > self._most_bytes:
                self.dropped += 1
                return
            self._lines.append(data)
            self._waiting += len(data)

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        self._ends.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._ends.wait(self._flush_s):
            self._flush()
        self._flush()
        self._tell_dropped("the service ended")
        os.close(self._fd)

    def _flush(self) -> None:
        with self._lock:
            lines, self._lines, self._waiting = self._lines, deque(), 0
        if not lines:
            return
        try:
            self._follow_the_name()
            self._write_whole(b"".join([b"\n", *lines] if self._torn else lines))
        except OSError as error:
            with self._lock:
                self.dropped += len(lines)
            self._tell_dropped(error.strerror or str(error))
        else:
            self._torn = False
            self._tell_dropped("there were more lines than the disk takes")

    def _write_whole(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError:
                self._torn = self._torn or len(view) < len(data)
                raise
            view = view[written:]

    def _follow_the_name(self) -> None:
        """Open the file anew if another one has its name, or none."""
        if self.options.path == STDOUT:
            return
        path, held = Path(self.options.path), os.fstat(self._fd)
        try:
            found = path.stat()
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            opened = _opened(path)
            os.close(self._fd)
            self._fd, self._torn = opened, False

    def _tell_dropped(self, why: str) -> None:
        told, at = self._said
        now = time.monotonic()
        if self.dropped > told and (now - at >= WARN_EVERY_S or self._ends.is_set()):
            self._said = (self.dropped, now)
            _log.warning(
                "%d lines of the request log %s are lost so far: %s", self.dropped, self.options.path, why
            )


def _open_first(options: RequestLogOptions) -> int:
    if options.path == STDOUT:
        return os.dup(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
    path = Path(options.path)
    with writing("the request log", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return _opened(path)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
