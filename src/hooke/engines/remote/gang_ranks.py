"""The ranks of gangs on one of several hosts: processes that are started, given the call and ended as the driver says.

What is to be done with what a rank says is the driver's to decide, which hears of all of them (`far_gang`).
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.engines.gang import (
    GATHER,
    BeginRanks,
    Disband,
    Disbanded,
    Gather,
    Meet,
    Met,
    Mustered,
    RankAnswered,
    RankRange,
    Rendezvous,
    Word,
    environment_of,
)
from hooke.engines.remote.worker_protocol import AttemptOrder, Note
from hooke.engines.worker.fork_server import ForkEnded
from hooke.engines.worker.lost_attempts import death, host_failed
from hooke.engines.worker.pool import Process, WorkerKind
from hooke.engines.worker.worker import WorkerTask
from hooke.journal.events import AttemptFailed, Failure
from hooke.pipeline.failures import failure_of
from hooke.processes.devices import Devices
from hooke.processes.exit_report import death_tail

__all__ = ["RankFactory", "RankGroups"]

LOOK_S = 0.02
"""How late a word of the driver may be heard."""

MOST_ENDED = 256
"""Musters that were ended before they came here, which are remembered."""


class RankFactory(Protocol):
    """What a host does for its ranks."""

    @property
    def devices(self) -> Devices:
        """This machine's GPUs."""
        ...

    def start(self, kind: WorkerKind, memory: int | None, given_up: Callable[[], bool]) -> Process:
        """Start a process when there is room for it. Raises EOFError where it is given up before that."""
        ...

    def greet(self, process: Process, given_up: Callable[[], bool]) -> None:
        """Wait until it is ready. Raises EOFError where it ends before that, or is given up."""
        ...

    def lose(self, process: Process) -> ForkEnded | None:
        """One has died: say so, and how it ended."""
        ...

    def end(self, process: Process, cause: str) -> None:
        """End one, and say why."""
        ...

    def failed(self, task: WorkerTask, failure: Failure, worker: str = "") -> AttemptFailed:
        """An answer of a rank that has none of its own."""
        ...


class _DisbandedError(Exception):
    """Nobody waits for the gang any more."""


@dataclass(slots=True, kw_only=True, eq=False)
class _RankGroup:
    """The ranks of one muster that are here."""

    order: AttemptOrder
    part: RankRange
    words: SimpleQueue[Word] = field(default_factory=SimpleQueue)
    processes: dict[int, Process] = field(default_factory=dict)
    """Those that live, by rank."""
    held: list[tuple[str, ...]] = field(default_factory=list)
    """The devices that each rank holds."""
    rendezvous: Rendezvous | None = None
    cause: str = ""
    """Why it is to end; empty while it is not."""


