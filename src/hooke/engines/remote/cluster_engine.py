"""An engine over machines that a library brings: the queue of attempts, the handshake with each host, and what hosts report.

The library's own engine adds what only it knows: which hosts there are, how they start and end, and why one was lost.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from hooke.base.errors import HookeError
from hooke.engines.remote.handshake import DriverHandshake, HandshakeReply, Probe
from hooke.engines.remote.placement import Peer
from hooke.engines.remote.remote_queue import RemoteQueue
from hooke.engines.remote.worker_protocol import AttemptsWithdrawn, HostUpdated, Transport, session_of
from hooke.engines.worker.script import module_path
from hooke.engines.worker.worker_deaths import GONE
from hooke.journal.events import CapacityChanged, Failure, WorkerStopped
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.processes.devices import cpus_here, memory_here, memory_of

__all__ = ["CLUSTER", "ClusterEngine"]

CLUSTER = Capabilities(
    name="cluster",
    isolated=True,
    cancels=True,
    elastic=True,
    knows_signal=True,
    knows_peak_memory=True,
    gangs=True,
    resizes_gangs=True,
)
"""What every engine over a cluster can do; each has a name of its own."""


class ClusterEngine(ABC):
    """Runs attempts on the hosts of a cluster, as many at once on each as it has threads."""

    capabilities = CLUSTER

    def __init__(
        self, context: EngineContext, *, elastic: bool, owned: bool, shares: bool, kept_s: float
    ) -> None:
        """`owned`: the driver started the cluster, on its own machine, and ends it. `shares`: its hosts share this machine's resources.

        `kept_s`: how long idle workers stay there for the next run.
        """
        self.capabilities = replace(self.capabilities, elastic=elastic, unshared=not owned)
        self._context = context
        self._owned = owned
        self._shares = shares
        self._closed = False
        self._session = session_of(context, kept_s=kept_s)
        self._handshake = None if owned else DriverHandshake(context, self._session.id)

    def _probe(self) -> Probe | None:
        """What hosts are to find. Raises UsageError and StoreError as `DriverHandshake.probe`."""
        return None if self._handshake is None else self._handshake.probe

    def _use(self, transport: Transport, *, library: frozenset[str] = frozenset()) -> None:
        """Send attempts over this transport. `library` is as in `RemoteQueue`."""
        self._queue = RemoteQueue(transport, session=self._session.id, sys_path=module_path, library=library)
        self._peers = self._queue.placement.peers

    # -- the methods of an engine ------------------------------------------------------------------

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts and send each as soon as a host has room."""
        self._queue.submit(calls, self._now())

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """Return what happened, after at most `timeout_s`. Raises HookeError where the cluster is lost."""
        if not self._queue.events:
            self._listen(timeout_s)
            self._queue.check_deadlines(self._now(), time.monotonic())
        return self._queue.take_events()

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back; have the host of a running one end it."""
        self._queue.cancel(attempt, self._now())
        self._release_retired()

    def scale(self, workers: int) -> None:
        """Change the number of hosts; surplus hosts end when their attempts have ended."""
        if not self.capabilities.elastic:
            return
        peers = sorted(
            (peer for peer in self._peers.values() if not peer.draining),
            key=lambda peer: (peer.retiring or peer.shut, -len(peer.calls)),
        )
        for number, peer in enumerate(peers):
            peer.retiring = number >= workers
        self._announce()
        self._resize(workers)
        self._release_retired()
        self._queue.send(self._now())

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """Ask a gang to end at its next checkpoint."""
        self._queue.resize_gang(attempt, ranks)

    def close(self) -> None:
        """End this run's processes, and the cluster where the driver owns it."""
        if self._closed:
            return
        self._closed = True
        self._disconnect()
        if self._handshake is not None:
            self._handshake.close()

    # -- what a library's engine defines -----------------------------------------------------------

    @abstractmethod
    def _receive(self, timeout_s: float) -> bool:
        """Handle the messages that arrive within `timeout_s`; whether there were any. Raises HookeError where the cluster is lost."""

    @abstractmethod
    def _resize(self, workers: int) -> None:
        """Have so many hosts; surplus ones are marked as retiring."""

    @abstractmethod
    def _release_retired(self) -> None:
        """End the retiring hosts that are idle."""

    @abstractmethod
    def _requires(self, address: str) -> bool:
        """Whether the run cannot begin without this host."""

    @abstractmethod
    def _loss(self, peer: Peer, what: str = GONE) -> Callable[[Call], Failure]:
        """Why an attempt on this host has no answer; `what` became of the host, as a verb phrase."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the transport, and end the cluster where the driver owns it."""

    # -- hosts -------------------------------------------------------------------------------------

    def _wait_for_hosts(
        self, wanted: int, too_late: Callable[[float], None], *, missing: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until `wanted` hosts have joined and none is `missing`. `too_late` raises after too many seconds."""
        if not wanted:
            self._announce()
        began = time.monotonic()
        while len(self._peers) < wanted or missing():
            too_late(time.monotonic() - began)
            self._listen(1.0)
        self._queue.events.sort(key=lambda event: not isinstance(event, CapacityChanged))

    def _listen(self, timeout_s: float) -> None:
        if self._receive(timeout_s):
            self._release_retired()
            self._queue.send(self._now())

    def _joined(self, peer: Peer, reply: HandshakeReply, *, label: str) -> None:
        """A host answered the handshake: give it attempts, unless its environment differs. `label` names it in messages."""
        if self._handshake is not None and reply.answer is not None:
            try:
                self._handshake.check(label, reply.answer)
            except HookeError as error:
                self._leave_out(peer.address, error)
                return
        self._peers[peer.address] = peer
        self._queue.told(peer.address, reply.notes, self._now(), time.monotonic())
        self._announce()

    def _leave_out(self, address: str, error: HookeError) -> None:
        """A host cannot run tasks. Unless the run requires it, it gets none, and the journal says why."""
        if self._requires(address):
            raise error
        why = f"left out: {error.what}: {error.why}".replace("\n", "; ")
        self._queue.events.append(WorkerStopped(at=self._now(), worker=address, cause=why))

    def _reported(self, message: HostUpdated | AttemptsWithdrawn) -> None:
        """A host reports on its attempts."""
        address = message.host
        if isinstance(message, AttemptsWithdrawn):
            self._queue.returned(address, message.attempts, self._now())
            return
        update, now_s = message.update, time.monotonic()
        for piece in update.pieces:
            if self._handshake is not None:
                self._handshake.write(piece)
        self._queue.told(address, update.notes, self._now(), now_s)
        for data in update.answers:
            self._queue.answered(address, data, now_s)
        for attempt in update.lacking:
            peer = self._peers.get(address)
            if not self._queue.placement.has_begun(attempt):
                self._queue.returned(address, [attempt], self._now(), lacks=True)
            elif peer is not None:  # somebody ended its worker
                self._queue.lost(address, attempt, self._now(), self._loss(peer))

    def _left(self, peer: Peer, cause: str, what: str = GONE) -> None:
        """A host is gone, with everything that ran there. `cause` is for the journal, `what` as in `_loss`."""
        self._queue.left(peer.address, self._now(), cause=cause, failure=self._loss(peer, what))
        if not peer.retiring:
            self._announce()

    @property
    def _idle_retired(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.retiring and not peer.calls]

    def _announce(self) -> None:
        """Report the capacity of the hosts that stay."""
        peers = self._queue.placement.staying
        threads = sum(peer.report.threads for peer in peers)
        self._queue.events.append(
            CapacityChanged(
                at=self._now(),
                slots=threads,
                cpus=float(max(cpus_here(), threads) if self._shares else threads),
                memory=memory_here() if self._shares else memory_of([peer.report.memory for peer in peers]),
                gpus=float(sum(peer.report.gpus for peer in peers)),
                workers=len(peers),
            )
        )

    def _now(self) -> float:
        return self._context.clock.now()
