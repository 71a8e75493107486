"""The Dask backend: a cluster on this machine that the engine starts, or the user's scheduler, cluster or client.

Dask brings the machines, their membership and the connection to them. Hooke decides what runs next and where: each
attempt is a Dask task for one worker, which has a process of its own run it. Dask never runs an attempt twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from sys import maxsize
from typing import Any

from hooke.base.errors import HookeError, UsageError
from hooke.engines.dask import clusters, scheduler_link
from hooke.engines.remote.cluster_engine import CLUSTER, ClusterEngine
from hooke.engines.remote.handshake import HandshakeReply
from hooke.engines.remote.placement import SILENT_S, FailureDetector, Peer
from hooke.engines.remote.worker_protocol import AttemptsWithdrawn, HostUpdated
from hooke.engines.worker.worker_deaths import GONE, given_up, lost
from hooke.journal.events import Failure
from hooke.pipeline.engine import Call, EngineContext
from hooke.processes.devices import cpus_here

__all__ = ["DaskEngine"]

FIRST_WORKER_S = 60.0
"""How long a cluster may have no worker before that is an error. A loaded machine may take long to start one."""

_LIBRARY = frozenset({"dask", "distributed"})
"""Distributions: a task whose code reaches one of them gets a client of its cluster."""

KEPT_S = 30.0
"""How long idle processes stay on another's cluster for the next run of this driver: to start them takes half a second."""

SPARED_S = 1.0
"""How long to wait before asking again whether others still have work on retiring workers."""

LOOK_S = 5.0
"""How often to ask when the scheduler last heard of each worker."""


