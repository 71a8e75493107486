"""The protocol between the scheduler and the backends that run tasks: five methods and their guarantees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from threading import Event, Lock
from typing import Any, Protocol, Self, TypeAlias

import msgspec
from msgspec.structs import replace

from hooke.base.background_fsync import Durability
from hooke.base.clock import Clock
from hooke.base.later import LATER, LaterWork
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
    CallsFinished,
    CapacityChanged,
    Failure,
    WorkerStarted,
    WorkerStopped,
)
from hooke.store.checkpoints import CheckpointOwner
from hooke.store.store import Store
from hooke.tracking.mlflow_runs import MlflowPlace

__all__ = [
    "LOOK",
    "AlsoCall",
    "Call",
    "Capabilities",
    "Engine",
    "EngineContext",
    "EngineEvent",
    "FunctionImage",
    "QuietCalls",
]

LOOK = "look"
"""The kind of a Call that only looks at inputs."""

EngineEvent: TypeAlias = (
    CapacityChanged
    | WorkerStarted
    | WorkerStopped
    | BackendTrouble
    | AttemptStarted
    | AttemptFinished
    | AttemptFailed
    | CallsFinished
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do and know. Facts that it cannot know are None in its events, never guesses."""

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
    """It starts the ranks of a gang together, and ends all of them when one fails."""
    resizes_gangs: bool = False
    """`resize_gang` asks a running gang to end at its next checkpoint."""
    follows: bool = False
    """It takes calls that are to run `after` others, whose results they need."""
    groups: bool = False
    """It takes groups of calls (`Call.also`)."""
    ledger: bool = False
    """It keeps the ledger of its machines in the run's folder."""
    unshared: bool = False
    """Some of its workers may be on hosts that do not share the files of the driver's machine. Then it answers calls of the kind LOOK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionImage:
    """A task's function in the form that goes to workers, once per worker and digest."""

    digest: str
    name: str
    code_key: str
    parts: Mapping[str, str]
    """Code part name -> digest in the driver; a worker with other digests refuses to run it."""
    function: Callable[..., Any]
    """The object itself, for engines that run in the driver's process."""
    pickle: Callable[[], bytes]
    """By reference if the worker can import it, else by value. Raises NotPicklable."""


class AlsoCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A further call of a group: what differs from the first one."""

    attempt: int
    node: int
    payload: bytes
    shown: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: at items `lo..hi` of a map, at a call (0..1), or at reading a dynamic map's list (`expand`).

    Or, of the kind LOOK, a question to a host where tasks run: which of the inputs in `payload`, an encoded Manifest, are others there
    now? They are what the answer has `observed`. Its number is below zero.
    """

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
    """The straggling attempt at the same items, if this is a second attempt."""
    short: bool = False
    """Whether it is expected to end within milliseconds, so it may wait in a worker behind similar attempts."""
    after: int | None = None
    """The attempt whose result is the `Awaited` value in its payload; None if it waits for none. Only with `capabilities.follows`."""
    keys: bytes = b""
    """The key of the call, or those by which the store finds each item, 16 bytes each: they seed the random generators. Empty seeds nothing."""
    limit_s: float = 0.0
    """Of several items: after so many seconds it ends with those that it has done, and the others run later. 0 for no limit."""
    inputs: Mapping[str, int] = {}
    """Digest -> size in bytes of the results that it reads from the store: it is cheapest where they were computed."""
    gang: int = 0
    """Of a gang: how many processes run it, with cpus, memory and gpus for each. 0 if it is not a gang."""
    most_ranks: int = 0
    """Of an elastic gang: how many ranks another attempt may have; 0 if it is not one."""
    results: str = "rank0"
    """Of a gang: whether its result is that of `rank0` or a list of `all`, by rank."""
    observe: bool = True
    """Whether to record what it reads, if the engine's context says where the project is."""
    variables: Mapping[str, str | None] = {}
    """Environment variables that it may read, with the driver's values; None for one that is not set."""
    plain: bool = False
    """Whether it is a call that certainly draws no random numbers and changes nothing in its process, if it gets only numbers and texts."""
    checkpoints: CheckpointOwner | None = None
    """Whose folders `checkpoint_dir()` gives; None if the items certainly ask for none."""
    also: tuple[AlsoCall, ...] = ()
    """Further calls of the same task, each an attempt of its own: short and `plain`, and all that is not said here is as in this one.
    One worker begins them behind this one, in order, as long as no other worker is free for them. Only with `capabilities.groups`."""

    @property
    def attempts(self) -> list[int]:
        """Its attempt, and those of the group that it stands for."""
        return [self.attempt, *(each.attempt for each in self.also)]

    def singly(self) -> list[Call]:
        """The calls of the group, each for itself."""
        return [self.of(attempt) for attempt in self.attempts]

    def of(self, attempt: int) -> Call:
        """The call of this attempt, which is one of the group, for itself."""
        if attempt == self.attempt:
            return replace(self, also=()) if self.also else self
        also = next(each for each in self.also if each.attempt == attempt)
        return replace(self, attempt=attempt, node=also.node, payload=also.payload, shown=also.shown, also=())

    def began(self, now: float, *, worker: str, workers: tuple[str, ...] = ()) -> AttemptStarted:
        """The event that a worker began it. For a gang, the worker of rank 0, and the `workers` of all ranks."""
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
        """The event that it failed with none of its items done."""
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
    """What an engine needs to know of its run."""

    run: str
    store: Store
    logs: Path
    clock: Clock
    secret: bytes | None = None
    """The secret that workers need to open a shared store."""
    warm: bool = False
    """Whether idle workers may outlive the run to serve the next run of this process."""
    pinned: bool = False
    """Whether to bind each worker to as many cores as it has threads, if the engine can."""
    ready_for: float | None = None
    """Start all workers at once, for tasks with this many cpus, if the engine can; None starts them as work arrives."""
    tracking: Path | None = None
    """The run's folder, where tasks log metrics; None drops what they log (in measurements)."""
    durable: Durability = "group"
    """When logged values survive a power loss."""
    mlflow: MlflowPlace | None = None
    """Where MLflow's own calls in tasks log; None leaves them to MLflow."""
    folder: Path = field(default_factory=Path.cwd)
    """Working directory of the workers on this machine."""
    root: Path | None = None
    """The project's folder: files below it count as inputs where tasks read them, and are stored where tasks write and return them. None does
    neither (in measurements)."""
    code: Ref | None = None
    """The stored source of the project's modules, for workers that start later: a tuple of `base.pinned_modules.PinnedModule`."""
    requires: Mapping[str, str] = field(default_factory=dict)
    """Distribution (or `python`) -> version that the code uses, which workers elsewhere must have."""
    allow_mismatch: tuple[str, ...] = ()
    """Distributions whose versions may differ."""
    usd_per_hour: float = 0.0
    """Price of one worker, for an engine that keeps a ledger of its machines."""
    max_usd_per_hour: float = inf
    """Limit for all workers together."""
    most_workers: int = 0
    """Limit of their number, where `scale` may raise it."""
    sample_s: float = 0.0
    """How often workers write a sample of themselves beside their logs, for studies; 0: never."""


ANSWER_S = 0.005
"""How long a result waits for those of the calls behind it: thirty times what an answer costs."""

LATE_S = 0.02
"""How long if the call behind it takes long."""


