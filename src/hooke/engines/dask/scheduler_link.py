"""The driver's connection to a Dask scheduler: it sends attempts, and queues what happens as messages for the engine.

Dask's client has a thread of its own, in which the coroutines here run. The engine sees only the queue.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import NoneType
from typing import Any, TypeAlias

import msgspec
from distributed import Future
from distributed.client import done_callback

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, UsageError
from hooke.engines.dask import dask_worker
from hooke.engines.dask.clusters import CONNECTIONS, RunClient, workers_of
from hooke.engines.dask.dask_worker import ELSEWHERE, FORGOTTEN, Greeting
from hooke.engines.gang import GangCommand, pack_command
from hooke.engines.remote.handshake import HandshakeReply, Probe
from hooke.engines.remote.worker_protocol import (
    AttemptOrder,
    AttemptsWithdrawn,
    HostSession,
    HostUpdate,
    HostUpdated,
)

__all__ = [
    "AttemptBroke",
    "Message",
    "RunForgotten",
    "SchedulerLink",
    "WorkerAvailability",
    "WorkerReady",
    "WorkerRefused",
    "WorkersChanged",
    "WorkersLastSeen",
]

RUNNING = "running"
REQUESTS_AT_ONCE = 8

ANSWER_S = 30.0
"""A worker answers in milliseconds. A frozen or disconnected one does not, and is given up after as long (see `FailureDetector`)."""

LEAVE_S = 5.0
"""A worker leaves a run in milliseconds. One that cannot be reached leaves it when Dask has forgotten this client."""


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """Workers joined or left."""


@dataclass(frozen=True, slots=True)
class WorkerAvailability:
    """A worker takes tasks again, or takes none: it is being retired, or short of memory."""

    address: str
    available: bool


@dataclass(frozen=True, slots=True)
class WorkersLastSeen:
    """When the scheduler last heard of each worker, by its own clock."""

    last_seen: dict[str, float]


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker is ready for attempts."""

    address: str
    reply: HandshakeReply
    known: bool = False
    """Whether this is what it answered to an earlier run. It learns of this one with its first attempt."""


@dataclass(frozen=True, slots=True)
class WorkerRefused:
    """A worker cannot run attempts."""

    address: str
    error: HookeError


@dataclass(frozen=True, slots=True)
class RunForgotten:
    """A worker no longer knows the run, or is not the one that answered an earlier run."""

    address: str


@dataclass(frozen=True, slots=True)
class AttemptBroke:
    """Dask has no answer for an attempt. `error` is None where it ran the attempt on another worker, since this one was gone."""

    address: str
    attempt: int
    error: BaseException | None


Message: TypeAlias = (
    WorkersChanged
    | WorkersLastSeen
    | WorkerAvailability
    | WorkerReady
    | WorkerRefused
    | RunForgotten
    | HostUpdated
    | AttemptBroke
    | AttemptsWithdrawn
)


