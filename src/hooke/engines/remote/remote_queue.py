"""The queue of one run's attempts over several hosts: which host has which attempt, and how each ended.

It sends an attempt when a host has room for it. The engine reports which hosts there are and what they say. No library, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.engines.gang import GangCommand, RankNote, RankRange
from hooke.engines.gang_coordinator import GangCoordinator
from hooke.engines.remote.placement import Peer, Placement
from hooke.engines.remote.worker_protocol import AttemptOrder, Note, Transport
from hooke.engines.worker.worker_process import Begun, task_of
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure, WorkerStarted, WorkerStopped
from hooke.pipeline.engine import Call, EngineEvent
from hooke.pipeline.failures import failure_of

__all__ = ["HOMELESS_S", "GangHosts", "RemoteQueue"]


# --- The hosts of a run as the gang coordinator uses them: ranks are placed by `Placement` and ordered over the transport.


class GangHosts:
    """Fulfils `gang_coordinator.RankHosts`."""

    def __init__(
        self,
        transport: Transport,
        placement: Placement,
        order: Callable[[Peer, Call, RankRange], AttemptOrder],
    ) -> None:
        """`order` makes the order of a part. It raises HookeError where the function cannot travel."""
        self.free = placement.take_gang
        self._transport = transport
        self._placement = placement
        self._order = order

    def place(self, call: Call, try_id: int) -> dict[str, range] | None:
        """Order ranks from hosts that have room for all of them."""
        chosen = self._placement.choose_for_gang(call)
        if chosen is None:
            return None
        parts: dict[str, range] = {}
        orders: list[tuple[str, AttemptOrder]] = []
        lo = 0
        for peer, ranks in chosen:
            part = RankRange(try_id=try_id, lo=lo, hi=lo + ranks, ranks=call.gang, most=call.most_ranks)
            orders.append((peer.address, self._order(peer, call, part)))
            parts[peer.address] = range(lo, lo + ranks)
            lo += ranks
        self._placement.put_gang(call, chosen)
        for address, order in orders:
            self._transport.ship(address, [order])
        return parts

    def speak(self, address: str, attempt: int, command: GangCommand) -> None:
        """Send a command to a host that was given ranks of the attempt."""
        self._transport.speak(address, attempt, command)

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end its ranks of an attempt."""
        self._transport.cancel(address, attempt)

    def stored(self, digest: str, address: str) -> None:
        """A gang's result was written there."""
        if peer := self._placement.peers.get(address):
            self._placement.stored(digest, peer)


HOMELESS_S = 10.0
"""How long an attempt may ask for gpus that no host has: the workers of a cluster join within seconds of one another."""

_ANSWERS = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


