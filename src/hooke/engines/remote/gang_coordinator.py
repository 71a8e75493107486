"""Gangs over several hosts, as their driver sees them: who has which ranks, what they said, and what is to be done now.

No library, no clock. A gang goes through these words, each said to all of its hosts: an order (keep a slot for each rank), Meet (start
the processes: they are to meet there), Begin (all are ready: run), for results of all ranks Gather, and Disband. Its answer is
given when the last host says that no rank is left, so that its slots, its port and its devices are free for the next.
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
    RankRange,
)
from hooke.engines.remote.placement import Peer, Placement
from hooke.engines.remote.worker_protocol import AttemptOrder, Transport
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure
from hooke.pipeline.engine import Call, EngineEvent
from hooke.pipeline.failures import failure_of

__all__ = ["FarGangs"]

MOST_UNBORN = 3
"""One worker may be killed as it starts, by chance; so many musters in a row that end so have a reason."""

MUSTER_S = 60.0
"""On hosts that others use, too, ranks may wait behind what these run, and two gangs of two runs for one another. After as long its slots are
given up, and it tries again; after twice as long the next time."""

_ANSWERS = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


class OrderMaker(Protocol):
    """How a call becomes an order for a host."""

    def __call__(self, peer: Peer, call: Call, part: RankRange | None = None) -> AttemptOrder:
        """Raises HookeError where its function cannot travel."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Crew:
    """One try of a gang."""

    number: int
    gang: Gang
    parts: dict[str, range]
    """Address -> the ranks that are there."""
    there: set[str]
    """Hosts that may have ranks of it yet."""
    since_s: float | None = None
    workers: dict[int, str] = field(default_factory=dict)
    """Rank -> its process, once it is ready."""
    begun: bool = False
    gathers: bool = False
    ending: bool = False
    answer: EngineEvent | None = None
    """What is said when it has ended."""
    again: bool = False
    """Whether it is to be tried again then."""

    @property
    def call(self) -> Call:
        return self.gang.call


