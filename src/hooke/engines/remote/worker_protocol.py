"""The messages between a driver and the hosts of its run, and the transport that carries them, whichever library it uses."""

from __future__ import annotations

import os
import uuid
from typing import Protocol, TypeAlias

import msgspec

from hooke.base.background_fsync import Durability
from hooke.base.ref import Ref
from hooke.engines.gang import GangCommand, RankNote, RankRange
from hooke.engines.remote.log_sync import FilePiece
from hooke.engines.worker.script import Script, module_path, script_of_this_process
from hooke.engines.worker.worker_process import Begun, Library, WorkerTask
from hooke.journal.events import WorkerStarted, WorkerStopped
from hooke.pipeline.engine import EngineContext
from hooke.tracking.mlflow_runs import MlflowPlace

__all__ = [
    "AttemptOrder",
    "AttemptsWithdrawn",
    "HostReport",
    "HostSession",
    "HostUpdate",
    "HostUpdated",
    "Note",
    "Transport",
    "session_of",
]


class HostSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a host needs to know of a run before its first attempt."""

    id: str
    store: str
    secret: bytes | None = None
    logs: str
    folder: str
    root: str | None = None
    """As in the EngineContext; where the driver's files are not, a folder of the host's own."""
    unshared: bool = False
    """Whether the host does not share the files of the driver's machine."""
    copies: dict[str, str] = {}
    """Folder here -> that of the driver's project, relative to `root`, which it is a copy of: packages that came as an archive."""
    driver: str = ""
    """The driver's process."""
    sys_path: list[str]
    tracking: str | None = None
    durable: Durability = "group"
    mlflow: MlflowPlace | None = None
    script: Script = Script()
    library: Library | None = None
    fixed_path: bool = False
    """Whether this host finds modules in other folders than the driver does."""
    allowed: tuple[str, ...] = ()
    """Distributions whose versions may differ from the driver's."""
    code: Ref | None = None
    """As in the EngineContext."""
    kept_s: float = 0.0
    """How long idle workers stay for the driver's next run when this one ends, if they find its files where it does."""
    ready_for: float | None = None
    """Cpus of the tasks for which all workers start at once; with None a worker starts when there is work for it."""
    sample_s: float = 0.0
    """As in the EngineContext."""


def session_of(context: EngineContext, *, kept_s: float = 0.0) -> HostSession:
    """Describe a run to its hosts, with an id that no other engine has."""
    return HostSession(
        id=f"{context.run}-{uuid.uuid4().hex[:8]}",
        store=context.store.place,
        secret=context.secret,
        logs=str(context.logs),
        folder=str(context.folder),
        root=None if context.root is None else str(context.root),
        driver=f"{os.uname().nodename}-{os.getpid()}",
        sys_path=module_path(),
        tracking=None if context.tracking is None else str(context.tracking),
        durable=context.durable,
        mlflow=context.mlflow,
        script=script_of_this_process(),
        allowed=context.allow_mismatch,
        code=context.code,
        kept_s=kept_s,
        ready_for=context.ready_for,
        sample_s=context.sample_s,
    )


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """A host's description of itself."""

    id: str
    """A new one after each restart, though the address may be the same."""
    pid: int
    host: str
    python: str
    hooke: str
    threads: int
    memory: int | None
    gpus: int


class AttemptOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt for a host."""

    session: str
    task: WorkerTask
    cpus: float = 1.0
    gpus: float = 0.0
    sys_path: list[str] | None = None
    """Where the driver finds modules now; sent with the first attempt of each function."""
    part: RankRange | None = None
    """Of a gang: the ranks that this host runs."""


Note: TypeAlias = Begun | WorkerStarted | WorkerStopped | RankNote


class HostUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on a host since its last update."""

    notes: list[Note] = []
    answers: list[bytes] = []
    """Encoded AttemptFinished or AttemptFailed."""
    lacking: list[int] = []
    """Attempts that did not begin because their function has not arrived."""
    pieces: list[FilePiece] = []
    """Parts of files that the driver cannot see."""


class HostUpdated(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A host sent an update."""

    host: str
    update: HostUpdate


class AttemptsWithdrawn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Of the attempts that the driver took back, those that the host had not begun and will not begin."""

    host: str
    attempts: list[int]


class Transport(Protocol):
    """Carries messages to the hosts of a run. No method waits for an answer, or raises for a host that is gone."""

    def ship(self, address: str, orders: list[AttemptOrder]) -> None:
        """Send attempts to a host, in this order."""

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end an attempt, without an answer."""

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Take back the attempts that have not begun; AttemptsWithdrawn lists them."""

    def speak(self, address: str, attempt: int, word: GangCommand) -> None:
        """Send a host a word about a gang whose ranks it runs in part."""
