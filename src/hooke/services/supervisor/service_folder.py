"""The folder of a service, `.hooke/services/<name>/`: its supervisor, its children, and the sockets that reach them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hooke.base.errors import UsageError
from hooke.base.files import FileLock, private_folder, write_atomic, writing
from hooke.base.formats import did_you_mean
from hooke.processes.usage import lives
from hooke.project.folder import Project
from hooke.services.control_socket import ServiceCommand, send_command
from hooke.services.single_process import SingleProcess, single_processes
from hooke.serving.service import Service

__all__ = [
    "PROXY",
    "SERVICE",
    "ChildRecord",
    "ServiceDescriptor",
    "ServiceFolder",
    "end_child",
    "end_leftovers",
    "find_service",
    "is_alive",
    "service_folders",
]


PROXY = "front"
"""The name of the proxy's child record."""
LOCK = "supervisor.lock"
SOCKET = "supervisor.sock"
METRICS_SOCKET = "metrics.sock"
SERVICE = "service.json"
T = TypeVar("T")


class ServiceDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """The record by which other processes find a service."""

    service: str
    target: str
    run: str
    pid: int
    url: str = ""


class ChildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a child process for another supervisor; `created` tells it from a later process with the same pid."""

    name: str
    pid: int = 0
    """0 before it is started."""
    created: float = 0.0
    port: int
    generation: str = ""
    log: str
    started_at: float = 0.0
    """Seconds since the epoch."""
    devices: tuple[str, ...] = ()
    """Its GPUs."""


class ServiceFolder:
    """A service's folder. Nothing is created before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.lock = FileLock(path / LOCK)

    @classmethod
    def of(cls, project: Project, service: str) -> ServiceFolder:
        """The folder of the service with this name."""
        return cls(project.data / "services" / service)

    @property
    def socket(self) -> Path:
        """The supervisor's control socket."""
        return self.path / SOCKET

    @property
    def metrics_socket(self) -> Path:
        """Where the proxy gets the metrics of all replicas."""
        return self.path / METRICS_SOCKET

    @property
    def second_tries(self) -> Path:
        """The `SecondTries` of an idempotent service."""
        return self.path / "second-tries"

    @property
    def key_rates(self) -> Path:
        """The `KeyRates` of all replicas."""
        return self.path / "key-limits"

    @property
    def arrivals(self) -> Path:
        """The `ArrivalLog`."""
        return self.path / "arrivals"

    @property
    def token_arrivals(self) -> Path:
        """The `ArrivalLog` of a language model, which counts tokens: those of a prompt as parts of those of an answer."""
        return self.path / "token-arrivals"

    def arrivals_of(self, declared: Service) -> Path:
        """The `ArrivalLog` of this service. Engines of others do not report tokens, so theirs counts requests."""
        tokens = declared.protocol is not None and declared.command is None
        return self.token_arrivals if tokens else self.arrivals

    def create(self) -> None:
        """Create it, for its owner alone. Raises HookeError."""
        with writing("the service's folder", self.path):
            for folder in (self.path, self.path / "children", self.path / "generations"):
                private_folder(folder)

    def child_socket(self, name: str) -> Path:
        """The socket of a child's control channel."""
        return self.path / "children" / f"{name}.sock"

    def generation(self, key: str) -> Path:
        """The file of a generation."""
        return self.path / "generations" / key

    def write_record(self, record: ServiceDescriptor) -> None:
        """Record the supervisor. Raises OSError."""
        write_atomic(self.path / SERVICE, msgspec.json.encode(record))

    def record(self) -> ServiceDescriptor | None:
        """The record of the current or last supervisor; None if there was none, or the file is damaged."""
        return _read(self.path / SERVICE, ServiceDescriptor)

    @property
    def roll_out(self) -> Path:
        """The `RollOutRecord`."""
        return self.path / "roll-out.json"

    def write_child(self, record: ChildRecord) -> None:
        """Record a child. Raises OSError."""
        write_atomic(self._child(record.name), msgspec.json.encode(record))

    def rename_child(self, before: ChildRecord, after: ChildRecord) -> None:
        """Record a child by another name. Raises OSError."""
        os.replace(self.child_socket(before.name), self.child_socket(after.name))
        self.write_child(after)
        self._child(before.name).unlink(missing_ok=True)

    def forget_child(self, name: str) -> None:
        """Forget a child that is gone."""
        self._child(name).unlink(missing_ok=True)
        self.child_socket(name).unlink(missing_ok=True)

    def children(self) -> Iterator[ChildRecord]:
        """The children that were started and not seen to end; they may be dead. Damaged records are skipped: no process can be found by them."""
        for path in sorted((self.path / "children").glob("*.json")):
            record = _read(path, ChildRecord)
            if record is not None:
                yield record

    def living(self) -> list[ChildRecord]:
        """The children that live."""
        return [record for record in self.children() if is_alive(record)]

    def single_processes(self) -> list[SingleProcess]:
        """Processes that serve it without a supervisor."""
        return single_processes(self.path)

    def running(self) -> bool:
        """Whether any process of the service lives."""
        return self.supervised() or bool(self.living() or self.single_processes())

    def send(self, verb: str, *, by: str = "", **options: Any) -> dict[str, Any]:
        """The supervisor's reply to a `ServiceCommand`. Raises as `send_command`."""
        record = self.record()
        return send_command(
            self.socket,
            ServiceCommand(verb=verb, by=by or f"hooke serve {verb}", **options),
            name=f"the supervisor of {self.name}",
            pid=record.pid if record is not None else None,
        )

    def supervised(self) -> bool:
        """Whether a supervisor runs."""
        return self.lock.taken()

    def _child(self, name: str) -> Path:
        return self.path / "children" / f"{name}.json"


