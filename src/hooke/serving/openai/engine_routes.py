"""The routes of a service whose engine is a program of its own: what is asked under /v1/ goes to it, and its answers come back as they are."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import msgspec

from hooke.serving.http import JSON, OPENAI, Exchange
from hooke.serving.limits import KeyTokens, TokenReservation
from hooke.serving.method_calls import MethodCalls
from hooke.serving.openai.engine_client import EngineAnswer, EngineLost, Header
from hooke.serving.openai.engine_process import EngineProcess
from hooke.serving.openai.messages import error_body
from hooke.serving.openai.openai_routes import UNHURRIED
from hooke.serving.openai.token_engine import IDLE_EVERY_S
from hooke.serving.problems import Problem, too_many
from hooke.serving.request_context import CallerGone
from hooke.serving.routes import Route
from hooke.serving.service import Service
from hooke.serving.token_metrics import TokenFamily, TokenMeter

__all__ = ["ENGINE_UNHURRIED", "EngineRoutes", "unhurried_paths", "usage_of"]

ENGINE_UNHURRIED = (*UNHURRIED, f"{OPENAI}messages")
"""Paths of engines whose answers take as long as their tokens do."""


def unhurried_paths(declared: Service) -> tuple[str, ...]:
    """Those of a service; none if it does not have the protocol."""
    if declared.command is not None:
        return ENGINE_UNHURRIED
    return UNHURRIED if declared.protocol == "openai" else ()


ASKED_HEADERS = (b"content-type", b"accept", b"traceparent", b"tracestate", b"user-agent", b"x-request-id")
"""Headers of the client's that the engine gets. Not among them: the token, cookies, and what is of one connection only. An id is never ours: llama.cpp's server for Python refuses all but UUIDs."""
ANSWERED_HEADERS = (b"content-type", b"cache-control", b"content-encoding", b"content-disposition")
"""Headers of the engine's that the client gets, beside `openai-*`, `x-ratelimit-*` and `retry-after`."""
ANSWERED_STARTS = (b"openai-", b"x-ratelimit-", b"retry-after")
EVENTS = b"text/event-stream"
SHORT = 1 << 20
"""Bytes of an answer that is sent at once."""
ERROR = 64 << 10
"""Bytes of an error that are read."""
LAST = 16 << 10
"""Bytes at the end of a stream in which its usage is looked for."""
OF_ADAPTERS = (f"{OPENAI}load_lora_adapter", f"{OPENAI}unload_lora_adapter")


