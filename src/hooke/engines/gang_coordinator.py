"""Gangs on the driver: which host has which ranks, what they reported, and what to do next. Pure: no library, no clock.

All hosts of a gang get the same commands: an order (keep a slot for each rank), StartRanks, BeginRanks once all are ready, and
EndRanks. GatherResults goes to the host of rank 0. The gang is answered when its last host reports that no rank is left, so its slots, its port and its devices are free for the next one. The local engine is one
host, in the driver's process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from hooke.base.errors import HookeError
from hooke.engines.gang import (
    ECHO_S,
    BeginRanks,
    EndRanks,
    Gang,
    GangCommand,
    GatherResults,
    PortKept,
    RankAnswered,
    RankLeaves,
    RankNote,
    RanksEnded,
    RanksReady,
    ResizeRanks,
    StartRanks,
    unpack_answer,
)
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure
from hooke.pipeline.engine import Call, EngineEvent
from hooke.pipeline.failures import failure_of

__all__ = ["GangCoordinator", "RankHosts"]

MOST_UNBORN = 3
"""A single worker may be killed by chance while it starts; so many tries in a row that end so have a common reason."""

BEGIN_WITHIN_S = 60.0
"""On shared hosts, ranks may wait behind other users' tasks, and gangs of two runs for one another. After this time a try
releases its slots, and the next try waits twice as long."""


class RankHosts(Protocol):
    """The hosts of a run, as gangs use them. Nothing here raises for a host that is gone."""

    def place(self, call: Call, try_id: int) -> dict[str, range] | None:
        """Order ranks from hosts that have room for all of them, and return them by address, rank 0 first.

        None, and nothing is ordered, where there is no room. Raises HookeError where the function cannot travel.
        """
        ...

    def speak(self, address: str, attempt: int, command: GangCommand) -> None:
        """Send a command to a host that was given ranks of the attempt."""
        ...

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end its ranks of an attempt."""
        ...

    def free(self, attempt: int) -> None:
        """No rank of the attempt is left anywhere."""
        ...

    def stored(self, digest: str, address: str) -> None:
        """A gang's result was written there."""
        ...


class _GangTry(msgspec.Struct, kw_only=True, eq=False):
    """One try to run a gang."""

    number: int
    outcome: Gang
    parts: dict[str, range]
    """Address -> its ranks."""
    there: set[str]
    """Hosts that may still have ranks of it."""
    since_s: float | None = None
    workers: dict[int, str] = msgspec.field(default_factory=dict)
    """Rank -> its process, once that is ready."""
    begun: bool = False
    gathers: bool = False
    ending: bool = False
    answer: EngineEvent | None = None
    """Reported when the last rank has ended."""
    again: bool = False
    """Whether another try follows."""

    @property
    def call(self) -> Call:
        return self.outcome.call


