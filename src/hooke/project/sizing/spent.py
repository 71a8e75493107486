"""What a run has spent, from its journal: for the one that takes it up again."""

from __future__ import annotations

from collections.abc import Sequence

from hooke.journal.events import Event, RunStarted
from hooke.journal.fleets import FleetDecided

__all__ = ["spent_usd"]


def spent_usd(events: Sequence[Event], signs: Sequence[float], *, least: int, usd_per_hour: float) -> float:
    """US dollars, by the driver's `events`. Each of its processes began with `least` workers and may have died in silence.

    `signs` are moments at which something of the run was alive: the driver may say nothing while a long task runs. The
    time between two of its processes is not paid.
    """
    starts = [event.at for event in events if isinstance(event, RunStarted)]
    spent = 0.0
    for began, ended in zip(starts, [*starts[1:], float("inf")], strict=True):
        seen = [sign for sign in signs if began <= sign < ended]
        inside = [event for event in events if began <= event.at < ended]
        spent = _after(spent, inside, max(seen, default=began), least, usd_per_hour)
    return spent


def _after(spent: float, events: Sequence[Event], until: float, least: int, usd_per_hour: float) -> float:
    workers, since = least, events[0].at
    for event in events:
        if isinstance(event, FleetDecided):  # which has what was spent before, too
            spent, workers, since = event.spent_usd, max(event.after, event.workers), event.at
        until = max(until, event.at)
    return spent + workers * (until - since) * usd_per_hour / 3600
