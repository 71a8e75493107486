"""Runs a language model step by step in a thread of its own, for all requests together; answers grow on the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from hooke.generation.page_pool import PagePool
from hooke.generation.token_scheduler import TokenLimits, TokenRequest, TokenScheduler, TokenStep
from hooke.serving.openai.sampling import ChosenToken, TokenChooser, TokenSampling
from hooke.serving.problems import Problem, problem_of

__all__ = ["GrowingAnswer", "TokenEngine", "TokenModel", "TokenPiece", "TokenUpdate"]

CONTEXT_EXCEEDED = "context_length_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPiece:
    """What a step computes of one request: `tokens`, of which the first is the request's token number `start`.

    `pages` hold the request's keys and values: its token number `i` is in page `pages[i // page_tokens]` at `i % page_tokens`. Those
    before `start` are there. If it `gives_token`, the step returns logits for the token after the last of `tokens`.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    gives_token: bool


class TokenModel(Protocol):
    """What a service with `protocol="openai"` has beside `setup`. All of it is called in one thread.

    `limits` says how much fits, `end` are the tokens that end an answer. With `embed(texts)`, which returns an array (texts, dimensions), it
    answers `/v1/embeddings`, too.
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
    """What has come of an answer. `reason` says why it has ended: `stop` or `length`."""

    text: str
    tokens: tuple[ChosenToken, ...]
    reason: str | None = None


@dataclass(eq=False, kw_only=True)
class GrowingAnswer:
    """One answer to one prompt. `next` waits for its updates."""

    prompt: str | list[dict[str, Any]] | list[int]
    most: int | None
    """Tokens of the answer; None: as many as fit."""
    sampling: TokenSampling = field(default_factory=TokenSampling)
    stop: tuple[str, ...] = ()
    user: str = ""
    urgency: int = 0
    deadline: float = math.inf
    """Of the monotonic clock: it must have begun by then."""
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

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, once it has begun."""
        return self.request.prompt if self.request is not None else 0

    @property
    def answered(self) -> list[int]:
        """Tokens of the answer."""
        return self.tokens[self.prompt_tokens :]

    async def next(self) -> TokenUpdate:
        """The next one. Raises Problem."""
        while not self._updates:
            self._waits = asyncio.get_running_loop().create_future()
            await self._waits
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
        self._chooser = TokenChooser(self.sampling)
        self._from = self._to = len(self.tokens)

    def add(self, logits: Any, model: TokenModel) -> TokenUpdate:
        """Choose the next token, and say what that adds to the text."""
        assert self._chooser is not None
        assert self.request is not None
        chosen = self._chooser.choose(logits, self.answered)
        if chosen.token in model.end:
            return TokenUpdate(self._rest(), (), "stop")
        self.tokens.append(chosen.token)
        self._text += self._decoded(model)
        for stop in self.stop:
            at = self._text.find(stop)
            if at >= 0:
                return TokenUpdate(self._text[:at], (chosen,), "stop")
        if len(self.answered) >= self.request.most:
            return TokenUpdate(self._rest(), (chosen,), "length")
        held = max((_overlap(self._text, stop) for stop in self.stop), default=0)
        said, self._text = self._text[: len(self._text) - held], self._text[len(self._text) - held :]
        return TokenUpdate(said, (chosen,))

    def _rest(self) -> str:
        said, self._text = self._text, ""
        return said

    def _decoded(self, model: TokenModel) -> str:
        """The text that the last token adds: nothing while it is a part of a letter. A few tokens before it are decoded with it."""
        before = model.decode(self.tokens[self._from : self._to]) if self._to > self._from else ""
        now = model.decode(self.tokens[self._from :])
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self._from, self._to = self._to, len(self.tokens)
        return now[len(before) :]


