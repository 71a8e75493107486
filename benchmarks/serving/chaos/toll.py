"""What requests tell of blows: how many were under way, which failed and how, the longest answer. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from benchmarks.serving.chaos.blows import Blow
from numpy.typing import NDArray

from hooke.loadtest.generator_protocol import Fate, Outcomes, name_of

__all__ = ["FRONT", "HEARD_S", "QUIET", "Toll", "tolls"]

QUIET = "between events"
FRONT = "Envoy killed, `kill -9`"
SLACK_S = 0.05
"""How exactly it is known when a blow fell: a request that was sent so soon after it may have been sent before."""

HEARD_S = 2.0
"""How much later a busy client may hear of it."""


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


def tolls(
    outcomes: Outcomes,
    blows: Sequence[Blow],
    began: float,
    *,
    takes: tuple[str, Collection[int]] = (FRONT, {Fate.LOST}),
    heard_s: float = HEARD_S,
) -> list[Toll]:
    """One of each kind, and one of the time between. `began` is when the load did, by the clock of the blows.

    A request belongs to the first blow during which it was under way, from then until full strength; but one that failed while a blow
    was felt that `takes` requests along, in one of the ways given there, to that, whatever held it up before. Its client may have heard of it `heard_s` later.
    """
    found: dict[str, Toll] = {}
    free = np.ones(len(outcomes), dtype=np.bool_)
    taken = np.zeros(len(outcomes), dtype=np.bool_)
    taker, ways = takes
    for blow in blows:
        if blow.kind == taker:
            at, strong = blow.at - began, blow.strong - began
            taken |= (outcomes.ended >= at) & (outcomes.ended <= strong + heard_s)
    taken &= np.isin(outcomes.status, list(ways))
    for blow in sorted(blows, key=lambda one: one.at):
        at, strong = blow.at - began, blow.strong - began
        toll = found.setdefault(blow.kind, Toll(kind=blow.kind))
        toll.times += 1
        toll.strong_s.append(strong - at)
        toll.under_way += int(((outcomes.begun <= at + SLACK_S) & (outcomes.ended >= at)).sum())
        mine = free & (outcomes.begun <= strong) & (outcomes.ended >= at)
        mine &= ~taken | (blow.kind == taker)
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
