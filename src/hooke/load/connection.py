"""One keep-alive connection: a request at a time, whose answer is read by httptools."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from hooke.load.outcomes import Fate

__all__ = ["Connection", "Keeper"]

SAID = 2000
"""Bytes that are kept of an answer that is no 2xx."""


class Keeper(Protocol):
    """Who has connections. `settled` is called once for each request that was sent, then `free` or `gone`."""

    def settled(self, request: int, status: int, said: bytes) -> None:
        """A request has its answer, or never will; `said` begins the body of one that is no 2xx, and is all of another that is kept."""
        ...

    def free(self, connection: Connection) -> None:
        """It can take another request."""
        ...

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        ...


class Connection(asyncio.Protocol):
    """Sends a request and tells its keeper of the answer. `request` is the one in flight, or -1."""

    __slots__ = ("_closing", "_keeper", "_keeps", "_parser", "_said", "_transport", "open", "request")

    def __init__(self, keeper: Keeper, *, keeps: bool = False) -> None:
        """`keeps`: the bodies of 2xx answers, too."""
        self.request = -1
        self.open = True
        self._keeper = keeper
        self._parser = httptools.HttpResponseParser(self)
        self._said = b""
        self._keeps = keeps
        self._closing = False

    @property
    def usable(self) -> bool:
        """Whether a request may be sent on it; the other side may have closed it before we are told."""
        return self.open and not self._transport.is_closing()

    def send(self, request: int, data: bytes) -> None:
        """Send what is to be answered next. Only when it is free."""
        self.request = request
        self._transport.write(data)

    def drop(self) -> None:
        """Close it at once; whatever it would have answered is not waited for."""
        self.request = -1
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has its methods, and is no subclass

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()  # it is lost, as an answer that never came

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """As asyncio calls it."""
        self.open = False
        request, self.request = self.request, -1
        if request >= 0:
            self._keeper.settled(request, Fate.LOST, b"")
        self._keeper.gone(self)

    def on_headers_complete(self) -> None:
        """As httptools calls it."""
        self._closing = not self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """As httptools calls it."""
        if self._parser.get_status_code() < 300:
            self._said += body if self._keeps else b""
        elif len(self._said) < SAID:
            self._said += body[:SAID]

    def on_message_complete(self) -> None:
        """As httptools calls it."""
        status = self._parser.get_status_code()
        if status < 200:
            return  # `100 continue` and its like come before the answer
        request, self.request = self.request, -1
        said, self._said = self._said, b""
        if request < 0:  # nobody asked: it would be taken for the next request's answer
            self.open = False
            self._transport.abort()
            return
        self._keeper.settled(request, status, said)
        if self._closing:
            self.open = False
            self._transport.close()
        else:
            self._keeper.free(self)
