"""Ray as a place: a Ray of this machine that we start, or any that is there already.

Ray brings the machines, their membership and the connection to them. What runs next is Hooke's to say, and so is
where: an actor on each node has processes of its own run what it is given. Ray runs nothing again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from hooke.base.errors import HookeError, UsageError
from hooke.engines.ray.bridge_client import Bridge, BridgeLink, RayFleet
from hooke.engines.ray.bridge_protocol import (
    Draining,
    FromBridge,
    HostLeft,
    HostSaid,
    Joined,
    Unfit,
    Up,
    Withdrawn,
)
from hooke.engines.remote.failure_detector import SILENT_S
from hooke.engines.remote.handshake import Reception
from hooke.engines.remote.placement import Peer
from hooke.engines.remote.remote_queue import RemoteQueue
from hooke.engines.remote.worker_protocol import session_of
from hooke.engines.worker.script import module_path
from hooke.journal.events import CapacityChanged, Failure, WorkerStopped
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.processes.devices import cpus_here, memory_here, memory_of

__all__ = ["RayEngine"]

CONNECT_S = 45.0
"""A Ray that is there answers in a second or two; that a token is wrong, its library finds out in 22 s."""

FIRST_HOST_S = 180.0
"""A Ray takes 8 s to start, and on a machine at a load of ten more than 30."""


class RayEngine:
    """Runs attempts in actors of Ray, as many at once in each as it has threads."""

    capabilities = Capabilities(
        name="ray",
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
        at: str | RayFleet | None = None,
        threads: int = 1,
        silent_s: float = SILENT_S,
    ) -> None:
        """`at` is an address of Ray's (`ray://HOST:PORT`, `HOST:PORT`, `auto`); None starts one here, of `workers` hosts with `threads` each.

        A fleet is one of ours that is there already, and says how many they are.

        Without `workers` one that is joined has a host on each of its nodes, with all CPUs of it.
        Raises MissingExtra, and HookeError where there is no Ray or it cannot run tasks.
        """
        self._context = context
        fleet = at if isinstance(at, RayFleet) else None
        self._ours = at is None or fleet is not None
        if fleet is not None:
            workers, threads = workers or (fleet.workers, fleet.workers), fleet.threads
        self._hosts = workers[1] if workers else cpus_here() if self._ours else None
        self.capabilities = replace(self.capabilities, elastic=self._hosts is not None)
        self._address = at if isinstance(at, str) else "this machine"
        self._connected = self._closed = False
        self._draining: set[str] = set()
        """Hosts on nodes that Ray is to end."""
        made = session_of(context, warm=fleet is not None)
        self._reception = None if self._ours else Reception(context, made.id)
        probe = None if self._reception is None else self._reception.probe
        self._bridge = fleet.take() if fleet else Bridge(address=at if isinstance(at, str) else "")
        self._release = fleet.give if fleet else Bridge.end
        self._link = BridgeLink(
            self._bridge, made, probe, hosts=self._hosts, threads=threads, silent_s=silent_s
        )
        self._dispatch = RemoteQueue(self._link, session=made.id, sys_path=module_path)
        try:
            self._wait_for_hosts()
        except BaseException:
            self.close()
            raise

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts and send each as soon as a host has room."""
        self._dispatch.submit(calls, self._now())

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """What happened since; at most `timeout_s` of waiting. Raises HookeError where Ray is gone."""
        if not self._dispatch.events:
            self._take(self._link.receive(timeout_s))
            self._dispatch.ask_back(time.monotonic())
            self._dispatch.give_up(self._now(), time.monotonic())
            self._dispatch.late(time.monotonic())
        events = self._dispatch.events
        self._dispatch.events = []
        return events

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back; have the host of one that runs end it."""
        self._dispatch.cancel(attempt, self._now())
        self._release_retired()

    def scale(self, workers: int) -> None:
        """Change the number of hosts; those too many end when what they run has ended."""
        if self._hosts is None:
            return
        self._hosts = workers
        there = self._dispatch.placement.peers.values()
        peers = sorted(
            (peer for peer in there if peer.address not in self._draining),
            key=lambda peer: (peer.retiring, -len(peer.calls)),
        )
        for number, peer in enumerate(peers):
            peer.retiring = number >= workers
        self._announce()
        self._want()
        self._dispatch.send(self._now())

    def close(self) -> None:
        """End what runs for us; and Ray, where it is ours."""
        if self._closed:
            return
        self._closed = True
        self._release(self._bridge)
        if self._reception is not None:
            self._reception.close()

    # -- hosts -------------------------------------------------------------------------------------

    def _wait_for_hosts(self) -> None:
        """Until there is one, or all of them where they are to start at once."""
        wanted = 1 if self._hosts is None or self._context.ready_for is None else self._hosts
        if self._hosts == 0:
            self._announce()
            return
        began = time.monotonic()
        while len(self._dispatch.placement.peers) < wanted:
            waited = time.monotonic() - began
            if waited > CONNECT_S and not (self._connected or self._ours):
                raise UsageError(
                    f"what listens at {self._address} does not answer as a Ray",
                    why=f"nothing came of it for {CONNECT_S:g} s: another programme, a Ray of another version, or one that expects TLS",
                    fix="give the address that `ray status` shows on one of its nodes",
                )
            if waited > FIRST_HOST_S:
                raise UsageError(
                    f"Ray on {self._address} gave no room for a host within {FIRST_HOST_S:g} s",
                    why="all of its CPUs are taken by others, or a node of it is overloaded",
                    fix="see `ray status`; give workers= for as many hosts of one CPU each",
                )
            self._take(self._link.receive(1.0))
        self._dispatch.events.sort(key=lambda event: not isinstance(event, CapacityChanged))

    def _came(self, joined: Joined) -> None:
        report, arrival = joined.welcome.report, joined.welcome.arrival
        peers = self._dispatch.placement.peers
        if self._reception is not None and arrival is not None:
            try:
                self._reception.check(f"{joined.host} on {report.host}", arrival)
            except HookeError as error:
                if not peers:
                    raise
                # One that came later is given nothing, and the journal says why.
                why = f"left out: {error.what}: {error.why}".replace("\n", "; ")
                self._dispatch.events.append(WorkerStopped(at=self._now(), worker=joined.host, cause=why))
                return
        peers[joined.host] = Peer(address=joined.host, name=joined.host, report=report, shares=self._ours)
        self._announce()

    def _left(self, left: HostLeft) -> None:
        peer = self._dispatch.placement.peers.get(left.host)
        if peer is None:
            return
        cause = "its node of Ray is drained" if left.host in self._draining else "retired"
        if left.why:
            cause = f"its host {left.host} on {peer.report.host} is gone"

        def failure(call: Call) -> Failure:
            return Failure(
                kind="WorkerDied",
                message=f"the host {left.host} of Ray on {peer.report.host}, which ran it, is gone: {left.why}; "
                "how the task's own process ended is not known",
                arguments=call.shown,
                limit_bytes=call.memory,
                fix="look at that machine: lost, out of memory, or its Ray was ended; retries= runs the task elsewhere",
            )

        self._dispatch.left(left.host, self._now(), cause=cause, failure=failure)
        if left.why:
            self._announce()

    def _drain(self, host: str) -> None:
        """It ends what it runs, and gets nothing more; what waits there goes elsewhere."""
        if host not in self._dispatch.placement.peers:
            return
        self._draining.add(host)
        self._dispatch.drain(host)
        self._announce()
        self._want()

    def _release_retired(self) -> None:
        if any(peer.retiring and not peer.calls for peer in self._dispatch.placement.peers.values()):
            self._want()

    def _want(self) -> None:
        """Have as many hosts as stay and run; those that are idle and not to stay end now."""
        peers = self._dispatch.placement.peers.values()
        idle = [peer.address for peer in peers if peer.retiring and not peer.calls]
        busy = sum(peer.retiring and bool(peer.calls) for peer in peers)
        self._link.want(None if self._hosts is None else self._hosts + busy, idle)
        for address in idle:
            self._left(HostLeft(host=address))

    def _announce(self) -> None:
        peers = self._dispatch.placement.staying
        threads = sum(peer.report.threads for peer in peers)
        self._dispatch.events.append(
            CapacityChanged(
                at=self._now(),
                slots=threads,
                cpus=float(max(cpus_here(), threads) if self._ours else threads),
                memory=memory_here() if self._ours else memory_of([peer.report.memory for peer in peers]),
                gpus=float(sum(peer.report.gpus for peer in peers)),
            )
        )

    # -- messages ----------------------------------------------------------------------------------

    def _take(self, messages: list[FromBridge]) -> None:
        for message in messages:
            self._heard(message)
        if messages:
            self._release_retired()
            self._dispatch.send(self._now())

    def _heard(self, message: FromBridge) -> None:
        match message:
            case Joined():
                self._came(message)
            case Draining():
                self._drain(message.host)
            case HostLeft():
                self._left(message)
            case HostSaid():
                self._said(message)
            case Withdrawn():
                self._dispatch.returned(message.host, message.attempts, self._now())
            case Up():
                self._connected = True
            case Unfit():
                raise AssertionError("the link raises it")

    def _said(self, message: HostSaid) -> None:
        dispatch, heard, now_s = self._dispatch, message.heard, time.monotonic()
        for piece in heard.pieces:
            if self._reception is not None:
                self._reception.bring(piece)
        dispatch.told(message.host, heard.notes, self._now(), now_s)
        for data in heard.answers:
            dispatch.answered(message.host, data, now_s)
        dispatch.returned(message.host, heard.lacking, self._now(), lacks=True)

    def _now(self) -> float:
        return self._context.clock.now()
