"""The hosts of a run: which attempt goes where, which attempts each has, and which give no sign of life. Pure: no clock, no connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hooke.engines.remote.worker_protocol import HostReport
from hooke.pipeline.engine import Call

__all__ = ["SILENT_S", "FailureDetector", "Peer", "Placement"]

MOST_AHEAD = 8
"""How many quick calls may wait in a host behind each running one, so that it need not wait for the driver in between."""

QUICK_S = 0.02
"""How long it takes to send an attempt to a host and its answer back: quicker calls may wait there."""

STUCK_S = 0.1
"""A call that runs longer is not quick."""


@dataclass(slots=True, kw_only=True, eq=False)
class Peer:
    """A host, and the attempts that it has."""

    address: str
    name: Any
    report: HostReport
    shares: bool = False
    """Whether it shares its machine's cpus with other hosts."""
    calls: dict[int, Call] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    """Attempt of a gang -> how many of its ranks are here."""
    known: set[str] = field(default_factory=set)
    """Digests of the functions that it has."""
    workers: set[str] = field(default_factory=set)
    """Names of the run's worker processes there."""
    retiring: bool = False
    """Whether it ends when it has no more calls."""
    draining: bool = False
    """Whether the cluster ends it, whatever number of hosts the run wants."""
    shut: bool = False
    """Whether the cluster gives it nothing at the moment: it is being retired, or short of memory."""

    @property
    def held(self) -> int:
        """Slots that its calls take, running or waiting."""
        return len(self.calls) + sum(ranks - 1 for ranks in self.ranks.values())

    @property
    def load(self) -> float:
        """Calls for each thread."""
        return self.held / self.report.threads

    def has_room(self, call: Call) -> bool:
        """Whether the call can begin there at once. A call that asks for more cpus than the host has gets all of them, alone."""
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
        """How many ranks an idle host takes where its cpus and memory do not suffice: they get all of them."""
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
        self._hosts: dict[int, Peer] = {}
        self._gangs: dict[int, list[Peer]] = {}
        self._begun: dict[int, float] = {}
        self._asked_back: set[int] = set()
        self._machines: dict[str, set[str]] = {}
        """Digest of a stored result -> the machines that have a copy."""
        self._last_s: dict[str, float] = {}
        """Digest of a function -> how long the last attempt with it took."""

    @property
    def staying(self) -> list[Peer]:
        """The hosts that take attempts."""
        return [peer for peer in self.peers.values() if not (peer.retiring or peer.shut)]

    def choose(self, call: Call) -> Peer | None:
        """The host whose machine has most of the call's inputs; of several, the one with the most room.

        Where none has room, a quick call goes to a host where only quick ones wait. A second attempt beside a slow one goes
        to another machine if it can: the first machine may be the reason.
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
            key=lambda peer: (self._suspected(call, peer), -self._near(call, peer.report.host), peer.load),
            default=None,
        )

    def _suspected(self, call: Call, peer: Peer) -> int:
        """2 for the host where its twin runs, 1 for another host on the same machine, else 0."""
        slow = None if call.twin_of is None else self._hosts.get(call.twin_of)
        return 0 if slow is None else (peer.report.host == slow.report.host) + (peer is slow)

    def choose_for_gang(self, call: Call) -> list[tuple[Peer, int]] | None:
        """Hosts for all ranks of a gang with how many each, in the order of the ranks; None where some have no room.

        It uses as few machines as possible, since ranks talk to one another. A gang that asks for more than there is gets
        everything, alone.
        """
        found = self._filled(call, Peer.room_for_ranks)
        if found is None and not any(peer.calls for peer in self.peers.values()):
            found = self._filled(call, Peer.room_alone)
        return found

    def could_hold(self, call: Call) -> bool:
        """Whether a gang has room once all running calls have ended."""
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
        """Record how many ranks of a gang each of these hosts has."""
        self._gangs[call.attempt] = [peer for peer, _ in parts]
        for peer, ranks in parts:
            peer.calls[call.attempt] = call
            peer.ranks[call.attempt] = ranks
            for digest in call.inputs:
                self.stored(digest, peer)

    def take_gang(self, attempt: int) -> None:
        """Forget a gang: none of its ranks is left."""
        for peer in self._gangs.pop(attempt, ()):
            del peer.calls[attempt], peer.ranks[attempt]

    def stored(self, digest: str, peer: Peer) -> None:
        """Record that a host's machine has a copy of a result."""
        self._machines.setdefault(digest, set()).add(peer.report.host)

    def _near(self, call: Call, machine: str) -> int:
        """How many bytes of the call's inputs this machine has."""
        return sum(size for digest, size in call.inputs.items() if machine in self._machines.get(digest, ()))

    def is_quick(self, call: Call) -> bool:
        """Whether a call is expected to end soon, so that it may wait behind another."""
        return (
            not call.gpus
            and not call.gang
            and (call.short or self._last_s.get(call.image.digest, QUICK_S) < QUICK_S)
        )

    def put(self, call: Call, peer: Peer) -> None:
        """Record that a host has an attempt."""
        peer.calls[call.attempt] = call
        for digest in call.inputs:  # it copies what it reads
            self.stored(digest, peer)
        self._hosts[call.attempt] = peer

    def where(self, attempt: int) -> Peer | None:
        """The host that has an attempt; None where no host has it, and for a gang."""
        return self._hosts.get(attempt)

    def begin(self, attempt: int, now: float) -> bool:
        """Record that an attempt has begun; False where that was known, or no host has it."""
        if attempt in self._begun or attempt not in self._hosts:
            return False
        self._begun[attempt] = now
        return True

    def waiting(self, peer: Peer) -> list[int]:
        """A host's attempts that have not begun, as far as is known; without ranks of gangs, which wait for one another."""
        return [attempt for attempt in peer.calls if attempt in self._hosts and attempt not in self._begun]

    def has_begun(self, attempt: int) -> bool:
        """Whether an attempt has begun."""
        return attempt in self._begun

    def take(self, attempt: int, *, seconds: float | None = None) -> Call | None:
        """Forget an attempt, and return it; with `seconds` it took so long."""
        peer = self._hosts.pop(attempt, None)
        if peer is None:
            return None
        call = peer.calls.pop(attempt)
        self._begun.pop(attempt, None)
        self._asked_back.discard(attempt)
        if seconds is not None:
            self._last_s[call.image.digest] = seconds
        return call

    def to_ask_back(self, now: float) -> list[tuple[Peer, list[int]]]:
        """Attempts that wait behind a slow one that was expected to be quick, as many as other hosts have room for. Each is listed once."""
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


