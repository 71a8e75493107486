"""What the next step of a language model computes: tokens of requests that come and go one by one. Pure.

A step computes, for each running request, the tokens that it has and the model has not seen: a part of its prompt, or the one token
that it was answered last. A request whose tokens are all computed gets a new one. One that ends frees its place at once, and
the next step has another: no request waits for the longest of its batch.

- *Order*: urgent requests first; among equals the user who was served least, in tokens (as in "Fairness in Serving Large Language
  Models", Sheng and others, OSDI 2024); of one user the one with the first deadline. Who has waited for `patience_s` is as urgent as any.
- *Memory*: requests hold pages for the tokens that they have. If none is free, the least urgent that began last gives way, and its
  tokens are computed again later. The first one never does, so all end.
- *Urgency*: what is more urgent takes the place of what is less.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgspec

from hooke.base.errors import UsageError
from hooke.generation.page_pool import PagePool

__all__ = ["Piece", "StepWork", "TokenLimits", "TokenLoad", "TokenRequest", "TokenScheduler", "TokenStep"]

ANSWER_WEIGHT = 2
"""What a token of an answer counts, where one of a prompt counts 1: it takes a step of its own."""
ASSUMED_ANSWER = 128
"""Tokens that an answer is expected to have before any has ended."""
ANSWERS = 100
"""The expected length of an answer is the mean of about so many, the last ones most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """Limits of a step, and of what waits."""

    slots: int
    """Requests of a step."""
    step_tokens: int
    """Tokens of a step: one for each request in it, and parts of prompts with the rest."""
    context: int
    """Tokens of a prompt and its answer."""
    pages: int | None = None
    """Pages of memory; None: enough for all slots to have the whole context."""
    page_tokens: int = 16
    max_waiting: int = 1024
    """Requests that wait."""
    patience_s: float = 10.0
    """Who has waited for so long is as urgent as any."""

    @property
    def all_pages(self) -> int:
        """Pages of the memory."""
        return self.pages or self.slots * -(-self.context // self.page_tokens)

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= self.step_tokens:
            raise UsageError(f"step_tokens={self.step_tokens} has no token for each of slots={self.slots}")
        for name in ("context", "page_tokens", "max_waiting", "patience_s", "pages"):
            value = getattr(self, name)
            if value is not None and not value >= (0 if name == "patience_s" else 1):
                raise UsageError(f"TokenLimits: {name}={value} is too small")


@dataclass(slots=True, kw_only=True, eq=False)
class TokenRequest:
    """A prompt of `prompt` tokens that is answered with at most `most`."""

    prompt: int
    most: int
    arrived: float
    user: Hashable = None
    urgency: int = 0
    """Higher goes first."""
    deadline: float = math.inf
    """It waits no longer than until then; what has begun goes on."""
    names: tuple[Hashable, ...] = ()
    """Of the full pages of its prompt: each names all tokens up to its end."""
    answered: int = 0
    """Tokens of the answer so far. If some are there when it is offered, another scheduler's model gave them."""
    computed: int = 0
    """Tokens, of the prompt and the answer, that the model has seen and still has in memory."""
    reused: int = 0
    """Tokens of the prompt that were in memory when it began."""
    evictions: int = 0
    ended: bool = False
    """It was answered, cancelled or given up."""
    pages: list[int] = field(default_factory=list)
    rank: int = 0
    """Its urgency when it began."""
    counted: int = 0
    """Tokens that its user was charged for."""

    @property
    def length(self) -> int:
        """Its tokens so far."""
        return self.prompt + self.answered

    @property
    def goes_on(self) -> bool:
        """Whether it was begun before, here or elsewhere: it is answered, however long it waits."""
        return bool(self.evictions or self.answered)


class Piece(NamedTuple):
    """Tokens `start` to `start + tokens` of a request. With the last of them it gets a new one."""

    request: TokenRequest
    start: int
    tokens: int
    gives_token: bool
    """Whether these are its last ones."""

    @classmethod
    def of(cls, request: TokenRequest, tokens: int) -> Piece:
        """The next tokens to compute of a request."""
        start = request.computed
        return cls(request, start, tokens, start + tokens == request.prompt + request.answered)


class StepWork(NamedTuple):
    """What a step's time depends on. All are sums over its pieces."""

    prompt: int
    """Tokens of prompts, and what is computed again after an eviction."""
    requests: int
    """Pieces."""
    context: int
    """Tokens in memory that answers read."""
    attention: int
    """Pairs of a token of a prompt and a token that it sees."""


class TokenStep(NamedTuple):
    """What the model computes together. `evicted` lost their pages before it."""

    pieces: tuple[Piece, ...]
    evicted: tuple[TokenRequest, ...]
    work: StepWork
    """What its time depends on."""

    @classmethod
    def of(cls, pieces: Iterable[Piece], evicted: Iterable[TokenRequest]) -> TokenStep:
        """With the work of these pieces."""
        pieces = tuple(pieces)
        prompt = context = attention = 0
        for request, start, tokens, _ in pieces:
            if tokens == 1 and start >= request.prompt:
                context += start + 1
            else:
                prompt += tokens
                attention += tokens * start + tokens * (tokens + 1) // 2
        return cls(pieces, tuple(evicted), StepWork(prompt, len(pieces), context, attention))

    @property
    def tokens(self) -> int:
        """Of all pieces."""
        return sum(piece.tokens for piece in self.pieces)


class TokenLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a language model has to do at a moment, and what it has done so far, in requests and tokens.

    The tokens of a request that it has to do are those of its prompt that are not computed, and the expected rest of its answer.
    """

    running: int = 0
    """Requests."""
    waiting: int = 0
    """Requests."""
    running_tokens: int = 0
    """To do for the running requests."""
    waiting_tokens: int = 0
    """To do for the waiting ones."""
    held_tokens: int = 0
    """Of all these requests, done or not: their prompts, and answers as long as they are expected to be."""
    waiting_prompts: int = 0
    """Tokens that waiting requests have already: prompts, and answers that gave way."""
    memory_tokens: int = 0
    """How many fit in its memory."""
    taken: int = 0
    """Requests so far, without those that were refused."""
    prompt_tokens: int = 0
    """Of their prompts."""
    reused: int = 0
    """Tokens of prompts that were in memory."""
    ended: int = 0
    """Requests that were answered whole."""
    answer_tokens: int = 0
    """Of their answers."""
    given: int = 0
    """Tokens of answers that were computed here, also of those that have not ended."""
    left: int = 0
    """Requests whose clients left in the middle of their answers."""
    work: StepWork = StepWork(0, 0, 0, 0)
    """Of all steps together."""
    steps: int = 0
    busy_s: float = 0.0
    """That these steps took."""

    @property
    def outstanding(self) -> int:
        """Tokens to do."""
        return self.running_tokens + self.waiting_tokens


class TokenScheduler:
    """The waiting and the running requests. All times are seconds of one monotonic clock.

    The driver calls `offer` for an arrival, `cancel` for a departure, `expired` at times, `step` when the model is free, and then `stepped`.
    """

    def __init__(self, limits: TokenLimits, pool: PagePool) -> None:
        self.limits = limits
        self.pool = pool
        self.running: list[TokenRequest] = []
        """The most urgent first, then who began first."""
        self.waiting = 0
        self.slots, self.step_tokens = limits.slots, limits.step_tokens
        """Requests and tokens of the next steps: at most those of `limits`."""
        self.expected_answer = float(ASSUMED_ANSWER)
        """Tokens that an answer has, by those that have ended."""
        self._taken = self._prompts = self._reused = self._answered = self._answers = 0
        self._given = self._steps = self._gone = 0
        self._work = [0, 0, 0, 0]
        self._lines: dict[tuple[int, Hashable], deque[TokenRequest]] = {}
        """By urgency and user: who began before, then by deadlines, then by arrival."""
        self._served: dict[Hashable, float] = {}
        """Weighted tokens that a user was given."""
        self._active: dict[Hashable, int] = {}
        """Requests of a user that wait or run."""
        self._in_step: set[TokenRequest] = set()
        self._highest = 0
        """The urgency of the most urgent request."""

    def offer(self, request: TokenRequest) -> str:
        """Let a request wait. Returns why it is refused: `context`, if it can never be computed, or `full`; empty if it is not."""
        whole = request.prompt + request.most
        if request.prompt < 1 or whole > self.limits.context or self.pool.pages_for(whole) > self.pool.pages:
            return "context"
        if self.waiting >= self.limits.max_waiting:
            return "full"
        self._begin_user(request.user)
        line = self._line(request)
        at = len(line)
        while (
            at and not line[at - 1].goes_on and (request.goes_on or line[at - 1].deadline > request.deadline)
        ):
            at -= 1
        line.insert(at, request)
        self.waiting += 1
        self._taken += 1
        self._prompts += request.prompt
        return ""

    def before(self, request: TokenRequest) -> tuple[int, int, float]:
        """How many of the waiting requests begin before this one, about, the tokens that they have, and the pairs of these that see each other.

        The more urgent ones, those of its user with earlier deadlines, and of each other user one more than these: all get equal shares.
        """
        own = sum(
            each.deadline <= request.deadline for each in self._lines.get((request.urgency, request.user), ())
        )
        count, tokens, pairs = 0, 0, 0.0
        for (urgency, user), line in self._lines.items():
            if urgency >= request.urgency:
                most = own if user == request.user else own + 1
                for each in line if urgency > request.urgency else islice(line, most):
                    count += 1
                    tokens += each.length
                    pairs += each.length**2 / 2
        return count, tokens, pairs

    def load(self, busy_s: float = 0.0) -> TokenLoad:
        """What there is to do, and what was done in `busy_s` seconds of computing."""
        waiting = [each for line in self._lines.values() for each in line]
        running_tokens = sum(self._left(each) for each in self.running)
        waiting_tokens = sum(self._left(each) for each in waiting)
        computed = sum(each.computed for each in (*self.running, *waiting))
        return TokenLoad(
            running=len(self.running),
            waiting=self.waiting,
            running_tokens=running_tokens,
            waiting_tokens=waiting_tokens,
            held_tokens=running_tokens + waiting_tokens + computed,
            waiting_prompts=sum(each.length for each in waiting),
            memory_tokens=self.pool.pages * self.pool.page_tokens,
            taken=self._taken,
            prompt_tokens=self._prompts,
            reused=self._reused,
            ended=self._answered,
            answer_tokens=self._answers,
            given=self._given,
            left=self._gone,
            work=StepWork(*self._work),
            steps=self._steps,
            busy_s=busy_s,
        )

    def _left(self, request: TokenRequest) -> int:
        """Tokens to do. An answer that is longer than expected is expected to be half as long again."""
        rest = max(self.expected_answer - request.answered, self.expected_answer / 2)
        return request.length - request.computed + math.ceil(min(rest, request.most - request.answered))

    def cancel(self, request: TokenRequest) -> None:
        """Nobody wants the rest. Its place is free at once, but for a step that computes it now."""
        if request.ended:
            return
        request.ended = True
        self._gone += request.answered > 0
        if request in self.running:
            if request not in self._in_step:
                self._end(request)
        else:
            self._leave_line(request)

    def expired(self, now: float) -> list[TokenRequest]:
        """Those that have waited past their deadlines; they are given up."""
        waits = [each for line in self._lines.values() for each in line if not each.goes_on]
        late = [each for each in waits if each.deadline <= now]
        for request in late:
            request.ended = True
            self._leave_line(request)
        return late

    def step(self, now: float) -> TokenStep:
        """What to compute next; without pieces if there is nothing."""
        evicted: list[TokenRequest] = []
        pieces = self._go_on(evicted)
        if self._lines and not evicted:
            self._begin_others(now, pieces, evicted)
        self._in_step = {piece.request for piece in pieces}
        for piece in pieces:
            self._charge(piece)
        return TokenStep.of(pieces, evicted)

    def stepped(self, step: TokenStep, last: Collection[TokenRequest] = ()) -> list[TokenRequest]:
        """The step was computed; `last` got their last tokens with it. Returns who was answered, also those that have all they may."""
        answered: list[TokenRequest] = []
        self._in_step = set()
        self._steps += bool(step.pieces)
        for at, more in enumerate(step.work):
            self._work[at] += more
        for piece in step.pieces:
            request = piece.request
            if request.ended:
                self._end(request)
                continue
            request.computed += piece.tokens
            if piece.start < request.prompt:
                self._name_pages(request, piece.start)
            if piece.gives_token:
                request.answered += 1
                self._given += 1
                if request in last or request.answered >= request.most:
                    request.ended = True
                    answered.append(request)
                    self._count_answer(request)
                    self._end(request)
        return answered

    # -- who goes on -------------------------------------------------------------------------------

    def _go_on(self, evicted: list[TokenRequest]) -> list[Piece]:
        """A piece for each running request, after evictions: one token each, and of prompts as many as there is room for."""
        pieces: list[Piece] = []
        spare = max(self.step_tokens - len(self.running), 0)
        at = 0
        while at < len(self.running):
            request = self.running[at]
            tokens = 1 + min(request.length - request.computed - 1, spare)
            if self._grow(request, request.computed + tokens):
                spare -= tokens - 1
                pieces.append(Piece.of(request, tokens))
                at += 1
            else:  # the last one gives way: it has no piece yet, and may be this one
                spare += 1
                evicted.append(self._evict(self.running[-1]))
        return pieces

    def _grow(self, request: TokenRequest, tokens: int) -> bool:
        """Give it pages for so many tokens; whether there were enough."""
        more = self.pool.pages_for(tokens) - len(request.pages)
        if more > 0:
            pages = self.pool.take(more)
            if pages is None:
                return False
            request.pages += pages
        return True

    def _evict(self, request: TokenRequest) -> TokenRequest:
        """Take its pages, and let it wait at the head of its line."""
        self.running.remove(request)
        self._free(request)
        request.computed = 0
        request.evictions += 1
        self._line(request).appendleft(request)
        self.waiting += 1
        return request

    # -- who begins --------------------------------------------------------------------------------

    def _begin_others(self, now: float, pieces: list[Piece], evicted: list[TokenRequest]) -> None:
        """Add the pieces of those that begin now, while there is room; what is less urgent may have to make way."""
        urgencies = [*(each.rank for each in self.running), *(urgency for urgency, _ in self._lines)]
        self._highest = max(urgencies, default=0)
        spare = self.step_tokens - sum(piece.tokens for piece in pieces)
        while spare > 0 and (request := self._next(now)) is not None and request not in evicted:
            rank = self._rank(request, now)
            if len(self.running) >= self.slots and not self._make_way(rank, pieces, evicted):
                break
            while (piece := self._begin(request, rank, spare)) is None:
                if not self._make_way(rank, pieces, evicted):
                    break
            if piece is None:
                break
            pieces.append(piece)
            spare = self.step_tokens - sum(each.tokens for each in pieces)

    def _rank(self, request: TokenRequest, now: float) -> int:
        return self._highest if now - request.arrived >= self.limits.patience_s else request.urgency

    def _next(self, now: float) -> TokenRequest | None:
        heads = (line[0] for line in self._lines.values())
        return min(
            heads,
            key=lambda each: (
                -self._rank(each, now),
                each.arrived if now - each.arrived >= self.limits.patience_s else self._served[each.user],
                each.arrived,
            ),
            default=None,
        )

    def _make_way(self, rank: int, pieces: list[Piece], evicted: list[TokenRequest]) -> bool:
        """Evict the last running request if it is less urgent than `rank`; whether it was.

        What is urgent may need more than all of these have: then they wait until it has begun.
        """
        if not self.running or self.running[-1].rank >= rank:
            return False
        request = self._evict(self.running[-1])
        pieces[:] = [piece for piece in pieces if piece.request is not request]
        evicted.append(request)
        return True

    def _begin(self, request: TokenRequest, rank: int, spare: int) -> Piece | None:
        """Run it, if there are pages for all tokens that it has and one more, and a page for each running request, which it may need next.

        What is in memory of its prompt is not computed again.
        """
        known = self.pool.known(request.names)[: (request.length - 1) // self.pool.page_tokens]
        self.pool.share(known)
        more = self.pool.pages_for(request.length + 1) - len(known)
        if more + len(self.running) > self.pool.free:
            self.pool.release(known)
            return None
        self._leave_line(request, waits=True)
        request.pages = known
        request.computed = len(known) * self.pool.page_tokens
        if not request.evictions:
            request.reused = request.computed
            self._reused += request.reused
        request.rank = rank
        tokens = min(request.length - request.computed, spare)
        grown = self._grow(request, request.computed + tokens)
        assert grown, "free pages were counted"
        self.running.append(request)
        self.running.sort(key=lambda each: -each.rank)  # stable: who began first stays first
        return Piece.of(request, tokens)

    # -- bookkeeping -------------------------------------------------------------------------------

    def _line(self, request: TokenRequest) -> deque[TokenRequest]:
        return self._lines.setdefault((request.urgency, request.user), deque())

    def _leave_line(self, request: TokenRequest, *, waits: bool = False) -> None:
        """It waits no longer; it runs now if it still `waits` for its answer."""
        key = request.urgency, request.user
        self._lines[key].remove(request)
        if not self._lines[key]:
            del self._lines[key]
        self.waiting -= 1
        if not waits:
            self._leave_user(request.user)

    def _count_answer(self, request: TokenRequest) -> None:
        self._answered += 1
        self._answers += request.answered
        self.expected_answer += (request.answered - self.expected_answer) / min(self._answered, ANSWERS)

    def _end(self, request: TokenRequest) -> None:
        self.running.remove(request)
        self._free(request)
        self._leave_user(request.user)

    def _free(self, request: TokenRequest) -> None:
        self.pool.release(request.pages)
        request.pages = []

    def _name_pages(self, request: TokenRequest, start: int) -> None:
        """Say what the pages hold that it has filled since its token number `start`, so that later prompts can use them."""
        full = min(request.computed // self.pool.page_tokens, len(request.names))
        for at in range(start // self.pool.page_tokens, full):
            self.pool.name(request.pages[at], request.names[at])

    def _begin_user(self, user: Hashable) -> None:
        """Who comes back has no claim to what was not asked for meanwhile."""
        if user not in self._active:
            least = min((self._served[each] for each in self._active), default=0.0)
            self._served[user] = max(self._served.get(user, 0.0), least)
            for gone in [each for each in self._idle() if self._served[each] <= least or not self._active]:
                if gone != user:
                    del self._served[gone]
        self._active[user] = self._active.get(user, 0) + 1

    def _idle(self) -> Iterator[Hashable]:
        return (user for user in self._served if user not in self._active)

    def _leave_user(self, user: Hashable) -> None:
        self._active[user] -= 1
        if not self._active[user]:
            del self._active[user]

    def _charge(self, piece: Piece) -> None:
        """Count the tokens of a prompt once, and each of an answer; not what is computed again after an eviction."""
        request, start, tokens, gives_token = piece
        end = start + tokens
        charged = ANSWER_WEIGHT if gives_token else 0
        if start < request.prompt:
            charged += max(min(end, request.prompt) - max(request.counted, start), 0)
        request.counted = max(request.counted, end)
        self._served[request.user] += charged
