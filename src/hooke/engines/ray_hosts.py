"""The hosts of one run on a Ray: actors, kept as many as are wanted, asked without end what happens in them.

Ray answers in threads of its own; what comes of it is a message in `inbox`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import msgspec
import ray
from ray._private.state import state
from ray.exceptions import RayError
from ray.util import client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hooke.engines.ray_host import RayHost
from hooke.engines.ray_messages import (
    Draining,
    FromBridge,
    Joined,
    Left,
    Open,
    Said,
    Unfit,
    Welcome,
    Withdrawn,
    unpack_heard,
)
from hooke.engines.silence import Silence

__all__ = ["LOOK_S", "Hosts", "Seat", "failed", "seat", "unfit"]

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


class Hosts:
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
            lambda data: self._joined(member, msgspec.msgpack.decode(data, type=Welcome)),
            lambda error: self._stillborn_of(member, error),
        )

    def _joined(self, member: _Member, welcome: Welcome) -> list[FromBridge]:
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
        return [] if empty else [Said(host=member.name, heard=heard)]

    def _gone(self, host: str, why: str) -> list[FromBridge]:
        member = self._members.pop(host, None)
        if member is None:
            return []
        # In a thread: Ray may wait for a node that does not answer.
        threading.Thread(target=_ended, args=(member,), daemon=True).start()
        return [Left(host=host, why=why)] if member.ready else []

    def _leave(self, host: str) -> list[FromBridge]:
        member = self._members.get(host)
        if member is None:
            return []
        del self._members[host]
        if member.ready:
            self._then(member.actor.leave.remote(), lambda _: _ended(member), lambda _: _ended(member))
        else:
            _ended(member)
        return [Left(host=host)] if member.ready else []

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
            mend="install hooke[ray] where the nodes run, in the version that this driver has",
            usage=True,
        )
    if any(word in text for word in ("InvalidAuthToken", "Unauthenticated", "AuthenticationError")):
        return Unfit(
            what=f"the Ray{at} asks for a token, and got none or another one",
            mend="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that its nodes have",
            usage=True,
        )
    return Unfit(
        what=f"no Ray can be used{at}",
        why=_words_of(error),
        mend="start one (`ray start --head`), or correct the address; HOST:PORT only from a machine that is a node of it",
        usage=True,
    )


def failed(error: BaseException) -> Unfit:
    """A connection to Ray that was there ends by this."""
    return Unfit(
        what="the connection to Ray is lost",
        why=_words_of(error),
        mend="start it again, then resume: what finished is in the store",
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
