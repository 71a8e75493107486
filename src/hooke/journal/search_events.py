"""The events of a search: its objective, its trials, and their outcomes."""

from __future__ import annotations

import msgspec

__all__ = ["SearchStarted", "TrialBegan", "TrialEnded"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class SearchStarted(_Event, frozen=True, kw_only=True, tag="search_started"):
    """The definition of this run's search; once a run, after its first RunStarted."""

    key: str
    """A hash of code, space, parameters, objective and seed. Searches with equal keys are one search."""
    space: dict[str, str]
    """The possible values of each parameter, as short text."""
    metric: str
    """The objective: a metric's name, such as `auc.max`; empty is the result of a trial."""
    direction: str
    sampler: str
    pruner: str
    seed: int


class TrialBegan(_Event, frozen=True, kw_only=True, tag="trial_began"):
    """A trial began, in a run of its own; again if an earlier try was interrupted."""

    trial: int
    run: str
    asked: dict[str, float] = {}
    """Parameter -> value; for a choice, its index."""
    shown: dict[str, str] = {}
    """Parameter -> short text."""


class TrialEnded(_Event, frozen=True, kw_only=True, tag="trial_ended"):
    """How a trial ended: `finished` with its value, `pruned`, or `failed`."""

    trial: int
    status: str
    value: float | None = None
    message: str = ""
