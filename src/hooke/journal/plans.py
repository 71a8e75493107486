"""The events of a plan: what was predicted of a pipeline, and how a run turned out against it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["PlanChecked", "PlanEvent", "PlanMade", "PlannedRow", "PlannedTask", "TaskChecked"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class PlannedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a plan: `items` that were left to run, `cached` that were not; `untimed` says why no total counts it."""

    task: str
    items: int | None = None
    cached: int = 0
    untimed: str = ""


class PlannedRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was predicted of a configuration, each as (low, value, high); `usd` is None where only a spot price is known."""

    configuration: str
    machine: str
    """`local`, or `catalog:instance_type`."""
    instances: int = 1
    workers: int = 1
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From asking for the machines to the last result."""
    usd: tuple[float, float, float] | None = None
    work_s: dict[str, tuple[float, float, float]] = {}
    """Task -> seconds of work of all its items together."""


class PlanMade(_Event, frozen=True, kw_only=True, tag="plan_made"):
    """Somebody asked what a pipeline would take: what was predicted, to be compared with what it took."""

    plan: str
    pipeline: str
    entry: str
    shown: dict[str, str] = {}
    """Parameters as short text, as in RunStarted."""
    times: dict[str, float] = {}
    """Task -> how many times the items that its maps have by these parameters; empty where the data are those."""
    tasks: tuple[PlannedTask, ...] = ()
    rows: tuple[PlannedRow, ...] = ()
    """Those of this machine, and those that no other beats."""
    recommended: str = ""
    """The configuration of the recommended row; empty where there was none."""
    reason: str = ""
    level: float = 0.95
    """The probability with which each interval was meant to hold."""
    host: str = ""
    hooke: str = ""


class TaskChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a run against its plan. `planned` and `ran` are items and calls, `seconds` those of all its attempts together.

    `planned` is None where the number was not known; `predicted_s` is None for a task that no total counted.
    """

    task: str
    planned: int | None
    ran: int
    predicted_s: tuple[float, float, float] | None
    seconds: float


class PlanChecked(_Event, frozen=True, kw_only=True, tag="plan_checked"):
    """How the run turned out against the newest plan that was made for it: predicted (low, value, high), and actual seconds."""

    plan: str
    configuration: str
    level: float
    predicted_s: tuple[float, float, float]
    seconds: float
    tasks: tuple[TaskChecked, ...] = ()


PlanEvent: TypeAlias = PlanMade | PlanChecked
"""All events that only plans have."""
