"""The workers of one machine, or of one part of it, and what they run: a loop over their sockets.

The local engine is this loop. A host of a remote engine is this loop, used by several threads under a lock. Workers have
as many threads as the cpus of their tasks, so they are kept by kind. Each leads a process group, so ending a worker ends
what its task started.
"""

from __future__ import annotations

import contextlib
import selectors
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import HookeError
from hooke.base.files import writing
from hooke.base.ref import Ref
from hooke.engines.gang import RankNote
from hooke.engines.worker.fork_server import ForkEnded
from hooke.engines.worker.fork_server_client import ForkRefused
from hooke.engines.worker.gang_ranks import RankGroups
from hooke.engines.worker.pool import LocalPool, Process, WorkerKind
from hooke.engines.worker.worker_deaths import code_and_signal, exit_failure, host_failed, how_it_ended
from hooke.engines.worker.worker_process import READY, STALE, Begun, Hello, WorkerJob
from hooke.journal.events import AttemptFailed, AttemptFinished, CallsFinished, WorkerStarted, WorkerStopped
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices
from hooke.processes.exit_report import last_lines

__all__ = ["LoopEvent", "LoopSettings", "WorkerLoop"]

MOST_UNBORN = 3
"""A single worker may be killed by chance while it starts; more than this many in a row have a common reason."""

MOST_REFUSED = 10
FORK_AGAIN_S = 1.0
"""If the system refuses a process (EAGAIN, ENOMEM), how often in a row, without any worker, and how long before the next try."""

MOST_AHEAD = 64
"""Short calls that wait in a worker's socket behind the running one, so the worker need not wait for the driver in between."""

AHEAD_BYTES = 48 << 10
"""What waits there, at most: it fits the socket's buffer, so handing a call over never blocks."""

FRAME_BYTES = 512
"""About what a call takes there beside its arguments, keys and variables."""

ALSO_BYTES = 32
"""The same of each further call of a group."""

POLL_S = 0.002
"""How often to look at workers in which calls wait. To be woken by each of their answers costs more than a short call."""

STUCK_S = 0.02
"""If a call runs this long, those that wait behind it go to workers that are free, and no more are sent there."""

Answer: TypeAlias = AttemptFinished | AttemptFailed | CallsFinished
LoopEvent: TypeAlias = Begun | WorkerStarted | WorkerStopped | Answer | RankNote

_answers = msgspec.msgpack.Decoder(Answer)


class LoopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker loop is given once."""

    slots: int
    """How many workers run at once."""
    pinned: bool = False
    """Whether each worker is bound to as many cores as it has threads."""
    address: str = "127.0.0.1"
    """Where other hosts reach this one."""
    machine: str = ""
    """Its name in events; empty on the driver's own."""


