"""A TCP proxy that makes a network bad: slow, half open, closed to all, or reset, from one moment to the next.

    with ChaosProxy(("127.0.0.1", 8080)) as proxy:
        client = connect(proxy.address)
        proxy.delay_s = 0.2
        proxy.reset()

For kernels without `netem`, and where only one connection shall suffer. Bytes are passed on as they come, in
order and unchanged; it knows nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Self

__all__ = ["ChaosProxy"]

READ_BYTES = 1 << 16
MOST_WAITING = 256
"""Pieces on their way in one direction: 16 MiB, as much as a long fat network holds."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: what is not sent is dropped, and the other side gets RST."""


class ChaosProxy:
    """Forwards `address`, a free port of the loopback unless `listen` says another, to `target`.

    `delay_s` is added to each direction, also of connections that are open. `swallow()` makes all half open: what
    comes is read and lost, nobody is told. `reset()` ends all with RST; `refuse()` makes the port closed. `heal()`
    ends refusing and swallowing; what was swallowed stays lost, as a broken stream: its connection is reset.
    """

    def __init__(
        self, target: tuple[str, int], *, listen: tuple[str, int] = ("127.0.0.1", 0), delay_s: float = 0.0
    ) -> None:
        """Raises OSError where `listen` is taken."""
        self.delay_s = delay_s
        self._target = target
        self._swallowing = False
        self._open: set[_Pair] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hooke-chaos-proxy", daemon=True)
        self._thread.start()
        self.address = listen
        try:
            self._call(self._listen())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def swallow(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._swallowing = True

    def reset(self) -> None:
        """End every open connection, on both sides, with RST."""
        self._call(self._reset())

    def refuse(self) -> None:
        """Take no new connection: the port is closed. Open ones go on."""
        self._call(self._refuse())

    def heal(self) -> None:
        """Be a good network again."""
        self._call(self._heal())

    def close(self) -> None:
        """End it, and every connection; idempotent."""
        if self._loop.is_closed():
            return
        self._call(self._refuse())
        self._call(self._reset())
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- inside: all of it runs in the proxy's own thread --------------------------------------------

    def _call(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, *self.address)
        self.address = self._listener.sockets[0].getsockname()[:2]

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _heal(self) -> None:
        self._swallowing = False
        for pair in list(self._open):
            if pair.lossy:
                pair.reset()
        if self._listener is None:
            await self._listen()

    async def _reset(self) -> None:
        pairs = list(self._open)
        for pair in pairs:
            pair.reset()
        await asyncio.gather(*(pair.ended.wait() for pair in pairs))

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._open.add(pair)
        try:
            upstream, pair.upstream = await asyncio.open_connection(*self._target)
            pair.tasks = [
                asyncio.ensure_future(self._pump(pair, reader, pair.upstream)),
                asyncio.ensure_future(self._pump(pair, upstream, writer)),
            ]
            await asyncio.gather(*pair.tasks)
        except (OSError, asyncio.CancelledError):
            pair.reset()
        finally:
            pair.close()
            self._open.discard(pair)
            pair.ended.set()

    async def _pump(self, pair: _Pair, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Bytes wait beside one another, so that a delay takes nothing from the rate."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_WAITING)
        await asyncio.gather(self._take(pair, source, waiting), self._give(sink, waiting))

    async def _take(
        self, pair: _Pair, source: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        while data := await source.read(READ_BYTES):
            if self._swallowing:
                pair.lossy = True
            else:
                await waiting.put((clock() + self.delay_s, data))
        if self._swallowing:
            await (
                asyncio.get_running_loop().create_future()
            )  # an end is news, too: it is kept until the pair is reset
        await waiting.put((clock() + self.delay_s, b""))

    async def _give(self, sink: asyncio.StreamWriter, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - clock())
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()


class _Pair:
    """The two sides of a connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.lossy = False
        self.ended = asyncio.Event()

    def reset(self) -> None:
        """End both sides with RST, and what pumps between them."""
        for writer in self._writers():
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        for task in self.tasks:
            task.cancel()

    def close(self) -> None:
        for writer in self._writers():
            writer.close()

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [self.client] if self.upstream is None else [self.client, self.upstream]
