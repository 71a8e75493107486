"""Replicas of a language model with the real scheduler behind the real balancer: a step takes a time of its own, and one for each of its tokens."""

import heapq
import random
from dataclasses import dataclass, field

from hooke.generation.page_pool import PagePool
from hooke.generation.prompt_balancer import AskedPrompt, PromptBalancer
from hooke.generation.token_scheduler import TokenLimits, TokenRequest, TokenScheduler

STEP_S, TOKEN_S = 0.01, 0.0005
PROMPT, ANSWER = (20, 300), (5, 60)
SLOTS = 16
REPORT_S, LATE_S = 0.2, 0.1
CAPACITY = SLOTS / ((STEP_S + SLOTS * TOKEN_S) * 32 + 160 * TOKEN_S * SLOTS)
"""Requests a second of a replica as fast as the fastest, about."""


class SimulatedEngine:
    """One replica, `slower` times as slow as others."""

    def __init__(self, slower: float) -> None:
        self.slower = slower
        limits = TokenLimits(slots=SLOTS, step_tokens=128, context=512, max_waiting=100_000)
        self.scheduler = TokenScheduler(limits, PagePool(1024, 16))
        self.busy_s = 0.0
        self.step = None
        self.taken: list[tuple[str, int]] = []

    @property
    def open(self) -> int:
        """Requests that are not answered."""
        return self.scheduler.waiting + len(self.scheduler.running)


@dataclass
class FleetWaits:
    """Seconds from arrivals to first tokens, and how many requests each replica got."""

    p99_s: float
    sent: list[int] = field(default_factory=list)


class TokenFleet:
    """`run` lets requests arrive by chance."""

    def __init__(self, slower: list[float], *, seed: int, by_requests: bool = False) -> None:
        """`by_requests`: to where the fewest requests are, and not by the balancer."""
        self.by_requests = by_requests
        self.engines = [SimulatedEngine(each) for each in slower]
        self.balancer = PromptBalancer()
        self.balancer.publish([str(at) for at in range(len(slower))])
        self.draw = random.Random(seed)
        self.events: list[tuple[float, int, str, object]] = []
        self.waits: list[float] = []
        self.sent = [0] * len(slower)
        self.answers: dict[TokenRequest, int] = {}
        self.number = 0

    def run(self, *, seconds: float, of_capacity: float) -> FleetWaits:
        """So long, with this part of the requests that they bear together."""
        rate = of_capacity * CAPACITY * sum(1 / each.slower for each in self.engines)
        at = 0.0
        while (at := at + self.draw.expovariate(rate)) < seconds:
            self._at(at, "arrives", None)
        for each in range(len(self.engines)):
            for turn in range(int(seconds / REPORT_S)):
                self._at(turn * REPORT_S + each * 0.01, "reports", each)
        while self.events:
            now, _, what, given = heapq.heappop(self.events)
            getattr(self, f"_{what}")(now, given)
        late = sorted(self.waits[len(self.waits) // 4 :])  # speeds are learned at first
        return FleetWaits(late[int(0.99 * len(late))], self.sent)

    def _at(self, when: float, what: str, given: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, what, given))

    def _arrives(self, now: float, _: None) -> None:
        self.number += 1
        prompt = self.draw.randint(*PROMPT)
        request = TokenRequest(prompt=prompt, most=100, arrived=now)
        self.answers[request] = self.draw.randint(*ANSWER)
        identity = str(self.number)
        if self.by_requests:
            at = min(range(len(self.engines)), key=lambda each: self.engines[each].open)
        else:
            at = int(self.balancer.choose(AskedPrompt(size=4 * prompt, identity=identity), now)[0])
        self.sent[at] += 1
        assert not self.engines[at].scheduler.offer(request)
        self.engines[at].taken.append((identity, prompt))
        self._go_on(now, at)

    def _go_on(self, now: float, at: int) -> None:
        engine = self.engines[at]
        if engine.step is None:
            step = engine.scheduler.step(now)
            if step.pieces:
                engine.step = step
                took = engine.slower * (STEP_S + TOKEN_S * step.tokens)
                engine.busy_s += took
                self._at(now + took, "stepped", at)

    def _stepped(self, now: float, at: int) -> None:
        engine = self.engines[at]
        step, engine.step = engine.step, None
        gives = [piece.request for piece in step.pieces if piece.gives_token]
        self.waits += [now - each.arrived for each in gives if not each.answered]
        engine.scheduler.stepped(step, {each for each in gives if each.answered + 1 >= self.answers[each]})
        self._go_on(now, at)

    def _reports(self, now: float, at: int) -> None:
        engine = self.engines[at]
        taken, engine.taken = engine.taken, []
        self._at(now + LATE_S, "heard", (at, engine.scheduler.load(engine.busy_s), taken))

    def _heard(self, now: float, given: tuple) -> None:
        at, load, taken = given
        self.balancer.report(str(at), load, now, taken=taken)
