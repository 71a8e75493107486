"""What of Hooke runs inside Ray: an actor that has processes of its own run attempts, and tells what becomes of them.

Ray calls its methods in several threads at once.
"""

from __future__ import annotations

import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import msgspec
from ray.util import get_node_ip_address

from hooke.engines.arrival import Arrival, Probe, arrive
from hooke.engines.host import Host
from hooke.engines.host_messages import Note, Order, Report, Session
from hooke.engines.local_pool import shared_pool
from hooke.engines.mirror import Mirror
from hooke.engines.ranks import unpack_word
from hooke.engines.ray_messages import Heard, Welcome, pack

__all__ = ["PULSE_S", "RayHost"]

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
        here = msgspec.msgpack.decode(session, type=Session)
        left = msgspec.msgpack.decode(probe, type=Probe | None)
        self._arrival: Arrival | None = None
        if left is not None:
            here, self._arrival = arrive(here, left)
        unshared = self._arrival is not None and not self._arrival.shares
        self._mirror = Mirror(Path(here.logs).parent) if unshared else None
        # Logs that are brought would else go over those of the run before it was resumed.
        unique = f"-{here.id[-4:]}" if unshared else ""
        self._host = Host(
            here,
            name=name + unique,
            slots=threads,
            tell=self._tell,
            address=get_node_ip_address(),
        )

    def welcome(self) -> Welcome:
        self._tell(self._host.prepare())
        report = Report(
            id=self._name,
            pid=os.getpid(),
            host=os.uname().nodename,
            python=platform.python_version(),
            hooke=version("hooke"),
            threads=self._threads,
            memory=None,
            gpus=len(shared_pool().devices),
        )
        return Welcome(report=report, node=_node(), arrival=self._arrival)

    def ship(self, orders: list[bytes]) -> None:
        for order in orders:
            self._running.submit(self._run, msgspec.msgpack.decode(order, type=Order))

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
        self._host.speak(unpack_word(word))

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

    def _run(self, order: Order) -> None:
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
