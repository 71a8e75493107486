"""The worker process: attempts in, journal events out.

A worker serves one run after another; each begins with a Hello. The lifeline is a pipe whose other end only the driver
holds: when it closes, the driver is dead, and the worker ends itself and whatever the task started.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.background_fsync import Durability
from hooke.base.clock import SystemClock
from hooke.base.errors import EnvironmentMismatch
from hooke.base.pinned_modules import import_edited, import_pinned
from hooke.base.ref import Ref
from hooke.base.this_process import on_fork
from hooke.engines.gang import GATHER
from hooke.engines.worker.sampler import SAMPLES, Sampler
from hooke.engines.worker.script import ImportedFiles, Script, StandIn
from hooke.engines.worker.task_logging import show_what_tasks_log
from hooke.journal.events import AttemptFailed, AttemptFinished, CallsFinished, Failure
from hooke.keys.fingerprint import check_code
from hooke.pipeline.engine import AlsoCall, Call
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.failures import failure_of
from hooke.pipeline.isolation import folder_here, watched_environment
from hooke.pipeline.observed_events import PathRules
from hooke.pipeline.task import Task, is_importable
from hooke.processes.channel import Channel, Tickets
from hooke.processes.process_output import ProcessOutput
from hooke.store.backends import folder as _folder  # noqa: F401 - early: each worker would import it, in 3 ms
from hooke.store.checkpoints import CheckpointOwner, resizing
from hooke.store.store import Store
from hooke.tracking import log as _log  # noqa: F401 - early: a fork while a thread imports it would leave the child waiting forever
from hooke.tracking.mlflow_runs import MlflowPlace
from hooke.tracking.tracker import Tracker

__all__ = [
    "LEAVES",
    "READY",
    "STALE",
    "Begun",
    "Hello",
    "Library",
    "ResizeWanted",
    "WorkerJob",
    "WorkerTask",
    "main",
    "task_of",
]


READY = b""
"""A worker's answer to Hello."""

STALE = b"stale"
"""A worker's answer to a Hello or a task for which a fresh worker is needed: it imported code before an edit, or a task replaced some."""

MOST_KEPT = 256
"""So many results a worker knows for attempts that follow: four times as many as wait there."""

LEAVES = b"leaves"
"""What rank 0 of a gang says when it ends at a checkpoint, as it was asked to; its answer follows."""

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
    limit_s: float = 0.0
    """As in the Call."""
    after: int | None = None
    """The attempt whose result it awaits, in this worker. If that has none, this one never begins, and has no answer."""
    awaited: Ref | None = None
    """That result, where it is known when the attempt is sent."""
    also: tuple[AlsoCall, ...] = ()
    """As in the Call."""
    also_ticket: int = 0
    """The ticket of the first of these; the others have the numbers behind it."""

    def of(self, call: AlsoCall) -> WorkerTask:
        """The task of one call of the group."""
        return msgspec.structs.replace(
            self,
            attempt=call.attempt,
            node=call.node,
            payload=call.payload,
            shown=call.shown,
            also=(),
            ticket=0,
            also_ticket=0,
        )

    def calls(self) -> Iterator[AlsoCall]:
        """All calls of the group."""
        yield AlsoCall(self.attempt, self.node, self.payload, self.shown)
        yield from self.also

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


class WorkerJob(msgspec.Struct, kw_only=True, eq=False):
    """An attempt for the workers of a machine, or a group of them, and the resources it needs."""

    task: WorkerTask
    """Without its function."""
    pickle: Callable[[], bytes]
    """The function. Raises HookeError where it cannot travel."""
    parts: Mapping[str, str]
    cpus: float
    gpus: float
    short: bool = False
    ended: int = 0
    """How many attempts of the group have ended."""
    recalled: int = 0
    """How many of its last ones have been taken back from a worker, and are part of other jobs now."""

    @property
    def attempt(self) -> int:
        """The number of its first attempt that has not ended."""
        return self.task.also[self.ended - 1].attempt if self.ended else self.task.attempt

    @property
    def count(self) -> int:
        """How many of its attempts have not ended."""
        return 1 + len(self.task.also) - self.ended - self.recalled

    @property
    def attempts(self) -> list[int]:
        """Those attempts."""
        if not self.task.also:
            return [self.task.attempt]
        return [call.attempt for call in self._calls()]

    def _calls(self) -> list[AlsoCall]:
        calls = [*self.task.calls()]
        return calls[self.ended : len(calls) - self.recalled]

    def part(self, lo: int = 0, hi: int | None = None) -> WorkerJob:
        """A job of its own with some of its attempts that have not ended: those from `lo` up to `hi`."""
        if not self.task.also:
            return self
        calls = self._calls()[lo:hi]
        task = msgspec.structs.replace(self.task.of(calls[0]), also=tuple(calls[1:]))
        return msgspec.structs.replace(self, task=task, ended=0, recalled=0)

    def with_function(self) -> WorkerTask:
        """The task for a worker that does not have its function."""
        return msgspec.structs.replace(self.task, pickle=self.pickle(), parts=dict(self.parts))


class ResizeWanted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Rank 0 of a gang `of` so many ranks is to end at its next checkpoint if this is another number. The last word counts."""

    ranks: int
    of: int


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
        limit_s=call.limit_s,
        after=call.after,
        also=call.also,
    )


_NOT_RESIZED = contextlib.nullcontext()
"""A plain call is no gang's, and says nothing of checkpoints."""

