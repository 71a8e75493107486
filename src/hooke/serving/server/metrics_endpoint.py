"""The metrics of all replicas of a service, served by the supervisor on a unix socket, with the same checks as a replica's."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable

from hooke.serving.auth import Auth
from hooke.serving.http import Exchange, HttpOptions, Wire
from hooke.serving.limits import BodyMemory, ConnectionLimits
from hooke.serving.metrics import MEDIA_TYPE
from hooke.serving.problems import Problem
from hooke.serving.server.connection import Connections, keep_looking

__all__ = ["MetricsEndpoint"]

BODY_LIMIT = 0
TIMEOUT_S = 5.0
CONNECTIONS = 64
"""Concurrent connections of the proxy: one for each concurrent scrape."""
END_S = 2.0
TICK_S = 0.1
"""How soon its end is seen."""
VERBS = ("GET", "HEAD")

_log = logging.getLogger("hooke")


class MetricsEndpoint:
    """Answers every path with `text`, in its own thread, from `start` to `close`."""

    def __init__(self, auth: Auth, text: Callable[[], bytes]) -> None:
        """`text` is called in that thread, and may raise Problem."""
        self._auth = auth
        self._text = text
        self._options = HttpOptions(body_limit=BODY_LIMIT, timeout_s=TIMEOUT_S, bodies=BodyMemory(BODY_LIMIT))
        self._limits = ConnectionLimits(connections=CONNECTIONS)
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def idle_s(self) -> float:
        """An idle connection is closed after so long: later than by the proxy, since that sends the next request."""
        return self._limits.idle_s

    def start(self, listening: socket.socket) -> None:
        """Serve on this socket, which is closed at the end."""
        listening.setblocking(False)
        self._thread = threading.Thread(
            target=self._serve, args=(listening,), name="hooke-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(2 * END_S)

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

    def _serve(self, listening: socket.socket) -> None:
        with listening:
            try:
                # uvloop takes no unix socket that it did not make itself
                asyncio.run(self._listen(listening))
            except Exception:  # noqa: BLE001 - whatever it is, the supervisor goes on
                # The proxy answers 503 for metrics from now on; the replicas go on.
                _log.exception("the metrics of all replicas are no longer served")

    async def _listen(self, listening: socket.socket) -> None:
        connections = Connections(self.serve, self._limits, {})
        server = await asyncio.get_running_loop().create_server(connections.make, sock=listening)
        looking = asyncio.create_task(keep_looking(connections))
        while not self._ends.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(TICK_S)
        server.close()
        await connections.end(END_S, at_once=lambda: False)
        looking.cancel()
