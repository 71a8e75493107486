"""The hosts of one run on Ray: the actor that runs attempts, and the part of the bridge that starts, polls and ends actors.

Ray answers in threads of its own; each answer becomes a message in `inbox`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import msgspec
import ray
from ray._private.state import state
from ray.exceptions import RayError
from ray.util import client, get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hooke.base.distributions import install_command
from hooke.engines.gang import unpack_command
from hooke.engines.ray import bridge_protocol as protocol
from hooke.engines.remote.handshake import HandshakeReply, Probe, answer_probe
from hooke.engines.remote.host import JoinedHost
from hooke.engines.remote.placement import FailureDetector
from hooke.engines.remote.worker_protocol import (
    AttemptOrder,
    AttemptsWithdrawn,
    HostSession,
    HostUpdate,
    HostUpdated,
    Note,
)

__all__ = ["LOOK_S", "HostActor", "HostActors", "connection_lost", "ray_unavailable", "start_actor"]


# -- inside Ray: the actor -------------------------------------------------------------------------

PULSE_S = 1.0
"""How often a host gives a sign of life at least."""


class RayHost:
    """An actor that has processes of its own run attempts. On a fleet it serves one run after another."""

    def __init__(self, gpus: float, address: str) -> None:
        if not gpus:  # Ray lets a process that holds no GPU see all of them
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if address:  # where `ray.init()` in a task's own code connects
            os.environ["RAY_ADDRESS"] = address

    def ready(self) -> bool:
        """Answer once the actor has started."""
        return True

    def greet(self, session: bytes, probe: bytes, name: str, threads: int) -> tuple[str, bytes]:
        """Get ready for a run; returns the id of the Ray node and an encoded HandshakeReply."""
        self._part = _RunPart(session, probe, name, threads)
        node = ray.get_runtime_context().get_node_id()
        return node, msgspec.msgpack.encode(self._part.host.reply(name))

    def ship(self, orders: list[bytes]) -> None:
        """Take attempts; `listen` reports on them."""
        self._part.ship(orders)

    def listen(self) -> bytes:
        """The encoded HostUpdate since the last call; waits for one pulse, then returns an empty one."""
        return protocol.pack(self._part.listen())

    def cancel(self, attempt: int) -> None:
        """End an attempt, without an answer."""
        self._part.cancel(attempt)

    def speak(self, word: bytes) -> None:
        """Take a word from the driver for the ranks of a gang."""
        self._part.host.workers.speak(unpack_command(word))

    def withdraw(self, attempts: list[int]) -> list[int]:
        """Take attempts back that have not begun; returns these."""
        return self._part.withdraw(attempts)

    def leave(self) -> None:
        """The run is over."""
        self._part.leave()


class _RunPart:
    """An actor's part in one run; the next run has another one."""

    def __init__(self, session: bytes, probe: bytes, name: str, threads: int) -> None:
        self._changed = threading.Condition()
        self._update = HostUpdate()
        self._over = False
        self._given_up: set[int] = set()
        self._taking = threading.Lock()
        self._taken_back: set[int] = set()
        self._running = ThreadPoolExecutor(threads, thread_name_prefix="hooke")
        here, answer = answer_probe(
            msgspec.msgpack.decode(session, type=HostSession),
            msgspec.msgpack.decode(probe, type=Probe | None),
        )
        address = get_node_ip_address()
        self.host = JoinedHost(here, answer, name=name, slots=threads, tell=self._tell, address=address)

    def ship(self, orders: list[bytes]) -> None:
        for order in orders:
            self._running.submit(self._run, msgspec.msgpack.decode(order, type=AttemptOrder))

    def listen(self) -> HostUpdate:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._update != HostUpdate(), PULSE_S)
            update, self._update = self._update, HostUpdate()
        if self.host.log_sync is not None:  # last, so that an attempt's output arrives with its answer
            update.pieces.extend(self.host.log_sync.take())
        return update

    def cancel(self, attempt: int) -> None:
        with self._changed:
            self._given_up.add(attempt)

    def withdraw(self, attempts: list[int]) -> list[int]:
        with self._taking:
            taken = self.host.workers.withdraw(attempts)
            self._taken_back.update(taken)
        return taken

    def leave(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._running.shutdown(wait=False, cancel_futures=True)
        self.host.close()

    # -- inside ------------------------------------------------------------------------------------

    def _run(self, order: AttemptOrder) -> None:
        attempt = order.task.attempt
        answer = self.host.workers.run(order, given_up=lambda: attempt in self._given_up)
        with self._taking:
            taken_back = answer is None and attempt in self._taken_back
            self._taken_back.discard(attempt)
        with self._changed:
            if answer is not None:
                self._update.answers.append(msgspec.msgpack.encode(answer))
            elif order.part is None and not taken_back and attempt not in self._given_up:
                self._update.lacking.append(attempt)
            self._given_up.discard(attempt)
            self._changed.notify_all()

    def _tell(self, notes: list[Note]) -> None:
        with self._changed:
            self._update.notes.extend(notes)
            self._changed.notify_all()


# -- inside the bridge: all actors of a run ----------------------------------------------------------

LOOK_S = 0.5
"""How often `silent` is called."""

MOST_DEATHS = 5
"""A host may die by chance; so many in a row that never answered have a reason."""

CALLS_AT_ONCE = 4
"""One call listens, the others are short."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostActor:
    """A Ray actor, and the GPUs that it holds."""

    actor: Any
    gpus: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Member:
    name: str
    held: HostActor
    node: str
    """The node that it is for; empty where Ray chooses one."""
    at: str = ""
    """The node where it runs, once it is ready."""
    ready: bool = False
    draining: bool = False
    """Whether the driver knows that its node is drained."""
    updates: int = 0
    """How many updates it has sent."""

    @property
    def actor(self) -> Any:
        return self.held.actor


def start_actor(name: str, *, cpus: int, gpus: float, ours: bool, node: str = "") -> HostActor:
    """Start an actor on a node, or where Ray has room. On a Ray of ours, tasks can use the Ray that they run on."""
    options: dict[str, Any] = {
        "name": f"hooke-{name}",
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": CALLS_AT_ONCE,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD",
    }
    made: Any = ray.remote(RayHost)
    address = ray.get_runtime_context().gcs_address if ours else ""
    return HostActor(actor=made.options(**options).remote(gpus, address), gpus=gpus)


class HostActors:
    """Starts, polls and ends the actors of a run; those in `spare` are taken first. One thread calls its methods, and what it puts into `inbox`."""

    def __init__(
        self,
        order: protocol.OpenRun,
        *,
        ours: bool,
        inbox: SimpleQueue[Callable[[], list[protocol.FromBridge]]],
        spare: list[HostActor],
    ) -> None:
        self._session = msgspec.msgpack.encode(order.session)
        self._probe = msgspec.msgpack.encode(order.probe)
        self._run = order.session.id
        self._wanted, self._threads, self._ours = order.hosts, order.threads, ours
        self._members: dict[str, _Member] = {}
        self._silence = FailureDetector(order.silent_s, every_s=LOOK_S)
        self._silent_s = order.silent_s
        self._count = 0
        self._failed_starts = 0
        self._inbox = inbox
        self._spare = spare
        self._over = False

    def keep(self) -> list[protocol.FromBridge]:
        """Start actors until there are as many as wanted; returns the hosts whose nodes Ray has begun to drain."""
        draining = _draining()
        if self._wanted is not None:
            while len(self._members) < self._wanted:
                self._start("", self._threads, self._free_gpus())
        else:
            self._keep_one_on_each(draining)
        news = [each for each in self._members.values() if each.at in draining and not each.draining]
        for member in news:
            member.draining = True
        return [protocol.HostDraining(host=each.name) for each in news]

    def _keep_one_on_each(self, draining: set[str]) -> None:
        for node in ray.nodes():
            cpus, gpus = int(node["Resources"].get("CPU", 0)), node["Resources"].get("GPU", 0.0)
            known = any(each.node == node["NodeID"] for each in self._members.values())
            if node["Alive"] and cpus and not known and node["NodeID"] not in draining:
                self._start(node["NodeID"], cpus, gpus)

    def set_hosts(self, hosts: int | None, end: list[str]) -> list[protocol.FromBridge]:
        """Change the number of hosts; those in `end` are idle and end."""
        self._wanted = hosts
        gone: list[protocol.FromBridge] = []
        waiting = [each.name for each in self._members.values() if not each.ready]
        for name in end:
            gone += self._leave(name)
        for name in waiting[: max(0, len(self._members) - hosts)] if hosts is not None else ():
            self._leave(name)
        return gone

    def call(self, order: protocol.CallHost) -> None:
        """Call a method of a host, unless it is gone. `withdraw` alone has an answer, which becomes a message."""
        member = self._members.get(order.host)
        if member is None:
            return
        answer = getattr(member.actor, order.method).remote(order.argument)
        if order.method == "withdraw":
            self._then(
                answer, lambda taken: [AttemptsWithdrawn(host=order.host, attempts=taken)], lambda _: []
            )

    def silent(self, now: float) -> list[protocol.FromBridge]:
        """Give up the hosts without a sign of life for too long."""
        gone: list[protocol.FromBridge] = []
        signs = {each.name: each.updates for each in self._members.values() if each.ready}
        for host in self._silence.look(signs, now)[0]:
            why = f"it gave no sign of life for {self._silent_s:g} s: its machine is stopped, overloaded or disconnected"
            gone += self._gone(host, why)
        return gone

    def close(self, within_s: float) -> list[HostActor]:
        """End the run on all actors. Returns those that are free for another run, and ends the others."""
        self._over = True
        leaving = {each.actor.leave.remote(): each for each in self._members.values() if each.ready}
        left = ray.wait(list(leaving), num_returns=len(leaving), timeout=within_s)[0] if leaving else []
        free = [leaving[answer].held for answer in left if _succeeded(answer)]
        for member in self._members.values():
            if member.held not in free:
                ray.kill(member.actor)
        self._members.clear()
        return free + self._spare

    # -- inside ------------------------------------------------------------------------------------

    def _start(self, node: str, threads: int, gpus: float) -> None:
        name = f"ray-{self._count}"
        self._count += 1
        if self._spare and not node:
            held = self._spare.pop()
        else:
            cpus = 0 if self._ours else threads
            held = start_actor(f"{self._run}-{name}", cpus=cpus, gpus=gpus, ours=self._ours, node=node)
        member = _Member(name=name, held=held, node=node)
        self._members[name] = member
        self._then(
            held.actor.greet.remote(self._session, self._probe, name, threads),
            lambda greeted: self._joined(member, *greeted),
            lambda error: self._start_failed(member, error),
        )

    def _joined(self, member: _Member, node: str, reply: bytes) -> list[protocol.FromBridge]:
        if member.name not in self._members:
            return []
        self._failed_starts = 0
        member.ready, member.at = True, node
        self._listen(member)
        return [
            protocol.HostJoined(host=member.name, reply=msgspec.msgpack.decode(reply, type=HandshakeReply))
        ]

    def _listen(self, member: _Member) -> None:
        self._then(
            member.actor.listen.remote(),
            lambda data: self._heard(member, data),
            lambda error: self._gone(member.name, _reason(error)),
        )

    def _heard(self, member: _Member, data: bytes) -> list[protocol.FromBridge]:
        if member.name not in self._members:
            return []  # it was given up, so its update comes too late
        member.updates += 1
        self._listen(member)
        update = msgspec.msgpack.decode(data, type=HostUpdate)
        return [] if update == HostUpdate() else [HostUpdated(host=member.name, update=update)]

    def _gone(self, host: str, why: str) -> list[protocol.FromBridge]:
        member = self._members.pop(host, None)
        if member is None:
            return []
        # In a thread, since Ray may wait for a node that does not answer.
        threading.Thread(target=_ended, args=(member,), daemon=True).start()
        return [protocol.HostLeft(host=host, why=why)] if member.ready else []

    def _leave(self, host: str) -> list[protocol.FromBridge]:
        member = self._members.get(host)
        if member is None:
            return []
        del self._members[host]
        if member.ready:
            self._then(member.actor.leave.remote(), lambda _: _ended(member), lambda _: _ended(member))
        else:
            _ended(member)
        return [protocol.HostLeft(host=host)] if member.ready else []

    def _start_failed(self, member: _Member, error: BaseException) -> list[protocol.FromBridge]:
        if self._members.pop(member.name, None) is None:
            return []
        self._failed_starts += 1
        if self._failed_starts < MOST_DEATHS and "ModuleNotFoundError" not in str(error):
            return []
        return [ray_unavailable(error)]

    def _free_gpus(self) -> float:
        """GPUs for a new host of a Ray of ours: each device belongs to one host, while there are some left."""
        if not self._ours or not self._wanted:
            return 0.0
        there = ray.cluster_resources().get("GPU", 0.0)
        each = max(1.0, there // self._wanted)
        actors = [member.held for member in self._members.values()] + self._spare
        held = sum(each.gpus for each in actors)
        return each if held + each <= there else 0.0

    def _then(
        self,
        answer: Any,
        succeeded: Callable[[Any], list[protocol.FromBridge]],
        failed: Callable[[BaseException], list[protocol.FromBridge]],
    ) -> None:
        """Turn Ray's answer, when it arrives, into messages, in the bridge's own thread."""

        def done(future: Any) -> None:
            error = future.exception()

            def messages() -> list[protocol.FromBridge]:
                if self._over:
                    return []
                return succeeded(future.result()) if error is None else failed(error)

            self._inbox.put(messages)

        answer.future().add_done_callback(done)


def _draining() -> set[str]:
    """The ids of the nodes that Ray is about to end."""
    if client.ray.is_connected():  # Ray's client server does not report them
        return set()
    library: Any = state  # without types
    return set(library.get_draining_nodes())


def _succeeded(answer: Any) -> bool:
    try:
        ray.get(answer)
    except RayError:
        return False
    return True


def _ended(member: _Member) -> list[protocol.FromBridge]:
    ray.kill(member.actor)
    return []


def ray_unavailable(error: BaseException, address: str = "") -> protocol.BridgeFailed:
    """Translate an error of Ray that is not available, or of a host that cannot start."""
    text = "\n".join(map(str, _chain(error)))
    at = f" at {address}" if address else ""
    if "ModuleNotFoundError" in text or "No module named" in text:
        return protocol.BridgeFailed(
            what=f"the nodes of Ray{at} cannot run tasks",
            why=_reason(error),
            fix=f"on the nodes: {install_command('ray', exact=True)}",
            usage=True,
        )
    if any(word in text for word in ("InvalidAuthToken", "Unauthenticated", "AuthenticationError")):
        return protocol.BridgeFailed(
            what=f"the token for Ray{at} is missing or wrong",
            fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the token file of its nodes",
            usage=True,
        )
    return protocol.BridgeFailed(
        what=f"cannot use Ray{at}",
        why=_reason(error),
        fix="start one (`ray start --head`), or correct the address; HOST:PORT works only on a node of that Ray",
        usage=True,
    )


def connection_lost(error: BaseException) -> protocol.BridgeFailed:
    """Translate an error that ends a connection to Ray."""
    return protocol.BridgeFailed(
        what="the connection to Ray is lost",
        why=_reason(error),
        fix="start it again, then resume: finished results are in the store",
        usage=False,
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _reason(error: BaseException) -> str:
    """Ray's reason in a line or two, without ids and stacks."""
    root = _chain(error)[-1]
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_IDS)]
    text = " ".join(said[-3:] if isinstance(root, RayError) else said[-1:])
    return f"{type(root).__name__}: {text}"[:400]


_IDS = ("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:", "File ")
