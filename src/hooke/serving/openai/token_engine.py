"""Runs a language model step by step in a thread of its own, for all requests together; answers grow on the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import math
import operator
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec
import numpy as np

from hooke.generation.page_pool import PagePool
from hooke.generation.token_scheduler import (
    StepWork,
    TokenLimits,
    TokenLoad,
    TokenRequest,
    TokenScheduler,
    TokenStep,
)
from hooke.serving.admission import TokenPromise
from hooke.serving.limits import KeyTokens, TokenReservation
from hooke.serving.openai.constraints import TokenConstraint
from hooke.serving.openai.sampling import ChosenToken, TokenChooser, TokenSampling
from hooke.serving.openai.tools import AskedTools, ToolCall, ToolCallReader, overlap
from hooke.serving.problems import Problem, problem_of, too_many
from hooke.serving.slo import Slo
from hooke.serving.token_metrics import TokenFamily, TokenMeter

__all__ = ["IDLE_EVERY_S", "GrowingAnswer", "TokenEngine", "TokenModel", "TokenPiece", "TokenUpdate"]

CONTEXT_EXCEEDED = "context_length_exceeded"
CONTEXT_TOKENS = 5
"""Tokens of the prompt with which the first one of an answer is decoded: some begin with a space only behind others."""
DECODED_TOKENS = 8
"""Tokens that are decoded again with each further one, at most: one call of `decode` is enough for most of them."""
MOST_PARTS = 8
"""Tokens that may be parts of one letter; after more, they are said as they are."""
LOAD_EVERY_S, IDLE_EVERY_S = 0.1, 0.05
BEGIN_S = 0.01
"""For new requests between two steps, whose prompts are encoded there."""
EMBEDDED_TEXTS = 32
"""Texts that are counted or embedded between two steps."""
MOST_TAKEN = 4096
"""Requests that were taken and not reported: nobody asks if there is no supervisor."""
END_S = 1.0
"""How long the end of the process waits for a step, which may take for ever."""


class TokenPiece(msgspec.Struct, frozen=True, kw_only=True):
    """What a step computes of one request: `tokens`, of which the first is the request's token number `start`.

    `pages` hold the request's keys and values: its token number `i` is in page `pages[i // page_tokens]` at `i % page_tokens`. Those
    before `start` are there. If it `gives_token`, the step returns logits for the token after the last of `tokens`.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    gives_token: bool


class TokenModel(Protocol):
    """What a service with `protocol="openai"` has beside `setup`. All of it is called in one thread, which is not that of `setup`.

    `limits` says how much fits, `end` are the tokens that end an answer. With `vocabulary`, the number of tokens, prompts may be tokens, too. With `embed(texts)`, which returns an array (texts, dimensions), it
    answers `/v1/embeddings`, too.

    If `encode` has a parameter `tools`, chats may have tools: a list of `{"type": "function", "function": {"name", "description", "parameters"}}`, as
    chat templates take them. A call in an answer is `{"name": "f", "arguments": {}}` between `tool_marks`, by default `<tool_call>` and `</tool_call>`;
    `read_tool_calls(text)`, which returns pairs of a name and arguments, reads another form, and raises ValueError for what is not a call.
    With `token_bytes`, the text of each token as bytes, answers follow a JSON Schema; tokens that no text has are empty.
    """

    limits: TokenLimits
    end: Collection[int]

    def encode(self, prompt: str | list[dict[str, Any]]) -> Sequence[int]:
        """The tokens of a text, or of the messages of a chat."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text."""

    def step(self, pieces: Sequence[TokenPiece]) -> Any:
        """Compute the pieces, keep their keys and values, and return the logits (n, vocabulary) of the n that give a token, in order."""


class TokenUpdate(NamedTuple):
    """What has come of an answer. `reason` says why it has ended: `stop`, `length` or `tool_calls`."""

    text: str
    tokens: Sequence[ChosenToken]
    reason: str | None = None
    calls: Sequence[ToolCall] = ()
    token: int | None = None
    """The token that made it, also one that ended the answer and is not among `tokens`; None if several did."""