class EngineRoutes:
    """Passes requests on to the engine of one replica, once `start` has brought it."""

    def __init__(self, declared: Service) -> None:
        assert declared.command is not None
        self._declared = declared
        self._most = declared.command.most_requests
        self._engine: EngineProcess | None = None
        self._calls: MethodCalls | None = None
        self._idle: Callable[[], None] | None = None
        self._inside, self._idle_said = 0, 0.0
        self.meter = TokenMeter(declared.name, inside=False)

    def start(
        self, calls: MethodCalls, engine: EngineProcess, idle: Callable[[], None] | None = None
    ) -> None:
        """Serve this engine, which is ready. `idle` is called when it has nothing more to do, at most once in IDLE_EVERY_S."""
        self._engine, self._calls, self._idle = engine, calls, idle

    @property
    def broken(self) -> bool:
        """Whether the engine has ended."""
        return self._engine is not None and self._engine.failure is not None

    def close(self) -> None:
        """Nothing: the replica ends the engine."""

    def routes(self) -> Iterator[Route]:
        """All routes."""
        for path in ENGINE_UNHURRIED:
            yield Route(path, {"POST": self._ask})
        yield Route(f"{OPENAI}models", {"GET": self._look})
        yield Route(f"{OPENAI}{{rest*}}", {"GET": self._look, "POST": self._ask, "DELETE": self._ask})

    def families(self) -> list[TokenFamily]:
        """The engine's own metrics under vLLM's names; where it has none, what is seen from here."""
        if self._engine is None:
            return []
        own = {each.name: each for each in self._engine.families}
        if own:
            return list(own.values())
        return self.meter.families({"vllm:num_requests_running": self._inside})

    def take_load(self) -> None:
        """Engines do not say which requests their tokens are of: the proxy's balancer and the autoscaler count open requests."""
        return

    async def read_metrics(self) -> None:
        """Read the engine's own metrics now."""
        if self._engine is not None:
            await self._engine.read_metrics()

    def _ready(self) -> tuple[EngineProcess, MethodCalls]:
        if self._engine is None or self._calls is None:
            raise Problem(503, f"{self._declared.name} is being set up", retry_after_s=1)
        if (why := self._engine.unavailable()) is not None:
            raise why
        return self._engine, self._calls

    async def _look(self, exchange: Exchange) -> None:
        """Pass on what asks for no work, such as the list of models."""
        engine, calls = self._ready()
        await calls.watched(self._pass_on(engine, exchange, b""), exchange, exchange.path)

    async def _ask(self, exchange: Exchange) -> None:
        engine, calls = self._ready()
        if exchange.path in OF_ADAPTERS:
            said = "adapters are given in the engine's command (vLLM: --lora-modules NAME=PATH): a request would reach one replica only"
            raise Problem(403, said)
        body = await calls.body(exchange.body())
        share = _KeyShare(exchange.tokens, body) if exchange.tokens is not None else None
        with share or nullcontext(), self._room(exchange, calls), calls.unbatched():
            passing = self._pass_on(engine, exchange, body, share)
            await calls.watched(passing, exchange, exchange.path, math.inf)

    @contextmanager
    def _room(self, exchange: Exchange, calls: MethodCalls) -> Iterator[None]:
        """Raises Problem (429) if the engine has enough; those of low priority leave half of the room to others."""
        calls.dispatch.windows.arrived += 1
        most = -(-self._most // 2) if exchange.is_low else self._most
        if self._inside >= most:
            pass_on = exchange.can_pass_on
            calls.dispatch.windows.full(passed_on=pass_on)
            raise too_many(f"{self._inside} requests are in the engine", retry_after_s=1, pass_on=pass_on)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            now = time.monotonic()
            if self._idle is not None and not self._inside and now - self._idle_said >= IDLE_EVERY_S:
                self._idle_said = now
                self._idle()

    async def _pass_on(
        self, engine: EngineProcess, exchange: Exchange, body: bytes, share: _KeyShare | None = None
    ) -> None:
        headers = [(name, value) for name in ASKED_HEADERS if (value := exchange.headers.get(name))]
        target = _target(exchange)
        if share is not None:
            share.asked = True
        verb = b"GET" if exchange.verb == "HEAD" else exchange.verb.encode()
        try:
            answer = await engine.client.ask(verb, target, headers, body, silence_s=self._declared.timeout_s)
        except EngineLost as error:
            if share is not None:
                share.asked = False
            raise engine.lost(error) from None
        try:
            await self._answer(engine, answer, exchange, share)
        except (EngineLost, Problem) as error:
            problem = error if isinstance(error, Problem) else engine.lost(error)
            if not exchange.status:
                if share is not None and isinstance(error, EngineLost):
                    share.asked = False
                raise problem from None
            if not answer.header(b"content-type").startswith(EVENTS):
                raise CallerGone from None  # a cut connection says that the answer is not whole
            await exchange.end(b"data: " + error_body(problem) + b"\n\n")
        finally:
            answer.close()

    async def _answer(
        self, engine: EngineProcess, answer: EngineAnswer, exchange: Exchange, share: _KeyShare | None
    ) -> None:
        if answer.status >= 300 and share is not None:
            share.asked = False
        if 300 <= answer.status < 400:
            raise Problem(502, f"the engine answers {answer.status}, which is not followed")
        if answer.status >= 400:
            await _refuse(answer, exchange)
            return
        headers = [pair for pair in answer.headers if _is_passed(pair[0])]
        length = answer.header(b"content-length")
        if length.isdigit() and int(length) <= SHORT:
            data = await answer.whole(SHORT + 1)
            if exchange.verb == "POST":  # a list of models comes from engines that hang, too
                engine.spoke_at = time.perf_counter()
            self._ended(exchange, data, share)
            await exchange.answer(answer.status, data, *headers, *_limits(share))
            return
        await exchange.begin(answer.status, *headers, *_limits(share))
        await self._stream(engine, answer, exchange, share)

    async def _stream(
        self, engine: EngineProcess, answer: EngineAnswer, exchange: Exchange, share: _KeyShare | None
    ) -> None:
        """Send what comes as it comes."""
        meter, said = self.meter, time.perf_counter()
        meter_now, last = meter.first, b""
        before = exchange.since
        while data := await answer.piece():
            engine.spoke_at = said = time.perf_counter()
            meter_now(said - before)
            meter_now, before = meter.next, said
            if share is not None:
                share.answered += data.count(b"data:")
            if b'"usage"' in data:
                last = data
            elif last:
                last = (last + data)[-LAST:]
            await exchange.piece(data)
        await exchange.end()
        self._ended(exchange, last, share)

    def _ended(self, exchange: Exchange, data: bytes, share: _KeyShare | None) -> None:
        if exchange.verb != "POST":
            return
        used = usage_of(data)
        self.meter.tokens(**used)
        self.meter.ended("", time.perf_counter() - exchange.since)
        if share is not None:
            share.end(used["prompt"] + used["answer"])


class _Asked(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None


_READ_ASKED = msgspec.json.Decoder(_Asked, strict=False)
_DATA_URLS = re.compile(rb'"data:[^"]*"')
TOKEN_BYTES = 4
"""Of a prompt, about, before the engine has said how many tokens it has."""


class _KeyShare:
    """What a request takes of the tokens of its key: at first what it may use at most, by its body; then what the engine says, or else what was seen.

    A context manager. Entering it raises Problem as `TokenReservation.begin`; leaving it settles what is not settled.
    """

    asked = False
    """Whether the engine works for it, or has done so."""
    answered = 0
    """Events that came, about one for a token."""

    def __init__(self, tokens: KeyTokens, body: bytes) -> None:
        self._tokens = tokens
        self._reservation = TokenReservation(tokens)
        self._ended = False
        self._prompt, self._most = 0, None
        asked = _Asked()
        try:
            asked = _READ_ASKED.decode(body)
        except msgspec.ValidationError:
            pass  # which the engine says, or it has other fields than chats have
        except msgspec.DecodeError:
            return  # a file, of whose tokens its size says nothing
        self._prompt = -(-len(_DATA_URLS.sub(b"", body)) // TOKEN_BYTES)  # without its images
        most = asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens
        if most is not None and most > 0:
            self._most = most * max(asked.n or 1, asked.best_of or 1, 1)

    def __enter__(self) -> None:
        self._reservation.begin(self._prompt, self._most, time.monotonic())

    def __exit__(self, *_: object) -> None:
        self.end(0)

    def end(self, used: int) -> None:
        """The engine has counted so many; 0 if it has not."""
        if not self._ended:
            self._ended = True
            seen = self._prompt + self.answered if self.asked else 0
            self._reservation.end(0, used or seen, time.monotonic())

    def headers(self) -> list[Header]:
        """What is left of the key's tokens."""
        said = self._tokens.headers(time.monotonic())
        return [(name.encode(), value.encode()) for name, value in said.items()]


def _limits(share: _KeyShare | None) -> list[Header]:
    return share.headers() if share is not None else []


def _target(exchange: Exchange) -> bytes:
    """The path and the query for the engine, as the client has sent them. Raises Problem (400) for a path that leaves /v1/."""
    target = exchange.target
    if (
        not target.startswith(OPENAI.encode())
        or ".." in exchange.path.split("/")
        or not _SANE.fullmatch(target)
    ):
        raise Problem(400, f"the path does not stay under {OPENAI}")
    return target


_SANE = re.compile(rb"[!-~]+")


def _is_passed(name: bytes) -> bool:
    return name in ANSWERED_HEADERS or name.startswith(ANSWERED_STARTS)


async def _refuse(answer: EngineAnswer, exchange: Exchange) -> None:
    """Pass an error on; one that has another shape than OpenAI's gets it, so that its clients can read it."""
    data = await answer.whole(ERROR)
    headers = [pair for pair in answer.headers if pair[0].startswith(ANSWERED_STARTS)]
    try:
        said = json.loads(data)
    except ValueError:
        said = data.decode("utf-8", "replace")
    if not (isinstance(said, dict) and isinstance(said.get("error"), dict)):
        data = error_body(Problem(answer.status, _message(said) or "the engine gave no reason"))
    exchange.refused_for = "engine"
    await exchange.answer(answer.status, data, JSON, *headers)


def _message(said: Any) -> str:
    """What an engine says: text, or `detail`, `message`, `error` of an object."""
    if isinstance(said, dict):
        found = next((said[name] for name in ("detail", "message", "error") if said.get(name)), said)
        return found if isinstance(found, str) else json.dumps(found)
    return str(said)


class _Used(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None


def usage_of(data: bytes) -> dict[str, int]:
    """The tokens of the last `usage` in an answer or at the end of a stream: `prompt`, `answer`, and `cached` ones of the prompt; zeros if there is none."""
    found, at = _Used(), data.rfind(b'"usage"')
    while at >= 0:
        begins = data.find(b"{", at)
        if begins >= 0 and not data[at + 7 : begins].strip(b" :\n"):
            try:
                found = msgspec.convert(
                    _DECODER.raw_decode(data[begins:].decode("utf-8", "replace"))[0], _Used
                )
                break
            except (ValueError, msgspec.ValidationError):
                found = _Used()
        at = data.rfind(b'"usage"', 0, at)
    cached = (found.prompt_tokens_details or {}).get("cached_tokens") or 0
    prompt = found.prompt_tokens or found.input_tokens
    return {"prompt": prompt, "answer": found.completion_tokens or found.output_tokens, "cached": cached}


_DECODER = json.JSONDecoder()