def _overlap(text: str, stop: str) -> int:
    """How much of the text's end may be the beginning of `stop`."""
    return next(
        (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
    )


class TokenEngine:
    """The thread of one model. Made and closed on the event loop, after the model's `setup`."""

    def __init__(self, model: TokenModel, name: str) -> None:
        self.model = model
        limits = model.limits
        self.limits = limits
        pages = limits.pages or limits.slots * -(-limits.context // limits.page_tokens)
        self.scheduler = TokenScheduler(limits, PagePool(pages, limits.page_tokens))
        self.steps = self.tokens = 0
        """So far: of tokens, those that were chosen."""
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._new: deque[GrowingAnswer] = deque()
        self._gone: deque[GrowingAnswer] = deque()
        self._texts: deque[tuple[Sequence[str], asyncio.Future[tuple[int, np.ndarray]]]] = deque()
        self._closing = False
        self._of: dict[TokenRequest, GrowingAnswer] = {}
        self._thread = threading.Thread(target=self._run, name=f"{name} tokens", daemon=True)
        self._thread.start()

    def submit(self, generation: GrowingAnswer) -> None:
        """Begin an answer. Raises Problem (429) if too many wait already."""
        with self._changed:
            if len(self._new) + self.scheduler.waiting >= self.limits.max_waiting:
                raise _full(self.limits.max_waiting)
            self._new.append(generation)
            self._changed.notify()

    def cancel(self, generation: GrowingAnswer) -> None:
        """Nobody wants the rest."""
        generation.cancelled = True
        with self._changed:
            self._gone.append(generation)
            self._changed.notify()

    async def embed(self, texts: Sequence[str]) -> tuple[int, np.ndarray]:
        """Tokens and vectors (texts, dimensions), computed between two steps. Raises Problem."""
        made: asyncio.Future[tuple[int, np.ndarray]] = self._loop.create_future()
        with self._changed:
            self._texts.append((texts, made))
            self._changed.notify()
        return await made

    def close(self) -> None:
        """End the thread after its step."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._take():
            updates = [(self._of.pop(each), _late()) for each in self.scheduler.expired(time.monotonic())]
            step = self.scheduler.step(time.monotonic())
            if step.pieces:
                updates += self._step(step)
            self._deliver(updates)

    def _take(self) -> bool:
        """Wait for something to do, and take in who came and who left; whether to go on."""
        scheduler = self.scheduler
        with self._changed:
            while not (
                self._new
                or self._gone
                or self._texts
                or self._closing
                or scheduler.running
                or scheduler.waiting
            ):
                self._changed.wait()
            if self._closing:
                return False
            new, gone, texts = list(self._new), list(self._gone), list(self._texts)
            for taken in (self._new, self._gone, self._texts):
                taken.clear()
        self._deliver([(each, why) for each in new if (why := self._begin(each)) is not None])
        for generation in gone:
            if generation.request is not None:
                scheduler.cancel(generation.request)
                self._of.pop(generation.request, None)
        for some, made in texts:
            self._loop.call_soon_threadsafe(_embedded, made, self._embed(some))
        return True

    def _embed(self, texts: Sequence[str]) -> tuple[int, np.ndarray] | Problem:
        try:
            made = np.asarray(self.model.embed(list(texts)))  # type: ignore[attr-defined]
            if made.ndim != 2 or len(made) != len(texts):
                raise ValueError(f"embed returned an array of shape {made.shape} for {len(texts)} texts")
            return sum(len(self.model.encode(text)) for text in texts), made
        except Exception as error:  # noqa: BLE001 - the client's answer
            return problem_of(error, f"{self._name}.embed")

    def _begin(self, generation: GrowingAnswer) -> Problem | None:
        """Let it wait for its first step; why not, if it can't."""
        if generation.cancelled:
            return None
        prompt = generation.prompt
        is_tokens = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
        try:
            tokens = prompt if is_tokens else self.model.encode(prompt)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - the client's answer
            return problem_of(error, f"{self._name}.encode")
        room = self.limits.context - len(tokens)
        most = room if generation.most is None else generation.most
        request = TokenRequest(
            prompt=len(tokens),
            most=max(most, 1),
            arrived=time.monotonic(),
            user=generation.user,
            urgency=generation.urgency,
            deadline=generation.deadline,
            names=_names(tokens, self.limits.page_tokens),  # type: ignore[arg-type]
        )
        why = self.scheduler.offer(request)
        if why:
            return (
                _full(self.limits.max_waiting)
                if why == "full"
                else _too_long(len(tokens), generation.most, self.limits.context)
            )
        generation.began(tokens, request)  # type: ignore[arg-type]
        self._of[request] = generation
        return None

    def _step(self, step: TokenStep) -> list[tuple[GrowingAnswer, TokenUpdate | Problem]]:
        """Compute a step. An exception of the model is the answer to all in it."""
        scheduler = self.scheduler
        givers = [piece.request for piece in step.pieces if piece.gives_token]
        try:
            logits = self._logits(step, len(givers))
            updates = [
                (self._of[each], self._of[each].add(row, self.model))
                for each, row in zip(givers, logits, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - the clients' answer
            problem = problem_of(error, f"{self._name}.step")
            failed = [self._of.pop(piece.request) for piece in step.pieces]
            for piece in step.pieces:
                scheduler.cancel(piece.request)
            scheduler.stepped(step)
            return [(each, problem) for each in failed]
        last = {each.request for each, update in updates if update.reason is not None and each.request}
        for request in scheduler.stepped(step, last):
            self._of.pop(request, None)
        self.steps += 1
        self.tokens += len(givers)
        return list(updates)

    def _logits(self, step: TokenStep, givers: int) -> np.ndarray:
        pieces = [
            TokenPiece(
                tokens=self._of[each.request].tokens[each.start : each.start + each.tokens],
                start=each.start,
                pages=each.request.pages,
                gives_token=each.gives_token,
            )
            for each in step.pieces
        ]
        logits = np.asarray(self.model.step(pieces))
        if logits.ndim != 2 or len(logits) != givers:
            raise ValueError(
                f"step returned logits of shape {logits.shape} for {givers} pieces that give a token"
            )
        return logits

    def _deliver(self, updates: Sequence[tuple[GrowingAnswer, TokenUpdate | Problem]]) -> None:
        if updates:
            self._loop.call_soon_threadsafe(_deliver_all, list(updates))


def _deliver_all(updates: list[tuple[GrowingAnswer, TokenUpdate | Problem]]) -> None:
    for generation, update in updates:
        generation.deliver(update)


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


def _full(most: int) -> Problem:
    return Problem(429, f"{most} requests wait already", retry_after_s=1)


def _late() -> Problem:
    return Problem(504, "it has waited as long as a request may, and had not begun", retry_after_s=1)


def _too_long(prompt: int, most: int | None, context: int) -> Problem:
    if not prompt:
        return Problem(400, "the prompt has no tokens")
    asked = "" if most is None else f" and an answer of up to {most}"
    said = f"the prompt has {prompt} tokens{asked}, and this model takes {context} together: send a shorter prompt, or ask for fewer"
    return Problem(400, said, reason=CONTEXT_EXCEEDED)