class QuietCalls:
    """The calls of a group that have ended and left nothing but small results, until they are told of together. Use it in `with`."""

    __slots__ = (
        "_calls",
        "_clock",
        "_cpu_s",
        "_ended_at",
        "_late",
        "_lock",
        "_name",
        "_over",
        "_refs",
        "_say",
        "_seconds",
        "_since_s",
    )

    def __init__(self, worker: str, clock: Clock, say: Callable[[CallsFinished], None]) -> None:
        """`say` is called by one thread at a time, and by none after the `with`."""
        self._name, self._clock, self._say = worker, clock, say
        self._lock, self._over = Lock(), Event()
        self._late: LaterWork | None = None
        self._clear()

    def __enter__(self) -> Self:
        with suppress(RuntimeError):  # without a thread, results wait for those behind them
            self._late = LATER.after(LATE_S, self._say_late, name="hooke-late-answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._late is not None:
            self._late.cancel()

    def _clear(self) -> None:
        self._calls: list[AlsoCall] = []
        self._refs: list[Ref] = []
        self._seconds: list[float] = []
        self._cpu_s: list[float] = []
        self._since_s = 0.0
        self._ended_at = 0.0

    def _say_late(self) -> None:
        while not self._over.is_set():
            self.say()
            self._over.wait(LATE_S)

    def add(self, call: AlsoCall, ref: Ref, seconds: float, cpu_s: float) -> None:
        """One more has ended."""
        with self._lock:
            self._calls.append(call)
            self._refs.append(ref)
            self._seconds.append(seconds)
            self._cpu_s.append(cpu_s)
            self._since_s += seconds
            self._ended_at = self._clock.now()
            is_late = self._since_s > ANSWER_S
        if is_late:
            self.say()

    def say(self) -> None:
        """Tell of those that are not told of yet."""
        with self._lock:
            if not self._calls:
                return
            answer = CallsFinished(
                at=self._ended_at,
                attempts=tuple([call.attempt for call in self._calls]),
                nodes=tuple([call.node for call in self._calls]),
                refs=tuple(self._refs),
                seconds=tuple(self._seconds),
                cpu_s=tuple(self._cpu_s),
                worker=self._name,
            )
            self._clear()
            self._say(answer)


class Engine(Protocol):
    """A backend that runs ready attempts.

    - `submit` never blocks on the attempts and never raises for their failures. `wait` answers each submitted
      attempt with exactly one AttemptFinished or AttemptFailed, unless it was cancelled or the engine closed; at
      most one AttemptStarted comes before.
    - An AttemptFinished means that its result is durable: in the store, or inline in its Ref.
    - A call with a limit (`Call.limit_s`) ends as finished after at least its first item; `hi` of the answer says how far it came.
    - The death of a worker gives an AttemptFailed for each of its attempts (kind `WorkerDied`), with the facts that
      the engine knows, and a WorkerStopped. The engine itself retries nothing.
    - The first event is a CapacityChanged; another follows each change. More attempts than `slots`
      may be in flight; they queue.
    - Events of one attempt come in order; those of several attempts in any order.
    - A gang (`Call.gang`; only with `capabilities.gangs`) is one attempt in several processes with one answer. It
      begins when all processes are ready; until then none has its call. The first rank that fails or dies ends all
      of them before the answer, whose failure names the rank.
    - A call that is to run `after` an attempt, which was submitted before, begins when that one has finished, and the answer of that
      one comes before all events of it. At most one follows each attempt. If that one fails or is cancelled, what follows it never
      begins, and has no answer; the scheduler cancels it.
    - A group (`Call.also`) is answered as if its calls had been submitted one by one, but for this: those that end well, one behind another, may
      be answered together with a CallsFinished, whose first call alone has an AttemptStarted. Each is cancelled by its own number.
    - Calls come from one thread. `close` is idempotent and ends every process that the engine started, except
      idle workers if the context is `warm`; those end with the driver.
    """

    capabilities: Capabilities

    def submit(self, calls: Sequence[Call]) -> None:
        """Accept these attempts. Each may begin at once or queue."""
        ...

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """The events since the last call, after at most `timeout_s` seconds for the first one; may be empty."""
        ...

    def cancel(self, attempt: int) -> None:
        """Cancel the attempt; idempotent. A late answer may still come, which the run state ignores."""
        ...

    def scale(self, workers: int) -> None:
        """Change the number of workers without losing running attempts."""
        ...

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """Ask a gang to end at its next checkpoint, since it should have so many ranks; as many as it has take that back.

        Its answer is then an AttemptFailed that is `resized`. Only with `capabilities.resizes_gangs`; idempotent, and without effect
        on an attempt that has ended.
        """
        ...

    def close(self) -> None:
        """End all that was started."""
        ...
