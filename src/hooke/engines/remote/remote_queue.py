"""Attempts over several hosts, for engines whose library brings the machines: which host has which, and what became of them.

It holds the queue and hands out what has room; the engine tells it of hosts and of what they say. No library, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.engines.gang import RankNote, RankRange
from hooke.engines.gang_coordinator import GangCoordinator
from hooke.engines.remote.gang_hosts import GangHosts
from hooke.engines.remote.placement import Peer, Placement
from hooke.engines.remote.worker_protocol import AttemptOrder, Note, Transport
from hooke.engines.worker.worker import Begun, task_of
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure, WorkerStarted, WorkerStopped
from hooke.pipeline.engine import Call, EngineEvent
from hooke.pipeline.failures import failure_of

__all__ = ["HOMELESS_S", "RemoteQueue"]

HOMELESS_S = 10.0
"""The workers of a place that is there come within seconds of one another."""

_ANSWERS = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


class RemoteQueue:
    """The attempts of one run, on their way to hosts and back."""

    def __init__(
        self,
        roads: Transport,
        *,
        session: str,
        sys_path: Callable[[], list[str]],
        library: frozenset[str] = frozenset(),
    ) -> None:
        """`library`: distributions; a task whose code reaches one of them is given the engine's library to use."""
        self.placement = Placement()
        self.events: list[EngineEvent] = []
        self._roads = roads
        self._session = session
        self._sys_path = sys_path
        self._library = library
        self._queue: deque[Call] = deque()
        self._asks_gpus = False
        self._homeless: dict[int, float] = {}
        """Attempt -> since when no host has the gpus that it asks for."""
        self._gangs = GangCoordinator(
            GangHosts(roads, self.placement, self._order),
            say=self._say,
            again=self._queue.appendleft,
        )

    def submit(self, calls: Sequence[Call], now: float) -> None:
        """Queue attempts, and send those for which there is room."""
        self._asks_gpus = self._asks_gpus or any(call.gpus for call in calls)
        self._queue.extend(calls)
        self.send(now)

    def cancel(self, attempt: int, now: float) -> None:
        """Take a queued attempt back; have the host of one that runs end it."""
        for call in [call for call in self._queue if call.attempt == attempt]:
            self._queue.remove(call)
        self._gangs.cancel(attempt)
        peer = self.placement.where(attempt)
        if peer is not None:
            self.placement.take(attempt)
            self._roads.cancel(peer.address, attempt)
        self.send(now)

    def send(self, now: float) -> None:
        """Hand out what is queued, as far as there is room. One that cannot travel fails."""
        loads: dict[str, list[AttemptOrder]] = {}
        full: set[tuple[bool, float, float]] = set()  # what there is no room for, in this turn
        kept = False  # for a gang, which would else be passed for ever by what fits between
        for _ in range(len(self._queue)):
            call = self._queue.popleft()
            if kept or call.gang:
                if kept or not self._mustered(call, now):
                    self._queue.append(call)
                    kept = kept or self.placement.could_hold(call)
                continue
            kind = (self.placement.is_quick(call), call.cpus, call.gpus)
            peer = None if kind in full else self.placement.choose(call)
            if peer is None:
                full.add(kind)
                self._queue.append(call)
                continue
            try:
                order = self._order(peer, call)
            except HookeError as error:
                self.events.append(call.failed(now, failure_of(error, arguments=call.shown)))
                continue
            self.placement.put(call, peer)
            loads.setdefault(peer.address, []).append(order)
        for address, orders in loads.items():
            self._roads.ship(address, orders)

    def ask_back(self, now_s: float) -> None:
        """Where quick attempts wait behind one that is not, and there is room elsewhere; `now_s` as `told` had it."""
        for peer, attempts in self.placement.to_ask_back(now_s):
            self._roads.withdraw(peer.address, attempts)

    def drain(self, address: str) -> None:
        """A host is to go: it gets nothing more, and is asked for what has not begun there."""
        peer = self.placement.peers[address]
        peer.retiring = True
        calls = [call.attempt for call in peer.calls.values() if not call.gang]
        waiting = [attempt for attempt in calls if not self.placement.has_begun(attempt)]
        if waiting:
            self._roads.withdraw(address, waiting)

    def give_up(self, now: float, now_s: float) -> None:
        """Fail what asks for more gpus than any host has: after a while, as one that has them may be on its way. `now_s` as `told` had it."""
        peers = self.placement.staying
        if not self._asks_gpus or not peers:
            return
        most = max(peer.report.gpus for peer in peers)
        lacking = [call for call in self._queue if call.gpus > most or self._lacks_gpus(call)]
        self._homeless = {call.attempt: self._homeless.get(call.attempt, now_s) for call in lacking}
        for call in lacking:
            if now_s - self._homeless[call.attempt] >= HOMELESS_S:
                self._queue.remove(call)
                error = UsageError(
                    f"task {call.image.name!r} asks for {call.gpus:g} gpus, and no worker of this place has {f'more than {most}' if most else 'any'}"
                    if call.gpus > most
                    else f"the gang {call.image.name!r} asks for {call.gang} times {call.gpus:g} gpus, which this place has not",
                    fix="run at a place with more, or make gpus= smaller",
                    next="hooke doctor",
                )
                self.events.append(call.failed(now, failure_of(error, arguments=call.shown)))

    def _lacks_gpus(self, call: Call) -> bool:
        """Whether there are slots for all ranks of a gang, and not the gpus."""
        slots = sum(peer.report.threads for peer in self.placement.staying)
        return 0 < call.gang <= slots and not self.placement.could_hold(call)

    # -- what hosts say ----------------------------------------------------------------------------

    def told(self, address: str, notes: Sequence[Note], now: float, now_s: float) -> None:
        """Workers that came and went there, attempts that began, and ranks."""
        peer = self.placement.peers.get(address)
        if peer is None:
            return  # it was given up; what it had is elsewhere or failed
        for note in notes:
            if isinstance(note, Begun):
                self._begun(peer, note.attempt, note.worker, note.at, now_s)
                continue
            if isinstance(note, RankNote):
                self._gangs.told(address, note, now, now_s)
                continue
            if isinstance(note, WorkerStarted):
                peer.workers.add(note.worker)
            else:
                peer.workers.discard(note.worker)
            self.events.append(note)

    def answered(self, address: str, data: bytes, now_s: float) -> None:
        """An attempt ended there. Ignored where it is not (or no more) that host's."""
        answer = _ANSWERS.decode(data)
        peer = self.placement.where(answer.attempt)
        if peer is None or peer.address != address:
            return
        if answer.worker:
            self._begun(peer, answer.attempt, answer.worker, answer.at - answer.seconds, now_s)
        if answer.ref is not None and answer.ref.inline is None:
            self.placement.stored(answer.ref.digest, peer)
        self.placement.take(answer.attempt, seconds=answer.seconds if answer.worker else None)
        self.events.append(answer)

    def returned(self, address: str, attempts: Sequence[int], now: float, *, lacks: bool = False) -> None:
        """These did not begin there, and will not: they queue again. `lacks`: their function did not come there."""
        for attempt in reversed(attempts):
            self._gangs.returned(address, attempt, now)
            peer = self.placement.where(attempt)
            if peer is None or peer.address != address:
                continue
            call = self.placement.take(attempt)
            if call is not None:
                if lacks:
                    peer.known.discard(call.image.digest)
                self._queue.appendleft(call)

    def lost(
        self,
        address: str,
        attempt: int,
        now: float,
        failure: Callable[[Call], Failure],
        *,
        surely: bool = False,
    ) -> None:
        """A host that is there has no answer for this one. Where it had begun that is its end, else (but for `surely`) it queues again."""
        self._gangs.lost(address, attempt, now, failure)
        peer = self.placement.where(attempt)
        if peer is None or peer.address != address:
            return
        ends = surely or self.placement.has_begun(attempt)
        call = self.placement.take(attempt)
        assert call is not None
        if ends:
            self.events.append(call.failed(now, failure(call)))
        else:
            self._queue.appendleft(call)

    def left(self, address: str, now: float, *, cause: str, failure: Callable[[Call], Failure]) -> None:
        """A host is gone. What may have begun there fails, the rest goes elsewhere.

        That an attempt began is known a moment after it did, so those next in line may have: no task runs twice in silence.
        """
        peer = self.placement.peers.pop(address, None)
        if peer is None:
            return
        ahead = [call for call in peer.calls.values() if not call.gang]
        begun = [call for call in ahead if self.placement.has_begun(call.attempt)]
        next_in_line = [call for call in ahead if call not in begun][: peer.report.threads]
        for call in reversed(ahead):
            self.placement.take(call.attempt)
            self._roads.cancel(address, call.attempt)  # it may be there yet, and only be silent
            if call not in begun and call not in next_in_line:
                self._queue.appendleft(call)
        for call in [*begun, *next_in_line]:
            self.events.append(call.failed(now, failure(call)))
        for worker in sorted(peer.workers):
            self.events.append(WorkerStopped(at=now, worker=worker, cause=cause))
        self._gangs.left(address, now, failure)
        self.send(now)

    def late(self, now_s: float) -> None:
        """What comes of gangs of which nothing was heard; to be called often."""
        self._gangs.late(now_s)

    # -- inside ------------------------------------------------------------------------------------

    def _say(self, event: EngineEvent) -> None:
        self.events.append(event)

    def _begun(self, peer: Peer, attempt: int, worker: str, at: float, now_s: float) -> None:
        if self.placement.where(attempt) is peer and self.placement.begin(attempt, now_s):
            self.events.append(peer.calls[attempt].began(at, worker=worker))

    def _mustered(self, call: Call, now: float) -> bool:
        """Whether a gang needs to wait no more: its ranks are on their way, or it cannot travel and fails."""
        try:
            return self._gangs.start(call)
        except HookeError as error:
            self.events.append(call.failed(now, failure_of(error, arguments=call.shown)))
            return True

    def _order(self, peer: Peer, call: Call, part: RankRange | None = None) -> AttemptOrder:
        new = call.image.digest not in peer.known or part is not None  # ranks are new processes
        image = call.image.pickle() if new else None
        if part is None:
            peer.known.add(call.image.digest)
        return AttemptOrder(
            session=self._session,
            task=task_of(call, image, uses_library=not self._library.isdisjoint(call.image.parts)),
            cpus=call.cpus,
            gpus=call.gpus,
            sys_path=self._sys_path() if new else None,
            part=part,
        )