class GangCoordinator:
    """All gangs of one run."""

    def __init__(
        self, hosts: RankHosts, *, say: Callable[[EngineEvent], None], again: Callable[[Call], None]
    ) -> None:
        """`again` queues an attempt that has not begun, before all others."""
        self._hosts = hosts
        self._say = say
        self._again = again
        self._tries: dict[int, _GangTry] = {}
        self._count = 0
        self._unborn: dict[int, int] = {}
        """Attempt -> how many of its tries ended because a worker did."""
        self._late: dict[int, int] = {}
        """Attempt -> how many of its tries took too long to begin."""

    def start(self, call: Call) -> bool:
        """Send the ranks to hosts. False, and nothing is sent, where there is no room for all of them.

        Raises HookeError where the function cannot travel.
        """
        parts = self._hosts.place(call, self._count + 1)
        if parts is None:
            return False
        self._count += 1
        self._tries[self._count] = _GangTry(
            number=self._count, outcome=Gang(call), parts=parts, there=set(parts)
        )
        return True

    def cancel(self, attempt: int) -> None:
        """Give an attempt up. Its slots are free when its hosts report that no rank is left."""
        for gang in self._of(attempt):
            gang.answer, gang.again = None, False
            if not gang.ending:
                self._end(gang, "its attempt was cancelled")

    def resize(self, attempt: int, ranks: int) -> None:
        """Ask a gang that has begun to end at its next checkpoint, since it should have so many ranks."""
        for gang in self._of(attempt):
            if gang.begun and not gang.ending:
                gang.outcome.wanted = ranks
                command = ResizeRanks(try_id=gang.number, ranks=ranks)
                self._hosts.speak(next(iter(gang.parts)), attempt, command)

    # -- what hosts say ----------------------------------------------------------------------------

    def told(self, address: str, note: RankNote, now: float, now_s: float) -> None:
        """A host reports something of its ranks. `now_s` is of a clock that does not jump."""
        gang = self._tries.get(note.try_id)
        if gang is None or address not in gang.there:
            return  # it was given up
        match note:
            case RanksEnded():
                self._left(gang, address, now, _ended_by_itself)
            case _ if gang.ending:
                return
            case PortKept():
                self._tell_all(gang, StartRanks(try_id=gang.number, address=note.address, port=note.port))
            case RanksReady():
                gang.workers |= dict(zip(gang.parts[address], note.workers, strict=True))
                if len(gang.workers) == gang.call.gang:
                    self._begin(gang, now)
            case RankLeaves():
                gang.outcome.leaves = True
                self._judge(gang, now_s)
            case RankAnswered():
                self._answered(gang, note.rank, unpack_answer(note.answer), now, now_s)

    def returned(self, address: str, attempt: int, now: float) -> None:
        """A host does not know the run (any more), so it has no rank."""
        for gang in self._of(attempt):
            if address in gang.there:
                self._left(gang, address, now, _ended_by_itself)

    def lost(self, address: str, attempt: int, now: float, failure: Callable[[Call], Failure]) -> None:
        """A living host has no answer, or does not listen."""
        for gang in self._of(attempt):
            if address in gang.there:
                self._hosts.cancel(address, attempt)
                self._left(gang, address, now, failure)

    def left(self, address: str, now: float, failure: Callable[[Call], Failure]) -> None:
        """A host is gone, or silent."""
        for gang in list(self._tries.values()):
            self.lost(address, gang.call.attempt, now, failure)

    def late(self, now_s: float) -> None:
        """Judge gangs that have waited for the cause of a failure; retry gangs that take too long to begin. Call it often."""
        for gang in list(self._tries.values()):
            if gang.ending:
                continue
            if gang.begun:
                self._judge(gang, now_s)
                continue
            gang.since_s = now_s if gang.since_s is None else gang.since_s
            late = self._late.get(gang.call.attempt, 0)
            if now_s - gang.since_s > BEGIN_WITHIN_S * 2**late:
                self._late[gang.call.attempt] = late + 1
                gang.again = True
                self._end(gang, "its gang did not come together in time")

    # -- inside ------------------------------------------------------------------------------------

    def _of(self, attempt: int) -> list[_GangTry]:
        return [gang for gang in self._tries.values() if gang.call.attempt == attempt]

    def _tell_all(self, gang: _GangTry, command: StartRanks | BeginRanks | EndRanks) -> None:
        for address in gang.parts:
            if address in gang.there:
                self._hosts.speak(address, gang.call.attempt, command)

    def _begin(self, gang: _GangTry, now: float) -> None:
        """All ranks are ready: only now is each given the call."""
        gang.begun = True
        self._unborn.pop(gang.call.attempt, None)
        self._tell_all(gang, BeginRanks(try_id=gang.number))
        names = tuple(gang.workers[rank] for rank in range(gang.call.gang))
        self._say(gang.call.began(now, worker=names[0], workers=names))

    def _answered(
        self, gang: _GangTry, rank: int, answer: AttemptFinished | AttemptFailed, now: float, now_s: float
    ) -> None:
        if not gang.begun:
            assert isinstance(answer, AttemptFailed)
            self._not_begun(gang, answer, now)
            return
        if gang.gathers and isinstance(answer, AttemptFinished):
            gang.outcome.gathered = answer.ref
        else:
            gang.outcome.heard(rank, answer, now_s)
        self._judge(gang, now_s)

    def _not_begun(self, gang: _GangTry, failed: AttemptFailed, now: float) -> None:
        """A process ended before the gang began, or could not be started."""
        call, unborn = gang.call, self._unborn.get(gang.call.attempt, 0) + 1
        if failed.failure.kind not in ("WorkerDied", "OutOfMemory"):
            gang.answer = failed
        elif unborn < MOST_UNBORN:
            self._unborn[call.attempt] = unborn
            gang.again = True
        else:
            error = HookeError(
                f"workers of the gang ended before it could begin, {MOST_UNBORN} times in a row",
                why="\n".join((failed.failure.message, *failed.failure.log_tail)),
                next="hooke doctor",
            )
            gang.answer = call.failed(now, failure_of(error, arguments=call.shown))
        self._end(gang, "another rank of its gang ended before it began")

    def _judge(self, gang: _GangTry, now_s: float) -> None:
        outcome, first = gang.outcome, next(iter(gang.parts))
        failed = outcome.verdict(now_s)
        if failed is not None:
            gang.answer = failed
            self._end(gang, f"rank {failed.failure.rank} of its gang failed")
        elif outcome.is_done and (outcome.call.results == "rank0" or outcome.gathered is not None):
            gang.answer = result = outcome.result()
            if result.ref is not None and result.ref.inline is None:
                self._hosts.stored(result.ref.digest, first)
            self._end(gang, "its gang is done")
        elif outcome.is_done and not gang.gathers:
            gang.gathers = True
            command = GatherResults(try_id=gang.number, payload=outcome.to_gather)
            self._hosts.speak(first, gang.call.attempt, command)

    def _left(self, gang: _GangTry, address: str, now: float, failure: Callable[[Call], Failure]) -> None:
        """A host has no rank any more. Unless all of them had answered, that ends the gang."""
        answered = gang.outcome.finished.keys() | gang.outcome.failed.keys()
        missing = [rank for rank in gang.parts[address] if rank not in answered]
        if gang.gathers and 0 in gang.parts[address]:
            missing = [0]
        gang.there.discard(address)
        self._close_if_ended(gang)
        if gang.ending or (gang.begun and not missing):
            return
        if not gang.begun:
            gang.again = True
            self._end(gang, "a host of its gang is gone")
            return
        for rank in missing:
            failed = gang.call.failed(now, failure(gang.call), worker=gang.workers[rank])
            gang.outcome.heard(rank, failed, -ECHO_S)  # no cause can follow
        self._judge(gang, 0.0)

    def _end(self, gang: _GangTry, cause: str) -> None:
        gang.ending = True
        self._tell_all(gang, EndRanks(try_id=gang.number, cause=cause))
        self._close_if_ended(gang)

    def _close_if_ended(self, gang: _GangTry) -> None:
        if not gang.ending or gang.there or gang.number not in self._tries:
            return
        del self._tries[gang.number]
        self._hosts.free(gang.call.attempt)
        if gang.again:
            self._again(gang.call)
            return
        self._unborn.pop(gang.call.attempt, None)
        self._late.pop(gang.call.attempt, None)
        if gang.answer is not None:
            self._say(gang.answer)


def _ended_by_itself(call: Call) -> Failure:
    return Failure(
        kind="WorkerDied",
        message="its host ended it",
        arguments=call.shown,
        limit_bytes=call.memory,
        fix="look at that machine: its worker was ended; retries= runs the task elsewhere",
    )
