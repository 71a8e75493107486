"""One HTTP request and its answer, whatever server has read it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hooke.base.errors import UsageError
from hooke.base.units import parse_seconds
from hooke.serving.limits import PART, SMALL_BODY, BodyMemory, KeyTokens
from hooke.serving.problems import (
    MEDIA_TYPE,
    PRIORITY_HEADER,
    REPEATABLE,
    RESUMED_HEADER,
    RETRY_HEADER,
    STREAM_HEADER,
    TIMEOUT_HEADER,
    Problem,
)
from hooke.serving.request_context import Gone, RequestContext, context_of, request_id_of

__all__ = ["INFERENCE", "JSON", "OPENAI", "Exchange", "HttpOptions", "Wire"]

JSON = (b"content-type", b"application/json")
INFERENCE = "/v2"
"""The path prefix of the Open Inference Protocol."""
OPENAI = "/v1/"
"""That of OpenAI's."""
ATTEMPT = b"x-envoy-attempt-count"
"""The number of times the proxy has sent this request."""
_STREAM = STREAM_HEADER.encode()
_PRIORITY = PRIORITY_HEADER.encode()
_RESUMED = RESUMED_HEADER.encode()
_ONCE_MORE = (RETRY_HEADER.encode(), REPEATABLE.encode())
_CLOSE = ((b"connection", b"close"),)
_DIGITS = 4
"""A content-length of so many digits is a small body's."""
READ_ON = 16 << 20
"""Bytes of an unwanted body that are read and discarded; above that the connection is closed.

A connection closed while bytes arrive is reset, and a proxy may see the reset before the answer: the client would be told
that the replica ended. Discarded bytes take no memory.
"""


