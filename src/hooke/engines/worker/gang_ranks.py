"""The ranks of gangs on one machine: processes that are started, given the call and ended as the gang coordinator says.

Ranks are fresh processes, because they leave things behind that the next gang must not find: process groups, and the
variables they were made from, which libraries read when they are imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import HookeError, UsageError
from hooke.engines.gang import (
    GATHER,
    BeginRanks,
    EndRanks,
    GangCommand,
    PortKept,
    RankAnswered,
    RankLeaves,
    RankNote,
    RankRange,
    RanksEnded,
    RanksReady,
    Rendezvous,
    ResizeRanks,
    StartRanks,
    environment_of,
)
from hooke.engines.worker.fork_server import ForkEnded
from hooke.engines.worker.pool import Process, WorkerKind
from hooke.engines.worker.worker_deaths import exit_failure, host_failed
from hooke.engines.worker.worker_process import LEAVES, READY, ResizeWanted, WorkerJob, WorkerTask
from hooke.journal.events import AttemptFailed
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices

__all__ = ["RankGroups", "WorkerFactory"]

MOST_EARLY = 256
"""How many commands are kept that came before their ranks."""


class WorkerFactory(Protocol):
    """Starts and ends the processes of ranks."""

    def make_room(self, ranks: int) -> bool:
        """End idle workers until there is room for so many ranks. False where there is none."""
        ...

    def start(self, kind: WorkerKind, memory: int | None = None) -> Process:
        """Start a process. Raises HookeError."""
        ...

    def ready(self, process: Process) -> None:
        """A process is ready: say so."""
        ...

    def lost(self, process: Process) -> ForkEnded | None:
        """A process has died: say so. Returns how it ended."""
        ...

    def end(self, process: Process, cause: str) -> None:
        """End a process, and say why."""
        ...


class _RankGroup(msgspec.Struct, kw_only=True, eq=False):
    """The ranks of one try of a gang that are on this machine."""

    job: WorkerJob
    part: RankRange
    meet: StartRanks | None = None
    """Where the ranks meet, once that is known."""
    started: bool = False
    processes: dict[int, Process] = msgspec.field(default_factory=dict)
    """The living ones, by rank."""
    held: list[tuple[str, ...]] = msgspec.field(default_factory=list)
    """The devices that each rank holds."""
    rendezvous: Rendezvous | None = None

    @property
    def ranks(self) -> range:
        return range(self.part.lo, self.part.hi)


class RankGroups:
    """All ranks of gangs on one machine. Used by one thread at a time, as its factory is."""

    def __init__(
        self,
        factory: WorkerFactory,
        *,
        devices: Devices,
        clock: Clock,
        say: Callable[[RankNote], None],
        pinned: bool,
        address: str,
    ) -> None:
        """`pinned`: whether each is bound to cores of its own. `address` is where other machines reach this one."""
        self._factory = factory
        self._devices = devices
        self._clock = clock
        self._say = say
        self._pinned = pinned
        self._address = address
        self._groups: dict[int, _RankGroup] = {}
        self._early: dict[int, GangCommand] = {}
        """Commands that came before their ranks."""

    @property
    def processes(self) -> int:
        """The number of living ranks."""
        return sum(len(group.processes) for group in self._groups.values())

    def fits(self, job: WorkerJob, part: RankRange) -> bool:
        """Whether there is room for these ranks now; idle workers make way. Raises UsageError where there never is."""
        group = _RankGroup(job=job, part=part)
        if not self._take_devices(group):
            return False
        self._release(group)
        return self._factory.make_room(len(group.ranks))

    def begin(self, job: WorkerJob, part: RankRange) -> None:
        """Take ranks of a gang. They start once it is known where they meet, and there is room for all of them."""
        early = self._early.pop(part.try_id, None)
        if isinstance(early, EndRanks):
            return  # its end was reported when the command came
        group = self._groups[part.try_id] = _RankGroup(job=job, part=part)
        if isinstance(early, StartRanks):
            group.meet = early
        self._guarded(group, self._keep_port)
        self.step()

    def obey(self, command: GangCommand) -> None:
        """Obey the coordinator. Commands about one try may arrive out of order."""
        group = self._groups.get(command.try_id)
        if group is None:
            self._came_early(command)
        elif isinstance(command, StartRanks):
            group.meet = command
            self.step()
        elif isinstance(command, EndRanks):
            self._disband(group, command.cause)
        elif isinstance(command, BeginRanks):
            task = group.job.with_function()
            for process in group.processes.values():
                _give(process, task)
        elif isinstance(command, ResizeRanks):
            if 0 in group.processes:
                _give(group.processes[0], ResizeWanted(ranks=command.ranks, of=group.part.ranks))
        elif 0 in group.processes:
            _give(
                group.processes[0],
                msgspec.structs.replace(
                    group.job.task, kind=GATHER, payload=command.payload, keys=b"", checkpoints=None
                ),
            )

    def step(self) -> None:
        """Start the ranks for which there is room now."""
        for group in list(self._groups.values()):
            if group.meet is not None and not group.started:
                self._guarded(group, self._start)

    def has(self, process: Process) -> bool:
        """Whether the process is a rank of a gang."""
        return any(process in group.processes.values() for group in self._groups.values())

    def read(self, process: Process) -> None:
        """Read what all ranks of its gang have said: a death that can be seen comes before the errors that it caused."""
        group = next(each for each in self._groups.values() if process in each.processes.values())
        for rank, each in list(group.processes.items()):
            messages, lives = each.channel.take()
            for data in messages:
                if data == READY:
                    self._factory.ready(each)
                    self._report_if_ready(group)
                elif data == LEAVES:
                    self._say(RankLeaves(try_id=group.part.try_id))
                else:
                    self._say(RankAnswered(try_id=group.part.try_id, rank=rank, answer=data))
            if not lives:
                self._died(group, rank, each)
        if not group.processes:
            self._disband(group, "all of its ranks have ended")

    def running(self, try_id: int) -> bool:
        """Whether ranks of this try are here."""
        return try_id in self._groups

    def give_up(self, try_id: int) -> None:
        """End ranks that nobody waits for."""
        if group := self._groups.get(try_id):
            self._disband(group, "its gang was given up")

    def close(self) -> None:
        """End all ranks."""
        for group in list(self._groups.values()):
            self._disband(group, "its run is over")

    # -- inside ------------------------------------------------------------------------------------

    def _came_early(self, command: GangCommand) -> None:
        if isinstance(command, EndRanks):
            self._early[command.try_id] = command
            self._say(RanksEnded(try_id=command.try_id))
        elif isinstance(command, StartRanks):
            self._early.setdefault(command.try_id, command)
        while len(self._early) > MOST_EARLY:
            del self._early[next(iter(self._early))]

    def _guarded(self, group: _RankGroup, work: Callable[[_RankGroup], None]) -> None:
        """Do something that may fail; a failure is the answer of the first rank."""
        try:
            work(group)
        except HookeError as error:
            self._refuse(group, error)
        except Exception as error:  # noqa: BLE001 - the coordinator waits for an answer, whatever failed
            self._refuse(group, host_failed(error))

    def _refuse(self, group: _RankGroup, error: HookeError) -> None:
        failure = failure_of(error, arguments=group.job.task.shown)
        self._answer(group, group.part.lo, group.job.task.failed(self._clock.now(), failure))
        self._disband(group, "another rank of its gang could not be started")

    def _keep_port(self, group: _RankGroup) -> None:
        part = group.part
        if part.lo == 0:  # a gang on a single host need not be reached from another one
            alone = part.hi == part.ranks
            group.rendezvous = kept = Rendezvous("127.0.0.1" if alone else self._address)
            self._say(PortKept(try_id=part.try_id, address=kept.address, port=kept.port))

    def _start(self, group: _RankGroup) -> None:
        """Start all ranks, or none while there is no room."""
        if not self._take_devices(group):
            return
        if not self._factory.make_room(len(group.ranks)):
            self._release(group)
            return
        group.started = True
        for rank in group.ranks:
            group.processes[rank] = self._factory.start(self._kind(group, rank), group.job.task.memory)

    def _report_if_ready(self, group: _RankGroup) -> None:
        here = [group.processes.get(rank) for rank in group.ranks]
        if all(process is not None and process.ready for process in here):
            names = [process.name for process in here if process is not None]
            self._say(RanksReady(try_id=group.part.try_id, workers=names))

    def _died(self, group: _RankGroup, rank: int, process: Process) -> None:
        del group.processes[rank]
        failure = exit_failure(process, self._factory.lost(process), group.job.task)
        self._answer(group, rank, group.job.task.failed(self._clock.now(), failure, process.name))

    def _answer(self, group: _RankGroup, rank: int, answer: AttemptFailed) -> None:
        data = msgspec.msgpack.encode(answer)
        self._say(RankAnswered(try_id=group.part.try_id, rank=rank, answer=data))

    def _disband(self, group: _RankGroup, cause: str) -> None:
        del self._groups[group.part.try_id]
        for process in group.processes.values():
            self._factory.end(process, cause)
        if group.rendezvous is not None:
            group.rendezvous.close()
        self._release(group)
        self._say(RanksEnded(try_id=group.part.try_id))

    # -- devices -----------------------------------------------------------------------------------

    def _kind(self, group: _RankGroup, rank: int) -> WorkerKind:
        """Whole devices of all ranks of this machine are visible to each, in their order: `cuda:LOCAL_RANK` is a rank's own, as under torchrun."""
        part, meet, job = group.part, group.meet, group.job
        assert meet is not None
        mine = group.held[rank - part.lo]
        variables = environment_of(rank, part, meet)
        return WorkerKind(
            threads=max(1, int(job.cpus)),
            devices=tuple(name for ids in group.held for name in ids) if job.gpus >= 1 else mine,
            pinned=self._pinned,
            variables=tuple(variables.items()),
        )

    def _take_devices(self, group: _RankGroup) -> bool:
        """Devices for all ranks, or for none."""
        job, ranks = group.job, len(group.ranks)
        if job.gpus * ranks > len(self._devices) + 1e-9:
            raise UsageError(
                f"{ranks} ranks of the gang {job.task.name!r} ask for {job.gpus:g} gpus each, and their machine has {len(self._devices)}",
                fix="run on a backend with more GPUs, or lower gang= or gpus=",
                next="hooke doctor",
            )
        while len(group.held) < ranks:
            ids = self._devices.take(job.task.name, job.gpus)
            if ids is None:
                self._release(group)
                return False
            group.held.append(ids)
        return True

    def _release(self, group: _RankGroup) -> None:
        for ids in group.held:
            self._devices.release(ids, group.job.gpus)
        group.held.clear()


def _give(process: Process, message: WorkerTask | ResizeWanted) -> None:
    with contextlib.suppress(OSError):  # it has ended, or ends now, which is read next
        process.channel.send(msgspec.msgpack.encode(message))
