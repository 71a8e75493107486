"""A client for services in this process: requests reach a replica as from its server, without a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import msgspec

from hooke.serving.asgi import Application
from hooke.serving.auth import Auth
from hooke.serving.replica import Replica
from hooke.serving.service import Service, service_of

__all__ = ["ClientResponse", "ServiceClient", "client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientResponse:
    """A replica's response. `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as plain values."""
        return msgspec.json.decode(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """The server-sent events of a stream: each one's name (`message` where it has none) and its data as plain values."""
        return list(_events(self.body.decode()))


def client(made: type, /, **setup: Any) -> ServiceClient:
    """A client for a service of this class, set up with these values, in this process.

    `with client(Delay, model=model) as delay: delay.post("/predict", {"rows": [[1.0]]})`. Requests take the way they take behind a server: read, checked, batched with those of other threads, answered or refused.
    Only the parsing of HTTP and the socket are left out.
    """
    return ServiceClient(service_of(made), setup)


class ServiceClient:
    """Sends requests to one replica, from any thread. A context manager; entering it sets the service up.

    With an `auth` that has a token, requests without the token are refused, as behind a port.
    """

    def __init__(self, declared: Service, setup: Mapping[str, Any], *, auth: Auth | None = None) -> None:
        self.replica = Replica(declared, auth=auth)
        self._application = self.replica.application
        self._setup = setup

    @property
    def service(self) -> Any:
        """The service's object, which answers in a thread of its own; None where it does in a process of its own."""
        return self.replica.made

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hooke-client", daemon=True)
        self._thread.start()
        try:
            self._wait(self.replica.start(partial(dict, self._setup)))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.replica.drain()
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        # Before the loop's thread ends, which would end a process of the model.
        self.replica.close()

    def post(self, path: str, value: Any) -> ClientResponse:
        """`POST` of a JSON object: `delay.post("/predict", {"rows": [[1.0, 2.0]]})`."""
        body = msgspec.json.encode(value)
        return self.request("POST", path, body=body, headers={"content-type": "application/json"})

    def get(self, path: str) -> ClientResponse:
        """`GET`, as health checks do."""
        return self.request("GET", path)

    def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> ClientResponse:
        """Any request at all. `host` and `content-length` are set where `headers` does not."""
        given = {"host": "localhost", "content-length": str(len(body)), **(headers or {})}
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": raw,
        }
        answer: ClientResponse = self._wait(_exchange(self._application, scope, body))
        return answer

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _exchange(application: Application, scope: dict[str, Any], body: bytes) -> ClientResponse:
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    never = asyncio.Event()
    status = 0
    headers: dict[str, str] = {}
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await never.wait()  # this client stays until the answer arrives
        return messages.pop()

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            parts.append(message.get("body", b""))

    await application(scope, receive, send)
    return ClientResponse(status=status, headers=headers, body=b"".join(parts))


def _events(text: str) -> Iterator[tuple[str, Any]]:
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        yield fields.get("event", "message"), msgspec.json.decode(fields["data"])
