"""The driver's end of a bridge to Ray: the process is started, messages go and come; Ray itself is not imported here."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.forks import on_fork
from hooke.engines.gang import GangCommand, pack_command
from hooke.engines.ray.bridge_protocol import (
    Cancel,
    ConnectBridge,
    FromBridge,
    Open,
    Rest,
    Rested,
    Ship,
    Speak,
    ToBridge,
    Unfit,
    Up,
    Want,
    Withdraw,
    pack,
    unpack_for_driver,
)
from hooke.engines.ray.head import environment_of_head
from hooke.engines.remote.handshake import Probe
from hooke.engines.remote.worker_protocol import AttemptOrder, HostSession
from hooke.processes.channel import Channel
from hooke.processes.start import python_module

__all__ = ["Bridge", "BridgeLink", "RayFleet"]


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
                "the engine 'ray' needs ray, which is not installed", fix='pip install "hooke[ray]"'
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
                python_module("hooke.engines.ray.bridge", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | {"RAY_USAGE_STATS_ENABLED": "0"},
                start_new_session=True,  # Ctrl-C is for the driver, which stops in order
            )
        on_fork(self)
        self.tell(
            ConnectBridge(
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
                raise kind(message.what, why=message.why, fix=message.fix)
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
            fix="start it again, then resume: what finished is in the store",
            next=f"hooke resume {self.run}",
        )


class BridgeLink:
    """The way of one run to its hosts, over a bridge."""

    def __init__(
        self,
        bridge: Bridge,
        session: HostSession,
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

    def ship(self, address: str, orders: list[AttemptOrder]) -> None:
        """Bring attempts to a host."""
        self._bridge.tell(Ship(host=address, orders=[msgspec.msgpack.encode(order) for order in orders]))

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end an attempt."""
        self._bridge.tell(Cancel(host=address, attempt=attempt))

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Ask back what has not begun."""
        self._bridge.tell(Withdraw(host=address, attempts=attempts))

    def speak(self, address: str, attempt: int, word: GangCommand) -> None:  # noqa: ARG002 - as all Roads
        """Say something to a host about a gang."""
        self._bridge.tell(Speak(host=address, word=pack_command(word)))

    def want(self, hosts: int | None, end: list[str]) -> None:
        """Another number of hosts; these end."""
        self._bridge.tell(Want(hosts=hosts, end=end))


# --- A Ray of this machine that outlives runs, for `hooke.Fleet`.

LOOK_S = 1.0


class RayFleet:
    """Started when it is made, with all its hosts. It is itself what the engine takes."""

    def __init__(self, *, workers: int, threads: int) -> None:
        """Raises HookeError where it cannot be started, MissingExtra without Ray."""
        self.workers, self.threads = workers, threads
        self._lock = threading.Lock()
        self._first = Bridge(cpus=workers * threads, spare=workers)
        self._idle = [self._first]
        self._taken: list[Bridge] = []
        self._closed = False
        self._before: dict[str, str | None] | None = None
        self._sigterm: Any = None
        try:
            self._address = _up(self._first)
        except BaseException:
            self.close()
            raise

    @property
    def at(self) -> RayFleet:
        """What the engine takes."""
        return self

    def take(self) -> Bridge:
        """A bridge for a run; a second run beside the first has another one. To be given back. Raises UsageError where the fleet has ended."""
        with self._lock:
            if self._closed:
                raise UsageError("the fleet has ended", fix="run inside of its `with`")
            made = (
                self._idle.pop()
                if self._idle
                else Bridge(address=self._address, environment=self._first.environment)
            )
            self._taken.append(made)
            return made

    def give(self, bridge: Bridge) -> None:
        """The run is over: what it has there ends, and the next one finds the rest of it."""
        rests = bridge.rest()
        with self._lock:
            self._taken.remove(bridge)
            if rests and not self._closed:
                self._idle.append(bridge)
                return
        bridge.end()

    def client(self) -> Any:
        """Connect this process, as `ray.init` does, and return what that returns. Until the fleet ends, its environment says how.

        Ray takes this process's SIGTERM. Raises UsageError where it is connected to another Ray.
        """
        loaded = "ray" in sys.modules
        if self._before is None:
            told = {name: value for name, value in self._first.environment.items() if name.startswith("RAY_")}
            told["RAY_ADDRESS"] = self._address
            if loaded and _connected():
                raise UsageError(
                    "this process is connected to another Ray",
                    fix="call `ray.shutdown()` first: one at a time is possible",
                )
            self._before = {name: os.environ.get(name) for name in told}
            os.environ.update(told)
            self._sigterm = signal.getsignal(signal.SIGTERM)
        import ray

        if loaded and not ray.is_initialized():
            _read_again()
        return ray.init(ignore_reinit_error=True)

    def close(self) -> None:
        """End it, with what runs there: for a run that is on it the connection to Ray is lost."""
        if self._before is not None:
            import ray

            ray.shutdown()
            _restore(self._before)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._sigterm)
        with self._lock:
            self._closed = True
            idle, taken = list(self._idle), list(self._taken)
            self._idle.clear()
        for bridge in taken:
            bridge.cut()
        for bridge in idle:
            bridge.end()


def _up(bridge: Bridge) -> str:
    """Until it is connected; returns the address."""
    while True:
        for message in bridge.receive(LOOK_S):
            if isinstance(message, Up):
                return message.address


def _connected() -> bool:
    import ray

    return ray.is_initialized()


def _read_again() -> None:
    """Have Ray take notice of the environment, which it reads when it is imported."""
    from ray import _raylet
    from ray._private import ray_constants

    library: Any = _raylet  # compiled, without types
    ray_constants.ENABLE_RAY_CLUSTER = False  # ours is on 127.0.0.1 alone
    library.Config.initialize("")
    library.AuthenticationTokenLoader.instance().reset_cache()


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
