"""The metrics of all replicas of a service, served by the supervisor on a unix socket, with the same checks as a replica's."""

from __future__ import annotations

import socket
from collections.abc import Callable

from hooke.serving.auth import Auth
from hooke.serving.http import Exchange, HttpOptions, Wire
from hooke.serving.limits import BodyMemory, ConnectionLimits
from hooke.serving.metrics import MEDIA_TYPE
from hooke.serving.problems import Problem
from hooke.serving.server.connection import EndpointThread

__all__ = ["MetricsEndpoint"]

BODY_LIMIT = 0
TIMEOUT_S = 5.0
CONNECTIONS = 64
"""Concurrent connections of the proxy: one for each concurrent scrape."""
VERBS = ("GET", "HEAD")


class MetricsEndpoint:
    """Answers every path with `text`, in its own thread, from `start` to `close`."""

    def __init__(self, auth: Auth, text: Callable[[], bytes]) -> None:
        """`text` is called in that thread, and may raise Problem."""
        self._auth = auth
        self._text = text
        self._options = HttpOptions(body_limit=BODY_LIMIT, timeout_s=TIMEOUT_S, bodies=BodyMemory(BODY_LIMIT))
        self._thread = EndpointThread(self.serve, ConnectionLimits(connections=CONNECTIONS), "hooke-metrics")

    @property
    def idle_s(self) -> float:
        """An idle connection is closed after so long: later than by the proxy, since that sends the next request."""
        return self._thread.limits.idle_s

    def start(self, listening: socket.socket) -> None:
        """Serve on this socket, which is closed at the end."""
        self._thread.start(listening)

    def close(self) -> None:
        """Stop serving."""
        self._thread.close()

    async def serve(self, wire: Wire) -> None:
        """Answer one request."""
        exchange = Exchange(wire, self._options)
        try:
            self._auth.check(exchange)
            if not self._auth.has_token(exchange):
                raise self._auth.refusal(exchange)
            exchange.admitted()
            if exchange.verb not in VERBS:
                allow = ", ".join(VERBS)
                raise Problem(405, f"{exchange.path[:80]} takes {allow}", headers={"allow": allow})
            await exchange.answer(200, self._text(), (b"content-type", MEDIA_TYPE))
        except Problem as problem:
            await exchange.refuse(problem)
