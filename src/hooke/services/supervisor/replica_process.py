"""The process of a replica: `python -m hooke.services.supervisor.replica_process ORDER`, started by a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.base.pinned_modules import import_pinned
from hooke.journal.service_events import BatchWindow, ModelEvent
from hooke.processes.lease import Lease
from hooke.processes.start import exit_with
from hooke.project.folder import Project
from hooke.services.serve_file import (
    api_keys,
    body_room,
    load_service,
    make_observer,
    setup_arguments,
    version_label,
)
from hooke.services.supervisor.control_channel import (
    BeginReplica,
    Control,
    ReplicaUpdate,
    decode_for_replica,
    encode,
)
from hooke.services.supervisor.generation import Generation, read_generation
from hooke.services.supervisor.replica_events import ReplicaReport
from hooke.serving.batcher import Batch
from hooke.serving.limits import KeyRates, SecondTries
from hooke.serving.metrics import Counts, ProcessCounts, process_counts
from hooke.serving.replica import Replica
from hooke.serving.request_context import log_with_ids
from hooke.serving.service import Service
from hooke.serving.stats_windows import merge_counts

__all__ = ["ReplicaOrder", "ReplicaReporter", "main"]

LAST_S = 2.0
"""A supervisor that does not read blocks the control thread for a second."""
MEMORY_EVERY_S = 1.0
"""Between two reads of the memory, which take longer than the rest of a report."""

_log = logging.getLogger("hooke")


class ReplicaOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor starts a replica with. The numbers are inherited descriptors."""

    name: str
    generation: str
    """The file of the generation."""
    listening: int
    control: int
    lease_s: float
    memory_bytes: int | None = None
    """The memory above which it is replaced."""
    among: int = 1
    """The number of replicas that share the machine's free memory."""
    pass_on_bytes: int = 0
    """The proxy keeps so many bytes of a body, for another replica if this one is full. 0: there is no other."""
    second_tries: str = ""
    """The file of the `SecondTries` of an idempotent service."""
    key_rates: str = ""
    """The file of the `KeyRates`."""
    waits: bool = False
    """Whether it waits for a `BeginReplica` once it has imported the service's file."""
    scheme: str = "http"
    """How clients reach the proxy."""


class ReplicaReporter:
    """Makes the replica's reports in the control thread, which neither the model nor the event loop can block."""

    def __init__(self, replica: Replica, name: str, *, memory_every_s: float = MEMORY_EVERY_S) -> None:
        self._memory_every_s = memory_every_s
        self._replica = replica
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_at: float | None = None
        self._batch: Batch | None = None
        self._batch_since = 0.0
        self._memory = 0
        self._memory_at = 0.0
        self._process = ProcessCounts()
        self._counted: int | None = None
        """The number of answers at the last report of counts."""
        self._windows: list[BatchWindow] = []
        self._latencies: tuple[tuple[int, int], ...] = ()
        """Those of all windows that have ended."""
        self._events: list[ModelEvent] = []
        self._lock = threading.Lock()

    def began(self) -> None:
        """The replica answers; called on its event loop."""
        self._loop = asyncio.get_running_loop()

    def window(self, window: BatchWindow) -> None:
        """Add a window; called on its event loop."""
        with self._lock:
            self._windows.append(msgspec.structs.replace(window, replica=self._name, at=time.time()))
            self._latencies = merge_counts([self._latencies, window.latencies])

    def say(self, event: ModelEvent) -> None:
        """Add an event of its model; called on its event loop."""
        with self._lock:
            self._events.append(msgspec.structs.replace(event, replica=self._name, at=time.time()))

    def message(self) -> bytes:
        """The next report."""
        now = time.monotonic()
        with self._lock:
            windows, events, ended = tuple(self._windows), tuple(self._events), self._latencies
            self._windows.clear()
            self._events.clear()
        answered, looked = self._replica.answered, self._memory_at
        calls = self._replica.calls
        memory = self._memory_now(now)
        tokens, taken = self._replica.take_token_load() or (None, ())
        report = ReplicaReport(
            state=self._replica.state.value,
            in_flight=self._replica.active,
            answered=answered,
            asked=self._replica.asked,
            open_calls=calls.open_calls if calls is not None else 0,
            called=calls.called if calls is not None else 0,
            room=calls.room if calls is not None else None,
            memory_bytes=memory,
            loop_late_s=self._loop_late_s(now),
            batch_s=self._batch_s(now),
            tokens=tokens,
        )
        counts = self._counts(answered, anew=looked != self._memory_at)
        dispatch = self._replica.dispatch
        latencies = (
            merge_counts([ended, dispatch.windows.latencies()])
            if counts is not None and dispatch is not None
            else ()
        )
        return encode(
            ReplicaUpdate(
                report=report,
                windows=windows,
                counts=counts,
                latencies=latencies,
                events=events,
                taken=taken,
            )
        )

    def _counts(self, answered: int, *, anew: bool) -> Counts | None:
        """The counts, at once after each answer: if the replica is killed, only the last moment is missing."""
        if anew:
            with contextlib.suppress(OSError):  # as below
                self._process = process_counts()
        elif answered == self._counted:
            return None
        self._counted = answered
        return self._replica.counts(self._process, tokens=anew)

    def _memory_now(self, now: float) -> int:
        if now - self._memory_at >= self._memory_every_s:
            self._memory_at = now
            with contextlib.suppress(OSError):  # without free descriptors it reports the last value
                self._memory = self._replica.memory_bytes()
        return self._memory

    def _loop_late_s(self, now: float) -> float:
        """How long a call that was scheduled on the event loop has waited."""
        if self._loop is None:
            return 0.0
        if self._asked_at is None:
            self._asked_at = now
            try:
                self._loop.call_soon_threadsafe(self._turned)
            except RuntimeError:  # the loop is closed: the process ends
                self._loop = None
            return 0.0
        return now - self._asked_at

    def _turned(self) -> None:
        self._asked_at = None

    def _batch_s(self, now: float) -> float:
        dispatch = self._replica.dispatch
        running = dispatch.batcher.running if dispatch is not None else None
        if running is None or running is not self._batch:
            self._batch, self._batch_since = running, now
        batch_s = now - self._batch_since if running is not None else 0.0
        return max(batch_s, self._replica.model_busy_s(now))


