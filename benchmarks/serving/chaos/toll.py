"""What requests tell of blows: how many were under way, which failed and how, the longest answer. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from benchmarks.serving.chaos.blows import Blow
from numpy.typing import NDArray

from hooke.loadtest.generator_protocol import Fate, Outcomes, name_of

__all__ = ["FRONT", "QUIET", "Toll", "tolls"]

QUIET = "between events"
FRONT = "Envoy killed, `kill -9`"
SLACK_S = 0.05
"""How exactly it is known when a blow fell: a request that was sent so soon after it may have been sent before."""


@dataclass(slots=True, kw_only=True)
class Toll:
    """Of all blows of a kind."""

    kind: str
    times: int = 0
    sent: int = 0
    """Requests that were under way at any time from a blow until full strength."""
    under_way: int = 0
    """Those that were at the moment of the blow."""
    failed: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    strong_s: list[float] = field(default_factory=list)
    """From the blow until full strength, each time."""


def tolls(outcomes: Outcomes, blows: Sequence[Blow], began: float) -> list[Toll]:
    """One of each kind, and one of the time between. `began` is when the load did, by the clock of the blows.

    A request belongs to the first blow during which it was under way, from then until full strength; but one whose connection
    was lost when Envoy was killed to that, whatever held it up before.
    """
    found: dict[str, Toll] = {}
    free = np.ones(len(outcomes), dtype=np.bool_)
    with_front = np.zeros(len(outcomes), dtype=np.bool_)
    for blow in blows:
        if blow.kind == FRONT:
            at, strong = blow.at - began, blow.strong - began
            with_front |= (outcomes.ended >= at) & (outcomes.ended <= strong)
    with_front &= outcomes.status == Fate.LOST
    for blow in sorted(blows, key=lambda one: one.at):
        at, strong = blow.at - began, blow.strong - began
        toll = found.setdefault(blow.kind, Toll(kind=blow.kind))
        toll.times += 1
        toll.strong_s.append(strong - at)
        toll.under_way += int(((outcomes.begun <= at + SLACK_S) & (outcomes.ended >= at)).sum())
        mine = free & (outcomes.begun <= strong) & (outcomes.ended >= at)
        mine &= ~with_front | (blow.kind == FRONT)
        free &= ~mine
        _add(toll, outcomes, mine)
    rest = Toll(kind=QUIET)
    _add(rest, outcomes, free)
    return [*found.values(), rest]


def _add(toll: Toll, outcomes: Outcomes, mine: NDArray[np.bool_]) -> None:
    toll.sent += int(mine.sum())
    toll.failed.update(name_of(status) for status in outcomes.status[mine & ~outcomes.answered].tolist())
    good = outcomes.latency[mine & outcomes.answered]
    toll.longest_s = max(toll.longest_s, float(good.max()) if good.size else 0.0)
