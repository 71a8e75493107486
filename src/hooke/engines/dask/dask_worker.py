"""Hooke's code inside a Dask worker: it receives attempts as Dask tasks, and has processes of its own run them.

Dask calls everything here: `greet`, `speak`, `withdraw` and `leave` on the worker's event loop, `attempt` in one of its threads.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from distributed import Client, Security, get_worker, secede
from distributed import worker as dask_worker
from distributed.core import Status

from hooke.engines.gang import RanksEnded, unpack_command
from hooke.engines.remote.handshake import Probe, ProbeAnswer, answer_probe
from hooke.engines.remote.host import JoinedHost
from hooke.engines.remote.worker_protocol import AttemptOrder, HostSession, HostUpdate, Note
from hooke.engines.worker.pool import shared_pool
from hooke.engines.worker.worker_process import Library

if TYPE_CHECKING:
    from distributed import Worker

__all__ = ["ELSEWHERE", "FORGOTTEN", "Greeting", "attempt", "greet", "leave", "speak", "withdraw"]


# -- Dask inside a task: a client of the cluster that runs it ----------------------------------------

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
    """The part of a Dask worker that `worker_client` uses."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.scheduler = client.scheduler
        self.address = ""
        self.loop = client.loop

    def __bool__(self) -> bool:
        return False  # else a client would keep data in it

    def _get_client(self, timeout: float | None = None) -> Client:  # noqa: ARG002 - as Dask calls it
        return self._client

    def log_event(self, topic: str, message: Any) -> None:
        """Record an event of `worker_client`."""
        self._client.log_event(topic, message)


# -- a Dask worker's part in a run -------------------------------------------------------------------

ELSEWHERE = b"elsewhere"
"""Instead of an update: Dask sent the attempt to another worker, since its own was gone."""

FORGOTTEN = b"forgotten"
"""Instead of an update: this worker does not (or no longer) know the run."""

LARGEST_PUBLISHED = 16 * 1024
"""Larger answers are fetched, which takes longer: the scheduler keeps the last 1,000 messages of a topic."""

IDLE_S = 60.0
"""A run without requests for so long may have lost its driver; to start a worker process again takes milliseconds."""

FORGOTTEN_S = 3600.0
"""How long after the last request a run is forgotten."""

LOOK_S = 1.0

_RUNS = frozenset({"executing", "long-running"})

_ENDS = frozenset({Status.closing, Status.closed, Status.failed})


_Key: TypeAlias = tuple[str, str]
"""The id of a session and of a Dask worker: several workers may live in one process."""

_hosts: dict[_Key, JoinedHost] = {}
_tending: set[asyncio.Task[None]] = set()
_taking_in = threading.Lock()
_left: deque[_Key] = deque(maxlen=64)
"""The last sessions that ended here: an attempt of theirs that arrives late begins none anew."""


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """The driver's first message to a Dask worker."""

    session: HostSession
    probe: Probe | None = None
    """None for a worker that the driver started on its own machine, or knows."""
    topic: str
    """Where to publish what happens: the client's id, so that Dask forgets the topic with the client. Later runs may use the same client."""


async def greet(data: bytes, *, dask_worker: Worker) -> bytes:
    """Get ready for a run's attempts; returns an encoded HandshakeReply."""
    greeting = msgspec.msgpack.decode(data, type=Greeting)
    session, answer = await asyncio.to_thread(answer_probe, greeting.session, greeting.probe)
    host = _take_in(dask_worker, session, greeting.topic, answer=answer)
    memory = dask_worker.memory_manager.memory_limit
    reply = await asyncio.to_thread(host.reply, dask_worker.id, memory=memory)
    return msgspec.msgpack.encode(reply)


def _take_in(
    worker: Worker, session: HostSession, topic: str, *, answer: ProbeAnswer | None = None
) -> JoinedHost:
    """This worker's part in the run. `answer` is what it has found of the driver's probe; None if the driver knows that."""
    key = session.id, worker.id
    with _taking_in:  # attempts of the same run may begin in several threads
        host = _hosts.get(key)
        if host is None:
            host = _hosts[key] = JoinedHost(
                msgspec.structs.replace(session, library=library_of(worker)),
                answer,
                name=_name(worker),
                slots=worker.state.nthreads,
                tell=_teller(worker, key, topic),
                address=worker.ip,
            )
            worker.loop.add_callback(_in_background, _tend, key, worker, topic)
    return host


