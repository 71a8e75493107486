"""Workers of one machine for a run whose driver is elsewhere: a worker loop that several threads use.

Attempts run in processes of their own, as those of the local engine do: one that dies takes nothing with it, can
be ended, and says how it ended. What the processes of other libraries hold beside them is never harmed.
"""

from __future__ import annotations

import math
import os
import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.distributions import HOOKE_VERSION
from hooke.base.observed import first_changed
from hooke.base.ref import ItemsObserved, Manifest, Ref
from hooke.engines.gang import GangCommand, RankRange
from hooke.engines.remote.handshake import HandshakeReply, ProbeAnswer
from hooke.engines.remote.log_sync import LogSync
from hooke.engines.remote.worker_protocol import AttemptOrder, HostReport, HostSession, Note
from hooke.engines.worker.pool import LocalPool, shared_pool
from hooke.engines.worker.worker_deaths import host_failed
from hooke.engines.worker.worker_loop import LoopEvent, LoopSettings, WorkerLoop
from hooke.engines.worker.worker_process import Hello, WorkerJob, WorkerTask
from hooke.journal.events import AttemptFailed, AttemptFinished, CallsFinished
from hooke.pipeline.engine import LOOK
from hooke.pipeline.failures import failure_of

__all__ = ["JoinedHost", "WorkerHost"]


LOOK_S = 0.1
"""How often a waiting thread checks whether its attempt was given up."""

IMAGE_S = 5.0
"""How long to wait for a function that comes with another message: that message is moments away, or lost."""


