"""The routes of the protocol: chat, completions, embeddings, and the models."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from hooke.base.errors import UsageError
from hooke.generation.token_scheduler import TokenLoad
from hooke.serving.http import JSON, OPENAI, Exchange
from hooke.serving.limits import OVER_KEY_LIMIT, TokenReservation
from hooke.serving.method_calls import MethodCalls
from hooke.serving.openai.constraints import TokenConstraint, TokenConstraints, constraining_grammar
from hooke.serving.openai.messages import (
    AnswerWriter,
    AskedAnswer,
    ChatBody,
    CompletionBody,
    EmbeddingsBody,
    read_chat,
    read_completion,
    read_embeddings,
    usage,
)
from hooke.serving.openai.responses import ResponseBody, ResponseEvents, read_response
from hooke.serving.openai.resumption import StreamOrigin, mark, read_resumed
from hooke.serving.openai.sampling import ChosenToken
from hooke.serving.openai.token_engine import GrowingAnswer, TokenEngine, TokenUpdate
from hooke.serving.openai.tools import ToolCall, ToolCallReader, ToolForm, takes_tools
from hooke.serving.problems import PASSED_ON, RESUMABLE_HEADER, Problem, WrongField, too_many
from hooke.serving.routes import Operation, Route
from hooke.serving.service import Service
from hooke.serving.token_metrics import TokenFamily

__all__ = ["CHAT", "UNHURRIED", "OpenAIRoutes"]

CHAT, COMPLETIONS = f"{OPENAI}chat/completions", f"{OPENAI}completions"
RESPONSES = f"{OPENAI}responses"
UNHURRIED = (CHAT, COMPLETIONS, RESPONSES)
"""Paths whose answers take as long as their tokens do, as a stream or whole."""
STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))
TOGETHER = 16 << 10
"""Bytes of events that are written together if they have come already, about."""
A = TypeVar("A", bound=AskedAnswer)
AnyWriter: TypeAlias = AnswerWriter | ResponseEvents
_RESUMABLE = RESUMABLE_HEADER.encode()
LOW = -1
"""The urgency of a request that may wait for others."""


class OpenAIRoutes:
    """Serves the protocol for one replica, once `start` has brought the engine."""

    version = ""
    """As that of its `Replica`."""

    def __init__(self, declared: Service) -> None:
        self._declared = declared
        self._engine: TokenEngine | None = None
        self._calls: MethodCalls | None = None
        self._form: ToolForm | None = None
        """How the model says calls of tools, if it takes any."""
        self._constraints: TokenConstraints | None = None
        self._began = int(time.time())

    def start(self, calls: MethodCalls, made: Any, idle: Callable[[], None] | None = None) -> None:
        """Serve this object, which is set up; `idle` as in `TokenEngine`. Raises UsageError if it lacks what only `setup` knows."""
        lacking = [name for name in ("limits", "end") if not hasattr(made, name)]
        if lacking:
            raise UsageError(
                f"{self._declared.name} has no {' and no '.join(lacking)} after setup",
                fix="set self.limits = hooke.TokenLimits(slots=8, step_tokens=256, context=1024) and self.end = {0}, the tokens that end an answer",
            )
        self._form = takes_tools(made)
        known = getattr(made, "token_bytes", None)
        self._constraints = TokenConstraints(known, made.end) if known is not None else None
        windows = calls.dispatch.windows
        self._engine = TokenEngine(made, self._declared.name, windows.step, self._declared.slo, idle)
        limits, pool = self._engine.limits, self._engine.scheduler.pool
        windows.token_limits = limits.slots, limits.step_tokens, limits.context, pool.pages, pool.page_tokens
        self._calls = calls

    @property
    def broken(self) -> bool:
        """Whether the engine computes nothing any more."""
        return self._engine is not None and self._engine.broken is not None

    @property
    def busy_since(self) -> float | None:
        """As `TokenEngine.busy_since`."""
        return self._engine.busy_since if self._engine is not None else None

    def take_load(self) -> tuple[TokenLoad, tuple[tuple[str, int], ...]] | None:
        """As `TokenEngine.take_load`; None before there is an engine."""
        return self._engine.take_load() if self._engine is not None else None

    def families(self) -> list[TokenFamily]:
        """What is measured of the engine. Any thread may call this."""
        return self._engine.families() if self._engine is not None else []

    def close(self) -> None:
        """End the engine's thread. Called on the event loop, or when that has ended."""
        if self._engine is not None:
            self._engine.close()

    def routes(self) -> Iterator[Route]:
        """All routes."""
        name = self._declared.name
        messages = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
        yield Route(CHAT, {"POST": self._chat}, operation=_operation("A chat.", ChatBody, messages))
        asked = {"model": name, "prompt": "Hello"}
        completion = _operation("A completion of text.", CompletionBody, asked)
        yield Route(COMPLETIONS, {"POST": self._complete}, operation=completion)
        asked = {"model": name, "input": "Hello"}
        response = _operation("A response; nothing of it is kept.", ResponseBody, asked)
        yield Route(RESPONSES, {"POST": self._respond}, operation=response)
        if hasattr(self._declared.made_by, "embed"):
            said = Operation(said="Vectors of texts.", body=EmbeddingsBody, example=asked)
            yield Route(f"{OPENAI}embeddings", {"POST": self._embed}, operation=said)
        yield Route(f"{OPENAI}models", {"GET": self._list}, operation=Operation(said="The model."))
        yield Route(f"{OPENAI}models/{{model}}", {"GET": self._get}, operation=Operation(said="The model."))

    async def _list(self, exchange: Exchange) -> None:
        listed = {"object": "list", "data": [self._model()]}
        await exchange.answer(200, msgspec.json.encode(listed), JSON)

    async def _get(self, exchange: Exchange) -> None:
        self._check_model(exchange.parameters["model"])
        await exchange.answer(200, msgspec.json.encode(self._model()), JSON)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._declared.name,
            "object": "model",
            "created": self._began,
            "owned_by": "hooke",
            **({"max_model_len": self._engine.limits.context} if self._engine is not None else {}),
        }

    def _check_model(self, name: str) -> None:
        if name != self._declared.name:
            said = f"there is no model {name[:80]!r}; this service has {self._declared.name!r}"
            raise Problem(404, said, reason="model_not_found")

    async def _chat(self, exchange: Exchange) -> None:
        await self._answer(exchange, read_chat, AnswerWriter)

    async def _complete(self, exchange: Exchange) -> None:
        await self._answer(exchange, read_completion, AnswerWriter)

    async def _respond(self, exchange: Exchange) -> None:
        await self._answer(exchange, read_response, ResponseEvents)

    def _ready(self) -> tuple[TokenEngine, MethodCalls]:
        if self._engine is None or self._calls is None:
            raise Problem(503, f"{self._declared.name} is being set up", retry_after_s=1)
        return self._engine, self._calls

    async def _answer(
        self, exchange: Exchange, read: Callable[[bytes], A], write: Callable[[A, str, int], AnyWriter]
    ) -> None:
        engine, calls = self._ready()
        body, resumed = self._resumed(exchange, await calls.body(exchange.json_body()))
        asked = read(body)
        self._check_model(asked.model)
        self._check_tokens(asked, engine)
        count = len(asked.prompts) * asked.n
        if count > engine.limits.max_waiting:
            said = f"{count} answers are asked for at once; at most {engine.limits.max_waiting} requests may wait"
            raise Problem(400, said)
        constraints = await self._constrained(asked, count)
        created = int(time.time()) if resumed is None else resumed.origin.created
        writer = write(asked, exchange.id.decode(), created)
        forced = _forced(resumed, asked, writer, count) if resumed is not None else [None] * count
        self._check_room(engine, calls, count, exchange)
        answers = self._answers(asked, exchange, created, forced)
        for answer, constraint in zip(answers, constraints, strict=False):
            answer.constraint = constraint
        marked = bool(self.version) and _RESUMABLE in exchange.headers and asked.stream and writer.resumable
        stream = _Stream(writer, answers, resumed, version=self.version if marked else "")
        try:
            with calls.unbatched(lambda: _broke_slo(engine, answers)):
                engine.submit(answers)
                sent = (
                    self._stream(exchange, stream, engine)
                    if asked.stream
                    else self._whole(exchange, writer, answers)
                )
                await calls.watched(sent, exchange, exchange.path, math.inf)
        except Problem as problem:
            _count_refusal(calls, problem)
            if not exchange.status:
                raise
            # The process ends, and cuts the stream.
            if marked:  # without an end: another replica goes on, with what was paid here
                for each in answers:
                    each.reservation = None
            else:
                await exchange.end(writer.failed(problem))
        finally:
            engine.cancel(answers)
            for each in answers:
                each.end()

    def _resumed(self, exchange: Exchange, body: bytes) -> tuple[bytes, _Resumed | None]:
        """The client's own body, and what is known of its stream if that began on another replica. Raises Problem: 400, 409 if that one had another version."""
        size = exchange.resumed
        if size is None:
            return body, None
        try:
            body, stream = read_resumed(body, size)
            origin = msgspec.json.decode(stream.told, type=StreamOrigin)
        except ValueError as error:
            raise Problem(400, f"resumed stream: {error}") from None
        if not self.version or origin.version != self.version:
            said = f"the stream began on another version of {self._declared.name}, and cannot go on here"
            raise Problem(409, said, reason="another version")
        return body, _Resumed(origin, stream.tokens)

    def _check_tokens(self, asked: AskedAnswer, engine: TokenEngine) -> None:
        """Raises Problem for prompts as tokens that the model may not have."""
        given = [
            each for each in asked.prompts if isinstance(each, list) and each and isinstance(each[0], int)
        ]
        known: int | None = getattr(engine.model, "vocabulary", None)
        if not given:
            return
        if known is None:
            raise Problem(400, f"{self._declared.name} takes prompts as text, not as token ids")
        if max(max(each) for each in given) >= known:
            raise Problem(400, f"prompt: has a token id that is not below {known}")

    async def _constrained(self, asked: AskedAnswer, count: int) -> list[TokenConstraint]:
        """What each answer must follow; none if they are free. Raises Problem for tools and schemas that the model cannot have."""
        if self._form is None:
            if asked.tools is not None:
                raise WrongField("tools", "this service does not support tools")
            if any(_is_of_tools(each) for each in asked.prompts[0] if asked.chat):
                raise WrongField(
                    "messages", "calls of tools and their results are not supported by this service"
                )
        grammar = constraining_grammar(asked.schema, asked.tools, self._form)
        if grammar is None:
            return []
        field = "tools" if asked.schema is None else asked.schema_field
        known = self._constraints
        if known is None:
            raise WrongField(
                field, f"{self._declared.name} cannot keep to a schema: its class has no token_bytes"
            )
        return await asyncio.to_thread(lambda: [known.constraint(grammar, field) for _ in range(count)])

    def _check_room(self, engine: TokenEngine, calls: MethodCalls, count: int, exchange: Exchange) -> None:
        """Raises Problem (429) if so many more may not wait; the proxy asks another replica, if there is one."""
        calls.dispatch.windows.arrived += 1
        if count > engine.room:
            pass_on = exchange.can_pass_on
            calls.dispatch.windows.full(passed_on=pass_on)
            said = f"{engine.limits.max_waiting} requests are already waiting"
            raise too_many(said, retry_after_s=1, pass_on=pass_on)

    def _answers(
        self,
        asked: AskedAnswer,
        exchange: Exchange,
        created: int,
        forced: Sequence[Sequence[int] | None],
    ) -> list[GrowingAnswer]:
        """All answers to all prompts, each with the tokens that it had elsewhere."""
        made = [self._answer_to(asked, at, exchange, created, each) for at, each in enumerate(forced)]
        made[0].identity = exchange.id.decode()
        for at, answer in enumerate(made):
            if at % asked.n:
                answer.like = made[at - at % asked.n]
        return made

    def _answer_to(
        self,
        asked: AskedAnswer,
        at: int,
        exchange: Exchange,
        created: int,
        forced: Sequence[int] | None,
    ) -> GrowingAnswer:
        """The answer of this number."""
        prompt, number = asked.prompts[at // asked.n], at % asked.n
        sampling = asked.sampling
        if number and sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + number)
        return GrowingAnswer(
            prompt=prompt,
            most=asked.most,
            sampling=sampling,
            stop=asked.stop,
            user=exchange.client or asked.user,
            urgency=LOW if exchange.is_low else 0,
            # What the client waits for is its first token, and it has that.
            deadline=time.monotonic()
            + (exchange.timeout_s if forced is None else exchange.options.timeout_s),
            pass_on=exchange.can_pass_on,
            reservation=(
                TokenReservation(exchange.tokens, with_prompt=not number)
                if exchange.tokens is not None and forced is None  # it is paid for
                else None
            ),
            tools=asked.tools,
            reader=(
                ToolCallReader(self._form, f"{exchange.id.decode()} {created} {at}")
                if asked.tools is not None and self._form is not None
                else None
            ),
            forced=forced,
        )

    async def _whole(self, exchange: Exchange, writer: AnyWriter, answers: Sequence[GrowingAnswer]) -> None:
        whole = [await _collected(each) for each in answers]
        for each in answers:
            each.end()
        await exchange.answer(200, writer.whole(whole, _usage(answers, writer.n)), JSON, *_limits(exchange))

    async def _stream(self, exchange: Exchange, stream: _Stream, engine: TokenEngine) -> None:
        updates = await stream.updates()
        try:
            # The first token decides the status: an error before it is a plain refusal.
            following = await anext(updates, None)
            await exchange.begin(200, *STREAM_HEADERS, *_limits(exchange), *stream.headers())
            data = end = b""
            while not end:
                if following is None:
                    end = stream.last()
                    break
                index, update = following
                data += stream.events(index, update)
                if len(data) >= TOGETHER or not stream.has_more(index):
                    await exchange.piece(data)
                    data = b""
                try:
                    following = await anext(updates, None)
                except Problem as problem:
                    if stream.version and problem is engine.broken:
                        await exchange.piece(data)
                        raise
                    end = stream.writer.failed(problem)
            await exchange.end(data + end)
        finally:
            await updates.aclose()

    async def _embed(self, exchange: Exchange) -> None:
        engine, calls = self._ready()
        texts, asked = read_embeddings(await calls.body(exchange.json_body()))
        self._check_model(asked.model)
        self._check_room(engine, calls, 1, exchange)
        with calls.unbatched():
            try:
                embedding = engine.embed(texts, exchange.tokens)
                counts, made = await calls.watched(embedding, exchange, "embeddings")
            except Problem as problem:
                if problem.status == 429:
                    _count_refusal(calls, problem)
                raise
        rows = [
            {
                "object": "embedding",
                "index": at,
                "embedding": _vector(row, base64_text=asked.encoding_format == "base64"),
            }
            for at, row in enumerate(made)
        ]
        used = {"prompt_tokens": counts, "total_tokens": counts}
        answer = {"object": "list", "data": rows, "model": asked.model, "usage": used}
        await exchange.answer(200, msgspec.json.encode(answer), JSON, *_limits(exchange))


