"""The routes of the protocol: which server this is, which models it has, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from hooke.serving.calls import Calls
from hooke.serving.exchange import INFERENCE, JSON, Exchange
from hooke.serving.inference.compression import compressed, expanded, wish
from hooke.serving.inference.messages import ServerMetadata
from hooke.serving.inference.models import VERSION, Model, arguments_of, models_of
from hooke.serving.inference.requests import Query, read_request
from hooke.serving.inference.responses import Written
from hooke.serving.inference.writing import Writing
from hooke.serving.payloads import Method
from hooke.serving.problems import Problem
from hooke.serving.routes import Route
from hooke.serving.service import Service

__all__ = ["Inference"]

EXTENSIONS = ("binary_tensor_data", "model_repository")
AT_ONCE = 256 << 10
"""Bytes of a body that are read on the event loop, which others wait for: millions of short texts take a second."""
_HEADER_LENGTH = b"inference-header-content-length"
_TYPES = (None, b"application/json", b"application/octet-stream")
_BINARY = (b"content-type", b"application/octet-stream")


class Inference:
    """Answers the protocol for one replica. `is_ready` tells whether it should get requests."""

    def __init__(
        self, declared: Service, methods: Mapping[str, Method], is_ready: Callable[[], bool]
    ) -> None:
        self.models, self._refused = models_of(declared, methods)
        self._declared = declared
        self._is_ready = is_ready
        self._calls: Calls | None = None
        self._methods: Mapping[str, Method] = {}

    def start(self, calls: Calls, methods: Mapping[str, Method]) -> None:
        """Answer with these methods from now on, which are bound to the service's object."""
        self._calls, self._methods = calls, methods

    def routes(self) -> Iterator[Route]:
        """All that it answers, what is asked most first. Which models there are is not told to who has no token."""
        model = INFERENCE + "/models/{name}"
        for path in (model, model + "/versions/{version}"):
            yield Route(f"{path}/infer", {"POST": self._infer})
        for path in (model, model + "/versions/{version}"):
            yield Route(f"{path}/ready", {"GET": self._tell_model_ready})
            yield Route(path, {"GET": self._tell_model})
        yield Route(INFERENCE, {"GET": self._tell_server})
        yield Route(f"{INFERENCE}/health/live", {"GET": self._tell_live})
        yield Route(f"{INFERENCE}/health/ready", {"GET": self._tell_ready})
        yield Route(f"{INFERENCE}/repository/index", {"POST": self._tell_index})

    async def _tell_server(self, exchange: Exchange) -> None:
        await _tell(ServerMetadata("hooke", version("hooke"), EXTENSIONS), exchange)

    async def _tell_live(self, exchange: Exchange) -> None:
        await _tell({"live": True}, exchange)

    async def _tell_ready(self, exchange: Exchange) -> None:
        await _tell({"ready": self._is_ready()}, exchange, status=200 if self._is_ready() else 503)

    async def _tell_model(self, exchange: Exchange) -> None:
        await _tell(self._model(exchange).metadata(), exchange)

    async def _tell_model_ready(self, exchange: Exchange) -> None:
        ready = {"name": self._model(exchange).name, "ready": self._is_ready()}
        await _tell(ready, exchange, status=200 if self._is_ready() else 503)

    async def _tell_index(self, exchange: Exchange) -> None:
        state = "READY" if self._is_ready() else "UNAVAILABLE"
        listed = [{"name": name, "version": VERSION, "state": state, "reason": ""} for name in self.models]
        await _tell(listed, exchange)

    def _model(self, exchange: Exchange) -> Model:
        """The one that the path names. Raises Problem (404)."""
        name, asked = exchange.parameters["name"], exchange.parameters.get("version", VERSION)
        model = self.models.get(name)
        if model is None:
            if name in self._refused:
                raise Problem(404, f"{name} is no model: {self._refused[name]}")
            raise Problem(404, f"there is no model {name[:80]}; there are {', '.join(self.models) or 'none'}")
        if asked != VERSION:
            raise Problem(404, f"{name} has no version {asked[:80]}; it has {VERSION}")
        return model

    async def _infer(self, exchange: Exchange) -> None:
        model = self._model(exchange)
        if self._calls is None:
            raise Problem(503, f"{self._declared.name} is being set up", retry_after_s=1)
        body, length = await _body(exchange), _header_length(exchange)
        large = len(body) > AT_ONCE
        query, arguments = (
            await asyncio.to_thread(_read, model, body, length) if large else _read(model, body, length)
        )
        method = self._methods[model.method]
        write = Writing(model, self._declared.made_by, query.wanted, query.id)
        answer = await self._calls.call(method, arguments, exchange, write)
        if isinstance(answer, Problem):
            raise answer
        await _send(answer, exchange)


def _read(model: Model, body: bytes, length: int | None) -> tuple[Query, dict[str, Any]]:
    query = read_request(body, length)
    return query, arguments_of(model, query)


async def _tell(value: Any, exchange: Exchange, *, status: int = 200) -> None:
    await exchange.answer(status, msgspec.json.encode(value), JSON)


async def _body(exchange: Exchange) -> bytes:
    """The body as it was before it was compressed. Raises Problem."""
    said = exchange.headers.get(b"content-type")
    if said not in _TYPES and said is not None:
        kind = said.partition(b";")[0].strip().lower()
        if kind not in _TYPES:
            shown = said[:80].decode("latin-1")
            raise Problem(
                415, f"the body is said to be {shown}; send application/json or application/octet-stream"
            )
    body = await exchange.body()
    coding = exchange.headers.get(b"content-encoding", b"identity").strip().lower()
    return body if coding == b"identity" else await expanded(body, coding, exchange.terms.body_limit)


def _header_length(exchange: Exchange) -> int | None:
    said = exchange.headers.get(_HEADER_LENGTH)
    if said is None:
        return None
    if not said.isdigit() or len(said) > 18:
        raise Problem(400, "Inference-Header-Content-Length is no number of bytes")
    return int(said)


async def _send(written: Written, exchange: Exchange) -> None:
    headers = [JSON if written.header_length is None else _BINARY]
    if written.header_length is not None:
        headers.append((_HEADER_LENGTH, b"%d" % written.header_length))
    body = written.body
    coding = wish(exchange.headers.get(b"accept-encoding"))
    if coding is not None:
        smaller = await compressed(body, coding)
        if smaller is not None:
            body = smaller
            headers += [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
    await exchange.answer(200, body, *headers)
