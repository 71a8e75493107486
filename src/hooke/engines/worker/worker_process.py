"""The worker process: attempts in, journal events out.

A worker serves one run after another; each begins with a Hello. The lifeline is a pipe whose other end only the driver
holds: when it closes, the driver is dead, and the worker ends itself and whatever the task started.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import linecache
import os
import pickle
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from hooke.base.background_fsync import Durability
from hooke.base.clock import SystemClock
from hooke.base.errors import EnvironmentMismatch
from hooke.base.pinned_modules import import_pinned
from hooke.base.ref import Ref
from hooke.base.this_process import on_fork
from hooke.base.user_code import is_users
from hooke.engines.worker.script import ImportedFiles, Script, StandIn
from hooke.journal.events import AttemptFailed, Event, Failure
from hooke.pipeline.engine import Call
from hooke.pipeline.execute import AttemptRunner, WorkerCall, check_code
from hooke.pipeline.failures import failure_of
from hooke.pipeline.isolation import folder_here, watched_environment
from hooke.pipeline.observed_events import PathRules
from hooke.pipeline.task import Task, is_importable
from hooke.processes.channel import Channel, Tickets
from hooke.processes.process_output import ProcessOutput
from hooke.store.checkpoints import CheckpointOwner
from hooke.store.store import Store
from hooke.tracking import log as _log  # noqa: F401 - early: a fork while a thread imports it would leave the child waiting forever
from hooke.tracking.mlflow_runs import MlflowPlace
from hooke.tracking.tracker import Tracker

__all__ = [
    "READY",
    "SAMPLES",
    "STALE",
    "Begun",
    "Hello",
    "Library",
    "WorkerJob",
    "WorkerSample",
    "WorkerTask",
    "main",
    "task_of",
]


READY = b""
"""A worker's answer to Hello."""

STALE = b"stale"
"""A worker's answer to a Hello or a task for which a fresh worker is needed: it imported code before an edit, or a task replaced some."""

SLACK_BYTES = 4 << 30
"""How far the rlimit lies above the memory limit: threads and allocators reserve more than they use, and the watch comes first."""


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """The library on whose cluster a worker runs, for tasks that use it themselves."""

    connect: str
    """`module:function`, called with `data` once in a worker, before the first such task."""
    data: bytes


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The greeting of a worker at the beginning of a run."""

    worker: str
    sys_path: list[str]
    store: str
    secret: bytes | None
    log: str
    folder: str
    tracking: str | None = None
    """The run's folder, for the metrics that tasks log."""
    durable: Durability = "group"
    mlflow: MlflowPlace | None = None
    """Where MLflow's own calls log."""
    script: Script = Script()
    library: Library | None = None
    allowed: tuple[str, ...] = ()
    """Distributions whose versions may differ from the driver's."""
    code: Ref | None = None
    """As in the EngineContext."""
    root: str | None = None
    """As in the EngineContext; on another host the folder of its workers."""
    unshared: bool = False
    """Whether this host does not share the files of the driver's machine."""
    copies: dict[str, str] = {}
    """As in the HostSession."""
    driver: str = ""
    """The process that the run belongs to; empty where a worker cannot outlive it."""
    sample_s: float = 0.0
    """As in the EngineContext."""


class WorkerTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An attempt for a worker. `pickle` and `parts` come with the first attempt of each function."""

    attempt: int
    node: int
    kind: str
    lo: int
    hi: int
    payload: bytes
    shown: str
    name: str
    digest: str
    pickle: bytes | None
    parts: dict[str, str]
    memory: int | None
    keys: bytes = b""
    checkpoints: CheckpointOwner | None = None
    uses_library: bool = False
    observe: bool = True
    variables: dict[str, str | None] = {}
    plain: bool = False
    ticket: int = 0
    """Its ticket if it waits behind another attempt: it begins only if the worker can still take it. 0: none needed."""

    def failed(self, now: float, failure: Failure, worker: str = "") -> AttemptFailed:
        """The answer where no worker gave one."""
        return AttemptFailed(
            at=now,
            attempt=self.attempt,
            node=self.node,
            lo=self.lo,
            hi=self.hi,
            worker=worker,
            failure=failure,
            peak_bytes=failure.peak_bytes,
        )


class WorkerJob(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An attempt for the workers of a machine, and the resources it needs."""

    task: WorkerTask
    """Without its function."""
    pickle: Callable[[], bytes]
    """The function. Raises HookeError where it cannot travel."""
    parts: Mapping[str, str]
    cpus: float
    gpus: float
    short: bool = False

    @property
    def attempt(self) -> int:
        """Its number."""
        return self.task.attempt

    def with_function(self) -> WorkerTask:
        """The task for a worker that does not have its function."""
        return msgspec.structs.replace(self.task, pickle=self.pickle(), parts=dict(self.parts))


