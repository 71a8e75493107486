"""Times of a language model's requests, from the law of its steps: to the first token, and for each token after it. Pure.

Where requests wait for one another, the real scheduler runs in virtual time, with steps that take what the law says, and noise (`simulate`).
Where nothing waits, `first_token_s` and `token_s` draw the few steps that matter. Both draw coefficients that the data allow, too: so
their intervals are for what a client will see, not for a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.generation.page_pool import PagePool
from hooke.generation.token_law import StepNoise, TokenLaw
from hooke.generation.token_scheduler import StepWork, TokenLimits, TokenRequest, TokenScheduler
from hooke.scaling.families import Floats
from hooke.scaling.measurements import Estimate

__all__ = [
    "RequestTimes",
    "TokenForecast",
    "TokenTraffic",
    "first_token_s",
    "histories",
    "simulate",
    "statistic",
    "step_times",
    "token_s",
]

DRAWS = 4000
"""Draws of a few steps: the ends of an interval are within a hundredth of its width."""


Lengths = Sequence[int] | NDArray[np.int64]
"""Tokens, one number for each request."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTraffic:
    """Requests in the order of their arrival: tokens of prompts and answers (n,).

    `due` (n,) are their arrivals in seconds. Without them, `users` send one request after the other: the next when the last was answered.
    All prompts begin with the same `shared` tokens.
    """

    prompts: Lengths
    outputs: Lengths
    due: Floats | None = None
    users: int = 1
    shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestTimes:
    """Of each request (n,): seconds from its arrival to its first token, from that to its last one, and when it ended.

    Infinite for one that was refused, as no room was left, or waited past the timeout.
    """

    first_s: Floats
    rest_s: Floats
    ended: Floats
    prompts: Floats
    outputs: Floats
    busy_s: float
    """Seconds of all steps."""
    steps: int

    @property
    def per_token_s(self) -> Floats:
        """Seconds for each token after the first; nan for answers of one token."""
        with np.errstate(invalid="ignore"):
            return np.where(self.outputs > 1, self.rest_s / np.maximum(self.outputs - 1, 1), math.nan)


StepTimes = Callable[[StepWork, float], float]
"""(work of a step, when it begins) -> its seconds."""


def simulate(
    limits: TokenLimits, load: TokenTraffic, step_s: StepTimes, *, timeout_s: float = math.inf
) -> RequestTimes:
    """What the requests see of an engine with these limits, whose steps take `step_s`. A request that has not begun within `timeout_s` is given up."""
    return _Simulation(limits, load, step_s, timeout_s).run()


class _Simulation:
    """One engine in virtual time."""

    def __init__(self, limits: TokenLimits, load: TokenTraffic, step_s: StepTimes, timeout_s: float) -> None:
        self._load, self._step_s, self._timeout_s = load, step_s, timeout_s
        self._pool = PagePool(limits.all_pages, limits.page_tokens)
        self._scheduler = TokenScheduler(limits, self._pool)
        count = len(load.prompts)
        self._due = np.zeros(count) if load.due is None else np.asarray(load.due, dtype=float)
        self._first, self._last = np.full(count, math.inf), np.full(count, math.inf)
        self._number: dict[TokenRequest, int] = {}
        self._next = 0
        self._idle = 0 if load.due is not None else max(load.users, 1)
        """Users that send their next request now."""
        self._busy_s = 0.0
        self._steps = 0
        self.now = 0.0

    def run(self) -> RequestTimes:
        scheduler, count = self._scheduler, len(self._due)
        while True:
            self._arrive()
            for request in scheduler.expired(self.now):
                self._gone(request)
            if scheduler.running or scheduler.waiting:
                self._step()
            elif self._next < count:
                self.now = max(float(self._due[self._next]), self.now)
            else:
                break
        return RequestTimes(
            first_s=self._first - self._due,
            rest_s=np.where(
                np.isfinite(self._first),
                self._last - np.where(np.isfinite(self._first), self._first, 0),
                math.inf,
            ),
            ended=self._last,
            prompts=np.asarray(self._load.prompts, dtype=float),
            outputs=np.asarray(self._load.outputs, dtype=float),
            busy_s=self._busy_s,
            steps=self._steps,
        )

    def _arrive(self) -> None:
        """Offer what is due now. A user whose request is refused has its next one offered after the next step."""
        count = len(self._due)
        if self._load.due is None:
            idle, self._idle = self._idle, 0
            for _ in range(min(idle, count - self._next)):
                self._offer(self.now)
        else:
            while self._next < count and self._due[self._next] <= self.now:
                self._offer(self._due[self._next])

    def _offer(self, at: float) -> None:
        number, load = self._next, self._load
        self._next += 1
        self._due[number] = at
        prompt = int(load.prompts[number])
        shared = min(load.shared, prompt) // self._pool.page_tokens
        request = TokenRequest(
            prompt=prompt,
            most=int(load.outputs[number]),
            arrived=at,
            deadline=at + self._timeout_s,
            names=tuple(range(shared)),
        )
        if self._scheduler.offer(request):
            self._gone(request)
        else:
            self._number[request] = number

    def _gone(self, request: TokenRequest) -> None:
        self._number.pop(request, None)
        self._idle += 1

    def _step(self) -> None:
        step = self._scheduler.step(self.now)
        took = self._step_s(step.work, self.now)
        givers = [piece.request for piece in step.pieces if piece.gives_token and not piece.request.answered]
        self.now += took
        self._busy_s += took
        self._steps += 1
        for request in givers:
            self._first[self._number[request]] = self.now
        for request in self._scheduler.stepped(step):
            self._last[self._number.pop(request)] = self.now
            self._idle += 1


