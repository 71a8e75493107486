"""The routes of the protocol: the server, its models, and inference."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

import msgspec

from hooke.base.distributions import HOOKE_VERSION
from hooke.serving.http import INFERENCE, JSON, Exchange
from hooke.serving.inference.signatures import VERSION, TensorModel, arguments_of, models_of, tensors_of
from hooke.serving.inference.v2_messages import (
    InferenceQuery,
    RequestedOutputs,
    ServerMetadata,
    Written,
    read_request,
    write_response,
)
from hooke.serving.method_calls import MethodCalls
from hooke.serving.payloads import DECODE_ON_LOOP, Method, methods_of, object_bytes, uncollected
from hooke.serving.problems import Problem
from hooke.serving.routes import Route
from hooke.serving.service import Service, service_of

__all__ = ["CODINGS", "Inference", "ResponseWriter", "accepted_coding", "compressed", "expanded"]


# --- Compressed bodies: gzip and deflate, within a limit and off the event loop.

CODINGS = {b"gzip": 31, b"deflate": zlib.MAX_WBITS}
"""Supported codings, with zlib's window bits: `deflate` is zlib's own format."""
_COMPRESS_ON_LOOP = 4 << 10
"""Bytes that are compressed on the event loop: a thread costs more."""
LEAST = 1 << 10
"""A smaller answer gains nothing by compression."""
FAST = 1
"""zlib's level: higher ones hardly shrink numbers further, and take ten times the time."""


def accepted_coding(accepted: bytes | None) -> bytes | None:
    """The coding of an Accept-Encoding that names exactly one.

    A list of all that a client can read, as most send by default, asks for none: on a fast network compression costs more.
    """
    named = accepted.strip().lower() if accepted is not None else b""
    return named if named in CODINGS else None


async def expanded(body: bytes, coding: bytes, limit: int) -> bytes:
    """The body after decompression.

    Raises Problem: 415 for an unknown coding, 413 for more than `limit` bytes, 400 for damaged data.
    """
    if coding not in CODINGS:
        shown = coding[:80].decode("latin-1")
        raise Problem(
            415,
            f"the content encoding {shown} is not supported; send the body uncompressed, or as gzip or deflate",
        )
    return await _off_loop(len(body), _expand, body, coding, limit)


async def compressed(body: bytes, coding: bytes) -> bytes | None:
    """The body in this coding; None if it would not pay."""
    return await _off_loop(len(body), _compress, body, coding) if len(body) >= LEAST else None


async def _off_loop(size: int, function: Any, *arguments: Any) -> Any:
    return (
        function(*arguments) if size <= _COMPRESS_ON_LOOP else await asyncio.to_thread(function, *arguments)
    )


def _expand(body: bytes, coding: bytes, limit: int) -> bytes:
    machine = zlib.decompressobj(CODINGS[coding])
    try:
        made = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise Problem(400, f"the body is not valid {coding.decode()}: {error}") from None
    if len(made) > limit:
        raise Problem(413, f"the body is larger than {limit} bytes after decompression")
    if not machine.eof or machine.unused_data:
        fault = "data follows its end" if machine.eof else "its end is missing"
        raise Problem(400, f"the body is not valid {coding.decode()}: {fault}")
    return made


def _compress(body: bytes, coding: bytes) -> bytes:
    return gzip.compress(body, FAST) if coding == b"gzip" else zlib.compress(body, FAST)


# --- Writes a method's result as a response where the method runs; pickled by the names of its service and model.


class ResponseWriter:
    """Writes one request's response from the method's result. It returns a refusal: raised, it would fail the whole batch."""

    __slots__ = ("_id", "_made_by", "_model", "_wanted")

    def __init__(
        self, model: TensorModel, made_by: type, wanted: RequestedOutputs, request: str | None
    ) -> None:
        self._model = model
        self._made_by = made_by
        self._wanted = wanted
        self._id = request

    def __call__(self, result: Any) -> Written | Problem:
        """The response."""
        model = self._model
        try:
            return write_response(model.name, VERSION, tensors_of(model, result), self._wanted, self._id)
        except Problem as problem:
            return problem

    def __reduce__(self) -> tuple[Any, ...]:
        return _writing, (
            self._made_by,
            self._model.name,
            self._wanted.outputs,
            self._wanted.binary,
            self._id,
        )


def _writing(made_by: type, name: str, outputs: Any, binary: Any, request: str | None) -> ResponseWriter:
    return ResponseWriter(_models(made_by)[name], made_by, RequestedOutputs(outputs, binary), request)


@cache
def _models(made_by: type) -> dict[str, TensorModel]:
    declared = service_of(made_by)
    return models_of(declared, methods_of(declared))[0]


EXTENSIONS = ("binary_tensor_data", "model_repository")
_HEADER_LENGTH = b"inference-header-content-length"
_TYPES = (None, b"application/json", b"application/octet-stream")
_BINARY = (b"content-type", b"application/octet-stream")


