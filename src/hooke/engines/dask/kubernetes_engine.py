"""The Kubernetes backend: a Dask cluster of the run's own, whose workers are pods and whose scheduler is in the driver's process.

What runs where, retries, gangs and logs are the Dask engine's; how many pods there are, and which of them end, is decided by the controller of
fleets. Here are the cluster, and what pods are in trouble for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import dask.config
from distributed import Security, SpecCluster

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic, writing
from hooke.base.units import parse_seconds
from hooke.certificates.authority import Authority, new_key, pem_of
from hooke.certificates.key_files import Address
from hooke.engines.dask import clusters
from hooke.engines.dask.dask_engine import DaskEngine
from hooke.engines.dask.pod_jobs import VALID_S, PodJobs, PodKeeper, PodState
from hooke.engines.dask.worker_process import UNREACHED
from hooke.engines.remote.cluster_engine import CLUSTER
from hooke.engines.remote.handshake import HandshakeReply
from hooke.engines.remote.placement import Peer
from hooke.engines.worker.worker_deaths import GONE
from hooke.journal.events import BackendTrouble, Failure
from hooke.kubernetes.client import Kubernetes
from hooke.kubernetes.driver_job import PLACE_OPTIONS, is_driver_pod
from hooke.kubernetes.kubeconfig import find_access, pod_access
from hooke.kubernetes.pods import PodOptions, Trouble
from hooke.machines.controller import Caps
from hooke.pipeline.engine import Call, EngineContext

__all__ = ["KubernetesEngine", "PodCluster", "driver_security", "is_hopeless", "own_address", "parse_listen"]

LOOK_S = 0.5
"""How often to look what became of pods."""
END_KNOWN_S = 6.0
"""How long after a worker has left its cluster may say why."""
REACHES_S = 30.0
"""A worker joins within seconds of its start; after this time it is said that it has not. The pod itself gives up later."""
MOST_FAILURES = 4
"""A run without any worker ends when so many pods in a row ended by themselves soon after their start. The pauses between them grow. It is
not for a trouble that may pass, such as a quota that refuses each Job: that one has its time."""
PATIENCE_S: Mapping[str, float] = {
    "busy": 300.0,
    "image": 60.0,
    "container": 60.0,
    "quota": 60.0,
    "unreachable": 300.0,
    "unschedulable": 600.0,
}
"""Kind of trouble -> how long a run without any worker waits for it to pass. Nodes that are added take minutes. A pod that has ended has
a successor, which is waited for."""
IN_CLUSTER = (
    'have the driver run in the cluster: hooke run ... --detach, which needs home = "CLAIM" below the place'
)
FINAL_S = 2.0


class PodCluster(SpecCluster):
    """A scheduler in this process. Its workers are pods that join it: `keeper` has as many as are wanted."""

    def __init__(self, keeper: PodKeeper, security: Security, *, host: str, port: int) -> None:
        """Raises HookeError where the scheduler cannot listen there."""
        self.keeper = keeper
        try:
            _try_address(host, port)  # Dask would leave a socket open
            with dask.config.set({"distributed.scheduler.http.routes": []}):
                super().__init__(
                    scheduler=clusters.scheduler_spec(security, host=host, port=port),
                    security=security,
                    silence_logs=logging.CRITICAL,
                    scheduler_sync_interval=clusters.NEVER_S,
                )
        except Exception as error:
            raise HookeError(
                f"the driver cannot listen at {Address(host, port)}",
                why=f"{type(error).__name__}: {error}",
                fix='`listen` must be an address of this machine: listen = "10.0.0.5", or "10.0.0.5:8786"',
            ) from error

    def scale(self, n: int = 0, memory: Any = None, cores: Any = None) -> None:  # noqa: ARG002 - the signature is Dask's
        """Have so many pods."""
        self.keeper.want(n)


class KubernetesEngine(DaskEngine):
    """Runs attempts in pods, as many at once in each as it has cpus."""

    capabilities = replace(CLUSTER, name="kubernetes", ledger=True)
    dedicated = True

    def __init__(
        self,
        context: EngineContext,
        *,
        workers: tuple[int, int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are those of `PodOptions`, `listen` and `lifetime`, as in hooke.toml. Pods start after this returns.

        Raises UsageError for options that are not valid, HookeError where the cluster or the driver's own address cannot be used.
        """
        given = options or {}
        pods = PodOptions.parse(given, more=PLACE_OPTIONS)
        self._memory = pods.memory
        self._unexplained: dict[str, float] = {}
        """Address of a worker that left -> until when its pod may say why."""
        self._joined_numbers: set[int] = set()
        self._idle_since: dict[int, float] = {}
        self._said: set[tuple[str, str]] = set()
        self._trouble: tuple[PodState, Trouble, float] | None = None
        """The latest trouble, and since when there is any."""
        lifetime_s = parse_seconds(given["lifetime"], name="lifetime") if given.get("lifetime") else inf
        workers = workers or (1, 1)
        caps = Caps(
            workers=max(context.most_workers, workers[1]),
            usd_per_hour=context.max_usd_per_hour,
            lifetime_s=lifetime_s,
        )
        cluster = _cluster(context, pods, given.get("listen"), caps)
        self._keeper, self._jobs = cluster.keeper, cluster.keeper.jobs
        try:
            super().__init__(context, workers=workers, at=cluster)
        except BaseException:
            self._keeper.end()
            clusters.close_cluster(cluster)
            self._keeper.close()
            raise

    def scale(self, workers: int) -> None:
        """Change the number of pods. The controller chooses those that end: first such that start, then the longest idle."""
        self._keeper.want(workers)

    def _wait_for_workers(self) -> None:
        self._look()
        wanted = self._target if self._context.ready_for is not None else 0
        self._wait_for_hosts(wanted, lambda _: self._give_up(time.monotonic()))

    def _receive(self, timeout_s: float) -> bool:
        self._follow_pods(time.monotonic())
        return super()._receive(min(timeout_s, LOOK_S))

    def _disconnect(self) -> None:
        self._keeper.end()
        super()._disconnect()
        self._keeper.close()

    # -- pods --------------------------------------------------------------------------------------

    def _follow_pods(self, now: float) -> None:
        for state in self._jobs.news():
            self._pod_changed(state, now)
        self._tell_idle(now)
        self._drain_retiring()
        for address in list(self._unexplained):
            peer = self._peers.get(address)
            if peer is None:
                del self._unexplained[address]
            else:
                self._lose(peer)
        self._find_unreached(now)
        self._give_up(now)

    def _pod_changed(self, state: PodState, now: float) -> None:
        if state.ended and (trouble := state.trouble) is not None:
            self._save_log(state)
            if trouble.exit_code == UNREACHED:
                state = replace(state, trouble=replace(self._unreached(), final=True))
            elif trouble.kind == "failed":
                state = replace(
                    state, trouble=replace(trouble, says=f"{trouble.says}{_last_line(state.log)}")
                )
        if state.trouble is not None and self._jobs.is_wanted(state.number):
            self._say(state, state.trouble, now)
        elif self._trouble is not None and self._trouble[0].number <= state.number:
            self._trouble = None  # that pod is in none any more, or its successor is on its way

    def _tell_idle(self, now: float) -> None:
        """Tell the controller which workers have nothing to do, and since when."""
        idle = {peer.name for peer in self._peers.values() if not peer.calls}
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        self._jobs.idle(self._idle_since)

    def _drain_retiring(self) -> None:
        """Workers that are to finish get nothing more."""
        numbers = self._jobs.retiring
        new = [peer for peer in self._peers.values() if peer.name in numbers and not peer.draining]
        for peer in new:
            self._queue.drain(peer.address)
        if new:
            self._announce()
        self._release_retired()

    def _end_workers(self, peers: Sequence[Peer]) -> None:
        """Move what others hold there to the rest; then the controller ends the pods."""
        addresses = [peer.address for peer in peers]
        self._link.client.retire_workers(addresses, close_workers=False, remove=False)
        self._jobs.emptied([peer.name for peer in peers])

    def _say(self, state: PodState, trouble: Trouble, now: float) -> None:
        """Write a trouble into the journal, unless the same is there already: of this pod, where the cluster took its place."""
        since = now if self._trouble is None else self._trouble[2]
        self._trouble = state, trouble, since
        about = state.job if trouble.kind == "disrupted" else "", trouble.says
        if about not in self._said:
            self._said.add(about)
            self._queue.events.append(BackendTrouble(at=self._now(), about=state.shown, message=str(trouble)))

    def _find_unreached(self, now: float) -> None:
        """Pods that run, and whose worker does not come."""
        late = [
            state
            for state in self._jobs.states()
            if state.runs_since is not None
            and now - state.runs_since > REACHES_S
            and not (state.ended or state.drains)
            and state.number not in self._joined_numbers
        ]
        if not late:
            return
        there = {facts["name"] for facts in self._link.workers().values()}
        for state in late:
            if state.number not in there:  # the pod itself knows better, and ends with UNREACHED
                says = f"it runs, and its worker has not joined: it is still starting, or does not reach the driver at {self._link.address}"
                self._say(state, replace(self._unreached(), says=says), now)

    def _unreached(self) -> Trouble:
        says = f"it runs, and its worker has not reached the driver at {self._link.address}"
        fix = f"`listen` must be an address of this machine that pods reach; or {IN_CLUSTER}"
        return Trouble(kind="unreachable", says=says, fix=fix)

    def _give_up(self, now: float) -> None:
        """Raise where no worker is there, and none will come."""
        if self._trouble is None or self._peers:
            return
        state, trouble, since = self._trouble
        if is_hopeless(trouble, for_s=now - since, failures=self._keeper.failures):
            raise UsageError(
                "no pod of this run works",
                where=f"{state.shown}, namespace {self._jobs.namespace}",
                why=trouble.says,
                fix=trouble.fix,
                next=f"hooke resume {self._context.run}",
            )

    def _save_log(self, state: PodState) -> None:
        """Write what a pod has written to the run's logs, where it is read last."""
        if state.log:
            with writing("the run's logs", self._context.logs):
                write_atomic(self._context.logs / f"{state.pod}.log", state.log)

    # -- workers -----------------------------------------------------------------------------------

    def _admit(self, address: str, reply: HandshakeReply, *, known: bool) -> None:
        super()._admit(address, reply, known=known)
        if (peer := self._peers.get(address)) is not None:
            self._joined_numbers.add(peer.name)
            self._jobs.joined(peer.name)
            self._trouble = None
            self._drain_retiring()

    def _broke(self, address: str, attempt: int, error: BaseException | None) -> None:
        peer = self._peers.get(address)
        if peer is not None and self._link.lives and address not in self._link.workers():
            self._lose(peer)  # with all that ran there, when its pod has said why
        else:
            super()._broke(address, attempt, error)

    def _lose(self, peer: Peer, what: str = GONE) -> None:
        """A worker is gone: its pod says why a moment later."""
        state = self._jobs.state(peer.name)
        quiet = peer.retiring or (peer.shut and peer.address not in self._unexplained)
        ends = quiet and not peer.calls
        if what == GONE and not ends and state is not None and not state.ended:
            until = self._unexplained.setdefault(peer.address, time.monotonic() + END_KNOWN_S)
            peer.shut = True
            if time.monotonic() < until:
                return
        self._unexplained.pop(peer.address, None)
        why = f": {state.trouble.says}" if state is not None and state.ended and state.trouble else ""
        shown = state.shown if state is not None else f"the Dask worker {peer.address}"
        self._left(peer, "retired" if ends else f"{shown} {what}{why}", f"{what}{why}")

    def _loss(self, peer: Peer, what: str = GONE) -> Callable[[Call], Failure]:
        state = self._jobs.state(peer.name)
        shown = state.shown if state is not None else f"the Dask worker {peer.address}"
        trouble = state.trouble if state is not None and state.ended else None

        def failure(call: Call) -> Failure:
            if trouble is not None and trouble.kind == "memory":
                return Failure(
                    kind="OutOfMemory",
                    message=f"{shown}, which ran it, {what}",
                    arguments=call.shown,
                    limit_bytes=self._memory,
                    fix="raise `memory` of the place in hooke.toml, or have the task hold less data at once",
                )
            return Failure(
                kind="WorkerDied",
                message=f"{shown}, which ran it, {what}",
                arguments=call.shown,
                limit_bytes=call.memory,
                host_lost=True,
                fix="retries= runs the task elsewhere; the pod's log is among the run's, if it could be read",
            )

        return failure


