"""What of Hooke runs inside a Dask worker: it receives attempts as Dask tasks, and has processes of its own run them.

Everything here is called by Dask: `greet`, `speak`, `withdraw` and `leave` on the worker's event loop, `attempt` in one of its threads.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from distributed import Client, Security, get_worker, secede
from distributed import worker as dask_worker
from distributed.core import Status

from hooke.engines.gang import RanksEnded, unpack_command
from hooke.engines.remote.handshake import Arrival, Probe, arrive
from hooke.engines.remote.host import WorkerHost
from hooke.engines.remote.log_sync import Mirror
from hooke.engines.remote.worker_protocol import AttemptOrder, HostReport, HostSession, Note, pack_notes
from hooke.engines.worker.pool import shared_pool
from hooke.engines.worker.worker import Library

if TYPE_CHECKING:
    from distributed import Worker
if TYPE_CHECKING:
    from distributed import Worker

__all__ = [
    "AGAIN",
    "ELSEWHERE",
    "FORGOTTEN",
    "NOTES",
    "PIECE",
    "DaskWelcome",
    "Greeting",
    "attempt",
    "connect",
    "greet",
    "leave",
    "library_of",
    "speak",
    "withdraw",
]


# --- What a task finds of Dask in the process that runs it: a client of the cluster on which it runs.

_KEYS = ("tls_ca_file", "tls_client_cert", "tls_client_key")


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    keys: dict[str, str]


def library_of(worker: Worker) -> Library:
    """How a process beside this Dask worker connects to the worker's scheduler."""
    security: Any = worker.security
    keys = {name: value for name in _KEYS if (value := getattr(security, name))}
    cluster = _Cluster(address=worker.scheduler.address, keys=keys if security.require_encryption else {})
    return Library(connect=f"{__name__}:connect", data=msgspec.msgpack.encode(cluster))


def connect(data: bytes) -> None:
    """Make the cluster's client this process's default."""
    cluster = msgspec.msgpack.decode(data, type=_Cluster)
    security = Security(require_encryption=True, **cluster.keys) if cluster.keys else None
    client = Client(cluster.address, security=security, name="hooke-task")
    running: Any = dask_worker._worker_cvar  # noqa: SLF001 - Dask has no public way to say where a task runs
    running.set(_StandIn(client))


class _StandIn:
    """What `worker_client` asks of the worker that runs a task."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.scheduler = client.scheduler
        self.address = ""
        self.loop = client.loop

    def __bool__(self) -> bool:
        return False  # a client would keep data in it

    def _get_client(self, timeout: float | None = None) -> Client:  # noqa: ARG002 - as Dask calls it
        return self._client

    def log_event(self, topic: str, message: Any) -> None:
        """What `worker_client` notes of itself."""
        self._client.log_event(topic, message)


NOTES, PIECE = -1, -2
"""What stands instead of an attempt's number before other messages."""

AGAIN = b""
"""Instead of an answer: the function of the attempt is not here."""

ELSEWHERE = b"elsewhere"
"""Instead of an answer: Dask ran the attempt again, on another worker than it was for, since that one was gone."""

FORGOTTEN = b"forgotten"
"""Instead of an answer: nothing is known of this run (any more)."""

MOST_TOLD = 16 * 1024
"""The largest answer that is published rather than fetched, which takes longer: the scheduler keeps the last 1,000 messages of a topic."""

IDLE_S = 60.0
"""A run that has asked for nothing for so long may have no driver any more; to start a worker again takes milliseconds."""

FORGOTTEN_S = 3600.0

LOOK_S = 1.0

_RUNS = frozenset({"executing", "long-running"})

_ENDS = frozenset({Status.closing, Status.closed, Status.failed})


class _Sending:
    """Brings what is written here to the driver."""

    def __init__(self, mirror: Mirror, worker: Any, topic: str) -> None:
        self.end = mirror.end
        self._mirror = mirror
        self._worker = worker
        self._topic = topic

    def send(self) -> None:
        """What is new."""
        for piece in self._mirror.take():
            self._worker.log_event(self._topic, [self._worker.address, PIECE, msgspec.msgpack.encode(piece)])


_Key: TypeAlias = tuple[str, str]
"""A session and the id of a worker: several workers may live in one process."""

_hosts: dict[_Key, WorkerHost] = {}
_mirrors: dict[_Key, _Sending] = {}
_tending: set[asyncio.Task[None]] = set()


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """What a Dask worker is told when a run begins to use it."""

    session: HostSession
    probe: Probe | None = None
    """None for a worker that the driver started beside itself."""
    topic: str
    """Under which to publish what happens: the client's id, so that it is forgotten with the client."""


class DaskWelcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a Dask worker answers."""

    report: HostReport
    arrival: Arrival | None = None
    notes: bytes = b""
    """What happened already, packed."""


async def greet(data: bytes, *, dask_worker: Worker) -> bytes:
    """Get ready for a run's attempts; returns a Welcome."""
    greeting = msgspec.msgpack.decode(data, type=Greeting)
    session, arrival = greeting.session, None
    if greeting.probe is not None:
        session, arrival = await asyncio.to_thread(arrive, session, greeting.probe)
    key = session.id, dask_worker.id
    if key not in _hosts:
        # Logs that are brought would else go over those of the run before it was resumed.
        unique = f"-{session.id[-4:]}" if arrival is not None and not arrival.shares else ""
        _hosts[key] = WorkerHost(
            msgspec.structs.replace(session, library=library_of(dask_worker)),
            name=_name(dask_worker) + unique,
            slots=dask_worker.state.nthreads,
            tell=_teller(dask_worker, key, greeting.topic),
            address=dask_worker.ip,
        )
        if arrival is not None and not arrival.shares:
            _mirrors[key] = _Sending(Mirror(Path(session.logs).parent), dask_worker, greeting.topic)
        _tending.add(task := asyncio.create_task(_tend(key, dask_worker)))
        task.add_done_callback(_tending.discard)
    devices = await asyncio.to_thread(lambda: len(shared_pool().devices))
    report = HostReport(
        id=dask_worker.id,
        pid=os.getpid(),
        host=os.uname().nodename,
        python=platform.python_version(),
        hooke=version("hooke"),
        threads=dask_worker.state.nthreads,
        memory=dask_worker.memory_manager.memory_limit,
        gpus=devices,
    )
    notes = await asyncio.to_thread(_hosts[key].prepare)
    return msgspec.msgpack.encode(DaskWelcome(report=report, arrival=arrival, notes=pack_notes(notes)))


async def leave(session: str, *, dask_worker: Worker) -> None:
    """A run is over."""
    await _leave((session, dask_worker.id))


async def _leave(key: _Key) -> None:
    host = _hosts.pop(key, None)
    if host is None:
        return
    await asyncio.to_thread(host.close)
    mirror = _mirrors.pop(key, None)
    if mirror is not None:
        await asyncio.to_thread(mirror.end)
    if not _hosts and not host.session.warm:
        await asyncio.to_thread(shared_pool().close)


async def _tend(key: _Key, worker: Worker) -> None:
    """End what a driver that was killed has left idle, and what a worker has whose process goes on without it."""
    while (host := _hosts.get(key)) is not None:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(host.rest, IDLE_S)
        if key in _mirrors:
            await asyncio.to_thread(_mirrors[key].send)
        if host.unused_s > FORGOTTEN_S or worker.status in _ENDS:
            await _leave(key)


async def speak(session: str, word: bytes, *, dask_worker: Worker) -> None:
    """The driver says something to the ranks of a gang."""
    host = _hosts.get((session, dask_worker.id))
    if host is not None:
        await asyncio.to_thread(host.speak, unpack_command(word))


def withdraw(session: str, attempts: list[int], *, dask_worker: Worker) -> list[int]:
    """Take attempts back that have not begun here; returns these."""
    host = _hosts.get((session, dask_worker.id))
    return [] if host is None else host.withdraw(attempts)


def attempt(data: bytes, worker_id: str, topic: str) -> bytes | None:
    """Run an attempt that is for the worker of this id; returns its answer (None: it was published), or AGAIN, ELSEWHERE or FORGOTTEN."""
    order = msgspec.msgpack.decode(data, type=AttemptOrder)
    worker: Any = get_worker()
    if worker.id != worker_id:
        return ELSEWHERE
    key = order.session, worker_id
    host = _hosts.get(key)
    if host is None:
        return FORGOTTEN
    if order.task.uses_library:
        secede()  # what the task submits needs a thread, too
    mirror = _mirrors.get(key)
    answer = host.run(order, given_up=_given_up(worker, worker.get_current_task()))
    if mirror is not None:
        mirror.send()
    if order.part is not None:
        return None  # what became of its ranks was told
    if answer is None:
        return AGAIN
    said = msgspec.msgpack.encode(answer)
    if len(said) > MOST_TOLD:
        return said
    worker.log_event(topic, [worker.address, order.task.attempt, said])
    return None


def _given_up(worker: Any, key: Any) -> Callable[[], bool]:
    """Whether Dask has forgotten the task: it was cancelled, or its client is gone; or the worker is to end."""

    def given_up() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in _ENDS or task is None or task.state not in _RUNS

    return given_up


def _teller(worker: Any, key: _Key, topic: str) -> Callable[[list[Note]], None]:
    def tell(notes: list[Note]) -> None:
        if key in _mirrors and any(isinstance(note, RanksEnded) for note in notes):
            _mirrors[key].send()  # what ranks printed is there before the answer of their gang
        worker.log_event(topic, [worker.address, NOTES, pack_notes(notes)])

    return tell


def _name(worker: Any) -> str:
    """A name for files: `dask-0` of a cluster that counts its workers, else with its host and port."""
    name = str(worker.name)
    if "://" in name:
        name = name.partition("://")[2]
    return "dask-" + "".join(letter if letter.isalnum() else "-" for letter in name)
