"""The process that runs Envoy under a lease: `python -m hooke.services.supervisor.proxy_process ORDER`.

Envoy outlives a killed supervisor, so that another one can take over, but no longer than the lease. The activator lives here, too: what
it holds came through Envoy, and ends with it in any case, and at zero replicas no further process is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
import sys
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.processes.lease import Lease
from hooke.processes.start import exit_with, with_parent
from hooke.proxy.activator import ACTIVATOR_SOCKET, Activator, HoldFacts
from hooke.proxy.endpoint_picker import EndpointPicker
from hooke.proxy.envoy import Drain, Proxy
from hooke.proxy.held_requests import HoldLimits
from hooke.proxy.known_tokens import KnownTokens
from hooke.proxy.proxy_settings import ProxySettings, Upstream
from hooke.proxy.stream_keeper import StreamKeeper
from hooke.services.supervisor import control_channel as messages
from hooke.serving.auth import read_token
from hooke.serving.metrics import ProxyStats

__all__ = ["ProxyProcessOrder", "main"]

TURN_S = 0.1
DRAIN_TURN_S = 0.02
"""While it drains: a service ends that much later."""
STATS_EVERY_S = 1.0
"""Between two reads of Envoy's counters, each of some milliseconds."""
AGAIN_S = 0.5


class ProxyProcessOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor starts the process with. `control` is an inherited descriptor."""

    control: int
    lease_s: float
    settings: ProxySettings
    first: messages.PublishPorts
    """Where its first requests go: as those of its predecessor, which died."""
    token_files: tuple[str, ...] = ()
    """The files of the bearer tokens, without one of which no request starts a replica; none without auth."""


class _ProxyProcess:
    def __init__(self, order: ProxyProcessOrder) -> None:
        self._proxy = Proxy(order.settings, prefix=with_parent())
        self._last = self._first = order.first
        self._wanted: messages.PublishPorts | None = None
        """The replicas that Envoy does not have yet."""
        self._paused: messages.PublishPorts | None = None
        """The order whose trial is paused while its supervisor says nothing."""
        self._token_files = tuple(Path(file) for file in order.token_files)
        self._activator: Activator | None = None
        self._picker: EndpointPicker | None = None
        self._keeper: StreamKeeper | None = None
        self._picked: dict[str, str] = {}
        """The replicas that Envoy has, by name and address."""
        self._try_at = 0.0
        self._warned = False
        self._drain: Drain | None = None
        self._orphaned = False
        """Whether it ends with the drain: no supervisor is left to order that."""
        self._ended = False
        self._up = False
        self._stats: ProxyStats | None = None
        self._looked = 0.0
        self._within_s = order.settings.timeout_s
        self._control = messages.Control(
            socket.socket(fileno=order.control),
            Lease(seconds=order.lease_s, renewed=time.monotonic()),
            report=self._state,
            obey=self._obey,
            expired=self._expired,
        )

    def run(self) -> int:
        """Run until an order to stop, Envoy's death, or the end of the lease."""
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        try:
            self._start_threads()
            self._proxy.start(self._upstreams(self._first), share=_share_of(self._first))
            self._pick_among(self._first)
            self._up = True
            while not self._ended:
                self._control.turn(TURN_S if self._drain is None else DRAIN_TURN_S)
                self._pause_trial()
                self._publish()
                self._look_at_drain()
                died = self._proxy.died()
                if died is None and self._keeper is not None and self._keeper.ended:
                    died = HookeError(
                        "the stream keeper, a thread of the proxy, has ended",
                        why="the proxy's log has its error",
                    )
                if died is not None and not self._ended:
                    raise died
        except HookeError as error:
            self._say_why(error)
            return 1
        finally:
            self._proxy.stop()
            for each in (self._keeper, self._picker, self._activator):
                if each is not None:
                    each.close()
        return 0

    def _state(self) -> bytes | None:
        """Sent repeatedly: a later supervisor needs it, too."""
        if not self._up:
            return None
        activator = self._activator
        for cold in activator.take_cold_starts() if activator is not None else ():
            self._control.send(messages.encode(messages.FirstAnswer(**dataclasses.asdict(cold))))
        return messages.encode(
            messages.ProxyUp(
                port=self._proxy.settings.port,
                pid=self._proxy.pid or 0,
                stats=self._stats_now(),
                activator=activator.facts() if activator is not None else HoldFacts(),
            )
        )

    def _stats_now(self) -> ProxyStats | None:
        now = time.monotonic()
        if now - self._looked >= STATS_EVERY_S:
            self._looked, self._stats = now, None
            with contextlib.suppress(HookeError, OSError):  # its death is noticed by `run`
                self._stats = dataclasses.replace(
                    self._proxy.stats(),
                    prompts=self._picker.facts() if self._picker is not None else None,
                    kept=self._keeper.facts() if self._keeper is not None else None,
                )
        return self._stats

    def _obey(self, message: bytes) -> None:
        order = messages.decode_for_proxy(message)
        match order:
            case messages.PublishPorts():
                self._wanted, self._try_at, self._paused = order, 0.0, None
                self._publish()
            case messages.LimitRequests(most=most):
                try:
                    self._proxy.limit(most)
                except (
                    HookeError,
                    OSError,
                ) as error:  # its death is noticed by `run`; the supervisor says it again
                    _note(f"the limit of requests in progress cannot be set: {error}\n")
            case messages.ReportTokens():
                if self._picker is not None:
                    self._picker.report(
                        order.name, order.load, taken=order.taken, open_calls=order.open_calls
                    )
            case messages.ProxyDrainOrder(within_s=within_s):
                # It may take longer than the lease lasts, which orders renew meanwhile.
                self._drain = self._proxy.begin_drain(within_s=within_s)
            case messages.StopProxy():
                self._end()
            case _:
                pass

    def _publish(self) -> None:
        """Give Envoy the replicas. If that fails, as on a full disk, Envoy keeps those that it has, and the next turn tries again."""
        now = time.monotonic()
        if self._wanted is None or now < self._try_at:
            return
        try:
            order = self._wanted
            copies = {name: port for name, port in order.new.items() if name not in order.replicas}
            self._pick_among(order, only=self._picked)  # those that leave are not named any more
            self._proxy.publish(
                self._upstreams(order),
                share=_share_of(order),
                mirrored=[Upstream(port=port) for port in copies.values()],
                mirror=(order.share or 0.0) if copies else 0.0,
            )
        except (HookeError, OSError) as error:
            self._try_at = now + AGAIN_S
            if not self._warned:
                _note(f"the replicas cannot be updated, trying again: {error}\n")
            self._warned = True
            return
        self._warned = False
        self._pick_among(self._wanted)
        names, self._wanted = tuple(self._wanted.replicas), None
        self._control.send(messages.encode(messages.ProxyPublished(names=names)))

    def _pause_trial(self) -> None:
        """No supervisor judges: a version on trial gets nothing until one does. Another supervisor publishes anew."""
        silent, connected = self._control.silent(time.monotonic()), self._control.connected
        if not connected:
            self._paused = None
        if self._paused is not None and not silent:
            self._wanted, self._paused = self._paused, None
        elif self._last.new and self._wanted is None and (silent or not connected):
            old = {name: port for name, port in self._last.replicas.items() if name not in self._last.new}
            if old:
                self._paused = self._last if connected else None
                self._wanted = msgspec.structs.replace(self._last, replicas=old, new={}, share=None)

    def _upstreams(self, order: messages.PublishPorts) -> list[Upstream]:
        """The replicas, or the activator where there is none. What it holds goes to the replicas at once."""
        self._last, ports = order, list(order.replicas.values())
        if order.hold and self._activator is None:
            self._activator = self._started_activator()
        if self._activator is not None:
            self._activator.serve(ports, holding=order.hold)
        if order.hold and not ports:
            return [Upstream(socket=ACTIVATOR_SOCKET)]
        return [
            Upstream(port=port, version=order.versions.get(name, ""), new=name in order.new)
            for name, port in order.replicas.items()
        ]

    def _pick_among(self, order: messages.PublishPorts, only: Collection[str] | None = None) -> None:
        """Let the picker name the replicas of this order, or those of them that are in `only`."""
        if self._picker is None:
            return
        self._picked = {
            name: Upstream(port=port).place
            for name, port in order.replicas.items()
            if only is None or name in only
        }
        self._picker.publish(self._picked, new=order.new, share=_share_of(order))

    def _tokens(self) -> list[str] | None:
        return [read_token(file) for file in self._token_files] or None

    def _start_threads(self) -> None:
        """Those that a language model needs. Each reads the tokens for itself."""
        settings = self._proxy.settings
        if not settings.prompts:
            return
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._picker = EndpointPicker(settings.folder, tokens=KnownTokens(self._tokens))
        self._picker.start()
        if settings.kept:
            self._keeper = StreamKeeper(settings, tokens=KnownTokens(self._tokens))
            self._keeper.start()

    def _started_activator(self) -> Activator:
        settings = self._proxy.settings
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Activator(
            settings.folder,
            HoldLimits(timeout_s=settings.timeout_s),
            tokens=self._tokens,
            changed=self._control.report_soon,
        )
        made.start()
        return made

    def _expired(self) -> None:
        _note("no supervisor renewed the lease: the proxy answers its open requests, and ends\n")
        self._orphaned = True
        if self._activator is not None:
            ports = list(self._last.replicas.values())
            self._activator.serve(ports, holding=False, why="the supervisor is gone, and starts no replica")
        self._drain = self._drain or self._proxy.begin_drain(within_s=self._within_s)

    def _look_at_drain(self) -> None:
        left = self._drain.look() if self._drain is not None else None
        if left is not None:
            self._drain, self._looked = None, 0.0
            counted = self._state()  # all that was answered until now
            if counted is not None:
                self._control.send(counted)
            self._control.send(messages.encode(messages.ProxyDrainReply(left=left)))
            self._ended = self._ended or self._orphaned

    def _end(self) -> None:
        self._ended = True

    def _say_why(self, error: HookeError) -> None:
        _note(f"{error}\n")
        self._up = False
        facts = {name: getattr(error, name) for name in ("what", "where", "why", "fix")}
        message = messages.encode(messages.ProxyFailed(kind=type(error).__name__, **facts))
        self._control.turn(1.0)  # a supervisor may have connected, and not been accepted yet
        self._control.send(message)


def _share_of(order: messages.PublishPorts) -> float | None:
    """The part of the requests for the new replicas, if they get any."""
    return order.share if order.new.keys() & order.replicas.keys() else None


def _note(text: str) -> None:
    """Write to the log, unless the disk is full."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def main(order: ProxyProcessOrder) -> int:
    """Run the proxy; returns the exit code."""
    return _ProxyProcess(order).run()


if __name__ == "__main__":
    code = main(
        msgspec.json.decode(sys.argv[1], type=ProxyProcessOrder, dec_hook=lambda kind, value: kind(value))
    )
    exit_with(code)
