"""The driver's connection to a Dask scheduler: attempts out, what happens in, as messages in a queue.

Dask's client has a thread of its own, in which the coroutines here run; the engine sees only the queue.
"""

from __future__ import annotations

import contextlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import NoneType
from typing import Any, TypeAlias

import msgspec
from distributed import Client, Future
from distributed.client import done_callback

from hooke.base.errors import HookeError, UsageError
from hooke.engines.dask import dask_worker
from hooke.engines.dask.dask_worker import NOTES, PIECE, DaskWelcome, Greeting
from hooke.engines.gang import GangCommand, pack_command
from hooke.engines.remote.handshake import Probe
from hooke.engines.remote.log_sync import FilePiece
from hooke.engines.remote.worker_protocol import AttemptOrder, HostSession, Note, unpack_notes

__all__ = [
    "AttemptAnswered",
    "AttemptsWithdrawn",
    "Broke",
    "Greeted",
    "HostTold",
    "LastHeard",
    "Message",
    "SchedulerLink",
    "WorkerAvailability",
    "WorkerRefused",
    "WorkersChanged",
]

RUNNING = "running"
ASKED_AT_ONCE = 8

ANSWER_S = 30.0
"""A worker answers in milliseconds; one that is frozen or cut off does not, and is given up after as long (see `silence`)."""

LEAVE_S = 5.0
"""Workers end in milliseconds; one that cannot be reached ends its part when Dask has forgotten this client."""


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """Workers came or went."""


@dataclass(frozen=True, slots=True)
class WorkerAvailability:
    """A worker takes tasks, or takes none for now: it is to end, or short of memory."""

    address: str
    takes: bool


@dataclass(frozen=True, slots=True)
class LastHeard:
    """When the scheduler last heard of each worker, by its clock."""

    signs: dict[str, float]


@dataclass(frozen=True, slots=True)
class Greeted:
    """A Dask worker is ready for attempts."""

    address: str
    welcome: DaskWelcome


@dataclass(frozen=True, slots=True)
class WorkerRefused:
    """A Dask worker cannot run attempts."""

    address: str
    error: HookeError


@dataclass(frozen=True, slots=True)
class HostTold:
    """What a host said while its attempts run."""

    address: str
    notes: list[Note]


@dataclass(frozen=True, slots=True)
class Brought:
    """A part of a file that grows on a worker's machine."""

    piece: FilePiece


@dataclass(frozen=True, slots=True)
class AttemptAnswered:
    """An attempt ended."""

    address: str
    attempt: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Broke:
    """Dask has no answer for an attempt, and says why."""

    address: str
    attempt: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class AttemptsWithdrawn:
    """Of attempts that were asked back, those that a worker had not begun, and will not."""

    address: str
    attempts: list[int]


Message: TypeAlias = (
    WorkersChanged
    | LastHeard
    | WorkerAvailability
    | Greeted
    | WorkerRefused
    | HostTold
    | Brought
    | AttemptAnswered
    | Broke
    | AttemptsWithdrawn
)


