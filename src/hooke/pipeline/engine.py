"""The seam between the scheduler and the places that run tasks: five methods and what they promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from hooke.base.clock import Clock
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.writer import Durability
from hooke.store.store import Store

__all__ = ["Call", "Capabilities", "Engine", "EngineContext", "EngineEvent", "FunctionImage"]

EngineEvent: TypeAlias = (
    CapacityChanged | WorkerStarted | WorkerStopped | AttemptStarted | AttemptFinished | AttemptFailed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can know and do. What it cannot know is None in its events, never guessed."""

    name: str
    isolated: bool
    """A task that kills its process does not kill the driver."""
    cancels: bool
    """`cancel` ends an attempt that is already running."""
    elastic: bool
    """`scale` changes the number of workers while attempts run."""
    knows_signal: bool = False
    knows_peak_memory: bool = False
    pins: bool = False
    """Workers can be bound to cores of their own."""
    gangs: bool = False
    """It can start the ranks of a gang together, and ends all with the first that fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionImage:
    """A task's function as it goes to workers, once per worker and digest."""

    digest: str
    name: str
    code_key: str
    parts: Mapping[str, str]
    """Code part name -> digest, as the driver sees them; a worker that sees others refuses."""
    function: Callable[..., Any]
    """The object itself, for engines that run in the driver's process."""
    pickle: Callable[[], bytes]
    """By reference where the worker can import it, else by value. Raises NotPicklable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt: items `lo..hi` of a map, a call (0..1), or the reading of a dynamic map's list (`expand`)."""

    attempt: int
    node: int
    number: int
    kind: str
    lo: int
    hi: int
    image: FunctionImage
    payload: bytes
    """Pickled arguments, values of other nodes by reference (see `call.pack`)."""
    shown: str
    """The arguments as short text, for messages."""
    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    timeout_s: float | None = None
    twin_of: int | None = None
    """The attempt at the same items that runs long, where this is a second one beside it."""
    short: bool = False
    """Expected to end within milliseconds: it may wait in a worker behind others like it."""
    keys: bytes = b""
    """Of the call or of each item, 16 bytes each: chance is seeded from them. Empty seeds nothing."""
    inputs: Mapping[str, int] = field(default_factory=dict)
    """Digest -> bytes of the results of other nodes that it reads from the store: it is cheapest where they were made."""
    gang: int = 0
    """Of a gang: how many processes run it, with cpus, memory and gpus for each. 0 for what is no gang."""
    results: str = "rank0"
    """Of a gang: whether its result is that of `rank0` or a list of `all`, by rank."""

    def began(self, now: float, *, worker: str, workers: tuple[str, ...] = ()) -> AttemptStarted:
        """The event that says that a worker has begun with it; of a gang that of rank 0, and the `workers` of all ranks."""
        return AttemptStarted(
            at=now,
            attempt=self.attempt,
            node=self.node,
            lo=self.lo,
            hi=self.hi,
            worker=worker,
            number=self.number,
            expand=self.kind == "expand",
            twin_of=self.twin_of,
            workers=workers,
        )

    def failed(self, now: float, failure: Failure, *, worker: str = "") -> AttemptFailed:
        """The event that says that it ended without a result, none of its items being done."""
        return AttemptFailed(
            at=now,
            attempt=self.attempt,
            node=self.node,
            lo=self.lo,
            hi=self.hi,
            worker=worker,
            failure=failure,
            peak_bytes=failure.peak_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """What an engine needs to know of the run it serves."""

    run: str
    store: Store
    logs: Path
    clock: Clock
    secret: bytes | None = None
    """What workers open the store with, where it is shared."""
    warm: bool = False
    """Whether idle workers may outlive the run, to serve the next one of this process."""
    pinned: bool = False
    """Whether each worker is to be bound to as many cores as it has threads, where the engine can."""
    ready_for: float | None = None
    """Cpus of tasks for which all workers are to start at once, where the engine can; None leaves that to the work."""
    tracking: Path | None = None
    """The run's folder, into which tasks log metrics; None keeps nothing of what they log (a measurement)."""
    durable: Durability = "group"
    """When what tasks log survives a power loss."""
    folder: Path = field(default_factory=Path.cwd)
    """Working directory of the workers on this machine."""
    requires: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version, of those that the code reaches (`python` among them): what workers elsewhere must have."""
    allow_mismatch: tuple[str, ...] = ()
    """Those of them whose versions may differ."""


class Engine(Protocol):
    """A place that runs ready attempts.

    - `submit` never blocks on the attempts and never raises for what they do. Each submitted
      attempt is answered by exactly one AttemptFinished or AttemptFailed from `wait`, unless it was
      cancelled or the engine closed; before it by at most one AttemptStarted.
    - An AttemptFinished is given only when its result is durable: in the store, or inline in its Ref.
    - The death of a worker is an AttemptFailed for each of its attempts (kind `WorkerDied`), with what
      the engine can know, and a WorkerStopped. Nothing is run again by the engine itself.
    - The first event is a CapacityChanged; another follows each change. More attempts than `slots`
      may be in flight; they queue.
    - Events of one attempt come in order; those of several attempts in any order.
    - A gang (`Call.gang`; only where `capabilities.gangs`) is one attempt in as many processes. It begins when all
      of them are ready, and until then none has its call; it has one answer. The first rank that fails or dies
      ends all of them before that answer, whose failure names the rank.
    - Calls come from one thread. `close` ends every process that the engine started (but for
      idle workers where the context is `warm`, which end with the driver) and is idempotent.
    """

    capabilities: Capabilities

    def submit(self, calls: Sequence[Call]) -> None:
        """Take these attempts. Each may begin at once or queue."""
        ...

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """Return what happened, waiting at most `timeout_s` seconds for the first event; may be empty."""
        ...

    def cancel(self, attempt: int) -> None:
        """Give the attempt up; idempotent; a late answer may still come and is ignored by the run state."""
        ...

    def scale(self, workers: int) -> None:
        """Ask for so many workers. Attempts that run are not lost by it."""
        ...

    def close(self) -> None:
        """End all that was started."""
        ...
