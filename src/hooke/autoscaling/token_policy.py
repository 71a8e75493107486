"""How many replicas a language model needs, in tokens: what `service_policy` and `replay` need to know of it. Pure.

A unit of load is the time of one token of an answer in a full batch: a token of a prompt is a part of it, by the law of steps. So long
answers count as what they are, and a long prompt is no long answer. What answers will have is expected from all tokens of late by the answers
that ended with them: that counts those which have not ended, too (the exponential law's estimate from censored times), so answers that
become longer are noticed before the first of them ends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hooke.autoscaling.replay import Station
from hooke.autoscaling.service_policy import Capacity
from hooke.generation.token_scheduler import ASSUMED_ANSWER, StepWork, TokenLimits, TokenLoad
from hooke.serving.slo import Slo

if TYPE_CHECKING:  # SciPy takes half a second
    from hooke.generation.token_law import TokenLaw

__all__ = ["ReplicaTokens", "TokenDemand", "TokenMix", "replica_tokens", "token_station"]

USABLE = 0.85
"""The part of a replica's tokens a second with which first tokens still come soon: requests come by chance, and in bursts."""
REST = 0.6
"""What a running answer has left on average, as a part of the expected answer: as `TokenScheduler.load` counts it."""
LONE_WAIT = 0.5
"""Without an SLO a request may wait for such a part of what a mean answer takes."""
RECENT = 100.0
"""Lengths are means over about so many of the last requests: a tenth off by chance."""
MOST_SECONDS = 3600
"""Where fewer come, those of so many seconds count."""
TAKEN_LATE = 3
"""Within so many seconds a replica reports what it was asked."""
LATEST, PRIOR, SURE = 20.0, 4.0, 2.5
"""Where answers of the last so many requests, with some as before beside them, differ by so many standard deviations, they count alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMix:
    """Mean tokens of the requests of late."""

    prompt: float = 0.0
    """Of prompts, without what was in memory."""
    reused: float = 0.0
    """Of prompts that were in memory."""
    answer: float = float(ASSUMED_ANSWER)

    @property
    def context(self) -> float:
        """In memory while a request is answered, on average."""
        return self.prompt + self.reused + self.answer / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTokens:
    """What a replica does with such requests, in tokens of answers."""

    rate: float
    """Tokens a second in a full batch."""
    requests: float
    """In a full batch."""
    prompt: float
    """What a token of a prompt counts."""
    wait_s: float
    """How long a request may wait until its prompt is computed."""
    load: float
    """A request of the mix."""
    answer: float
    """Tokens of an answer."""

    @property
    def capacity(self) -> Capacity:
        """For `ReplicaPolicy`."""
        inside = self.requests * REST * self.answer + self.rate * self.wait_s / 2
        return Capacity(rate=USABLE * self.rate if self.wait_s > 0 else 0.0, in_flight=inside)


def replica_tokens(law: TokenLaw, limits: TokenLimits, mix: TokenMix, slo: Slo | None) -> ReplicaTokens:
    """A replica at its best: as many requests at once as its limits, its memory and the promised time of a token allow.

    The law's pessimistic end counts, which is that of the time of a full batch.
    """
    most = min(limits.slots, max(limits.all_pages * limits.page_tokens / max(mix.context, 1.0), 1.0))
    prompt = mix.prompt
    pairs = prompt * (mix.reused + prompt / 2)

    def step_s(requests: float) -> float:
        """With the parts of prompts that so many requests bring."""
        share = requests / max(mix.answer, 1.0)
        work = StepWork(*(share * prompt, requests, requests * mix.context, share * pairs))  # type: ignore[arg-type] - means
        return law.step_s(work)

    if slo is not None and slo.each_s is not None:
        fixed, one = step_s(0.0), step_s(1.0)
        most = min(most, max((slo.each_s - fixed) / max(one - fixed, 1e-12), 1.0))
    margin = _margin(law, most, mix)
    token_s = margin * (law.step_s(StepWork(0, 1, 0, 0)) - law.step_s(StepWork(0, 0, 0, 0)))
    token_s += margin * law.step_s(StepWork(0, 0, 0, 0)) / most
    token_s += margin * mix.context * float(law.coefficients[3])
    per_prompt = margin * (
        float(law.coefficients[1]) + float(law.coefficients[4]) * (mix.reused + prompt / 2)
    )
    # Parts of prompts take room in steps, too.
    room = max(limits.step_tokens - most, 1.0)
    per_prompt = max(per_prompt, 0.0) + margin * law.step_s(StepWork(0, 0, 0, 0)) / (most * room)
    first_s = prompt * per_prompt + margin * step_s(most)
    wait_s = slo.limit_s - first_s if slo is not None else LONE_WAIT * mix.answer * token_s * most
    weight = per_prompt / token_s
    return ReplicaTokens(
        rate=1 / token_s,
        requests=most,
        prompt=weight,
        wait_s=wait_s,
        load=prompt * weight + mix.answer,
        answer=mix.answer,
    )


def _margin(law: TokenLaw, requests: float, mix: TokenMix) -> float:
    found = law.seconds(StepWork(0, math.ceil(requests), math.ceil(requests * mix.context), 0))
    return found.interval[1] / found.value if found.value else 1.0


def token_station(replica: ReplicaTokens, slo: Slo, *, start_s: float, grain: float) -> Station | None:
    """A replica as a server of the queue of all tokens, for replays; None if no wait keeps the SLO. `grain` as in `TokenDemand`."""
    if replica.wait_s <= 0:
        return None
    return Station(
        rate=replica.rate,
        wait_s=replica.wait_s,
        # Tokens come by whole requests, so their number varies as much more.
        variability=max(grain - 1.0, 0.0),
        percent=slo.percent,
        start_s=start_s,
        in_service=max(replica.capacity.in_flight, 1.0),
    )


class TokenDemand:
    """What the replicas of a language model are asked for and have to do, by their reports. In tokens of answers."""

    def __init__(self) -> None:
        self.mix = TokenMix()
        self.arrived = 0.0
        """Since the beginning, with what was refused."""
        self.outstanding = 0.0
        """What all replicas have to do."""
        self.grain = float(ASSUMED_ANSWER)
        """What a request counts, weighted by that: mean square by mean."""
        self.weight = 0.0
        """What a token of a prompt counts: 0 until a law says it."""
        self._seen: dict[str, TokenLoad] = {}
        self._recent: deque[tuple[float, float, float, float, float]] = deque()
        """Of each second with something new: requests, tokens of prompts, reused ones, answers that ended or were left, and tokens of answers."""
        self._untaken: deque[int] = deque(maxlen=TAKEN_LATE)
        """Requests of the last seconds that no replica had taken: those that are older were refused."""
        self._called = 0

    def update(self, loads: Mapping[str, TokenLoad], called: int, held: int = 0) -> None:
        """The latest reports of all replicas, the requests that were asked so far with those that were refused, and how many no replica has yet."""
        taken = prompts = reused = ended = answers = 0
        unseen = sum(load.taken for name, load in loads.items() if name not in self._seen)
        for name, load in loads.items():
            before = self._seen.get(name, load)  # what it did before it was seen is no load of now
            taken += load.taken - before.taken
            prompts += load.prompt_tokens - before.prompt_tokens
            reused += load.reused - before.reused
            ended += load.ended + load.left - before.ended - before.left
            answers += load.given - before.given
        self._seen = dict(loads)
        if taken or ended or answers:
            self._recent.append((taken, prompts, reused, ended, answers))
            self._mean()
        asked, self._called = max(called - self._called, 0), called
        mean = self._of(self.mix.prompt, self.mix.answer)
        new = self._of(max(prompts - reused, 0), taken * self.mix.answer)
        known = min(taken, sum(self._untaken))  # a replica says later what it has been asked for
        untaken = max(asked - (taken - known), 0)
        self.arrived += (new * (1 - known / taken) if taken else 0.0) + untaken * mean
        self._untaken.append(max(untaken - unseen, 0))
        for at, one in enumerate(self._untaken):
            used = min(one, known)
            self._untaken[at] -= used
            known -= used
        self.outstanding = held * mean + sum(self._left(load) for load in loads.values())

    def _of(self, prompt: float, answer: float) -> float:
        return self.weight * prompt + answer

    def _left(self, load: TokenLoad) -> float:
        running = max(load.running_tokens, REST * load.running * self.mix.answer)
        return running + self._of(load.waiting_prompts, load.waiting * self.mix.answer)

    def _mean(self) -> None:
        while len(self._recent) > 1 and self._enough(skip=1):
            self._recent.popleft()
        taken, prompts, reused, ended, answers = (sum(part) for part in zip(*self._recent, strict=True))
        mix = self.mix
        answer = (answers + PRIOR * mix.answer) / (ended + PRIOR)
        new_ended, new_answers = self._latest()
        new = (new_answers + PRIOR * answer) / (new_ended + PRIOR)
        if abs(math.log(new / answer)) > SURE / math.sqrt(new_ended + PRIOR):
            answer = new
        self.mix = TokenMix(
            prompt=max(prompts - reused, 0.0) / taken if taken else mix.prompt,
            reused=reused / taken if taken else mix.reused,
            answer=max(answer, 1.0),
        )
        # Of lengths only means are reported: they vary about as an exponential's, which has twice the square.
        self.grain = 2 * self._of(self.mix.prompt, self.mix.answer)

    def _latest(self) -> tuple[float, float]:
        """Answers that ended, and tokens of answers, while the last LATEST requests came."""
        taken = ended = answers = 0.0
        for one in reversed(self._recent):
            taken, ended, answers = taken + one[0], ended + one[3], answers + one[4]
            if taken >= LATEST:
                break
        return ended, answers

    def _enough(self, *, skip: int) -> bool:
        kept = list(self._recent)[skip:]
        many = sum(one[0] for one in kept) >= RECENT and sum(one[3] for one in kept) >= RECENT
        return many or len(kept) >= MOST_SECONDS