def _in_background(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    _tending.add(task := asyncio.create_task(work(*arguments)))
    task.add_done_callback(_tending.discard)


async def leave(session: str, *, dask_worker: Worker) -> None:
    """A run is over."""
    await _leave((session, dask_worker.id))


async def _leave(key: _Key) -> None:
    _left.append(key)
    host = _hosts.pop(key, None)
    if host is None:
        return
    await asyncio.to_thread(host.close)
    kept_s = host.workers.session.kept_s
    if kept_s and math.isfinite(kept_s):
        _in_background(_rest, kept_s)
    elif not (_hosts or kept_s):
        await asyncio.to_thread(shared_pool().close)


async def _rest(kept_s: float) -> None:
    """End what was kept for a next run that has not come."""
    await asyncio.sleep(kept_s)
    await asyncio.to_thread(shared_pool().end_idle, kept_s)


async def _tend(key: _Key, worker: Worker, topic: str) -> None:
    """Send new parts of files. End idle processes of a killed driver, and all of them when this Dask worker ends."""
    while (host := _hosts.get(key)) is not None:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(host.workers.rest, IDLE_S)
        await asyncio.to_thread(_send_files, host, worker, topic)
        if host.workers.unused_s > FORGOTTEN_S or worker.status in _ENDS:
            await _leave(key)


def _send_files(host: JoinedHost, worker: Any, topic: str) -> None:
    """Publish the new parts of files that the driver cannot see."""
    for piece in host.log_sync.take() if host.log_sync is not None else ():
        _publish(host, worker, topic, HostUpdate(pieces=[piece]))


def _publish(host: JoinedHost, worker: Any, topic: str, update: HostUpdate) -> None:
    worker.log_event(topic, [worker.address, host.workers.session.id, msgspec.msgpack.encode(update)])


async def speak(session: str, word: bytes, *, dask_worker: Worker) -> None:
    """Take a word from the driver for the ranks of a gang."""
    host = _hosts.get((session, dask_worker.id))
    if host is not None:
        await asyncio.to_thread(host.workers.speak, unpack_command(word))


def withdraw(session: str, attempts: list[int], *, dask_worker: Worker) -> list[int]:
    """Take attempts back that have not begun here; returns these."""
    host = _hosts.get((session, dask_worker.id))
    return [] if host is None else host.workers.withdraw(attempts)


def attempt(data: bytes, worker_id: str, topic: str, greeting: bytes | None) -> bytes | None:
    """Run an attempt for the worker of this id. Returns an encoded HostUpdate (None: it was published), ELSEWHERE or FORGOTTEN.

    A driver that knows this worker sends its greeting here, and waits for no answer to it.
    """
    order = msgspec.msgpack.decode(data, type=AttemptOrder)
    worker: Any = get_worker()
    if worker.id != worker_id:
        return ELSEWHERE
    key = order.session, worker_id
    host = _hosts.get(key)
    if host is None and greeting is not None and key not in _left:
        host = _take_in(worker, msgspec.msgpack.decode(greeting, type=Greeting).session, topic)
    if host is None:
        return FORGOTTEN
    if order.task.uses_library:
        secede()  # the tasks that it submits need a thread, too
    answer = host.workers.run(order, given_up=_given_up(worker, worker.get_current_task()))
    _send_files(host, worker, topic)
    if order.part is not None:
        return None  # notes have said how its ranks ended
    if answer is None:
        return msgspec.msgpack.encode(HostUpdate(lacking=[order.task.attempt]))
    update = HostUpdate(answers=[msgspec.msgpack.encode(answer)])
    if len(update.answers[0]) > LARGEST_PUBLISHED:
        return msgspec.msgpack.encode(update)
    _publish(host, worker, topic, update)
    return None


def _given_up(worker: Any, key: Any) -> Callable[[], bool]:
    """Whether Dask has forgotten the task (it was cancelled, or its client is gone), or the worker is about to end."""

    def given_up() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in _ENDS or task is None or task.state not in _RUNS

    return given_up


def _teller(worker: Any, key: _Key, topic: str) -> Callable[[list[Note]], None]:
    def tell(notes: list[Note]) -> None:
        host = _hosts.get(key)
        if host is None:
            return  # the run is over
        if any(isinstance(note, RanksEnded) for note in notes):
            _send_files(host, worker, topic)  # the output of ranks arrives before the answer of their gang
        _publish(host, worker, topic, HostUpdate(notes=notes))

    return tell


def _name(worker: Any) -> str:
    """A name for files: `dask-0` of a cluster that counts its workers, else with its host and port."""
    name = str(worker.name)
    if "://" in name:
        name = name.partition("://")[2]
    return "dask-" + "".join(letter if letter.isalnum() else "-" for letter in name)
