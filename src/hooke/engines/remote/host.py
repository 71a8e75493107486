"""Workers of one machine for a run whose driver is elsewhere: the part of a remote engine that is not its library's.

Attempts run in processes of their own, as those of the local engine do: one that dies takes nothing with it, can
be ended, and says how it ended. What the processes of other libraries hold beside them is never harmed.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import HookeError
from hooke.base.files import writing
from hooke.engines.gang import Word
from hooke.engines.remote.gang_ranks import RankGroups
from hooke.engines.remote.worker_protocol import AttemptOrder, Begun, HostSession, Note
from hooke.engines.worker.fork_server import ForkEnded
from hooke.engines.worker.lost_attempts import code_and_signal, death, host_failed, how_it_ended
from hooke.engines.worker.pool import LocalPool, Process, WorkerKind, shared_pool
from hooke.engines.worker.worker import READY, STALE, Hello, WorkerTask
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure, WorkerStarted, WorkerStopped
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices
from hooke.processes.exit_report import death_tail, last_lines

__all__ = ["WorkerHost"]

MOST_UNBORN = 3
"""One worker may be killed as it starts, by chance; so many in a row have a reason."""

LOOK_S = 0.1
"""How long an attempt that was given up may go on."""

IMAGE_S = 5.0
"""How long to wait for a function that another message brings: that one is a moment ahead, or it is lost."""


class _GivenUpError(Exception):
    """Nobody waits for the attempt any more."""


class _EndedError(EOFError):
    """The worker's socket is at its end."""