# --- Hosts without a sign of life: frozen, swapping, or cut off without notice.

SILENT_S = 30.0
"""Dask's workers give a sign of life each half second, Ray's hosts each second, from threads that no attempt blocks. A machine
short of memory may take seconds. TCP notices a cut connection after about as long; Ray itself may take minutes."""


class FailureDetector:
    """Compares the values of signs of life, and never trusts their timestamps, which other machines made."""

    def __init__(self, silent_s: float = SILENT_S, *, every_s: float | None = None) -> None:
        """`every_s`: how often `look` is called, where this process gathers the signs: time during which it was stopped itself does not count."""
        self._silent_s = silent_s
        self._every_s = every_s
        self._looked: float | None = None
        self._signs: dict[str, tuple[object, float]] = {}
        """Address -> the last sign, and when it arrived."""
        self.silent: set[str] = set()

    def look(self, signs: Mapping[str, object], now: float) -> tuple[set[str], set[str]]:
        """The addresses that have fallen silent, and those that are back, since the last look. `now`: seconds of a clock that does not jump."""
        late = self._late_s(now)
        for address, sign in signs.items():
            if address not in self._signs or self._signs[address][0] != sign:
                self._signs[address] = sign, now
            else:
                self._signs[address] = sign, self._signs[address][1] + late
        for address in self._signs.keys() - signs.keys():
            del self._signs[address]
        silent = {address for address, (_, since) in self._signs.items() if now - since >= self._silent_s}
        before, self.silent = self.silent, silent
        return silent - before, (before - silent) & signs.keys()

    def _late_s(self, now: float) -> float:
        """How long this process was stopped since the last look."""
        looked, self._looked = self._looked, now
        if self._every_s is None or looked is None:
            return 0.0
        return max(0.0, now - looked - 2 * self._every_s)