def step_times(coefficients: Floats, noise: StepNoise, chance: np.random.Generator) -> StepTimes:
    """Steps by the law with these coefficients (5,), with its noise."""
    fixed, prompt, request, context, pair = coefficients.tolist()
    state, last = float(chance.standard_normal()), 0.0
    factor = 1.0
    scale, shift = _log_normal(float(noise.draws(chance, 1)[0]))
    least_s = noise.memory_s / 32
    drawn = iter(())
    due = 0.0

    def step_s(work: StepWork, now: float) -> float:
        nonlocal state, last, factor, due, drawn
        if now >= due:  # the speed has changed a little
            keep = math.exp((last - now) / noise.memory_s)
            state = keep * state + math.sqrt(1 - keep**2) * float(chance.standard_normal())
            factor = math.exp(scale * state + shift)
            last, due = now, now + least_s
        own = next(drawn, None)
        if own is None:
            drawn = iter(noise.single[chance.integers(len(noise.single), size=1024)].tolist())
            own = next(drawn)
        expected = fixed + prompt * work[0] + request * work[1] + context * work[2] + pair * work[3]
        return factor * own * expected

    return step_s


def _log_normal(spread: float) -> tuple[float, float]:
    """Scale and shift of the logarithm, for a mean of 1 and this standard deviation."""
    scale = math.sqrt(math.log1p(spread**2))
    return scale, -(scale**2) / 2


def histories(
    law: TokenLaw,
    limits: TokenLimits,
    loads: Sequence[TokenTraffic],
    chance: np.random.Generator,
    *,
    timeout_s: float = math.inf,
) -> list[RequestTimes]:
    """A history of each load, each with coefficients of its own."""
    return [
        simulate(limits, load, step_times(coefficients, law.noise, chance), timeout_s=timeout_s)
        for load, coefficients in zip(loads, law.draws(chance, len(loads)), strict=True)
    ]