class WorkerHost:
    """The workers that one run has on this machine, or in one part of it. Its methods may be called from many threads.

    `name` is what the names of its workers begin with, `slots` how many attempts run at once, and `tell` takes notes of
    what happens meanwhile. `address` is that of this machine, as other machines of the run reach it.
    """

    def __init__(
        self,
        session: HostSession,
        *,
        name: str,
        slots: int,
        tell: Callable[[list[Note]], None],
        address: str = "127.0.0.1",
        pool: LocalPool | None = None,
    ) -> None:
        self.session = session
        self._name = name
        self._slots = slots
        self._tell = tell
        self._pool = pool or shared_pool()
        self._clock: Clock = SystemClock()
        self._changed = threading.Condition()
        self._images: dict[str, WorkerTask] = {}
        self._all: list[Process] = []
        self._free: list[Process] = []
        self._held: dict[int, float] = {}
        """Pid of a busy worker -> how much it holds of its devices."""
        self._begun: set[int] = set()
        self._withdrawn: set[int] = set()
        self._used = self._clock.monotonic()
        self._started = 0
        self._closed = False
        self._squads = RankGroups(self, address=address, tell=tell)

    def run(
        self, order: AttemptOrder, *, given_up: Callable[[], bool]
    ) -> AttemptFinished | AttemptFailed | None:
        """Run an attempt, in the thread that calls. None: its function is not here, and must be sent again, or nobody wants it any more.

        A part of a gang tells by notes what becomes of it, and returns None when it has ended.
        """
        if order.sys_path is not None and not self.session.fixed_path:
            self.session = msgspec.structs.replace(self.session, sys_path=order.sys_path)
        if order.part is not None:
            self._used = self._clock.monotonic()
            self._squads.run(order, lambda: self._closed or given_up())
            return None
        with self._changed:
            if order.task.attempt in self._withdrawn:
                self._withdrawn.discard(order.task.attempt)  # it may come again
                return None
            self._begun.add(order.task.attempt)
            self._used = self._clock.monotonic()
        task = self._with_image(order.task, given_up)
        if task is None:
            return None
        try:
            return self._run(order, task, given_up)
        except _GivenUpError:
            return None
        except HookeError as error:
            return self.failed(task, failure_of(error, arguments=task.shown))
        except Exception as error:  # noqa: BLE001 - whatever this machine refuses, the driver waits for an answer
            return self.failed(task, failure_of(host_failed(error), arguments=task.shown))

    def prepare(self) -> list[Note]:
        """Start all workers, where the run asks for it; returns what is to be told of it. Raises HookeError where none can be started."""
        if self.session.ready_for is None:
            return []
        with self._changed:
            kind = WorkerKind(threads=max(1, int(self.session.ready_for)))
            ours = [self._start(kind) for _ in range(self._slots)]
        notes: list[Note] = []
        for process in ours:
            with contextlib.suppress(_GivenUpError, _EndedError):  # the first attempt finds the reason
                notes += self._ready(process, lambda: self._closed)
        with self._changed:
            self._free += [process for process in ours if process.ready]
            for process in [process for process in ours if not process.ready]:
                self._all.remove(process)
                self._pool.end(process)
        return notes

    def withdraw(self, attempts: list[int]) -> list[int]:
        """Take attempts back that have not begun; returns these."""
        with self._changed:
            taken = [attempt for attempt in attempts if attempt not in self._begun]
            self._withdrawn.update(taken)
            return taken

    def speak(self, word: Word) -> None:
        """The driver says something to the ranks of a gang."""
        self._squads.heard(word)

    @property
    def unused_s(self) -> float:
        """How long nothing was asked of it."""
        return 0.0 if self._held else self._clock.monotonic() - self._used

    def rest(self, idle_s: float) -> None:
        """End idle workers if nothing was asked for so long: the driver may be dead. Others start when there is work."""
        with self._changed:
            if self.unused_s < idle_s:
                return
            free = list(self._free)
            self._free.clear()
            for process in free:
                self._drop(process, f"nothing to do for {idle_s:g} s")

    def close(self) -> None:
        """End the workers, busy ones too; idle ones are kept for the next run where the session is `warm`."""
        with self._changed:
            self._closed = True
            ours, free = list(self._all), list(self._free)
            self._all.clear()
            self._free.clear()
            self._changed.notify_all()
        for process in ours:
            if self.session.warm and process in free:
                self._pool.give_back(process)
            else:
                self._pool.end(process)

    # -- for the ranks of gangs, as their yard ---------------------------------------------------

    @property
    def devices(self) -> Devices:
        """This machine's GPUs."""
        return self._pool.devices

    def start(self, kind: WorkerKind, memory: int | None, given_up: Callable[[], bool]) -> Process:
        """A new process, once there is room for it: idle workers make way. Raises EOFError where nobody waits for it any more."""
        with self._changed:
            while not given_up():
                if len(self._all) < self._slots:
                    break
                if self._free:
                    self._drop(self._free.pop(), "it makes way for a gang")
                else:
                    self._changed.wait(LOOK_S)
            else:
                raise _EndedError
            process = self._start(kind)
            self._held[process.pid] = 0.0  # the devices are its gang's
        self._pool.limit(process, memory)
        return process

    def greet(self, process: Process, given_up: Callable[[], bool]) -> None:
        """Wait until it is ready. Raises EOFError where it ends before that, or nobody waits for it."""
        try:
            self._tell(self._ready(process, given_up))
        except _GivenUpError:
            raise _EndedError from None

    def lose(self, process: Process) -> ForkEnded | None:
        """It has died: say so, and how it ended."""
        ended = self._pool.ended(process)
        self._forget(process)
        code, number = code_and_signal(ended)
        self._tell(
            [
                WorkerStopped(
                    at=self._clock.now(),
                    worker=process.name,
                    cause=how_it_ended(ended),
                    exit_code=code,
                    signal=number,
                )
            ]
        )
        return ended

    def end(self, process: Process, cause: str) -> None:
        """End it, and say why; unless the host has ended it."""
        if process in self._all:
            self._end(process, cause)

    def failed(self, task: WorkerTask, failure: Failure, worker: str = "") -> AttemptFailed:
        """An answer in the place of a worker's."""
        return AttemptFailed(
            at=self._clock.now(),
            attempt=task.attempt,
            node=task.node,
            lo=task.lo,
            hi=task.hi,
            worker=worker,
            failure=failure,
            peak_bytes=failure.peak_bytes,
        )

    # -- inside ------------------------------------------------------------------------------------

    def _with_image(self, task: WorkerTask, given_up: Callable[[], bool]) -> WorkerTask | None:
        """The task with its function: it comes with the first attempt only, which may not have been the first to begin."""
        with self._changed:
            if task.pickle is not None:
                self._images.setdefault(task.digest, task)
                self._changed.notify_all()
                return task
            self._changed.wait_for(lambda: task.digest in self._images or given_up(), IMAGE_S)
            image = self._images.get(task.digest)
        return image and msgspec.structs.replace(task, pickle=image.pickle, parts=image.parts)

    def _run(
        self, order: AttemptOrder, task: WorkerTask, given_up: Callable[[], bool]
    ) -> AttemptFinished | AttemptFailed:
        unborn = 0
        while True:
            process = self._worker(order, given_up)
            begun = False
            try:
                if told := self._ready(process, given_up):
                    self._tell(told)
                begun = self._hand_over(process, task)
                data = self._next(process, given_up)
            except _GivenUpError:
                self._end(process, "its attempt was cancelled")
                raise
            except _EndedError:
                failed = self._died(process, task)
                if begun:
                    return failed
                unborn += 1
                if unborn == MOST_UNBORN:
                    raise _cannot_begin(process, unborn) from None
                continue
            except BaseException:
                self._end(process, "its host failed")
                raise
            if data == STALE:
                self._end(process, "it had imported code that was edited since")
                continue
            return self._answered(process, data)

    def _worker(self, order: AttemptOrder, given_up: Callable[[], bool]) -> Process:
        """A free worker with the threads and the devices that are asked for, or a new one. Waits while there is no room."""
        with self._changed:
            while True:
                if self._closed or given_up():
                    raise _GivenUpError
                devices = self._pool.devices.take(order.task.name, order.gpus)
                if devices is not None:
                    process = None
                    try:
                        process = self._placed(order, devices)
                    finally:
                        if process is None:
                            self._pool.devices.release(devices, order.gpus)
                    if process is not None:
                        self._held[process.pid] = order.gpus
                        return process
                self._changed.wait(LOOK_S)

    def _placed(self, order: AttemptOrder, devices: tuple[str, ...]) -> Process | None:
        kind = WorkerKind(threads=max(1, int(order.cpus)), devices=devices)
        for process in [each for each in self._free if each.kind == kind]:
            self._free.remove(process)
            if self._pool.watches(process) and process.channel.take() == ([], True):
                return process
            self._drop(process, "it ended, or what watched it did")
        if len(self._all) >= self._slots:
            if not self._free:
                return None
            self._drop(self._free.pop(), f"replaced by {kind}")
        return self._start(kind)

    def _start(self, kind: WorkerKind) -> Process:
        self._started += 1
        name, session = f"{self._name}-{self._started}", self.session
        logs = Path(session.logs)
        with writing("the run's logs", logs):
            logs.mkdir(parents=True, exist_ok=True)
        process = self._pool.take(
            Hello(
                worker=name,
                sys_path=session.sys_path,
                store=session.store,
                secret=session.secret,
                log=str(logs / f"{name}.log"),
                folder=session.folder,
                durable=session.durable,
                tracking=session.tracking,
                script=session.script,
                library=session.library,
                allowed=session.allowed,
            ),
            kind,
        )
        self._all.append(process)
        return process

    def _ready(self, process: Process, given_up: Callable[[], bool]) -> list[Note]:
        """Wait until a new worker is ready, which is to be told; one that was warm and has old code ends."""
        if process.ready:
            return []
        if self._next(process, given_up) != READY:
            raise _EndedError
        process.ready = True
        process.log_from = process.log.stat().st_size if process.log.exists() else 0
        at, machine = self._clock.now(), os.uname().nodename
        return [WorkerStarted(at=at, worker=process.name, pid=process.pid, host=machine)]

    def _hand_over(self, process: Process, task: WorkerTask) -> bool:
        if task.digest in process.known:
            task = msgspec.structs.replace(task, pickle=None, parts={})
        process.known.add(task.digest)
        self._pool.limit(process, task.memory)
        self._tell([Begun(self._clock.now(), task.attempt, process.name)])
        # It may have died before it has all of this: its end is seen when its answer is waited for.
        with contextlib.suppress(OSError):
            process.channel.send(msgspec.msgpack.encode(task))
        return True

    def _next(self, process: Process, given_up: Callable[[], bool]) -> bytes:
        waiting = select.poll()
        waiting.register(process.channel.fileno(), select.POLLIN)
        while True:
            if given_up():
                raise _GivenUpError
            if not waiting.poll(LOOK_S * 1000):
                continue
            messages, lives = process.channel.take()
            if messages:
                return messages[0]
            if not lives:
                raise _EndedError

    def _answered(self, process: Process, data: bytes) -> AttemptFinished | AttemptFailed:
        answer: AttemptFinished | AttemptFailed = _answers.decode(data)
        if answer.log is not None:
            process.log_from = answer.log.end
        with self._changed:
            if process in self._all:
                self._release(process)
                self._free.append(process)
                self._used = self._clock.monotonic()
            self._changed.notify_all()
        return answer

    def _died(self, process: Process, task: WorkerTask) -> AttemptFailed:
        failure = death(
            process.name,
            self.lose(process),
            arguments=task.shown,
            limit_bytes=task.memory,
            log_tail=death_tail(process.log, process.log_from),
        )
        return self.failed(task, failure, process.name)

    def _end(self, process: Process, cause: str) -> None:
        self._pool.end(process)
        self._forget(process)
        self._tell([WorkerStopped(at=self._clock.now(), worker=process.name, cause=cause)])

    def _drop(self, process: Process, cause: str) -> None:
        """End an idle worker, whose devices are free."""
        self._all.remove(process)
        self._pool.end(process)
        self._tell([WorkerStopped(at=self._clock.now(), worker=process.name, cause=cause)])

    def _forget(self, process: Process) -> None:
        with self._changed:
            if process in self._all:
                self._all.remove(process)
                self._release(process)
                self._used = self._clock.monotonic()
            self._changed.notify_all()

    def _release(self, process: Process) -> None:
        self._pool.devices.release(process.kind.devices, self._held.pop(process.pid))


_answers = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


def _cannot_begin(process: Process, times: int) -> HookeError:
    return HookeError(
        f"{times} workers in a row ended before they could begin",
        where=f"{process.log} on {os.uname().nodename}",
        why="\n".join(last_lines(process.log, process.log_from, 20)),
        next="hooke doctor",
    )