class Begun(msgspec.Struct, frozen=True, tag_field="event", tag="begun"):
    """A worker has begun with an attempt."""

    at: float
    attempt: int
    worker: str


def task_of(call: Call, image: bytes | None = None, *, uses_library: bool = False) -> WorkerTask:
    """A call as it goes to a worker, with its pickled function where the worker lacks that."""
    return WorkerTask(
        attempt=call.attempt,
        node=call.node,
        kind=call.kind,
        lo=call.lo,
        hi=call.hi,
        payload=call.payload,
        shown=call.shown,
        name=call.image.name,
        digest=call.image.digest,
        pickle=image,
        parts=dict(call.image.parts) if image is not None else {},
        memory=call.memory,
        keys=call.keys,
        checkpoints=call.checkpoints,
        uses_library=uses_library,
        observe=call.observe,
        variables=dict(call.variables),
        plain=call.plain,
    )


_messages = msgspec.msgpack.Decoder(Hello | WorkerTask)


# --- Samples of this process for studies: what its threads wait for, and where.

SAMPLES = ".samples"
"""The suffix of a worker's samples, beside its log: one WorkerSample in JSON a line."""
_LOCKING, _NETWORK, _SLEEPING, _SYNCING, _CHILDREN = "lock", "network", "sleep", "disk", "child"
_INTERPRETER = "gil"
_SYNCS = re.compile(r"\b(fsync|fdatasync)\(")
_X86_64 = {
    **dict.fromkeys((73, 65, 220), _LOCKING),
    **dict.fromkeys((7, 23, 42, 43, 44, 45, 46, 47, 270, 271, 288, 299), _NETWORK),
    **dict.fromkeys((35, 230), _SLEEPING),
    26: "disk msync",
    74: "disk fsync",
    75: "disk fdatasync",
    162: "disk sync",
    277: "disk sync_file_range",
    306: "disk syncfs",
    **dict.fromkeys((61, 247), _CHILDREN),
    **dict.fromkeys((0, 17, 19), "file read"),
    **dict.fromkeys((1, 18, 20), "file write"),
    72: "fcntl",
    202: "futex",
}
_AARCH64 = {
    **dict.fromkeys((32, 192, 193), _LOCKING),
    **dict.fromkeys((72, 73, 202, 203, 206, 207, 211, 212, 242, 243), _NETWORK),
    **dict.fromkeys((101, 115), _SLEEPING),
    81: "disk sync",
    82: "disk fsync",
    83: "disk fdatasync",
    84: "disk sync_file_range",
    227: "disk msync",
    267: "disk syncfs",
    **dict.fromkeys((95, 260), _CHILDREN),
    **dict.fromkeys((63, 65, 67), "file read"),
    **dict.fromkeys((64, 66, 68), "file write"),
    25: "fcntl",
    98: "futex",
}
_SYSCALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(os.uname().machine, {})
"""Number of a system call -> what a thread in it waits for, and the call's name where that is shown."""
_SETLKW = {7, 38}
"""Commands of fcntl that wait for a lock."""
_OWN_THREADS = ("threading.py", "queue.py", "concurrent/futures/", "multiprocessing/pool.py")
"""Where the standard library waits for other threads of this process."""
_TOOK_PART = 0.03
"""A thread of a library that used this share of a core since the last sample is what its caller waits for."""
_RUNTIME_BYTES = 1 << 20
"""More than the interpreter's state takes."""
_LIBC = ctypes.PyDLL(None)
"""Keeps the interpreter lock during a call: whoever gives it up for a read of 2 us may wait 5 ms for it."""
_Stack = list[tuple[str, int]]
"""File and line of each frame, the innermost first."""


class WorkerSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker process at one moment. Counters count since it started; None where the system does not tell.

    `wait` is what the thread of the attempt waits for: `lock`, `gil`, `network`, `disk`, `sleep` (that the code asked for), `retry`
    (a C function that sleeps, as SQLite does for a lock), `child`, `other`; "" where it runs or is ready to run. `place` is the
    innermost line of the user's code, `file.py:41` or `file.py:41 (fsync)`; empty outside of attempts.
    """

    at: float
    wait: str = ""
    place: str = ""
    user_s: float = 0.0
    sys_s: float = 0.0
    delay_s: float | None = None
    """In which its threads were ready and had no core (/proc/self/task/*/schedstat)."""
    voluntary: int = 0
    involuntary: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    read_bytes: int | None = None
    written_bytes: int | None = None


class _Sampler:
    """A thread that samples this process, outside the code that is measured.

    It waits for the interpreter lock too. If it had to, another thread held the lock at the moment of the sample.
    """

    def __init__(self, path: Path, every_s: float) -> None:
        self._main = threading.main_thread()
        self._every_s = every_s
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock = _interpreter_lock()
        self._ended = threading.Event()
        self._before: dict[int, int] = {}
        """Thread -> its nanoseconds of CPU at the last sample."""
        self._thread = threading.Thread(target=self._follow, name="hooke-samples", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        os.close(self._file)

    def _follow(self) -> None:
        last = time.monotonic()
        while True:
            switches = _switches()
            if self._ended.wait(self._every_s):
                return
            held = _switches() - switches > 1  # it slept twice: for the time, and for the interpreter lock
            now = time.monotonic()
            sample = self._sample(now - last, held=held)
            last = now
            try:
                os.write(self._file, msgspec.json.encode(sample) + b"\n")
            except OSError:  # the disk is full: the study says that nothing was sampled
                return
            if not os.fstat(self._file).st_nlink:  # its reader has removed the file: the run is over
                return

    def _sample(self, since_s: float, *, held: bool) -> WorkerSample:
        # Linux: the main thread's id, which `native_id` is not in a forked process before Python 3.13.
        main, frames = os.getpid(), _frames()
        known = {main: frames.get(self._main.ident or 0)}
        for thread in threading.enumerate():
            if thread not in (self._main, self._thread) and thread.native_id is not None:
                known[thread.native_id] = frames.get(thread.ident or 0)
        # Before anything lets go of the interpreter lock: then frames move on.
        told = {thread: _system_call(thread) for thread in known}
        stacks = {thread: _stack_of(frame) for thread, frame in known.items()}
        threads = {
            thread: _Thread.of(stack, _wait_of(told[thread], self._lock), held=held)
            for thread, stack in stacks.items()
        }
        used = {
            int(thread): _scheduled(thread)
            for thread in os.listdir("/proc/self/task")
            if int(thread) != self._thread.native_id
        }
        took = [
            thread
            for thread, (cpu, _) in used.items()
            # A thread that is new since the last sample has used all of its time since then.
            if cpu - self._before.get(thread, 0 if self._before else cpu) >= _TOOK_PART * 1e9 * since_s
        ]
        self._before = {thread: cpu for thread, (cpu, _) in used.items()}
        wait, place = _attempt_waits(threads, main, held=held, native=bool(set(took) - threads.keys()))
        usage, io = resource.getrusage(resource.RUSAGE_SELF), _io()
        return WorkerSample(
            at=time.time(),
            wait=wait,
            place=place,
            user_s=usage.ru_utime,
            sys_s=usage.ru_stime,
            delay_s=sum(delay for _, delay in used.values()) / 1e9 if used else None,
            voluntary=usage.ru_nvcsw,
            involuntary=usage.ru_nivcsw,
            minor_faults=usage.ru_minflt,
            major_faults=usage.ru_majflt,
            read_bytes=io.get("read_bytes"),
            written_bytes=io.get("write_bytes"),
        )


class _Thread(NamedTuple):
    """A thread that runs Python: what it waits for, and where. `idle`: it waits for other threads of this process, or for none of the user's."""

    wait: str
    place: str
    idle: bool

    @staticmethod
    def of(stack: _Stack, wait: str, *, held: bool) -> _Thread:
        synced = _SYNCS.search(_text_of(stack)) if wait == _INTERPRETER and not held else None
        if (
            synced is not None
        ):  # a fast disk: the call ended while the sampler woke, and wants the lock from it
            wait = f"{_SYNCING} {synced[1]}"
        wait, _, call = wait.partition(" ")
        place = _place_of(stack)
        if place and call:
            place += f" ({call})"
        own = bool(stack) and any(part in stack[0][0] for part in _OWN_THREADS)
        if wait == _SLEEPING and place and "sleep" not in _text_of(stack):
            wait = "retry"
        return _Thread(wait, place, idle=not place or (own and wait not in ("", _INTERPRETER)))


def _attempt_waits(threads: Mapping[int, _Thread], main: int, *, held: bool, native: bool) -> tuple[str, str]:
    """What the attempt waits for, and where: its own thread, or the threads that this one waits for.

    `held`: another thread than the sampler held the interpreter lock when the sample was due; `native`: threads of libraries compute.
    """
    wait, place, idle = threads[main]
    if not place:
        return "", ""
    running = [each for each in threads.values() if not each.wait]
    queue = [each for each in threads.values() if each.wait == _INTERPRETER]
    # One that wants the lock now may be the one that had it, and wants it back from the sampler.
    waiting = len(queue) - (not running) if held else 0
    one_at_a_time = waiting > 0 and waiting >= len(running) + len(queue) - waiting
    if not idle:
        if wait in ("", _INTERPRETER):
            return (_INTERPRETER if one_at_a_time else ""), place
        alone = len(running) + len(queue) == 0
        return ("" if (held and alone) or (native and wait == _LOCKING) else wait), place
    waits = Counter((each.wait, each.place) for each in threads.values() if not each.idle)
    locking = sum(count for (wait, _), count in waits.items() if wait == _LOCKING)
    if one_at_a_time and waiting > locking:
        return _INTERPRETER, place
    computing = len(running) + len(queue)
    chosen = {
        what: count
        for what, count in waits.items()
        if what[0] == _LOCKING or (not computing and what[0] != "other")
    }
    if not chosen or (computing and locking < computing):
        return ("" if computing or native else "other"), place
    return max(chosen, key=chosen.__getitem__)


def _frames() -> dict[int, FrameType]:
    """Thread -> its innermost frame."""
    # Before Python 3.11.9, a garbage collection within stops the process for good (CPython issue 106883).
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()  # noqa: SLF001 - documented, for this purpose
    finally:
        if collects:
            gc.enable()


def _interpreter_lock() -> range:
    """The addresses of the interpreter's state, where its lock is: other locks of Python are on the heap. Empty where it is hidden."""
    try:
        start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except ValueError:
        return range(0)
    heaps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    ends = [int(line.partition("-")[0], 16) for line in heaps]
    return range(start, min([start + _RUNTIME_BYTES, *(end for end in ends if end > start)]))


def _switches() -> int:
    """How often this thread has slept."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _told(file: str) -> str:
    """The text of a file of /proc, which fits into one read. Keeps the interpreter lock. Raises OSError."""
    descriptor = _LIBC.open(file.encode(), os.O_RDONLY | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(f"{file} cannot be opened")
    text = ctypes.create_string_buffer(4096)
    _LIBC.read(descriptor, text, len(text) - 1)
    _LIBC.close(descriptor)
    return text.value.decode("ascii", "replace")


def _system_call(thread: int) -> list[str]:
    """The system call in which a thread waits: its number and arguments; empty if it runs, or has ended."""
    try:
        called = _told(f"/proc/self/task/{thread}/syscall").split()
        if called and int(called[0]) not in _SYSCALLS:  # ValueError: it is running
            state = _told(f"/proc/self/task/{thread}/stat").rpartition(")")[2].split()[0]
            return ["D"] if state == "D" else called
    except (OSError, ValueError):
        return []
    return called


def _wait_of(called: Sequence[str], lock: range) -> str:
    """What a thread of this process waits for in a system call, of the disk with its name; `lock`: addresses of the interpreter lock."""
    if not called or called[0] in ("-1", "D"):
        return _SYNCING if called and called[0] == "D" else ""
    kind = _SYSCALLS.get(int(called[0]), "other")
    if kind == "futex":
        if int(called[1], 16) in lock:
            return _INTERPRETER
        timed = int(called[4], 16) > 0
        return "" if timed and not lock else _LOCKING
    if kind == "fcntl":
        return _LOCKING if int(called[2], 16) in _SETLKW else "other"
    kind, _, call = kind.partition(" ")
    if kind == "file":
        kind = _end_of(int(called[1], 16))
    return f"{kind} {call}" if kind == _SYNCING else kind


def _end_of(descriptor: int) -> str:
    """What a thread waits for that reads or writes a descriptor."""
    try:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "other"
    if name.startswith("socket:"):
        return _NETWORK
    return _SYNCING if name.startswith("/") and not name.startswith("/dev/") else "other"


def _scheduled(thread: str) -> tuple[int, int]:
    """Nanoseconds that a thread ran, and that it was ready and had no core; zeros where it has ended or the kernel does not count."""
    try:
        ran, delayed, _ = _told(f"/proc/self/task/{thread}/schedstat").split()
    except (OSError, ValueError):
        return 0, 0
    return int(ran), int(delayed)


def _io() -> dict[str, int]:
    """/proc/self/io; empty where it may not be read."""
    try:
        lines = _told("/proc/self/io").splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


def _stack_of(frame: FrameType | None) -> _Stack:
    lines = []
    while frame is not None:
        lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return lines


def _place_of(stack: _Stack) -> str:
    """The innermost line of the user's code on a stack; empty if there is none."""
    return next((f"{os.path.basename(file)}:{line}" for file, line in stack if is_users(file)), "")


def _text_of(stack: _Stack) -> str:
    return linecache.getline(*stack[0]) if stack else ""


class _Session:
    """One run, in its worker."""

    def __init__(self, hello: Hello) -> None:
        sys.path[:] = hello.sys_path
        self.folder = hello.folder
        self._there = ""
        """The same, without symbolic links, once it was entered."""
        self.driver = hello.driver
        self._library = hello.library
        self.allowed = hello.allowed
        self.script = StandIn(hello.script)
        self.output = ProcessOutput(Path(hello.log))
        # With "group" the driver syncs what it journals as finished: this process may die before its own next sync.
        durable: Durability = "each" if hello.durable == "each" else "none"
        store = Store.open(hello.store, secret=hello.secret, durable=durable)
        import_pinned(store.get(hello.code) if hello.code is not None else ())
        self.tracker = (
            Tracker(Path(hello.tracking), hello.worker, durable=hello.durable, mlflow=hello.mlflow)
            if hello.tracking is not None
            else None
        )
        self.worker = AttemptRunner(
            name=hello.worker,
            store=store,
            clock=SystemClock(),
            log=self.output,
            alone=True,
            tracker=self.tracker,
            root=Path(hello.root) if hello.root is not None else None,
        )
        if hello.root is not None:
            rules = PathRules(hello.root, hello.secret, unshared=hello.unshared, copies=hello.copies)
            self.worker.observe(rules)
        self._sampler = (
            _Sampler(Path(hello.log + SAMPLES), hello.sample_s)
            if hello.sample_s and os.path.exists("/proc/self/task")
            else None
        )

    def enter_folder(self) -> None:
        """Go to the folder where tasks run, whatever the previous one did."""
        if not self._there or folder_here() != self._there:
            os.chdir(self.folder)
            self._there = folder_here()

    def connect(self) -> None:
        """Connect this process to the library of its cluster, once."""
        library, self._library = self._library, None
        if library is not None:
            module, _, name = library.connect.partition(":")
            getattr(import_module(module), name)(library.data)

    def close(self) -> None:
        """The run, or the worker, is over."""
        if self._sampler is not None:
            self._sampler.close()
        self.worker.forget()
        self.output.close()
        if self.tracker is not None:
            self.tracker.close()


class _Server:
    def __init__(self, channel: Channel, lifeline: int, tickets: Tickets) -> None:
        self._channel = channel
        self._lifeline = lifeline
        self._tickets = tickets
        self._functions: dict[str, Callable[..., Any]] = {}
        self._refused: dict[str, WorkerTask] = {}
        self._used: set[str] = set()
        """The functions of this session. Others go when the next one begins: a notebook makes new ones with each edit."""
        self._files = ImportedFiles()
        self._session: _Session | None = None
        self._sessions = 0
        self._limit: int | None = None
        self._stale = False
        on_fork(self)

    def after_fork(self) -> None:
        """In a process that a task forked: close the worker's socket, whose end must show the worker's death."""
        self._channel.close()
        with contextlib.suppress(OSError):
            self._tickets.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)

    def serve(self) -> None:
        """Serve until the driver sends an empty message, or is gone."""
        while True:
            try:
                data = self._channel.receive()
            except (EOFError, ConnectionResetError):
                return
            if not data:
                if self._session is not None:
                    self._session.close()
                return
            message = _messages.decode(data)
            if isinstance(message, Hello):
                self._begin(message)
            else:
                self._used.add(message.digest)  # the driver counts on it, even for what it takes back
                # After STALE the driver ends this process, and what waits here runs elsewhere.
                if not self._stale and (not message.ticket or self._tickets.take(message.ticket)):
                    assert self._session is not None
                    self._perform(message, self._session)

    def _begin(self, hello: Hello) -> None:
        if self._session is not None:
            if self._session.worker.replaced or self._files.edited() or self._outlived(hello):
                self._say_stale()
                return
            self._session.close()
        self._session = _Session(hello)
        self._sessions += 1
        for kept in (self._functions, self._refused):
            for digest in kept.keys() - self._used:
                del kept[digest]
        self._used.clear()
        self._send(READY)

    def _outlived(self, hello: Hello) -> bool:
        """Whether modules were imported for another driver, and read files or variables that have changed since."""
        assert self._session is not None
        observer = self._session.worker.observer
        return (
            hello.driver != self._session.driver
            and observer is not None
            and bool(observer.imports_outdated())
        )

    def _perform(self, task: WorkerTask, session: _Session) -> None:
        if session.worker.replaced:
            self._say_stale()
            return
        try:
            function = self._function(task, session.allowed)
        except EnvironmentMismatch as error:
            if self._sessions > 1:
                self._say_stale()
            else:
                failure = failure_of(error, arguments=task.shown)
                worker = session.worker
                self._say(task.failed(worker.clock.now(), failure, worker.name))
            return
        session.enter_folder()
        work = _work(task, function)
        if session.worker.outdated(work):
            self._say_stale()
            return
        self._bound(task.memory)
        session.script.show(function)
        if task.uses_library:
            session.connect()
        self._say(session.worker.run(work))

    def _function(self, task: WorkerTask, allowed: tuple[str, ...]) -> Callable[..., Any]:
        if task.digest not in self._functions:
            sent = self._refused.pop(task.digest, task)
            assert sent.pickle is not None
            assert self._session is not None
            self._session.worker.leave()  # what modules do when they are imported is no part of an attempt
            self._refused[task.digest] = (
                sent  # the engine sends it once, and may send the task again after a refusal
            )
            loaded = _load(task.name, sent.pickle)
            function = loaded.function
            by_value = not is_importable(loaded)
            check_code(function, name=task.name, parts=sent.parts, allowed=allowed, by_value=by_value)
            del self._refused[task.digest]
            self._functions[task.digest] = function
        return self._functions[task.digest]

    def _bound(self, memory: int | None) -> None:
        """Set the rlimit: an allocation far beyond the memory limit raises MemoryError instead of exhausting the machine."""
        if memory is None and self._limit is None:
            return
        self._limit = memory
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        # On top of what the process holds already: allocators keep gigabytes reserved from earlier attempts.
        soft = resource.RLIM_INFINITY if memory is None else _reserved_bytes() + memory + SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def _say_stale(self) -> None:
        self._stale = True
        self._send(STALE)

    def _say(self, event: Event) -> None:
        self._send(msgspec.msgpack.encode(event))

    def _send(self, data: bytes) -> None:
        try:
            self._channel.send(data)
        except OSError:
            sys.exit(0)


def _reserved_bytes() -> int:
    """The memory that RLIMIT_DATA counts in this process now (`data` of /proc/self/statm); 0 where unknown."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def _work(task: WorkerTask, function: Callable[..., Any]) -> WorkerCall:
    return WorkerCall(
        attempt=task.attempt,
        node=task.node,
        kind=task.kind,
        lo=task.lo,
        hi=task.hi,
        function=function,
        payload=task.payload,
        shown=task.shown,
        memory=task.memory,
        keys=task.keys,
        observe=task.observe,
        variables=task.variables,
        plain=task.plain,
        checkpoints=task.checkpoints,
    )


def _load(name: str, data: bytes) -> Task[..., Any]:
    try:
        loaded: Task[..., Any] = pickle.loads(data)
    except Exception as error:  # an import runs the user's code, which may raise anything
        raise EnvironmentMismatch(
            "the worker cannot import what the task needs",
            task=name,
            why=f"{type(error).__name__}: {error}",
            fix="install the missing module where workers run, or put its folder on sys.path before the run starts",
        ) from error
    return loaded


def _follow_driver(lifeline: int, fork_server: int) -> None:
    os.read(lifeline, 1)
    if os.getppid() == fork_server:
        os.kill(fork_server, signal.SIGCONT)  # a stopped server would not notice that the driver is gone
    os.killpg(0, signal.SIGKILL)


def main(fd: int, lifeline: int, tickets: int) -> None:
    """Serve attempts from the socket `fd`, each waiting one only with its ticket, until the driver ends the worker, or is gone."""
    faulthandler.enable(2, all_threads=False)  # a segfault leaves its Python stack in the log
    threading.Thread(target=_follow_driver, args=(lifeline, os.getppid()), daemon=True).start()
    with watched_environment():  # a module may read a variable when it is imported, before a task begins
        _Server(Channel(fd), lifeline, Tickets(tickets)).serve()
