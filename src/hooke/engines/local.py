"""The embedded default: a worker loop in the driver's process. A worker is a fork of a clean process, never of the driver."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from hooke.base.errors import HookeError
from hooke.engines.gang import GangCommand, RankNote, RankRange
from hooke.engines.gang_coordinator import GangCoordinator
from hooke.engines.worker.gang_ranks import RankGroups
from hooke.engines.worker.pool import LocalPool, shared_pool
from hooke.engines.worker.script import module_path, script_of_this_process
from hooke.engines.worker.worker_loop import LoopEvent, LoopSettings, WorkerLoop
from hooke.engines.worker.worker_process import Begun, Hello, WorkerJob, task_of
from hooke.journal.events import AttemptFailed, AttemptFinished, CallsFinished, CapacityChanged
from hooke.pipeline.engine import Call, Capabilities, EngineContext, EngineEvent
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices, cpus_here, memory_here

__all__ = ["LocalEngine"]


class LocalEngine:
    """Runs attempts in processes of this machine."""

    capabilities = Capabilities(
        name="local",
        isolated=True,
        cancels=True,
        elastic=True,
        knows_signal=True,
        knows_peak_memory=True,
        pins=hasattr(os, "sched_setaffinity"),
        gangs=True,
        resizes_gangs=True,
        follows=True,
        groups=True,
    )

    def __init__(
        self,
        context: EngineContext,
        *,
        workers: tuple[int, int] | None = None,
        devices: Devices | None = None,
    ) -> None:
        """`workers` is (lowest, highest); None means as many as this process may use CPUs. `devices`: this machine's GPUs."""
        self._context = context
        if context.durable == "each":  # what uses a result begins when that is on the disk, in the journal
            self.capabilities = replace(self.capabilities, follows=False)
        self._pool = shared_pool() if context.warm else LocalPool()
        self._devices = devices if devices is not None else self._pool.devices
        self._cpus = cpus_here()
        self._events: list[EngineEvent] = []
        self._calls: dict[int, Call] = {}
        self._gang_calls: deque[Call] = deque()
        """Gangs that wait for room."""
        self._has_gangs = False
        """Whether there was any."""
        self._notes: deque[RankNote] = deque()
        """For the coordinator, from ranks."""
        self._loop = WorkerLoop(
            LoopSettings(
                slots=workers[1] if workers is not None else self._cpus,
                pinned=context.pinned and self.capabilities.pins,
            ),
            hello=self._hello,
            pool=self._pool,
            devices=self._devices,
            clock=context.clock,
            say=self._say,
        )
        hosts = _ThisMachine(self._loop.ranks)
        self._gangs = GangCoordinator(hosts, say=self._say, again=self._gang_calls.appendleft)
        self._announce()
        if context.ready_for is not None:
            try:
                self._loop.start_all(context.ready_for)
            except BaseException:
                self.close()
                raise

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue the attempts and hand each to a worker as soon as one is free."""
        gangs = [call for call in calls if call.gang]
        self._gang_calls.extend(gangs)
        self._has_gangs = self._has_gangs or bool(gangs)
        single = [call for call in calls if not call.gang] if gangs else calls
        for call in single:
            self._calls.update(dict.fromkeys(call.attempts, call))
        self._advance_gangs()
        self._loop.submit([job for call in single if (job := self._job(call)) is not None])

    def _job(self, call: Call) -> WorkerJob | None:
        """The job of a call; None if the attempt that it follows has failed, which the driver is about to hear."""
        job = _job_of(call, call.image.pickle)
        if call.after is None or call.after in self._calls:
            return job
        for event in self._events:  # it has ended since the driver decided
            for each in event.singly() if isinstance(event, CallsFinished) else (event,):
                if isinstance(each, AttemptFinished) and each.attempt == call.after:
                    task = msgspec.structs.replace(job.task, awaited=each.ref.without_files())
                    return msgspec.structs.replace(job, task=task)
        return None

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """Return the events since the last call, waiting at most `timeout_s` for the first one."""
        if not self._events:
            self._loop.poll(timeout_s)
            self._gangs.late(self._context.clock.monotonic())
            self._advance_gangs()
        events = self._events
        self._events = []
        return events

    def cancel(self, attempt: int) -> None:
        """Drop an attempt that has not begun; end the worker of a running one."""
        for call in [call for call in self._gang_calls if call.attempt == attempt]:
            self._gang_calls.remove(call)
        self._gangs.cancel(attempt)
        self._calls.pop(attempt, None)
        self._loop.cancel(attempt)

    def scale(self, workers: int) -> None:
        """Change the number of workers; surplus ones end when their attempt has ended."""
        self._loop.resize(workers)
        self._announce()
        self._advance_gangs()

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """Ask a gang to end at its next checkpoint."""
        self._gangs.resize(attempt, ranks)

    def close(self) -> None:
        """End every worker, busy ones at once; with `context.warm` idle ones are kept for the next run of this process."""
        self._loop.close(keep_idle=self._context.warm)
        if not self._context.warm:
            self._pool.close()

    # -- inside ------------------------------------------------------------------------------------

    def _announce(self) -> None:
        slots = self._loop.slots
        self._events.append(
            CapacityChanged(
                at=self._context.clock.now(),
                slots=slots,
                cpus=float(max(self._cpus, slots)),
                memory=memory_here(),
                gpus=float(len(self._devices)),
            )
        )

    def _hello(self, number: int) -> Hello:
        context, name = self._context, f"local-{number}"
        return Hello(
            worker=name,
            sys_path=module_path(),
            store=context.store.place,
            secret=context.secret,
            log=str(context.logs / f"{name}.log"),
            folder=str(context.folder),
            root=None if context.root is None else str(context.root),
            durable=context.durable,
            sample_s=context.sample_s,
            tracking=None if context.tracking is None else str(context.tracking),
            mlflow=context.mlflow,
            script=script_of_this_process(),
            code=context.code,
        )

    def _say(self, event: LoopEvent | EngineEvent) -> None:
        if isinstance(event, Begun):
            if call := self._calls.get(event.attempt):  # else it was cancelled
                self._events.append(call.of(event.attempt).began(event.at, worker=event.worker))
        elif isinstance(event, RankNote):
            self._notes.append(event)
        else:
            if isinstance(event, CallsFinished):
                for attempt in event.attempts:
                    self._calls.pop(attempt, None)
            elif isinstance(event, (AttemptFinished, AttemptFailed)):
                self._calls.pop(event.attempt, None)
            self._events.append(event)

    def _advance_gangs(self) -> None:
        """Pass on what ranks have reported, start gangs that have room, and hand out the rest of the room."""
        if not self._has_gangs:
            return
        self._pass_on()
        for _ in range(len(self._gang_calls)):
            call = self._gang_calls.popleft()
            try:
                if not self._gangs.start(call):
                    self._gang_calls.append(call)
            except HookeError as error:
                failure = failure_of(error, arguments=call.shown)
                self._events.append(call.failed(self._context.clock.now(), failure))
            self._pass_on()
        self._loop.dispatch()

    def _pass_on(self) -> None:
        while self._notes:
            clock = self._context.clock
            self._gangs.told(_HERE, self._notes.popleft(), clock.now(), clock.monotonic())


_HERE = ""
"""The address of this machine for the gang coordinator."""


class _ThisMachine:
    """The only host of the local engine's gangs; fulfils `RankHosts`."""

    def __init__(self, ranks: RankGroups) -> None:
        self._ranks = ranks

    def place(self, call: Call, try_id: int) -> dict[str, range] | None:
        """Take the ranks of a gang if there is room for all of them now."""
        image = call.image.pickle()
        job = _job_of(call, lambda: image)
        part = RankRange(try_id=try_id, lo=0, hi=call.gang, ranks=call.gang, most=call.most_ranks)
        if not self._ranks.fits(job, part):
            return None
        self._ranks.begin(job, part)
        return {_HERE: range(call.gang)}

    def speak(self, address: str, attempt: int, command: GangCommand) -> None:  # noqa: ARG002 - there is one address
        """Pass a command to the ranks."""
        self._ranks.obey(command)

    def cancel(self, address: str, attempt: int) -> None:
        """Not called: this machine is never lost."""

    def free(self, attempt: int) -> None:
        """Nothing to do: the loop counts its own slots."""

    def stored(self, digest: str, address: str) -> None:
        """Nothing to do: there is no other machine to choose."""


def _job_of(call: Call, pickle: Callable[[], bytes]) -> WorkerJob:
    return WorkerJob(
        task=task_of(call),
        pickle=pickle,
        parts=call.image.parts,
        cpus=call.cpus,
        gpus=call.gpus,
        short=call.short,
    )