class SchedulerLink:
    """The transport of a Dask cluster: one client of its scheduler. Used from one thread; `close` leaves the user's workers as they were."""

    def __init__(self, client: RunClient, session: HostSession, probe: Callable[[], Probe | None]) -> None:
        """`probe` makes what workers are to find, if one must be asked."""
        self._client: Any = client  # its annotations do not tell what it returns
        self._session = session.id
        self._topic: str = client.id
        self._greeting = Greeting(session=session, topic=self._topic)
        self._make_probe = probe
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._futures: dict[tuple[str, int], Future[bytes]] = {}
        self._admitted: dict[str, tuple[str, dict[str, float]]] = {}
        """Address -> the worker's id, and the resources that Dask counts there."""
        self._spent: SimpleQueue[Future[bytes]] = SimpleQueue()
        """Answered futures, released with the next attempts: a release of its own would hold these up."""
        self._requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="hooke-dask")
        self._withdrawals = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="hooke-dask-withdraw")
        """Separate, since a worker that does not answer must not hold up a new one."""
        self._asked: set[futures.Future[None]] = set()
        self._greeted: set[str] = set()
        self._unaware: dict[str, bytes] = {}
        """Address -> the greeting that goes with attempts, until that worker has said something of this run."""
        self._visited: set[str] = set()
        """Workers that may know of this run."""
        self._workers: dict[str, dict[str, Any]] = {}
        client.subscribe_topic("all", self._on_cluster_event)
        client.subscribe_topic(self._topic, self._on_our_event)

    @property
    def client(self) -> Any:
        """Dask's client."""
        return self._client

    @property
    def address(self) -> str:
        """The scheduler's address."""
        return self._client.scheduler_address

    @property
    def lives(self) -> bool:
        """Whether the scheduler is connected."""
        return self._client.status == "running"

    def receive(self, timeout_s: float) -> list[Message]:
        """The messages that have arrived; waits for the first at most `timeout_s`."""
        messages: list[Message] = []
        try:
            messages.append(self._inbox.get(timeout=timeout_s))
            while True:
                messages.append(self._inbox.get_nowait())
        except Empty:
            pass
        for message in messages:
            if isinstance(message, AttemptsWithdrawn):
                for attempt in message.attempts:
                    self.cancel(message.host, attempt)
        return messages

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler says of each of its workers, by address; what it said last where it is gone."""
        with contextlib.suppress(OSError):  # `lives` tells
            self._workers = workers_of(self._client)
        return self._workers

    def busy(self, addresses: list[str]) -> set[str]:
        """Those of these workers that have tasks, anybody's."""
        # Asked for one that has just left, the scheduler raises KeyError.
        has: dict[str, Any] = self._client.processing()
        return {address for address in addresses if has.get(address)}

    def ask_last_seen(self) -> None:
        """Ask when the scheduler last heard of each worker; WorkersLastSeen follows, unless the scheduler is gone."""
        self._ask(self._requests, self._ask_last_seen)

    def greet(self, address: str, *, known: HandshakeReply | None = None) -> None:
        """Start the handshake with a worker; WorkerReady or WorkerRefused follows. The worker is not asked what is `known`.

        Raises UsageError and StoreError as the probe does.
        """
        self._greeted.add(address)
        self._client.subscribe_topic(address, partial(self._on_worker_event, address))
        if known is not None:
            self._unaware[address] = msgspec.msgpack.encode(self._greeting)
            self._inbox.put(WorkerReady(address, known, known=True))
            return
        self._unaware.pop(address, None)
        self._visited.add(address)
        greeting = msgspec.structs.replace(self._greeting, probe=self._make_probe())
        self._ask(self._requests, self._greet, address, msgspec.msgpack.encode(greeting))

    def admit(self, address: str, worker_id: str) -> tuple[Any, bool] | None:
        """Allow attempts for a worker that is ready. Returns its name and whether it takes tasks now; None where it left meanwhile."""
        facts = self._workers.get(address)
        if address not in self._unaware or facts is None or facts.get("status", RUNNING) != RUNNING:
            facts = self.workers().get(address)  # the last answer is older than the handshake
        if facts is None:
            return None
        self._admitted[address] = worker_id, dict(facts["resources"] or {})
        return facts["name"], facts.get("status", RUNNING) == RUNNING

    def ship(self, address: str, orders: list[AttemptOrder]) -> None:
        """Send attempts to a worker; HostUpdated, RunForgotten or AttemptBroke follows for each."""
        worker_id, counted = self._admitted[address]
        self._visited.add(address)
        for order in orders:
            future = self._client.submit(
                dask_worker.attempt,
                msgspec.msgpack.encode(order),
                worker_id,
                self._topic,
                self._unaware.get(address),
                key=f"{order.task.name}-{uuid.uuid4().hex}",
                workers=[address],
                allow_other_workers=False,
                resources=_resources(order, counted) or None,
                retries=0,
                pure=False,
            )
            self._futures[address, order.task.attempt] = future
            self._client.loop.add_callback(self._follow, address, order.task.attempt, future)
        self._release_spent()

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Take back attempts that wait in a worker; AttemptsWithdrawn follows, unless the worker is gone."""
        self._ask(self._withdrawals, self._withdraw, address, attempts)

    def speak(self, address: str, attempt: int, word: GangCommand) -> None:
        """Send a worker a word about a gang; AttemptBroke follows where the worker cannot be reached."""
        self._ask(self._withdrawals, self._speak, address, attempt, word)

    def cancel(self, address: str, attempt: int) -> None:
        """Have Dask forget an attempt; its worker notices that and ends it."""
        future = self._futures.pop((address, attempt), None)
        if future is not None:
            future.cancel(force=True)

    def close(self, *, keep: bool) -> None:
        """Give up all attempts, and end this run's processes on the workers. `keep` the connection for the next run."""
        for pool in (self._requests, self._withdrawals):
            pool.shutdown(wait=False, cancel_futures=True)
        if self.lives:
            for topic in ("all", self._topic, *self._greeted):
                self._client.unsubscribe_topic(topic)
            if self._futures:
                self._client.cancel(list(self._futures.values()), force=True)
            self._leave()
        # A client that is closed while it connects once more, as it does for several requests at once, leaves that socket open.
        unanswered = futures.wait(self._asked, timeout=LEAVE_S).not_done
        if keep and self.lives and not unanswered:
            self._futures.clear()
            self._release_spent()
            CONNECTIONS.put(self._client)
        else:
            self._client.close(timeout=LEAVE_S)

    def _leave(self) -> None:
        there = self._visited and self._visited & self.workers().keys()
        if there:
            with contextlib.suppress(TimeoutError):
                self._client.run(
                    dask_worker.leave,
                    self._session,
                    workers=sorted(there),
                    on_error="ignore",
                    callback_timeout=LEAVE_S,
                )

    def _release_spent(self) -> None:
        while not self._spent.empty():
            self._spent.get().release()

    def _ask(self, pool: ThreadPoolExecutor, function: Callable[..., None], *arguments: Any) -> None:
        future = pool.submit(function, *arguments)
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)

    # -- in Dask's thread --------------------------------------------------------------------------

    def _on_cluster_event(self, event: tuple[float, Any]) -> None:
        if event[1].get("action") in ("add-worker", "remove-worker"):
            self._inbox.put(WorkersChanged())

    def _on_worker_event(self, address: str, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") == "worker-status-change":
            self._inbox.put(WorkerAvailability(address, event[1]["status"] == RUNNING))

    def _on_our_event(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict):
            return  # the scheduler's own entry on what the client did
        address, session, data = event[1]
        if session == self._session:  # else of a run that used the connection before
            self._unaware.pop(address, None)
            self._inbox.put(_updated(address, data))

    async def _follow(self, address: str, attempt: int, future: Future[bytes]) -> None:
        message: Message | None = None
        try:
            await done_callback(future, _ignore)
            if future.status != "finished" or future.type is not NoneType:  # else its answer was published
                [data] = await self._client.gather([future], asynchronous=True)
                message = self._answer(address, attempt, data)
        except BaseException as error:  # noqa: BLE001 - whatever Dask raises, the attempt has no answer
            message = AttemptBroke(address, attempt, error)
        if self._futures.get((address, attempt)) is not future:
            return  # it was cancelled, and may have been sent again
        del self._futures[address, attempt]
        if message is not None:
            self._inbox.put(message)
        self._spent.put(future)

    def _answer(self, address: str, attempt: int, data: bytes) -> Message:
        """The message for what an attempt's Dask task returned."""
        if data == FORGOTTEN or (data == ELSEWHERE and address in self._unaware):
            return RunForgotten(address)
        if data == ELSEWHERE:
            return AttemptBroke(address, attempt, None)
        return _updated(address, data)

    # -- in threads of this object -----------------------------------------------------------------

    def _ask_last_seen(self) -> None:
        there = self.workers()
        self._inbox.put(WorkersLastSeen({address: facts["last_seen"] for address, facts in there.items()}))

    def _run(
        self, address: str, function: Callable[..., Any], *arguments: Any, on_error: str = "raise"
    ) -> dict[str, Any]:
        found: dict[str, Any] = self._client.run(
            function, *arguments, workers=[address], on_error=on_error, callback_timeout=ANSWER_S
        )
        return found

    def _greet(self, address: str, greeting: bytes) -> None:
        try:
            found = self._run(address, dask_worker.greet, greeting, on_error="return")
        except Exception as error:  # noqa: BLE001 - Dask does not document what it raises
            self._inbox.put(WorkerRefused(address, _unfit(address, error)))
            return
        answer = found.get(address)
        if isinstance(answer, bytes):
            self._inbox.put(WorkerReady(address, msgspec.msgpack.decode(answer, type=HandshakeReply)))
        elif answer is not None:  # else the worker left meanwhile
            self._inbox.put(WorkerRefused(address, _unfit(address, answer)))

    def _speak(self, address: str, attempt: int, word: GangCommand) -> None:
        try:
            self._run(address, dask_worker.speak, self._session, pack_command(word))
        except Exception as error:  # noqa: BLE001 - Dask does not document what it raises
            self._inbox.put(AttemptBroke(address, attempt, error))

    def _withdraw(self, address: str, attempts: list[int]) -> None:
        with contextlib.suppress(TimeoutError):
            found = self._run(address, dask_worker.withdraw, self._session, attempts, on_error="ignore")
            self._inbox.put(AttemptsWithdrawn(host=address, attempts=found.get(address, [])))


def _updated(address: str, data: bytes) -> HostUpdated:
    return HostUpdated(host=address, update=msgspec.msgpack.decode(data, type=HostUpdate))


def _resources(order: AttemptOrder, counted: dict[str, float]) -> dict[str, float]:
    """The resources of a worker, as Dask counts them, that an attempt takes: all of one where it asks for more."""
    wanted = {"GPU": order.gpus, "MEMORY": float(order.task.memory or 0), "CPU": order.cpus}
    return {name: min(amount, counted[name]) for name, amount in wanted.items() if amount and name in counted}


def _ignore(_: object) -> None:
    pass


def _unfit(address: str, error: BaseException) -> HookeError:
    if isinstance(error, HookeError):
        return error
    missing = isinstance(error, ModuleNotFoundError)
    return UsageError(
        f"the Dask worker {address} cannot run tasks",
        why=f"{type(error).__name__}: {error}",
        fix=f"on the workers: {install_command('dask', exact=True)}" if missing else "",
    )
