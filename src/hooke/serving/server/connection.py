"""A client's connection: HTTP/1.1 read by httptools, requests answered in their order, and limits on what a client may do."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote

import httptools
import uvloop

from hooke.serving.limits import ConnectionLimits
from hooke.serving.metrics import Refusals
from hooke.serving.problems import MEDIA_TYPE, Problem, phrase_of
from hooke.serving.request_context import CallerGone, EagerTasks

__all__ = ["Connection", "Connections", "EndpointThread", "Handle", "Request", "keep_looking"]

LARGE = 64 << 10
"""A larger answer is not copied to be sent together with its head."""
KNOWN = 2 << 10
"""Bytes of a head that each connection may keep."""
BACKLOG = 64 << 10
"""Bytes of a body that are read before the handler takes them."""
LOOK_S = 1.0
"""How often connections are looked at."""
THREAD_END_S = 2.0
"""How long the end of a thread waits for the answers that it owes."""
NO_BODY = (204, 304)
"""Statuses whose answers have no body."""
_UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade[ \t]*:[^\r\n]*\r\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END = b"\r\n\r\n"
"""The end of a head."""
_CLOSE = (b"connection", b"close")
_PHRASES: Mapping[int, str] = {status.value: phrase_of(status) for status in HTTPStatus}

_log = logging.getLogger("hooke")


class Connections:
    """All connections of one server, and what they share. Lives on one event loop.

    `handle` answers a request. It runs at once up to its first wait, and goes on as a task only if it waits.
    """

    def __init__(self, handle: Handle, limits: ConnectionLimits, refused: Refusals) -> None:
        self.handle = handle
        self.limits = limits
        self.refused = refused
        self.open: set[Connection] = set()
        self.unknown: dict[Connection, None] = {}
        """Those whose client has not shown the token, the oldest first."""
        self.tasks = EagerTasks()
        self.loop = asyncio.get_running_loop()
        self._lines: dict[int, bytes] = {}

    def make(self) -> Connection:
        """A new connection, for `create_server`."""
        return Connection(self)

    def look(self, now: float) -> None:
        """Close connections that keep the server waiting, and read the clock for the answers' dates. To be called every second."""
        self._lines.clear()
        for connection in list(self.open):
            connection.look(now)

    def status_line(self, status: int) -> bytes:
        """The first lines of an answer, without the last line break."""
        line = self._lines.get(status)
        if line is None:
            line = f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ndate: {formatdate(usegmt=True)}".encode()
            self._lines[status] = line
        return line

    def note(self, reason: str) -> None:
        """Count a refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    async def end(self, limit_s: float, *, at_once: Callable[[], bool]) -> None:
        """Close each connection after the answers it still owes; what takes longer, or `at_once`, is cancelled."""
        for connection in list(self.open):
            connection.end()
        ends = self.loop.time() + limit_s
        while (self.open or self.tasks.running) and self.loop.time() < ends and not at_once():  # noqa: ASYNC110 - `at_once` is set by a signal
            await asyncio.sleep(0.02)
        if self.tasks.running:
            for task in self.tasks.running:
                task.cancel()
            await asyncio.wait(list(self.tasks.running), timeout=1)
        for connection in list(self.open):
            connection.transport.close()


async def keep_looking(connections: Connections) -> None:
    """Look at them every second, until cancelled."""
    while True:
        connections.look(connections.loop.time())
        await asyncio.sleep(LOOK_S)


class EndpointThread:
    """Answers the proxy's requests on a unix socket, in a thread of its own, from `start` to `close`."""

    def __init__(self, handle: Handle, limits: ConnectionLimits, name: str) -> None:
        self.limits = limits
        self._handle = handle
        self._name = name
        self._ends = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self, listening: socket.socket) -> None:
        """Serve on this socket, which is closed at the end."""
        listening.setblocking(False)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listening,), name=self._name, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether it has begun, and answers nothing any more."""
        return self._thread is not None and not self._thread.is_alive()

    def call(self, function: Callable[[], object]) -> bool:
        """Call it in that thread, soon; False if the thread has ended."""
        try:
            if self._loop is None:
                return False
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def close(self) -> None:
        """Stop serving."""
        if self.call(self._ends.set) and self._thread is not None:
            self._thread.join(2 * THREAD_END_S)

    def _run(self, listening: socket.socket) -> None:
        assert self._loop is not None
        with listening:
            try:
                with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # type: ignore[arg-type, return-value]
                    runner.run(self._serve(listening))
            except Exception:  # noqa: BLE001 - it is said, and the proxy notices
                # The proxy does without; whoever has started the thread goes on.
                _log.exception("%s has failed, and answers nothing any more", self._name)

    async def _serve(self, listening: socket.socket) -> None:
        connections = Connections(self._handle, self.limits, {})
        server = await asyncio.get_running_loop().create_unix_server(
            connections.make, sock=listening, backlog=self.limits.connections
        )
        looking = asyncio.create_task(keep_looking(connections))
        await self._ends.wait()
        server.close()
        await connections.end(THREAD_END_S, at_once=lambda: False)
        looking.cancel()


class Connection(asyncio.Protocol):
    """Reads requests, and has one at a time answered.

    A head costs a few comparisons beside the parser. Requests that arrive while another is being answered wait, and reading
    pauses meanwhile. `look` finds slow clients once a second, so no request needs a timer.
    """

    transport: asyncio.Transport

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._most = connections.limits.head_bytes
        self._parser: Any = httptools.HttpRequestParser(self)
        # An answer that ends the connection is sent, whatever has arrived behind its request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects = False
        self._begun = False
        """Whether a part of a head has arrived."""
        self._owed = 0
        """Bytes of an unfinished head, or between requests."""
        self._came = 0
        """Heads so far."""
        self._reading: Request | None = None
        """The request whose body is being read."""
        self._current: Request | None = None
        """The request that is being answered."""
        self._queue: deque[Request] = deque()
        """Requests behind it."""
        self._known: _KnownHead | None = None
        """The last head that came as a whole request."""
        self._deaf = False
        """Whether data is discarded: the connection ends after the answers it owes."""
        self.read_paused = False
        """Whether no more is read for now."""
        self.blocked: asyncio.Event | None = None
        """Set once the client has read what was sent; None: it does read."""
        self._idle: tuple[int, float] | None = None
        """The heads so far, and since when the next one is waited for."""
        self._slow: tuple[int, float] | None = None
        """The same for a head that has begun."""
        self._stalls: tuple[int, float] | None = None
        """Unsent bytes of an answer, and since when none was sent."""

    # -- the transport -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] - of a stream
        """If there are too many, close an idle one whose client has not shown the token; without one, refuse this one."""
        self.transport = transport
        everyone, unknown = self._all.open, self._all.unknown
        everyone.add(self)
        unknown[self] = None
        if len(everyone) <= self._all.limits.connections:
            return
        idle = next((one for one in unknown if one is not self and one.is_idle), None)
        if idle is None:
            self._refuse(503, "the service has too many connections", "too many connections")
        else:
            idle.make_room()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell all of its requests that their client has gone."""
        self._all.open.discard(self)
        self._all.unknown.pop(self, None)
        self._deaf = True
        for request in (self._current, self._reading, *self._queue):
            if request is not None:
                request.lose()
        self._queue.clear()
        self._current = self._reading = self._parser = None
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read requests; the first one is answered at once if none is being answered."""
        if self._deaf:
            return
        between = not (self._owed or self._queue) and self._current is None and self._reading is None
        if between and self._known is not None and self._starts_known(data, self._known):
            return
        # The rest of a begun head may be only its end, followed by a body.
        if b"pgrade" in data and self._reading is None and not self._begun:
            data = _without_upgrade(data)
        if len(data) <= self._most:
            self._feed(data)
        else:
            for start in range(0, len(data), self._most):
                if not self._deaf:
                    self._feed(data[start : start + self._most])
        if self._queue:
            if between and len(self._queue) == 1:
                self._know(data, self._queue[0])
            self._start_next()
            if self._queue:
                self._flow()

    def _starts_known(self, data: bytes, known: _KnownHead) -> bool:
        """Whether this data is a whole request with the known head, which is answered then."""
        if len(data) != known.size or not data.startswith(known.data):
            return False
        self._came += 1
        request = Request(self, known.head)
        request.add(data[len(known.data) :])
        request.complete = True
        self._start(request)
        return True

    def _know(self, data: bytes, request: Request) -> None:
        """Keep its head if this data is one whole request: most clients send the same head again and again, and it is parsed once."""
        size = len(data) - request.size
        if (
            request.complete
            and size <= KNOWN
            and data.find(_END) + len(_END) == size  # else line breaks that no request needs lie around it
            and request.keep_alive
            and not (self._begun or request.expects or b"transfer-encoding" in request.headers)
        ):
            self._known = _KnownHead(data[:size], len(data), request.head)

    def pause_writing(self) -> None:
        """The client does not read what was sent."""
        self.blocked = asyncio.Event()

    def resume_writing(self) -> None:
        """It does again."""
        if self.blocked is not None:
            self.blocked.set()
            self.blocked = None

    async def writable(self) -> None:
        """Wait until the client has read enough, or is gone."""
        while self.blocked is not None:
            await self.blocked.wait()

    # -- the parser --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins."""
        self._begun = True

    def on_url(self, url: bytes) -> None:
        """Accept a path only: an absolute URL would carry a second, unchecked Host."""
        if not self._url and url[:1] != b"/":
            raise ValueError("the target is no path")
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the head. Trailers are ignored: they would have no limit."""
        if self._reading is not None:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        self._headers.append((name, value.rstrip(b" \t")))  # whitespace after it is not a part of it

    def on_headers_complete(self) -> None:
        """A request, whose body may follow."""
        parser = self._parser
        request = Request(self, RequestHead(parser.get_method().decode(), self._url, self._headers))
        if self._expects:
            request.expects = True
        request.keep_alive = parser.should_keep_alive()
        # Without a header for it, only HTTP/1.1 keeps a connection.
        named = request.headers
        if not request.keep_alive or b"connection" in named or b"proxy-connection" in named:
            request.is_http_10 = parser.get_http_version() == "1.0"
            request.keep_alive = request.keep_alive and not request.is_http_10
        self._queue.append(request)
        self._reading = request
        self._url, self._expects, self._begun = b"", False, False
        self._headers = []
        self._came += 1

    def on_body(self, data: bytes) -> None:
        """A part of a body; that of an answered request is discarded."""
        request = self._reading
        if request is not None and request.add(data) > BACKLOG:
            self._flow()

    def on_message_complete(self) -> None:
        """The end of a request."""
        request, self._reading = self._reading, None
        if request is not None:
            request.finish()

    def _feed(self, data: bytes) -> None:
        """Parse so much that one head fits."""
        came, behind = self._came, self._reading is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The parser reads no more requests: the answer ends the connection.
            self._deaf = True
            newest = self._newest()
            if newest is not None:
                newest.keep_alive = False
            return
        except httptools.HttpParserError:
            self._refuse_bad()
            return
        if self._reading is not None:
            self._owed = 0
        elif behind or self._came != came:
            self._owed = int(self._begun)  # how much of it is a head, is unknown
        else:
            self._owed += len(data)
            if self._owed >= self._most:
                self._refuse_long()

    # -- requests ----------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self._current is None and not self._queue

    def make_room(self) -> None:
        """Close it for another connection."""
        self._all.note("idle connection")
        self._all.unknown.pop(self, None)
        self._deaf = True
        self.transport.close()

    def admitted(self) -> None:
        """Its client has shown the token, or needs none."""
        self._all.unknown.pop(self, None)

    def answered(self, request: Request) -> None:
        """The answer of this request, which was the current one, is sent."""
        self._current = None
        if not request.keep_alive:
            self._queue.clear()
            self._deaf = True
            self.transport.close()
        elif self._queue:
            self._all.loop.call_soon(self._start_next)
        elif self.read_paused:
            self._flow()

    def end(self) -> None:
        """Close it after the answers it owes: the server ends."""
        newest = self._newest()
        if newest is None:
            self._deaf = True
            self.transport.close()
        else:
            newest.keep_alive = False

    def status_line(self, status: int) -> bytes:
        """The first lines of an answer."""
        return self._all.status_line(status)

    def taken(self) -> None:
        """The handler has taken the body so far."""
        self._flow()

    def listen(self) -> None:
        """Read on even if requests wait: the end of the connection could not be seen otherwise. What comes then pauses it again."""
        self._pause(pause=False)

    def _start_next(self) -> None:
        if self._current is None and self._queue:
            self._start(self._queue.popleft())

    def _start(self, request: Request) -> None:
        self._current = request
        self._all.tasks.run(self._all.handle(request), request.ended)

    def _newest(self) -> Request | None:
        """The last request without an answer."""
        return self._queue[-1] if self._queue else self._current

    def _flow(self) -> None:
        """Pause or resume reading: requests wait, or a body does, or neither."""
        reading = self._reading
        full = bool(self._queue) or (reading is not None and reading.size > BACKLOG)
        self._pause(pause=full and not self._deaf)

    def _pause(self, *, pause: bool) -> None:
        if pause == self.read_paused or self.transport.is_closing():
            return
        self.read_paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # -- slow clients ------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Close it if a request takes too long to arrive, or an answer is not read; called about once a second."""
        self._look_for_request(now)
        self._look_for_reader(now)

    def _look_for_request(self, now: float) -> None:
        limits = self._all.limits
        if not self.is_idle or self.transport.is_closing():
            self._idle = self._slow = None
            return
        if self._idle is None or self._idle[0] != self._came:
            self._idle = (self._came, now)
        if not self._begun:
            self._slow = None
        elif self._slow is None or self._slow[0] != self._came:
            self._slow = (self._came, now)
        if self._slow is not None and now - self._slow[1] >= limits.head_s:
            said = f"the head of a request did not come within {limits.head_s:g} s"
            self._refuse(408, said, "slow head")
        elif now - self._idle[1] >= limits.idle_s:
            self._all.note("idle connection")
            self._deaf = True
            self.transport.close()

    def _look_for_reader(self, now: float) -> None:
        # A closing transport writes what is left first, possibly for ever.
        left = self.transport.get_write_buffer_size()
        if not left or not (self.blocked is not None or self.transport.is_closing()):
            self._stalls = None
        elif self._stalls is None or left < self._stalls[0]:
            self._stalls = (left, now)
        elif now - self._stalls[1] >= self._all.limits.stall_s:
            self._all.note("stalled reader")
            self.transport.abort()

    # -- refusals ----------------------------------------------------------------------------------

    def _refuse_bad(self) -> None:
        """Refuse invalid HTTP. Requests before it are answered first."""
        reading, self._reading = self._reading, None
        others = len(self._queue) > 1 or (bool(self._queue) and self._current is not None)
        if reading is not None and others and self._queue[-1] is reading:
            self._queue.pop()  # others are answered before it
        newest = self._newest()
        if newest is None and reading is None:
            self._refuse(400, "this is not a valid HTTP request", "bad http")
            return
        self._all.note("bad http")
        self._deaf = True
        if newest is not None and newest is not reading:
            newest.keep_alive = False
        elif newest is None or newest.started:
            self.transport.close()
        else:
            self._queue.clear()
            self.say(Problem(400, "the body is not valid HTTP/1.1"))

    def _refuse_long(self) -> None:
        newest = self._newest()
        if newest is None:
            self._refuse(431, f"the head of a request is at most {self._most} bytes", "long head")
            return
        self._all.note("long head")
        self._deaf = True
        newest.keep_alive = False
        self._flow()

    def _refuse(self, status: int, detail: str, reason: str) -> None:
        self._all.note(reason)
        self.say(Problem(status, detail, retry_after_s=1 if status == 503 else None))

    def say(self, problem: Problem) -> None:
        """Write it if the client may be listening, and close."""
        self._deaf = True
        if self.transport.is_closing():
            return
        body = problem.body()
        length = (b"content-length", b"%d" % len(body))
        headers = [(b"content-type", MEDIA_TYPE), length, _CLOSE, *problem.headers()]
        lines = [b"%b: %b" % pair for pair in headers]
        self.transport.write(b"\r\n".join([self.status_line(problem.status), *lines, b"", body]))
        self.transport.close()