@dataclass(eq=False, kw_only=True)
class GrowingAnswer:
    """One answer to one prompt. `next` waits for its updates."""

    prompt: str | list[dict[str, Any]] | list[int]
    like: GrowingAnswer | None = None
    """An answer to the same prompt that was submitted before: the prompt is encoded once."""
    encoded: tuple[list[int], tuple[bytes, ...]] | Problem | None = None
    """The tokens of the prompt, and the names of its full pages; or why there are none."""
    most: int | None
    """Tokens of the answer; None: as many as fit."""
    sampling: TokenSampling = field(default_factory=TokenSampling)
    stop: tuple[str, ...] = ()
    user: str = ""
    urgency: int = 0
    deadline: float = math.inf
    """Of the monotonic clock: it must have begun by then."""
    pass_on: bool = False
    """Whether the proxy asks another replica if it would begin too late here."""
    arrived: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    """When it had its first token."""
    last_at: float = 0.0
    """When it had its last one."""
    reservation: TokenReservation | None = None
    """The tokens of its key that it may use."""
    identity: str = ""
    """The id of its HTTP request, for the first of its answers: it is reported once it is counted."""
    tools: AskedTools | None = None
    reader: ToolCallReader | None = None
    """Finds the calls of tools."""
    constraint: TokenConstraint | None = None
    forced: Sequence[int] | None = None
    """The tokens that it had on another replica, and goes on after, with one that ended it there; None: it begins here."""
    request: TokenRequest | None = None
    tokens: list[int] = field(default_factory=list)
    """The prompt's, then the answer's."""
    cancelled: bool = False
    _updates: deque[TokenUpdate | Problem] = field(default_factory=deque)
    _waits: asyncio.Future[None] | None = None
    _chooser: TokenChooser | None = None
    _text: str = ""
    """Decoded, and not passed on: it may be the beginning of a stop."""
    _from: int = 0
    _to: int = 0
    """Tokens before `_from` are decoded with others before them, those before `_to` are decoded."""
    _before: str | None = ""
    """The text of those between; None: it is not known yet."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, once it has begun."""
        return self.request.prompt if self.request is not None else 0

    @property
    def answered(self) -> list[int]:
        """Tokens of the answer."""
        return self.tokens[self.prompt_tokens :]

    @property
    def answer_tokens(self) -> int:
        """Their number."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def begun(self) -> bool:
        """Whether a step has computed some of it, or does so now."""
        asked = self.request
        return asked is not None and bool(asked.pages or asked.evictions or asked.answered)

    @property
    def has_more(self) -> bool:
        """Whether `next` returns at once."""
        return bool(self._updates)

    def end(self) -> None:
        """On the event loop: nothing more is computed for it. What it did not use of its key's tokens is returned."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            computed = self.request.counted if self.request is not None else 0
            prompt = self.prompt_tokens if self.answer_tokens else computed
            reservation.end(prompt, self.answer_tokens, time.monotonic())

    async def next(self) -> TokenUpdate:
        """The next one. Raises Problem, also if it has not begun by its deadline: the engine's thread may hang in a call of the model."""
        while not self._updates:
            self._waits = asyncio.get_running_loop().create_future()
            if self.begun or self.deadline == math.inf:
                await self._waits
                continue
            await asyncio.wait((self._waits,), timeout=self.deadline - time.monotonic())
            if not (self._updates or self.begun) and time.monotonic() >= self.deadline:
                raise _late()
        update = self._updates.popleft()
        if isinstance(update, Problem):
            raise update
        return update

    def deliver(self, update: TokenUpdate | Problem) -> None:
        """On the event loop: there is more."""
        self._updates.append(update)
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    # -- in the engine's thread --------------------------------------------------------------------

    def began(self, tokens: Sequence[int], request: TokenRequest) -> None:
        """Its prompt has these tokens."""
        self.tokens, self.request = list(tokens), request
        self._chooser, self._before = TokenChooser(self.sampling), None
        self._from, self._to = max(len(self.tokens) - CONTEXT_TOKENS, 0), len(self.tokens)

    def add(self, logits: np.ndarray, model: TokenModel) -> TokenUpdate:
        """Choose the next token, and say what that adds to the text. Raises what `decode` raises, and ValueError for logits that choose none."""
        return self._read(self._added(self._chosen(logits), model))

    def resume(self, model: TokenModel, known: int | None) -> list[TokenUpdate]:
        """Take in its `forced` tokens, as if they were chosen here: what each of them said. The model has `known` tokens, if that is known.

        Raises Problem (400) for tokens that the answer cannot have had, and as `add`.
        """
        assert self._chooser is not None
        updates: list[TokenUpdate] = []
        for token in self.forced or ():
            if not 0 <= token < (known or math.inf):
                raise Problem(400, f"resumed stream: {token} is not a token of the model")
            if updates and updates[-1].reason is not None:
                raise Problem(400, "resumed stream: it has tokens behind the end of an answer")
            self._chooser.skip()
            updates.append(self._read(self._added(ChosenToken(token), model)))
        # How long its client has waited for the first one, is not known here.
        self.first_at = self.last_at = self.arrived
        return updates

    def _read(self, update: TokenUpdate) -> TokenUpdate:
        """With the calls of tools in it."""
        if self.reader is None or self.tools is None:
            return update
        text, calls = self.reader.read(update.text, last=update.reason is not None)
        ended = update.reason == "stop" or bool(calls and not self.tools.parallel)
        reason = "tool_calls" if ended and self.reader.calls else update.reason
        return TokenUpdate(
            text, update.tokens, reason, calls if self.tools.parallel else calls[:1], update.token
        )

    def _chosen(self, logits: np.ndarray) -> ChosenToken:
        assert self._chooser is not None
        bound = self.constraint
        allowed = bound.allowed(logits.size) if bound is not None else None
        return self._chooser.choose(logits, self.tokens, self.prompt_tokens, allowed)

    def _added(self, chosen: ChosenToken, model: TokenModel) -> TokenUpdate:
        assert self.request is not None
        token = chosen.token
        if token in model.end and not self.sampling.ignore_end:
            return TokenUpdate(self._rest(model), (), "stop", token=token)
        self.tokens.append(token)
        whole = self.constraint is not None and self.constraint.take(token)
        if self.sampling.logprobs is not None:
            likely = tuple(each._replace(text=model.decode([each.token])) for each in chosen.likely)
            chosen = chosen._replace(text=model.decode([chosen.token]), likely=likely)
        self._text += self._decoded(model)
        size = len(self.tokens) - self.request.prompt
        if not (self.stop or whole or size >= self.request.most):
            said, self._text = self._text, ""
            return TokenUpdate(said, (chosen,), token=token)
        stops = [at for stop in self.stop if (at := self._text.find(stop)) >= 0]
        if stops:
            return TokenUpdate(self._text[: min(stops)], (chosen,), "stop", token=token)
        if whole:
            return TokenUpdate(self._rest(model), (chosen,), "stop", token=token)
        if size >= self.request.most:
            return TokenUpdate(self._rest(model), (chosen,), "length", token=token)
        held = max((overlap(self._text, stop) for stop in self.stop), default=0)
        said, self._text = self._text[: len(self._text) - held], self._text[len(self._text) - held :]
        return TokenUpdate(said, (chosen,), token=token)

    def _rest(self, model: TokenModel) -> str:
        """What was held back, at the end of the answer."""
        return self._text + self._decoded(model, whole=True)

    def _decoded(self, model: TokenModel, *, whole: bool = False) -> str:
        """The text that the last tokens add: nothing while they are a part of a letter, unless it is `whole`.

        Some tokens before them are decoded, too: what a token means may depend on them.
        """
        if self._before is None:
            self._before = model.decode(self.tokens[self._from : self._to]) if self._to > self._from else ""
        before, count = len(self._before), len(self.tokens)
        now = model.decode(self.tokens[self._from :])
        partly = now.endswith("\ufffd")
        if len(now) <= before or (partly and not whole and count - self._to < MOST_PARTS):
            return ""
        if partly or count - self._from >= DECODED_TOKENS:
            self._from, self._before = self._to, None
        else:
            self._before = now
        self._to = count
        return now[before:]


