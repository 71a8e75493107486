"""The stream keeper: a language model's stream that has begun goes on on another replica if its own one ends.

It is a thread of the proxy's process. Envoy sends it the requests for tokens, and it asks Envoy for them again, at a socket of its own, where the
endpoint picker, limits and further tries are. It keeps each request until it is answered, and of a stream the tokens that its client has:
`serving/openai/resumption.py` says how.
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from hooke.base.this_process import raise_open_files
from hooke.processes.channel import connect_to, listen_at
from hooke.proxy.keeper_config import INNER_SOCKET, KEEPER_HEALTH, KEEPER_SOCKET
from hooke.proxy.known_tokens import KnownTokens
from hooke.proxy.proxy_settings import ProxySettings
from hooke.serving.http import ATTEMPT, Exchange, HttpOptions, Wire
from hooke.serving.limits import SPARE_FILES, BodyMemory, ConnectionLimits
from hooke.serving.metrics import KeeperFacts
from hooke.serving.openai.engine_client import EngineAnswer, EngineClient, EngineLost, Header
from hooke.serving.openai.messages import error_body
from hooke.serving.openai.resumption import ResumedStream, resumed_body, take_marks
from hooke.serving.problems import (
    RESUMABLE_HEADER,
    RESUMED_HEADER,
    STREAM_HEADER,
    VERSION_HEADER,
    Problem,
)
from hooke.serving.request_context import CallerGone, DeadlineWatch
from hooke.serving.server.connection import EndpointThread

__all__ = ["StreamKeeper"]

HEAD_BYTES = 96 << 10
"""More than Envoy lets through."""
MEMORY = 256 << 20
"""Bytes of the bodies above SMALL_BODY that are kept; who comes then is refused by 503, as by a replica without memory."""
DAY_S = 86_400.0
"""Replicas and Envoy say when something takes too long."""
WATCHED_EVERY_S = 0.05
"""How soon it is noticed that a client has left."""
WITHIN_S = 60.0
"""How long another replica is looked for: one that is started anew may load weights."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
"""Between two tries, and twice as long before each further one."""
MOST_FRUITLESS = 2
"""Replicas that may end with a stream before its next token: it may be what ends them."""
AGAIN = frozenset({409, 429, 503})
"""A replica of another version, a full one, or none that is ready."""
_CONNECTIONS_OWN = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"transfer-encoding"})  # fmt: skip
_NOT_ASKED = _CONNECTIONS_OWN | {b"content-length", b"expect", ATTEMPT, STREAM_HEADER.encode()}
_NOT_ANSWERED = _CONNECTIONS_OWN | {b"date", b"x-request-id"}
_RESUMABLE, _RESUMED = RESUMABLE_HEADER.encode(), RESUMED_HEADER.encode()
_VERSION = VERSION_HEADER.encode()

_log = logging.getLogger("hooke")


@dataclass(slots=True, eq=False)
class _Kept:
    """A request, and the tokens of its stream that the client has."""

    exchange: Exchange
    body: bytes
    tokens: array[int] = field(default_factory=lambda: array("q"))
    """In pairs, as in `ResumedStream`: there may be many of them."""
    told: str = ""
    """As in `ResumedStream`."""
    fruitless: int = 0
    """Replicas that have ended since the last token."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What the client may have of it, and the rest: as `take_marks`."""
        new: list[tuple[int, int]] = []
        events, rest = take_marks(data, new)
        if new:
            self.fruitless = 0
            self.tokens.extend(chain.from_iterable(new))
        return events, rest

    def stream(self) -> ResumedStream:
        """For the next replica."""
        numbers = iter(self.tokens)
        return ResumedStream(told=self.told, tokens=list(zip(numbers, numbers, strict=True)))

    def headers(self, more: tuple[Header, ...]) -> list[Header]:
        """Those that the next one gets: without what is of one connection only."""
        instead = {name for name, _ in more}
        sent = [
            pair for pair in self.exchange.raw_headers if pair[0] not in _NOT_ASKED and pair[0] not in instead
        ]
        return [*sent, *more]