def is_hopeless(trouble: Trouble, *, for_s: float, failures: int) -> bool:
    """Whether a run without any worker ends: it is in trouble `for_s`, and so many launches in a row have failed or were refused. Pure."""
    patience_s = FINAL_S if trouble.final else PATIENCE_S.get(trouble.kind, inf)
    return for_s > patience_s or (failures >= MOST_FAILURES and trouble.kind not in PATIENCE_S)


def _last_line(log: bytes) -> str:
    """What a pod wrote last, to follow a sentence; empty for nothing."""
    lines = [line.strip() for line in log.decode(errors="replace").split("\n") if line.strip()]
    return f": {lines[-1]}" if lines else ""


# -- the cluster of a run --------------------------------------------------------------------------


def _cluster(context: EngineContext, options: PodOptions, listen: Any, caps: Caps) -> PodCluster:
    """A scheduler at an address that pods reach, with keys of its own. Raises UsageError, HookeError."""
    if is_driver_pod(os.environ):
        access, listen = pod_access(), None  # the file and the address are those of the machine outside
    else:
        access = find_access(options.kubeconfig, context=options.context)
    client = Kubernetes(access)
    host, port = parse_listen(listen) if listen is not None else (own_address(client.address), 0)
    authority = Authority.make("run", now=time.time(), valid_s=VALID_S)
    jobs = PodJobs(
        client,
        options,
        run=context.run,
        threads=max(1, int(options.cpus)),
        authority=authority,
        usd_per_hour=context.usd_per_hour,
    )
    folder = context.tracking or context.logs
    keeper = PodKeeper(jobs, folder, caps=caps, clock=context.clock)
    try:
        cluster = PodCluster(keeper, driver_security(authority), host=host, port=port)
        jobs.scheduler = cluster.scheduler_address
        keeper.start()
    except BaseException:
        keeper.close()
        raise
    return cluster