_Updates: TypeAlias = list[tuple[GrowingAnswer, TokenUpdate | Problem]]
_Took: TypeAlias = tuple[StepWork, float, int, int]
"""As `observe` takes it."""


class TokenEngine:
    """The thread of one model. Made and closed on the event loop, after the model's `setup`.

    `observe` is called there with the work and the seconds of each step; `idle` in the thread, when it has nothing more to do, at most once
    in IDLE_EVERY_S.
    """

    def __init__(
        self,
        model: TokenModel,
        name: str,
        observe: Callable[[StepWork, float, int, int], None] | None = None,
        slo: Slo | None = None,
        idle: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.promise = TokenPromise(slo)
        self._idle, self._idle_said = idle, 0.0
        limits = model.limits
        self.limits = limits
        self.scheduler = TokenScheduler(limits, PagePool(limits.all_pages, limits.page_tokens))
        self.meter = TokenMeter(name)
        self.steps = self.tokens = 0
        """So far: of tokens, those that were chosen."""
        self._known: int | None = getattr(model, "vocabulary", None)
        """Tokens that the model has, by its last logits; None if there were none, and its class does not say it."""
        self._new_tokens = 0, 0
        """Answers that began with the last step, and tokens of answers."""
        self.broken: Problem | None = None
        """Why it computes nothing any more."""
        self.busy_since: float | None = None
        """When the model's current call began; None between two. Any thread may read it."""
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._new: deque[GrowingAnswer] = deque()
        self._gone: deque[GrowingAnswer] = deque()
        self._texts: deque[_Texts] = deque()
        self._undelivered: deque[tuple[_Updates, _Took | None]] = deque()
        self._closing = False
        self._observe = observe
        self._since = time.monotonic()
        """When the last step ended, or the engine began to have something to do."""
        self._of: dict[TokenRequest, GrowingAnswer] = {}
        self._busy_s = self._loaded = 0.0
        self._load = self.scheduler.load()
        self._counted: deque[tuple[str, int]] = deque(maxlen=MOST_TAKEN)
        self._taken: deque[tuple[str, int]] = deque(maxlen=MOST_TAKEN)
        self._thread = threading.Thread(target=self._run, name=f"{name} tokens", daemon=True)
        self._thread.start()

    @property
    def room(self) -> int:
        """How many more requests may wait."""
        return self.limits.max_waiting - self.scheduler.waiting - len(self._new) - len(self._texts)

    def take_load(self) -> tuple[TokenLoad, tuple[tuple[str, int], ...]]:
        """What there is to do, and the requests that were counted in it since the last call, with the tokens of their prompts. Any thread may call this."""
        with self._changed:
            taken = tuple(self._taken)
            self._taken.clear()
            more = len(self._new)  # counted as requests: their tokens are not known yet
            load = self._load
        return msgspec.structs.replace(load, waiting=load.waiting + more) if more else load, taken

    def families(self) -> list[TokenFamily]:
        """What it has measured, and how much it has to do now. Any thread may call this."""
        pool = self.scheduler.pool
        gauges = {
            "vllm:num_requests_running": len(self.scheduler.running),
            "vllm:num_requests_waiting": self.scheduler.waiting + len(self._new),
            "vllm:kv_cache_usage_perc": 1 - pool.free / pool.pages,
        }
        return self.meter.families(gauges)

    def submit(self, answers: Sequence[GrowingAnswer]) -> None:
        """Begin answers. Raises Problem (503) if the engine has ended."""
        with self._changed:
            self._check_alive()
            self._new.extend(answers)
            self._changed.notify()

    def cancel(self, answers: Sequence[GrowingAnswer]) -> None:
        """Nobody wants the rest."""
        for answer in answers:
            answer.cancelled = True
        with self._changed:
            self._gone.extend(answers)
            self._changed.notify()

    async def embed(self, texts: Sequence[str], key: KeyTokens | None = None) -> tuple[int, np.ndarray]:
        """Tokens and vectors (texts, dimensions), computed between steps, a few texts at a time, once the key has paid. Raises Problem."""
        made: asyncio.Future[tuple[int, np.ndarray]] = self._loop.create_future()
        with self._changed:
            self._check_alive()
            self._texts.append(_Texts(texts, key, made))
            self._changed.notify()
        return await made

    def close(self) -> None:
        """End the thread after its step; what is not answered fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(END_S)

    def _check_alive(self) -> None:
        if self.broken is not None or self._closing:
            raise self.broken or _ended(self._name)

    # -- in the thread -----------------------------------------------------------------------------

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """The model is called: it may never return."""
        self.busy_since = time.monotonic()
        try:
            yield
        finally:
            self.busy_since = None

    def _run(self) -> None:
        why: Problem | None = None
        scheduler = self.scheduler
        try:
            while self._take():
                updates: _Updates = []
                began, before = time.monotonic(), self.steps
                if scheduler.waiting:
                    updates += [(self._of.pop(each), _late()) for each in scheduler.expired(began)]
                step = scheduler.step(began)
                if began - self._loaded >= LOAD_EVERY_S:
                    self._count_load(began)
                self.meter.preemptions += len(step.evicted)
                if step.pieces:
                    self.busy_since = began  # as in `_calling`, which costs more
                    try:
                        updates += self._step(step)
                    finally:
                        self.busy_since = None
                    self._busy_s += time.monotonic() - began
                if not (scheduler.running or scheduler.waiting):
                    self._count_load(0.0)
                    if self._idle is not None and began - self._idle_said >= IDLE_EVERY_S:
                        self._idle_said = began
                        self._idle()
                self._deliver(updates, self._took(step) if self.steps > before else None)
        except BaseException as error:  # noqa: BLE001 - without the thread all requests would wait for ever
            why = problem_of(error, f"the engine of {self._name}")
        with self._changed:
            self.broken = why or _ended(self._name)
            left = [*self._of.values(), *self._new]
            texts = list(self._texts)
        self._deliver([(each, self.broken) for each in left])
        for each in texts:
            self._call(_embedded, each.made, self.broken)

    def _count_load(self, now: float) -> None:
        load = self.scheduler.load(self._busy_s)
        self._loaded = now
        with self._changed:
            self._load = load
            self._taken.extend(self._counted)
            self._counted.clear()

    def _take(self) -> bool:
        """Wait for something to do, and take in who came and who left; whether to go on."""
        scheduler = self.scheduler
        if (scheduler.running or scheduler.waiting) and not self._asked:
            return True  # most steps: no lock is needed
        with self._changed:
            while not (self._asked or scheduler.running or scheduler.waiting):
                self._changed.wait()
                self._since = time.monotonic()
            if self._closing:
                return False
            gone = list(self._gone)
            self._gone.clear()
            texts = self._texts[0] if self._texts else None
        self._begin_new()
        for answer in gone:
            if answer.request is not None:
                scheduler.cancel(answer.request)
                self._of.pop(answer.request, None)
        if texts is not None:
            with self._calling():
                made = self._embed(texts)
            if made is not None:
                with self._changed:
                    self._texts.popleft()
                self._call(_embedded, texts.made, made)
            self._since = time.monotonic()
        return True

    @property
    def _asked(self) -> bool:
        """Whether somebody came, left, asks for something else than tokens, or ends the thread."""
        return bool(self._new or self._gone or self._texts or self._closing)

    def _begin_new(self) -> None:
        """Take in who came: the first one, and others while there is time. The rest comes after the next step."""
        until = time.monotonic() + BEGIN_S
        while self._new:
            with self._changed:
                answer = self._new.popleft()
            if not answer.cancelled:
                with self._calling():
                    why = self._begin(answer)
                if why is not None:
                    self._deliver([(answer, why)])
            if answer.identity:
                self._counted.append((answer.identity, answer.prompt_tokens))
            if time.monotonic() >= until:
                break

    def _took(self, step: TokenStep) -> _Took:
        """The work of a step that was computed, all seconds since the one before it, answers that began, and tokens of answers."""
        before, self._since = self._since, time.monotonic()
        work, took_s = step.work, self._since - before
        self.promise.stepped(work, took_s, self.scheduler)
        return work, took_s, *self._new_tokens

    def _begin(self, answer: GrowingAnswer) -> Problem | None:
        """Let it wait for its first step; why not, if it can't."""
        if answer.encoded is None:
            answer.encoded = self._encode(answer) if answer.like is None else answer.like.encoded
        if not isinstance(answer.encoded, tuple):  # the first one has its Problem, or its client has gone
            return answer.encoded
        tokens, names = answer.encoded
        room = self.limits.context - len(tokens)
        most = room if answer.most is None else answer.most
        if len(tokens) + most > self.limits.context or not tokens:
            return _too_long(len(tokens), answer.most, self.limits.context)
        request = TokenRequest(
            prompt=len(tokens),
            most=max(most, 1),
            arrived=answer.arrived,
            user=answer.user,
            urgency=answer.urgency,
            deadline=answer.deadline,
            names=names,
        )
        if answer.forced is not None:
            return self._resume(answer, tokens, request)
        if (refusal := self._refusal(answer, request)) is not None:
            return refusal
        answer.began(tokens, request)
        self._of[request] = answer
        return None

    def _resume(self, answer: GrowingAnswer, tokens: list[int], request: TokenRequest) -> Problem | None:
        """As `_begin` for an answer that began elsewhere. If it ended there, nothing is computed."""
        answer.began(tokens, request)
        request.ended = True  # unless it waits
        try:
            updates = answer.resume(self.model, self._known)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the client's answer
            return problem_of(error, f"{self._name}.decode")
        if not updates or updates[-1].reason is None:
            request.answered = answer.answer_tokens
            if (refusal := self._refusal(answer, request)) is not None:
                return refusal
            request.ended = False
            self._of[request] = answer
        self._deliver([(answer, each) for each in updates])
        return None

    def _encode(self, answer: GrowingAnswer) -> tuple[list[int], tuple[bytes, ...]] | Problem:
        prompt = answer.prompt
        is_tokens = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
        try:
            with_tools = {} if answer.tools is None else {"tools": list(answer.tools.functions)}
            given = prompt if is_tokens else self.model.encode(prompt, **with_tools)  # type: ignore[arg-type]
            tokens = [operator.index(each) for each in given]  # type: ignore[arg-type]
            return tokens, _names(tokens, self.limits.page_tokens)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the client's answer
            return problem_of(error, f"{self._name}.encode")

    def _refusal(self, answer: GrowingAnswer, request: TokenRequest) -> Problem | None:
        """Why a request can't wait for its first step; if it can, it does."""
        now = time.monotonic()
        late_s = self.promise.late_s(request, self.scheduler, now) if answer.forced is None else 0.0
        if late_s:
            said = f"the first token would come {late_s:.2g} s too late: {self.scheduler.waiting} requests wait, and {len(self.scheduler.running)} run"
            return too_many(said, retry_after_s=late_s, pass_on=answer.pass_on)
        if answer.reservation is not None:
            try:
                answer.reservation.begin(request.prompt, answer.most, now)
            except Problem as problem:
                return problem
        why = self.scheduler.offer(request)
        if why == "full":
            said = f"{self.limits.max_waiting} requests are already waiting"
            return too_many(said, retry_after_s=1, pass_on=answer.pass_on)
        return _too_long(request.prompt, answer.most, self.limits.context) if why else None

    def _embed(self, asked: _Texts) -> tuple[int, np.ndarray] | Problem | None:
        """Count the tokens of the next few texts, or once all are counted and paid for, embed the next few. None: there are more."""
        if asked.made.done():  # its client has gone
            return _ended(self._name)
        texts, paid = asked.texts, len(asked.counts) == len(asked.texts)
        try:
            if not paid:
                part = texts[len(asked.counts) :][:EMBEDDED_TEXTS]
                asked.counts.extend(len(self.model.encode(text)) for text in part)
                if len(asked.counts) == len(texts) and asked.key is not None:
                    asked.key.take(sum(asked.counts), time.monotonic())
                return None
            done = sum(len(each) for each in asked.vectors)
            part = texts[done : done + EMBEDDED_TEXTS]
            made = np.asarray(self.model.embed(list(part)))  # type: ignore[attr-defined]
            if made.ndim != 2 or len(made) != len(part):
                raise ValueError(f"embed returned an array of shape {made.shape} for {len(part)} texts")
            asked.vectors.append(made)
            whole = done + len(part) == len(texts)
            return (sum(asked.counts), np.concatenate(asked.vectors)) if whole else None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the client's answer
            if paid and asked.key is not None:
                asked.key.move(-sum(asked.counts), time.monotonic())
            return problem_of(error, f"{self._name}.embed")

    def _step(self, step: TokenStep) -> _Updates:
        """Compute a step. An exception of the model is the answer to all in it, one of a text to its own."""
        scheduler = self.scheduler
        givers = [piece.request for piece in step.pieces if piece.gives_token]
        try:
            logits = self._logits(step, len(givers))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the clients' answer
            problem = problem_of(error, f"{self._name}.step")
            failed = [self._of.pop(piece.request) for piece in step.pieces]
            for piece in step.pieces:
                scheduler.cancel(piece.request)
            scheduler.stepped(step)
            self._since = time.monotonic()
            return [(each, problem) for each in failed]
        updates: _Updates = []
        last: set[TokenRequest] = set()
        begun = 0
        for request, row in zip(givers, logits, strict=True):
            begun += not request.answered
            answer = self._of[request]
            update = self._added(answer, row)
            updates.append((answer, update))
            if isinstance(update, TokenUpdate) and update.reason is not None:
                last.add(request)
        self._measure(updates)
        scheduler.stepped(step, last)
        for request in givers:
            if request.ended:
                self._of.pop(request, None)
        self.steps += 1
        self.tokens += len(givers)
        self._new_tokens = begun, len(givers)
        return updates

    def _measure(self, updates: _Updates) -> None:
        now, meter = time.monotonic(), self.meter
        for answer, update in updates:
            if not isinstance(update, TokenUpdate):
                continue
            request, last, answer.last_at = answer.request, answer.last_at, now
            if (reservation := answer.reservation) is not None:  # the event loop may end it now
                reservation.go_on(answer.prompt_tokens, answer.answer_tokens, now)
            new = len(update.tokens)  # none at the end that the model has chosen
            if answer.first_at is None:
                answer.first_at = now
                self.promise.first(now - answer.arrived, self.scheduler)
                meter.first(now - answer.arrived)
                meter.tokens(
                    request.prompt if request is not None else 0,
                    new,
                    cached=request.reused if request is not None else 0,
                )
            elif new:
                meter.next(now - last)
                meter.tokens(0, new)
            if update.reason is not None:
                meter.ended(update.reason, now - answer.arrived)

    def _added(self, answer: GrowingAnswer, logits: np.ndarray) -> TokenUpdate | Problem:
        try:
            return answer.add(logits, self.model)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the client's answer
            assert answer.request is not None
            self.scheduler.cancel(answer.request)
            return problem_of(error, f"{self._name}.decode")

    def _logits(self, step: TokenStep, givers: int) -> np.ndarray:
        pieces = [
            TokenPiece(
                tokens=self._of[request].tokens[start : start + tokens],
                start=start,
                pages=request.pages,
                gives_token=gives_token,
            )
            for request, start, tokens, gives_token in step.pieces
        ]
        logits = np.asarray(self.model.step(pieces))
        if logits.ndim != 2 or len(logits) != givers:
            raise ValueError(
                f"step returned logits of shape {logits.shape} for {givers} pieces that give a token"
            )
        if givers:
            self._known = logits.shape[1]
        return logits

    def _deliver(self, updates: _Updates, took: _Took | None = None) -> None:
        if updates or took is not None:
            self._undelivered.append((updates, took))
            # If there are others, the event loop is called already, and takes all that are here.
            if len(self._undelivered) == 1:
                self._call(self._deliver_all)

    def _deliver_all(self) -> None:
        """On the event loop."""
        taken: list[tuple[_Updates, _Took | None]] = []
        while self._undelivered:
            taken.append(self._undelivered.popleft())
        for updates, took in taken:
            for answer, update in updates:
                answer.deliver(update)
            if took is not None and self._observe is not None:
                self._observe(*took)

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *given)
        except RuntimeError:
            return  # the loop has ended, and nobody waits there