_messages = msgspec.msgpack.Decoder(Hello | WorkerTask | ResizeWanted)


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
            Sampler(Path(hello.log + SAMPLES), hello.sample_s)
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
        self._results: dict[int, Ref] = {}
        """Attempt -> its result, for those that follow. The last ones of this session, the newest last."""
        self._wanted: ResizeWanted | None = None
        self._put_off: deque[bytes] = deque()
        """Messages that came while an attempt ran and asked whether its gang changes its size."""
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
                data = self._put_off.popleft() if self._put_off else self._channel.receive()
            except (EOFError, ConnectionResetError):
                return
            if not data:
                if self._session is not None:
                    self._session.close()
                return
            message = _messages.decode(data)
            if isinstance(message, Hello):
                self._begin(message)
            elif isinstance(message, WorkerTask):
                self._used.add(message.digest)  # the driver counts on it, even for what it takes back
                # After STALE the driver ends this process, and what waits here runs elsewhere.
                if message.also:
                    self._perform_group(message)
                elif not self._stale and (not message.ticket or self._tickets.take(message.ticket)):
                    self._follow(message)

    def _follow(self, task: WorkerTask) -> None:
        """Run an attempt, unless the one that it follows has failed. The driver knows that, too."""
        assert self._session is not None
        if task.after is not None and task.awaited is None:
            if task.after not in self._results:
                return
            task = msgspec.structs.replace(task, awaited=self._results[task.after])
        self._perform(task, self._session)

    def _perform_group(self, task: WorkerTask) -> None:
        """Run the calls of a group: behind one another with nothing in between, as long as nothing is needed there."""
        assert self._session is not None
        session, begun = self._session, self._begun(task)
        while not self._stale and (call := next(begun, None)) is not None:
            single = task.of(call)
            work = self._prepared(single, session)
            if work is None:
                continue
            if session.worker.goes_plainly(work):
                session.worker.run_calls(work, chain([call], begun), self._say_of_group)
            else:
                self._say_of_group(session.worker.run(work))

    def _begun(self, task: WorkerTask) -> Iterator[AlsoCall]:
        """The calls of a group, each as it begins; not those that were taken back."""
        tickets = chain([task.ticket], range(task.also_ticket, task.also_ticket + len(task.also)))
        for ticket, call in zip(tickets, task.calls(), strict=True):
            if ticket and not self._tickets.take(ticket):
                return
            yield call

    def _say_of_group(self, answer: CallsFinished | AttemptFinished | AttemptFailed) -> None:
        self._say(answer)
        if isinstance(answer, CallsFinished):
            self._results.update(zip(answer.attempts, answer.refs, strict=True))
        elif isinstance(answer, AttemptFinished):
            self._results[answer.attempt] = answer.ref.without_files()
        self._forget_results()

    def _forget_results(self) -> None:
        while len(self._results) > MOST_KEPT:
            del self._results[next(iter(self._results))]

    def _leaves(self) -> bool:
        """Whether this rank was asked to end at a checkpoint. If so, the driver learns that it does, before the other ranks lose it."""
        if not self._channel.closed:  # as it is in a process that the task forked
            for data in self._channel.take()[0]:
                message = _messages.decode(data) if data else None
                if isinstance(message, ResizeWanted):
                    self._wanted = message
                else:
                    self._put_off.append(data)
        wanted = self._wanted
        if wanted is None or wanted.ranks == wanted.of:
            return False
        self._send(LEAVES)
        return True

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
        self._results.clear()
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
        work = self._prepared(task, session)
        if work is None:
            return
        with _NOT_RESIZED if task.plain else resizing(self._leaves):
            answer = session.worker.run(work)
        self._say(answer)
        if isinstance(answer, AttemptFinished) and task.kind == "call":
            self._results[task.attempt] = answer.ref.without_files()
            self._forget_results()

    def _prepared(self, task: WorkerTask, session: _Session) -> WorkerCall | None:
        """The attempt, with all that it needs in this process; None if it cannot run here, which the driver knows then."""
        gathers = task.kind == GATHER  # Hooke's own code, in a process that ends with its gang
        if session.worker.replaced and not gathers:
            self._say_stale()
            return None
        try:
            function = self._function(task, session.allowed)
        except EnvironmentMismatch as error:
            if self._sessions > 1:
                self._say_stale()
            else:
                failure = failure_of(error, arguments=task.shown)
                worker = session.worker
                self._say(task.failed(worker.clock.now(), failure, worker.name))
            return None
        session.enter_folder()
        work = _work(task, function)
        if not gathers and session.worker.outdated(work):
            self._say_stale()
            return None
        self._bound(task.memory)
        session.script.show(function)
        if task.uses_library:
            session.connect()
        return work

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
        soft = hard if memory is None else _reserved_bytes() + memory + SLACK_BYTES
        if hard != resource.RLIM_INFINITY:  # as after `ulimit -H -d`
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def _say_stale(self) -> None:
        self._stale = True
        self._send(STALE)

    def _say(self, event: CallsFinished | AttemptFinished | AttemptFailed) -> None:
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
        limit_s=task.limit_s,
        awaited=task.awaited,
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
    show_what_tasks_log()
    faulthandler.enable(2, all_threads=False)  # a segfault leaves its Python stack in the log
    import_edited()
    threading.Thread(target=_follow_driver, args=(lifeline, os.getppid()), daemon=True).start()
    with watched_environment():  # a module may read a variable when it is imported, before a task begins
        _Server(Channel(fd), lifeline, Tickets(tickets)).serve()
