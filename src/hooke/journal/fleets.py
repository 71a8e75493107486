"""The events of a fleet: how many workers a run was given and why; in a fleet's ledger, what was ordered and what became of it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["FleetDecided", "FleetEvent"]


class FleetDecided(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="fleet_decided"):
    """Another number of workers is wanted, or the same for another reason, which is one plain sentence."""

    at: float = 0.0
    """Wall clock, seconds since the epoch."""
    before: int
    after: int
    reason: str
    bound: str = ""
    """What kept it from more: `work`, `start`, `knee`, `law`, `cap`, `deadline`, `budget`; `idle` where workers were given up."""
    stop: bool = False
    """Whether the run ends by it."""
    workers: int = 0
    """That were ready."""
    could: int = 0
    """Items that ran or could run."""
    left: int = 0
    """Items that were not done, as far as they were known."""
    spent_usd: float = 0.0


FleetEvent: TypeAlias = FleetDecided
"""All events that only fleets have."""
