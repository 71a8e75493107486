"""The run of a service: its beginning, what its replicas did in windows, its end; written beside the event loop."""

from __future__ import annotations

import logging
import os
import platform
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import JournalError
from hooke.base.files import FileLock
from hooke.base.refusals import writing
from hooke.journal.events import RunFinished, RunStarted
from hooke.journal.runs import LOCK
from hooke.journal.services import BatchWindow, ServiceBegan, ServiceEvent
from hooke.journal.writer import Journal
from hooke.project.driving import DRIVER
from hooke.project.folder import Project
from hooke.project.run_ids import new_run_id
from hooke.serving.service import Service
from hooke.serving.windows import length_s, merged

__all__ = ["KIND", "ServiceRun"]

KIND = "service"
_log = logging.getLogger("hooke")


class ServiceRun:
    """A run of kind `service`, from `with` to its end: `failed` after an exception, else `finished`.

    `window` and `say` may be called from any thread, and do not wait for the disk. While nothing can be written the windows
    grow together; it is warned of, and tried again with the next one. Entering it raises HookeError where the run's folder
    cannot be written.
    """

    def __init__(
        self,
        project: Project,
        declared: Service,
        *,
        entry: str,
        shown: Mapping[str, str],
        replicas: tuple[int, int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.project = project
        self._clock = clock or SystemClock()
        self.id = new_run_id(declared.name, self._clock.now())
        self._began = self._clock.monotonic()
        self._started = RunStarted(
            run=self.id,
            pipeline=declared.name,
            entry=entry,
            shown=dict(shown),
            place="here",
            folder=os.getcwd(),
            pid=os.getpid(),
            host=socket.gethostname(),
            python=platform.python_version(),
            hooke=version("hooke"),
            kind=KIND,
        )
        slo = declared.slo
        self._declared = ServiceBegan(
            max_batch=declared.max_batch,
            slo_percent=slo.percent if slo else None,
            slo_limit_s=slo.limit_s if slo else None,
            timeout_s=declared.timeout_s,
            replicas=replicas or declared.replicas,
        )
        self._said: queue.SimpleQueue[ServiceEvent | None] = queue.SimpleQueue()
        self._pending: dict[str, BatchWindow] = {}
        self._begun: set[str] = set()
        self._warned = False
        self._thread = threading.Thread(target=self._write_on, name="hooke-journal", daemon=True)

    def __enter__(self) -> Self:
        folder = self.project.runs.folder(self.id)
        with writing("the run's folder", folder):
            self.project.create()
            self.project.runs.create(self.id)
            self._lock = FileLock(folder / LOCK)
            self._lock.try_acquire()
        durable: Any = self.project.settings.journal.durable
        self._journal = Journal.create(folder, DRIVER, durable=durable, clock=self._clock)
        self._journal.append(self._started)
        self._journal.append(self._declared)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._said.put(None)
        self._thread.join()
        try:
            status, message = ("finished", "") if error is None else ("failed", str(error))
            seconds = self._clock.monotonic() - self._began
            self._write(
                lambda: self._journal.append(RunFinished(status=status, message=message, seconds=seconds))
            )
            self._write(self._journal.close)
        finally:
            self._lock.release()

    def window(self, window: BatchWindow) -> None:
        """What a replica did since its last window; short ones are put together, the more so the longer the service is up."""
        self._said.put(msgspec.structs.replace(window, at=window.at or self._clock.now()))

    def say(self, event: ServiceEvent) -> None:
        """Another event of the service."""
        self._said.put(msgspec.structs.replace(event, at=event.at or self._clock.now()))

    def _write_on(self) -> None:
        while (event := self._said.get()) is not None:
            if isinstance(event, BatchWindow):
                self._keep(event)
            else:
                self._write(lambda event=event: self._journal.append(event))
        for replica in list(self._pending):
            self._flush(replica)

    def _keep(self, window: BatchWindow) -> None:
        first = window.replica not in self._begun
        self._begun.add(window.replica)
        before = self._pending.get(window.replica)
        if before is None and not _eventful(window):
            return
        pending = window if before is None else merged([before, window], replica=window.replica)
        self._pending[window.replica] = pending
        # Of a shorter one what a crash would lose is little, and waiting for more would only make it late. A replica's first one
        # ends where those of all do; put to the next, it would lie across that.
        if first or pending.seconds >= 0.99 * length_s(self._clock.monotonic() - self._began):
            self._flush(window.replica)

    def _flush(self, replica: str) -> None:
        if self._write(lambda: self._journal.append(self._pending[replica])):
            del self._pending[replica]

    def _write(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except JournalError as error:
            if not self._warned:
                _log.warning("the service goes on, its journal does not: %s", error)
            self._warned = True
            return False
        self._warned = False
        return True


def _eventful(window: BatchWindow) -> bool:
    return bool(window.methods or window.requests or window.refused or window.late)
