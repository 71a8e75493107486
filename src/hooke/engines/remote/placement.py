"""Which of several hosts an attempt goes to, and what each of them was given. Pure: no clock, no connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hooke.engines.remote.worker_protocol import HostReport
from hooke.pipeline.engine import Call

__all__ = ["Peer", "Placement"]

MOST_AHEAD = 8
"""Quick calls that wait in a host behind each one that runs, so that it need not wait for the driver between."""

QUICK_S = 0.02
"""As long as it takes to bring an attempt to a host and its answer back: quicker ones may wait there."""

STUCK_S = 0.1
"""One that runs for so long is not quick."""


@dataclass(slots=True, kw_only=True, eq=False)
class Peer:
    """A host that runs attempts, and what it was given."""

    address: str
    name: Any
    report: HostReport
    shares: bool = False
    """Whether its machine has other hosts, so that cpus are not its own."""
    calls: dict[int, Call] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    """Of the calls that are gangs: how many of their ranks are here."""
    known: set[str] = field(default_factory=set)
    """Digests of functions that it has."""
    workers: set[str] = field(default_factory=set)
    """Processes of ours that run there."""
    retiring: bool = False
    shut: bool = False
    """Whether it takes nothing at the moment, by the word of somebody else: it is being drained, or short of memory."""

    @property
    def held(self) -> int:
        """Threads that have a call, or one that waits."""
        return len(self.calls) + sum(ranks - 1 for ranks in self.ranks.values())

    @property
    def load(self) -> float:
        """Calls for each thread."""
        return self.held / self.report.threads

    def has_room(self, call: Call) -> bool:
        """Whether the call can begin there at once. What asks for more cpus than there are gets all, alone."""
        threads = self.report.threads
        if self.held >= threads or call.gpus > self.report.gpus:
            return False
        return self.shares or self._held_cpus() + min(call.cpus, threads) <= threads + 1e-9

    def room_for_ranks(self, call: Call) -> int:
        """How many ranks of the call can begin there at once, with the cpus, the memory and the gpus of each."""
        rooms = [float(self._ranks_beside(call))]
        if call.cpus and not self.shares:
            threads = self.report.threads
            rooms.append((threads - self._held_cpus()) / min(call.cpus, threads))
        if call.memory and self.report.memory and not self.shares:
            held = sum((other.memory or 0) * self.ranks.get(a, 1) for a, other in self.calls.items())
            rooms.append((self.report.memory - held) / call.memory)
        return max(0, int(min(rooms) + 1e-9))

    def room_alone(self, call: Call) -> int:
        """The same of a host that has nothing else to do, where cpus and memory need not suffice: it gets all there are."""
        return 0 if self.calls else self._ranks_beside(call)

    def _ranks_beside(self, call: Call) -> int:
        free = self.report.threads - self.held
        if not call.gpus:
            return free
        held = sum(other.gpus * self.ranks.get(a, 1) for a, other in self.calls.items())
        return min(free, int((self.report.gpus - held) / call.gpus + 1e-9))

    def _held_cpus(self) -> float:
        threads = self.report.threads
        return sum(min(other.cpus, threads) * self.ranks.get(a, 1) for a, other in self.calls.items())


class Placement:
    """The hosts of a run, and where its attempts are."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self._places: dict[int, Peer] = {}
        self._gangs: dict[int, list[Peer]] = {}
        self._begun: dict[int, float] = {}
        self._asked_back: set[int] = set()
        self._machines: dict[str, set[str]] = {}
        """Digest of a stored result -> the machines that have a copy."""
        self._last_s: dict[str, float] = {}
        """Digest of a function -> how long the last attempt with it took."""

    @property
    def staying(self) -> list[Peer]:
        """Those that are not to go, and take attempts."""
        return [peer for peer in self.peers.values() if not (peer.retiring or peer.shut)]

    def choose(self, call: Call) -> Peer | None:
        """The host on whose machine most of its inputs are, and of these the one with the most room.

        For a quick call, if there is no room, one where only quick ones wait. A second attempt beside one that is slow goes
        to another machine, if it can: this one may be why.
        """
        staying = self.staying
        free = [peer for peer in staying if peer.has_room(call)]
        if not free and self.is_quick(call):
            free = [
                peer
                for peer in staying
                if peer.load < 1 + MOST_AHEAD and all(map(self.is_quick, peer.calls.values()))
            ]
        return min(
            free,
            key=lambda peer: (
                self._suspected(call, peer),
                -self._near(call, peer.report.host),
                peer.load,
            ),
            default=None,
        )

    def _suspected(self, call: Call, peer: Peer) -> int:
        """2 for the host where its twin runs, 1 for another one on that machine, else 0."""
        slow = None if call.twin_of is None else self._places.get(call.twin_of)
        return 0 if slow is None else (peer.report.host == slow.report.host) + (peer is slow)

    def choose_for_gang(self, call: Call) -> list[tuple[Peer, int]] | None:
        """Hosts for all ranks of a gang, with how many each, in the order of the ranks; None where not all have room.

        As few machines as can be, since ranks talk to one another. One that asks for more than there is gets all, alone.
        """
        found = self._filled(call, Peer.room_for_ranks)
        if found is None and not any(peer.calls for peer in self.peers.values()):
            found = self._filled(call, Peer.room_alone)
        return found

    def could_hold(self, call: Call) -> bool:
        """Whether a gang has room here once all that runs has ended."""
        room = (
            min(peer.report.threads, int(peer.report.gpus / call.gpus + 1e-9) if call.gpus else call.gang)
            for peer in self.staying
        )
        return sum(room) >= call.gang

    def _filled(self, call: Call, room: Callable[[Peer, Call], int]) -> list[tuple[Peer, int]] | None:
        rooms = [(peer, free) for peer in self.staying if (free := room(peer, call)) > 0]
        machines: dict[str, int] = {}
        for peer, free in rooms:
            machines[peer.report.host] = machines.get(peer.report.host, 0) + free
        rooms.sort(key=lambda each: (-machines[each[0].report.host], each[0].report.host, -each[1]))
        found: list[tuple[Peer, int]] = []
        missing = call.gang
        for peer, free in rooms:
            if missing:
                found.append((peer, min(free, missing)))
                missing -= min(free, missing)
        return None if missing else found

    def put_gang(self, call: Call, parts: list[tuple[Peer, int]]) -> None:
        """So many ranks of it are at each of these now."""
        self._gangs[call.attempt] = [peer for peer, _ in parts]
        for peer, ranks in parts:
            peer.calls[call.attempt] = call
            peer.ranks[call.attempt] = ranks
            for digest in call.inputs:
                self.stored(digest, peer)

    def take_gang(self, attempt: int) -> None:
        """No rank of it is anywhere any more."""
        for peer in self._gangs.pop(attempt, ()):
            del peer.calls[attempt], peer.ranks[attempt]

    def stored(self, digest: str, peer: Peer) -> None:
        """A result was written there."""
        self._machines.setdefault(digest, set()).add(peer.report.host)

    def _near(self, call: Call, machine: str) -> int:
        """Bytes of its inputs of which this machine has a copy."""
        return sum(size for digest, size in call.inputs.items() if machine in self._machines.get(digest, ()))

    def is_quick(self, call: Call) -> bool:
        """Whether it may wait behind another: it is expected to end soon."""
        return (
            not call.gpus
            and not call.gang
            and (call.short or self._last_s.get(call.image.digest, QUICK_S) < QUICK_S)
        )

    def put(self, call: Call, peer: Peer) -> None:
        """The attempt is there now."""
        peer.calls[call.attempt] = call
        for digest in call.inputs:  # what it reads it copies
            self.stored(digest, peer)
        self._places[call.attempt] = peer

    def where(self, attempt: int) -> Peer | None:
        """Where the attempt is; None for one that is nowhere (any more), and for a gang."""
        return self._places.get(attempt)

    def begin(self, attempt: int, now: float) -> bool:
        """The attempt runs; False where that was known, or nobody waits for it."""
        if attempt in self._begun or attempt not in self._places:
            return False
        self._begun[attempt] = now
        return True

    def waiting(self, peer: Peer) -> list[int]:
        """Attempts there that have not begun, as far as that is known; no ranks of gangs, which wait for one another."""
        return [attempt for attempt in peer.calls if attempt in self._places and attempt not in self._begun]

    def has_begun(self, attempt: int) -> bool:
        """Whether the attempt runs."""
        return attempt in self._begun

    def take(self, attempt: int, *, seconds: float | None = None) -> Call | None:
        """The attempt is nowhere any more; with `seconds` it took so long."""
        peer = self._places.pop(attempt, None)
        if peer is None:
            return None
        call = peer.calls.pop(attempt)
        self._begun.pop(attempt, None)
        self._asked_back.discard(attempt)
        if seconds is not None:
            self._last_s[call.image.digest] = seconds
        return call

    def to_ask_back(self, now: float) -> list[tuple[Peer, list[int]]]:
        """Attempts that wait behind one that was expected to be quick and is not, as many as have room elsewhere. Each once."""
        room = sum(max(0, peer.report.threads - len(peer.calls)) for peer in self.staying)
        found: list[tuple[Peer, list[int]]] = []
        for peer in self.peers.values():
            waiting = [attempt for attempt in self.waiting(peer) if attempt not in self._asked_back]
            stuck = any(now - self._begun.get(attempt, now) > STUCK_S for attempt in peer.calls)
            if room and stuck and waiting and peer.load > 1:
                asked = waiting[-room:]
                room -= len(asked)
                self._asked_back.update(asked)
                found.append((peer, asked))
        return found
