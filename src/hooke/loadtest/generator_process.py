"""The generator's process: `python -m hooke.loadtest.generator_process FD`. It reads commands from a channel and sends reports.

It ends when the channel closes, and so with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import math
import os
import re
import signal
import socket
import ssl
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools
import msgspec
import numpy as np
import uvloop

from hooke.base.this_process import raise_open_files
from hooke.loadtest.generator_protocol import Fate, Goal, Level, LevelReport, Question, encode
from hooke.processes.channel import LENGTH_BYTES, framed

__all__ = ["Alarm", "ClientConnection", "ConnectionOwner", "Sender", "main"]


# --- A timer for an event loop with a precision of about ten microseconds; loops have milliseconds.

_MONOTONIC, _NONBLOCK = 1, 0o4000
_LEAST_S = 1e-6
"""Zero would disarm the timer."""


class Alarm:
    """Calls `ring` once after each `set`. Uses a timerfd on Linux, and the loop's own timers elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)  # in Python since 3.13
            self._file = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK)
        if self._file >= 0:
            loop.add_reader(self._file, self._rung)

    def set(self, delay_s: float) -> None:
        """Ring after this many seconds, instead of at the time set before."""
        delay_s = max(delay_s, _LEAST_S)
        if self._file < 0:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(delay_s, self._ring)
            return
        whole = int(delay_s)
        setting = struct.pack("=qqqq", 0, 0, whole, int((delay_s - whole) * 1e9))
        if self._libc.timerfd_settime(self._file, 0, setting, None):
            raise OSError(ctypes.get_errno(), "the timer cannot be set")

    def close(self) -> None:
        """Cancel the alarm."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
            self._ring()


# --- One keep-alive connection with one request at a time.

SAID = 2000
"""Bytes kept of an answer that is not 2xx."""


class ConnectionOwner(Protocol):
    """The owner of connections. `settled` is called once for each sent request, then `free` or `gone`."""

    def settled(self, request: int, status: int, said: bytes) -> None:
        """A request has its answer, or will never have one. `said` is the beginning of the body if it is not 2xx, and the whole body if 2xx bodies are kept."""

    def streamed(self, request: int, stream: TokenStream) -> None:
        """Its 2xx answer came as this stream; `settled` follows."""

    def free(self, connection: ClientConnection) -> None:
        """The connection can take another request."""

    def gone(self, connection: ClientConnection) -> None:
        """The connection is closed."""


class TokenStream:
    """The events of one answer of a language model after the other: when tokens came, and how it ended."""

    __slots__ = ("_before", "_pattern", "_tail", "first", "last")

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern.encode())
        self.begin()

    def begin(self) -> None:
        """The next answer begins."""
        self.first = self.last = math.nan
        self._tail = self._before = b""

    def read(self, data: bytes) -> None:
        """A part of it, which came now."""
        if self._pattern.search(self._before + data):
            self.last = _now()
            if math.isnan(self.first):
                self.first = self.last
            self._before = b""
        else:
            self._before = (self._before + data)[-TAIL:]
        self._tail = (self._tail + data)[-TAIL:]

    def ended(self) -> tuple[StreamUsage | None, bytes]:
        """The counts of tokens if it ended as it should, and its end."""
        events = [
            each.removeprefix(b"data:").strip()
            for each in self._tail.split(b"\n")
            if each.startswith(b"data:")
        ]
        if not events or events[-1] != b"[DONE]":
            return None, self._tail
        for event in reversed(events[:-1]):
            with contextlib.suppress(msgspec.DecodeError):  # cut by the limit of what is kept
                found = _read_usage(event)
                if found.error is not None:
                    return None, event
                if found.usage is not None:
                    return found.usage, b""
        return None, b"the stream has no usage: " + self._tail


TAIL = 4096
"""Bytes kept of the end of a stream: the last event with its tokens, the usage and the end."""


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class StreamUsage(msgspec.Struct):
    """The count of tokens at the end of a stream."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _CachedTokens | None = None

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were in memory."""
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details is not None else 0


class _StreamEnd(msgspec.Struct):
    usage: StreamUsage | None = None
    error: Any = None


_read_usage = msgspec.json.Decoder(_StreamEnd).decode


class ClientConnection(asyncio.Protocol):
    """Sends a request and reports its answer to the owner. `request` is the one in flight, or -1."""

    __slots__ = (
        "_closing",
        "_keeps",
        "_owner",
        "_parser",
        "_said",
        "_stream",
        "_transport",
        "open",
        "request",
    )

    def __init__(
        self, owner: ConnectionOwner, *, keeps: bool = False, stream: TokenStream | None = None
    ) -> None:
        """With `keeps`, the bodies of 2xx answers are kept, too. A `stream` reads them as they come; the owner then gets its end."""
        self._stream = stream
        self.request = -1
        self.open = True
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._said = b""
        self._keeps = keeps
        self._closing = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent. The server may have closed the connection without a callback yet."""
        return self.open and not self._transport.is_closing()

    def send(self, request: int, data: bytes) -> None:
        """Send a request. Only while no request is in flight."""
        self.request = request
        if self._stream is not None:
            self._stream.begin()
        self._transport.write(data)

    def drop(self) -> None:
        """Close the connection at once, without waiting for an answer."""
        self.request = -1
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()  # counted as lost

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Called by asyncio."""
        self.open = False
        request, self.request = self.request, -1
        if request >= 0:
            self._owner.settled(request, Fate.LOST, b"")
        self._owner.gone(self)

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        self._closing = not self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        if self._parser.get_status_code() < 300:
            if self._stream is not None:
                self._stream.read(body)
            self._said += body if self._keeps else b""
        elif len(self._said) < SAID:
            self._said += body[:SAID]

    def on_message_complete(self) -> None:
        """Called by httptools."""
        status = self._parser.get_status_code()
        if status < 200:
            return  # 1xx responses precede the answer
        request, self.request = self.request, -1
        said, self._said = self._said, b""
        if self._stream is not None and status < 300:
            self._owner.streamed(request, self._stream)
        if request < 0:  # unsolicited: it must not count as the next request's answer
            self.open = False
            self._transport.abort()
            return
        self._owner.settled(request, status, said)
        if self._closing:
            self.open = False
            self._transport.close()
        else:
            self._owner.free(self)


# --- Sends requests when they are due, over as many connections as needed.

SWEEP_S = 0.02
"""Seconds between two checks for timeouts."""
_now = time.perf_counter


class Sender:
    """Owns the connections to one target and runs one level at a time, on one event loop."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._loop = asyncio.get_running_loop()
        self._context = ssl.create_default_context(cafile=goal.ca or None) if goal.tls else None
        self._idle: deque[ClientConnection] = deque()
        self._open = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._flying: dict[int, ClientConnection] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._timeout_s = 0.0
        self._clear(array("d"))
        self._loop.set_exception_handler(self._broken)

    def _clear(self, due: array[float]) -> None:
        """Reset the state for a new level."""
        self._due = due
        self._begun = array("d", bytes(8 * len(due)))
        self._ended = array("d", bytes(8 * len(due)))
        self._status = array("h", bytes(2 * len(due)))
        self._tokens = np.full((len(due), 5), np.nan) if self._goal.token else np.zeros((0, 5))
        self._wrong: dict[int, bytes] = {}
        """Streams without their end -> what they said."""
        self._next = self._oldest = self._done = 0
        self._opened = self._waited = 0
        self._most = self._open  # a level reuses the connections of the previous one
        self._pending: deque[int] = deque()
        self._said: dict[int, str] = {}
        self._cpu_s = self._start = 0.0
        self._over = self._loop.create_future()

    async def run(self, level: Level) -> LevelReport:
        """Send all requests of a level and wait for their outcomes."""
        self._clear(array("d", level.due))
        self._timeout_s = level.timeout_s
        self._alarm = Alarm(self._loop, self._fire)
        gc.collect()
        gc.disable()  # a collection pauses for milliseconds; a level creates few cycles
        try:
            before = time.process_time()
            started, self._start = time.monotonic(), _now()
            self._fire()
            self._sweep()
            stopped = await self._over
        finally:
            gc.enable()
            self._alarm.close()
            if self._sweeper is not None:
                self._sweeper.cancel()
        return LevelReport(
            begun=self._begun.tobytes(),
            ended=self._ended.tobytes(),
            status=self._status.tobytes(),
            cpu_s=(self._cpu_s or time.process_time()) - before,
            wall_s=max(self._due[-1], self._begun[-1]) or _now() - self._start,
            started=started,
            opened=self._opened,
            most=self._most,
            waited=self._waited,
            stopped=stopped,
            said=self._said,
            tokens=self._tokens.tobytes(),
        )

    def stop(self) -> None:
        """End the level. Requests without an answer are cut."""
        now = _now() - self._start
        for request in np.flatnonzero(np.asarray(self._status) == 0).tolist():
            self._status[request] = Fate.CUT
            self._ended[request] = now
            if request >= self._next:
                self._begun[request] = now
        self._next = len(self._due)
        for connection in self._flying.values():
            connection.drop()
        self._flying.clear()
        self._finish(stopped=True)

    def settled(self, request: int, status: int, said: bytes) -> None:
        """See `ConnectionOwner`."""
        self._flying.pop(request, None)
        wrong = self._wrong.pop(request, None)
        if not self._status[request]:
            if wrong is not None:
                self._settle(request, Fate.WRONG, wrong)
            else:
                self._settle(request, self._judged(request, status, said), said)

    def streamed(self, request: int, stream: TokenStream) -> None:
        """See `ConnectionOwner`."""
        used, said = stream.ended()
        if used is None or math.isnan(stream.first):
            self._wrong[request] = said or b"the stream has no token"
            return
        counts = used.prompt_tokens, used.cached, used.completion_tokens
        self._tokens[request] = (stream.first - self._start, stream.last - self._start, *counts)

    def free(self, connection: ClientConnection) -> None:
        """See `ConnectionOwner`."""
        if not connection.usable:
            return  # `gone` follows soon
        request = self._next_pending()
        if request is None:
            self._idle.append(connection)
        else:
            self._send(connection, request)

    def gone(self, connection: ClientConnection) -> None:  # noqa: ARG002 - ConnectionOwner's signature
        """See `ConnectionOwner`."""
        self._open -= 1
        self._open_more()

    def _fire(self) -> None:
        """Start all requests that are due, and set the alarm for the next one."""
        due, count = self._due, len(self._due)
        now = _now() - self._start
        while self._next < count and due[self._next] <= now:
            request = self._next
            self._next += 1
            self._begun[request] = now
            self._begin(request)
            now = _now() - self._start
        if self._next < count:
            self._alarm.set(due[self._next] - now)
        elif not self._cpu_s:
            self._cpu_s = time.process_time()

    def _begin(self, request: int) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable:
                self._send(connection, request)
                return
        self._pending.append(request)
        if not self._open_more() and self._open >= self._goal.connections:
            self._waited += 1

    def _send(self, connection: ClientConnection, request: int) -> None:
        self._flying[request] = connection
        requests = self._goal.requests
        connection.send(request, requests[request % len(requests)])

    def _open_more(self) -> bool:
        """Open a connection if a request has none and the limit allows it."""
        wanted = len(self._opening) < len(self._pending) and self._open < self._goal.connections
        if wanted:
            self._open += 1
            task = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return wanted

    async def _connect(self) -> None:
        goal = self._goal
        try:
            _, connection = await asyncio.wait_for(
                self._loop.create_connection(
                    lambda: ClientConnection(
                        self,
                        keeps=bool(goal.answers),
                        stream=TokenStream(goal.token) if goal.token else None,
                    ),
                    goal.host,
                    goal.port,
                    ssl=self._context,
                ),
                self._timeout_s,
            )
        except (OSError, TimeoutError) as error:
            self._open -= 1
            self._said.setdefault(Fate.REFUSED, str(error) or type(error).__name__)
            self._opening.discard(asyncio.current_task())  # type: ignore[arg-type] - always a task here
            self._fail_one(Fate.REFUSED)
            self._open_more()
            return
        self._opened += 1
        self._most = max(self._most, self._open)
        if connection.usable:
            self.free(connection)
        else:
            self._fail_one(Fate.LOST)

    def _fail_one(self, fate: Fate) -> None:
        """Settle the request for which a connection was opened."""
        request = self._next_pending()
        if request is not None:
            self._settle(request, fate, b"")

    def _next_pending(self) -> int | None:
        """The oldest request that waits for a connection and has not timed out."""
        while self._pending:
            request = self._pending.popleft()
            if not self._status[request]:
                return request
        return None

    def _judged(self, request: int, status: int, said: bytes) -> int:
        """The status, or Fate.WRONG for a 2xx answer with an unexpected body."""
        answers = self._goal.answers
        if not answers or not 200 <= status < 300 or said in answers[request % len(answers)]:
            return status
        return Fate.WRONG

    def _settle(self, request: int, status: int, said: bytes) -> None:
        self._ended[request] = _now() - self._start
        self._status[request] = status
        if said and not 200 <= status < 300 and status not in self._said:
            self._said[status] = said.decode(errors="replace")
        self._done += 1
        if self._done == len(self._due):
            self._finish(stopped=False)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the level if a callback fails; otherwise it would never end."""
        loop.default_exception_handler(context)
        if not self._over.done():
            self._over.set_exception(context.get("exception") or RuntimeError(context["message"]))

    def _finish(self, *, stopped: bool) -> None:
        if not self._over.done():
            self._over.set_result(stopped)

    def _sweep(self) -> None:
        """Time out requests that have waited too long."""
        late = _now() - self._start - self._timeout_s
        while self._oldest < self._next and (self._status[self._oldest] or self._due[self._oldest] <= late):
            request = self._oldest
            self._oldest += 1
            if not self._status[request]:
                connection = self._flying.pop(request, None)
                if connection is not None:
                    connection.drop()
                self._settle(request, Fate.TIMED_OUT, b"")
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)


SPARE_FILES = 32
"""Files other than connections."""
_decoder = msgspec.msgpack.Decoder(Question)


def main(fd: int) -> None:
    """Serve the parent until it closes its end of the channel with this descriptor."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the parent's, which stops a level and reads what there is
    uvloop.run(_serve(socket.socket(fileno=fd)))


async def _serve(parent: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=parent)
    loop = asyncio.get_running_loop()
    sender: Sender | None = None
    asked = loop.create_task(_question(reader))
    while (question := await asked) is not None:
        asked = loop.create_task(_question(reader))
        match question:
            case Goal():
                most = min(question.connections, raise_open_files() - SPARE_FILES)
                sender = Sender(msgspec.structs.replace(question, connections=most))
            case Level() if sender is not None:
                running = loop.create_task(sender.run(question))
                await asyncio.wait({asked, running}, return_when=asyncio.FIRST_COMPLETED)
                if not running.done():  # a Stop, or the parent is gone
                    sender.stop()
                report = framed(encode(await running))
                with contextlib.suppress(
                    ConnectionError
                ):  # the parent is gone, and the next question is the end
                    writer.write(report)
                    await writer.drain()
            case _:
                pass  # a Stop after its level was over


async def _question(reader: asyncio.StreamReader) -> Question | None:
    """The next command; None at the end."""
    try:
        size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "little")
        return _decoder.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