class WorkerLoop:
    """Runs attempts in worker processes, one at a time in each. Workers start when there is work for them.

    Short calls are handed to a worker ahead of time. Those that have not begun go to another one when it ends, or when the
    running call turns out to be long and another worker is free.
    Used by one thread at a time, except for `select`.
    """

    def __init__(
        self,
        settings: LoopSettings,
        *,
        hello: Callable[[int], Hello],
        pool: LocalPool,
        devices: Devices,
        clock: Clock,
        say: Callable[[LoopEvent], None],
    ) -> None:
        """`hello(n)` is the greeting of the n-th worker, which names it. `say` receives all events, in order."""
        self.slots = settings.slots
        self._hello = hello
        self._pool = pool
        self._devices = devices
        self._clock = clock
        self._say = say
        self._pinned = settings.pinned
        self._machine = settings.machine
        self._kinds: dict[tuple[float, tuple[str, ...]], WorkerKind] = {}
        """The kinds of workers that were asked for, by cpus and devices."""
        self._queue: deque[WorkerJob] = deque()
        self._workers: dict[int, Process] = {}
        self._selector = selectors.DefaultSelector()
        self._started = 0
        self._unborn = 0
        self._refusals = 0
        self._fork_at = 0.0
        self._begun: set[int] = set()
        self._cancelled: set[int] = set()
        self._process_of: dict[int, Process] = {}
        """Attempt -> the worker that has it."""
        self._followers: dict[int, WorkerJob] = {}
        """Attempt -> the one that follows it, until the first has ended."""
        self._apart: dict[int, WorkerJob] = {}
        """Those of them that are not in the worker of the attempt before, in their order."""
        self._awaited: dict[int, Ref] = {}
        """Attempt that followed another one, and is in a worker -> that one's result."""
        self._undispatched = False
        """Whether an attempt was cancelled since the last `dispatch`."""
        self._polled: set[Process] = set()
        """Workers in which calls wait: while they answer often, the selector does not watch them."""
        self.ranks = RankGroups(
            self, devices=devices, clock=clock, say=say, pinned=settings.pinned, address=settings.address
        )

    def submit(self, jobs: Sequence[WorkerJob]) -> None:
        """Queue attempts, and hand each to a worker as soon as one is free."""
        for job in jobs:
            if job.task.after is not None and job.task.awaited is None:
                self._followers[job.task.after] = self._apart[job.attempt] = job
            else:
                self._queue.append(job)
        self.dispatch()

    def cancel(self, attempt: int) -> None:
        """Drop an attempt that has not begun; end the worker of a running one. The room is handed out by the next `dispatch` or `poll`."""
        for process in list(self._workers.values()):
            if _has(process, attempt):
                self._read(process)  # it may have ended
                if self.has(process) and _has(process, attempt):
                    self._recall(process)
        self._queue = deque(part for job in self._queue for part in _without(job, {attempt}))
        self._drop_followers(attempt)
        job = self._apart.pop(attempt, None)
        if job is not None:
            self._followers.pop(job.task.after or 0, None)
        for process in list(self._workers.values()):
            if _has(process, attempt):
                self._cancelled.add(attempt)
                self._end_if_cancelled(process)
        self._undispatched = True

    def resize(self, slots: int) -> None:
        """Change the number of workers; surplus ones end once their attempt has ended."""
        self.slots = slots
        self._shrink()
        self.dispatch()

    def start_all(self, cpus: float) -> list[Process]:
        """Start every worker before there is work for it. Raises HookeError, and leaves none, where one cannot be started."""
        kind = WorkerKind(threads=max(1, int(cpus)), pinned=self._pinned)
        try:
            return [self._start_worker(kind) for _ in range(self.slots)]
        except BaseException:
            self.end_idle("another worker could not be started")
            raise

    def has(self, process: Process) -> bool:
        """Whether this is a worker of the loop."""
        return process.pid in self._workers

    def poll(self, timeout_s: float) -> None:
        """Wait for what workers say, and react to it."""
        if self._undispatched:
            self.dispatch()
        self.react(self.select(timeout_s))

    def select(self, timeout_s: float) -> list[Process]:
        """The workers that may have said something, waiting for it. Any thread may call it while another one uses the loop."""
        if self._refusals:
            timeout_s = min(timeout_s, FORK_AGAIN_S)
        if self._polled:
            timeout_s = min(timeout_s, POLL_S)
        said = [key.data for key, _ in self._selector.select(timeout_s) if key.data is not None]
        return said + list(self._polled) if self._polled else said

    def react(self, processes: list[Process]) -> None:
        """Read what these workers have said, and hand out what has room."""
        for process in processes:
            self._read(process)
        self.dispatch()

    def watch(self, fd: int) -> None:
        """Have `select` return when there is something to read here."""
        self._selector.register(fd, selectors.EVENT_READ)

    def end_idle(self, cause: str) -> None:
        """End the idle workers."""
        for process in self._idle():
            self.end(process, cause)

    def close(self, *, keep_idle: bool, keep_devices: bool = True) -> None:
        """End every worker, busy ones too; `select` fails afterwards.

        With `keep_idle` idle ones go back to the pool; those with devices only with `keep_devices`, too.
        """
        for waiting in (self._queue, self._followers, self._apart):
            waiting.clear()
        self.ranks.close()
        for process in list(self._workers.values()):
            keeps = keep_idle and process.ready and not process.jobs
            keeps = keeps and (keep_devices or not process.kind.devices)
            while self._freed(process):
                pass
            self._forget(process)
            if keeps:
                self._pool.give_back(process)
            else:
                self._pool.end(process)
        self._selector.close()

    # -- for gangs -----------------------------------------------------------------------------------

    def make_room(self, ranks: int) -> bool:
        """End idle workers until there is room for so many ranks. False, and none is ended, where too many are busy.

        A gang that is larger than the loop (since that was made smaller) gets its room when nothing else runs.
        """
        idle = self._idle()
        busy = self._running - len(idle)
        if busy and busy + ranks > self.slots:
            return False
        for process in idle[: max(0, self._running + ranks - self.slots)]:
            self.end(process, f"it makes way for a gang of {ranks}")
        return True

    def start(self, kind: WorkerKind, memory: int | None = None) -> Process:
        """Start a worker, whatever else runs. Raises HookeError."""
        self._started += 1
        hello = self._hello(self._started)
        logs = Path(hello.log).parent
        with writing("the run's logs", logs):
            logs.mkdir(parents=True, exist_ok=True)
        process = self._pool.take(hello, kind)
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        self._pool.limit(process, memory)
        return process

    def ready(self, process: Process) -> None:
        """A worker has answered its greeting."""
        self._unborn = 0
        process.ready = True
        process.log_from = process.log.stat().st_size if process.log.exists() else 0
        now = self._clock.now()
        self._say(WorkerStarted(at=now, worker=process.name, pid=process.pid, host=self._machine))

    def end(self, process: Process, cause: str) -> None:
        """End a worker, and say why."""
        self._forget(process)
        self._pool.end(process)
        self._say(WorkerStopped(at=self._clock.now(), worker=process.name, cause=cause))

    def lost(self, process: Process) -> ForkEnded | None:
        """A worker has died: say so. Returns how it ended."""
        self._forget(process)
        ended = self._pool.ended(process)
        code, number = code_and_signal(ended)
        at, cause = self._clock.now(), how_it_ended(ended)
        self._say(WorkerStopped(at=at, worker=process.name, cause=cause, exit_code=code, signal=number))
        return ended

    # -- handing out -----------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hand out what is queued, as far as there is room."""
        self._undispatched = False
        self.ranks.step()
        for _ in range(len(self._queue)):
            job = self._queue.popleft()
            try:
                process = self._worker_for(job)
            except ForkRefused as error:
                if self._forks_later():
                    self._queue.append(job)
                else:
                    self._refuse(job, error)
                continue
            except HookeError as error:
                self._refuse(job, error)
                continue
            except Exception as error:  # noqa: BLE001 - the scheduler waits for an answer, whatever failed
                self._refuse(job, host_failed(error))
                continue
            if process is None:
                self._queue.append(job)
                continue
            self._give(process, job)
        self._give_followers()
        now = self._clock.monotonic()
        self._recall_stuck(now)
        for process in self._workers.values():
            self._watch_or_poll(process, now)
            if process.channel.holds:
                process.tickets.flush()
                with contextlib.suppress(
                    OSError
                ):  # it has ended, or ends now; its last messages and its end are read next
                    process.channel.flush()

    def _give(self, process: Process, job: WorkerJob) -> None:
        process.jobs.append(job)
        self._process_of.update(dict.fromkeys(job.attempts, process))
        if process.ready:
            self._hand_over(process, job)

    def _give_followers(self) -> None:
        """Send what follows attempts to their workers, as far as there is room."""
        now = self._clock.monotonic() if self._apart else 0.0
        for job in [*self._apart.values()]:
            process = self._process_of.get(job.task.after or 0)
            if process is not None and self._may_wait(process, job, now):
                del self._apart[job.attempt]
                self._give(process, job)

    @property
    def _running(self) -> int:
        return len(self._workers) + self.ranks.processes

    def _idle(self) -> list[Process]:
        return [process for process in self._workers.values() if not process.jobs]

    def _worker_for(self, job: WorkerJob) -> Process | None:
        """A free worker of the right kind; a new one where there is a slot, or where one of another kind can be ended."""
        idle = self._idle()
        for process in idle:
            if not self._pool.watches(process):
                self.end(process, "the fork server that watched it is gone")
        if not idle and self._running >= self.slots:
            return self._busy_with_alike(job)
        devices = self._devices.take(job.task.name, job.gpus)
        if devices is None:
            return None
        try:
            process = self._free_of_kind(self._kind(job, devices))
        except BaseException:
            self._devices.release(devices, job.gpus)
            raise
        if process is None:
            self._devices.release(devices, job.gpus)
        return process

    def _free_of_kind(self, kind: WorkerKind) -> Process | None:
        for process in self._idle():
            if process.kind == kind:
                self._read(process)  # else its death would be the attempt's
                if self.has(process):
                    return process
        if self._clock.monotonic() < self._fork_at:
            return None
        if self._running >= self.slots:
            idle = self._idle()
            if not idle:
                return None
            self.end(idle[0], f"replaced by {kind}")
        return self._start_worker(kind)

    def _kind(self, job: WorkerJob, devices: tuple[str, ...] = ()) -> WorkerKind:
        known = self._kinds.get((job.cpus, devices))
        if known is None:
            known = WorkerKind(threads=max(1, int(job.cpus)), devices=devices, pinned=self._pinned)
            self._kinds[job.cpus, devices] = known
        return known

    def _busy_with_alike(self, job: WorkerJob) -> Process | None:
        """The worker of this kind with the fewest calls, all short, behind which a short one may wait."""
        if not job.short or job.gpus:
            return None
        now, found = self._clock.monotonic(), None
        for process in self._workers.values():
            if (found is None or _load(process) < _load(found)) and self._may_wait(process, job, now):
                found = process
        return found

    def _may_wait(self, process: Process, job: WorkerJob, now: float) -> bool:
        """Whether a short call may wait in this busy worker."""
        return (
            process.ready
            and process.kind == self._kind(job)
            and process.memory == job.task.memory
            and _load(process) <= MOST_AHEAD
            and process.sent_bytes + _bytes_ahead(job) <= AHEAD_BYTES
            and job.task.digest in process.known
            and process.jobs[0].short
            and now - process.since < STUCK_S
        )

    def _start_worker(self, kind: WorkerKind) -> Process:
        process = self.start(kind)
        self._workers[process.pid] = process
        self._refusals = 0
        return process

    def _forks_later(self) -> bool:
        """The system refused a process: whether to try again later. Other workers, if there are any, go on meanwhile."""
        self._refusals += 1
        self._fork_at = self._clock.monotonic() + FORK_AGAIN_S
        return self._running > 0 or self._refusals < MOST_REFUSED

    def _hand_over(self, process: Process, job: WorkerJob) -> None:
        try:
            task = job.task if job.task.digest in process.known else job.with_function()
        except HookeError as error:
            process.jobs.remove(job)
            for attempt in job.attempts:
                del self._process_of[attempt]
            self._devices.release(process.kind.devices, job.gpus)
            self._refuse(job, error)
            return
        process.known.add(task.digest)
        process.used.add(task.digest)
        self._pool.limit(process, task.memory)
        begins = process.jobs[0] is job
        if begins:
            self._say_begun(process, self._clock.now())
        tickets = [process.tickets.issue() for _ in range(job.count - begins)]
        if tickets:
            process.waiting.update(dict.fromkeys(tickets, job))
            first = tickets[0]
            task = msgspec.structs.replace(
                task, ticket=0 if begins else first, also_ticket=first + (not begins)
            )
        if not begins:
            size = _bytes_ahead(job)
            process.sent.append((tickets[-1], size))
            process.sent_bytes += size
        process.channel.hold(msgspec.msgpack.encode(task))

    def _say_begun(self, process: Process, at: float) -> None:
        """Its first attempt has been running since `at`."""
        attempt = process.jobs[0].attempt
        process.since = self._clock.monotonic()
        if attempt not in self._begun:  # else a worker with stale code has sent it back
            self._begun.add(attempt)
            self._say(Begun(at, attempt, process.name))

    def _watch_or_poll(self, process: Process, now: float) -> None:
        """Have the selector watch a worker, unless calls wait in it and its answers come often."""
        polled = len(process.jobs) > 1 and now - process.since < STUCK_S
        if polled == (process in self._polled):
            return
        if polled:
            self._selector.unregister(process.channel)
            self._polled.add(process)
        else:
            self._polled.remove(process)
            self._selector.register(process.channel, selectors.EVENT_READ, process)

    def _recall_stuck(self, now: float) -> None:
        """Give what waits behind an attempt that was expected to be short, and is not, to workers that are free.

        Also if an equal worker has been free for as long: chains that follow one another there go to both.
        """
        idle = self._idle()
        if self._running >= self.slots and not idle:
            return
        bored = [each.kind for each in idle if each.ready and now - each.since >= STUCK_S]
        stuck = [
            each
            for each in self._workers.values()
            if each.waiting
            and (now - each.since >= STUCK_S or each.kind in bored)
            and self._may_begin_elsewhere(each)
        ]
        if sum(self._recall(process) for process in stuck):
            self.dispatch()

    def _may_begin_elsewhere(self, process: Process) -> bool:
        """Whether something waits in a worker that does not follow what runs there."""
        running = process.jobs[0] if process.jobs else None
        return any(
            job.count > 1 if job is running else not self._follows(job) for job in process.waiting.values()
        )

    def _follows(self, job: WorkerJob) -> bool:
        """Whether it needs the result of an attempt that has not ended."""
        return job.task.after is not None and job.task.awaited is None and job.attempt not in self._awaited

    def _recall(self, process: Process) -> int:
        """Take back what waits in a worker; returns how many attempts. They go first in the queue."""
        tickets = process.tickets.take_back()
        back = Counter(job for ticket, job in process.waiting.items() if ticket in tickets)
        if not back:
            return 0
        parts: list[WorkerJob] = []
        whole = {job for job, many in back.items() if many == job.count}
        for job, many in back.items():
            parts.append(job if job in whole else job.part(job.count - many))
            if job not in whole:
                job.recalled += many
        process.jobs = deque(job for job in process.jobs if job not in whole)
        process.waiting = {ticket: job for ticket, job in process.waiting.items() if ticket not in tickets}
        self._requeue(parts)
        return back.total()

    def _requeue(self, jobs: Sequence[WorkerJob]) -> None:
        """These have left their worker without having begun. They go first in the queue; those that follow go where the ones before go."""
        first: list[WorkerJob] = []
        for job in [each.part() for each in jobs]:
            for attempt in job.attempts:
                self._process_of.pop(attempt, None)
            if self._follows(job):
                self._apart[job.attempt] = job
            else:
                first.append(self._with_awaited(job))
        self._queue.extendleft(reversed(first))

    def _with_awaited(self, job: WorkerJob) -> WorkerJob:
        awaited = self._awaited.pop(job.attempt, None)
        if awaited is None:
            return job
        return msgspec.structs.replace(job, task=msgspec.structs.replace(job.task, awaited=awaited))

    def _drop_followers(self, attempt: int) -> None:
        """An attempt has no result: forget what follows it, which its worker does not begin either."""
        while (job := self._followers.pop(attempt, None)) is not None:
            attempt = job.attempt
            self._apart.pop(attempt, None)
            process = self._process_of.pop(attempt, None)
            if process is not None:
                process.jobs.remove(job)
                process.waiting = {
                    ticket: waiting for ticket, waiting in process.waiting.items() if waiting is not job
                }

    def _advance_follower(self, attempt: int, ref: Ref) -> None:
        """An attempt has its result: what follows it may begin, in its worker or in any other one."""
        job = self._followers.pop(attempt, None)
        if job is None:
            return
        self._awaited[job.attempt] = ref.without_files()
        if self._apart.pop(job.attempt, None) is not None:
            self._queue.append(self._with_awaited(job))

    def _refuse(self, job: WorkerJob, error: HookeError) -> None:
        for call in job.part().task.calls():
            task = job.task.of(call)
            failure = failure_of(error, arguments=task.shown)
            self._drop_followers(task.attempt)
            self._say(task.failed(self._clock.now(), failure))

    # -- what workers say --------------------------------------------------------------------------------

    def _read(self, process: Process) -> None:
        """Everything that a worker has said; its death where its socket is at the end."""
        if self.ranks.has(process):
            self.ranks.read(process)
            return
        if not self.has(process):
            return  # it was ended since the loop looked
        messages, lives = process.channel.take()
        for data in messages:
            self._heard(process, data)
            if not self.has(process):
                return
        if lives:
            self._end_if_cancelled(process)
        else:
            self._died(process)

    def _heard(self, process: Process, data: bytes) -> None:
        if data == READY:
            self.ready(process)
            if process.jobs:
                self._hand_over(process, process.jobs[0])
        elif data == STALE:
            job = self._freed(process)
            self.end(
                process,
                "its code is not that of a fresh worker: a file was edited, or a task replaced a function",
            )
            if job is not None:
                if process.ready:
                    self._begun.add(job.attempt)
                self._requeue([job])
        else:
            self._answered(process, _answers.decode(data))

    def _answered(self, process: Process, answer: Answer) -> None:
        """Attempts are answered in the order in which they were handed over."""
        many = len(answer.attempts) if isinstance(answer, CallsFinished) else 1
        job = process.jobs[0]
        if many < job.count:
            self._forget_attempts(job.attempts[:many])
            job.ended += many
        else:
            self._freed(process)
        self._say(answer)
        if isinstance(answer, CallsFinished):
            for attempt, ref in zip(answer.attempts, answer.refs, strict=True):
                self._awaited.pop(attempt, None)
                self._advance_follower(attempt, ref)
        else:
            self._awaited.pop(answer.attempt, None)
            if isinstance(answer, AttemptFinished):
                self._advance_follower(answer.attempt, answer.ref)
            else:
                self._drop_followers(answer.attempt)
            if answer.log is not None:
                process.log_from = answer.log.end
        if process.jobs:
            self._say_begun(process, answer.at)
        else:
            process.since = self._clock.monotonic()
            self._shrink()

    def _died(self, process: Process) -> None:
        job = process.jobs[0] if process.jobs else None
        begun = job is not None and job.attempt in self._begun
        if self._recall(process) and job not in process.jobs:
            job = None  # it died between two attempts, and the later one is in the queue again
        running = self._freed_running(process) if job is not None else None
        ended = self.lost(process)
        if job is None or running is None:
            return
        if not begun:
            self._take_back(process, job)
            return
        if running.attempt != job.attempt:
            self._say(Begun(self._clock.now(), running.attempt, process.name))
        failure = exit_failure(process, ended, running.task)
        self._awaited.pop(running.attempt, None)
        self._drop_followers(running.attempt)
        self._say(running.task.failed(self._clock.now(), failure, process.name))

    def _take_back(self, process: Process, job: WorkerJob) -> None:
        """Requeue the attempt that a worker did not begin; not without end, should workers be unable to start."""
        self._unborn += 1
        if self._unborn <= MOST_UNBORN:
            self._requeue([job])
            return
        error = HookeError(
            f"{self._unborn} workers in a row ended before they were ready",
            where=f"{process.log} on {self._machine}" if self._machine else str(process.log),
            why="\n".join(last_lines(process.log, process.log_from, 20)),
            next="hooke doctor",
        )
        self._refuse(job, error)

    def _end_if_cancelled(self, process: Process) -> None:
        """An attempt that was cancelled while it waited ends its worker when it comes to run."""
        if self._cancelled and process.jobs and process.jobs[0].attempts[-1] in self._cancelled:
            self._freed_running(process)
            self.end(process, "its attempt was cancelled")

    def _freed_running(self, process: Process) -> WorkerJob:
        """Take the attempt that runs from a worker, the last of its group. Those before it have ended, and nobody knows how: they go back to the queue."""
        job = process.jobs[0]
        begun = job.attempt in self._begun
        self._freed(process)
        if begun and job.count > 1:
            self._begun.add(job.attempt)
            self._requeue([job.part(0, job.count - 1)])
            return job.part(job.count - 1)
        return job.part()

    def _freed(self, process: Process) -> WorkerJob | None:
        """Take the first attempt, or group of them, from a worker."""
        job = process.jobs.popleft() if process.jobs else None
        if job is not None:
            self._forget_attempts(job.attempts)
            self._devices.release(process.kind.devices, job.gpus)
            self._has_read(process, job)
        return job

    def _forget_attempts(self, attempts: Sequence[int]) -> None:
        self._cancelled.difference_update(attempts)
        self._begun.difference_update(attempts)
        for attempt in attempts:
            self._process_of.pop(attempt, None)

    def _has_read(self, process: Process, job: WorkerJob) -> None:
        """An attempt has left a worker: what was sent before it does not lie in the socket any more."""
        ticket = next(iter(process.waiting), 0)
        while process.waiting.get(ticket) is job:
            del process.waiting[ticket]
            while process.sent and process.sent[0][0] <= ticket:
                process.sent_bytes -= process.sent.popleft()[1]
            ticket = next(iter(process.waiting), 0)
        if not process.jobs:  # it waits for more, or reads the rest of what was taken back
            process.sent.clear()
            process.sent_bytes = 0

    def _forget(self, process: Process) -> None:
        """The worker is no longer the loop's; what waits there goes to another one."""
        if process in self._polled:
            self._polled.remove(process)
        else:
            with contextlib.suppress(KeyError):  # Ctrl-C came before the next line, and `close` comes again
                self._selector.unregister(process.channel)
        self._workers.pop(process.pid, None)
        process.waiting.clear()
        jobs, process.jobs = process.jobs, deque[WorkerJob]()
        for job in jobs:
            for attempt in job.attempts:
                self._process_of.pop(attempt, None)
        self._requeue([part for job in jobs for part in _without(job, self._cancelled)])
        for job in jobs:
            self._cancelled.difference_update(job.attempts)

    def _shrink(self) -> None:
        for process in self._idle()[: max(0, self._running - self.slots)]:
            self.end(process, "the fleet was made smaller")


def _bytes_ahead(job: WorkerJob) -> int:
    """About how many bytes of a worker's socket an attempt fills."""
    task = job.task
    size = len(task.payload) + len(task.keys) + len(task.shown) + FRAME_BYTES
    size += sum([len(call.payload) + len(call.shown) + ALSO_BYTES for call in task.also])
    if task.variables:
        size += sum(len(name) + len(value or "") for name, value in task.variables.items())
    return size


def _has(process: Process, attempt: int) -> bool:
    return any(attempt in job.attempts for job in process.jobs)


def _load(process: Process) -> int:
    """How many attempts it has."""
    return sum([job.count for job in process.jobs])


def _without(job: WorkerJob, attempts: Collection[int]) -> list[WorkerJob]:
    """The job without these attempts: as it is, or in parts."""
    numbers = job.attempts
    gone = [at for at, attempt in enumerate(numbers) if attempt in attempts]
    if not gone:
        return [job]
    bounds = zip([0, *(at + 1 for at in gone)], [*gone, len(numbers)], strict=True)
    return [job.part(lo, hi) for lo, hi in bounds if lo < hi]
