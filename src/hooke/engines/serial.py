"""The reference engine: one attempt at a time, in the driver's own process and thread. pdb works."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from hooke.journal.events import AttemptStarted, CapacityChanged, WorkerStarted
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.pipeline.execute import Work, Worker
from hooke.pipeline.logs import LogFile

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

    def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:  # noqa: ARG002 - every engine is made so
        """`workers` is accepted as every engine's is; there is always one."""
        self._context = context
        self._queue: deque[Call] = deque()
        self._events: list[EngineEvent] = [
            CapacityChanged(slots=1, cpus=float("inf"), at=context.clock.now()),
            WorkerStarted(worker=_WORKER, at=context.clock.now()),
        ]
        self._log = LogFile(context.logs / f"{_WORKER}.log")
        self._worker = Worker(name=_WORKER, store=context.store, clock=context.clock, log=self._log)

    def submit(self, call: Call) -> None:
        """Queue the attempt."""
        self._queue.append(call)

    def wait(self, timeout_s: float) -> list[EngineEvent]:  # noqa: ARG002 - there is nobody to wait for
        """Run one queued attempt, if there is one, and say what came of it. Never sleeps."""
        events = self._events
        self._events = []
        if self._queue and not events:
            events = list(self._run(self._queue.popleft()))
        return events

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back. One that runs cannot be ended from its own thread."""
        self._queue = deque(call for call in self._queue if call.attempt != attempt)

    def scale(self, workers: int) -> None:
        """There is one worker, whatever is asked."""

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()
        self._log.close()

    def _run(self, call: Call) -> Iterator[EngineEvent]:
        yield AttemptStarted(
            at=self._context.clock.now(),
            attempt=call.attempt,
            node=call.node,
            lo=call.lo,
            hi=call.hi,
            worker=_WORKER,
            number=call.number,
            expand=call.kind == "expand",
        )
        work = Work(
            attempt=call.attempt,
            node=call.node,
            kind=call.kind,
            lo=call.lo,
            hi=call.hi,
            function=call.image.function,
            payload=call.payload,
            shown=call.shown,
        )
        with _copied(self._log):
            result = self._worker.run(work)
        yield result


class _Copy(io.TextIOBase):
    """A text stream that writes to the terminal and to the log alike."""

    def __init__(self, stream: TextIO, log: LogFile) -> None:
        super().__init__()
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def _copied(log: LogFile) -> Iterator[None]:
    out, err = sys.stdout, sys.stderr
    with contextlib.redirect_stdout(_Copy(out, log)), contextlib.redirect_stderr(_Copy(err, log)):
        yield
