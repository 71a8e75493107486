"""The reference engine: one attempt at a time, in the driver's own process and thread. pdb works."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, TextIO

from hooke.journal.events import CapacityChanged, WorkerStarted
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.observed_events import PathRules
from hooke.processes.exit_report import LogFile
from hooke.tracking.tracker import Tracker

__all__ = ["SerialEngine"]

_WORKER = "serial"


class SerialEngine:
    """Runs each attempt inside `wait`. A task that kills its process kills the driver; nothing can be cancelled."""

    capabilities = Capabilities(
        name="serial",
        isolated=False,
        cancels=False,
        elastic=False,
        knows_signal=False,
        knows_peak_memory=True,
    )

    def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:  # noqa: ARG002 - all engines have this signature
        """`workers` is ignored: there is always one worker."""
        self._context = context
        self._queue: deque[Call] = deque()
        self._events: list[EngineEvent] = [
            CapacityChanged(slots=1, cpus=float("inf"), at=context.clock.now()),
            WorkerStarted(worker=_WORKER, at=context.clock.now()),
        ]
        self._log = LogFile(context.logs / f"{_WORKER}.log")
        self._tracker = (
            Tracker(context.tracking, _WORKER, durable=context.durable, mlflow=context.mlflow)
            if context.tracking is not None
            else None
        )
        self._worker = AttemptRunner(
            name=_WORKER,
            store=context.store,
            clock=context.clock,
            log=self._log,
            tracker=self._tracker,
            root=context.root,
        )
        if context.root is not None:
            self._worker.observe(PathRules(str(context.root), context.secret))

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts."""
        self._queue.extend(calls)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """Run one queued attempt, if any, and return its events; else sleep, since a retry may be due later."""
        events = self._events
        self._events = []
        if self._queue and not events:
            events = list(self._run(self._queue.popleft()))
        elif not events:
            time.sleep(timeout_s)
        return events

    def cancel(self, attempt: int) -> None:
        """Drop a queued attempt. A running one cannot be ended from its own thread."""
        self._queue = deque(call for call in self._queue if call.attempt != attempt)

    def scale(self, workers: int) -> None:
        """Do nothing: there is always one worker."""

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """Not called: it has no gangs."""

    def close(self) -> None:
        """Drop the queue."""
        self._queue.clear()
        self._log.close()
        if self._tracker is not None:
            self._tracker.close()

    def _run(self, call: Call) -> Iterator[EngineEvent]:
        yield call.began(self._context.clock.now(), worker=_WORKER)
        work = WorkerCall(
            attempt=call.attempt,
            node=call.node,
            kind=call.kind,
            lo=call.lo,
            hi=call.hi,
            function=call.image.function,
            payload=call.payload,
            shown=call.shown,
            keys=call.keys,
            observe=call.observe,
            variables=call.variables,
            checkpoints=call.checkpoints,
            limit_s=call.limit_s,
        )
        with _copied(self._log), contextlib.chdir("."):
            result = self._worker.run(work)
        yield result


class _Copy(io.TextIOBase):
    """A text stream that writes to the terminal and, until its attempt has ended, also to the log."""

    def __init__(self, stream: TextIO, log: LogFile) -> None:
        super().__init__()
        self.stream = stream
        self.log: LogFile | None = log

    def write(self, text: str) -> int:
        if self.log is not None:
            self.log.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def buffer(self) -> BinaryIO:
        """The terminal's binary stream: bytes do not reach the log."""
        return self.stream.buffer

    @property
    def encoding(self) -> str:  # pyrefly: ignore[bad-override]
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # pyrefly: ignore[bad-override]
        return self.stream.errors


@contextlib.contextmanager
def _copied(log: LogFile) -> Iterator[None]:
    copies = {name: _Copy(getattr(sys, name), log) for name in ("stdout", "stderr")}
    before = {name: copy.stream for name, copy in copies.items()}
    for name, copy in copies.items():
        setattr(sys, name, copy)
    try:
        yield
    finally:
        for name, copy in copies.items():
            copy.log = None
            _restore(name, before[name])


def _restore(name: str, former: Any) -> None:
    """Restore the former stream, unless an attempt of another thread's run still copies the output."""
    current = getattr(sys, name)
    if isinstance(current, _Copy) and current.log is not None:
        return
    while isinstance(former, _Copy) and former.log is None:
        former = former.stream
    setattr(sys, name, former)