class TokenForecast:
    """Intervals for single requests at a load, from simulated histories of it: of the requests most alike, `near` of them."""

    def __init__(self, told: Sequence[RequestTimes], *, near: int = 200, level: float = 0.95) -> None:
        self._near = near
        self._level = level
        prompts = np.concatenate([each.prompts for each in told])
        outputs = np.concatenate([each.outputs for each in told])
        several = outputs > 1
        tokens = np.concatenate([each.per_token_s for each in told])
        self._firsts = _ordered(prompts, np.concatenate([each.first_s for each in told]))
        self._tokens = _ordered(outputs[several], tokens[several])

    def first_s(self, prompt: int) -> Estimate:
        """Seconds to the first token of such a prompt."""
        return self._alike("seconds to the first token", self._firsts, prompt)

    def per_token_s(self, output: int) -> Estimate:
        """Seconds for each token after the first of such an answer."""
        return self._alike("seconds for each token", self._tokens, output)

    def _alike(self, name: str, table: tuple[Floats, Floats], at: int) -> Estimate:
        """Quantiles of the values beside the line through those most alike, at this length."""
        by, values = table
        near = min(self._near, len(by))
        middle = (np.searchsorted(by, at, "left") + np.searchsorted(by, at, "right")) // 2
        first = int(min(max(middle - near // 2, 0), len(by) - near))
        beside, seen = by[first : first + near], values[first : first + near]
        off = beside - beside.mean()
        spread, finite = float(off @ off), bool(np.isfinite(seen).all())
        slope = float(off @ seen) / spread if spread and finite else 0.0
        ends = np.quantile(seen - slope * (beside - at), [(1 - self._level) / 2, 0.5, (1 + self._level) / 2])
        low, value, high = (max(float(each), 0.0) for each in ends)
        return Estimate(name=name, value=value, interval=(low, high), level=self._level)


def _ordered(by: Floats, values: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(by, kind="stable")
    return by[order], values[order]


def statistic(
    name: str, told: Sequence[RequestTimes], quantity: Callable[[RequestTimes], float], *, level: float = 0.95
) -> Estimate:
    """A quantity of histories, such as the 95th percentile of a time: its median, and the interval for a next history like them."""
    found = np.sort([quantity(each) for each in told])
    low, high = ((1 - level) / 2, (1 + level) / 2)
    ends = _between(found, low), _between(found, high)
    return Estimate(name=name, value=_between(found, 0.5), interval=ends, level=level)


def _between(ordered: Floats, share: float) -> float:
    """The quantile that a next value of n is below with this probability: at share (n + 1), within the range."""
    at = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = ordered[math.floor(at)]
    above = ordered[math.ceil(at)]
    return float(below if below == above else below + (at - math.floor(at)) * (above - below))


def first_token_s(
    law: TokenLaw,
    limits: TokenLimits,
    prompt: int,
    *,
    cached: int = 0,
    batch: int = 0,
    context: int = 0,
) -> Estimate:
    """Seconds to the first token of a prompt that finds a free slot beside `batch` answers, which have `context` tokens each.

    `cached` tokens of the prompt are in memory. With a batch, it waits for the rest of a step first. Raises UsageError if there is no slot.
    """
    if batch >= limits.slots:
        raise UsageError(f"batch={batch} leaves none of {limits.slots} slots for another request")
    spare = limits.step_tokens - batch
    known = min(cached, prompt - 1) // limits.page_tokens * limits.page_tokens
    works = []
    for start in range(known, prompt, spare):
        tokens = min(spare, prompt - start)
        pairs = tokens * start + tokens * (tokens + 1) // 2
        works.append(StepWork(tokens, batch + 1, batch * context, pairs))
    waits = StepWork(0, batch, batch * context, 0) if batch else None
    return _drawn("seconds to the first token", law, works, waits=waits)


def token_s(law: TokenLaw, output: int, *, batch: int = 1, context: int = 0) -> Estimate:
    """Seconds for each token after the first of an answer of `output` tokens in a batch of `batch`, whose requests have `context` tokens each at its beginning."""
    works = [StepWork(0, batch, batch * (context + at), 0) for at in range(1, max(output, 2))]
    found = _drawn("seconds for each token", law, works)
    count = len(works)
    return Estimate(
        name=found.name,
        value=found.value / count,
        interval=(found.interval[0] / count, found.interval[1] / count),
        level=found.level,
    )


def _drawn(name: str, law: TokenLaw, works: Sequence[StepWork], *, waits: StepWork | None = None) -> Estimate:
    """The seconds of all these steps together; before them, what is left of one that `waits`."""
    chance = np.random.default_rng(0)
    rows = np.array([(1.0, *work) for work in works])
    each = law.draws(chance, DRAWS) @ rows.T
    own = law.noise.single[chance.integers(len(law.noise.single), size=each.shape)]
    total = (each * own).sum(axis=1)
    mean = float((rows @ law.coefficients).sum())
    if waits is not None:
        left = law.step_s(waits)
        total += left * chance.uniform(size=DRAWS)
        mean += left / 2
    speed = law.noise.averaged(mean) * law.noise.draws(chance, DRAWS) * chance.standard_normal(DRAWS)
    total *= np.exp(speed)
    low, high = np.quantile(total, [(1 - law.level) / 2, (1 + law.level) / 2])
    return Estimate(name=name, value=mean, interval=(float(low), float(high)), level=law.level)
