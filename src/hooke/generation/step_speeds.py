"""How fast replicas of a language model are beside one another, whatever work each of them got. Pure.

A step takes a time of its own, and a time for each token in it. Both are fitted by least squares to the steps of all replicas together; a
replica's speed is what its steps should have taken by that, divided by what they took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["StepSpeeds"]

FORGET_S = 20.0
"""In so long what was observed fades to a third: a replica that was slow and got nothing is tried again."""
PRIOR_STEPS = 4
"""So many steps count for half of the speed; the other half is that of the fastest."""
ALIKE = 0.75
"""A replica that is nearly as fast as the fastest is as fast: smaller differences are noise."""
SLOWEST = 0.01


@dataclass(slots=True)
class _Work:
    """Faded sums over reports of steps, their tokens and their seconds."""

    at: float
    steps: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    """Tokens of a step, squared, for each step; as below."""
    tokens_seconds: float = 0.0
    speed: float = 1.0

    def fade(self, now: float) -> None:
        left = math.exp(-max(now - self.at, 0.0) / FORGET_S)
        self.at = now
        self.steps *= left
        self.tokens *= left
        self.seconds *= left
        self.tokens_squared *= left
        self.tokens_seconds *= left


class StepSpeeds:
    """Takes what replicas report that they did; the fastest has speed 1."""

    def __init__(self) -> None:
        self._work: dict[str, _Work] = {}

    def observe(self, name: str, now: float, *, steps: int, computed: int, busy_s: float) -> None:
        """A replica computed so many tokens in so many steps, which took `busy_s`."""
        work = self._work.setdefault(name, _Work(now))
        work.fade(now)
        if steps > 0 and busy_s > 0:
            work.steps += steps
            work.tokens += computed
            work.seconds += busy_s
            work.tokens_squared += computed * computed / steps
            work.tokens_seconds += computed * busy_s / steps

    def forget(self, name: str) -> None:
        """It has ended."""
        self._work.pop(name, None)

    def speeds(self) -> dict[str, float]:
        """Of each replica that was observed."""
        own_s, token_s = self._fit()
        raw: dict[str, float] = {}
        for name, work in self._work.items():
            should_s = own_s * work.steps + token_s * work.tokens
            raw[name] = should_s / work.seconds if work.seconds > 0 and should_s > 0 else 0.0
        seen = [raw[name] for name, work in self._work.items() if work.steps >= PRIOR_STEPS]
        fastest = max(seen, default=max(raw.values(), default=0.0)) or 1.0
        for name, work in self._work.items():
            beside = min(raw[name] / fastest, 1.0)
            mixed = (beside * work.steps + PRIOR_STEPS) / (work.steps + PRIOR_STEPS)
            work.speed = 1.0 if mixed >= ALIKE else max(mixed, SLOWEST)
        return {name: work.speed for name, work in self._work.items()}

    def _fit(self) -> tuple[float, float]:
        """Seconds of a step and of a token, where all are as fast as the fastest."""
        all_of_them = self._work.values()
        steps, tokens = sum(each.steps for each in all_of_them), sum(each.tokens for each in all_of_them)
        seconds = sum(each.speed * each.seconds for each in all_of_them)
        if not steps or not tokens:
            return 0.0, 0.0
        spread = sum(each.tokens_squared for each in all_of_them) - tokens * tokens / steps
        together = sum(each.speed * each.tokens_seconds for each in all_of_them) - tokens * seconds / steps
        slope = max(together / spread, 0.0) if spread > 1e-6 * tokens * tokens / steps else 0.0
        own_s = (seconds - slope * tokens) / steps
        return (own_s, slope) if own_s >= 0 else (0.0, seconds / tokens)
