"""The Ray backend: a Ray on this machine that the engine starts, or one that runs already.

Ray brings the machines, their membership and the connection to them. Hooke decides what runs next and where: an actor
on each node has processes of its own run its attempts. Ray runs nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from hooke.base.errors import UsageError
from hooke.engines.ray import bridge_protocol as protocol
from hooke.engines.ray.bridge_client import Bridge, RayFleet
from hooke.engines.remote.cluster_engine import CLUSTER, ClusterEngine
from hooke.engines.remote.placement import SILENT_S, Peer
from hooke.engines.remote.worker_protocol import AttemptsWithdrawn, HostUpdated
from hooke.engines.worker.worker_deaths import GONE
from hooke.journal.events import Failure
from hooke.pipeline.engine import Call, EngineContext
from hooke.processes.devices import cpus_here

__all__ = ["RayEngine"]

CONNECT_S = 45.0
"""A running Ray answers within a second or two; its library takes 22 s to find out that a token is wrong."""

FIRST_HOST_S = 180.0
"""Ray takes 8 s to start, and more than 30 s on a machine at a load of ten."""


class RayEngine(ClusterEngine):
    """Runs attempts in Ray actors ("hosts"), as many at once in each as it has threads."""

    capabilities = replace(CLUSTER, name="ray")

    def __init__(
        self,
        context: EngineContext,
        *,
        workers: tuple[int, int] | None = None,
        at: str | RayFleet | None = None,
        threads: int = 1,
        silent_s: float = SILENT_S,
    ) -> None:
        """`at` is a Ray address (`ray://HOST:PORT`, `HOST:PORT`, `auto`) or a fleet; with None the engine starts a Ray of `workers` hosts with `threads` each.

        Without `workers` a Ray at an address gets a host on each of its nodes, with all of the node's CPUs.
        Raises MissingExtra, and HookeError where there is no Ray or it cannot run tasks.
        """
        fleet = at if isinstance(at, RayFleet) else None
        owned = at is None or fleet is not None
        if fleet is not None:
            workers, threads = workers or (fleet.workers, fleet.workers), fleet.threads
        self._hosts = workers[1] if workers else cpus_here() if owned else None
        elastic = self._hosts is not None
        super().__init__(context, elastic=elastic, owned=owned, shares=owned, kept_s=inf if fleet else 0.0)
        self._address = at if isinstance(at, str) else "this machine"
        self._connected = False
        self._bridge = fleet.take() if fleet else Bridge(address=at if isinstance(at, str) else "")
        self._release = fleet.give if fleet else Bridge.end
        self._bridge.open_run(
            self._session, self._probe(), hosts=self._hosts, threads=threads, silent_s=silent_s
        )
        self._use(self._bridge)
        wanted = 1 if self._hosts is None else min(1, self._hosts)
        if self._hosts is not None and context.ready_for is not None:
            wanted = self._hosts
        try:
            self._wait_for_hosts(wanted, self._no_host)
        except BaseException:
            self.close()
            raise

    def _no_host(self, waited_s: float) -> None:
        if waited_s > CONNECT_S and not (self._connected or self._owned):
            raise UsageError(
                f"what listens at {self._address} does not answer as Ray does",
                why=f"no answer within {CONNECT_S:g} s: it is another program, another version of Ray, or it expects TLS",
                fix="pass the address that `ray status` shows on one of its nodes",
            )
        if waited_s > FIRST_HOST_S:
            raise UsageError(
                f"Ray on {self._address} had no room for a host within {FIRST_HOST_S:g} s",
                why="others use all of its CPUs, or one of its nodes is overloaded",
                fix="see `ray status`; pass workers= for that many hosts of one CPU each",
            )

    def _receive(self, timeout_s: float) -> bool:
        messages = self._bridge.receive(timeout_s)
        for message in messages:
            self._heard(message)
        return bool(messages)

    def _heard(self, message: protocol.FromBridge) -> None:
        match message:
            case HostUpdated() | AttemptsWithdrawn():
                self._reported(message)
            case protocol.HostJoined(host=host, reply=reply):
                peer = Peer(address=host, name=host, report=reply.report, shares=self._shares)
                self._joined(peer, reply, label=f"{host} on {reply.report.host}")
            case protocol.HostDraining(host=host):
                self._drain(host)
            case protocol.HostLeft(host=host, why=why):
                self._host_left(host, why)
            case protocol.BridgeConnected():
                self._connected = True
            case protocol.BridgeFailed() | protocol.RunEnded():
                raise AssertionError("the bridge's client handles it")

    # -- hosts -------------------------------------------------------------------------------------

    def _requires(self, address: str) -> bool:  # noqa: ARG002 - any first host
        return not self._peers

    def _host_left(self, host: str, why: str) -> None:
        peer = self._peers.get(host)
        if peer is None:
            return
        if why:
            self._left(peer, f"its host {host} on {peer.report.host} is gone", f"{GONE}: {why}")
        else:
            self._left(peer, "its Ray node is drained" if peer.draining else "retired")

    def _loss(self, peer: Peer, what: str = GONE) -> Callable[[Call], Failure]:
        def failure(call: Call) -> Failure:
            return Failure(
                kind="WorkerDied",
                message=f"the Ray host {peer.address} on {peer.report.host}, which ran it, {what}; "
                "how the task's own process ended is not known",
                arguments=call.shown,
                limit_bytes=call.memory,
                host_lost=True,
                fix="look at that machine: lost, out of memory, or its Ray was ended; retries= runs the task elsewhere",
            )

        return failure

    def _drain(self, host: str) -> None:
        """Ray ends a host's node: the host finishes what it runs, and what waits there goes elsewhere."""
        if host in self._peers:
            self._queue.drain(host)
            self._announce()
            self._set_hosts()

    def _resize(self, workers: int) -> None:
        self._hosts = workers
        self._set_hosts()

    def _release_retired(self) -> None:
        if self._idle_retired:
            self._set_hosts()

    def _set_hosts(self) -> None:
        """Have as many hosts as stay or still run attempts; idle ones that retire end now."""
        idle = self._idle_retired
        busy = sum(peer.retiring and bool(peer.calls) for peer in self._peers.values())
        hosts = None if self._hosts is None else self._hosts + busy
        self._bridge.tell(protocol.SetHosts(hosts=hosts, end=[peer.address for peer in idle]))
        for peer in idle:
            self._host_left(peer.address, "")

    def _disconnect(self) -> None:
        self._release(self._bridge)
