"""Dask as a place: a cluster of this machine that we start, or any scheduler, cluster or client of somebody's.

Dask brings the machines, their membership and the connection to them. What runs next is Hooke's to say, and so is
where: each attempt is a Dask task for one worker, which has a process of its own run it. Dask never runs one again.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import psutil

from hooke.base.cpus import cpus_here
from hooke.base.errors import HookeError, UsageError
from hooke.engines.dask_cluster import (
    OurCluster,
    close_cluster,
    connect,
    grow,
    how_ended,
    local_cluster,
    retire,
)
from hooke.engines.dask_link import (
    Answered,
    Broke,
    Brought,
    Changed,
    Greeted,
    Link,
    Message,
    Refused,
    Seen,
    Shipment,
    Told,
    Withdrawn,
)
from hooke.engines.dask_worker import AGAIN, ELSEWHERE, Welcome
from hooke.engines.deaths import GONE, given_up, lost
from hooke.engines.host import Begun, Note, Order, Session
from hooke.engines.local_worker import task_of
from hooke.engines.placement import Peer, Placement
from hooke.engines.reception import Reception
from hooke.engines.script import module_path, script_of_this_process
from hooke.engines.silence import SILENT_S, Silence
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    CapacityChanged,
    WorkerStarted,
    WorkerStopped,
)
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.pipeline.failures import failure_of

__all__ = ["DaskEngine"]

SAFE_SHARE = 0.9
"""Of the memory that is available, what tasks may declare together: the rest is the kernel's and the driver's."""

FIRST_WORKER_S = 60.0
"""How long a place may have no worker at all before that is an error. A loaded machine may take long to start one."""

_LIBRARY = frozenset({"dask", "distributed"})
"""Distributions: a task whose code reaches one of them is given a client of its cluster."""

LOOK_S = 5.0
"""How often to ask who lives."""

_ANSWERS = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


class DaskEngine:
    """Runs attempts on the workers of a Dask cluster, as many at once on each as it has threads."""

    capabilities = Capabilities(
        name="dask", isolated=True, cancels=True, elastic=True, knows_signal=True, knows_peak_memory=True
    )

    def __init__(
        self,
        context: EngineContext,
        *,
        workers: tuple[int, int] | None = None,
        at: Any = None,
        keys: tuple[str, str, str] | None = None,
        threads: int = 1,
    ) -> None:
        """`at` is an address, a cluster or a client of Dask; None starts a cluster here, of `workers` with `threads` each. `keys` are files, as in `connect`.

        Raises HookeError where there is no scheduler, where no worker comes, or where one cannot run tasks.
        """
        self._context = context
        self._cluster: Any = at if hasattr(at, "scale") else None
        self._ours = at is None
        self._target = workers[1] if workers else cpus_here()
        if self._ours:
            self._cluster = local_cluster(workers=self._target, threads=threads)
        self.capabilities = replace(self.capabilities, elastic=self._cluster is not None)
        self._events: list[EngineEvent] = []
        self._queue: deque[Call] = deque()
        self._placement = Placement()
        self._silence = Silence()
        self._looked = time.monotonic()
        self._asked: set[str] = set()
        self._session = f"{context.run}-{uuid.uuid4().hex[:8]}"
        self._closed = False
        self._reception = None if self._ours else Reception(context, self._session)
        self._founders: set[str] = set()
        """Workers that were there at the beginning: if one cannot run tasks, the run does not begin."""
        try:
            client = connect(at if not self._ours else self._cluster, keys)
            probe = None if self._reception is None else self._reception.probe
            self._link = Link(client, self._made(), probe)
        except BaseException:
            self._end_cluster()
            raise
        try:
            if self._cluster is not None and not self._ours and workers is not None:
                grow(self._cluster, workers[1])
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts and send each as soon as a worker has room."""
        self._queue.extend(calls)
        self._dispatch()

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """What happened since; at most `timeout_s` of waiting. Raises HookeError where the scheduler is gone."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._link.ask_signs()
        if not self._events:
            self._take(self._link.receive(timeout_s))
            self._ask_back()
        events = self._events
        self._events = []
        return events

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back; have the worker of one that runs end it."""
        self._queue = deque(call for call in self._queue if call.attempt != attempt)
        if self._placement.take(attempt) is not None:
            self._link.cancel(attempt)
            self._dispatch()

    def scale(self, workers: int) -> None:
        """Change the number of Dask workers; those too many end when what they run has ended."""
        if self._cluster is None:
            return
        staying = sorted(self._placement.peers.values(), key=lambda peer: (peer.retiring, -len(peer.calls)))
        for number, peer in enumerate(staying):
            peer.retiring = number >= workers
        if workers > len(staying):
            grow(self._cluster, workers)
        self._announce()
        self._release_retired()
        self._dispatch()

    def close(self) -> None:
        """End what runs for us; and the cluster, where it is ours."""
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        self._link.close()
        if self._reception is not None:
            self._reception.close()
        self._end_cluster()

    # -- workers -----------------------------------------------------------------------------------

    def _made(self) -> Session:
        context = self._context
        return Session(
            id=self._session,
            store=context.store.place,
            secret=context.secret,
            logs=str(context.logs),
            folder=str(context.folder),
            sys_path=module_path(),
            tracking=None if context.tracking is None else str(context.tracking),
            durable=context.durable,
            script=script_of_this_process(),
            allowed=context.allow_mismatch,
            warm=context.warm and isinstance(self._cluster, OurCluster),
        )

    def _wait_for_workers(self) -> None:
        """Until there is a worker, or all of them where they are to start at once."""
        self._look()
        self._founders = set(self._asked) if not self._ours else set()
        deadline = time.monotonic() + FIRST_WORKER_S
        wanted = self._target if self._context.ready_for is not None else min(1, self._target)
        if not wanted:
            self._announce()
        while (
            len(self._placement.peers) < wanted or self._founders & self._asked - self._placement.peers.keys()
        ):
            if time.monotonic() > deadline:
                raise UsageError(
                    f"no worker came to the Dask scheduler at {self._address} within {FIRST_WORKER_S:g} s",
                    mend="start one (`dask worker ADDRESS`), or give workers= for a cluster that can be scaled",
                )
            self._take(self._link.receive(1.0))
        self._events.sort(key=lambda event: not isinstance(event, CapacityChanged))

    @property
    def _address(self) -> str:
        return self._link.client.scheduler_info(n_workers=0)["address"]

    def _look(self) -> None:
        """Compare the workers that there are with those that we know."""
        there = self._link.workers()
        for address in self._placement.peers.keys() - there.keys():
            self._left(self._placement.peers[address])
        self._asked &= there.keys()
        for address in there.keys() - self._asked:
            self._asked.add(address)
            self._link.greet(address)

    def _came(self, address: str, welcome: Welcome) -> None:
        facts = self._link.workers().get(address)
        if facts is None:
            return
        if self._reception is not None and welcome.arrival is not None:
            try:
                self._reception.check(address, welcome.arrival)
            except HookeError as error:
                self._left_out(address, error)
                return
        self._placement.peers[address] = Peer(
            address=address,
            name=facts["name"],
            report=welcome.report,
            resources=dict(facts["resources"] or {}),
            shares=self._ours,
        )
        self._announce()
        self._dispatch()

    def _left_out(self, address: str, error: HookeError) -> None:
        """A worker cannot run tasks. One that came later is left out, and the journal says why."""
        if address in self._founders:
            raise error
        why = f"{error.what}: {error.why}".replace("\n", "; ")
        self._events.append(
            WorkerStopped(at=self._context.clock.now(), worker=address, cause=f"left out: {why}")
        )

    def _listen(self, signs: dict[str, float]) -> None:
        """Give up on workers that say nothing, until they do: what they were given runs elsewhere, and their answers do not count."""
        fallen, back = self._silence.look(signs, time.monotonic())
        for address in fallen & self._placement.peers.keys():
            self._left(self._placement.peers[address], f"says nothing for {SILENT_S:g} s")
        self._asked -= back
        if back:
            self._look()

    def _left(self, peer: Peer, what: str = GONE) -> None:
        """A Dask worker is gone, with all that ran there. Why is known to nobody that could be asked."""
        del self._placement.peers[peer.address]
        now = self._context.clock.now()
        for call in list(peer.calls.values()):
            self._link.cancel(call.attempt)
            self._lost(peer, call, what)
        for worker in sorted(peer.workers):
            cause = "retired" if peer.retiring else f"the Dask worker {peer.address} {what}"
            self._events.append(WorkerStopped(at=now, worker=worker, cause=cause))
        if not peer.retiring:
            self._announce()
        self._dispatch()

    def _lost(self, peer: Peer, call: Call, what: str = GONE) -> None:
        """An attempt was at a worker that is lost: if it had not begun it goes to another, else that is its end."""
        began = self._placement.has_begun(call.attempt)
        self._placement.take(call.attempt)
        if not began:
            self._queue.appendleft(call)
            return
        where = f"the Dask worker {peer.address} on {peer.report.host}"
        failure = lost(
            where,
            what,
            how_ended(self._cluster, peer.report.pid),
            arguments=call.shown,
            limit_bytes=call.memory,
        )
        self._events.append(call.failed(self._context.clock.now(), failure))

    def _release_retired(self) -> None:
        idle = [peer for peer in self._placement.peers.values() if peer.retiring and not peer.calls]
        if not idle:
            return
        for peer in idle:
            self._left(peer)
        retire(
            self._cluster,
            self._link.client,
            [peer.name for peer in idle],
            [peer.address for peer in idle],
        )

    def _announce(self) -> None:
        peers = self._placement.staying
        threads = sum(peer.report.threads for peer in peers)
        if self._ours:
            cpus, memory = (
                float(max(cpus_here(), threads)),
                int(SAFE_SHARE * psutil.virtual_memory().available),
            )
        else:
            limits = [peer.report.memory for peer in peers]
            cpus, memory = float(threads), None if None in limits else sum(filter(None, limits))
        self._events.append(
            CapacityChanged(
                at=self._context.clock.now(),
                slots=threads,
                cpus=cpus,
                memory=memory,
                gpus=float(sum(peer.report.gpus for peer in peers)),
                workers=len(peers),
            )
        )

    def _end_cluster(self) -> None:
        if self._ours and self._cluster is not None:
            close_cluster(self._cluster)

    # -- attempts ----------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if not self._queue:
            return
        loads: dict[str, list[Shipment]] = {}
        full: set[tuple[bool, float, float]] = set()  # what there is no room for, in this turn
        for _ in range(len(self._queue)):
            call = self._queue.popleft()
            kind = (self._placement.is_quick(call), call.cpus, call.gpus)
            peer = None if kind in full else self._placement.choose(call)
            if peer is None:
                full.add(kind)
                self._queue.append(call)
                continue
            try:
                shipment = self._shipment(peer, call)
            except HookeError as error:
                failure = failure_of(error, arguments=call.shown)
                self._events.append(call.failed(self._context.clock.now(), failure))
                continue
            self._placement.put(call, peer)
            loads.setdefault(peer.address, []).append(shipment)
        for address, shipments in loads.items():
            self._link.ship(address, self._placement.peers[address].report.id, shipments)

    def _ask_back(self) -> None:
        for peer, attempts in self._placement.to_ask_back(time.monotonic()):
            self._link.withdraw(peer.address, attempts)

    def _taken_back(self, attempts: list[int]) -> None:
        for attempt in attempts:
            call = self._placement.take(attempt)
            if call is not None:
                self._link.cancel(attempt)
                self._queue.appendleft(call)

    def _shipment(self, peer: Peer, call: Call) -> Shipment:
        new = call.image.digest not in peer.known
        image = call.image.pickle() if new else None
        peer.known.add(call.image.digest)
        order = Order(
            session=self._session,
            task=task_of(call, image, uses_library=not _LIBRARY.isdisjoint(call.image.parts)),
            cpus=call.cpus,
            gpus=call.gpus,
            sys_path=module_path() if new else None,
        )
        wanted = {"GPU": call.gpus, "MEMORY": float(call.memory or 0), "CPU": call.cpus}
        return Shipment(
            attempt=call.attempt,
            name=call.image.name,
            data=msgspec.msgpack.encode(order),
            resources={
                name: min(amount, peer.resources[name])
                for name, amount in wanted.items()
                if amount and name in peer.resources
            },
        )

    # -- messages ----------------------------------------------------------------------------------

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self._heard(message)
        if messages:
            self._release_retired()
            self._dispatch()
        if not self._link.lives:
            raise HookeError(
                "the connection to the Dask scheduler is lost",
                why="the scheduler has ended, or the network to it is cut",
                mend="start it again, then resume: what finished is in the store",
                next=f"hooke resume {self._context.run}",
            )

    def _heard(self, message: Message) -> None:
        match message:
            case Brought(piece):
                if self._reception is not None:
                    self._reception.bring(piece)
            case Told(address, notes):
                self._told(address, notes)
            case Answered(attempt, data):
                self._answered(attempt, data)
            case Withdrawn(attempts):
                self._taken_back(attempts)
            case Broke(attempt, error):
                self._broke(attempt, error)
            case _:
                self._heard_of_worker(message)

    def _heard_of_worker(self, message: Changed | Seen | Greeted | Refused) -> None:
        match message:
            case Changed():
                self._look()
            case Seen(signs):
                self._listen(signs)
            case Greeted(address, welcome):
                self._came(address, welcome)
            case Refused(address, error):
                self._left_out(address, error)

    def _told(self, address: str, notes: list[Note]) -> None:
        peer = self._placement.peers.get(address)
        for note in notes:
            if isinstance(note, Begun):
                self._say_begun(note.attempt, note.worker, note.at)
                continue
            if peer is not None and isinstance(note, WorkerStarted):
                peer.workers.add(note.worker)
            elif peer is not None:
                peer.workers.discard(note.worker)
            self._events.append(note)

    def _say_begun(self, attempt: int, worker: str, at: float) -> None:
        peer = self._placement.where(attempt)
        if peer is not None and self._placement.begin(attempt, time.monotonic()):
            self._events.append(peer.calls[attempt].began(at, worker=worker))

    def _answered(self, attempt: int, data: bytes) -> None:
        peer = self._placement.where(attempt)
        if peer is None:
            return
        call = peer.calls[attempt]
        if data == AGAIN and self._placement.has_begun(attempt):  # its worker was ended by somebody
            self._lost(peer, call)
            return
        if data == AGAIN:
            peer.known.discard(call.image.digest)
            self._placement.take(attempt)
            self._queue.appendleft(call)
            return
        if data == ELSEWHERE:
            self._lost(peer, call)
            return
        answer = _ANSWERS.decode(data)
        if answer.worker:
            self._say_begun(attempt, answer.worker, answer.at - answer.seconds)
        if answer.ref is not None and answer.ref.inline is None:
            self._placement.stored(answer.ref.digest, peer)
        self._placement.take(attempt, seconds=answer.seconds if answer.worker else None)
        self._events.append(answer)

    def _broke(self, attempt: int, error: BaseException) -> None:
        """Dask itself has no answer: the worker is gone, or somebody restarted the cluster."""
        peer = self._placement.where(attempt)
        if peer is None or not self._link.lives:
            return
        if peer.address not in self._link.workers():
            self._lost(peer, peer.calls[attempt])
            return
        call = peer.calls[attempt]
        self._placement.take(attempt)
        self._events.append(
            call.failed(self._context.clock.now(), given_up("Dask", error, arguments=call.shown))
        )
