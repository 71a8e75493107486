"""A Ray of this machine that outlives runs, for `hooke.Fleet`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from hooke.base.errors import UsageError
from hooke.engines.ray_link import Bridge
from hooke.engines.ray_messages import Up

__all__ = ["RayFleet"]

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
                raise UsageError("the fleet has ended", mend="run inside of its `with`")
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
                    mend="call `ray.shutdown()` first: one at a time is possible",
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