class DaskEngine(ClusterEngine):
    """Runs attempts on the workers of a Dask cluster, as many at once on each as it has threads."""

    capabilities = replace(CLUSTER, name="dask")
    dedicated = False
    """Whether a cluster that it is given is this run's alone: the engine takes all of its workers, and ends it."""

    def __init__(
        self,
        context: EngineContext,
        *,
        workers: tuple[int, int] | None = None,
        at: Any = None,
        keys: tuple[str, str, str] | None = None,
        threads: int = 1,
    ) -> None:
        """`at` is a Dask address, cluster or client; with None the engine starts a cluster of `workers` with `threads` each. `keys` are files, as in `connect`.

        Raises HookeError where there is no scheduler, where no worker joins, or where one cannot run tasks.
        """
        owned = at is None
        shares = owned or isinstance(at, clusters.OurCluster)
        self._target = workers[1] if workers else cpus_here()
        fixed = workers is not None and workers[0] == workers[1]
        # The cluster of others may have more.
        self._most = self._target if fixed and not (owned or self.dedicated) else maxsize
        self._cluster: Any = at if hasattr(at, "scale") else None
        if owned:
            self._cluster = clusters.local_cluster(workers=self._target, threads=threads)
        super().__init__(
            context,
            elastic=self._cluster is not None,
            owned=owned,
            shares=shares,
            kept_s=(inf if shares else KEPT_S) if context.warm else 0.0,
        )
        self._failure_detector = FailureDetector()
        self._looked = time.monotonic()
        self._spared_until = 0.0
        self._founders: set[str] = set()
        """Workers that were there at the beginning: if one cannot run tasks, the run does not begin."""
        try:
            self._link = scheduler_link.SchedulerLink(
                clusters.connect(self._cluster if owned else at, keys), self._session, self._probe
            )
            self._in_use = clusters.WorkersInUse(self._link.address)
            self._known = self._link.client.known
        except BaseException:
            self._end_cluster()
            raise
        self._use(self._link, library=_LIBRARY)
        try:
            if self._cluster is not None and not owned and workers is not None:
                clusters.grow(self._cluster, workers[1])
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    def _wait_for_workers(self) -> None:
        self._look()
        self._founders = set() if self._owned else set(self._in_use.addresses)
        wanted = self._target if self._context.ready_for is not None else min(1, self._target)
        self._wait_for_hosts(
            wanted,
            self._no_worker,
            missing=lambda: bool(self._founders & self._in_use.addresses - self._peers.keys()),
        )

    def _no_worker(self, waited_s: float) -> None:
        if waited_s > FIRST_WORKER_S:
            raise UsageError(
                f"no worker joined the Dask scheduler at {self._link.address} within {FIRST_WORKER_S:g} s",
                fix="start one (`dask worker ADDRESS`), or pass workers= where the cluster can be scaled",
            )

    def _receive(self, timeout_s: float) -> bool:
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._link.ask_last_seen()
        messages = self._link.receive(timeout_s)
        for message in messages:
            self._heard(message)
        if not self._link.lives:
            raise HookeError(
                "the connection to the Dask scheduler is lost",
                why="the scheduler has ended, or the network to it is cut",
                fix="start it again, then resume: finished results are in the store",
                next=f"hooke resume {self._context.run}",
            )
        return bool(messages)

    def _heard(self, message: scheduler_link.Message) -> None:
        match message:
            case HostUpdated() | AttemptsWithdrawn():
                self._reported(message)
            case scheduler_link.AttemptBroke(address, attempt, error):
                self._broke(address, attempt, error)
            case scheduler_link.RunForgotten(address):
                self._greet_again(address)
            case scheduler_link.WorkersChanged():
                self._look()
            case scheduler_link.WorkersLastSeen(last_seen):
                self._detect_failures(last_seen)
            case scheduler_link.WorkerAvailability(address, available):
                self._availability(address, available=available)
            case scheduler_link.WorkerReady(address, reply, known):
                self._admit(address, reply, known=known)
            case scheduler_link.WorkerRefused(address, error):
                self._leave_out(address, error)

    # -- workers -----------------------------------------------------------------------------------

    def _resize(self, workers: int) -> None:
        if workers > len(self._peers):
            clusters.grow(self._cluster, workers)

    def _look(self) -> None:
        """Compare the scheduler's workers with those that the engine knows."""
        there = self._link.workers()
        for address in self._peers.keys() - there.keys():
            self._lose(self._peers[address])
        self._in_use.give_back(self._in_use.addresses - there.keys())
        for address in self._in_use.take(there, most=self._most):
            known = None
            if self._handshake is not None and self._context.warm and self._context.ready_for is None:
                known = self._known.of(address, self._handshake, time.monotonic())
            self._link.greet(address, known=known)

    def _admit(self, address: str, reply: HandshakeReply, *, known: bool) -> None:
        there = self._link.admit(address, reply.report.id)
        if there is None:
            return
        name, takes = there
        peer = Peer(address=address, name=name, report=reply.report, shares=self._shares, shut=not takes)
        self._joined(peer, reply, label=address)
        if self._handshake is not None and not known and address in self._peers:
            self._known.note(address, self._handshake, reply, time.monotonic())

    def _requires(self, address: str) -> bool:
        return address in self._founders or not self._peers

    def _detect_failures(self, last_seen: dict[str, float]) -> None:
        """Give up silent workers until they speak again: their attempts run elsewhere, and their answers do not count."""
        silent, back = self._failure_detector.look(last_seen, time.monotonic())
        for address in silent & self._peers.keys():
            self._lose(self._peers[address], f"says nothing for {SILENT_S:g} s")
        self._in_use.give_back(back)
        if back:
            self._look()

    def _availability(self, address: str, *, available: bool) -> None:
        """Somebody retires a worker, or Dask pauses it: attempts that have not begun there run elsewhere."""
        peer = self._peers.get(address)
        if peer is None or peer.shut != available:
            return
        peer.shut = not available
        if peer.shut:
            self._queue.withdraw(peer)
        if not peer.retiring:
            self._announce()

    def _lose(self, peer: Peer, what: str = GONE) -> None:
        """A Dask worker is gone, with everything that ran there."""
        retired = peer.retiring or (peer.shut and not peer.calls)
        self._left(peer, "retired" if retired else f"the Dask worker {peer.address} {what}", what)

    def _loss(self, peer: Peer, what: str = GONE) -> Callable[[Call], Failure]:
        def failure(call: Call) -> Failure:
            return lost(
                f"the Dask worker {peer.address} on {peer.report.host}",
                what,
                clusters.how_ended(self._cluster, peer.report.pid),
                arguments=call.shown,
                limit_bytes=call.memory,
            )

        return failure

    def _release_retired(self) -> None:
        idle = self._idle_retired
        if idle and not self._owned:  # work of others ends first
            if time.monotonic() < self._spared_until:
                return
            busy = self._link.busy([peer.address for peer in idle])
            idle = [peer for peer in idle if peer.address not in busy]
            self._spared_until = time.monotonic() + SPARED_S if busy else 0.0
        if not idle:
            return
        for peer in idle:
            self._lose(peer)
        self._end_workers(idle)

    def _end_workers(self, peers: Sequence[Peer]) -> None:
        names, addresses = [peer.name for peer in peers], [peer.address for peer in peers]
        clusters.retire(self._cluster, self._link.client, names, addresses)

    def _greet_again(self, address: str) -> None:
        """A worker that got no attempt for long took this driver for dead, and has forgotten the run; or it is not the one that was known."""
        self._known.forget(address)
        peer = self._peers.pop(address, None)
        if peer is not None:
            self._queue.returned(address, list(peer.calls), self._now(), lacks=True)
            self._in_use.give_back([address])
            self._look()

    def _broke(self, address: str, attempt: int, error: BaseException | None) -> None:
        """Dask has no answer: the worker is gone, or somebody restarted the cluster."""
        peer = self._peers.get(address)
        if peer is None or not self._link.lives:
            return
        if error is None or address not in self._link.workers():
            self._queue.lost(address, attempt, self._now(), self._loss(peer))
            return

        def failure(call: Call) -> Failure:
            return given_up("Dask", error, arguments=call.shown)

        self._queue.lost(address, attempt, self._now(), failure, surely=True)

    def _disconnect(self) -> None:
        self._in_use.give_back(set(self._in_use.addresses))
        ends = self._owned or self.dedicated
        self._link.close(keep=self._context.warm and not ends)
        self._end_cluster()

    def _end_cluster(self) -> None:
        if (self._owned or self.dedicated) and self._cluster is not None:
            clusters.close_cluster(self._cluster)