class RemoteQueue:
    """The attempts of one run that wait for a host, or are on one."""

    def __init__(
        self,
        transport: Transport,
        *,
        session: str,
        sys_path: Callable[[], list[str]],
        library: frozenset[str] = frozenset(),
    ) -> None:
        """`library`: distributions. A task whose code reaches one of them can use the engine's library."""
        self.placement = Placement()
        self.events: list[EngineEvent] = []
        self._transport = transport
        self._session = session
        self._sys_path = sys_path
        self._library = library
        self._queue: deque[Call] = deque()
        self._asks_gpus = False
        self._homeless: dict[int, float] = {}
        """Attempt -> since when no host has the gpus that it asks for."""
        self._gangs = GangCoordinator(
            GangHosts(transport, self.placement, self._order), say=self._say, again=self._queue.appendleft
        )

    def submit(self, calls: Sequence[Call], now: float) -> None:
        """Queue attempts, and send those that have room."""
        self._asks_gpus = self._asks_gpus or any(call.gpus for call in calls)
        self._queue.extend(calls)
        self.send(now)

    def cancel(self, attempt: int, now: float) -> None:
        """Take a queued attempt back; have the host of a running one end it."""
        for call in [call for call in self._queue if call.attempt == attempt]:
            self._queue.remove(call)
        self._gangs.cancel(attempt)
        peer = self.placement.where(attempt)
        if peer is not None:
            self.placement.take(attempt)
            self._transport.cancel(peer.address, attempt)
        self.send(now)

    def resize_gang(self, attempt: int, ranks: int) -> None:
        """Ask a gang to end at its next checkpoint, since it should have so many ranks."""
        self._gangs.resize(attempt, ranks)

    def send(self, now: float) -> None:
        """Send queued attempts to hosts with room. An attempt whose function cannot be sent fails."""
        loads: dict[str, list[AttemptOrder]] = {}
        full: set[tuple[bool, float, float]] = set()  # kinds of attempts that have no room now
        kept = False  # the room is kept for a gang, which smaller attempts would overtake forever
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
            self._transport.ship(address, orders)

    def ask_back(self, now_s: float) -> None:
        """Take quick attempts back that wait behind a slow one while other hosts have room. `now_s`: the clock of `told`."""
        for peer, attempts in self.placement.to_ask_back(now_s):
            self._transport.withdraw(peer.address, attempts)

    def drain(self, address: str) -> None:
        """A host is about to end: it gets no more attempts, and those that have not begun there come back."""
        peer = self.placement.peers[address]
        peer.retiring = peer.draining = True
        self.withdraw(peer)

    def withdraw(self, peer: Peer) -> None:
        """Take back the attempts that have not begun on a host."""
        if waiting := self.placement.waiting(peer):
            self._transport.withdraw(peer.address, waiting)

    def check_deadlines(self, now: float, now_s: float) -> None:
        """Act on what waits too long; to be called often. `now_s`: the clock of `told`."""
        self.ask_back(now_s)
        self.give_up(now, now_s)
        self._gangs.late(now_s)

    def take_events(self) -> list[EngineEvent]:
        """The events since the last call."""
        events = self.events.copy()
        self.events.clear()
        return events

    def give_up(self, now: float, now_s: float) -> None:
        """Fail attempts that ask for more gpus than any host has, after a while: a host that has them may still join."""
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
                    f"task {call.image.name!r} needs {call.gpus:g} gpus, and no worker of this backend has {f'more than {most}' if most else 'any'}"
                    if call.gpus > most
                    else f"the gang {call.image.name!r} needs {call.gang} times {call.gpus:g} gpus; this backend has fewer",
                    fix="run on a backend with more gpus, or lower gpus=",
                    next="hooke doctor",
                )
                self.events.append(call.failed(now, failure_of(error, arguments=call.shown)))

    def _lacks_gpus(self, call: Call) -> bool:
        """Whether there are slots for all ranks of a gang, but not enough gpus."""
        slots = sum(peer.report.threads for peer in self.placement.staying)
        return 0 < call.gang <= slots and not self.placement.could_hold(call)

    # -- what hosts report -------------------------------------------------------------------------

    def told(self, address: str, notes: Sequence[Note], now: float, now_s: float) -> None:
        """Take a host's notes: workers that started or stopped, attempts that began, ranks of gangs. `now_s`: seconds of a clock that does not jump."""
        peer = self.placement.peers.get(address)
        if peer is None:
            return  # the host was given up; its attempts run elsewhere or failed
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
        """An attempt ended on a host. Ignored where it does not (or no longer) belong to that host."""
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
        """Attempts that did not and will not begin on a host queue again. `lacks`: their function did not arrive there."""
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
        """A host that is there has no answer for an attempt. It fails if it had begun or if `surely`; else it queues again."""
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
        """A host is gone. Attempts that may have begun there fail, the others queue again.

        The driver learns a moment late that an attempt began, so the next in line may have begun too: no task silently runs twice.
        """
        peer = self.placement.peers.pop(address, None)
        if peer is None:
            return
        ahead = [call for call in peer.calls.values() if not call.gang]
        begun = [call for call in ahead if self.placement.has_begun(call.attempt)]
        next_in_line = [call for call in ahead if call not in begun][: peer.report.threads]
        for call in reversed(ahead):
            self.placement.take(call.attempt)
            self._transport.cancel(address, call.attempt)  # the host may only be silent
            if call not in begun and call not in next_in_line:
                self._queue.appendleft(call)
        for call in [*begun, *next_in_line]:
            self.events.append(call.failed(now, failure(call)))
        for worker in sorted(peer.workers):
            self.events.append(WorkerStopped(at=now, worker=worker, cause=cause))
        self._gangs.left(address, now, failure)
        self.send(now)

    # -- inside ------------------------------------------------------------------------------------

    def _say(self, event: EngineEvent) -> None:
        self.events.append(event)

    def _begun(self, peer: Peer, attempt: int, worker: str, at: float, now_s: float) -> None:
        if self.placement.where(attempt) is peer and self.placement.begin(attempt, now_s):
            self.events.append(peer.calls[attempt].began(at, worker=worker))

    def _mustered(self, call: Call, now: float) -> bool:
        """Whether a gang has left the queue: its ranks are on their way, or its function cannot be sent and it fails."""
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
