"""ASGI: a replica behind any ASGI server, and ASGI middleware around a replica."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote

from hooke.serving.http import Wire
from hooke.serving.request_context import CallerGone

__all__ = ["Application", "AsgiWire", "Message", "Receive", "Send", "handler_of"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

ADMITTED = "hooke.admitted"
"""The extension of a scope that is called once the client has shown the token."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")


class AsgiWire:
    """A request of an ASGI server, as `Wire` says."""

    was_admitted = False

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.verb: str = scope["method"]
        self.is_http_10 = scope.get("http_version") == "1.0"
        self.raw_headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self.headers = dict(self.raw_headers)
        self._admitted = (scope.get("extensions") or {}).get(ADMITTED)
        self._query = scope.get("query_string", b"")
        self._receive = receive
        self._send = send

    @property
    def target(self) -> bytes:
        """As `Wire` says."""
        path, query = quote(self.path).encode(), bytes(self._query)
        return path + b"?" + query if query else path

    def admitted(self) -> None:
        """As `Wire` says."""
        if self._admitted is not None:
            self._admitted()

    def body(self) -> bytes | None:
        """Never at once."""
        return None

    async def part(self) -> tuple[bytes, bool]:
        """As `Wire` says."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise CallerGone
        return message.get("body", b""), message.get("more_body", False)

    async def gone(self) -> None:
        """As `Wire` says."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:  # noqa: ARG002 - as `Wire`
        """Never: a message must be awaited."""
        return False

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """As `Wire` says."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, *, more: bool) -> None:
        """As `Wire` says."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


class AsgiRequest(Wire, Protocol):
    """A request of a server of ours, with what a scope has."""

    @property
    def target(self) -> bytes:
        """The path as it was sent, with the query."""
        ...

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address."""
        ...

    @property
    def encrypted(self) -> bool:
        """Whether it came by TLS."""
        ...


def handler_of(application: Application) -> Callable[[AsgiRequest], Coroutine[Any, Any, None]]:
    """A handler of requests that has an ASGI application answer them."""

    async def handle(request: AsgiRequest) -> None:
        messages = _Messages(request)
        await application(_scope(request), messages.receive, messages.send)

    return handle


def _scope(request: AsgiRequest) -> dict[str, Any]:
    raw_path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if request.is_http_10 else "1.1",
        "method": request.verb,
        "scheme": "https" if request.encrypted else "http",
        "path": request.path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.raw_headers),
        "client": request.client,
        "server": None,
        "extensions": {ADMITTED: request.admitted},
    }


class _Messages:
    """The messages of one request."""

    def __init__(self, request: AsgiRequest) -> None:
        self._request = request
        self._more = True
        self._start: Message | None = None
        """The begin of the answer, kept for its first bytes: most answers are sent in one piece."""
        self._begun = False

    async def receive(self) -> Message:
        """The next message from the client."""
        try:
            if self._more:
                data, self._more = await self._request.part()
                return {"type": "http.request", "body": data, "more_body": self._more}
            await self._request.gone()
        except CallerGone:
            pass
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a message of the application's. Raises ValueError for one that does not follow, or whose headers are invalid."""
        kind = message["type"]
        if kind == "http.response.start" and self._start is None and not self._begun:
            self._start = {**message, "headers": _checked(message.get("headers", ()))}
            return
        if kind != "http.response.body" or (self._start is None and not self._begun):
            raise ValueError(f"the ASGI message {kind} does not follow the one before it")
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None:
            start, self._start, self._begun = self._start, None, True
            status, headers = start["status"], start["headers"]
            has_length = any(name == b"content-length" and int(value) == len(body) for name, value in headers)
            if has_length and not more and self._request.answer(status, headers, body):
                return
            await self._request.begin(status, headers)
        await self._request.send(body, more=more)


def _checked(headers: Any) -> list[tuple[bytes, bytes]]:
    """The headers in lower case; the server itself says how the body is transferred."""
    made = [(bytes(name).lower(), bytes(value)) for name, value in headers]
    for name, value in made:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name!r} of the answer is invalid")
    return [(name, value) for name, value in made if name != b"transfer-encoding"]