class RankGroups:
    """All parts of gangs on one host. `run` is called in a thread for each, `heard` in any."""

    def __init__(self, yard: RankFactory, *, address: str, tell: Callable[[list[Note]], None]) -> None:
        """`address` is that of this host, as others reach it."""
        self._yard = yard
        self._address = address
        self._tell = tell
        self._lock = threading.Lock()
        self._squads: dict[int, _RankGroup] = {}
        self._early: dict[int, Word] = {}
        """Words that came before their muster."""

    def run(self, order: AttemptOrder, given_up: Callable[[], bool]) -> None:
        """Have the ranks of a gang until they are to end, or are all dead."""
        assert order.part is not None
        squad = _RankGroup(order=order, part=order.part)
        with self._lock:
            early = self._early.pop(squad.part.muster, None)
            if isinstance(early, Disband):
                return  # its end was told when the word came
            if early is not None:
                squad.words.put(early)
            self._squads[squad.part.muster] = squad

        def over() -> bool:
            return bool(squad.cause) or given_up()

        try:
            self._serve(squad, over)
        except _DisbandedError:
            pass
        except HookeError as error:
            self._refuse(squad, error)
        except Exception as error:  # noqa: BLE001 - whatever this machine refuses, the driver waits for an answer
            self._refuse(squad, host_failed(error))
        finally:
            self._disband(squad)

    def heard(self, word: Word) -> None:
        """The driver says something. Words of one muster may come in another order than they were said."""
        with self._lock:
            squad = self._squads.get(word.muster)
            if squad is not None and isinstance(word, Disband):
                squad.cause = word.cause
            elif squad is not None:
                squad.words.put(word)
            elif isinstance(word, (Meet, Disband)):
                if not isinstance(self._early.get(word.muster), Disband):
                    self._early[word.muster] = word
                while len(self._early) > MOST_ENDED:
                    del self._early[next(iter(self._early))]
        if squad is None and isinstance(word, Disband):
            self._tell([Disbanded(muster=word.muster)])

    # -- inside ------------------------------------------------------------------------------------

    def _serve(self, squad: _RankGroup, over: Callable[[], bool]) -> None:
        if squad.part.lo == 0:
            # What is all on one host need not be reached from another.
            alone = squad.part.hi == squad.part.ranks
            squad.rendezvous = meeting = Rendezvous("127.0.0.1" if alone else self._address)
            self._tell([Met(muster=squad.part.muster, address=meeting.address, port=meeting.port)])
        self._start(squad, _place_of(squad, over), over)
        if squad.processes.keys() == set(_ranks(squad)):
            names = [squad.processes[rank].name for rank in _ranks(squad)]
            self._tell([Mustered(muster=squad.part.muster, workers=names)])
        while squad.processes and not over():
            self._look(squad, over)

    def _start(self, squad: _RankGroup, meet: Meet, over: Callable[[], bool]) -> None:
        """All of them, which begin to import at once; one that ends before it is ready has died as later ones do."""
        self._take_devices(squad, over)
        for rank in _ranks(squad):
            kind = self._kind(squad, rank, meet)
            try:
                squad.processes[rank] = self._yard.start(kind, squad.order.task.memory, over)
            except EOFError:
                raise _DisbandedError from None
        for rank, process in list(squad.processes.items()):
            try:
                self._yard.greet(process, over)
            except EOFError:
                if over():
                    raise _DisbandedError from None
                self._died(squad, rank, process)

    def _look(self, squad: _RankGroup, over: Callable[[], bool]) -> None:
        """What the driver said, and what the ranks have."""
        for word in _said(squad):
            if isinstance(word, BeginRanks):
                for process in squad.processes.values():
                    _give(process, squad.order)
            elif isinstance(word, Gather) and 0 in squad.processes:
                task = msgspec.structs.replace(
                    squad.order.task, kind=GATHER, payload=word.payload, pickle=None, parts={}, keys=b""
                )
                _give(squad.processes[0], msgspec.structs.replace(squad.order, task=task))
        waiting = select.poll()
        for process in squad.processes.values():
            if not process.channel.closed:  # else the host is closed in this moment
                waiting.register(process.channel.fileno(), select.POLLIN)
        if waiting.poll(LOOK_S * 1000):
            for rank, process in list(squad.processes.items()):
                if not over():
                    self._read(squad, rank, process)

    def _read(self, squad: _RankGroup, rank: int, process: Process) -> None:
        messages, lives = process.channel.take()
        for data in messages:
            self._tell([RankAnswered(muster=squad.part.muster, rank=rank, answer=data)])
        if not lives:
            self._died(squad, rank, process)

    def _died(self, squad: _RankGroup, rank: int, process: Process) -> None:
        del squad.processes[rank]
        task = squad.order.task
        failure = death(
            process.name,
            self._yard.lose(process),
            arguments=task.shown,
            limit_bytes=task.memory,
            log_tail=death_tail(process.log, process.log_from),
        )
        self._answer(squad, rank, self._yard.failed(task, failure, process.name))

    def _refuse(self, squad: _RankGroup, error: HookeError) -> None:
        """The host cannot have the ranks: its first one says so."""
        failure = failure_of(error, arguments=squad.order.task.shown)
        self._answer(squad, squad.part.lo, self._yard.failed(squad.order.task, failure))

    def _answer(self, squad: _RankGroup, rank: int, answer: AttemptFailed) -> None:
        data = msgspec.msgpack.encode(answer)
        self._tell([RankAnswered(muster=squad.part.muster, rank=rank, answer=data)])

    def _disband(self, squad: _RankGroup) -> None:
        with self._lock:
            del self._squads[squad.part.muster]
        for process in squad.processes.values():
            self._yard.end(process, squad.cause or "nobody waits for its gang any more")
        if squad.rendezvous is not None:
            squad.rendezvous.close()
        self._release(squad)
        self._tell([Disbanded(muster=squad.part.muster)])

    # -- devices -----------------------------------------------------------------------------------

    def _kind(self, squad: _RankGroup, rank: int, meet: Meet) -> WorkerKind:
        """Whole devices of all ranks of this host are visible to each, in their order: `cuda:LOCAL_RANK` is a rank's own, as under torchrun."""
        part, order = squad.part, squad.order
        mine = squad.held[rank - part.lo]
        variables = environment_of(
            rank,
            part.ranks,
            address=meet.address,
            port=meet.port,
            local_rank=rank - part.lo,
            local_ranks=part.hi - part.lo,
        )
        return WorkerKind(
            threads=max(1, int(order.cpus)),
            devices=tuple(name for ids in squad.held for name in ids) if order.gpus >= 1 else mine,
            variables=tuple(variables.items()),
        )

    def _take_devices(self, squad: _RankGroup, over: Callable[[], bool]) -> None:
        """Of all ranks, or of none. Those that a gang before it had are free in a moment."""
        order, ranks = squad.order, len(_ranks(squad))
        if order.gpus * ranks > len(self._yard.devices) + 1e-9:
            raise UsageError(
                f"{ranks} ranks of the gang {order.task.name!r} ask for {order.gpus:g} gpus each, and their host has {len(self._yard.devices)}",
                fix="run at a place with more, or make gang= or gpus= smaller",
            )
        while len(squad.held) < ranks:
            ids = self._yard.devices.take(order.task.name, order.gpus)
            if ids is not None:
                squad.held.append(ids)
                continue
            self._release(squad)
            if over():
                raise _DisbandedError
            threading.Event().wait(LOOK_S)

    def _release(self, squad: _RankGroup) -> None:
        for ids in squad.held:
            self._yard.devices.release(ids, squad.order.gpus)
        squad.held.clear()


def _ranks(squad: _RankGroup) -> range:
    return range(squad.part.lo, squad.part.hi)


def _place_of(squad: _RankGroup, over: Callable[[], bool]) -> Meet:
    """Where the ranks are to meet, when the driver says it."""
    while not over():
        with contextlib.suppress(Empty):
            word = squad.words.get(timeout=LOOK_S)
            if isinstance(word, Meet):
                return word
    raise _DisbandedError


def _said(squad: _RankGroup) -> Iterator[Word]:
    while not squad.words.empty():
        yield squad.words.get()


def _give(process: Process, order: AttemptOrder) -> None:
    with contextlib.suppress(OSError):  # it died just now, as will be seen
        process.channel.send(msgspec.msgpack.encode(order.task))