class WorkerHost:
    """The workers that one run has on this machine, or in one part of it. Its methods may be called from many threads.

    `name` is the prefix of its workers' names, `slots` how many attempts run at once, and `tell` receives notes of what
    happens meanwhile. `address` is where other machines of the run reach this one.
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
        self._tell = tell
        self._clock: Clock = SystemClock()
        self._changed = threading.Condition()
        """Held by whoever uses the loop; notified of each event."""
        self._images: dict[str, WorkerTask] = {}
        self._begun: set[int] = set()
        self._withdrawn: set[int] = set()
        self._answers: dict[int, SimpleQueue[AttemptFinished | AttemptFailed]] = {}
        self._kept: list[Note] | None = None
        """Notes that `prepare` returns."""
        self._at_work: set[WorkerJob] = set()
        self._used = self._clock.monotonic()
        self._closed = False
        pool = pool or shared_pool()
        self._pool = pool
        self._loop = WorkerLoop(
            LoopSettings(slots=slots, address=address, machine=os.uname().nodename),
            hello=self._hello,
            pool=pool,
            devices=pool.devices,
            clock=self._clock,
            say=self._say,
        )
        self._woken, self._wake = os.pipe()
        self._loop.watch(self._woken)
        self._thread = threading.Thread(target=self._follow, name="hooke-workers", daemon=True)
        self._thread.start()

    def run(
        self, order: AttemptOrder, *, given_up: Callable[[], bool]
    ) -> AttemptFinished | AttemptFailed | None:
        """Run an attempt, and wait for it. None: its function must be sent again, or the attempt was given up.

        Ranks of a gang report by notes. For them None means that they have ended.
        """
        if order.sys_path is not None and not self.session.fixed_path:
            self.session = msgspec.structs.replace(self.session, sys_path=order.sys_path)
        with self._changed:
            if order.part is None and order.task.attempt in self._withdrawn:
                self._withdrawn.discard(order.task.attempt)  # it may come again
                return None
            self._begun.add(order.task.attempt)
        if order.task.kind == LOOK:
            return self._look(order.task)
        job = self._job(order, given_up)
        if job is None:
            return None
        self._at_work.add(job)
        try:
            return (
                self._run(job, given_up) if order.part is None else self._run_ranks(job, order.part, given_up)
            )
        except Exception as error:  # noqa: BLE001 - the driver waits for an answer, whatever failed
            failure = failure_of(host_failed(error), arguments=job.task.shown)
            return job.task.failed(self._clock.now(), failure)
        finally:
            self._used = self._clock.monotonic()
            self._at_work.discard(job)

    def prepare(self) -> list[Note]:
        """Start all workers, where the run asks for it; returns the notes of it. Raises HookeError where none can be started."""
        if self.session.ready_for is None:
            return []
        with self._changed:
            notes: list[Note] = []
            self._kept = notes
            try:
                started = self._loop.start_all(self.session.ready_for)
                self._changed.wait_for(
                    lambda: self._closed or all(each.ready or not self._loop.has(each) for each in started)
                )
            finally:
                self._kept = None
            return notes

    def withdraw(self, attempts: list[int]) -> list[int]:
        """Take attempts back that have not begun; returns these."""
        with self._changed:
            taken = [attempt for attempt in attempts if attempt not in self._begun]
            self._withdrawn.update(taken)
            return taken

    def speak(self, command: GangCommand) -> None:
        """Pass a command of the driver to the ranks of a gang."""
        with self._changed:
            if not self._closed:
                self._loop.ranks.obey(command)

    @property
    def unused_s(self) -> float:
        """How long it has had no work."""
        return 0.0 if self._at_work else self._clock.monotonic() - self._used

    def rest(self, idle_s: float) -> None:
        """End idle workers, and the fork server if none is left, after so long without work: the driver may be dead.

        Others start when there is work.
        """
        with self._changed:
            if not self._closed and self.unused_s >= idle_s:
                self._loop.end_idle(f"nothing to do for {idle_s:g} s")
                self._pool.rest()

    def close(self) -> None:
        """End the workers, busy ones too; idle ones stay for the next run where the session keeps them."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        os.write(self._wake, b"x")
        self._thread.join()
        with self._changed:
            kept_s = self.session.kept_s
            # On a cluster of others an idle process must not hold a GPU's memory.
            self._loop.close(keep_idle=kept_s > 0, keep_devices=math.isinf(kept_s))
        os.close(self._wake)
        os.close(self._woken)

    # -- inside ------------------------------------------------------------------------------------

    def _look(self, task: WorkerTask) -> AttemptFinished | AttemptFailed:
        """Which of these inputs are others on this host: no worker is needed for that, nor the function."""
        began = self._clock.monotonic()
        try:
            manifest = msgspec.msgpack.decode(task.payload, type=Manifest)
            root = self.session.root or self.session.folder
            changed = [each for each in manifest if first_changed([each], root=root, environment={})]
        except Exception as error:  # noqa: BLE001 - the driver waits for an answer, whatever failed
            return task.failed(self._clock.now(), failure_of(host_failed(error), arguments=task.shown))
        return AttemptFinished(
            at=self._clock.now(),
            attempt=task.attempt,
            node=task.node,
            lo=task.lo,
            hi=task.hi,
            ref=Ref("", 0, b""),
            worker="",
            seconds=self._clock.monotonic() - began,
            observed=(ItemsObserved(lo=task.lo, hi=task.hi, inputs=tuple(changed)),),
        )

    def _follow(self) -> None:
        """In a thread of its own: react to what workers say."""
        while not self._closed:
            said = self._loop.select(3600.0)
            with self._changed:
                if not self._closed:
                    self._loop.react(said)

    def _hello(self, number: int) -> Hello:
        session, name = self.session, f"{self._name}-{number}"
        return Hello(
            worker=name,
            sys_path=session.sys_path,
            store=session.store,
            secret=session.secret,
            log=str(Path(session.logs) / f"{name}.log"),
            folder=session.folder,
            root=session.root,
            unshared=session.unshared,
            copies=session.copies,
            driver=session.driver,
            durable=session.durable,
            tracking=session.tracking,
            mlflow=session.mlflow,
            script=session.script,
            library=session.library,
            sample_s=session.sample_s,
            allowed=session.allowed,
            # With a path of its own, a host has the project's files as an archive, beside what else they need.
            code=None if session.fixed_path else session.code,
        )

    def _say(self, event: LoopEvent) -> None:
        assert not isinstance(event, CallsFinished)  # a host is given attempts singly
        if isinstance(event, (AttemptFinished, AttemptFailed)):
            if answers := self._answers.get(event.attempt):
                answers.put(event)
        elif self._kept is not None:
            self._kept.append(event)
        else:
            self._tell([event])
        self._changed.notify_all()

    def _job(self, order: AttemptOrder, given_up: Callable[[], bool]) -> WorkerJob | None:
        """The attempt with its function, which comes with the first attempt only: another thread may be about to bring it."""
        task = order.task
        with self._changed:
            if task.pickle is not None:
                self._images.setdefault(task.digest, task)
                self._changed.notify_all()
            self._changed.wait_for(lambda: task.digest in self._images or given_up(), IMAGE_S)
            image = self._images.get(task.digest)
        if image is None or image.pickle is None:
            return None
        return WorkerJob(
            task=msgspec.structs.replace(task, pickle=None, parts={}),
            pickle=lambda data=image.pickle: data,
            parts=image.parts,
            cpus=order.cpus,
            gpus=order.gpus,
        )

    def _run(self, job: WorkerJob, given_up: Callable[[], bool]) -> AttemptFinished | AttemptFailed | None:
        answers = SimpleQueue[AttemptFinished | AttemptFailed]()
        with self._changed:
            if self._closed:
                return None
            self._answers[job.attempt] = answers
            self._loop.submit([job])
        try:
            while not (self._closed or given_up()):
                with suppress(Empty):
                    return answers.get(timeout=LOOK_S)
                self._look_again()
            with self._changed:
                if not self._closed:
                    self._loop.cancel(job.attempt)
                    self._loop.dispatch()
            return None
        finally:
            del self._answers[job.attempt]

    def _run_ranks(self, job: WorkerJob, part: RankRange, given_up: Callable[[], bool]) -> None:
        ranks = self._loop.ranks
        with self._changed:
            if not self._closed:
                ranks.begin(job, part)
        while ranks.running(part.try_id):
            with self._changed:
                self._changed.wait_for(lambda: not ranks.running(part.try_id), LOOK_S)
                if given_up() and not self._closed:
                    ranks.give_up(part.try_id)
            self._look_again()

    def _look_again(self) -> None:
        """Hand out what waits for devices, which other hosts in this process may have freed."""
        with self._changed:
            if not self._closed:
                self._loop.poll(0.0)


