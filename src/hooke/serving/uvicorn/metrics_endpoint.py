"""The metrics of all replicas of a service, served by the supervisor on a unix socket, with the same checks as a replica's."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

import uvicorn

from hooke.serving.auth import Auth
from hooke.serving.http import Exchange, HttpOptions, Receive, Send
from hooke.serving.limits import BodyMemory, ConnectionLimits
from hooke.serving.metrics import MEDIA_TYPE, Refusals
from hooke.serving.problems import Problem
from hooke.serving.uvicorn.limited_connection import Config, LimitedConnection

__all__ = ["MetricsEndpoint"]

BODY_LIMIT = 0
TIMEOUT_S = 5.0
CONNECTIONS = 64
"""Concurrent connections of the proxy: one for each concurrent scrape."""
END_S = 2.0
VERBS = ("GET", "HEAD")

_log = logging.getLogger("hooke")


class MetricsEndpoint:
    """An ASGI application that answers every path with `text`, in its own thread, from `start` to `close`."""

    def __init__(self, auth: Auth, text: Callable[[], bytes]) -> None:
        """`text` is called in that thread, and may raise Problem."""
        self._auth = auth
        self._text = text
        self._options = HttpOptions(body_limit=BODY_LIMIT, timeout_s=TIMEOUT_S, bodies=BodyMemory(BODY_LIMIT))
        connection_limits = ConnectionLimits(connections=CONNECTIONS)
        config = Config(
            self,  # type: ignore[arg-type] - uvicorn names the types of messages that ASGI leaves open
            http=LimitedConnection,
            loop="asyncio",  # uvloop takes no unix socket that it did not make itself
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(
                connection_limits.idle_s
            ),  # the proxy closes first, since it sends the next request
            timeout_graceful_shutdown=int(END_S),
        )
        refused: Refusals = {}
        config.connection_limits, config.refused = connection_limits, refused
        config.unknown = {}
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def idle_s(self) -> float:
        """An idle connection is closed after so long."""
        return self._server.config.timeout_keep_alive

    def start(self, listening: socket.socket) -> None:
        """Serve on this socket, which is closed at the end."""
        listening.setblocking(False)
        self._thread = threading.Thread(
            target=self._serve, args=(listening,), name="hooke-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(2 * END_S)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; the ASGI interface."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, self._options)
        try:
            self._auth.check(exchange)
            if not self._auth.has_token(exchange):
                raise self._auth.refusal(exchange)
            if exchange.verb not in VERBS:
                allow = ", ".join(VERBS)
                raise Problem(405, f"{exchange.path[:80]} takes {allow}", headers={"allow": allow})
            await exchange.answer(200, self._text(), (b"content-type", MEDIA_TYPE))
        except Problem as problem:
            await exchange.refuse(problem)

    def _serve(self, listening: socket.socket) -> None:
        with listening:
            try:
                asyncio.run(self._server.serve(sockets=[listening]))
            except Exception:  # noqa: BLE001 - whatever it is, the supervisor goes on
                # The proxy answers 503 for metrics from now on; the replicas go on.
                _log.exception("the metrics of all replicas are no longer served")
