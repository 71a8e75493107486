"""The embedded default: processes of this machine.

A worker is a fork of a clean process, never of the driver. Its thread pools match the cpus of the tasks it
runs, so workers are kept by thread count. Each leads a process group, so that ending it ends what its task
started.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import writing
from hooke.engines.local.local_gangs import GangFactory, LocalGangs
from hooke.engines.worker.fork_server import ForkEnded
from hooke.engines.worker.lost_attempts import code_and_signal, death, how_it_ended
from hooke.engines.worker.pool import LocalPool, Process, WorkerKind, shared_pool
from hooke.engines.worker.script import module_path, script_of_this_process
from hooke.engines.worker.worker import READY, STALE, Hello, task_of
from hooke.journal.events import AttemptFailed, AttemptFinished, CapacityChanged, WorkerStarted, WorkerStopped
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices, cpus_here, memory_here
from hooke.processes.exit_report import death_tail, last_lines

__all__ = ["LocalEngine"]

MOST_UNBORN = 3
"""One worker may be killed as it starts, by chance; so many in a row have a reason."""

MOST_AHEAD = 8
"""Short calls that wait in a worker's socket behind the one that runs, so that it need not wait for the driver between."""

AHEAD_BYTES = 4096
"""The largest payload that waits there: all of them fit the socket's buffer, so that handing one over never blocks."""

_ANSWERS = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


