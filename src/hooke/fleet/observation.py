"""What a policy is shown: the work that is left, the workers there are, and what was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Limits", "Observation", "Price", "Scaling", "Work", "Worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How far a task scales, as a law tells it. Beyond what the law supports nothing is gained by more."""

    speedup: tuple[float, ...]
    """Of 1, 2, 3, ... workers over one."""
    low: tuple[float, ...] = ()
    """The pessimistic ends of the same; empty where they are not known."""
    knee: float | None = None
    """The N past which more does not pay, at the pessimistic end of its interval; None where it is not determined."""
    family: str = ""

    def of(self, n: int, *, pessimistic: bool = False) -> float:
        """The speed-up of `n` workers; 0 of none."""
        table = self.low if pessimistic and self.low else self.speedup
        return table[min(n, len(table)) - 1] if n > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left of one task, in items: those of its maps, and its calls."""

    task: str
    running: int = 0
    ready: int = 0
    """Could run now."""
    waiting: int = 0
    """Wait for results of others."""
    open_ended: bool = False
    """More may come: a list that does not exist yet."""
    seconds: float | None = None
    """The mean that one took; None while none has ended."""
    spread: float = 0.0
    """The standard deviation of that, of single items."""
    measured: int = 0
    begun_s: float = 0.0
    """What those that run have run so far, together; of each at most `seconds`."""
    longest_s: float = 0.0
    """What the one that runs longest has run so far."""
    fits: int | None = None
    """So many at once, at most, with what each asks of cpus and memory; None for no limit."""
    scaling: Scaling | None = None

    @property
    def now(self) -> int:
        """Items that run or could."""
        return self.running + self.ready

    @property
    def at_once(self) -> int:
        """Of these, what can use a worker of its own now."""
        return self.now if self.fits is None else min(self.now, self.fits)

    @property
    def left(self) -> int:
        """All of them."""
        return self.now + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that is ready. Idle is one that does no useful work, whatever its processes do."""

    name: str
    idle_s: float | None = None
    """How long it has had nothing to do; None while it works."""
    holds: str = ""
    """What must not be taken from it: `gang train`, `shuffle`. Empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a worker costs while it lives, useful or not."""

    usd_per_hour: float = 0.0
    start_s: float = 1.0
    """From asking for a worker until it works: it costs this long before it is of use."""
    release_s: float = 0.0
    """From giving one up until it costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What was asked for."""

    low: int = 0
    gang: int = 0
    """What the gangs that run, or one that could, need at once: fewer are of no use to them."""
    high: int = 1
    usd_per_hour: float = math.inf
    """Of all workers together."""
    deadline: float | None = None
    """When it must be done, in the time that the policy is given."""
    budget_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A fleet at one moment."""

    target: int
    """So many were asked for last."""
    workers: tuple[Worker, ...] = ()
    slots: int = 1
    """Items that one worker does at once."""
    works: tuple[Work, ...] = ()
    """In the order in which they come: what runs first is first."""
    limits: Limits = Limits()
    price: Price = Price()
    spent_usd: float = 0.0
    asked_s: float = 0.0
    """Since more were last asked for."""
    look_s: float = 1.0
    """Until the next decision."""

    @property
    def have(self) -> int:
        """Workers that are ready. Where one does several items at once, each of its slots is in `workers`."""
        return -(-len(self.workers) // self.slots)
