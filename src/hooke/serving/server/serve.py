"""A replica's server: one process and one socket until a signal; accepted requests are answered before the end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvloop

from hooke.base.errors import HookeError, UsageError
from hooke.journal.service_events import BatchWindow, ModelEvent
from hooke.serving.asgi import handler_of
from hooke.serving.bind_config import TlsFiles
from hooke.serving.model_calls import freeze_objects
from hooke.serving.replica import Replica
from hooke.serving.server.connection import Connections, keep_looking
from hooke.serving.stats_windows import next_window_end_s

__all__ = ["bind", "serve"]

QUIET_S = 0.2
"""A draining replica closes the remaining connections after so long without a request."""
TICK_S = 0.1
"""How soon a signal is seen."""
SPARE_S = 5.0
"""What a drain may take beyond the service's timeout."""


def bind(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket on this address; port 0 is any free port. Raises UsageError if the port is taken."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        # At once: a second server on this port must fail now, not after loading its model.
        made.listen(2048)
    except OSError as error:
        made.close()
        taken = error.errno == errno.EADDRINUSE
        raise UsageError(
            f"port {port} of {host} is taken"
            if taken
            else f"port {port} of {host} cannot be served: {error.strerror}",
            fix="end what serves there, or take another: --port 0 finds a free one",
        ) from error
    made.setblocking(False)
    return made


def serve(  # noqa: PLR0913 - the replica and its listeners, each by name
    replica: Replica,
    arguments: Callable[[], Mapping[str, Any]],
    listening: socket.socket,
    *,
    ready: Callable[[], None],
    windows: Callable[[BatchWindow], None] | None = None,
    say: Callable[[ModelEvent], None] | None = None,
    tls: TlsFiles | None = None,
    unseen: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the number of requests that were cut. Ctrl-C once more cuts at once.

    `arguments` makes the arguments of `setup`; `ready` is called after setup. `windows` gets a window every few seconds
    and at the end, and `say` the events of a model in a process of its own; both are called on the event loop, and must not wait. During setup requests get 503; `unseen`
    accepts no connection before it is ready, for a socket on which others answer meanwhile. Raises what `Replica.start` raises.
    """
    server = _Server(replica, arguments, ready)
    server.windows, server.unseen = windows, unseen
    if say is not None:
        replica.say = say
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run(listening, tls))
    if server.failure is not None:
        raise server.failure
    return replica.cut


class _Server:
    """Sets the service up while it serves, and drains on a signal."""

    def __init__(
        self,
        replica: Replica,
        arguments: Callable[[], Mapping[str, Any]],
        ready: Callable[[], None],
    ) -> None:
        self.failure: BaseException | None = None
        self.windows: Callable[[BatchWindow], None] | None = None
        self.unseen = False
        self._replica = replica
        self._arguments = arguments
        self._ready = ready
        self._reporting: asyncio.Task[None] | None = None
        self._ends = False
        """Whether it drains, because of a signal or since setup failed."""
        self._cuts = False
        """Whether it waits for no answer."""
        self._interrupted = False

    async def run(self, listening: socket.socket, tls: TlsFiles | None) -> None:
        """Serve until a signal, or until setup fails."""
        with self._signals():
            starting = asyncio.create_task(self._set_up())
            while self.unseen and not starting.done() and not self._ends:
                await asyncio.wait([starting], timeout=TICK_S)
            if not (self.unseen and self._ends):
                await self._listen(listening, tls, starting)
            starting.cancel()
            if self._reporting is not None:
                self._reporting.cancel()
            self._report()
            self._replica.close()

    async def _listen(
        self, listening: socket.socket, tls: TlsFiles | None, starting: asyncio.Task[None]
    ) -> None:
        loop, replica = asyncio.get_running_loop(), self._replica
        limits = replica.connection_limits
        bare = replica.declared.middleware is None  # messages cost as much as the rest
        handle = replica.serve if bare else handler_of(replica.application)
        connections = Connections(handle, limits, replica.refused)
        # A TLS handshake is limited like a head; the default is a minute.
        server = await loop.create_server(
            connections.make,
            sock=listening,
            ssl=_ssl_context(tls) if tls is not None else None,
            ssl_handshake_timeout=limits.head_s if tls is not None else None,
        )
        looking = asyncio.create_task(keep_looking(connections))
        while not self._ends:
            if replica.failure is not None and starting.done():
                self.failure = self.failure or replica.failure
                break
            if self._reporting is None and starting.done():
                freeze_objects()
                self._ready()
                self._reporting = asyncio.create_task(self._keep_reporting())
            await (asyncio.sleep(TICK_S) if starting.done() else asyncio.wait([starting], timeout=TICK_S))
        replica.drain()
        server.close()
        await self._until_quiet(connections)
        limit_s = replica.declared.timeout_s + SPARE_S + 1
        await connections.end(limit_s, at_once=lambda: self._cuts)
        looking.cancel()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        """The first signal drains; a second one cuts if either is Ctrl-C's. The process exits by itself, not by the signal.

        Of two simultaneous signals SIGINT is seen first, so the order does not count.
        """
        self._cuts = self._cuts or (self._ends and (self._interrupted or number == signal.SIGINT))
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._ends = True

    async def _until_quiet(self, connections: Connections) -> None:
        """Wait until no request has come for a while: a request on its way must not meet a closed connection."""
        loop = asyncio.get_running_loop()
        last, since = self._replica.answered, loop.time()
        ends = since + self._replica.declared.timeout_s + SPARE_S
        while loop.time() < ends and not self._cuts and connections.open:
            await asyncio.sleep(0.02)
            if self._replica.active or self._replica.answered != last:
                last, since = self._replica.answered, loop.time()
            elif loop.time() - since >= QUIET_S:
                return

    async def _set_up(self) -> None:
        try:
            await self._replica.start(self._arguments)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it ends the process, which reports it
            self.failure = error if isinstance(error, HookeError) else _unset(self._replica, error)
            self._ends = True
        else:
            if self._ends:
                self._replica.drain()  # it is ready too late

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(next_window_end_s(time.time()))
            self._report()

    def _report(self) -> None:
        dispatch = self._replica.dispatch
        if self.windows is not None and dispatch is not None:
            self.windows(dispatch.windows.take(asyncio.get_running_loop().time()))


def _ssl_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.cert, tls.key)
    return context


def _unset(replica: Replica, error: BaseException) -> HookeError:
    made = HookeError(f"{replica.declared.name} cannot be set up: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made
