"""Which rate is measured next, and the highest that keeps the promise: a pure policy over what was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hooke.load.summary import Verdict

__all__ = ["Ladder", "SafeRate", "Seen", "next_rate", "safe_rate"]

Seen = tuple[float, Verdict]
"""A rate that was measured, and what came of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rates climb by `growth` from `first` until the promise breaks, then halve the gap until it is within `finest`."""

    first: float
    growth: float = 2.0
    finest: float = 1.1
    """Of the rate that broke it over the one that kept it: closer, and the noise of a machine decides."""
    least: float = 1.0
    most: float = 1e6
    downs: int = 5
    """How often the rate is lowered in search of any that keeps the promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeRate:
    """The rate up to which a promise is kept lies between `low`, which kept it surely, and `high`, which surely broke it.

    `low` is the one to count on; None where no rate kept it. `high` is infinite where none surely broke it, and
    `limited` says that it was the generator that could not go on.
    """

    low: float | None
    high: float
    limited: bool


def next_rate(ladder: Ladder, seen: Sequence[Seen]) -> float | None:
    """The next rate to measure, given all before in their order; None where it is decided.

    A break is believed when it happens twice: something else on the machine may have been the cause of the first.
    """
    if not seen:
        return ladder.first
    rate, verdict = seen[-1]
    if verdict in (Verdict.BROKEN, Verdict.UNCLEAR) and sum(each == rate for each, _ in seen) < 2:
        return rate
    low, high = _bracket(seen)
    if low is None:
        lowered = len({each for each, _ in seen if each < ladder.first})
        below = high / ladder.growth
        return below if below >= ladder.least and lowered < ladder.downs else None
    if math.isinf(high):
        return None if low >= ladder.most else min(low * ladder.growth, ladder.most)
    return None if high / low <= ladder.finest else math.sqrt(low * high)


def safe_rate(seen: Sequence[Seen]) -> SafeRate:
    """What all the levels tell together."""
    low, _ = _bracket(seen)
    settled = _settled(seen)
    above = [rate for rate in settled if low is None or rate > low]
    broken = min((rate for rate in above if settled[rate] is Verdict.BROKEN), default=math.inf)
    limited = any(settled[rate] is Verdict.LIMITED and rate < broken for rate in above)
    return SafeRate(low=low, high=broken, limited=limited)


def _settled(seen: Sequence[Seen]) -> dict[float, Verdict]:
    """The last word on each rate."""
    return dict(seen)


def _bracket(seen: Sequence[Seen]) -> tuple[float | None, float]:
    """The highest rate that held below all that broke, and the lowest above it that did not hold."""
    settled = _settled(seen)
    broken = min((rate for rate, verdict in settled.items() if verdict is Verdict.BROKEN), default=math.inf)
    held = [rate for rate, verdict in settled.items() if verdict is Verdict.HELD and rate < broken]
    low = max(held, default=None)
    # One that few requests left unclear does not speak against a higher one that surely held.
    others = [
        rate
        for rate, verdict in settled.items()
        if verdict is not Verdict.HELD and (low is None or rate > low)
    ]
    return low, min(others, default=math.inf)
