"""Gangs as their driver sees them: who has which ranks, what these said, and what is to be done now. Pure: no library, no clock.

All hosts of a gang get the same commands: an order (keep a slot for each rank), Meet (start the processes, which meet
there), BeginRanks (all are ready: run), for the results of all ranks Gather, and Disband. The gang is answered when its last
host reports that no rank is left, so its slots, its port and its devices are free for the next one. The local engine is one
host, in the driver's process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from hooke.base.errors import HookeError
from hooke.engines.gang import (
    ECHO_S,
    BeginRanks,
    Disband,
    Disbanded,
    Gang,
    Gather,
    Meet,
    Met,
    Mustered,
    RankAnswered,
    RankNote,
    Word,
)
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure
from hooke.pipeline.engine import Call, EngineEvent
from hooke.pipeline.failures import failure_of

__all__ = ["GangCoordinator", "RankHosts"]

MOST_UNBORN = 3
"""A single worker may be killed by chance while it starts; so many tries in a row that end so have a common reason."""

MUSTER_S = 60.0
"""On hosts that others use too, ranks may wait behind what these run, and two gangs of two runs for one another. After so long a
try gives its slots up and another one begins, which waits twice as long."""

_answers = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


class RankHosts(Protocol):
    """The hosts of a run, as gangs use them. Nothing here raises for a host that is gone."""

    def place(self, call: Call, muster: int) -> dict[str, range] | None:
        """Order ranks from hosts that have room for all of them, and return them by address, rank 0 first.

        None, and nothing is ordered, where there is no room. Raises HookeError where the function cannot travel.
        """
        ...

    def speak(self, address: str, attempt: int, word: Word) -> None:
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


@dataclass(slots=True, kw_only=True, eq=False)
class _Try:
    """One try to run a gang."""

    number: int
    gang: Gang
    parts: dict[str, range]
    """Address -> its ranks."""
    there: set[str]
    """Hosts that may still have ranks of it."""
    since_s: float | None = None
    workers: dict[int, str] = field(default_factory=dict)
    """Rank -> its process, once that is ready."""
    begun: bool = False
    gathers: bool = False
    ending: bool = False
    answer: EngineEvent | None = None
    """Said when it has ended."""
    again: bool = False
    """Whether another try follows."""

    @property
    def call(self) -> Call:
        return self.gang.call


class GangCoordinator:
    """All gangs of one run."""

    def __init__(
        self, hosts: RankHosts, *, say: Callable[[EngineEvent], None], again: Callable[[Call], None]
    ) -> None:
        """`again` queues an attempt that has not begun, before all others."""
        self._hosts = hosts
        self._say = say
        self._again = again
        self._tries: dict[int, _Try] = {}
        self._count = 0
        self._unborn: dict[int, int] = {}
        """Attempt -> how many of its tries ended because a worker did."""
        self._late: dict[int, int] = {}
        """Attempt -> how many of its tries took too long to begin."""

    def muster(self, call: Call) -> bool:
        """Send its ranks to hosts; False, and nothing is sent, where there is no room for all of them.

        Raises HookeError where it cannot travel.
        """
        parts = self._hosts.place(call, self._count + 1)
        if parts is None:
            return False
        self._count += 1
        self._tries[self._count] = _Try(number=self._count, gang=Gang(call), parts=parts, there=set(parts))
        return True

    def cancel(self, attempt: int) -> None:
        """Give an attempt up. Its slots are free when its hosts report that no rank is left."""
        for each in self._of(attempt):
            each.answer, each.again = None, False
            if not each.ending:
                self._end(each, "its attempt was cancelled")

    # -- what hosts say ----------------------------------------------------------------------------

    def told(self, address: str, note: RankNote, now: float, now_s: float) -> None:
        """A host reports something of its ranks. `now_s` is of a clock that does not jump."""
        found = self._tries.get(note.muster)
        if found is None or address not in found.there:
            return  # it was given up
        match note:
            case Disbanded():
                self._left(found, address, now, _ended_by_itself)
            case _ if found.ending:
                return
            case Met():
                self._tell_all(found, Meet(muster=found.number, address=note.address, port=note.port))
            case Mustered():
                found.workers |= dict(zip(found.parts[address], note.workers, strict=True))
                if len(found.workers) == found.call.gang:
                    self._begin(found, now)
            case RankAnswered():
                self._answered(found, note.rank, _answers.decode(note.answer), now, now_s)

    def returned(self, address: str, attempt: int, now: float) -> None:
        """A host does not know the run (any more): no rank is there."""
        for each in self._of(attempt):
            if address in each.there:
                self._left(each, address, now, _ended_by_itself)

    def lost(self, address: str, attempt: int, now: float, failure: Callable[[Call], Failure]) -> None:
        """A host that is there has no answer, or does not listen."""
        for each in self._of(attempt):
            if address in each.there:
                self._hosts.cancel(address, attempt)
                self._left(each, address, now, failure)

    def left(self, address: str, now: float, failure: Callable[[Call], Failure]) -> None:
        """A host is gone, or silent."""
        for each in list(self._tries.values()):
            self.lost(address, each.call.attempt, now, failure)

    def late(self, now_s: float) -> None:
        """Judge gangs that have waited for the cause of a failure, and try those again that take too long to begin. To be called often."""
        for each in list(self._tries.values()):
            if each.ending:
                continue
            if each.begun:
                self._judge(each, now_s)
                continue
            each.since_s = now_s if each.since_s is None else each.since_s
            late = self._late.get(each.call.attempt, 0)
            if now_s - each.since_s > MUSTER_S * 2**late:
                self._late[each.call.attempt] = late + 1
                each.again = True
                self._end(each, "its gang did not come together in time")

    # -- inside ------------------------------------------------------------------------------------

    def _of(self, attempt: int) -> list[_Try]:
        return [each for each in self._tries.values() if each.call.attempt == attempt]

    def _tell_all(self, this: _Try, word: Meet | BeginRanks | Disband) -> None:
        for address in this.parts:
            if address in this.there:
                self._hosts.speak(address, this.call.attempt, word)

    def _begin(self, this: _Try, now: float) -> None:
        """All ranks are ready: only now is each given the call."""
        this.begun = True
        self._unborn.pop(this.call.attempt, None)
        self._tell_all(this, BeginRanks(muster=this.number))
        names = tuple(this.workers[rank] for rank in range(this.call.gang))
        self._say(this.call.began(now, worker=names[0], workers=names))

    def _answered(
        self, this: _Try, rank: int, answer: AttemptFinished | AttemptFailed, now: float, now_s: float
    ) -> None:
        if not this.begun:
            assert isinstance(answer, AttemptFailed)
            self._not_begun(this, answer, now)
            return
        if this.gathers and isinstance(answer, AttemptFinished):
            this.gang.gathered = answer.ref
        else:
            this.gang.heard(rank, answer, now_s)
        self._judge(this, now_s)

    def _not_begun(self, this: _Try, failed: AttemptFailed, now: float) -> None:
        """A process ended before the gang began, or could not be started."""
        call, unborn = this.call, self._unborn.get(this.call.attempt, 0) + 1
        if failed.failure.kind not in ("WorkerDied", "OutOfMemory"):
            this.answer = failed
        elif unborn < MOST_UNBORN:
            self._unborn[call.attempt] = unborn
            this.again = True
        else:
            error = HookeError(
                f"workers of the gang ended before it could begin, {MOST_UNBORN} times in a row",
                why="\n".join((failed.failure.message, *failed.failure.log_tail)),
                next="hooke doctor",
            )
            this.answer = call.failed(now, failure_of(error, arguments=call.shown))
        self._end(this, "another rank of its gang ended before it began")

    def _judge(self, this: _Try, now_s: float) -> None:
        gang, first = this.gang, next(iter(this.parts))
        failed = gang.verdict(now_s)
        if failed is not None:
            this.answer = failed
            self._end(this, f"rank {failed.failure.rank} of its gang failed")
        elif gang.is_done and (gang.call.results == "rank0" or gang.gathered is not None):
            this.answer = result = gang.result()
            if result.ref is not None and result.ref.inline is None:
                self._hosts.stored(result.ref.digest, first)
            self._end(this, "its gang is done")
        elif gang.is_done and not this.gathers:
            this.gathers = True
            word = Gather(muster=this.number, payload=gang.to_gather)
            self._hosts.speak(first, this.call.attempt, word)

    def _left(self, this: _Try, address: str, now: float, failure: Callable[[Call], Failure]) -> None:
        """No rank is there any more: as it should be, or the gang ends with that."""
        answered = this.gang.finished.keys() | this.gang.failed.keys()
        missing = [rank for rank in this.parts[address] if rank not in answered]
        if this.gathers and 0 in this.parts[address]:
            missing = [0]
        this.there.discard(address)
        self._close_if_ended(this)
        if this.ending or (this.begun and not missing):
            return
        if not this.begun:
            this.again = True
            self._end(this, "a host of its gang is gone")
            return
        for rank in missing:
            failed = this.call.failed(now, failure(this.call), worker=this.workers[rank])
            this.gang.heard(rank, failed, -ECHO_S)  # there is nothing to wait for
        self._judge(this, 0.0)

    def _end(self, this: _Try, cause: str) -> None:
        this.ending = True
        self._tell_all(this, Disband(muster=this.number, cause=cause))
        self._close_if_ended(this)

    def _close_if_ended(self, this: _Try) -> None:
        if not this.ending or this.there or this.number not in self._tries:
            return
        del self._tries[this.number]
        self._hosts.free(this.call.attempt)
        if this.again:
            self._again(this.call)
            return
        self._unborn.pop(this.call.attempt, None)
        self._late.pop(this.call.attempt, None)
        if this.answer is not None:
            self._say(this.answer)


def _ended_by_itself(call: Call) -> Failure:
    return Failure(
        kind="WorkerDied",
        message="its host ended it",
        arguments=call.shown,
        limit_bytes=call.memory,
        fix="look at that machine: its worker was ended; retries= runs the task elsewhere",
    )