@dataclass(frozen=True, slots=True)
class _Resumed:
    """A stream that began on another replica."""

    origin: StreamOrigin
    tokens: Sequence[tuple[int, int]]
    """Those whose events its client has, each behind the number of its answer."""


def _forced(resumed: _Resumed, asked: AskedAnswer, writer: AnyWriter, count: int) -> list[list[int]]:
    """The tokens that each of so many answers had on other replicas. Raises Problem (400)."""
    if not (asked.stream and writer.resumable):
        raise Problem(400, "resumed stream: the answer to this request cannot be resumed")
    forced: list[list[int]] = [[] for _ in range(count)]
    for index, token in resumed.tokens:
        if not 0 <= index < count:
            raise Problem(400, f"resumed stream: there is no answer {index}")
        forced[index].append(token)
    return forced


class _Stream:
    """The events of a request's answers. With a `version` they are marked, and another replica of it may go on with them."""

    def __init__(
        self, writer: AnyWriter, answers: Sequence[GrowingAnswer], resumed: _Resumed | None, *, version: str
    ) -> None:
        self.writer = writer
        self.version = version
        self._answers = answers
        self._resumed = resumed
        self._lengths = [0] * len(answers)
        self._begun: set[int] = set()

    async def updates(self) -> AsyncGenerator[tuple[int, TokenUpdate]]:
        """Of all answers, each with the number of its answer; without those whose events the client has. Raises Problem."""
        ended: set[int] = set()
        for index, _ in self._resumed.tokens if self._resumed is not None else ():
            update = await self._answers[index].next()
            self.events(index, update)
            if update.reason is not None:
                ended.add(index)
        return _merged(self._answers, ended)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the answer: what another replica must know to go on with it."""
        if not self.version:
            return []
        if self._resumed is not None:
            origin = self._resumed.origin
        else:
            begun = all(each.first_at is not None for each in self._answers[:: self.writer.n])
            cached = _reused(self._answers, self.writer.n) if begun else None
            origin = StreamOrigin(version=self.version, created=self.writer.created, cached=cached)
        return [(_RESUMABLE, msgspec.json.encode(origin))]

    def has_more(self, index: int) -> bool:
        """Whether the next update of this answer has come already."""
        return self._answers[index].has_more

    def events(self, index: int, update: TokenUpdate) -> bytes:
        """Those of one update."""
        data = b""
        if index not in self._begun:
            self._begun.add(index)
            data = self.writer.first(index)
        data += self.writer.more(index, update, self._lengths[index])
        for each in update.tokens:
            self._lengths[index] += len(each.text)
        if self.version and update.token is not None:
            data += mark(index, update.token)
        return data

    def last(self) -> bytes:
        """The end."""
        cached = self._resumed.origin.cached if self._resumed is not None else None
        return self.writer.last(_usage(self._answers, self.writer.n, cached))


def _broke_slo(engine: TokenEngine, answers: Sequence[GrowingAnswer]) -> bool | None:
    """Whether one of the answers did; None without an SLO."""
    if any(each.forced is not None for each in answers):
        return False  # the part of it that was here says nothing
    said = [
        engine.promise.broken(
            each.arrived, each.first_at, each.last_at or time.monotonic(), each.answer_tokens
        )
        for each in answers
    ]
    return None if None in said else any(said)


def _count_refusal(calls: MethodCalls, problem: Problem) -> None:
    """Count for the windows what the engine refused. What another replica gets counts there, and what its own key refuses is no load."""
    windows = calls.dispatch.windows
    if problem.status == 429:
        elsewhere = problem.reason in {PASSED_ON, OVER_KEY_LIMIT}
        windows.full(passed_on=elsewhere)
        calls.called -= elsewhere
    windows.late += problem.status == 504


def _limits(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """The headers that say what is left of its key's tokens."""
    said = exchange.tokens.headers(time.monotonic()) if exchange.tokens is not None else {}
    return [(name.encode(), value.encode()) for name, value in said.items()]


