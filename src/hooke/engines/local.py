"""The embedded default: processes on this machine.

A worker is a fresh interpreter, never a fork of the driver: a fork of a process in which Polars or
BLAS ran hangs. Its thread pools match the cpus of the tasks it runs, so workers are kept by thread
count. Each worker leads a process group, so that ending it ends what its task started.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import msgspec
import psutil

from hooke.base.errors import HookeError
from hooke.engines.local_worker import Hello, Task
from hooke.journal.events import (
    AttemptFailed,
    AttemptStarted,
    CapacityChanged,
    Event,
    Failure,
    WorkerStarted,
    WorkerStopped,
)
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.pipeline.failures import failure_of
from hooke.pipeline.logs import last_lines

__all__ = ["LocalEngine"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)

CLOSE_S = 2.0
"""How long an idle worker may take to end before it is killed."""

_EVENTS = msgspec.msgpack.Decoder(Event)


@dataclass(slots=True, kw_only=True)
class _Process:
    """One worker: its process, the socket to it, and what it runs."""

    name: str
    threads: int
    popen: subprocess.Popen[bytes]
    connection: Connection
    lifeline: int
    log: Path
    call: Call | None = None
    log_from: int = 0
    ready: bool = False
    known: set[str] = field(default_factory=set)


class LocalEngine:
    """Runs attempts in processes of this machine, each worker one at a time. Processes start when there is work."""

    capabilities = Capabilities(
        name="local", isolated=True, cancels=True, elastic=True, knows_signal=True, knows_peak_memory=True
    )

    def __init__(self, context: EngineContext, *, workers: tuple[int, int] | None = None) -> None:
        """`workers` is (lowest, highest); None is as many as this process may use cpus."""
        self._context = context
        self._cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._target = workers[1] if workers is not None else self._cpus
        self._events: list[EngineEvent] = []
        self._queue: deque[Call] = deque()
        self._processes: dict[str, _Process] = {}
        self._started = 0
        self._closed = False
        self._announce()

    def submit(self, call: Call) -> None:
        """Queue the attempt and hand it to a worker as soon as one is free."""
        self._queue.append(call)
        self._dispatch()

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """What happened since; at most `timeout_s` of waiting."""
        if not self._events:
            self._poll(timeout_s)
        events, self._events = self._events, []
        return events

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back; end the worker of one that runs."""
        self._queue = deque(call for call in self._queue if call.attempt != attempt)
        for process in list(self._processes.values()):
            if process.call is not None and process.call.attempt == attempt:
                process.call = None
                self._end(process, "its attempt was cancelled")

    def scale(self, workers: int) -> None:
        """Change the number of workers; those too many end when what they run has ended."""
        self._target = workers
        self._announce()
        self._shrink()
        self._dispatch()

    def close(self) -> None:
        """End every worker and what it started; busy ones at once."""
        self._closed = True
        self._queue.clear()
        for process in self._processes.values():
            if process.call is None and process.ready:
                _tell_to_end(process)
            else:
                _kill(process)
        deadline = time.monotonic() + CLOSE_S
        for process in list(self._processes.values()):
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)
            self._bury(process)

    # -- inside ------------------------------------------------------------------------------------

    def _announce(self) -> None:
        memory = psutil.virtual_memory().total
        cpus = float(max(self._cpus, self._target))
        self._events.append(
            CapacityChanged(at=self._context.clock.now(), slots=self._target, cpus=cpus, memory=memory)
        )

    def _dispatch(self) -> None:
        waiting = len(self._queue)
        for _ in range(waiting):
            call = self._queue.popleft()
            process = self._worker_for(call)
            if process is None:
                self._queue.append(call)
            else:
                self._give(process, call)

    def _worker_for(self, call: Call) -> _Process | None:
        """A free worker with the right thread count; a new one where the fleet may grow or a misfit can go."""
        threads = max(1, int(call.cpus))
        free = [p for p in self._processes.values() if p.call is None]
        for process in free:
            if process.threads == threads:
                return process
        if len(self._processes) >= self._target:
            if not free:
                return None
            self._end(free[0], f"replaced by a worker with {threads} threads")
        return self._start(threads)

    def _give(self, process: _Process, call: Call) -> None:
        process.call = call
        if process.ready:
            self._send(process, call)

    def _send(self, process: _Process, call: Call) -> None:
        new = call.image.digest not in process.known
        try:
            image = call.image.pickle() if new else None
        except HookeError as error:
            process.call = None
            self._events.append(
                _failed(call, self._context.clock.now(), failure_of(error, arguments=call.shown))
            )
            return
        process.known.add(call.image.digest)
        process.log_from = process.log.stat().st_size
        task = Task(
            attempt=call.attempt,
            node=call.node,
            number=call.number,
            kind=call.kind,
            lo=call.lo,
            hi=call.hi,
            payload=call.payload,
            shown=call.shown,
            name=call.image.name,
            digest=call.image.digest,
            pickle=image,
            parts=dict(call.image.parts) if new else {},
        )
        try:
            process.connection.send_bytes(pickle.dumps(task, protocol=5))
        except OSError:
            self._died(process)

    def _start(self, threads: int) -> _Process:
        self._started += 1
        name = f"local-{self._started}"
        ours, theirs = socket.socketpair()
        life_theirs, life_ours = os.pipe()
        log = self._context.logs / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"PYTHONUNBUFFERED": "1"}
        with theirs, log.open("ab") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "hooke.engines.local_worker", str(theirs.fileno()), str(life_theirs)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._context.folder,
                env=environment,
                pass_fds=(theirs.fileno(), life_theirs),
                start_new_session=True,
            )
        os.close(life_theirs)
        connection = Connection(ours.detach())
        process = _Process(
            name=name, threads=threads, popen=popen, connection=connection, lifeline=life_ours, log=log
        )
        store = self._context.store
        hello = Hello(
            worker=name,
            sys_path=[os.path.abspath(path) for path in sys.path],
            store=store.place,
            secret=self._context.secret,
            log=log,
        )
        connection.send_bytes(pickle.dumps(hello))
        self._processes[name] = process
        return process

    def _poll(self, timeout_s: float) -> None:
        connections = {process.connection: process for process in self._processes.values()}
        if not connections:
            time.sleep(timeout_s)
            return
        for connection in wait_for(list(connections), timeout_s):
            assert isinstance(connection, Connection)
            self._read(connections[connection])
        self._dispatch()

    def _read(self, process: _Process) -> None:
        """Everything that this worker has said; its death where the socket is at its end."""
        try:
            while process.connection.poll():
                data = process.connection.recv_bytes()
                if data:
                    self._heard(process, _EVENTS.decode(data))
                else:
                    self._greeted(process)
        except (EOFError, ConnectionResetError):
            self._died(process)

    def _greeted(self, process: _Process) -> None:
        process.ready = True
        self._events.append(
            WorkerStarted(at=self._context.clock.now(), worker=process.name, pid=process.popen.pid)
        )
        if process.call is not None:
            self._send(process, process.call)

    def _heard(self, process: _Process, event: Event) -> None:
        if not isinstance(event, AttemptStarted):
            process.call = None
            self._shrink()
        self._events.append(event)  # pyrefly: ignore[bad-argument-type]

    def _shrink(self) -> None:
        idle = [p for p in self._processes.values() if p.call is None]
        for process in idle[: max(0, len(self._processes) - self._target)]:
            self._end(process, "the fleet was made smaller")

    def _end(self, process: _Process, cause: str) -> None:
        _kill(process)
        process.popen.wait()
        self._bury(process)
        self._events.append(WorkerStopped(at=self._context.clock.now(), worker=process.name, cause=cause))

    def _died(self, process: _Process) -> None:
        peak_bytes = _reap(process)
        code = process.popen.returncode
        number = -code if code < 0 else None
        self._bury(process)
        _kill(process)
        how = f"killed by {signal.Signals(number).name}" if number else f"exit code {code}"
        now = self._context.clock.now()
        if process.call is not None:
            tail = last_lines(process.log, process.log_from, 20)
            failure = Failure(
                kind="WorkerDied",
                message=f"its worker {process.name} died: {how}",
                arguments=process.call.shown,
                exit_code=None if number else code,
                signal=number,
                peak_bytes=peak_bytes,
                log_tail=tail,
            )
            self._events.append(_failed(process.call, now, failure, worker=process.name))
        self._events.append(
            WorkerStopped(
                at=now, worker=process.name, cause=how, exit_code=None if number else code, signal=number
            )
        )

    def _bury(self, process: _Process) -> None:
        self._processes.pop(process.name, None)
        process.connection.close()
        if process.lifeline >= 0:
            os.close(process.lifeline)
            process.lifeline = -1


def _failed(call: Call, now: float, failure: Failure, *, worker: str = "") -> AttemptFailed:
    return AttemptFailed(
        at=now,
        attempt=call.attempt,
        node=call.node,
        lo=call.lo,
        hi=call.hi,
        worker=worker,
        failure=failure,
        peak_bytes=failure.peak_bytes,
    )


def _tell_to_end(process: _Process) -> None:
    try:
        process.connection.send_bytes(b"")
    except OSError:
        _kill(process)


def _kill(process: _Process) -> None:
    """End the worker and all that its task started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.popen.pid, signal.SIGKILL)


def _reap(process: _Process) -> int | None:
    """Wait for the dead process; its peak resident bytes, where the kernel says them."""
    try:
        _, status, usage = os.wait4(process.popen.pid, 0)
    except ChildProcessError:
        process.popen.poll()
        return None
    process.popen.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
