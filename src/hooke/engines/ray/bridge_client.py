"""The driver's end of the bridge to Ray: it starts the bridge's process and exchanges messages with it. Only `RayFleet.connect` imports Ray."""

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

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.this_process import on_fork
from hooke.engines.gang import GangCommand, pack_command
from hooke.engines.ray import bridge_protocol as protocol
from hooke.engines.ray.head import environment_of_head
from hooke.engines.remote.handshake import Probe
from hooke.engines.remote.worker_protocol import AttemptOrder, HostSession
from hooke.processes.channel import Channel
from hooke.processes.start import python_module

__all__ = ["Bridge", "RayFleet"]


END_S = 20.0
"""How long to wait for a bridge, which ends itself within half of that."""


class Bridge:
    """A process that is connected to Ray, for one run at a time. Used from one thread at a time."""

    def __init__(
        self,
        *,
        address: str = "",
        environment: Mapping[str, str] | None = None,
        cpus: int | None = None,
        spare: int = 0,
    ) -> None:
        """Start the process; its first message says that it is connected. Without `address` it starts a Ray of its own.

        `environment` has the settings of such a Ray that runs already. Raises MissingExtra.
        """
        if find_spec("ray") is None:
            raise MissingExtra(
                "the Ray backend needs ray, which is not installed", fix=install_command("ray")
            )
        self._folder = Path(tempfile.mkdtemp(prefix="hooke-ray-"))
        self.environment = dict(os.environ if environment is None else environment)
        if not address:
            self.environment = environment_of_head(self._folder, os.environ)
        self._run = ""
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
                start_new_session=True,  # Ctrl-C is for the driver, which stops the run in order
            )
        on_fork(self)
        self.tell(
            protocol.ConnectBridge(
                address=address,
                folder=str(self._folder),
                ours=not address or environment is not None,
                cpus=cpus,
                spare=spare,
            )
        )

    def receive(self, timeout_s: float) -> list[protocol.FromBridge]:
        """The messages that have arrived; waits for the first at most `timeout_s`. Raises HookeError where Ray cannot be used, or is gone."""
        waiting = select.poll()
        waiting.register(self._channel.fileno(), select.POLLIN)
        if not waiting.poll(timeout_s * 1000):
            return []
        data, lives = self._channel.take()
        messages = [protocol.unpack_for_driver(each) for each in data]
        for message in messages:
            if isinstance(message, protocol.BridgeFailed):
                kind = UsageError if message.usage else HookeError
                raise kind(message.what, why=message.why, fix=message.fix)
        if not lives:
            raise self._lost()
        return messages

    def tell(self, message: protocol.ToBridge) -> None:
        """Send an order. That the process is gone shows in `receive`."""
        with contextlib.suppress(OSError):
            self._channel.send(protocol.pack(message))

    # -- the transport of a run ----------------------------------------------------------------------

    def open_run(
        self, session: HostSession, probe: Probe | None, *, hosts: int | None, threads: int, silent_s: float
    ) -> None:
        """Begin a run, with the fields of OpenRun."""
        self._run = session.id.rpartition("-")[0]
        self.tell(
            protocol.OpenRun(session=session, probe=probe, hosts=hosts, threads=threads, silent_s=silent_s)
        )

    def ship(self, address: str, orders: list[AttemptOrder]) -> None:
        """Send attempts to a host."""
        self.tell(
            protocol.CallHost(
                host=address, method="ship", argument=[protocol.pack(order) for order in orders]
            )
        )

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end an attempt."""
        self.tell(protocol.CallHost(host=address, method="cancel", argument=attempt))

    def withdraw(self, address: str, attempts: list[int]) -> None:
        """Take back the attempts that have not begun."""
        self.tell(protocol.CallHost(host=address, method="withdraw", argument=[*attempts]))

    def speak(self, address: str, attempt: int, word: GangCommand) -> None:  # noqa: ARG002 - as `Transport` has it
        """Send a host a word about a gang."""
        self.tell(protocol.CallHost(host=address, method="speak", argument=pack_command(word)))

    # -- its end -------------------------------------------------------------------------------------

    def rest(self) -> bool:
        """End the run there, so that another one can use the bridge; whether the bridge has confirmed it."""
        self.tell(protocol.EndRun())
        deadline = time.monotonic() + END_S
        try:
            while (left := deadline - time.monotonic()) > 0:
                if any(isinstance(message, protocol.RunEnded) for message in self.receive(left)):
                    return True
        except HookeError:  # the bridge is gone, which the run has reported
            pass
        return False

    def end(self) -> None:
        """End the process, and the Ray that it started."""
        self._channel.close()
        self._end_process()

    def cut(self) -> None:
        """End the process from another thread than that of its run, which then loses the connection to Ray and calls `end`."""
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
        """In a forked child: the bridge belongs to the parent, and must notice when that ends."""
        self._channel.close()

    def _lost(self) -> HookeError:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        return HookeError(
            "the connection to Ray is lost",
            why="\n".join(text.splitlines()[-4:])
            or "the process that holds it was killed, or Ray's head has ended",
            fix="start it again, then resume: finished results are in the store",
            next=f"hooke resume {self._run}",
        )


# -- a Ray on this machine that outlives runs, for `hooke.Fleet` -------------------------------------

LOOK_S = 1.0


class RayFleet:
    """A Ray with all its hosts, started when it is made. The engine takes the fleet itself."""

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
            if isinstance(message, protocol.BridgeConnected):
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
