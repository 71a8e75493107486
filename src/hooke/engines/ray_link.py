"""The driver's end of a bridge to Ray: the process is started, messages go and come; Ray itself is not imported here."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.forks import on_fork
from hooke.base.processes import python_module
from hooke.engines.arrival import Probe
from hooke.engines.channel import Channel
from hooke.engines.host_messages import Order, Session
from hooke.engines.ranks import Word, pack_word
from hooke.engines.ray_head import environment_of_head
from hooke.engines.ray_messages import (
    Cancel,
    FromBridge,
    Open,
    Rest,
    Rested,
    Ship,
    Speak,
    Start,
    ToBridge,
    Unfit,
    Want,
    Withdraw,
    pack,
    unpack_for_driver,
)

__all__ = ["Bridge", "Link"]

END_S = 20.0
"""A bridge ends itself within half of that."""


class Bridge:
    """One process that is connected to a Ray, for one run at a time. Used from one thread at a time."""

    def __init__(
        self,
        *,
        address: str = "",
        environment: Mapping[str, str] | None = None,
        cpus: int | None = None,
        spare: int = 0,
    ) -> None:
        """Start it; that it is connected is its first answer. Without `address` it starts a Ray of ours.

        `environment` says how to connect to one of ours that is there already. Raises MissingExtra.
        """
        if find_spec("ray") is None:
            raise MissingExtra(
                "the engine 'ray' needs ray, which is not installed", mend='pip install "hooke[ray]"'
            )
        self._folder = Path(tempfile.mkdtemp(prefix="hooke-ray-"))
        self.environment = dict(os.environ if environment is None else environment)
        if not address:
            self.environment = environment_of_head(self._folder, os.environ)
        self.run = ""
        """That it is for."""
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours.detach())
        self._log = self._folder / "bridge.log"
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                python_module("hooke.engines.ray_bridge", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | {"RAY_USAGE_STATS_ENABLED": "0"},
                start_new_session=True,  # Ctrl-C is for the driver, which stops in order
            )
        on_fork(self)
        self.tell(
            Start(
                address=address,
                folder=str(self._folder),
                ours=not address or environment is not None,
                cpus=cpus,
                spare=spare,
            )
        )

    def receive(self, timeout_s: float) -> list[FromBridge]:
        """What came; waits for the first so long. Raises HookeError where Ray cannot be used, or is gone."""
        waiting = select.poll()
        waiting.register(self._channel.fileno(), select.POLLIN)
        if not waiting.poll(timeout_s * 1000):
            return []
        data, lives = self._channel.take()
        messages = [unpack_for_driver(each) for each in data]
        for message in messages:
            if isinstance(message, Unfit):
                kind = UsageError if message.usage else HookeError
                raise kind(message.what, why=message.why, mend=message.mend)
        if not lives:
            raise self._lost()
        return messages

    def tell(self, message: ToBridge) -> None:
        """Send an order. Its end is seen when its answers are waited for."""
        with contextlib.suppress(OSError):
            self._channel.send(pack(message))

    def rest(self) -> bool:
        """End what a run has there, for another one to use it. False where it does not say that it has."""
        self.tell(Rest())
        deadline = time.monotonic() + END_S
        try:
            while (left := deadline - time.monotonic()) > 0:
                if any(isinstance(message, Rested) for message in self.receive(left)):
                    return True
        except HookeError:  # it is gone, as the run has said
            pass
        return False

    def end(self) -> None:
        """End it, and a Ray of ours."""
        self._channel.close()
        self._end_process()

    def cut(self) -> None:
        """The same, in another thread than that of a run which uses it: for that run the connection to Ray is lost. It calls `end`."""
        self._channel.hang_up()
        self._end_process()

    def _end_process(self) -> None:
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def after_fork(self) -> None:
        """In a forked child: the bridge is the parent's, and must see when that ends."""
        self._channel.close()

    def _lost(self) -> HookeError:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return HookeError(
            "the connection to Ray is lost",
            why="\n".join(text.splitlines()[-4:])
            or "the process that holds it was killed, or Ray's head has ended",
            mend="start it again, then resume: what finished is in the store",
            next=f"hooke resume {self.run}",
        )


class Link:
    """The way of one run to its hosts, over a bridge."""

    def __init__(
        self,
        bridge: Bridge,
        session: Session,
        probe: Probe | None,
        *,
        hosts: int | None,
        threads: int,
        silent_s: float,
    ) -> None:
        self._bridge = bridge
        bridge.run = session.id.rpartition("-")[0]
        bridge.tell(Open(session=session, probe=probe, hosts=hosts, threads=threads, silent_s=silent_s))

    def receive(self, timeout_s: float) -> list[FromBridge]:
        """What came; waits for the first so long. Raises HookeError where Ray cannot be used, or is gone."""
        return self._bridge.receive(timeout_s)

    def ship(self, address: str, orders: list[Order]) -> None:
        """Bring attempts to a host."""
        self._bridge.tell(Ship(host=address, orders=[msgspec.msgpack.encode(order) for order in orders]))

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end an attempt."""
        self._bridge.tell(Cancel(host=address, attempt=attempt))

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Ask back what has not begun."""
        self._bridge.tell(Withdraw(host=address, attempts=attempts))

    def speak(self, address: str, attempt: int, word: Word) -> None:  # noqa: ARG002 - as all Roads
        """Say something to a host about a gang."""
        self._bridge.tell(Speak(host=address, word=pack_word(word)))

    def want(self, hosts: int | None, end: list[str]) -> None:
        """Another number of hosts; these end."""
        self._bridge.tell(Want(hosts=hosts, end=end))