class Wire(Protocol):
    """A request as its server has read it, and the way back to its client.

    The answer is one call of `answer`, or one of `begin` and then of `send` until `more` is false.
    """

    path: str
    """Decoded, without the query."""
    verb: str
    is_http_10: bool
    raw_headers: list[tuple[bytes, bytes]]
    """In order, with names in lower case."""
    headers: dict[bytes, bytes]
    """By names; the last of a repeated header."""

    @property
    def target(self) -> bytes:
        """The path as it was sent, with the query."""
        ...

    @property
    def was_admitted(self) -> bool:
        """Whether a request with this very head, all of it, was admitted before."""
        ...

    def admitted(self) -> None:
        """Note that its head passed all checks, and that its client has the token, or needs none."""
        ...

    def body(self) -> bytes | None:
        """The body, once, if all of it has arrived; otherwise None: take it with `part`."""
        ...

    async def part(self) -> tuple[bytes, bool]:
        """The next bytes of the body, and whether more follow. Raises CallerGone."""
        ...

    async def gone(self) -> None:
        """Return when the client has disconnected."""
        ...

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send the whole answer. False if it must wait, and be sent by `begin` and `send`; nothing is done then."""
        ...

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers. Without a content-length, the body is sent in chunks."""
        ...

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send bytes of the body. Waits while the client does not read."""
        ...


@dataclass(slots=True)
class HttpOptions:
    """Options for all requests of a replica."""

    body_limit: int
    """Bytes."""
    timeout_s: float
    """The time limit for a body."""
    bodies: BodyMemory
    """The memory for all bodies."""
    pass_on_bytes: int = 0
    """The proxy asks another replica if this one is full and the body has at most so many bytes. 0: there is no other."""
    error_body: Callable[[Problem], bytes] | None = None
    """Writes errors of paths that begin with OPENAI."""
    closing: bool = False
    """Whether each answer ends its connection."""


class Exchange:
    """A request and the means to answer it. Handlers raise Problem instead of answering."""

    parameters: Mapping[str, str] = {}
    """The path parameters of its route."""
    held = 0
    """Bytes of body memory that it holds until it is answered."""
    status = 0
    """The answer's status, once it began."""
    low_key = False
    """Whether its key is one of low priority."""
    passed_on = False
    """Whether the proxy was made to ask another replica."""
    client = ""
    """The name of the client whose key it has."""
    tokens: KeyTokens | None = None
    """The tokens a minute of that key, if they are limited."""
    refused_for = ""
    """The reason of its refusal."""
    bytes_out = 0
    """Of the answer's body."""
    begun_s: float | None = None
    """When an answer in parts began, after its head."""
    span: Any = None
    """Its span, if it is traced; `traceparent` is that span for others."""
    traceparent: str | None = None
    queued_at = waited_s = 0.0
    """When it began to wait for the model (`perf_counter`), and for how long."""
    batch_rows: int | None = None
    """Rows of the batch that it was in."""
    _read = False
    _size = 0

    def __init__(self, wire: Wire, options: HttpOptions) -> None:
        self.path = wire.path
        self.verb = wire.verb
        self.headers = wire.headers
        """By names in lower case; the last of a repeated header."""
        self.id = request_id_of(self.headers)
        """The request's id, which its answer carries."""
        self.options = options
        self.since = time.perf_counter()
        self._wire = wire

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """All headers, in order."""
        return self._wire.raw_headers

    @property
    def target(self) -> bytes:
        """The path as it was sent, with the query."""
        return self._wire.target

    @property
    def context(self) -> RequestContext:
        """Its id and trace context."""
        made = RequestContext(id=self.id.decode())
        if b"traceparent" in self.headers:
            # A long `tracestate` may come in several headers.
            state = b",".join(value for name, value in self.raw_headers if name == b"tracestate")
            made = context_of(self.id, {**self.headers, b"tracestate": state})
        return made if self.traceparent is None else dataclasses.replace(made, traceparent=self.traceparent)

    def trace_headers(self) -> dict[str, str]:
        """The W3C headers of the client's trace, empty ones if they are not acceptable."""
        context = self.context
        return {"traceparent": context.traceparent or "", "tracestate": context.tracestate or ""}

    @property
    def bytes_in(self) -> int:
        """Of the body, as far as it was read."""
        return self._size

    def admitted(self) -> None:
        """It has the token, or needs none: its connection is not closed to make room for others."""
        self._wire.admitted()

    @property
    def is_http_10(self) -> bool:
        """Whether its version is HTTP/1.0."""
        return self._wire.is_http_10

    @property
    def gone(self) -> Gone:
        """Waits until its client has disconnected."""
        return self._wire.gone

    @property
    def tried(self) -> bool:
        """Whether the proxy has sent it before."""
        return self.headers.get(ATTEMPT, b"1") != b"1"

    @property
    def can_pass_on(self) -> bool:
        """Whether the proxy asks another replica if this one is full, and it is the first that was asked. Known once the body is read."""
        return self.headers.get(ATTEMPT) == b"1" and self._size < self.options.pass_on_bytes

    @property
    def is_low(self) -> bool:
        """Whether its client says that it may be shed first. Raises Problem (400) for a priority that does not exist."""
        said = self.headers.get(_PRIORITY)
        if said is None or said == b"high":
            return self.low_key
        if said != b"low":
            shown = said[:40].decode("latin-1")
            raise Problem(400, f"{PRIORITY_HEADER}: {shown} is not a priority; send high or low")
        return True

    @property
    def timeout_s(self) -> float:
        """How long its client waits for an answer to begin: the service's timeout, or less by its header. Raises Problem (400)."""
        said = self.headers.get(TIMEOUT_HEADER.encode())
        if said is None:
            return self.options.timeout_s
        try:
            asked = parse_seconds(said.decode("latin-1"))
        except UsageError:
            asked = 0.0
        if not asked:
            shown = said[:40].decode("latin-1")
            raise Problem(400, f"{TIMEOUT_HEADER}: {shown} is not a time; send seconds, such as 2s or 500ms")
        return min(asked, self.options.timeout_s)

    @property
    def says_low(self) -> bool:
        """Whether it has the header of low priority."""
        return self.headers.get(_PRIORITY) == b"low"

    @property
    def stream(self) -> bytes | None:
        """Names the request for all its tries; None if it did not come from the proxy of an idempotent service."""
        return self.headers.get(_STREAM)

    @property
    def resumed(self) -> bytes | None:
        """If its stream began on another replica: the bytes at the end of its body that say so."""
        return self.headers.get(_RESUMED)

    def json_body_now(self) -> bytes | None:
        """As `json_body`, if it needs no waiting; otherwise None. Raises Problem (413)."""
        headers = self.headers
        if headers.get(b"content-type") != JSON[1] or b"content-encoding" in headers:
            return None
        if len(headers.get(b"content-length", b"0")) > _DIGITS:
            return None
        whole = self._wire.body()
        return None if whole is None else self._whole(whole)

    async def json_body(self) -> bytes:
        """The body, whose content type must be JSON. Raises Problem: 415, and as `body`."""
        said = self.headers.get(b"content-type")
        if b"content-encoding" in self.headers:
            raise Problem(415, "content-encoding is not supported here; send the body uncompressed")
        if said != JSON[1]:
            if said is None:
                raise Problem(415, "the content type is missing; send content-type: application/json")
            if said.partition(b";")[0].strip().lower() != JSON[1]:
                shown = said[:80].decode("latin-1")
                raise Problem(415, f"the content type is {shown}; send content-type: application/json")
        return await self.body()

    async def body(self) -> bytes:
        """The whole body.

        Raises Problem: 413 if it is, or claims to be, too long; 503 before reading if there is no memory for it;
        408 if it does not arrive in time.
        """
        length = self.headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.options.body_limit:
            raise self._too_large()
        if len(length) > _DIGITS and int(length) > SMALL_BODY:
            await self._take_room(int(length))
        whole = self._wire.body()
        if whole is not None:
            return self._whole(whole)
        try:
            async with asyncio.timeout(self.options.timeout_s):
                return await self._received()
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {self.options.timeout_s:g} s") from None

    async def reserve(self, memory: int) -> None:
        """Hold as much memory for the values of its body as they take, in bytes.

        Bodies count for an eighth of what they may take; more is waited for. Raises Problem: 413 if it is never free, 503.
        """
        size = memory // PART
        if size > max(self.options.bodies.most, self.held):
            raise Problem(
                413,
                f"the values of the body take up to {memory >> 20} MiB of memory, and there is room for {self.options.bodies.most * PART >> 20}: send fewer, or larger arrays",
            )
        if size > self.held:
            await self._take_room(size - self.held)

    def answer_now(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> bool:
        """Send the whole answer, if it needs no waiting; returns whether it is sent."""
        self.status, self.bytes_out = status, len(body)
        return self._wire.answer(status, self._answer_headers(body, headers), body)

    async def answer(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Send the whole answer."""
        if not self.answer_now(status, body, *headers):
            await self._wire.begin(status, self._answer_headers(body, headers))
            await self._wire.send(body, more=False)

    async def refuse(self, problem: Problem) -> None:
        """Send a problem document."""
        kind, write = (b"content-type", MEDIA_TYPE), self.options.error_body
        if write is not None and self.path.startswith(OPENAI):
            kind, body = JSON, write(problem)
        else:
            body = problem.body(self.id.decode(), as_error=self.path.startswith(INFERENCE))
        headers = problem.headers()
        if self.tried:
            headers = [pair for pair in headers if pair != _ONCE_MORE]
        await self.answer(problem.status, body, kind, *headers)

    async def begin(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        """Send status and headers; `piece` and `end` send the body."""
        self.status, self.begun_s = status, time.perf_counter() - self.since
        sent = [*headers, (b"x-request-id", self.id), *self._closing()]
        await self._wire.begin(status, sent)

    async def piece(self, data: bytes) -> None:
        """Send a part of the body."""
        self.bytes_out += len(data)
        await self._wire.send(data, more=True)

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body."""
        self.bytes_out += len(data)
        await self._wire.send(data, more=False)

    async def _take_room(self, size: int) -> None:
        await self.options.bodies.take(size)
        self.held += size

    async def _received(self) -> bytes:
        body = bytearray()
        more = True
        while more:
            data, more = await self._wire.part()
            body += data
            if len(body) > self.options.body_limit:
                raise self._too_large()
            if len(body) > self.held + SMALL_BODY:  # its length was not declared
                await self._take_room(min(2 * len(body), self.options.body_limit) - self.held)
        self._read = True
        self._size = len(body)
        return bytes(body)

    def _whole(self, body: bytes) -> bytes:
        if len(body) > self.options.body_limit:
            raise self._too_large()
        self._read = True
        self._size = len(body)
        return body

    def _answer_headers(
        self, body: bytes, headers: tuple[tuple[bytes, bytes], ...]
    ) -> list[tuple[bytes, bytes]]:
        length = (b"content-length", b"%d" % len(body))
        closing = () if self._read and not self.options.closing else self._closing()
        return [*headers, length, (b"x-request-id", self.id), *closing]

    def _closing(self) -> tuple[tuple[bytes, bytes], ...]:
        if self.options.closing:
            return _CLOSE
        if self._read:
            return ()
        if self.status in {408, 413}:
            return _CLOSE
        # So much of the body may be left that closing the connection is better than reading on.
        if b"expect" in self.headers:
            return _CLOSE  # a client without 100-continue may send the body, or the next request
        length = self.headers.get(b"content-length", b"0")
        much = b"transfer-encoding" in self.headers or not length.isdigit() or int(length) > READ_ON
        return _CLOSE if much else ()

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self.options.body_limit} bytes")
