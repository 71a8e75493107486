"""The events of a fleet: how many workers a run was given and why; in a fleet's ledger, what was ordered and what became of it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "FleetDecided",
    "FleetEvent",
    "FleetWanted",
    "LaunchAnswered",
    "LaunchFailed",
    "LaunchIntended",
    "LedgerRecord",
    "MachineGone",
    "MachineReleased",
    "MachineRetired",
]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    at: float = 0.0
    """Wall clock, seconds since the epoch."""


class FleetDecided(_Event, frozen=True, kw_only=True, tag="fleet_decided"):
    """Another number of workers is wanted, or the same for another reason, which is one plain sentence."""

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


class FleetWanted(_Event, frozen=True, kw_only=True, tag="fleet_wanted"):
    """Somebody wants so many machines from now on."""

    before: int
    after: int
    by: str


class LaunchIntended(_Event, frozen=True, kw_only=True, tag="launch_intended"):
    """A machine is about to be asked for; written before the provider hears of it, so that none is ever forgotten."""

    token: str
    """A name that no other launch of the fleet has; the machine bears it."""
    reason: str


class LaunchAnswered(_Event, frozen=True, kw_only=True, tag="launch_answered"):
    """The machine of a launch is known, by the provider's answer or because it was found."""

    token: str
    machine: str
    found: bool = False
    """It was found by its token, or by the fleet's tag, as no answer had come or none was known of."""
    started_at: float = 0.0


class LaunchFailed(_Event, frozen=True, kw_only=True, tag="launch_failed"):
    """There is no machine of that launch: it was refused (`capacity`, `quota`, `auth`), or is not to be found (`lost`)."""

    token: str
    kind: str
    why: str


class MachineRetired(_Event, frozen=True, kw_only=True, tag="machine_retired"):
    """A machine is about to be told to take no more work and to finish what it has."""

    machine: str
    token: str
    reason: str


class MachineReleased(_Event, frozen=True, kw_only=True, tag="machine_released"):
    """A machine is about to be ended."""

    machine: str
    token: str
    reason: str


class MachineGone(_Event, frozen=True, kw_only=True, tag="machine_gone"):
    """A machine is not there any more, so it costs nothing any more."""

    machine: str
    token: str
    how: str


LedgerRecord: TypeAlias = (
    FleetWanted
    | LaunchIntended
    | LaunchAnswered
    | LaunchFailed
    | MachineRetired
    | MachineReleased
    | MachineGone
)
"""What a fleet's ledger holds."""

FleetEvent: TypeAlias = FleetDecided | LedgerRecord
"""All events that only fleets have."""