class _Supervised:
    """What the control thread does for the main one."""

    def __init__(self) -> None:
        self.reporter: ReplicaReporter | None = None
        self._begins: queue.SimpleQueue[BeginReplica] = queue.SimpleQueue()

    def message(self) -> bytes | None:
        """The next report; none before there is a replica."""
        return None if self.reporter is None else self.reporter.message()

    def obey(self, message: bytes) -> None:
        """Take an order."""
        order = decode_for_replica(message)
        if isinstance(order, BeginReplica):
            self._begins.put(order)

    def begun(self, order: ReplicaOrder) -> ReplicaOrder:
        """Wait to be made a replica. A lease that expires ends the process meanwhile."""
        begin = self._begins.get()
        return msgspec.structs.replace(
            order, name=begin.name, among=begin.among, pass_on_bytes=begin.pass_on_bytes
        )


def main(order: ReplicaOrder) -> int:
    """Serve until SIGTERM, or until the lease expires; returns the exit code: 0 drained, 1 requests were cut or setup failed."""
    from hooke.serving.server.serve import serve

    log_with_ids()
    generation = read_generation(Path(order.generation))
    import_pinned(generation.modules)
    declared, _ = load_service(generation.target)
    project = Project.at(Path(generation.project))
    supervised = _Supervised()
    control = Control(
        socket.socket(fileno=order.control),
        Lease(seconds=order.lease_s, renewed=time.monotonic()),
        report=supervised.message,
        obey=supervised.obey,
        expired=lambda: _expired(order.lease_s),
    )
    thread = threading.Thread(target=control.serve, name="hooke-control", daemon=True)
    thread.start()
    if order.waits:
        order = supervised.begun(order)
    replica = _make_replica(order, generation, declared, project)
    replica.report_soon = control.report_soon
    supervised.reporter = reporter = ReplicaReporter(replica, order.name)
    listening = socket.socket(fileno=order.listening)
    listening.setblocking(False)

    def ready() -> None:
        reporter.began()
        control.report_soon()  # requests may wait for this

    cut = serve(
        replica,
        partial(setup_arguments, project, generation.values()),
        listening,
        ready=ready,
        windows=reporter.window,
        say=reporter.say,
    )
    control.close()
    thread.join(LAST_S)
    control.send(reporter.message())  # the answers since its last report
    return 1 if cut else 0


def _make_replica(
    order: ReplicaOrder, generation: Generation, declared: Service, project: Project
) -> Replica:
    room = body_room(declared, project, memory_bytes=order.memory_bytes, among=order.among)
    auth = dataclasses.replace(generation.make_auth(), keys=api_keys(declared, project))
    replica = Replica(declared, auth=auth, body_room=room)
    replica.scheme, replica.version = order.scheme, generation.key
    label = version_label(generation.values())
    replica.observer = make_observer(declared, generation.observe, version=label, replica=order.name)
    if order.key_rates:
        replica.key_rates = KeyRates(Path(order.key_rates))
    if order.second_tries:
        replica.second_tries = SecondTries(Path(order.second_tries))
    replica.pass_on(order.pass_on_bytes)
    return replica


def _expired(lease_s: float) -> None:
    _log.warning(
        "no supervisor renewed the lease for %g s: this replica answers its open requests, and ends", lease_s
    )
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        code = main(msgspec.json.decode(sys.argv[1], type=ReplicaOrder))
    except HookeError as error:
        code = 1
        with contextlib.suppress(OSError):  # its log may have no room
            sys.stderr.write(f"{error}\n")
    exit_with(code)
