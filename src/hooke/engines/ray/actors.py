"""The hosts of one run on a Ray: actors, kept as many as are wanted, asked without end what happens in them.

Ray answers in threads of its own; what comes of it is a message in `inbox`.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import ray
from ray._private.state import state
from ray.exceptions import RayError
from ray.util import client, get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hooke.engines.gang import unpack_command
from hooke.engines.ray.bridge_protocol import (
    Draining,
    FromBridge,
    Heard,
    HostLeft,
    HostSaid,
    Joined,
    Open,
    RayWelcome,
    Unfit,
    Withdrawn,
    pack,
    unpack_heard,
)
from hooke.engines.remote.failure_detector import Silence
from hooke.engines.remote.handshake import Arrival, Probe, arrive
from hooke.engines.remote.host import WorkerHost
from hooke.engines.remote.log_sync import Mirror
from hooke.engines.remote.worker_protocol import AttemptOrder, HostReport, HostSession, Note
from hooke.engines.worker.pool import shared_pool

__all__ = ["LOOK_S", "PULSE_S", "RayHost", "RayHosts", "Seat", "failed", "seat", "unfit"]


# --- What of Hooke runs inside Ray: an actor that has processes of its own run attempts, and tells what becomes of them.

PULSE_S = 1.0
"""At least so often it gives a sign of life."""


class RayHost:
    """The part that a run has on one node of Ray. On a fleet it serves one run after another."""

    def __init__(self, gpus: float, address: str) -> None:
        if not gpus:  # Ray leaves a process that holds none all that there are
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if address:  # what a task's own code means by `ray.init()`
            os.environ["RAY_ADDRESS"] = address

    def ready(self) -> bool:
        """Whether it is there."""
        return True

    def greet(self, session: bytes, probe: bytes, name: str, threads: int) -> bytes:
        """Get ready for a run; returns a Welcome."""
        self._part = _Part(session, probe, name, threads)
        return msgspec.msgpack.encode(self._part.welcome())

    def ship(self, orders: list[bytes]) -> None:
        """Take attempts; what becomes of them is heard from `listen`."""
        self._part.ship(orders)

    def listen(self) -> bytes:
        """What happened since it was called last, as a packed Heard; waits a pulse for it, then says that there is nothing."""
        return pack(self._part.listen())

    def cancel(self, attempt: int) -> None:
        """Nobody waits for it any more."""
        self._part.cancel(attempt)

    def speak(self, word: bytes) -> None:
        """The driver says something to the ranks of a gang."""
        self._part.speak(word)

    def withdraw(self, attempts: list[int]) -> list[int]:
        """Take attempts back that have not begun; returns these."""
        return self._part.withdraw(attempts)

    def leave(self) -> None:
        """The run is over."""
        self._part.leave()


class _Part:
    """What is one run's alone: nothing of it is heard in the next one."""

    def __init__(self, session: bytes, probe: bytes, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self._said = threading.Condition()
        self._heard = Heard()
        self._over = False
        self._given_up: set[int] = set()
        self._taking = threading.Lock()
        self._taken_back: set[int] = set()
        self._running = ThreadPoolExecutor(threads, thread_name_prefix="hooke")
        here = msgspec.msgpack.decode(session, type=HostSession)
        left = msgspec.msgpack.decode(probe, type=Probe | None)
        self._arrival: Arrival | None = None
        if left is not None:
            here, self._arrival = arrive(here, left)
        unshared = self._arrival is not None and not self._arrival.shares
        self._mirror = Mirror(Path(here.logs).parent) if unshared else None
        # Logs that are brought would else go over those of the run before it was resumed.
        unique = f"-{here.id[-4:]}" if unshared else ""
        self._host = WorkerHost(
            here,
            name=name + unique,
            slots=threads,
            tell=self._tell,
            address=get_node_ip_address(),
        )

    def welcome(self) -> RayWelcome:
        self._tell(self._host.prepare())
        report = HostReport(
            id=self._name,
            pid=os.getpid(),
            host=os.uname().nodename,
            python=platform.python_version(),
            hooke=version("hooke"),
            threads=self._threads,
            memory=None,
            gpus=len(shared_pool().devices),
        )
        return RayWelcome(report=report, node=_node(), arrival=self._arrival)

    def ship(self, orders: list[bytes]) -> None:
        for order in orders:
            self._running.submit(self._run, msgspec.msgpack.decode(order, type=AttemptOrder))

    def listen(self) -> Heard:
        with self._said:
            self._said.wait_for(lambda: self._over or self._heard != Heard(), PULSE_S)
            heard, self._heard = self._heard, Heard()
        if (
            self._mirror is not None
        ):  # after that: what an attempt printed is there before its answer is heard
            heard.pieces.extend(self._mirror.take())
        return heard

    def cancel(self, attempt: int) -> None:
        with self._said:
            self._given_up.add(attempt)

    def speak(self, word: bytes) -> None:
        self._host.speak(unpack_command(word))

    def withdraw(self, attempts: list[int]) -> list[int]:
        with self._taking:
            taken = self._host.withdraw(attempts)
            self._taken_back.update(taken)
        return taken

    def leave(self) -> None:
        with self._said:
            self._over = True
            self._said.notify_all()
        self._running.shutdown(wait=False, cancel_futures=True)
        self._host.close()
        if self._mirror is not None:
            self._mirror.end()

    # -- inside ------------------------------------------------------------------------------------

    def _run(self, order: AttemptOrder) -> None:
        attempt = order.task.attempt
        answer = self._host.run(order, given_up=lambda: attempt in self._given_up)
        with self._taking:
            taken_back = answer is None and attempt in self._taken_back
            self._taken_back.discard(attempt)
        with self._said:
            if answer is not None:
                self._heard.answers.append(msgspec.msgpack.encode(answer))
            elif order.part is None and not taken_back and attempt not in self._given_up:
                self._heard.lacking.append(attempt)
            self._given_up.discard(attempt)
            self._said.notify_all()

    def _tell(self, notes: list[Note]) -> None:
        with self._said:
            self._heard.notes.extend(notes)
            self._said.notify_all()


def _node() -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


LOOK_S = 0.5
"""How often `silent` is called."""

MOST_DEATHS = 5
"""A host may die by chance; so many in a row that never answered have a reason."""

CALLS_AT_ONCE = 4
"""One listens, the others are short."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seat:
    """An actor, and what it holds."""

    actor: Any
    gpus: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Member:
    name: str
    seat: Seat
    node: str
    """Which it is for; empty where Ray chooses."""
    at: str = ""
    """The node where it is, once it is ready."""
    ready: bool = False
    told: bool = False
    """That its node is drained."""
    heard: int = 0
    """How often."""

    @property
    def actor(self) -> Any:
        return self.seat.actor


def seat(name: str, *, cpus: int, gpus: float, ours: bool, node: str = "") -> Seat:
    """An actor for a host, on a node or where Ray has room. On a Ray of ours, tasks may use the Ray that they run on."""
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
    return Seat(actor=made.options(**options).remote(gpus, address), gpus=gpus)


class RayHosts:
    """Starts and ends them; those in `spare` are taken first. Its methods are called from one thread, as is what it puts into `inbox`."""

    def __init__(
        self,
        order: Open,
        *,
        ours: bool,
        inbox: SimpleQueue[Callable[[], list[FromBridge]]],
        spare: list[Seat],
    ) -> None:
        self._session = msgspec.msgpack.encode(order.session)
        self._probe = msgspec.msgpack.encode(order.probe)
        self._run = order.session.id
        self._wanted, self._threads, self._ours = order.hosts, order.threads, ours
        self._members: dict[str, _Member] = {}
        self._silence = Silence(order.silent_s, every_s=LOOK_S)
        self._silent_s = order.silent_s
        self._count = 0
        self._stillborn = 0
        self._inbox = inbox
        self._spare = spare
        self._over = False

    def keep(self) -> list[FromBridge]:
        """Have as many as are wanted; those whose nodes Ray drains are told of."""
        draining = _draining()
        if self._wanted is not None:
            while len(self._members) < self._wanted:
                self._start("", self._threads, self._free_gpus())
        else:
            self._keep_one_on_each(draining)
        news = [each for each in self._members.values() if each.at in draining and not each.told]
        for member in news:
            member.told = True
        return [Draining(host=each.name) for each in news]

    def _keep_one_on_each(self, draining: set[str]) -> None:
        for node in ray.nodes():
            cpus, gpus = int(node["Resources"].get("CPU", 0)), node["Resources"].get("GPU", 0.0)
            known = any(each.node == node["NodeID"] for each in self._members.values())
            if node["Alive"] and cpus and not known and node["NodeID"] not in draining:
                self._start(node["NodeID"], cpus, gpus)

    def want(self, hosts: int | None, end: list[str]) -> list[FromBridge]:
        """Another number; these are idle and end."""
        self._wanted = hosts
        gone: list[FromBridge] = []
        waiting = [each.name for each in self._members.values() if not each.ready]
        for name in end:
            gone += self._leave(name)
        for name in waiting[: max(0, len(self._members) - hosts)] if hosts is not None else ():
            self._leave(name)
        return gone

    def ship(self, host: str, orders: list[bytes]) -> None:
        """Bring attempts to a host."""
        self._call(host, "ship", orders)

    def cancel(self, host: str, attempt: int) -> None:
        """Have a host end an attempt."""
        self._call(host, "cancel", attempt)

    def speak(self, host: str, word: bytes) -> None:
        """Say something to a host about a gang."""
        self._call(host, "speak", word)

    def withdraw(self, host: str, attempts: list[int]) -> None:
        """Take back what has not begun."""
        answer = self._call(host, "withdraw", attempts)
        if answer is not None:
            self._then(answer, lambda taken: [Withdrawn(host=host, attempts=taken)], lambda _: [])

    def silent(self, now: float) -> list[FromBridge]:
        """Give those up that were not heard for too long."""
        gone: list[FromBridge] = []
        signs = {each.name: each.heard for each in self._members.values() if each.ready}
        for host in self._silence.look(signs, now)[0]:
            why = f"it gave no sign of life for {self._silent_s:g} s: its machine is stopped, overloaded or cut off"
            gone += self._gone(host, why)
        return gone

    def close(self, within_s: float) -> list[Seat]:
        """End what runs there. Returns those that are free for another run; the others are ended."""
        self._over = True
        leaving = {each.actor.leave.remote(): each for each in self._members.values() if each.ready}
        left = ray.wait(list(leaving), num_returns=len(leaving), timeout=within_s)[0] if leaving else []
        free = [leaving[answer].seat for answer in left if _came(answer)]
        for member in self._members.values():
            if member.seat not in free:
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
            held = seat(f"{self._run}-{name}", cpus=cpus, gpus=gpus, ours=self._ours, node=node)
        member = _Member(name=name, seat=held, node=node)
        self._members[name] = member
        self._then(
            held.actor.greet.remote(self._session, self._probe, name, threads),
            lambda data: self._joined(member, msgspec.msgpack.decode(data, type=RayWelcome)),
            lambda error: self._stillborn_of(member, error),
        )

    def _joined(self, member: _Member, welcome: RayWelcome) -> list[FromBridge]:
        if member.name not in self._members:
            return []
        self._stillborn = 0
        member.ready, member.at = True, welcome.node
        self._listen(member)
        return [Joined(host=member.name, welcome=welcome)]

    def _listen(self, member: _Member) -> None:
        self._then(
            member.actor.listen.remote(),
            lambda data: self._heard(member, data),
            lambda error: self._gone(member.name, _words_of(error)),
        )

    def _heard(self, member: _Member, data: bytes) -> list[FromBridge]:
        if member.name not in self._members:
            return []  # it was given up: what it says now is too late
        member.heard += 1
        self._listen(member)
        heard = unpack_heard(data)
        empty = not (heard.notes or heard.answers or heard.lacking or heard.pieces)
        return [] if empty else [HostSaid(host=member.name, heard=heard)]

    def _gone(self, host: str, why: str) -> list[FromBridge]:
        member = self._members.pop(host, None)
        if member is None:
            return []
        # In a thread: Ray may wait for a node that does not answer.
        threading.Thread(target=_ended, args=(member,), daemon=True).start()
        return [HostLeft(host=host, why=why)] if member.ready else []

    def _leave(self, host: str) -> list[FromBridge]:
        member = self._members.get(host)
        if member is None:
            return []
        del self._members[host]
        if member.ready:
            self._then(member.actor.leave.remote(), lambda _: _ended(member), lambda _: _ended(member))
        else:
            _ended(member)
        return [HostLeft(host=host)] if member.ready else []

    def _stillborn_of(self, member: _Member, error: BaseException) -> list[FromBridge]:
        if self._members.pop(member.name, None) is None:
            return []
        self._stillborn += 1
        if self._stillborn < MOST_DEATHS and "ModuleNotFoundError" not in str(error):
            return []
        return [unfit(error)]

    def _free_gpus(self) -> float:
        """Of a Ray of ours: each device is one host's, as far as they go."""
        if not self._ours or not self._wanted:
            return 0.0
        there = ray.cluster_resources().get("GPU", 0.0)
        each = max(1.0, there // self._wanted)
        seats = [member.seat for member in self._members.values()] + self._spare
        held = sum(each.gpus for each in seats)
        return each if held + each <= there else 0.0

    def _call(self, host: str, method: str, argument: Any) -> Any:
        member = self._members.get(host)
        return None if member is None else getattr(member.actor, method).remote(argument)

    def _then(
        self,
        answer: Any,
        came: Callable[[Any], list[FromBridge]],
        failed: Callable[[BaseException], list[FromBridge]],
    ) -> None:
        """When Ray has an answer, let one of these make messages of it, in our own thread."""

        def done(future: Any) -> None:
            error = future.exception()

            def say() -> list[FromBridge]:
                if self._over:
                    return []
                return came(future.result()) if error is None else failed(error)

            self._inbox.put(say)

        answer.future().add_done_callback(done)


def _draining() -> set[str]:
    """Nodes that are to end, and take no more."""
    if client.ray.is_connected():  # its server does not tell
        return set()
    library: Any = state  # without types
    return set(library.get_draining_nodes())


def _came(answer: Any) -> bool:
    try:
        ray.get(answer)
    except RayError:
        return False
    return True


def _ended(member: _Member) -> list[FromBridge]:
    ray.kill(member.actor)
    return []


def unfit(error: BaseException, address: str = "") -> Unfit:
    """What Ray says of itself or of a host that cannot be, in our words."""
    text = "\n".join(map(str, _chain(error)))
    at = f" at {address}" if address else ""
    if "ModuleNotFoundError" in text or "No module named" in text:
        return Unfit(
            what=f"the nodes of Ray{at} cannot run tasks",
            why=_words_of(error),
            fix="install hooke[ray] where the nodes run, in the version that this driver has",
            usage=True,
        )
    if any(word in text for word in ("InvalidAuthToken", "Unauthenticated", "AuthenticationError")):
        return Unfit(
            what=f"the Ray{at} asks for a token, and got none or another one",
            fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that its nodes have",
            usage=True,
        )
    return Unfit(
        what=f"no Ray can be used{at}",
        why=_words_of(error),
        fix="start one (`ray start --head`), or correct the address; HOST:PORT only from a machine that is a node of it",
        usage=True,
    )


def failed(error: BaseException) -> Unfit:
    """A connection to Ray that was there ends by this."""
    return Unfit(
        what="the connection to Ray is lost",
        why=_words_of(error),
        fix="start it again, then resume: what finished is in the store",
        usage=False,
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _words_of(error: BaseException) -> str:
    """Ray's reason in a line or two, without its ids and stacks."""
    root = _chain(error)[-1]
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_IDS)]
    text = " ".join(said[-3:] if isinstance(root, RayError) else said[-1:])
    return f"{type(root).__name__}: {text}"[:400]


_IDS = ("class_name:", "actor_id:", "pid:", "name:", "namespace:", "ip:", "File ")