def _try_address(host: str, port: int) -> None:
    """Raises OSError where this machine cannot listen there."""
    [(family, kind, _, _, there), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(there)


def driver_security(authority: Authority) -> Security:
    """The driver's certificate, for its scheduler and its clients. Nothing of it is in a file."""
    key = new_key()
    certificate = authority.certify("driver", key.public_key(), now=time.time(), valid_s=VALID_S).decode()
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=authority.pem.decode(),
        **{f"tls_{role}_cert": certificate for role in roles},
        **{f"tls_{role}_key": pem_of(key).decode() for role in roles},
    )


def parse_listen(listen: Any) -> tuple[str, int]:
    """`HOST` or `HOST:PORT` as both; port 0 means any. Raises UsageError."""
    if isinstance(listen, str) and listen:
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(listen.strip("[]"))), 0
        if ":" in listen:
            address = Address.parse(listen)
            return address.host, address.port
        return listen, 0
    raise UsageError(f"listen = {listen!r} is not valid", fix='write listen = "10.0.0.5", or "10.0.0.5:8786"')


def own_address(server: tuple[str, int]) -> str:
    """The address from which this machine reaches the API server: pods reach that, too, where it is not behind a router."""
    what = f"the driver's own address towards {server[0]}"
    fix = f'set `listen` to an address of this machine that pods reach: listen = "10.0.0.5"; or {IN_CLUSTER}'
    try:
        [(family, _, _, _, there), *_] = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(there)
            own: str = probe.getsockname()[0]
    except OSError as error:
        raise UsageError(f"{what} is not known", why=str(error), fix=fix) from error
    if own.startswith("127.") or own == "::1":
        raise UsageError(f"{what} is {own}, which no pod reaches", fix=fix)
    return own