class StreamKeeper:
    """Runs from `start` to `close`. Any thread may call its methods."""

    def __init__(self, settings: ProxySettings, *, tokens: KnownTokens) -> None:
        """A request without one of `tokens` is not kept: a replica refuses it by its headers."""
        self._path = settings.folder / KEEPER_SOCKET
        self._tokens = tokens
        self._resumed = self._cut = 0
        self._inner = _Inner(settings.folder / INNER_SOCKET)
        self._client: EngineClient | None = None
        self._watch: DeadlineWatch | None = None
        self._options = HttpOptions(
            body_limit=settings.body_limit,
            timeout_s=settings.timeout_s,
            bodies=BodyMemory(max(MEMORY, settings.body_limit)),
            error_body=error_body,
        )
        # Each takes two: to its client, and to a replica.
        most = min(settings.most_connections, (raise_open_files() - SPARE_FILES) // 2)
        limits = ConnectionLimits(connections=most, head_bytes=HEAD_BYTES)
        self._thread = EndpointThread(self.serve, limits, "hooke-streams")

    def start(self) -> None:
        """Listen. Raises OSError."""
        self._thread.start(listen_at(self._path))

    def close(self) -> None:
        """End, and cut what is open."""
        self._thread.close()
        self._path.unlink(missing_ok=True)

    @property
    def ended(self) -> bool:
        """Whether it keeps nothing any more."""
        return self._thread.ended

    def facts(self) -> KeeperFacts:
        """What it has done."""
        return KeeperFacts(resumed=self._resumed, cut=self._cut)

    async def serve(self, wire: Wire) -> None:
        """Have one request answered. What ends before its last byte is cut, so that no client takes it for the whole."""
        if self._client is None or self._watch is None:
            self._client, self._watch = EngineClient(self._inner, ()), DeadlineWatch(WATCHED_EVERY_S)
        exchange = Exchange(wire, self._options)
        if exchange.path == KEEPER_HEALTH:
            exchange.admitted()
            await exchange.answer(200, b"")
            return
        try:
            allowed = self._tokens.allow(exchange.headers.get(b"authorization", b""))
            if allowed:
                exchange.admitted()
            kept = _Kept(exchange, await exchange.body() if allowed else b"")
            await self._watch.over(self._relay(kept, self._client), exchange.gone, float("inf"))
        except (Problem, EngineLost) as error:
            if not exchange.status:
                said = "the replica ended before its answer; the request may have been done"
                await exchange.refuse(error if isinstance(error, Problem) else Problem(502, said))
        except CallerGone:
            pass
        finally:
            if exchange.held:
                self._options.bodies.give(exchange.held)

    async def _relay(self, kept: _Kept, client: EngineClient) -> None:
        """Pass on an answer, of one replica after the other if need be. Raises EngineLost, Problem."""
        exchange, held = kept.exchange, b""
        answer = await self._ask(kept, client, kept.body, (_RESUMABLE, b"1"))
        try:
            kept.told = answer.header(_RESUMABLE).decode("latin-1") if answer.status == 200 else ""
            dropped = _NOT_ANSWERED | ({_RESUMABLE, b"content-length"} if kept.told else set())
            await exchange.begin(answer.status, *[pair for pair in answer.headers if pair[0] not in dropped])
            while True:
                try:
                    data = await answer.piece()
                except EngineLost:
                    answer.close()
                    held, kept.fruitless = b"", kept.fruitless + 1
                    answer = await self._go_on(kept, client)
                    continue
                if not data:
                    await exchange.end(held)
                    return
                if kept.told:
                    data, held = kept.take(held + data)
                if data:
                    await exchange.piece(data)
        finally:
            answer.close()

    async def _go_on(self, kept: _Kept, client: EngineClient) -> EngineAnswer:
        """The answer of another replica from where the stream is. Raises EngineLost, Problem if there is none."""
        ends, wait_s, tries = time.monotonic() + WITHIN_S, FIRST_WAIT_S, 0
        versions = (kept.exchange.headers.get(_VERSION, b""), b"old", b"new")
        while kept.told and kept.fruitless <= MOST_FRUITLESS and time.monotonic() < ends:
            version = versions[tries % len(versions)]
            try:
                answer = await self._ask_to_go_on(kept, client, version)
            except EngineLost:
                kept.fruitless += 1
                continue
            if answer.status == 200:
                self._resumed += 1
                return answer
            answer.close()
            if answer.status not in AGAIN:
                _log.warning("a stream cannot go on: a replica answered %d", answer.status)
                break
            tries += 1
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        self._cut += 1
        raise EngineLost("no other replica goes on with the stream")

    async def _ask_to_go_on(self, kept: _Kept, client: EngineClient, version: bytes) -> EngineAnswer:
        body, size = resumed_body(kept.body, kept.stream())
        of_version = [(_VERSION, version)] if version else []
        return await self._ask(kept, client, body, (_RESUMABLE, b"1"), (_RESUMED, b"%d" % size), *of_version)

    @staticmethod
    async def _ask(kept: _Kept, client: EngineClient, body: bytes, *more: Header) -> EngineAnswer:
        exchange = kept.exchange
        return await client.ask(
            exchange.verb.encode(), exchange.target, kept.headers(more), body, silence_s=DAY_S
        )


class _Inner:
    """Envoy's socket for the requests that are kept: an `EngineRoad`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def connect(self, make: Any) -> Any:
        """A connection to it. Raises OSError."""
        made = connect_to(self._path)
        made.setblocking(False)
        return await asyncio.get_running_loop().create_unix_connection(make, sock=made)