# --- A host's part in one run: its workers, and the files that the driver cannot see.


class JoinedHost:
    """Made when a host has answered the driver's probe (`answer_probe`). `log_sync` is None where the driver sees the run's files."""

    def __init__(
        self,
        session: HostSession,
        answer: ProbeAnswer | None,
        *,
        name: str,
        slots: int,
        tell: Callable[[list[Note]], None],
        address: str,
    ) -> None:
        self.answer = answer
        self._slots = slots
        unshared = answer is not None and not answer.shares
        self.log_sync = LogSync(Path(session.logs).parent) if unshared else None
        # Without its own suffix a resumed run's logs would overwrite the earlier ones on the driver's machine.
        suffix = f"-{session.id[-4:]}" if unshared else ""
        self.workers = WorkerHost(session, name=name + suffix, slots=slots, tell=tell, address=address)

    def reply(self, host_id: str, *, memory: int | None = None) -> HandshakeReply:
        """Start the workers that the run wants at once, and describe this host to the driver."""
        notes = self.workers.prepare()
        report = HostReport(
            id=host_id,
            pid=os.getpid(),
            host=os.uname().nodename,
            python=platform.python_version(),
            hooke=HOOKE_VERSION,
            threads=self._slots,
            memory=memory,
            gpus=len(shared_pool().devices),
        )
        return HandshakeReply(report=report, answer=self.answer, notes=notes)

    def close(self) -> None:
        """End the workers, and remove the files that the driver has a copy of."""
        self.workers.close()
        if self.log_sync is not None:
            self.log_sync.end()