class SchedulerLink:
    """One client of a scheduler. Used from one thread; `close` leaves workers that are not ours as they were."""

    def __init__(self, client: Client, session: HostSession, probe: Probe | None) -> None:
        self._client: Any = client  # its types say nothing of what it gives where
        self._session = session.id
        self._topic: str = client.id
        self._greeting = msgspec.msgpack.encode(Greeting(session=session, probe=probe, topic=self._topic))
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._futures: dict[tuple[str, int], Future[bytes]] = {}
        self._admitted: dict[str, tuple[str, dict[str, float]]] = {}
        """Address -> the worker's id, and what Dask counts of it, by name."""
        self._spent: SimpleQueue[Future[bytes]] = SimpleQueue()
        """Answered: to be let go together with the next message, which would otherwise wait behind that."""
        self._asking = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="hooke-dask")
        self._withdrawing = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="hooke-dask-withdraw")
        """Apart: one that does not answer must not hold up who is new."""
        self._greeted: set[str] = set()
        client.subscribe_topic("all", self._of_all)
        client.subscribe_topic(self._topic, self._of_us)

    @property
    def client(self) -> Any:
        """The client."""
        return self._client

    @property
    def address(self) -> str:
        """The scheduler's."""
        return self._client.scheduler_info(n_workers=0)["address"]

    @property
    def lives(self) -> bool:
        """Whether the scheduler is there."""
        return self._client.status == "running"

    def receive(self, timeout_s: float) -> list[Message]:
        """What came, waiting for the first at most so long."""
        messages: list[Message] = []
        try:
            messages.append(self._inbox.get(timeout=timeout_s))
            while True:
                messages.append(self._inbox.get_nowait())
        except Empty:
            return messages

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler says of each of its workers, by address."""
        found: dict[str, dict[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        return dict(found)

    def busy(self, addresses: list[str]) -> set[str]:
        """Those of these workers that have something to do, whoever asked for it."""
        has: dict[str, Any] = self._client.processing(addresses)
        return {address for address, keys in has.items() if keys}

    def ask_signs(self) -> None:
        """Ask when the scheduler last heard of each worker; Seen follows, unless the scheduler is gone."""
        self._asking.submit(self._ask_signs)

    def greet(self, address: str) -> None:
        """Get a worker ready; Greeted or Refused follows."""
        self._greeted.add(address)
        self._client.subscribe_topic(address, partial(self._of_worker, address))
        self._asking.submit(self._greet, address)

    def admit(self, address: str, worker_id: str) -> Any:
        """Let a worker that was greeted have attempts; returns its name, None where it left meanwhile."""
        facts = self.workers().get(address)
        if facts is None:
            return None
        self._admitted[address] = worker_id, dict(facts["resources"] or {})
        return facts["name"]

    def takes(self, address: str) -> bool:
        """Whether a worker takes tasks now."""
        return self.workers().get(address, {}).get("status", RUNNING) == RUNNING

    def ship(self, address: str, orders: list[AttemptOrder]) -> None:
        """Send attempts to a worker; Answered or Broke follows for each."""
        worker_id, counted = self._admitted[address]
        for order in orders:
            future = self._client.submit(
                dask_worker.attempt,
                msgspec.msgpack.encode(order),
                worker_id,
                self._topic,
                key=f"{order.task.name}-{uuid.uuid4().hex}",
                workers=[address],
                allow_other_workers=False,
                resources=_resources(order, counted) or None,
                retries=0,
                pure=False,
            )
            self._futures[address, order.task.attempt] = future
            self._client.loop.add_callback(self._follow, address, order.task.attempt, future)
        while not self._spent.empty():
            self._spent.get().release()

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Ask attempts back that wait in a worker; Withdrawn follows, unless the worker is gone."""
        self._withdrawing.submit(self._withdraw, address, attempts)

    def speak(self, address: str, attempt: int, word: GangCommand) -> None:
        """Say something to a worker about a gang of which it was given a part; Broke follows where it does not listen."""
        self._withdrawing.submit(self._speak, address, attempt, word)

    def cancel(self, address: str, attempt: int) -> None:
        """Have Dask forget an attempt; its worker notices."""
        future = self._futures.pop((address, attempt), None)
        if future is not None:
            future.cancel(force=True)

    def close(self) -> None:
        """Give up all attempts, and end what runs for us on the workers."""
        for pool in (self._asking, self._withdrawing):
            pool.shutdown(wait=False, cancel_futures=True)
        if self.lives:
            self._client.unsubscribe_topic("all")
            for topic in (self._topic, *self._greeted):
                self._client.unsubscribe_topic(topic)
            if self._futures:
                self._client.cancel(list(self._futures.values()), force=True)
            there = self._greeted & self.workers().keys()
            if there:
                with contextlib.suppress(TimeoutError):
                    self._client.run(
                        dask_worker.leave,
                        self._session,
                        workers=sorted(there),
                        on_error="ignore",
                        callback_timeout=LEAVE_S,
                    )
        self._client.close(timeout=LEAVE_S)

    # -- in Dask's thread --------------------------------------------------------------------------

    def _of_all(self, event: tuple[float, Any]) -> None:
        if event[1].get("action") in ("add-worker", "remove-worker"):
            self._inbox.put(WorkersChanged())

    def _of_worker(self, address: str, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") == "worker-status-change":
            self._inbox.put(WorkerAvailability(address, event[1]["status"] == RUNNING))

    def _of_us(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict):
            return  # the scheduler notes there what the client did
        address, attempt, data = event[1]
        if attempt == NOTES:
            self._inbox.put(HostTold(address, unpack_notes(data)))
        elif attempt == PIECE:
            self._inbox.put(Brought(msgspec.msgpack.decode(data, type=FilePiece)))
        else:
            self._inbox.put(AttemptAnswered(address, attempt, data))

    async def _follow(self, address: str, attempt: int, future: Future[bytes]) -> None:
        message: Message | None = None
        try:
            await done_callback(future, _ignore)
            if (
                future.status != "finished" or future.type is not NoneType
            ):  # else it was published before this
                [data] = await self._client.gather([future], asynchronous=True)
                message = AttemptAnswered(address, attempt, data)
        except BaseException as error:  # noqa: BLE001 - whatever Dask raises, the attempt has no answer
            message = Broke(address, attempt, error)
        if self._futures.get((address, attempt)) is not future:
            return  # it was cancelled, and may be on its way again
        del self._futures[address, attempt]
        if message is not None:
            self._inbox.put(message)
        self._spent.put(future)

    # -- in threads of ours ------------------------------------------------------------------------

    def _ask_signs(self) -> None:
        there = self.workers()
        self._inbox.put(LastHeard({address: facts["last_seen"] for address, facts in there.items()}))

    def _greet(self, address: str) -> None:
        try:
            found = self._client.run(
                dask_worker.greet,
                self._greeting,
                workers=[address],
                on_error="return",
                callback_timeout=ANSWER_S,
            )
        except Exception as error:  # noqa: BLE001 - Dask says nothing of what it may raise
            self._inbox.put(WorkerRefused(address, _unfit(address, error)))
            return
        answer = found.get(address)
        if isinstance(answer, bytes):
            self._inbox.put(Greeted(address, msgspec.msgpack.decode(answer, type=DaskWelcome)))
        elif answer is not None:  # else it left meanwhile
            self._inbox.put(WorkerRefused(address, _unfit(address, answer)))

    def _speak(self, address: str, attempt: int, word: GangCommand) -> None:
        data = pack_command(word)
        try:
            self._client.run(
                dask_worker.speak, self._session, data, workers=[address], callback_timeout=ANSWER_S
            )
        except Exception as error:  # noqa: BLE001 - Dask says nothing of what it may raise
            self._inbox.put(Broke(address, attempt, error))

    def _withdraw(self, address: str, attempts: list[int]) -> None:
        with contextlib.suppress(TimeoutError):
            found = self._client.run(
                dask_worker.withdraw,
                self._session,
                attempts,
                workers=[address],
                on_error="ignore",
                callback_timeout=ANSWER_S,
            )
            self._inbox.put(AttemptsWithdrawn(address, found.get(address, [])))


def _resources(order: AttemptOrder, counted: dict[str, float]) -> dict[str, float]:
    """What an attempt takes of what Dask counts of a worker: as much as there is where it asks for more."""
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
        fix="install hooke[dask] where the workers run, in the version that this driver has"
        if missing
        else "",
    )
