"""The activator: the only endpoint that Envoy has while a service has no replica. It holds requests, forwards them, and steps aside.

It is a thread of the proxy's process. Envoy reaches it over a unix socket; each connection is for one request, which goes to a replica byte by
byte, so bodies and answers of any length stream through it.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.processes.channel import listen_at
from hooke.proxy.held_requests import Forward, HeldAnswer, HeldRequests, HoldAction, HoldLimits, Refuse
from hooke.serving.problems import MEDIA_TYPE, Problem

__all__ = ["ACTIVATOR_SOCKET", "Activator", "HoldFacts"]

ACTIVATOR_SOCKET = "activator.sock"
"""In the proxy's folder, which only its owner may enter."""
HEAD_LIMIT = 64 << 10
"""Bytes: twice what Envoy lets through."""
TICK_S = 0.05
CONNECT_S = 1.0
"""As Envoy's own connections."""
STARTED_S = 10.0
PROBES: Mapping[bytes, bytes] = {
    b"/-/health": b'{"state":"idle"}',
    b"/-/ready": b'{"state":"idle"}',
    b"/v2/health/live": b'{"live":true}',
    b"/v2/health/ready": b'{"ready":true}',
}
"""Answered without a replica: a monitor that asks each second must neither start one nor keep one. The next call is answered, so it is ready."""


class HoldFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the activator does."""

    held: int = 0
    arrived: int = 0
    """Requests that it got so far, whatever became of them."""
    passed: int = 0
    """Those that came while a replica was published: on their way when the list of replicas changed."""


class Activator:
    """Runs from `start` to `close`. Any thread may call its methods; `changed` is called in its own."""

    def __init__(
        self,
        folder: Path,
        limits: HoldLimits,
        *,
        tokens: Callable[[], Sequence[str] | None],
        changed: Callable[[], None],
    ) -> None:
        """`tokens` returns the bearer tokens without one of which a request starts no replica, or None; it may raise HookeError."""
        self._path = folder / ACTIVATOR_SOCKET
        self._limits = limits
        self._tokens = tokens
        self._changed = changed
        self._core = HeldRequests(limits)
        self._requests: dict[int, _Request] = {}
        self._last = 0
        self._passed = 0
        self._cold: deque[HeldAnswer] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = threading.Event()
        self._ended = asyncio.Event()
        self._ticking = self._published = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen. Raises OSError."""
        listening = listen_at(self._path)
        listening.setblocking(False)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listening)), name="hooke-activator", daemon=True
        )
        self._thread.start()
        if not self._begun.wait(STARTED_S):
            raise OSError(f"the activator did not listen at {self._path} within {STARTED_S:g} s")

    def close(self) -> None:
        """End, and cut what it holds."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(STARTED_S)
        self._path.unlink(missing_ok=True)

    def serve(self, ports: Sequence[int], *, holding: bool, why: str = "no replica is ready") -> None:
        """Replicas answer at these ports; without any, hold requests, or refuse them and say why."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(partial(self._serve, tuple(ports), holding=holding, why=why))

    def facts(self) -> HoldFacts:
        """Its state."""
        return HoldFacts(held=len(self._core), arrived=self._core.arrived, passed=self._passed)

    def take_cold_starts(self) -> list[HeldAnswer]:
        """The cold starts since the last call."""
        return [self._cold.popleft() for _ in range(len(self._cold))]

    async def _run(self, listening: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_unix_server(lambda: _Request(self), sock=listening)
        self._begun.set()
        async with server:
            await self._ended.wait()
        for request in list(self._requests.values()):
            request.cut()

    def _serve(self, ports: tuple[int, ...], *, holding: bool, why: str) -> None:
        self._published = bool(ports)
        self._perform(self._core.serve(ports, holding=holding, why=why))

    # -- called by its requests, in its thread --------------------------------------------------------

    def arrived(self, request: _Request) -> None:
        """The head of a request is complete."""
        refused = self._refusal(request)
        if refused is not None:
            request.refuse(refused)
            return
        self._last += 1
        request.number = self._last
        self._requests[request.number] = request
        self._passed += self._published
        self._perform(self._core.arrive(request.number, len(request.read), time.monotonic()))
        self._changed()

    def grew(self, request: _Request, size: int) -> None:
        """More of its body was read."""
        self._perform(self._core.grow(request.number, size))

    def left(self, request: _Request) -> None:
        """Its connection has ended."""
        if self._requests.pop(request.number, None) is not None:
            self._core.leave(request.number)
            self._changed()

    def answers(self, request: _Request) -> None:
        """The first byte of its answer came."""
        cold = self._core.answer(request.number, time.monotonic())
        if cold is not None:
            self._cold.append(cold)
            self._changed()

    def _refusal(self, request: _Request) -> Problem | None:
        """The answer to a request without one of the tokens. Their files may be other ones since the last replica."""
        try:
            tokens = self._tokens()
        except HookeError:
            return Problem(503, "the tokens of the service cannot be read", retry_after_s=5)
        scheme, _, shown = request.headers.get(b"authorization", b"").partition(b" ")
        if tokens is None:
            return None
        # All are compared, so that the time tells nothing.
        equal = [hmac.compare_digest(shown.strip(), token.encode()) for token in tokens]
        if scheme.lower() == b"bearer" and any(equal):
            return None
        return Problem(
            401,
            "the bearer token is missing or wrong",
            headers={"www-authenticate": "Bearer"},
            reason="token",
        )

    def probe(self, request: _Request) -> bytes | None:
        """The answer to a health check where there is no replica; None for another request, and where a replica can say more."""
        return PROBES.get(request.path) if request.verb == b"GET" and not self._published else None

    def _perform(self, actions: Sequence[HoldAction]) -> None:
        for action in actions:
            request = self._requests.get(action.request)
            if request is None:
                continue
            match action:
                case Forward(_, port):
                    request.forward(port)
                case Refuse():
                    self._requests.pop(action.request)
                    request.refuse(Problem(action.status, action.detail, retry_after_s=action.retry_after_s))
        if len(self._core) and not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self._perform(self._core.tick(time.monotonic()))

    def unreached(self, request: _Request) -> None:
        """The replica could not be reached."""
        if request.number in self._requests:
            self._core.fail(request.number, len(request.read), request.since)
            self._perform(())


class _Connection(asyncio.Protocol):
    """A connection whose other side is written to as fast as it reads."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @property
    def is_open(self) -> bool:
        """Whether it can be written to."""
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send a part."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        """The other side does not read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """The other side reads again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def cut(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()


class _Request(_Connection):
    """A connection from Envoy, with its one request."""

    def __init__(self, activator: Activator) -> None:
        super().__init__()
        self.number = 0
        self.since = time.monotonic()
        self.read = bytearray()
        """What waits to be forwarded."""
        self.verb = self.path = b""
        self.headers: dict[bytes, bytes] = {}
        self._activator = activator
        self._head = False
        self._refused = False
        self._replica: _Answer | None = None
        self._connecting: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._refused:
            return
        if self._replica is not None:
            self._replica.write(data)
            return
        self.read += data
        if self._head:
            self._activator.grew(self, len(data))
        else:
            self._look_at_head()
        if len(self.read) >= HEAD_LIMIT and not self._refused:
            self._transport.pause_reading()  # `connected` or `reply` goes on

    def eof_received(self) -> bool:
        return False  # Envoy closes a whole connection: the client has gone

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        if self._connecting is not None:
            self._connecting.cancel()
        if self._replica is not None:
            self._replica.cut()
        self._activator.left(self)

    def pause_writing(self) -> None:
        if self._replica is not None:
            self._replica.pause()

    def resume_writing(self) -> None:
        if self._replica is not None:
            self._replica.resume()

    def _look_at_head(self) -> None:
        end = self.read.find(b"\r\n\r\n")
        if end < 0:
            if len(self.read) >= HEAD_LIMIT:
                self.refuse(Problem(431, f"the headers are longer than {HEAD_LIMIT} bytes"))
            return
        self._head = True
        first, *lines = bytes(self.read[:end]).split(b"\r\n")
        self.verb, _, rest = first.partition(b" ")
        self.path = rest.partition(b" ")[0].partition(b"?")[0]
        for line in lines:
            name, _, value = line.partition(b":")
            self.headers[name.lower()] = value.strip()
        # One request a connection: Envoy sends the next one to a replica.
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        self.read[:end] = b"\r\n".join([first, b"connection: close", *kept])
        probed = self._activator.probe(self)
        if probed is not None:
            self.reply(200, b"application/json", probed, [])
        else:
            self._activator.arrived(self)

    def forward(self, port: int) -> None:
        """Send it to the replica at this port."""
        self._connecting = asyncio.create_task(self._connect(port))

    async def _connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: _Answer(self), "127.0.0.1", port)
        except OSError:  # also TimeoutError
            if self._replica is None:
                self._activator.unreached(self)

    def connected(self, replica: _Answer) -> None:
        """The replica can be reached."""
        if not self.is_open:
            replica.cut()
            return
        self._replica = replica
        self.resume()  # before the write, which pauses it again if the replica does not keep up
        replica.write(bytes(self.read))
        self.read.clear()

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem."""
        request_id = self.headers.get(b"x-request-id", b"").decode("latin-1") or None
        body = problem.body(request_id, as_error=True)
        self.reply(problem.status, MEDIA_TYPE, body, problem.headers(), problem.title)

    def reply(
        self, status: int, kind: bytes, body: bytes, headers: Sequence[tuple[bytes, bytes]], title: str = "OK"
    ) -> None:
        """Answer without a replica."""
        assert self._transport is not None
        self._refused = True
        lines = [
            f"HTTP/1.1 {status} {title}".encode(),
            b"content-type: " + kind,
            b"content-length: " + str(len(body)).encode(),
            b"connection: close",
            *(name + b": " + value for name, value in headers),
        ]
        self._transport.resume_reading()  # what is left of a body must not keep the answer from its client
        self._transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self._transport.write_eof()

    def answered(self, data: bytes, *, first: bool) -> None:
        """A part of the answer."""
        if self.is_open and first:
            self._activator.answers(self)
        self.write(data)

    def ended(self, error: Exception | None) -> None:
        """The replica's connection has ended: with the answer, or before it."""
        if self._transport is not None:
            self._transport.abort() if error is not None else self._transport.close()


class _Answer(_Connection):
    """The connection to a replica."""

    def __init__(self, request: _Request) -> None:
        super().__init__()
        self._request = request
        self._first = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._request.connected(self)

    def data_received(self, data: bytes) -> None:
        self._request.answered(data, first=self._first)
        self._first = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._request.ended(exc)

    def pause_writing(self) -> None:
        self._request.pause()

    def resume_writing(self) -> None:
        self._request.resume()
