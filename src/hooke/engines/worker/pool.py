"""Worker processes of this machine, which stay warm between the runs of one driver process."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections import deque
from functools import cache, cached_property
from pathlib import Path
from typing import TypeAlias

import msgspec

from hooke.base.this_process import on_fork
from hooke.engines.worker.fork_server import ForkEnded, Spawn
from hooke.engines.worker.fork_server_client import ForkServer
from hooke.engines.worker.worker_process import Hello, WorkerJob
from hooke.processes.channel import Channel, Tickets
from hooke.processes.devices import Cores, cores_of_this_machine, devices_of_this_machine
from hooke.processes.start import Interrupts

__all__ = [
    "THREAD_VARIABLES",
    "LocalPool",
    "Process",
    "WorkerKind",
    "shared_pool",
]


THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "PYTHON_CPU_COUNT",
)
"""The variables from which libraries read their thread count when they are imported.

torch and pyarrow read OMP_NUM_THREADS, joblib and scikit-learn LOKY_MAX_CPU_COUNT. Python reads PYTHON_CPU_COUNT when it
starts (since 3.13), so it affects the interpreters that a task starts, not the forked worker.
"""

REPORT_S = 2.0
"""How long the fork server may take to say how a worker ended."""


class WorkerKind(msgspec.Struct, frozen=True, kw_only=True):
    """The properties that are fixed when a worker starts, because libraries read them on import: threads, GPUs, cores."""

    threads: int
    devices: tuple[str, ...] = ()
    pinned: bool = False
    """Whether the worker is bound to as many cores as it has threads."""
    variables: tuple[tuple[str, str], ...] = ()
    """Further environment variables, for a rank of a gang."""

    def __str__(self) -> str:
        gpus = f" and GPU {', '.join(self.devices)}" if self.devices else ""
        return f"a worker with {self.threads} threads{gpus}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of this kind. An attempt without GPUs sees none."""
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return threads | {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)} | dict(self.variables)


Home: TypeAlias = tuple[tuple[str, ...], str, str, str]
"""A worker's module path, folder, store and driver. Equal code in another project may refer to another file beside it; another
driver may have read its modules after an edit."""


class Process(msgspec.Struct, kw_only=True, eq=False):
    """One worker process, and its work for the current run."""

    pid: int
    kind: WorkerKind
    environment: dict[str, str]
    channel: Channel
    lifeline: int
    tickets: Tickets
    log: Path
    name: str = ""
    jobs: deque[WorkerJob] = msgspec.field(default_factory=deque)
    """Its attempts: the first runs, the others wait in its socket."""
    waiting: dict[int, WorkerJob] = msgspec.field(default_factory=dict)
    """Those that may be taken back, by their tickets, in order. The worker may have taken the first tickets already."""
    sent: deque[tuple[int, int]] = msgspec.field(default_factory=deque)
    """(ticket, about how many bytes) of what lies in its socket, as far as is known, including what was taken back."""
    sent_bytes: int = 0
    since: float = 0.0
    """When the first attempt was seen to run, or since when it is idle (monotonic)."""
    log_from: int = 0
    ready: bool = False
    memory: int | None = None
    home: Home = ((), "", "", "")
    cores: tuple[int, ...] = ()
    """The cores it is bound to; empty where it is not pinned."""
    generation: int = 0
    known: set[str] = msgspec.field(default_factory=set)
    """The functions that it has, by digest: those of its last session and of this one, as it keeps them."""
    used: set[str] = msgspec.field(default_factory=set)
    """The functions that were sent to it in this session."""


