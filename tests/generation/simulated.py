"""Histories of a token scheduler: arrivals, cancellations and steps by a seed, with what must hold after each of them."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field

from hooke.generation.page_pool import PagePool
from hooke.generation.token_scheduler import TokenLimits, TokenRequest, TokenScheduler, TokenStep

STEP_S = 0.05


@dataclass
class History:
    """What happened. `waits` are seconds from arrival to the first piece."""

    offered: int = 0
    refused: Counter = field(default_factory=Counter)
    answered: int = 0
    cancelled: int = 0
    expired: int = 0
    evictions: int = 0
    resumed: int = 0
    """Of the answered ones, those that had begun elsewhere."""
    reused: int = 0
    steps: int = 0
    waits: list[float] = field(default_factory=list)


class Simulated:
    """A scheduler that is driven and checked. The model ends a request after its `true` number of tokens."""

    def __init__(self, limits: TokenLimits, pool: PagePool) -> None:
        self.limits, self.pool = limits, pool
        self.scheduler = TokenScheduler(limits, pool)
        self.true: dict[TokenRequest, int] = {}
        self.had: dict[TokenRequest, int] = {}
        """Tokens of answers that were given elsewhere."""
        self.open: dict[TokenRequest, None] = {}
        self.history = History()
        self.now = 0.0

    def offer(self, request: TokenRequest, true: int) -> None:
        self.history.offered += 1
        why = self.scheduler.offer(request)
        if why:
            self.history.refused[why] += 1
            whole = request.prompt + request.most
            never = whole > self.limits.context or whole > self.pool.pages * self.pool.page_tokens
            assert (why == "context") == never
            return
        self.true[request], self.had[request] = min(true, request.most), request.answered
        self.open[request] = None

    def cancel(self, request: TokenRequest) -> None:
        self.history.cancelled += 1
        self.scheduler.cancel(request)
        self.open.pop(request)

    def step(self, cancelled: TokenRequest | None = None) -> TokenStep:
        """One step of the model, with a request cancelled in the middle of it."""
        for request in self.scheduler.expired(self.now):
            assert request.deadline <= self.now
            assert not request.goes_on, "who has begun is answered"
            self.history.expired += 1
            self.open.pop(request)
        began = {each: each.computed for each in self.scheduler.running}
        step = self.scheduler.step(self.now)
        self._check_step(step, began)
        if cancelled is not None and not cancelled.ended:
            self.cancel(cancelled)
        self.now += STEP_S
        last = {
            piece.request
            for piece in step.pieces
            if piece.gives_token and piece.request.answered + 1 >= self.true[piece.request]
        }
        done = self.scheduler.stepped(step, last)
        assert set(done) == {each for each in last if each in self.open}
        for request in done:
            assert request.answered == self.true[request]
            self.history.answered += 1
            self.history.resumed += self.had[request] > 0
            self.history.reused += request.reused
            self.open.pop(request)
        self.history.steps += bool(step.pieces)
        self.history.evictions += len(step.evicted)
        self._check_memory()
        for line in self.scheduler._lines.values():
            order = [each.goes_on for each in line]
            assert order == sorted(order, reverse=True), "of one user, who has begun goes first"
        return step

    def _check_step(self, step: TokenStep, began: dict[TokenRequest, int]) -> None:
        pieces = step.pieces
        assert step.tokens <= self.limits.step_tokens
        assert len(pieces) <= self.limits.slots
        assert len({piece.request for piece in pieces}) == len(pieces)
        assert {piece.request for piece in pieces} == set(self.scheduler.running), (
            "who runs gets a token each step"
        )
        assert pieces or not self.scheduler.waiting, "who waits runs if nobody else does"
        for piece in pieces:
            request = piece.request
            assert 1 <= piece.tokens <= request.length - request.computed
            assert piece.start == request.computed
            assert len(request.pages) == self.pool.pages_for(piece.start + piece.tokens)
            if request not in began and not request.evictions:
                self.history.waits.append(self.now - request.arrived)
        for request in step.evicted:
            assert request.computed == 0
            assert request.pages == []
            kept = [each for each in self.scheduler.running if each in began]
            assert all(each.rank >= request.rank for each in kept), "the least urgent gives way"

    def _check_memory(self) -> None:
        users = Counter(page for each in self.scheduler.running for page in each.pages)
        assert [users[page] for page in range(self.pool.pages)] == self.pool._users
        assert self.pool.free == self.pool.pages - len(users)
        assert all(self.pool._names[page] == name for name, page in self.pool._named.items())
        assert len(self.scheduler.running) + self.scheduler.waiting == len(self.open)


def play(seed: int) -> History:
    """A history: users with habits, prompts that share beginnings, floods, cancellations, deadlines and too little memory."""
    draw = random.Random(seed)
    page_tokens = draw.choice([1, 4, 16])
    slots = draw.choice([1, 2, 4, 8, 16])
    context = draw.choice([64, 200, 400])
    pages = max(2, int(context / page_tokens * draw.choice([1, 1.2, 3, 20])))
    limits = TokenLimits(
        slots=slots,
        step_tokens=slots + draw.choice([0, 4, 32, 256]),
        context=context,
        max_waiting=draw.choice([4, 40, 400]),
        patience_s=draw.choice([0.5, 5.0, math.inf]),
    )
    it = Simulated(limits, PagePool(pages, page_tokens))
    users = [f"u{number}" for number in range(draw.choice([1, 2, 5]))]
    arrive_s = draw.uniform(0.5, 6.0)
    while it.now < arrive_s:
        for _ in range(draw.choice([0, 0, 0, 1, 1, 2, 8])):
            it.offer(*_request(draw, it, users, context, page_tokens))
        victim = draw.choice(list(it.open)) if it.open and draw.random() < 0.1 else None
        if victim is not None and draw.random() < 0.5:
            it.cancel(victim)
            victim = None
        if draw.random() < 0.9:
            it.step(victim)
        else:
            it.now += STEP_S
    left = sum(each.length + it.true[each] for each in it.open)
    for _ in range(
        10 * left + 10
    ):  # what is left ends: each step computes a token at least, and the first is never evicted
        if not it.open:
            break
        it.step()
    assert not it.open, f"{len(it.open)} starve"
    assert it.pool.free == it.pool.pages
    history = it.history
    given = sum(each.answered - it.had[each] for each in it.true)
    assert it.scheduler.load().given == given, "what was given elsewhere is not counted again"
    assert history.offered == (
        history.refused.total() + history.answered + history.cancelled + history.expired
    ), history
    return history


def _request(
    draw: random.Random, it: Simulated, users: list[str], context: int, page_tokens: int
) -> tuple[TokenRequest, int]:
    prompt, most = draw.randint(1, context // 2), draw.randint(1, context // 2 + draw.choice([0, 0, 0, 5]))
    family, shared = draw.randrange(3), draw.randint(0, prompt) // page_tokens
    names = tuple(
        (family, at) if at < shared else (family, at, it.history.offered)
        for at in range(prompt // page_tokens)
    )
    answered = draw.randint(1, most - 1) if most > 1 and draw.random() < 0.1 else 0
    request = TokenRequest(
        prompt=prompt,
        most=most,
        answered=answered,
        arrived=it.now,
        user=draw.choice(users),
        urgency=draw.choice([0, 0, 0, 1, 2]),
        deadline=it.now + draw.uniform(0.2, 5) if draw.random() < 0.2 else math.inf,
        names=names,
    )
    return request, draw.randint(answered + 1, most)
