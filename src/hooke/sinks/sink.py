"""The seam between the journal and the trackers that what was logged is shipped to: three methods and what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from hooke.base.errors import HookeError

__all__ = ["LoggedBatch", "LoggedPoints", "Receipt", "ShippedRun", "Sink", "SinkAway"]


class SinkAway(HookeError):
    """The tracker does not answer, or has no room now: the same batch is offered again later."""


class ShippedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as trackers know it: a run of Hooke (`parent` None), or an attempt, or an item of one, that logged something."""

    key: str
    """Names it for good: the run's id, or `<run id>/<attempt>`, or `<run id>/<attempt>/<item>`."""
    parent: str | None
    name: str
    experiment: str
    started_at: float
    """Seconds since the epoch."""
    ended_at: float | None = None
    status: str = "running"
    """`running`, `finished`, `failed`, `stopped`, or `lost` (its process died)."""
    tags: dict[str, str] = {}
    """What Hooke says of it: where it ran, with what code."""


class LoggedPoints(NamedTuple):
    """Values of metrics by column, all of one length."""

    names: list[str]
    values: list[float]
    steps: list[int]
    times: list[float]
    """Seconds since the epoch."""


class LoggedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Things that were logged in one run, in their order. A sink splits it as its tracker's limits ask."""

    run: ShippedRun
    points: LoggedPoints
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    artifacts: dict[str, Path] = {}
    """Path in the tracker -> file."""
    datasets: dict[str, str] = {}
    """File that the run was given -> digest of its content (32 hex characters)."""


class Receipt(msgspec.Struct, kw_only=True):
    """What the tracker could not take as it was: how many points it merges with equal ones, and sentences on the rest."""

    merged: int = 0
    notes: list[str] = msgspec.field(default_factory=list)


class Sink(Protocol):
    """A tracker that journals are replayed into.

    - `write` returns when the tracker has the batch. A batch may come again after a crash of anyone: written twice it
      leaves what it leaves when written once, and its run is found by its key, not made a second time.
    - SinkAway means later: nothing is lost, the batch comes again. What the tracker will never take (a name, a size, a
      value) is said in the receipt, and holds up nothing else.
    - Calls come from one process at a time, and from one thread.
    """

    def write(self, batch: LoggedBatch) -> Receipt:
        """Bring this into the tracker. Raises SinkAway."""
        ...

    def finish(self, run: ShippedRun) -> None:
        """Say in the tracker how a run ended: nothing more of it comes, unless it is resumed. Raises SinkAway."""
        ...

    def close(self) -> None:
        """Let go of the tracker."""
        ...