def is_alive(record: ChildRecord) -> bool:
    """Whether the recorded process still runs."""
    return lives(record.pid, record.created)


def service_folders(project: Project) -> list[ServiceFolder]:
    """The folders of all services that were supervised here, or that a single process serves, by name."""
    try:
        names = sorted(os.listdir(project.data / "services"))
    except FileNotFoundError:
        return []
    found = [ServiceFolder.of(project, name) for name in names]
    return [folder for folder in found if (folder.path / SERVICE).exists() or folder.single_processes()]


def find_service(project: Project, name: str, *, verb: str, running: bool = True) -> ServiceFolder:
    """The service of this name, or the only one that fits: a running one, or any. `verb` is the command that asks, after `hooke`.

    Raises UsageError that lists the services.
    """
    known = service_folders(project)
    fitting = [folder for folder in known if not running or folder.running()]
    if name:
        chosen = [folder for folder in known if folder.name == name]
        if chosen and chosen[0] in fitting:
            return chosen[0]
        if chosen:
            raise UsageError(
                f"{name} is not running", where=str(chosen[0].path), next=f"hooke serve {_target(chosen[0])}"
            )
        meant = did_you_mean(name, [folder.name for folder in known])
        listed = ", ".join(folder.name for folder in fitting) or "none"
        raise UsageError(
            f"no service is called {name!r}",
            where=str(project.root),
            fix=f"{meant}{'running services' if running else 'services'}: {listed}",
        )
    if not fitting:
        raise UsageError(
            "no service is running" if running else "no service was served here yet",
            where=str(project.root),
            next="hooke serve FILE.py",
        )
    if len(fitting) > 1:
        names = ", ".join(folder.name for folder in fitting)
        raise UsageError(
            f"{len(fitting)} services are running" if running else f"there are {len(fitting)} services",
            fix=f"name one of: {names}",
            next=f"hooke {verb} {fitting[0].name}",
        )
    return fitting[0]


def _target(folder: ServiceFolder) -> str:
    record = folder.record()
    return record.target if record is not None else "FILE.py"


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


# --- Ending the children of a killed supervisor.

GRACE_S = 2.0
"""From SIGTERM to SIGKILL: the proxy has to end Envoy."""


def end_leftovers(folder: ServiceFolder) -> Iterator[str]:
    """End every child of the service that lives, the proxy first; yields a line for each. Removes their records."""
    for record in sorted(folder.children(), key=lambda one: one.name != PROXY):
        if is_alive(record):
            what = "the proxy" if record.name == PROXY else f"replica {record.name}"
            end_child(record)
            yield f"ended: {what}, pid {record.pid}"
        folder.forget_child(record.name)


def end_child(record: ChildRecord) -> None:
    """End a child now; the proxy gets a moment to end Envoy."""
    if record.name == PROXY:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)
        ends = time.monotonic() + GRACE_S
        while is_alive(record) and time.monotonic() < ends:
            time.sleep(0.02)
    if is_alive(record):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, signal.SIGKILL)
    ends = time.monotonic() + GRACE_S
    while is_alive(record) and time.monotonic() < ends:
        time.sleep(0.005)
