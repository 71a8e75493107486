"""The endpoint picker: tells Envoy, for each request of a language model's clients, which replica is to answer it.

It is a thread of the proxy's process, and lives as long as Envoy. `picker_config` has Envoy's side, `generation/prompt_balancer.py` the decision. It
answers with no replica's address where it has nothing to say, and with 500 where it fails: then the request goes on, and Envoy counts it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import structs

from hooke.generation.prompt_balancer import AskedPrompt, BalancerFacts, PromptBalancer, read_prompt
from hooke.generation.token_scheduler import TokenLoad
from hooke.processes.channel import listen_at
from hooke.proxy.known_tokens import KnownTokens
from hooke.proxy.picker_config import (
    BODY_SIZE_HEADER,
    MOST_ASKED,
    PICKER_SOCKET,
    REPLICAS_HEADER,
    SEEN_BYTES,
    SESSION_HEADER,
)
from hooke.serving.http import Exchange, HttpOptions, Wire
from hooke.serving.limits import BodyMemory, ConnectionLimits
from hooke.serving.problems import VERSION_HEADER, Problem
from hooke.serving.server.connection import EndpointThread

__all__ = ["EndpointPicker"]

TIMEOUT_S = 5.0
HEAD_BYTES = 96 << 10
"""More than Envoy lets through: a refusal here would refuse the client."""
APPLIED_S = 1.0
"""The longest wait for a change to be in effect; it takes less than a millisecond."""
_SESSION, _VERSION, _SIZE = (name.encode() for name in (SESSION_HEADER, VERSION_HEADER, BODY_SIZE_HEADER))
_REPLICAS = REPLICAS_HEADER.encode()

_log = logging.getLogger("hooke")


class EndpointPicker:
    """Runs from `start` to `close`. Any thread may call its methods."""

    def __init__(self, folder: Path, *, tokens: KnownTokens) -> None:
        """A request without one of `tokens` changes nothing here: a replica refuses it."""
        self._path = folder / PICKER_SOCKET
        self._tokens = tokens
        self._unread = 0
        self._balancer = PromptBalancer()
        self._places: Mapping[str, str] = {}
        limits = ConnectionLimits(connections=2 * MOST_ASKED, head_bytes=HEAD_BYTES)
        self._options = HttpOptions(
            body_limit=SEEN_BYTES, timeout_s=TIMEOUT_S, bodies=BodyMemory(2 * MOST_ASKED * SEEN_BYTES)
        )
        self._thread = EndpointThread(self.serve, limits, "hooke-picker")

    def start(self) -> None:
        """Listen. Raises OSError."""
        self._thread.start(listen_at(self._path))

    def close(self) -> None:
        """End; Envoy then chooses the least busy replica."""
        self._thread.close()
        self._path.unlink(missing_ok=True)

    def facts(self) -> BalancerFacts:
        """What it has done."""
        return structs.replace(self._balancer.facts(), unread=self._unread)

    def load(self, name: str) -> int:
        """Tokens that a replica has to answer, as far as is known here. Raises KeyError for one that is not published."""
        return self._balancer.router.load(name)

    def publish(
        self, places: Mapping[str, str], *, new: Iterable[str] = (), share: float | None = None
    ) -> None:
        """Name these replicas only, by name and address; returns when that is in effect. Other options as in `PublishPorts`."""
        applied = threading.Event()
        told = dict(places)

        def apply() -> None:
            self._places = told
            self._balancer.publish(list(told), new=new, share=share)
            applied.set()

        if self._thread.call(apply) and not applied.wait(APPLIED_S):
            _log.warning("the endpoint picker is busy, and takes a change of the replicas late")

    def report(
        self, name: str, load: TokenLoad | None, *, taken: Sequence[tuple[str, int]], open_calls: int
    ) -> None:
        """A replica has told what it has to do; as `PromptBalancer.report`."""
        self._thread.call(
            lambda: self._balancer.report(name, load, time.monotonic(), taken=taken, open_calls=open_calls)
        )

    async def serve(self, wire: Wire) -> None:
        """Answer one question."""
        exchange = Exchange(wire, self._options)
        exchange.admitted()
        try:
            body = await exchange.body()
            chosen = self._choose(exchange.headers, body)
        except Problem as problem:
            await exchange.answer(500, problem.detail.encode())
        except Exception:  # noqa: BLE001 - whatever it is, the request goes on, and Envoy counts it
            _log.exception("the endpoint picker failed, and the least busy replica gets the request")
            await exchange.answer(500, b"")
        else:
            named = [(_REPLICAS, ",".join(chosen).encode())] if chosen else []
            await exchange.answer(200, b"", *named)

    def _choose(self, headers: Mapping[bytes, bytes], body: bytes) -> list[str]:
        """The addresses of the replicas, the best first; none for a request that is not allowed."""
        if not self._tokens.allow(headers.get(b"authorization", b"")):
            return []
        size = headers.get(_SIZE, b"")
        known = {
            "session": headers.get(_SESSION, b"").decode("latin-1"),
            "identity": headers.get(b"x-request-id", b"").decode("latin-1"),
            "version": headers.get(_VERSION, b"").decode("latin-1"),
        }
        try:
            asked = read_prompt(body, whole=int(size) if size.isdigit() else 0, **known)
        except Exception:  # noqa: BLE001 - with three answers of 500 nobody's prompts would be routed for a while
            if not self._unread:
                _log.exception("a body cannot be read, and goes as one without a prompt; others are counted")
            self._unread += 1
            asked = AskedPrompt(**known)
        return [self._places[name] for name in self._balancer.choose(asked, time.monotonic())]