@dataclass(frozen=True, slots=True, eq=False)
class _Texts:
    """Texts to embed, whose key pays for them, and who waits for it."""

    texts: Sequence[str]
    key: KeyTokens | None
    made: asyncio.Future[tuple[int, np.ndarray]]
    counts: list[int] = field(default_factory=list)
    """Tokens of each text, as far as they are counted."""
    vectors: list[np.ndarray] = field(default_factory=list)


def _embedded(made: asyncio.Future[tuple[int, np.ndarray]], result: tuple[int, np.ndarray] | Problem) -> None:
    if made.done():  # its client has gone
        return
    if isinstance(result, Problem):
        made.set_exception(result)
    else:
        made.set_result(result)


def _names(tokens: Sequence[int], page_tokens: int) -> tuple[bytes, ...]:
    """Of the full pages: each is a digest of all tokens up to its end, so that nobody can make two prompts that share one by mistake."""
    names: list[bytes] = []
    last = b""
    for at in range(0, len(tokens) - page_tokens + 1, page_tokens):
        page = array("q", tokens[at : at + page_tokens]).tobytes()
        last = hashlib.blake2b(last + page, digest_size=16).digest()
        names.append(last)
    return tuple(names)


def _late() -> Problem:
    return Problem(504, "the request has waited as long as it may, and did not begin", retry_after_s=1)


def _ended(name: str) -> Problem:
    return Problem(503, f"{name} ended before the answer", retry_after_s=1)


def _too_long(prompt: int, most: int | None, context: int) -> Problem:
    if not prompt:
        return Problem(400, "the prompt has no tokens")
    asked = "" if most is None else f", and up to {most} are asked for"
    said = f"the prompt has {prompt} tokens{asked}; the model's context is {context} tokens: send a shorter prompt, or ask for fewer"
    return Problem(400, said, reason=CONTEXT_EXCEEDED)
