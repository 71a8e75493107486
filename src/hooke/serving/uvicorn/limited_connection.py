"""A connection of a replica: uvicorn's, with limits on clients before there is a request, and after its answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from hooke.serving.http import FAST_PATH
from hooke.serving.limits import ConnectionLimits
from hooke.serving.metrics import Refusals
from hooke.serving.problems import MEDIA_TYPE, Problem

__all__ = ["Config", "LimitedConnection"]

LARGE = 64 << 10
"""A larger answer is not copied to be sent together with its head."""
_UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade[ \t]*:[^\r\n]*\r\n")


class Config(uvicorn.Config):
    """uvicorn's, with what a connection needs."""

    connection_limits: ConnectionLimits
    refused: Refusals
    unknown: dict[LimitedConnection, None]
    """Connections whose client has not shown the token, the oldest first."""


class LimitedConnection(HttpToolsProtocol):
    """Reads requests. Each costs a few comparisons here; `look` is called about once a second."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.connection_limits
        self._refused = config.refused
        self._unknown = config.unknown
        self._answering: RequestResponseCycle | None = None
        """The request being answered; others may have arrived after it."""
        self._owed = 0
        """Bytes of an unfinished head."""
        self._waits: tuple[RequestResponseCycle | None, float] | None = None
        """The last request, and since when the next one is waited for."""
        self._deaf = False
        """Whether data is discarded: a head was too long, and earlier requests are still being answered."""
        self._stalls: tuple[int, float] | None = None
        """Unsent bytes of an answer, and since when none was sent."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """If there are too many, close an idle one whose client has not shown the token; without one, refuse this one."""
        super().connection_made(transport)
        self._unknown[self] = None
        if len(self.connections) <= self._limits.connections:
            return
        idle = next((one for one in self._unknown if one is not self and one.is_idle), None)
        if idle is None:
            self._refuse(503, "the service has too many connections", "too many connections")
        else:
            idle.make_room()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete

    def make_room(self) -> None:
        """Close it for another connection."""
        self._note("idle connection")
        self._unknown.pop(self, None)
        self.transport.close()

    def admitted(self) -> None:
        """Its client has shown the token, or needs none."""
        self._unknown.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn, which tells only the newest request that its client has gone."""
        super().connection_lost(exc)
        self._unknown.pop(self, None)
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """As uvicorn, but a head that is too long ends the connection."""
        if self._deaf:
            return
        cycle, scope = self.cycle, self.scope
        between = cycle is None or (cycle.response_complete and not cycle.more_body)
        if between:
            # The rest of a begun head may be only its end, followed by a body.
            if b"pgrade" in data and (scope is None or "method" in scope):
                data = _without_upgrade(data)
            if len(data) > self._limits.head_bytes:
                self._begin_long(data)
                return
        super().data_received(data)
        if self.cycle is not cycle:
            self._owed = 0
            self.cycle.scope[FAST_PATH] = _Direct(self.cycle, self.server_state, self)  # type: ignore[typeddict-unknown-key]
        else:
            # If a head began behind a body, its length is unknown.
            self._count(len(data) if between or self.scope is scope else 1)

    def on_url(self, url: bytes) -> None:
        """Accept a path only: an absolute URL would carry a second, unchecked Host."""
        if not self.url and url[:1] != b"/":
            raise ValueError("the target is no path")
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn, but ignore trailers: they would have no limit."""
        if "method" in self.scope:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value.rstrip(b" \t")))  # whitespace after it is not a part of it

    def on_message_complete(self) -> None:
        """As uvicorn, but also end a body that arrives after its answer."""
        super().on_message_complete()
        self.cycle.more_body = False

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse invalid HTTP."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(400, "this is not a valid HTTP request", "bad http")
            return
        self._note("bad http")
        if not cycle.more_body:
            # It follows a complete request, which is answered first, so that the answers stay in order.
            cycle.keep_alive = False
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            self._say(Problem(400, "the body is not valid HTTP/1.1"))

    def look(self, now: float) -> None:
        """Close it if a request takes too long to arrive, or an answer is not read; called about once a second."""
        self._look_for_request(now)
        self._look_for_reader(now)

    def _look_for_request(self, now: float) -> None:
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            self._waits = None
        elif self._waits is None or self._waits[0] is not cycle:
            self._waits = (cycle, now)
        elif self._owed and now - self._waits[1] >= self._limits.head_s:
            said = f"the head of a request did not come within {self._limits.head_s:g} s"
            self._refuse(408, said, "slow head")
        elif now - self._waits[1] >= self._limits.idle_s:
            self._note("idle connection")
            self.transport.close()

    def _look_for_reader(self, now: float) -> None:
        # A closing transport writes what is left first, possibly for ever.
        left = self.transport.get_write_buffer_size()
        if not left or not (self.flow.write_paused or self.transport.is_closing()):
            self._stalls = None
        elif self._stalls is None or left < self._stalls[0]:
            self._stalls = (left, now)
        elif now - self._stalls[1] >= self._limits.stall_s:
            self._note("stalled reader")
            self.transport.abort()

    def _begin_long(self, data: bytes) -> None:
        """More data than a head may have, at once: the head must end within the limit."""
        most = self._limits.head_bytes
        self.data_received(data[:most])
        if self._owed >= most:
            self._refuse_long()
        elif not self.transport.is_closing():
            self.data_received(data[most:])

    def _count(self, came: int) -> None:
        # uvicorn makes a scope when a head begins, and sets its method when the head has ended.
        self._owed = 0 if self.scope is not None and "method" in self.scope else self._owed + came
        if self._owed > self._limits.head_bytes:
            self._refuse_long()

    def _refuse_long(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._note("long head")
            self._deaf = True
            cycle.keep_alive = False
            return
        said = f"the head of a request is at most {self._limits.head_bytes} bytes"
        self._refuse(431, said, "long head")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """The parser reads no more requests: the answer ends the connection."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _refuse(self, status: int, detail: str, reason: str) -> None:
        self._note(reason)
        self._say(Problem(status, detail, retry_after_s=1 if status == 503 else None))

    def _say(self, problem: Problem) -> None:
        """Write it if the client may be listening, and close."""
        if self.transport.is_closing():
            return
        body = problem.body()
        kind = (b"content-type", MEDIA_TYPE)
        closing = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        lines = [name + b": " + value for name, value in [kind, *closing, *problem.headers()]]
        status = b"HTTP/1.1 %d %b" % (problem.status, problem.title.encode())
        self.transport.write(b"\r\n".join([status, *lines, b"", body]))
        self.transport.close()

    def _note(self, reason: str) -> None:
        self._refused[reason] = self._refused.get(reason, 0) + 1


