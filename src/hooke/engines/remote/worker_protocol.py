"""What a driver and the machines of a run tell one another, whatever library brings it there."""

from __future__ import annotations

import uuid
from typing import Protocol, TypeAlias

import msgspec

from hooke.engines.gang import GangCommand, RankNote, RankRange
from hooke.engines.worker.script import Script, module_path, script_of_this_process
from hooke.engines.worker.worker import Begun, Library, WorkerTask
from hooke.journal.events import WorkerStarted, WorkerStopped
from hooke.journal.writer import Durability
from hooke.pipeline.engine import EngineContext

__all__ = [
    "AttemptOrder",
    "Begun",
    "HostReport",
    "HostSession",
    "Note",
    "Transport",
    "pack_notes",
    "session_of",
    "unpack_notes",
]


class HostSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is told of a run before its first attempt."""

    id: str
    store: str
    secret: bytes | None = None
    logs: str
    folder: str
    sys_path: list[str]
    tracking: str | None = None
    durable: Durability = "group"
    script: Script = Script()
    library: Library | None = None
    fixed_path: bool = False
    """Whether modules are found here elsewhere than on the driver's machine."""
    allowed: tuple[str, ...] = ()
    """Distributions whose versions may differ."""
    warm: bool = False
    """Whether idle workers are kept for the next run when this one is over."""
    ready_for: float | None = None
    """Cpus of tasks for which all workers are to start at once; None leaves that to the work."""


def session_of(context: EngineContext, *, warm: bool = False) -> HostSession:
    """What the machines of a run are told of it, with an id that no other engine has."""
    return HostSession(
        id=f"{context.run}-{uuid.uuid4().hex[:8]}",
        store=context.store.place,
        secret=context.secret,
        logs=str(context.logs),
        folder=str(context.folder),
        sys_path=module_path(),
        tracking=None if context.tracking is None else str(context.tracking),
        durable=context.durable,
        script=script_of_this_process(),
        allowed=context.allow_mismatch,
        warm=warm,
        ready_for=context.ready_for,
    )


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of itself."""

    id: str
    """Another one after each restart, while the address may be the same."""
    pid: int
    host: str
    python: str
    hooke: str
    threads: int
    memory: int | None
    gpus: int


class AttemptOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt for a machine."""

    session: str
    task: WorkerTask
    cpus: float = 1.0
    gpus: float = 0.0
    sys_path: list[str] | None = None
    """Where the driver finds modules now; with the first attempt of each function."""
    part: RankRange | None = None
    """Of a gang: the ranks that are for this machine."""


Note: TypeAlias = Begun | WorkerStarted | WorkerStopped | RankNote

_notes = msgspec.msgpack.Decoder(list[Note])


def pack_notes(notes: list[Note]) -> bytes:
    """What happened, for the driver."""
    return msgspec.msgpack.encode(notes)


def unpack_notes(data: bytes) -> list[Note]:
    """What `pack_notes` packed."""
    return _notes.decode(data)


# --- What the bookkeeping of attempts over several hosts needs of a library that brings these.


class Transport(Protocol):
    """The way to the hosts. Nothing here waits for an answer, nor raises for a host that is gone."""

    def ship(self, address: str, orders: list[AttemptOrder]) -> None:
        """Bring attempts to a host, in this order."""
        ...

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end an attempt, of which it will say nothing more."""
        ...

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Ask back what has not begun."""
        ...

    def speak(self, address: str, attempt: int, word: GangCommand) -> None:
        """Tell a host something about a gang of which it was given a part."""
        ...
