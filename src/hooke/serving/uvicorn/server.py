"""A replica on uvicorn: one process and one socket until a signal; accepted requests are answered before the end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from hooke.base.errors import HookeError, UsageError
from hooke.journal.service_events import BatchWindow, ModelEvent
from hooke.serving.bind_config import TlsFiles
from hooke.serving.model_calls import freeze_objects
from hooke.serving.replica import Replica
from hooke.serving.stats_windows import next_window_end_s
from hooke.serving.uvicorn.limited_connection import Config, LimitedConnection

__all__ = ["bind", "serve"]

QUIET_S = 0.2
"""A draining replica closes the remaining connections after so long without a request."""
TICK_S = 0.1
"""How soon a signal is seen during setup."""
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
    config = Config(
        replica,  # type: ignore[arg-type] - uvicorn names the types of messages that ASGI leaves open
        http=LimitedConnection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",  # invalid requests are counted, and do not fill the log
        proxy_headers=False,
        server_header=False,
        ssl_certfile=tls.cert if tls is not None else None,
        ssl_keyfile=tls.key if tls is not None else None,
        timeout_keep_alive=max(1, round(replica.connection_limits.idle_s)),
        timeout_graceful_shutdown=int(replica.declared.timeout_s + SPARE_S) + 1,
    )
    config.connection_limits, config.refused = replica.connection_limits, replica.refused
    config.unknown = {}
    server = _Server(config, replica, arguments, ready)
    server.windows, server.unseen = windows, unseen
    if say is not None:
        replica.say = say
    with asyncio.Runner(loop_factory=lambda: _Loop(replica.connection_limits.head_s)) as runner:
        runner.run(server.serve(sockets=[listening]))
    if server.failure is not None:
        raise server.failure
    return replica.cut


class _Loop(uvloop.Loop):
    """Limits a TLS handshake like a head; the default is a minute, and uvicorn has no option for it."""

    def __init__(self, handshake_s: float) -> None:
        super().__init__()
        self._handshake_s = handshake_s

    async def create_server(self, *args: Any, **given: Any) -> Any:
        """As uvloop."""
        if given.get("ssl") is not None:
            given["ssl_handshake_timeout"] = self._handshake_s
        return await super().create_server(*args, **given)


class _Server(uvicorn.Server):
    """Sets the service up while it serves, and drains on a signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        replica: Replica,
        arguments: Callable[[], Mapping[str, Any]],
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self.windows: Callable[[BatchWindow], None] | None = None
        self.unseen = False
        self._replica = replica
        self._arguments = arguments
        self._ready = ready
        self._starting: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._interrupted = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal drains; a second one cuts if either is Ctrl-C's. The process exits by itself, not by the signal.

        Of two simultaneous signals SIGINT is seen first, so the order does not count.
        """
        if self.should_exit and (self._interrupted or sig == signal.SIGINT):
            self.force_exit = True
        self._interrupted = self._interrupted or sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and begin setup; for `unseen` the other way round."""
        if self.unseen:
            self._starting = asyncio.create_task(self._set_up())
            while not self._starting.done() and not self.should_exit:
                await asyncio.wait([self._starting], timeout=TICK_S)
            if not self.should_exit:
                await super().startup(sockets=sockets)
                self._answers()
            return
        await super().startup(sockets=sockets)
        self._starting = asyncio.create_task(self._start())

    async def on_tick(self, counter: int) -> bool:
        """Called every tenth of a second; looks at connections every tenth time."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedConnection):
                    connection.look(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer accepted requests, accept no new ones, and end."""
        self._replica.drain()
        for server in self.servers:
            server.close()
        await self._until_quiet()
        await super().shutdown(sockets=sockets)
        for task in (self._starting, self._reporting):
            if task is not None:
                task.cancel()
        self._report()
        self._replica.close()

    async def _until_quiet(self) -> None:
        """Wait until no request has come for a while: a request on its way must not meet a closed connection."""
        loop = asyncio.get_running_loop()
        last, since = self._replica.answered, loop.time()
        ends = since + self._replica.declared.timeout_s + SPARE_S
        while loop.time() < ends and not self.force_exit and self.server_state.connections:
            await asyncio.sleep(0.02)
            if self._replica.active or self._replica.answered != last:
                last, since = self._replica.answered, loop.time()
            elif loop.time() - since >= QUIET_S:
                return

    async def _start(self) -> None:
        await self._set_up()
        if self.failure is None and self.should_exit:
            self._replica.drain()
        elif self.failure is None:
            self._answers()

    async def _set_up(self) -> None:
        try:
            await self._replica.start(self._arguments)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it ends the process, which reports it
            self.failure = error if isinstance(error, HookeError) else _unset(self._replica, error)
            self.should_exit = True

    def _answers(self) -> None:
        freeze_objects()
        self._ready()
        self._reporting = asyncio.create_task(self._keep_reporting())

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(next_window_end_s(time.time()))
            self._report()

    def _report(self) -> None:
        dispatch = self._replica.dispatch
        if self.windows is not None and dispatch is not None:
            self.windows(dispatch.windows.take(asyncio.get_running_loop().time()))


def _unset(replica: Replica, error: BaseException) -> HookeError:
    made = HookeError(f"{replica.declared.name} cannot be set up: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made
