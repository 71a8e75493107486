"""The events of a search: what it looks for, what was tried, and what came of it."""

from __future__ import annotations

import msgspec

__all__ = ["SearchStarted", "TrialBegan", "TrialEnded"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class SearchStarted(_Event, frozen=True, kw_only=True, tag="search_started"):
    """What the search of this run looks for; said once a run, after its first RunStarted."""

    key: str
    """A hash of code, space, parameters, objective and seed: searches of equal key are one, and go on as one."""
    space: dict[str, str]
    """What each parameter may be, as short text."""
    metric: str
    """The objective: a metric's name, `auc.max` say; empty is what a trial returns."""
    direction: str
    sampler: str
    pruner: str
    seed: int


class TrialBegan(_Event, frozen=True, kw_only=True, tag="trial_began"):
    """A trial was asked for, and is tried in a run of its own; again where an earlier try of it was cut short."""

    trial: int
    run: str
    asked: dict[str, float] = {}
    """By parameter, of choices the number of the choice."""
    shown: dict[str, str] = {}
    """By parameter, as short text."""


class TrialEnded(_Event, frozen=True, kw_only=True, tag="trial_ended"):
    """How a trial ended: `finished` with its value, `pruned`, or `failed`."""

    trial: int
    status: str
    value: float | None = None
    message: str = ""