class LocalPool:
    """Starts and ends workers. Safe for several runs in several threads at once."""

    def __init__(self) -> None:
        self.devices = devices_of_this_machine()
        self._server = ForkServer()
        self._idle: list[Process] = []
        self._taken: set[Process] = set()
        self._lock = threading.RLock()
        self._started = 0
        on_fork(self)

    def take(self, hello: Hello, kind: WorkerKind) -> Process:
        """A worker of this kind, greeted with `hello`: a warm one if possible.

        Raises HookeError where no process can be started.
        """
        while True:
            with self._lock:
                process = self._placed(hello, kind)
                self._taken.add(process)
            process.name, process.log, process.ready = hello.worker, Path(hello.log), False
            process.known, process.used = process.used, set()
            try:
                process.channel.send(msgspec.msgpack.encode(hello))
            except OSError:  # a warm one has just died
                self.ended(process)
            else:
                return process

    def watches(self, process: Process) -> bool:
        """Whether the fork server that forked this worker still runs: it watches the worker's memory, and reports its end."""
        with self._lock:
            return process.generation == self._server.generation and self._server.alive()

    def give_back(self, process: Process) -> None:
        """Keep an idle worker for the next run."""
        with self._lock:
            process.jobs.clear()
            process.since = time.monotonic()
            self._free_cores(process)
            self._taken.discard(process)
            self._idle.append(process)

    def limit(self, process: Process, memory: int | None) -> None:
        """Have the worker's memory watched."""
        if memory != process.memory:
            process.memory = memory
            with self._lock:
                self._server.limit(process.pid, memory)

    def end(self, process: Process) -> ForkEnded | None:
        """Kill the worker and what its task started. Returns how it ended, if known."""
        _kill(process)
        return self.ended(process)

    def ended(self, process: Process) -> ForkEnded | None:
        """How a worker ended whose socket was closed."""
        with self._lock:
            ended = self._server.ended(process.pid, within_s=REPORT_S)
            if ended is None:
                _kill(process)
                ended = self._server.ended(process.pid, within_s=REPORT_S)
                if ended is not None:
                    ended = msgspec.structs.replace(ended, cause="connection")
            if ended is not None and process.channel.error is not None and not _gone(process.channel.error):
                ended = msgspec.structs.replace(ended, cause=f"send: {process.channel.error}")
            self._free_cores(process)
            process.cores = ()
            self._taken.discard(process)
        _release(process)
        return ended

    def rest(self) -> None:
        """End the fork server while it has no workers, for it is as large as one. The next worker starts it again."""
        with self._lock:
            if not self._taken and not self._idle:
                self._server.close()

    def end_idle(self, kept_s: float) -> None:
        """End the workers that have been kept for a next run for so long, and the fork server if none is left."""
        with self._lock:
            now = time.monotonic()
            for process in [each for each in self._idle if now - each.since >= kept_s]:
                self._idle.remove(process)
                _release(process)
            self.rest()

    def close(self) -> None:
        """End all workers and the fork server."""
        with self._lock:
            for process in self._idle:
                _release(process)
            self._idle.clear()
            self._server.close()

    def after_fork(self) -> None:
        """In a forked child of the driver: the workers are the parent's."""
        self._lock = threading.RLock()
        for process in self._idle:
            _release(process)
        self._idle = []
        self._taken = set()

    def _placed(self, hello: Hello, kind: WorkerKind) -> Process:
        """A worker, bound to the least used cores where it is pinned: a warm one must be bound to these already."""
        if not kind.pinned:
            return self._warm(kind, (), _home(hello)) or self._start(hello, kind, ())
        cores = self._cores.take(kind.threads)
        try:
            return self._warm(kind, cores, _home(hello)) or self._start(hello, kind, cores)
        except BaseException:
            self._cores.release(cores)
            raise

    @cached_property
    def _cores(self) -> Cores:
        return cores_of_this_machine()

    def _free_cores(self, process: Process) -> None:
        """Release the worker's cores."""
        if process.cores:
            self._cores.release(process.cores)

    def _warm(self, kind: WorkerKind, cores: tuple[int, ...], home: Home) -> Process | None:
        for process in self._idle:
            if process.kind == kind and process.cores == cores:
                self._idle.remove(process)
                # Otherwise a variable was set since, or the worker served another project.
                same = process.environment == _environment(kind) and process.home == home
                if same and _lives(process) and self.watches(process):
                    return process
                _kill(process)
                _release(process)
                return self._warm(kind, cores, home)
        return None

    def _start(self, hello: Hello, kind: WorkerKind, cores: tuple[int, ...]) -> Process:
        self._started += 1
        environment = _environment(kind)
        order = Spawn(f"{hello.worker}-{self._started}", environment, hello.folder, cores)
        forked = self._server.spawn(order, log=Path(hello.log))
        return Process(
            pid=forked.pid,
            kind=kind,
            environment=environment,
            channel=forked.channel,
            lifeline=forked.lifeline,
            tickets=forked.tickets,
            log=Path(hello.log),
            home=_home(hello),
            cores=cores,
            generation=self._server.generation,
        )


_making = threading.Lock()


def shared_pool() -> LocalPool:
    """The pool of this process; its workers end when the process does."""
    with (
        _making
    ):  # two runs that begin at once would make two pools, and the workers of one would stay unused
        return _made()


@cache
def _made() -> LocalPool:
    pool = LocalPool()
    atexit.register(_close_at_exit, pool)
    return pool


def _close_at_exit(pool: LocalPool) -> None:
    """A Ctrl-C during this changes nothing: the process ends anyway, and its workers with it."""
    with Interrupts(deferred=True) as interrupts:
        pool.close()
        interrupts.asked()


def _home(hello: Hello) -> Home:
    return tuple(hello.sys_path), hello.folder, hello.store, hello.driver


def _environment(kind: WorkerKind) -> dict[str, str]:
    return dict(os.environ) | kind.environment


def _lives(process: Process) -> bool:
    """Whether an idle worker can take work. An idle worker sends nothing, so anything to read is its end."""
    return not process.channel.closed and process.channel.take() == ([], True)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _gone(error: OSError) -> bool:
    """Whether sending failed because the worker had ended, which says nothing about its end."""
    return isinstance(error, BrokenPipeError | ConnectionResetError)


def _release(process: Process) -> None:
    process.channel.close()
    process.tickets.close()
    lifeline, process.lifeline = process.lifeline, -1  # two threads may notice the same end
    if lifeline >= 0:
        os.close(lifeline)