class _Direct:
    """Takes a body and sends an answer like uvicorn's `receive` and `send`, without their waits and checks of each header."""

    __slots__ = ("_connection", "_cycle", "_state")

    def __init__(
        self, cycle: RequestResponseCycle, state: ServerState, connection: LimitedConnection
    ) -> None:
        self._cycle = cycle
        self._state = state
        self._connection = connection

    def admitted(self) -> None:
        """As `FastPath` says."""
        self._connection.admitted()

    def body(self) -> bytes | None:
        """As `FastPath` says."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue or cycle.response_started:
            return None
        cycle.flow.resume_reading()
        cycle.message_event.clear()  # the next message is the disconnect
        whole = bytes(cycle.body)
        cycle.body = bytearray()
        return whole

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """As `FastPath` says."""
        cycle = self._cycle
        if (
            cycle.disconnected
            or cycle.response_started
            or cycle.flow.write_paused
            or len(body) > LARGE
            or cycle.scope["method"] == "HEAD"
        ):
            return False
        lines = [b"%b: %b" % pair for pair in (*self._state.default_headers, *headers)]
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join((STATUS_LINE[status][:-2], *lines))
        if head.count(b"\n") != len(lines):
            raise ValueError("a header of the answer has a line break in it")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"%b\r\n\r\n%b" % (head, body))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def _without_upgrade(data: bytes) -> bytes:
    """A request without its Upgrade header: the parser would misread its body.

    Java's clients send one for HTTP/2 with each first request.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head + b"\r\n") + b"\r\n" + rest if end else data