def _operation(said: str, body: type, example: dict[str, Any]) -> Operation:
    return Operation(said=said, body=body, example=example, streams=True)


def _is_of_tools(message: Any) -> bool:
    return isinstance(message, dict) and bool(message.get("role") == "tool" or message.get("tool_calls"))


async def _collected(answer: GrowingAnswer) -> TokenUpdate:
    """A whole answer as one update."""
    text, tokens, calls = "", list[ChosenToken](), list[ToolCall]()
    while True:
        update = await answer.next()
        text += update.text
        tokens += update.tokens
        calls += update.calls
        if update.reason is not None:
            return TokenUpdate(text, tokens, update.reason, calls)


async def _merged(
    answers: Sequence[GrowingAnswer], ended: Container[int]
) -> AsyncGenerator[tuple[int, TokenUpdate]]:
    """Updates of all answers that have not ended, as they come, each with the number of its answer."""
    left = {index: each for index, each in enumerate(answers) if index not in ended}
    if len(left) == 1:  # most are: no task is needed
        ((index, answer),) = left.items()
        reason = None
        while reason is None:
            update = await answer.next()
            reason = update.reason
            yield index, update
        return
    waits = {asyncio.ensure_future(each.next()): index for index, each in left.items()}
    try:
        while waits:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                index = waits.pop(one)
                update = one.result()
                if update.reason is None:
                    waits[asyncio.ensure_future(answers[index].next())] = index
                yield index, update
    finally:
        for one in waits:
            one.cancel()


def _reused(answers: Sequence[GrowingAnswer], n: int) -> int:
    """Tokens of prompts, each with `n` answers, that were in memory."""
    return sum(each.request.reused for each in answers[::n] if each.request is not None)


def _usage(answers: Sequence[GrowingAnswer], n: int, cached: int | None = None) -> dict[str, Any]:
    """The count of tokens; a prompt with `n` answers counts once. `cached` as the first replica of a stream counted them."""
    prompts = sum(each.prompt_tokens for each in answers[::n])
    answered = sum(each.answer_tokens for each in answers)
    return usage(prompts, answered, _reused(answers, n) if cached is None else cached)


def _vector(row: np.ndarray, *, base64_text: bool) -> list[float] | str:
    values = np.asarray(row, dtype=np.float32)
    return base64.b64encode(values.tobytes()).decode() if base64_text else values.tolist()
