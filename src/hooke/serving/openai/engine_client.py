"""HTTP to the engine of a replica: connections that stay open, answers as they come, nothing kept and nothing followed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from hooke.serving.problems import Problem

__all__ = ["EngineAnswer", "EngineClient", "EngineLost", "EngineRoad", "EngineUnreached", "Header"]

Header = tuple[bytes, bytes]
IDLE_S = 2.0
"""A connection that was free for longer is not used again: engines close theirs after five seconds, perhaps at this moment."""
MOST_FREE = 64
"""Free connections that are kept."""
ROOM = 256 << 10
"""Bytes of an answer that wait for its client; then the engine waits, too."""
_LENGTHS = (b"content-length", b"transfer-encoding")


class EngineLost(Exception):
    """The connection ended before the answer did."""


class EngineUnreached(EngineLost):
    """Nothing was sent: the engine takes no connection."""


class EngineRoad(Protocol):
    """How the engine is reached."""

    async def connect(self, make: Any) -> Any:
        """A connection with this protocol. Raises OSError."""
        ...


class EngineClient:
    """Asks one engine. Lives on one event loop."""

    def __init__(self, road: EngineRoad, headers: Sequence[Header]) -> None:
        """`headers` go with each request."""
        import httptools  # not where services are only declared and tested

        self._http = httptools
        self._road = road
        self._headers = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._free: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        self._pruning: asyncio.TimerHandle | None = None

    async def ask(
        self,
        verb: bytes,
        target: bytes,
        headers: Sequence[Header] = (),
        body: bytes = b"",
        *,
        silence_s: float,
    ) -> EngineAnswer:
        """Send a request, and wait for the head of its answer. To be closed.

        Raises EngineUnreached where the engine accepts no connection, EngineLost, and Problem (504) if nothing comes for `silence_s` seconds.
        """
        connection = await self._connection()
        own = b"".join(b"%b: %b\r\n" % header for header in headers)
        length = b"content-length: %d\r\n" % len(body) if body or verb != b"GET" else b""
        head = b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (verb, target, self._headers, own, length)
        answer = EngineAnswer(connection, self, silence_s)
        try:
            connection.begin(answer, head + body)
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer

    async def _connection(self) -> _Connection:
        now = time.monotonic()
        while self._free:
            found = self._free.pop()
            if not found.closed and now - found.freed_at < IDLE_S:
                return found
            found.close()
        try:
            _, made = await self._road.connect(lambda: _Connection(self._all, self._http))
        except OSError as error:
            raise EngineUnreached(str(error)) from error
        return made

    def give_back(self, connection: _Connection) -> None:
        """Its answer has come, and it may have another one."""
        connection.freed_at = time.monotonic()
        self._free.append(connection)
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().call_later(IDLE_S, self._prune)
        if len(self._free) > MOST_FREE:
            self._free.popleft().close()

    def _prune(self) -> None:
        now = time.monotonic()
        while self._free and now - self._free[0].freed_at >= IDLE_S:
            self._free.popleft().close()
        self._pruning = asyncio.get_running_loop().call_later(IDLE_S, self._prune) if self._free else None

    def close(self) -> None:
        """End all connections."""
        if self._pruning is not None:
            self._pruning.cancel()
        for each in list(self._all):
            each.close()


class EngineAnswer:
    """The answer to one request: its head, then its body piece by piece."""

    status = 0
    complete = False
    """Whether all of it has arrived."""
    reusable = False
    size = 0
    """Bytes that have arrived and are not taken."""

    def __init__(self, connection: _Connection, client: EngineClient, silence_s: float) -> None:
        self.headers: list[Header] = []
        self._connection = connection
        self._client = client
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._look)
        self._parts: list[bytes] = []
        self._waits: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._closed = False

    def header(self, name: bytes) -> bytes:
        """The value of a header, by its name in lower case; empty if there is none."""
        return next((value for known, value in self.headers if known == name), b"")

    async def head(self) -> None:
        """Wait for status and headers. Raises EngineLost, Problem."""
        while not self.status:
            await self._wait()

    async def piece(self) -> bytes:
        """What has come since the last piece, at least a byte; nothing after the end. Raises EngineLost, Problem."""
        while not self._parts:
            if self.complete:
                return b""
            await self._wait()
        parts, self.size = self._parts, 0
        self._parts = []
        self._connection.go_on()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def whole(self, most: int) -> bytes:
        """All of it, or its first bytes, at least `most`. Raises as `piece`."""
        parts, size = list[bytes](), 0
        while size < most and (data := await self.piece()):
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of the connection. If the answer is not complete, the engine sees that nobody wants the rest."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._connection.end()
        if self.complete and self.reusable and self._error is None:
            self._client.give_back(self._connection)
        else:
            self._connection.close()

    # -- for its connection ------------------------------------------------------------------------

    def began(self, status: int) -> None:
        """Its head has come."""
        self.status = status
        self.tell()

    def add(self, data: bytes) -> None:
        """A part of its body has come."""
        self._parts.append(data)
        self.size += len(data)
        self.tell()

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        if not self.complete and self._error is None:
            self._error = error
            self.tell()

    def tell(self) -> None:
        """Something has changed."""
        self._heard = self._loop.time()
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waits = self._loop.create_future()
        await self._waits
        if self._error is not None and not self._parts:
            raise self._error

    def _look(self) -> None:
        left_s = self._heard + self._silence_s - self._loop.time()
        if left_s > 0 or self._parts:  # a client that does not read is not the engine's silence
            self._timer = self._loop.call_later(left_s if left_s > 0 else self._silence_s, self._look)
        else:
            self.fail(Problem(504, f"the engine sent nothing for {self._silence_s:g} s"))


class _Connection(asyncio.Protocol):
    """One connection, with one answer at a time."""

    closed = False
    freed_at = 0.0
    _paused = False

    def __init__(self, everyone: set[_Connection], http: Any) -> None:
        """`http` is httptools."""
        self._everyone = everyone
        self._http = http
        self._answer: EngineAnswer | None = None
        self._headers: list[Header] = []

    def begin(self, answer: EngineAnswer, request: bytes) -> None:
        """Send a request, to which this is the answer. Raises EngineUnreached."""
        if self.closed:
            raise EngineUnreached("the engine has closed the connection")
        self._answer = answer
        self._headers.clear()
        self._parser: Any = self._http.HttpResponseParser(self)
        self._transport.write(request)

    def go_on(self) -> None:
        """There is room again."""
        if self._paused:
            self._paused = False
            if not self.closed:
                self._transport.resume_reading()

    def end(self) -> None:
        """Its answer needs nothing more."""
        self._answer = None
        self.go_on()

    def close(self) -> None:
        """Close it at once."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """As asyncio says."""
        self._transport = transport
        self._everyone.add(self)

    def data_received(self, data: bytes) -> None:
        """As asyncio says."""
        answer = self._answer
        if answer is None:  # nothing was asked for
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except self._http.HttpParserError as error:
            answer.fail(EngineLost(f"the engine's answer is not HTTP: {error}"))
            self.close()
            return
        if answer.size > ROOM and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio says."""
        ended, self.closed = exc is None and not self.closed, True
        self._everyone.discard(self)
        if self._answer is None:
            return
        if ended and self._answer.status and not any(self._answer.header(name) for name in _LENGTHS):
            self._answer.complete = (
                True  # such a body ends with its connection, unless that is reset or we close it
            )
        said = f": {exc}" if exc else ""
        self._answer.tell()
        self._answer.fail(EngineLost(f"the engine closed the connection before the end of its answer{said}"))

    # -- called by httptools -----------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete; an interim one (1xx) is not the answer's."""
        status = self._parser.get_status_code()
        if status >= 200 and self._answer is not None:
            self._answer.headers = list(self._headers)
            self._answer.began(status)
        self._headers.clear()

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self._answer is not None:
            self._answer.add(data)

    def on_message_complete(self) -> None:
        """The answer is complete."""
        answer = self._answer
        if answer is not None and answer.status:
            answer.complete, answer.reusable = True, self._parser.should_keep_alive()
            answer.tell()