class FarGangs:
    """All gangs of one run that are on hosts."""

    def __init__(
        self,
        roads: Transport,
        placement: Placement,
        say: Callable[[EngineEvent], None],
        *,
        order: OrderMaker,
        again: Callable[[Call], None],
    ) -> None:
        """`again` queues an attempt that has not begun, before all others."""
        self._roads = roads
        self._placement = placement
        self._say = say
        self._order = order
        self._again = again
        self._crews: dict[int, _Crew] = {}
        self._count = 0
        self._unborn: dict[int, int] = {}
        """Attempt -> how many of its musters ended because a worker did."""
        self._tries: dict[int, int] = {}
        """Attempt -> how many took too long."""

    def muster(self, call: Call) -> bool:
        """Send its ranks to hosts; False, and nothing is sent, where there is no room for all of them.

        Raises HookeError where it cannot travel.
        """
        chosen = self._placement.choose_for_gang(call)
        if chosen is None:
            return False
        self._count += 1
        parts: dict[str, range] = {}
        orders: list[tuple[str, AttemptOrder]] = []
        lo = 0
        for peer, ranks in chosen:
            part = RankRange(muster=self._count, lo=lo, hi=lo + ranks, ranks=call.gang)
            orders.append((peer.address, self._order(peer, call, part)))
            parts[peer.address] = range(lo, lo + ranks)
            lo += ranks
        self._placement.put_gang(call, chosen)
        self._crews[self._count] = _Crew(number=self._count, gang=Gang(call), parts=parts, there=set(parts))
        for address, order in orders:
            self._roads.ship(address, [order])
        return True

    def cancel(self, attempt: int) -> None:
        """Nobody waits for it any more. Its slots are free when its hosts say that no rank is left."""
        for crew in self._of(attempt):
            crew.answer, crew.again = None, False
            if not crew.ending:
                self._end(crew, "its attempt was cancelled")

    # -- what hosts say ----------------------------------------------------------------------------

    def told(self, address: str, note: RankNote, now: float, now_s: float) -> None:
        """Something of its ranks there."""
        crew = self._crews.get(note.muster)
        if crew is None or address not in crew.there:
            return  # it was given up
        match note:
            case Disbanded():
                self._left(crew, address, now, _ended_by_itself)
            case _ if crew.ending:
                return
            case Met():
                self._tell_all(crew, Meet(muster=crew.number, address=note.address, port=note.port))
            case Mustered():
                crew.workers |= dict(zip(crew.parts[address], note.workers, strict=True))
                if len(crew.workers) == crew.call.gang:
                    self._begin(crew, now)
            case RankAnswered():
                self._answered(crew, note.rank, _ANSWERS.decode(note.answer), now, now_s)

    def returned(self, address: str, attempt: int, now: float) -> None:
        """A host does not know the run (any more): no rank is there."""
        for crew in self._of(attempt):
            if address in crew.there:
                self._left(crew, address, now, _ended_by_itself)

    def lost(self, address: str, attempt: int, now: float, failure: Callable[[Call], Failure]) -> None:
        """A host that is there has no answer, or does not listen."""
        for crew in self._of(attempt):
            if address in crew.there:
                self._roads.cancel(address, attempt)
                self._left(crew, address, now, failure)

    def left(self, peer: Peer, now: float, failure: Callable[[Call], Failure]) -> None:
        """A host is gone, or silent."""
        for crew in list(self._crews.values()):
            if peer.address in crew.there:
                self._roads.cancel(peer.address, crew.call.attempt)  # it may be there yet
                self._left(crew, peer.address, now, failure)

    def late(self, now_s: float) -> None:
        """What comes of those of which nothing was heard: judge what has waited for its cause, and try again what does not come together."""
        for crew in list(self._crews.values()):
            if crew.ending:
                continue
            if crew.begun:
                self._judge(crew, now_s)
                continue
            crew.since_s = now_s if crew.since_s is None else crew.since_s
            tries = self._tries.get(crew.call.attempt, 0)
            if now_s - crew.since_s > MUSTER_S * 2**tries:
                self._tries[crew.call.attempt] = tries + 1
                crew.again = True
                self._end(crew, "its gang did not come together in time")

    # -- inside ------------------------------------------------------------------------------------

    def _of(self, attempt: int) -> list[_Crew]:
        return [crew for crew in self._crews.values() if crew.call.attempt == attempt]

    def _tell_all(self, crew: _Crew, word: Meet | BeginRanks | Disband) -> None:
        for address in crew.parts:
            if address in crew.there:
                self._roads.speak(address, crew.call.attempt, word)

    def _begin(self, crew: _Crew, now: float) -> None:
        """All are there: only now is each given the call."""
        crew.begun = True
        self._unborn.pop(crew.call.attempt, None)
        self._tell_all(crew, BeginRanks(muster=crew.number))
        names = tuple(crew.workers[rank] for rank in range(crew.call.gang))
        self._say(crew.call.began(now, worker=names[0], workers=names))

    def _answered(
        self, crew: _Crew, rank: int, answer: AttemptFinished | AttemptFailed, now: float, now_s: float
    ) -> None:
        if not crew.begun:
            assert isinstance(answer, AttemptFailed)
            self._not_begun(crew, answer, now)
        elif crew.gathers and isinstance(answer, AttemptFinished):
            crew.gang.gathered = answer.ref
            self._judge(crew, now_s)
        else:
            crew.gang.heard(rank, answer, now_s)
            self._judge(crew, now_s)

    def _not_begun(self, crew: _Crew, failed: AttemptFailed, now: float) -> None:
        """A process ended before the gang began, or could not be started."""
        call, attempt = crew.call, crew.call.attempt
        if failed.failure.kind not in ("WorkerDied", "OutOfMemory"):
            crew.answer = failed
        elif self._unborn.get(attempt, 0) + 1 < MOST_UNBORN:
            self._unborn[attempt] = self._unborn.get(attempt, 0) + 1
            crew.again = True
        else:
            error = HookeError(
                f"workers of the gang ended before it could begin, {MOST_UNBORN} times in a row",
                why="\n".join((failed.failure.message, *failed.failure.log_tail)),
                next="hooke doctor",
            )
            crew.answer = call.failed(now, failure_of(error, arguments=call.shown))
        self._end(crew, "another rank of its gang ended before it began")

    def _judge(self, crew: _Crew, now_s: float) -> None:
        gang = crew.gang
        failed = gang.verdict(now_s)
        if failed is not None:
            crew.answer = failed
            self._end(crew, f"rank {failed.failure.rank} of its gang failed")
        elif gang.is_done and (gang.call.results == "rank0" or gang.gathered is not None):
            crew.answer = result = gang.result()
            first = self._placement.peers.get(next(iter(crew.parts)))
            if result.ref is not None and result.ref.inline is None and first is not None:
                self._placement.stored(result.ref.digest, first)
            self._end(crew, "its gang is done")
        elif gang.is_done and not crew.gathers:
            crew.gathers = True
            word = Gather(muster=crew.number, payload=gang.to_gather)
            self._roads.speak(next(iter(crew.parts)), crew.call.attempt, word)

    def _left(self, crew: _Crew, address: str, now: float, failure: Callable[[Call], Failure]) -> None:
        """No rank is there any more: as it should be, or the gang ends with that."""
        answered = crew.gang.finished.keys() | crew.gang.failed.keys()
        missing = [rank for rank in crew.parts[address] if rank not in answered]
        if crew.gathers and 0 in crew.parts[address]:
            missing = [0]
        self._gone(crew, address)
        if crew.ending or (crew.begun and not missing):
            return
        if not crew.begun:
            crew.again = True
            self._end(crew, "a host of its gang is gone")
            return
        for rank in missing:
            failed = crew.call.failed(now, failure(crew.call), worker=crew.workers[rank])
            crew.gang.heard(rank, failed, -ECHO_S)  # there is nothing to wait for
        self._judge(crew, 0.0)

    def _gone(self, crew: _Crew, address: str) -> None:
        crew.there.discard(address)
        self._close_if_ended(crew)

    def _end(self, crew: _Crew, cause: str) -> None:
        crew.ending = True
        self._tell_all(crew, Disband(muster=crew.number, cause=cause))
        self._close_if_ended(crew)

    def _close_if_ended(self, crew: _Crew) -> None:
        if not crew.ending or crew.there or crew.number not in self._crews:
            return
        del self._crews[crew.number]
        self._placement.take_gang(crew.call.attempt)
        if crew.again:
            self._again(crew.call)
            return
        self._unborn.pop(crew.call.attempt, None)
        self._tries.pop(crew.call.attempt, None)
        if crew.answer is not None:
            self._say(crew.answer)


def _ended_by_itself(call: Call) -> Failure:
    return Failure(
        kind="WorkerDied",
        message="its host ended it",
        arguments=call.shown,
        limit_bytes=call.memory,
        fix="look at that machine: its worker was ended; retries= runs the task elsewhere",
    )