class RequestHead:
    """The head of a request. Requests may share it, so nobody changes it."""

    __slots__ = ("admitted", "headers", "path", "raw_headers", "target", "verb")

    def __init__(self, verb: str, target: bytes, raw_headers: list[tuple[bytes, bytes]]) -> None:
        """Raises ValueError if the target is not ASCII."""
        self.verb = verb
        self.target = target
        """The path as it was sent, with the query."""
        self.path = _path(target)
        self.raw_headers = raw_headers
        self.headers = dict(raw_headers)
        """By name; the last of a repeated header."""
        self.admitted = False
        """Whether a request with it was admitted."""


class Request:
    """A request on a connection, and its answer, as `Wire` says."""

    is_http_10 = False
    keep_alive = True
    """Whether the connection stays open after the answer."""
    expects = False
    """Whether the client waits until it is told to send the body."""
    size = 0
    """Bytes of the body that have arrived and are not taken."""
    complete = False
    """Whether all of the body has arrived."""
    started = False
    """Whether a part of the answer is sent."""
    answered = False
    """Whether all of it is."""
    disconnected = False
    _left: int | None = None
    """Bytes that the answer's body still needs; None: it is sent in chunks."""
    _news: asyncio.Event | None = None

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        self._connection = connection
        self.head = head
        self.path = head.path
        self.verb = head.verb
        self.raw_headers = head.raw_headers
        self.headers = head.headers
        self._parts: list[bytes] = []

    # -- for its connection ------------------------------------------------------------------------

    def add(self, data: bytes) -> int:
        """A part of the body has arrived; returns how much is not taken yet."""
        if not self.answered:
            self._parts.append(data)
            self.size += len(data)
            if self._news is not None:
                self._tell()
        return self.size

    def finish(self) -> None:
        """All of it has arrived."""
        self.complete = True
        if self._news is not None:
            self._tell()

    def lose(self) -> None:
        """Its client has gone."""
        self.disconnected = True
        self._tell()

    def ended(self, error: BaseException | None) -> None:
        """Its handler has ended; with an error, or without an answer, the client must not wait for one."""
        if error is not None and not isinstance(error, asyncio.CancelledError):
            _log.error("a request was not answered", exc_info=error)
        if self.answered or self.disconnected:
            return
        if self.started or isinstance(error, asyncio.CancelledError):
            self._connection.transport.close()
        else:
            self._connection.say(Problem(500, "the request was not answered"))

    # -- for its handler: Wire ---------------------------------------------------------------------

    @property
    def was_admitted(self) -> bool:
        """As `Wire` says."""
        return self.head.admitted

    def admitted(self) -> None:
        """As `Wire` says."""
        self.head.admitted = True
        self._connection.admitted()

    @property
    def target(self) -> bytes:
        """The path as it was sent, with the query."""
        return self.head.target

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address, if it has one."""
        peer = self._connection.transport.get_extra_info("peername")
        return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None

    @property
    def encrypted(self) -> bool:
        """Whether it came by TLS."""
        return self._connection.transport.get_extra_info("sslcontext") is not None

    def body(self) -> bytes | None:
        """As `Wire` says."""
        if not self.complete or self.expects or self.disconnected:
            return None
        return self._take()

    async def part(self) -> tuple[bytes, bool]:
        """As `Wire` says."""
        if self.expects:
            self.expects = False
            self._connection.transport.write(_CONTINUE)
        while not (self.size or self.complete or self.disconnected or self.answered):
            await self._wait()
        if self.disconnected or self.answered:
            raise CallerGone
        return self._take(), not self.complete

    async def gone(self) -> None:
        """As `Wire` says. It returns after the answer, too."""
        self._connection.listen()
        while not (self.disconnected or self.answered):
            await self._wait()

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """As `Wire` says."""
        connection = self._connection
        if (
            self.disconnected
            or self.started
            or connection.blocked is not None
            or len(body) > LARGE
            or self.verb == "HEAD"
        ):
            return False
        head = self._head(status, headers)
        self.started = True
        connection.transport.write(b"%b\r\n\r\n%b" % (head, body))
        self._done()
        return True

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """As `Wire` says. Raises ValueError for a header with a line break."""
        await self._connection.writable()
        if self.disconnected:
            return
        length = next((value for name, value in headers if name == b"content-length"), None)
        if self.verb == "HEAD" or status in NO_BODY:
            self._left = 0
        elif length is not None:
            self._left = int(length)
        else:
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        head = self._head(status, headers)
        self.started = True
        self._connection.transport.write(head + b"\r\n\r\n")

    async def send(self, data: bytes, *, more: bool) -> None:
        """As `Wire` says. Raises ValueError for more or less than the content-length."""
        connection = self._connection
        if connection.blocked is not None:
            await connection.writable()
        if self.disconnected:
            return
        if self._left is None:
            sent = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            connection.transport.write(sent if more else sent + b"0\r\n\r\n")
        elif self.verb != "HEAD":
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise ValueError("the answer is not as long as its content-length")
            connection.transport.write(data)
        if not more:
            self._done()

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Status line and headers, without the last line break."""
        lines = [b"%b: %b" % pair for pair in headers]
        if _CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        first = self._connection.status_line(status)
        head = b"\r\n".join((first, *lines))
        if head.count(b"\n") != len(lines) + 1:
            raise ValueError("a header of the answer has a line break in it")
        return head

    def _done(self) -> None:
        self.answered = True
        if self.size:
            self._take()
        if self._news is not None:
            self._tell()
        self._connection.answered(self)

    def _take(self) -> bytes:
        parts, self.size = self._parts, 0
        self._parts = []
        if self._connection.read_paused:
            self._connection.taken()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news.clear()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        await self._news.wait()


class _KnownHead:
    """A head that was parsed, as bytes, and the size of a request with it and a body of its content-length."""

    __slots__ = ("data", "head", "size")

    def __init__(self, data: bytes, size: int, head: RequestHead) -> None:
        self.data = data
        self.size = size
        self.head = head


Handle: TypeAlias = Callable[[Request], Coroutine[Any, Any, None]]


def _path(target: bytes) -> str:
    path = target.partition(b"?")[0].partition(b"#")[0].decode("ascii")
    return unquote(path) if "%" in path else path


def _without_upgrade(data: bytes) -> bytes:
    """A request without its Upgrade header: the parser would misread its body.

    Java's clients send one for HTTP/2 with each first request.
    """
    head, end, rest = data.partition(_END)
    return _UPGRADE.sub(b"", head + b"\r\n") + b"\r\n" + rest if end else data