class LocalEngine:
    """Runs attempts in worker processes, each one at a time. Workers start when there is work for them.

    Short calls are handed to a worker ahead of time; those that have not begun when it ends go to another.
    """

    capabilities = Capabilities(
        name="local",
        isolated=True,
        cancels=True,
        elastic=True,
        knows_signal=True,
        knows_peak_memory=True,
        pins=hasattr(os, "sched_setaffinity"),
        gangs=True,
    )

    def __init__(
        self,
        context: EngineContext,
        *,
        workers: tuple[int, int] | None = None,
        devices: Devices | None = None,
    ) -> None:
        """`workers` is (lowest, highest); None is as many as this process may use cpus. `devices`: this machine's GPUs."""
        self._context = context
        self._pool = shared_pool() if context.warm else LocalPool()
        self._pinned = context.pinned and self.capabilities.pins
        self._devices = devices if devices is not None else self._pool.devices
        self._cpus = cpus_here()
        self._target = workers[1] if workers is not None else self._cpus
        self._events: list[EngineEvent] = []
        self._queue: deque[Call] = deque()
        self._processes: dict[int, Process] = {}
        self._selector = selectors.DefaultSelector()
        self._started = 0
        self._unborn = 0
        self._begun: set[int] = set()
        self._given_up: set[int] = set()
        yard = GangFactory(start=self._start, end=self._end, lose=self._lose, again=self._queue.appendleft)
        self._gangs = LocalGangs(context, self._pool, self._devices, yard)
        self._announce()
        if context.ready_for is not None:
            self._start_all(context.ready_for)

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts and hand each to a worker as soon as one is free."""
        self._queue.extend(calls)
        self._dispatch()

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """What happened since; at most `timeout_s` of waiting."""
        if not self._events:
            self._poll(timeout_s)
        events = self._events
        self._events = []
        return events

    def cancel(self, attempt: int) -> None:
        """Take a queued attempt back; end the worker of one that runs."""
        for call in [call for call in self._queue if call.attempt == attempt]:
            self._queue.remove(call)
        self._gangs.cancel(attempt)
        for process in list(self._processes.values()):
            if attempt in [call.attempt for call in process.calls]:
                self._given_up.add(attempt)
                self._end_if_given_up(process)
        self._dispatch()

    def scale(self, workers: int) -> None:
        """Change the number of workers; those too many end when what they run has ended."""
        self._target = workers
        self._announce()
        self._shrink()
        self._dispatch()

    def close(self) -> None:
        """End every worker, busy ones at once; with `context.warm` idle ones are kept for the next run of this process."""
        self._queue.clear()
        self._gangs.close()
        for process in list(self._processes.values()):
            self._forget(process)
            if not process.calls and process.ready and self._context.warm:
                self._pool.give_back(process)
            else:
                self._pool.end(process)
        self._selector.close()
        if not self._context.warm:
            self._pool.close()

    # -- inside ------------------------------------------------------------------------------------

    def _announce(self) -> None:
        self._events.append(
            CapacityChanged(
                at=self._context.clock.now(),
                slots=self._target,
                cpus=float(max(self._cpus, self._target)),
                memory=memory_here(),
                gpus=float(len(self._devices)),
            )
        )

    def _dispatch(self) -> None:
        for _ in range(len(self._queue)):
            call = self._queue.popleft()
            try:
                if call.gang:
                    if not self._muster(call):
                        self._queue.append(call)
                    continue
                process = self._worker_for(call)
            except HookeError as error:
                self._refuse(call, error)
                continue
            if process is None:
                self._queue.append(call)
                continue
            process.calls.append(call)
            if process.ready:
                self._prepare(process, call)
        for process in self._processes.values():
            if process.channel.holds:
                self._send(process)

    def _worker_for(self, call: Call) -> Process | None:
        """A free worker with the right thread count; a new one where the fleet may grow or a misfit can go."""
        for process in [process for process in self._processes.values() if not process.calls]:
            if not self._pool.watches(process):
                self._end(process, "the fork server that watched it is gone")
        free = [process for process in self._processes.values() if not process.calls]
        if not free and len(self._processes) >= self._target:
            return self._busy_with_alike(call)
        devices = self._devices.take(call.image.name, call.gpus)
        if devices is None:
            return None
        kind = self._kind(call, devices)
        for process in free:
            if process.kind == kind:
                return process
        if len(self._processes) >= self._target:
            self._end(free[0], f"replaced by {kind}")
        try:
            return self._start(kind)
        except HookeError:
            self._devices.release(devices, call.gpus)
            raise

    def _muster(self, call: Call) -> bool:
        """Begin with a gang where there is room for all of it: idle workers make way. False, and nothing is begun, where not.

        One that was handed out just before the fleet was made too small for it begins when nothing else runs.
        """
        idle = [process for process in self._processes.values() if not process.calls]
        busy = len(self._processes) - len(idle)
        if busy and busy + call.gang > self._target:
            return False
        for process in idle[: max(0, len(self._processes) + call.gang - self._target)]:
            self._end(process, f"it makes way for a gang of {call.gang}")
        return self._gangs.muster(call, self._kind(call))

    def _kind(self, call: Call, devices: tuple[str, ...] = ()) -> WorkerKind:
        return WorkerKind(threads=max(1, int(call.cpus)), devices=devices, pinned=self._pinned)

    def _busy_with_alike(self, call: Call) -> Process | None:
        """The worker of this kind with the fewest calls, all short, behind which a short one may wait."""
        if not call.short or call.gpus or len(call.payload) + len(call.keys) > AHEAD_BYTES:
            return None
        kind = self._kind(call)
        alike = [
            process
            for process in self._processes.values()
            if process.ready
            and process.kind == kind
            and process.memory == call.memory
            and len(process.calls) <= MOST_AHEAD
            and call.image.digest in process.known
            and all(waiting.short for waiting in process.calls)
        ]
        return min(alike, key=lambda process: len(process.calls), default=None)

    def _start_all(self, cpus: float) -> None:
        """Start every worker before there is work for it. Raises HookeError, after which none is left."""
        try:
            for _ in range(self._target):
                self._start(WorkerKind(threads=max(1, int(cpus)), pinned=self._pinned))
        except BaseException:
            self.close()
            raise

    def _start(self, kind: WorkerKind) -> Process:
        self._started += 1
        name = f"local-{self._started}"
        with writing("the run's logs", self._context.logs):
            self._context.logs.mkdir(parents=True, exist_ok=True)
        hello = Hello(
            worker=name,
            sys_path=module_path(),
            store=self._context.store.place,
            secret=self._context.secret,
            log=str(self._context.logs / f"{name}.log"),
            folder=str(self._context.folder),
            durable=self._context.durable,
            tracking=None if self._context.tracking is None else str(self._context.tracking),
            script=script_of_this_process(),
        )
        process = self._pool.take(hello, kind)
        self._processes[process.pid] = process
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        return process

    def _prepare(self, process: Process, call: Call) -> None:
        new = call.image.digest not in process.known
        try:
            image = call.image.pickle() if new else None
        except HookeError as error:
            process.calls.remove(call)
            self._devices.release(process.kind.devices, call.gpus)
            self._refuse(call, error)
            return
        process.known.add(call.image.digest)
        self._pool.limit(process, call.memory)
        process.channel.hold(msgspec.msgpack.encode(task_of(call, image)))
        if process.calls[0] is call:
            self._say_begun(process)

    def _send(self, process: Process) -> None:
        # It may have died before it has all of this; what it said before that is read, and its end seen.
        with contextlib.suppress(OSError):
            process.channel.flush()

    def _say_begun(self, process: Process) -> None:
        """Its first call runs now."""
        call = process.calls[0]
        if call.attempt not in self._begun:  # else a worker with stale code has sent it back
            self._begun.add(call.attempt)
            self._events.append(call.began(self._context.clock.now(), worker=process.name))

    def _end_if_given_up(self, process: Process) -> None:
        """A call that was cancelled while it waited ends its worker when it comes to run."""
        if process.calls and process.calls[0].attempt in self._given_up:
            self._free(process)
            self._end(process, "its attempt was cancelled")

    def _free(self, process: Process) -> Call | None:
        """The call that the worker had to do, which it has no more."""
        call = process.calls.popleft() if process.calls else None
        if call is not None:
            self._given_up.discard(call.attempt)
            self._begun.discard(call.attempt)
            self._devices.release(process.kind.devices, call.gpus)
        return call

    def _take_back(self, process: Process) -> None:
        """Give another worker the attempt that this one did not begin; not for ever, should workers be unable to start."""
        call = self._free(process)
        if call is None:
            return
        self._unborn += 1
        if self._unborn <= MOST_UNBORN:
            self._queue.appendleft(call)
            return
        tail = "\n".join(last_lines(process.log, process.log_from, 20))
        error = HookeError(
            f"{self._unborn} workers in a row ended before they could begin",
            where=str(process.log),
            why=tail,
            next="hooke doctor",
        )
        self._refuse(call, error)

    def _refuse(self, call: Call, error: HookeError) -> None:
        failure = failure_of(error, arguments=call.shown)
        self._events.append(call.failed(self._context.clock.now(), failure))

    def _poll(self, timeout_s: float) -> None:
        if not self._processes:
            time.sleep(timeout_s)
            return
        for key, _ in self._selector.select(timeout_s):
            self._read(key.data)
        self._events += self._gangs.late()
        self._dispatch()

    def _read(self, process: Process) -> None:
        """Everything that this worker has said; its death where the socket is at its end."""
        if self._gangs.has(process):
            self._events += self._gangs.heard(process)
            return
        if process.pid not in self._processes:
            return  # it went with its gang, in this very turn
        messages, lives = process.channel.take()
        for data in messages:
            self._heard(process, data)
            if process.pid not in self._processes:
                return
        if not lives:
            if process.calls and process.calls[0].attempt not in self._begun:
                self._take_back(process)
            self._died(process)

    def _heard(self, process: Process, data: bytes) -> None:
        if data == READY:
            process.ready = True
            self._unborn = 0
            process.log_from = process.log.stat().st_size if process.log.exists() else 0
            now = self._context.clock.now()
            self._events.append(WorkerStarted(at=now, worker=process.name, pid=process.pid))
            if process.calls:
                self._prepare(process, process.calls[0])
        elif data == STALE:
            call = self._free(process)
            self._end(process, "it had imported code that was edited since")
            if call is not None:
                if process.ready:
                    self._begun.add(call.attempt)
                self._queue.appendleft(call)
        else:
            self._answered(process, _ANSWERS.decode(data))

    def _answered(self, process: Process, answer: AttemptFinished | AttemptFailed) -> None:
        """Calls are answered in the order in which they were given."""
        self._free(process)
        self._events.append(answer)
        if answer.log is not None:
            process.log_from = answer.log.end
        if process.calls:
            self._say_begun(process)
            self._end_if_given_up(process)
        else:
            self._shrink()

    def _shrink(self) -> None:
        idle = [process for process in self._processes.values() if not process.calls]
        for process in idle[: max(0, len(self._processes) - self._target)]:
            self._end(process, "the fleet was made smaller")

    def _end(self, process: Process, cause: str) -> None:
        self._forget(process)
        self._pool.end(process)
        self._events.append(WorkerStopped(at=self._context.clock.now(), worker=process.name, cause=cause))

    def _forget(self, process: Process) -> None:
        """The worker is not ours any more; what it has not begun goes to another."""
        del self._processes[process.pid]
        self._selector.unregister(process.channel)
        waiting = list(process.calls)[1:]
        for call in reversed(waiting):
            process.calls.pop()
            if call.attempt in self._given_up:
                self._given_up.remove(call.attempt)
            else:
                self._queue.appendleft(call)

    def _died(self, process: Process) -> None:
        self._forget(process)
        ended = self._pool.ended(process)
        call = self._free(process)
        if call is not None:
            tail = death_tail(process.log, process.log_from)
            failure = death(process.name, ended, arguments=call.shown, limit_bytes=call.memory, log_tail=tail)
            self._events.append(call.failed(self._context.clock.now(), failure, worker=process.name))
        self._say_ended(process, ended)

    def _lose(self, process: Process) -> ForkEnded | None:
        """A rank of a gang has died, which sees to the rest."""
        self._forget(process)
        ended = self._pool.ended(process)
        self._say_ended(process, ended)
        return ended

    def _say_ended(self, process: Process, ended: ForkEnded | None) -> None:
        code, number = code_and_signal(ended)
        self._events.append(
            WorkerStopped(
                at=self._context.clock.now(),
                worker=process.name,
                cause=how_it_ended(ended),
                exit_code=code,
                signal=number,
            )
        )
