"""Dask as a place: a cluster of this machine that we start, or any scheduler, cluster or client of somebody's.

Dask brings the machines, their membership and the connection to them. What runs next is Hooke's to say, and so is
where: each attempt is a Dask task for one worker, which has a process of its own run it. Dask never runs one again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from sys import maxsize
from typing import Any

from hooke.base.errors import HookeError, UsageError
from hooke.engines.dask.clusters import (
    OurCluster,
    close_cluster,
    connect,
    grow,
    how_ended,
    local_cluster,
    retire,
)
from hooke.engines.dask.dask_worker import AGAIN, ELSEWHERE, FORGOTTEN, DaskWelcome
from hooke.engines.dask.scheduler_link import (
    AttemptAnswered,
    AttemptsWithdrawn,
    Broke,
    Brought,
    Greeted,
    HostTold,
    LastHeard,
    Message,
    SchedulerLink,
    WorkerAvailability,
    WorkerRefused,
    WorkersChanged,
)
from hooke.engines.remote.failure_detector import SILENT_S, Silence
from hooke.engines.remote.handshake import Reception
from hooke.engines.remote.placement import Peer
from hooke.engines.remote.remote_queue import RemoteQueue
from hooke.engines.remote.worker_protocol import session_of, unpack_notes
from hooke.engines.worker.lost_attempts import GONE, given_up, lost
from hooke.engines.worker.script import module_path
from hooke.journal.events import CapacityChanged, Failure, WorkerStopped
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.processes.devices import cpus_here, memory_here, memory_of

__all__ = ["DaskEngine"]

FIRST_WORKER_S = 60.0
"""How long a place may have no worker at all before that is an error. A loaded machine may take long to start one."""

_LIBRARY = frozenset({"dask", "distributed"})
"""Distributions: a task whose code reaches one of them is given a client of its cluster."""

SPARED_S = 1.0
"""Until it is asked again whether others still have work on workers that are to go."""

LOOK_S = 5.0
"""How often to ask who lives."""


class DaskEngine:
    """Runs attempts on the workers of a Dask cluster, as many at once on each as it has threads."""

    capabilities = Capabilities(
        name="dask",
        isolated=True,
        cancels=True,
        elastic=True,
        knows_signal=True,
        knows_peak_memory=True,
        gangs=True,
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
        self._beside = self._ours or isinstance(at, OurCluster)  # all workers share this machine
        self._target = workers[1] if workers else cpus_here()
        fixed = workers is not None and workers[0] == workers[1]
        self._most = self._target if fixed and not self._ours else maxsize  # others have started more
        if self._ours:
            self._cluster = local_cluster(workers=self._target, threads=threads)
        self.capabilities = replace(self.capabilities, elastic=self._cluster is not None)
        self._silence = Silence()
        self._looked = time.monotonic()
        self._spared_until = 0.0
        self._asked: set[str] = set()
        self._founders: set[str] = set()
        """Workers that were there at the beginning: if one cannot run tasks, the run does not begin."""
        self._closed = False
        session = session_of(context, warm=context.warm and self._beside)
        self._reception = None if self._ours else Reception(context, session.id)
        try:
            client = connect(at if not self._ours else self._cluster, keys)
            probe = None if self._reception is None else self._reception.probe
            self._link = SchedulerLink(client, session, probe)
        except BaseException:
            self._end_cluster()
            raise
        self._dispatch = RemoteQueue(self._link, session=session.id, sys_path=module_path, library=_LIBRARY)
        self._peers = self._dispatch.placement.peers
        try:
            if self._cluster is not None and not self._ours and workers is not None:
                grow(self._cluster, workers[1])
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts and send each as soon as a worker has room."""
        self._dispatch.submit(calls, self._now())

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """What happened since; at most `timeout_s` of waiting. Raises HookeError where the scheduler is gone."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._link.ask_signs()
        if not self._dispatch.events:
            self._take(self._link.receive(timeout_s))
            self._dispatch.ask_back(time.monotonic())
            self._dispatch.give_up(self._now(), time.monotonic())
            self._dispatch.late(time.monotonic())
        events = self._dispatch.events
        self._dispatch.events = []
        return events

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back; have the worker of one that runs end it."""
        self._dispatch.cancel(attempt, self._now())
        self._release_retired()

    def scale(self, workers: int) -> None:
        """Change the number of Dask workers; those too many end when what they run has ended."""
        if self._cluster is None:
            return
        staying = sorted(
            self._peers.values(), key=lambda peer: (peer.retiring or peer.shut, -len(peer.calls))
        )
        for number, peer in enumerate(staying):
            peer.retiring = number >= workers
        if workers > len(staying):
            grow(self._cluster, workers)
        self._announce()
        self._release_retired()
        self._dispatch.send(self._now())

    def close(self) -> None:
        """End what runs for us; and the cluster, where it is ours."""
        if self._closed:
            return
        self._closed = True
        self._link.close()
        if self._reception is not None:
            self._reception.close()
        self._end_cluster()

    # -- workers -----------------------------------------------------------------------------------

    def _wait_for_workers(self) -> None:
        """Until there is a worker, or all of them where they are to start at once."""
        self._look()
        self._founders = set(self._asked) if not self._ours else set()
        deadline = time.monotonic() + FIRST_WORKER_S
        wanted = self._target if self._context.ready_for is not None else min(1, self._target)
        if not wanted:
            self._announce()
        while len(self._peers) < wanted or self._founders & self._asked - self._peers.keys():
            if time.monotonic() > deadline:
                raise UsageError(
                    f"no worker came to the Dask scheduler at {self._link.address} within {FIRST_WORKER_S:g} s",
                    fix="start one (`dask worker ADDRESS`), or give workers= for a cluster that can be scaled",
                )
            self._take(self._link.receive(1.0))
        self._dispatch.events.sort(key=lambda event: not isinstance(event, CapacityChanged))

    def _look(self) -> None:
        """Compare the workers that there are with those that we know."""
        there = self._link.workers()
        for address in self._peers.keys() - there.keys():
            self._left(self._peers[address])
        self._asked &= there.keys()
        for address in sorted(there.keys() - self._asked)[: max(self._most - len(self._asked), 0)]:
            self._asked.add(address)
            self._link.greet(address)

    def _came(self, address: str, welcome: DaskWelcome) -> None:
        name = self._link.admit(address, welcome.report.id)
        if name is None:
            return
        if self._reception is not None and welcome.arrival is not None:
            try:
                self._reception.check(address, welcome.arrival)
            except HookeError as error:
                self._left_out(address, error)
                return
        self._peers[address] = Peer(address=address, name=name, report=welcome.report, shares=self._beside)
        self._dispatch.told(address, unpack_notes(welcome.notes), self._now(), time.monotonic())
        self._peers[address].shut = not self._link.takes(address)
        self._announce()

    def _left_out(self, address: str, error: HookeError) -> None:
        """A worker cannot run tasks. One that came later is left out, and the journal says why."""
        if address in self._founders:
            raise error
        why = f"{error.what}: {error.why}".replace("\n", "; ")
        self._dispatch.events.append(WorkerStopped(at=self._now(), worker=address, cause=f"left out: {why}"))

    def _listen(self, signs: dict[str, float]) -> None:
        """Give up on workers that say nothing, until they do: what they were given runs elsewhere, and their answers do not count."""
        fallen, back = self._silence.look(signs, time.monotonic())
        for address in fallen & self._peers.keys():
            self._left(self._peers[address], f"says nothing for {SILENT_S:g} s")
        self._asked -= back
        if back:
            self._look()

    def _stands(self, told: WorkerAvailability) -> None:
        """Somebody retires a worker, or Dask pauses it: what has not begun there runs elsewhere."""
        peer = self._peers.get(told.address)
        if peer is None or peer.shut != told.takes:
            return
        peer.shut = not told.takes
        waiting = self._dispatch.placement.waiting(peer)
        if peer.shut and waiting:
            self._link.withdraw(told.address, waiting)
        if not peer.retiring:
            self._announce()

    def _left(self, peer: Peer, what: str = GONE) -> None:
        """A Dask worker is gone, with all that ran there. Why is known to nobody that could be asked."""
        drained = peer.shut and not peer.calls
        cause = "retired" if peer.retiring or drained else f"the Dask worker {peer.address} {what}"
        self._dispatch.left(peer.address, self._now(), cause=cause, failure=self._loss(peer, what))
        if not peer.retiring:
            self._announce()

    def _loss(self, peer: Peer, what: str = GONE) -> Callable[[Call], Failure]:
        """Why an attempt that ran on a worker has no answer."""

        def failure(call: Call) -> Failure:
            return lost(
                f"the Dask worker {peer.address} on {peer.report.host}",
                what,
                how_ended(self._cluster, peer.report.pid),
                arguments=call.shown,
                limit_bytes=call.memory,
            )

        return failure

    def _release_retired(self) -> None:
        idle = [peer for peer in self._peers.values() if peer.retiring and not peer.calls]
        if idle and not self._ours:  # what others run there ends first
            if time.monotonic() < self._spared_until:
                return
            busy = self._link.busy([peer.address for peer in idle])
            idle = [peer for peer in idle if peer.address not in busy]
            self._spared_until = time.monotonic() + SPARED_S if busy else 0.0
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
        peers = self._dispatch.placement.staying
        threads = sum(peer.report.threads for peer in peers)
        self._dispatch.events.append(
            CapacityChanged(
                at=self._now(),
                slots=threads,
                cpus=float(max(cpus_here(), threads) if self._beside else threads),
                memory=memory_here() if self._beside else memory_of([peer.report.memory for peer in peers]),
                gpus=float(sum(peer.report.gpus for peer in peers)),
                workers=len(peers),
            )
        )

    def _end_cluster(self) -> None:
        if self._ours and self._cluster is not None:
            close_cluster(self._cluster)

    # -- messages ----------------------------------------------------------------------------------

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self._heard(message)
        if messages:
            self._release_retired()
            self._dispatch.send(self._now())
        if not self._link.lives:
            raise HookeError(
                "the connection to the Dask scheduler is lost",
                why="the scheduler has ended, or the network to it is cut",
                fix="start it again, then resume: what finished is in the store",
                next=f"hooke resume {self._context.run}",
            )

    def _heard(self, message: Message) -> None:
        match message:
            case Brought(piece):
                if self._reception is not None:
                    self._reception.bring(piece)
            case HostTold(address, notes):
                self._dispatch.told(address, notes, self._now(), time.monotonic())
            case AttemptAnswered(address, attempt, data):
                self._answered(address, attempt, data)
            case AttemptsWithdrawn(address, attempts):
                for attempt in attempts:
                    self._link.cancel(address, attempt)
                self._dispatch.returned(address, attempts, self._now())
            case Broke(address, attempt, error):
                self._broke(address, attempt, error)
            case _:
                self._heard_of_worker(message)

    def _heard_of_worker(
        self, message: WorkersChanged | LastHeard | WorkerAvailability | Greeted | WorkerRefused
    ) -> None:
        match message:
            case WorkersChanged():
                self._look()
            case LastHeard(signs):
                self._listen(signs)
            case WorkerAvailability():
                self._stands(message)
            case Greeted(address, welcome):
                self._came(address, welcome)
            case WorkerRefused(address, error):
                self._left_out(address, error)

    def _answered(self, address: str, attempt: int, data: bytes) -> None:
        peer = self._peers.get(address)
        if data == FORGOTTEN:
            self._greet_again(address)
        elif data == AGAIN and not self._dispatch.placement.has_begun(attempt):
            self._dispatch.returned(address, [attempt], self._now(), lacks=True)
        elif data not in (AGAIN, ELSEWHERE):
            self._dispatch.answered(address, data, time.monotonic())
        elif peer is not None:  # its worker was ended by somebody
            self._dispatch.lost(address, attempt, self._now(), self._loss(peer))

    def _greet_again(self, address: str) -> None:
        """Nothing was asked of a worker for so long that it took this driver for dead."""
        peer = self._peers.pop(address, None)
        if peer is not None:
            self._dispatch.returned(address, list(peer.calls), self._now(), lacks=True)
            self._asked.discard(address)
            self._look()

    def _broke(self, address: str, attempt: int, error: BaseException) -> None:
        """Dask itself has no answer: the worker is gone, or somebody restarted the cluster."""
        peer = self._peers.get(address)
        if peer is None or not self._link.lives:
            return
        if address not in self._link.workers():
            self._dispatch.lost(address, attempt, self._now(), self._loss(peer))
            return

        def failure(call: Call) -> Failure:
            return given_up("Dask", error, arguments=call.shown)

        self._dispatch.lost(address, attempt, self._now(), failure, surely=True)

    def _now(self) -> float:
        return self._context.clock.now()