class Inference:
    """Serves the protocol for one replica. `is_ready` tells whether it is ready for requests."""

    def __init__(
        self, declared: Service, methods: Mapping[str, Method], is_ready: Callable[[], bool]
    ) -> None:
        self.models, self._refused = models_of(declared, methods)
        self._declared = declared
        self._is_ready = is_ready
        self._calls: MethodCalls | None = None
        self._methods: Mapping[str, Method] = {}

    def start(self, calls: MethodCalls, methods: Mapping[str, Method]) -> None:
        """Serve these methods from now on; they are bound to the service's object."""
        self._calls, self._methods = calls, methods

    def routes(self) -> Iterator[Route]:
        """All routes, the most frequent first. The list of models needs the token."""
        model = INFERENCE + "/models/{name}"
        for path in (model, model + "/versions/{version}"):
            yield Route(f"{path}/infer", {"POST": self._infer})
        for path in (model, model + "/versions/{version}"):
            yield Route(f"{path}/ready", {"GET": self._get_model_ready})
            yield Route(path, {"GET": self._get_model})
        yield Route(INFERENCE, {"GET": self._get_server})
        yield Route(f"{INFERENCE}/health/live", {"GET": self._get_live})
        yield Route(f"{INFERENCE}/health/ready", {"GET": self._get_ready})
        yield Route(f"{INFERENCE}/repository/index", {"POST": self._list_models})

    async def _get_server(self, exchange: Exchange) -> None:
        await _answer_json(ServerMetadata("hooke", HOOKE_VERSION, EXTENSIONS), exchange)

    async def _get_live(self, exchange: Exchange) -> None:
        await _answer_json({"live": True}, exchange)

    async def _get_ready(self, exchange: Exchange) -> None:
        await _answer_json({"ready": self._is_ready()}, exchange, status=200 if self._is_ready() else 503)

    async def _get_model(self, exchange: Exchange) -> None:
        await _answer_json(self._model(exchange).metadata(), exchange)

    async def _get_model_ready(self, exchange: Exchange) -> None:
        ready = {"name": self._model(exchange).name, "ready": self._is_ready()}
        await _answer_json(ready, exchange, status=200 if self._is_ready() else 503)

    async def _list_models(self, exchange: Exchange) -> None:
        state = "READY" if self._is_ready() else "UNAVAILABLE"
        listed = [{"name": name, "version": VERSION, "state": state, "reason": ""} for name in self.models]
        await _answer_json(listed, exchange)

    def _model(self, exchange: Exchange) -> TensorModel:
        """The model in the path. Raises Problem (404)."""
        name, asked = exchange.parameters["name"], exchange.parameters.get("version", VERSION)
        model = self.models.get(name)
        if model is None:
            if name in self._refused:
                raise Problem(404, f"{name} is not a model: {self._refused[name]}")
            raise Problem(404, f"unknown model {name[:80]}; models: {', '.join(self.models) or 'none'}")
        if asked != VERSION:
            raise Problem(404, f"{name} has no version {asked[:80]}; its version is {VERSION}")
        return model

    async def _infer(self, exchange: Exchange) -> None:
        model = self._model(exchange)
        if self._calls is None:
            raise Problem(503, f"{self._declared.name} is being set up", retry_after_s=1)
        body, length = await self._calls.body(_body(exchange)), _header_length(exchange)
        large = len(body) > DECODE_ON_LOOP
        if large:
            values = await asyncio.to_thread(object_bytes, body if length is None else body[:length])
            await self._calls.body(exchange.reserve(max(values, len(body))))
        query, arguments = (
            await asyncio.to_thread(_read, model, body, length) if large else _read(model, body, length)
        )
        method = self._methods[model.method]
        write = ResponseWriter(model, self._declared.made_by, query.wanted, query.id)
        answer = await self._calls.call(method, arguments, exchange, write)
        if isinstance(answer, Problem):
            raise answer
        await _send(answer, exchange)


def _read(model: TensorModel, body: bytes, length: int | None) -> tuple[InferenceQuery, dict[str, Any]]:
    with uncollected() if len(body) > DECODE_ON_LOOP else nullcontext():
        query = read_request(body, length)
        return query, arguments_of(model, query)


async def _answer_json(value: Any, exchange: Exchange, *, status: int = 200) -> None:
    await exchange.answer(status, msgspec.json.encode(value), JSON)


async def _body(exchange: Exchange) -> bytes:
    """The body after decompression. Raises Problem."""
    said = exchange.headers.get(b"content-type")
    if said not in _TYPES and said is not None:
        kind = said.partition(b";")[0].strip().lower()
        if kind not in _TYPES:
            shown = said[:80].decode("latin-1")
            raise Problem(
                415, f"the content type is {shown}; send application/json or application/octet-stream"
            )
    body = await exchange.body()
    coding = exchange.headers.get(b"content-encoding", b"identity").strip().lower()
    return body if coding == b"identity" else await expanded(body, coding, exchange.options.body_limit)


def _header_length(exchange: Exchange) -> int | None:
    said = exchange.headers.get(_HEADER_LENGTH)
    if said is None:
        return None
    if not said.isdigit() or len(said) > 18:
        raise Problem(400, "Inference-Header-Content-Length is not a number of bytes")
    return int(said)


async def _send(written: Written, exchange: Exchange) -> None:
    headers = [JSON if written.header_length is None else _BINARY]
    if written.header_length is not None:
        headers.append((_HEADER_LENGTH, b"%d" % written.header_length))
    body = written.body
    coding = accepted_coding(exchange.headers.get(b"accept-encoding"))
    if coding is not None:
        smaller = await compressed(body, coding)
        if smaller is not None:
            body = smaller
            headers += [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
    await exchange.answer(200, body, *headers)
