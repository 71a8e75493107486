"""Gangs of the local engine: their ranks are fresh processes, which begin together and end together.

Fresh, because ranks leave things behind that the next gang must not find: process groups, and the variables they
were made from, which libraries read when they are imported. The last one to finish ends them all, since rank 0 may
serve the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.engines.gang import GATHER, Gang, Rendezvous, environment_of
from hooke.engines.worker.fork_server import ForkEnded
from hooke.engines.worker.lost_attempts import death
from hooke.engines.worker.pool import LocalPool, Process, WorkerKind
from hooke.engines.worker.worker import READY, task_of
from hooke.journal.events import AttemptFailed, AttemptFinished, WorkerStarted
from hooke.pipeline.engine import Call, EngineContext, EngineEvent
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices
from hooke.processes.exit_report import death_tail, last_lines

__all__ = ["GangFactory", "LocalGangs"]

MOST_UNBORN = 3
"""One worker may be killed as it starts, by chance; so many in a row have a reason."""

Held = list[tuple[str, ...]]
"""The devices that each rank holds."""

_ANSWERS = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


@dataclass(frozen=True, slots=True, kw_only=True)
class GangFactory:
    """What the engine does for its gangs."""

    start: Callable[[WorkerKind], Process]
    """Start a worker and count it among the engine's own."""
    end: Callable[[Process, str], None]
    """End one, and say why."""
    lose: Callable[[Process], ForkEnded | None]
    """One has died: say so, and how it ended."""
    again: Callable[[Call], None]
    """Queue an attempt that has not begun, before all others."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Crew:
    """One gang and its processes, by rank."""

    gang: Gang
    rendezvous: Rendezvous
    held: Held
    processes: dict[int, Process]
    """Those that live."""
    image: bytes
    begun: bool = False
    gathers: bool = False


class LocalGangs:
    """All gangs of one engine. `muster` begins one; `heard` is asked whenever a process of one may have said something."""

    def __init__(self, context: EngineContext, pool: LocalPool, devices: Devices, yard: GangFactory) -> None:
        self._context = context
        self._pool = pool
        self._devices = devices
        self._yard = yard
        self._crews: list[_Crew] = []
        self._unborn: dict[int, int] = {}
        """Attempt -> how often a worker of it ended before it began."""

    def muster(self, call: Call, kind: WorkerKind) -> bool:
        """Start the processes of a gang, for which there are slots; False where its devices are not free.

        Raises HookeError where that cannot be, after which none of it is left.
        """
        image = call.image.pickle()
        held = self._take_devices(call)
        if held is None:
            return False
        try:
            meeting = Rendezvous()
        except OSError as error:
            self._release(held, call.gpus)
            raise HookeError(
                f"no port could be kept for the gang {call.image.name!r}", why=str(error), next="hooke doctor"
            ) from error
        crew = _Crew(gang=Gang(call), rendezvous=meeting, held=held, processes={}, image=image)
        self._crews.append(crew)
        try:
            for rank in range(call.gang):
                process = self._yard.start(self._kind(kind, crew, rank))
                process.calls.append(call)
                self._pool.limit(process, call.memory)
                crew.processes[rank] = process
        except BaseException:
            self._disband(crew, "another rank of its gang could not be started")
            raise
        return True

    def has(self, process: Process) -> bool:
        """Whether the process is a rank of a gang."""
        return self._of(process) is not None

    def heard(self, process: Process) -> list[EngineEvent]:
        """What came of a gang, of which this process or another may have said something or died."""
        crew = self._of(process)
        return list(self._looked(crew)) if crew is not None else []

    def late(self) -> list[EngineEvent]:
        """What comes of gangs of which nothing was heard: those that waited to be told who is to blame."""
        return [event for crew in list(self._crews) for event in self._judged(crew)]

    def cancel(self, attempt: int) -> None:
        """End the gang of an attempt, if it is here."""
        for crew in [crew for crew in self._crews if crew.gang.call.attempt == attempt]:
            self._disband(crew, "its attempt was cancelled")

    def close(self) -> None:
        """Forget all of them; their processes are the engine's to end."""
        for crew in self._crews:
            crew.rendezvous.close()
            self._release(crew.held, crew.gang.call.gpus)
        self._crews.clear()

    # -- inside ------------------------------------------------------------------------------------

    def _of(self, process: Process) -> _Crew | None:
        return next((crew for crew in self._crews if process in crew.processes.values()), None)

    def _kind(self, kind: WorkerKind, crew: _Crew, rank: int) -> WorkerKind:
        """As each of its call, with the rank's variables. Whole devices of all ranks are visible to each, in their order.

        So `cuda:LOCAL_RANK` is a rank's own where each has one, as it is under torchrun.
        """
        call, meeting = crew.gang.call, crew.rendezvous
        mine = crew.held[rank]
        visible = tuple(name for ids in crew.held for name in ids) if call.gpus >= 1 else mine
        variables = environment_of(rank, call.gang, address=meeting.address, port=meeting.port)
        return replace(kind, devices=visible, variables=tuple(variables.items()))

    def _take_devices(self, call: Call) -> Held | None:
        if call.gpus * call.gang > len(self._devices) + 1e-9:
            raise UsageError(
                f"the gang {call.image.name!r} asks for {call.gang} times {call.gpus:g} gpus, and this machine has {len(self._devices)}",
                fix="run at a place with more, or make gang= or gpus= smaller",
                next="hooke doctor",
            )
        held: Held = []
        for _ in range(call.gang):
            ids = self._devices.take(call.image.name, call.gpus)
            if ids is None:
                self._release(held, call.gpus)
                return None
            held.append(ids)
        return held

    def _release(self, held: Held, gpus: float) -> None:
        for ids in held:
            self._devices.release(ids, gpus)
        held.clear()

    def _looked(self, crew: _Crew) -> Iterator[EngineEvent]:
        """Take in what all its processes have said: a death that is to be seen comes before the errors that it caused."""
        for rank, process in list(crew.processes.items()):
            messages, lives = process.channel.take()
            for data in messages:
                if data == READY:
                    yield self._ready(process)
                else:
                    self._answered(crew, rank, process, _ANSWERS.decode(data))
            if not lives:
                self._died(crew, rank, process)
        if not crew.begun and len(crew.processes) < crew.gang.call.gang:
            yield from self._begin_again(crew)
        elif not crew.begun and all(process.ready for process in crew.processes.values()):
            yield self._begin(crew)
        else:
            yield from self._judged(crew)

    def _ready(self, process: Process) -> WorkerStarted:
        process.ready = True
        process.log_from = process.log.stat().st_size if process.log.exists() else 0
        return WorkerStarted(at=self._now(), worker=process.name, pid=process.pid)

    def _begin(self, crew: _Crew) -> EngineEvent:
        """All are there: only now is each given the call."""
        call, crew.begun = crew.gang.call, True
        self._unborn.pop(call.attempt, None)
        data = msgspec.msgpack.encode(task_of(call, crew.image))
        for process in crew.processes.values():
            with contextlib.suppress(OSError):  # it died just now, as will be seen
                process.channel.send(data)
        names = tuple(process.name for process in crew.processes.values())
        return call.began(self._now(), worker=names[0], workers=names)

    def _begin_again(self, crew: _Crew) -> Iterator[EngineEvent]:
        """A process ended before the gang began."""
        call = crew.gang.call
        failed = next(iter(crew.gang.failed.values()))
        self._disband(crew, "another rank of its gang ended before it began")
        times = self._unborn[call.attempt] = self._unborn.get(call.attempt, 0) + 1
        if times < MOST_UNBORN:
            self._yard.again(call)
            return
        log = self._context.logs / f"{failed.worker}.log"
        error = HookeError(
            f"workers of the gang ended before it could begin, {times} times in a row",
            where=str(log),
            why="\n".join(last_lines(log, 0, 20)),
            next="hooke doctor",
        )
        yield call.failed(self._now(), failure_of(error, arguments=call.shown))

    def _answered(
        self, crew: _Crew, rank: int, process: Process, answer: AttemptFinished | AttemptFailed
    ) -> None:
        if answer.log is not None:
            process.log_from = answer.log.end
        if crew.gathers and isinstance(answer, AttemptFinished):
            crew.gang.gathered = answer.ref
            return
        crew.gang.heard(rank, answer, self._context.clock.monotonic())

    def _died(self, crew: _Crew, rank: int, process: Process) -> None:
        del crew.processes[rank]
        call = crew.gang.call
        ended = self._yard.lose(process)
        tail = death_tail(process.log, process.log_from)
        failure = death(process.name, ended, arguments=call.shown, limit_bytes=call.memory, log_tail=tail)
        answer = call.failed(self._now(), failure, worker=process.name)
        crew.gang.heard(rank, answer, self._context.clock.monotonic())

    def _judged(self, crew: _Crew) -> Iterator[EngineEvent]:
        gang = crew.gang
        failed = gang.verdict(self._context.clock.monotonic())
        if failed is not None:
            self._disband(crew, f"rank {failed.failure.rank} of its gang failed")
            yield failed
        elif gang.is_done and (gang.call.results == "rank0" or gang.gathered is not None):
            self._disband(crew, "its gang is done")
            yield gang.result()
        elif gang.is_done and not crew.gathers:
            self._gather(crew)

    def _gather(self, crew: _Crew) -> None:
        crew.gathers = True
        task = msgspec.structs.replace(
            task_of(crew.gang.call, None), kind=GATHER, payload=crew.gang.to_gather, keys=b""
        )
        first = crew.processes.get(0)  # it may have died after its answer, and is judged then
        if first is not None:
            with contextlib.suppress(OSError):  # it died just now, as will be seen
                first.channel.send(msgspec.msgpack.encode(task))

    def _disband(self, crew: _Crew, cause: str) -> None:
        self._crews.remove(crew)
        crew.rendezvous.close()
        for process in crew.processes.values():
            self._yard.end(process, cause)
        self._release(crew.held, crew.gang.call.gpus)

    def _now(self) -> float:
        return self._context.clock.now()
