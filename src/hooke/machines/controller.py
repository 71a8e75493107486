"""The controller of a fleet, pure: `step(fleet, event, now, ...)` folds an event and returns actions in their order.

Its rules: an action is written to the ledger before it is performed; a token is used once; every requested machine counts against the caps
until it is known to be gone; a machine is retired, then released, and never ended with work on it, except by `Down` or when it is dead;
one that its provider takes away counts as retired, so another one comes as soon as the caps allow it; it is dead only after several bad listings in a row and some time; a failed listing says nothing about any machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from hooke.base.formats import format_seconds
from hooke.journal.fleet_events import (
    FleetWanted,
    LaunchAnswered,
    LaunchFailed,
    LaunchIntended,
    LedgerRecord,
    MachineGone,
    MachineReleased,
    MachineRetired,
    ProviderAnswered,
    ProviderFailed,
)
from hooke.machines.provider import Machine, ProviderFacts

__all__ = [
    "Action",
    "CallResults",
    "Caps",
    "ControllerTurn",
    "Down",
    "Event",
    "FleetMember",
    "FleetState",
    "FleetTick",
    "Frozen",
    "Launch",
    "LaunchRefused",
    "LaunchReply",
    "LedgerNote",
    "LookFailed",
    "MachinePhase",
    "ProviderListing",
    "Release",
    "Retire",
    "SetSize",
    "Unsure",
    "restored",
    "step",
]


# -- the model: limits, machines, events and actions ------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The limits of a fleet, and when a machine is dead."""

    workers: int
    usd_per_hour: float = math.inf
    lifetime_s: float = math.inf
    """The life of one machine, which is then retired and, if still wanted, replaced."""
    dead_looks: int = 5
    dead_s: float = 60.0
    """A machine is dead when it was missing or unhealthy in `dead_looks` listings in a row and for `dead_s`. Both, since providers that
    answered badly for a minute have cost others healthy machines."""

    def most(self, usd_per_hour: float) -> int:
        """The most machines, at the price of one."""
        if not usd_per_hour or math.isinf(self.usd_per_hour):
            return self.workers
        return min(self.workers, int(self.usd_per_hour / usd_per_hour + 1e-9))


class MachinePhase(Enum):
    """The phase of a machine, as far as the fleet knows."""

    ORDERED = "ordered"
    """Requested, without a clear answer yet."""
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMember:
    """A machine of the fleet, or a launch that may become one. Each counts against the caps until it is known to be gone."""

    token: str
    asked_at: float
    id: str = ""
    phase: MachinePhase = MachinePhase.ORDERED
    seen: Machine | None = None
    """The machine as it was last listed."""
    bad_looks: int = 0
    bad_since: float = 0.0

    @property
    def of_use(self) -> bool:
        """Whether it counts, or may soon count, as a wanted machine."""
        return self.phase in {MachinePhase.ORDERED, MachinePhase.STARTING, MachinePhase.READY}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """A fleet's state. `members` is by token; a machine without a token, or with another's, gets one made from its id."""

    name: str
    members: Mapping[str, FleetMember] = field(default_factory=dict)
    wanted: int = 0
    launches: int = 0
    """All launches so far: the number of the last token."""
    looked: bool = False
    """Whether this controller has had a listing; it launches nothing before."""
    failures: int = 0
    """How many launches in a row were refused, or gave a machine that ended by itself soon after."""
    not_before: float = -math.inf
    """No launch until then."""
    frozen: bool = False
    """Whether nothing is launched."""
    ends: str = ""
    """Who has ended all machines, including ones found later; empty where nobody has."""
    aim: int = 0
    """The wanted number, within the caps."""
    silent_since: float | None = None
    """Since when listings fail; None while they succeed."""
    trouble: str = ""
    """The provider's last failure that is in the ledger: the same one again is not written again."""

    @property
    def settled(self) -> bool:
        """Whether the fleet has reached its aim, as far as is known."""
        of_use = [member for member in self.members.values() if member.of_use]
        ready = all(member.phase is MachinePhase.READY for member in self.members.values())
        return self.looked and ready and len(of_use) == self.aim


@dataclass(frozen=True, slots=True)
class SetSize:
    """Set the wanted number of machines."""

    machines: int
    by: str


@dataclass(frozen=True, slots=True)
class Down:
    """End all machines now, busy or not."""

    by: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """Launch nothing from now on; only surplus machines end."""


@dataclass(frozen=True, slots=True)
class ProviderListing:
    """The provider's list of machines."""

    machines: tuple[Machine, ...]


@dataclass(frozen=True, slots=True)
class LookFailed:
    """The provider did not answer, which says nothing about any machine."""

    why: str


@dataclass(frozen=True, slots=True)
class LaunchReply:
    """A launch succeeded; `machine` is its id."""

    token: str
    machine: str


@dataclass(frozen=True, slots=True)
class LaunchRefused:
    """A launch was refused; nothing was started."""

    token: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """It is unknown whether a call took effect; listings will show it."""

    why: str


@dataclass(frozen=True, slots=True)
class CallResults:
    """What came back of the calls of one step, in their order: the fleet is looked through once for all of them."""

    results: tuple[LaunchReply | LaunchRefused | Unsure, ...]


@dataclass(frozen=True, slots=True)
class FleetTick:
    """Time has passed."""


Event: TypeAlias = (
    SetSize
    | Down
    | Frozen
    | ProviderListing
    | LookFailed
    | LaunchReply
    | LaunchRefused
    | Unsure
    | CallResults
    | FleetTick
)


@dataclass(frozen=True, slots=True)
class LedgerNote:
    """Write this to the ledger before the next action."""

    event: LedgerRecord


@dataclass(frozen=True, slots=True)
class Launch:
    """Launch a machine; LaunchReply, LaunchRefused or Unsure follows."""

    token: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Let a machine finish. A failed call is repeated after the next listing."""

    machine: str


@dataclass(frozen=True, slots=True)
class Release:
    """End a machine. A failed call is repeated after the next listing."""

    machine: str


Action: TypeAlias = LedgerNote | Launch | Retire | Release


FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0
"""The wait after a refused launch, or a machine that ended by itself soon after its launch; it doubles with each in a row."""
SOON_S = 60.0


def step(
    fleet: FleetState,
    event: Event,
    now: float,
    *,
    caps: Caps,
    facts: ProviderFacts,
    turn: type[ControllerTurn] | None = None,
) -> tuple[FleetState, list[Action]]:
    """Fold the event. `now` is wall-clock time, as in the ledger, so that a controller can continue where another one died.

    `turn` makes the step; tests of the tests replace it.
    """
    made = (turn or ControllerTurn)(fleet, now, caps, facts)
    made.fold(event)
    made.settle(after_look=isinstance(event, ProviderListing))
    fleet = replace(made.fleet, members=made.members, failures=made.failures, not_before=made.not_before)
    return fleet, made.out


_PHASES = {
    LaunchAnswered: MachinePhase.STARTING,
    MachineRetired: MachinePhase.RETIRING,
    MachineReleased: MachinePhase.RELEASING,
}


def restored(name: str, records: Iterable[LedgerRecord]) -> FleetState:
    """The fleet's state according to its ledger."""
    members: dict[str, FleetMember] = {}
    wanted = launches = 0
    for record in records:
        match record:
            case FleetWanted():
                wanted = record.after
            case LaunchIntended():
                launches += 1
                members[record.token] = FleetMember(token=record.token, asked_at=record.at)
            case LaunchFailed() | MachineGone():
                members.pop(record.token, None)
            case LaunchAnswered() | MachineRetired() | MachineReleased():
                known = members.get(record.token) or FleetMember(token=record.token, asked_at=record.at)
                phase = _PHASES[type(record)]
                if phase is MachinePhase.STARTING and known.phase is not MachinePhase.ORDERED:
                    phase = known.phase
                members[record.token] = replace(known, id=record.machine, phase=phase)
    return FleetState(name=name, members=members, wanted=wanted, launches=launches)


class ControllerTurn:
    """One step in the making."""

    def __init__(self, fleet: FleetState, now: float, caps: Caps, facts: ProviderFacts) -> None:
        self.fleet = fleet
        self.members = dict(fleet.members)
        self.now = now
        self.caps = caps
        self.facts = facts
        self.failures = fleet.failures
        self.not_before = fleet.not_before
        self.out: list[Action] = []

    # -- events --------------------------------------------------------------------------------------

    def fold(self, event: Event) -> None:
        """Fold one event."""
        match event:
            case SetSize():
                self._want(event.machines, event.by)
                self.fleet = replace(self.fleet, ends="")
            case Down():
                self._want(0, event.by)
                self.fleet = replace(self.fleet, ends=event.by)
            case Frozen():
                self.fleet = replace(self.fleet, frozen=True)
            case ProviderListing():
                self.fleet = replace(self.fleet, looked=True)
                self._answers()
                self._compare(event.machines)
            case LaunchReply():
                self._answered(event.token, event.machine)
            case LaunchRefused():
                self._refused(event)
            case LookFailed() | Unsure():
                self._failed(event)
            case CallResults():
                for each in event.results:
                    self.fold(each)
            case _:
                pass

    def _want(self, machines: int, by: str) -> None:
        if machines != self.fleet.wanted:
            self._note(FleetWanted(at=self.now, before=self.fleet.wanted, after=machines, by=by))
            self.fleet = replace(self.fleet, wanted=machines)

    def _answered(self, token: str, machine: str) -> None:
        member = self.members.get(token)
        if member is not None and not member.id:
            self._note(LaunchAnswered(at=self.now, token=token, machine=machine, started_at=self.now))
            self.members[token] = replace(member, id=machine, phase=MachinePhase.STARTING)

    def _refused(self, event: LaunchRefused) -> None:
        member = self.members.get(event.token)
        if member is not None and member.phase is MachinePhase.ORDERED:
            self._note(LaunchFailed(at=self.now, token=event.token, kind=event.kind, why=event.why))
            del self.members[event.token]
        self._wait_longer()

    def _failed(self, event: LookFailed | Unsure) -> None:
        if isinstance(event, LookFailed) and self.fleet.silent_since is None:
            self.fleet = replace(self.fleet, silent_since=self.now)
        if event.why != self.fleet.trouble:
            self._note(ProviderFailed(at=self.now, why=event.why))
            self.fleet = replace(self.fleet, trouble=event.why)

    def _answers(self) -> None:
        since = self.fleet.silent_since
        if since is not None:
            self._note(ProviderAnswered(at=self.now, after_s=self.now - since))
            self.fleet = replace(self.fleet, silent_since=None, trouble="")

    def _wait_longer(self) -> None:
        self.failures += 1
        wait = min(FIRST_WAIT_S * 2 ** min(self.failures - 1, 16), LONGEST_WAIT_S)
        self.not_before = max(self.not_before, self.now + wait)

    # -- listings ------------------------------------------------------------------------------------

    def _compare(self, machines: tuple[Machine, ...]) -> None:
        """Make every listed machine a member, and doubt every member that is not listed."""
        by_id = {member.id: member for member in self.members.values() if member.id}
        listed: set[str] = set()
        for machine in machines:
            ordered = self.members.get(machine.token)
            if machine.phase == "ended" and self.facts.keeps_ended:
                self.out.append(Release(machine.id))  # what is left of it; nobody works there any more
            if machine.phase == "ended" and machine.id not in by_id and (ordered is None or ordered.id):
                continue  # it came and went between two listings
            member = by_id.get(machine.id) or self._recognised(machine)
            listed.add(member.token)
            self._seen(member, machine)
        for member in list(self.members.values()):
            if member.token not in listed:
                self._missed(member)

    def _recognised(self, machine: Machine) -> FleetMember:
        """A machine with an unknown id: of a launch without an answer, a second one of a launch, or a stranger."""
        ordered = self.members.get(machine.token)
        token = machine.token if ordered is not None and not ordered.id else f"found-{machine.id}"
        known = ordered if ordered is not None and not ordered.id else None
        member = replace(
            known or FleetMember(token=token, asked_at=machine.started_at or self.now),
            id=machine.id,
            phase=MachinePhase.STARTING,
        )
        self._note(
            LaunchAnswered(
                at=self.now, token=token, machine=machine.id, found=True, started_at=machine.started_at
            )
        )
        self.members[token] = member
        if ordered is not None and ordered.id:
            self._retire(member, f"a second machine of the launch of {ordered.id}")
        return self.members[token]

    def _seen(self, member: FleetMember, machine: Machine) -> None:
        if machine.phase == "ended":
            self._gone(member, machine.why or "its provider says that it has ended", taken=machine.taken)
            return
        if machine.taken and member.of_use and member.id:
            self._retire(replace(member, seen=machine), machine.why or "its provider ends it")
            member = self.members[member.token]
        phase = member.phase
        if phase is MachinePhase.STARTING and machine.phase == "ready":
            phase = MachinePhase.READY
        if phase is MachinePhase.READY and self.now - member.asked_at >= SOON_S:
            self.failures = 0
        member = replace(member, seen=machine, phase=phase)
        member = self._doubted(member) if not machine.healthy else replace(member, bad_looks=0)
        self.members[member.token] = member
        if member.phase is MachinePhase.RETIRING and machine.phase == "retired":
            self._release(member, "it has nothing left to do")
        elif member.of_use and self._is_dead(member):
            self._release(member, f"it was not healthy {self._how_long(member)}")

    def _missed(self, member: FleetMember) -> None:
        """A member is not listed: it may not be listed yet; after a while it is gone, or was never started."""
        if self.now - member.asked_at <= self.facts.visible_s:
            return
        member = self._doubted(member)
        self.members[member.token] = member
        if not (self.facts.sure or self._is_dead(member)):
            return
        how = (
            "it is not listed any more" if self.facts.sure else f"it was not listed {self._how_long(member)}"
        )
        if member.id:
            why = member.seen.why if member.seen is not None else ""
            taken = self.facts.keeps_ended or (member.seen is not None and member.seen.taken)
            self._gone(member, f"{how}; {why}" if why else how, taken=taken)
        else:
            self._note(LaunchFailed(at=self.now, token=member.token, kind="lost", why=how))
            del self.members[member.token]

    def _doubted(self, member: FleetMember) -> FleetMember:
        since = member.bad_since if member.bad_looks else self.now
        return replace(member, bad_looks=member.bad_looks + 1, bad_since=since)

    def _is_dead(self, member: FleetMember) -> bool:
        for_s = self.now - member.bad_since
        return member.bad_looks >= self.caps.dead_looks and for_s >= self.caps.dead_s

    def _how_long(self, member: FleetMember) -> str:
        return f"in {member.bad_looks} looks in a row, for {format_seconds(self.now - member.bad_since)}"

    # -- actions -------------------------------------------------------------------------------------

    def settle(self, *, after_look: bool) -> None:
        """Decide on actions that bring the fleet to its wanted size."""
        if after_look:
            self._ask_again()
            self._end_the_old()
        if self.fleet.ends:
            self._end_all(self.fleet.ends)
        if not self.fleet.looked:
            return
        of_use = [member for member in self.members.values() if member.of_use]
        most = self.caps.most(self.facts.usd_per_hour)
        aim = min(self.fleet.wanted, most, len(of_use) if self.fleet.frozen else most)
        self.fleet = replace(self.fleet, aim=aim)
        known = [member for member in of_use if member.id]
        if len(known) > aim:
            self._give_up(known, len(known) - aim)
        elif self.now >= self.not_before:
            missing = min(aim - len(of_use), most - len(self.members))
            for _ in range(min(missing, 1) if self.facts.launch_s else missing):
                self._launch(f"{len(of_use)} of {self.fleet.wanted} are there")

    def _end_all(self, by: str) -> None:
        """End all, including machines found only now: a controller may have died before the answer to its launch."""
        for member in list(self.members.values()):
            if member.id and member.phase is not MachinePhase.RELEASING:
                self._release(member, f"{by} ends all")

    def _launch(self, reason: str) -> None:
        number = self.fleet.launches + 1
        self.fleet = replace(self.fleet, launches=number)
        token = f"{self.fleet.name}-{int(self.now * 1000):x}-{number}"  # also where a ledger was lost
        price = self.facts.usd_per_hour
        self._note(LaunchIntended(at=self.now, token=token, reason=reason, usd_per_hour=price))
        self.members[token] = FleetMember(token=token, asked_at=self.now)
        self.not_before = max(self.not_before, self.now + self.facts.launch_s)
        self.out.append(Launch(token))

    def _give_up(self, of_use: list[FleetMember], count: int) -> None:
        """Those that start first, then the longest idle, then those that work, the newest first; none that holds anything."""
        free = [member for member in of_use if not (member.seen and member.seen.holds)]
        for member in sorted(free, key=_worth)[:count]:
            idle = member.seen.idle_s if member.seen is not None else None
            does = f", and had nothing to do for {format_seconds(idle)}" if idle is not None else ""
            self._retire(member, f"{len(of_use)} are there and {self._asked()}{does}")

    def _asked(self) -> str:
        aim, wanted = self.fleet.aim, self.fleet.wanted
        return (
            f"{wanted} are wanted" if aim == wanted else f"{aim} of the {wanted} that are wanted are allowed"
        )

    def _end_the_old(self) -> None:
        for member in list(self.members.values()):
            began = (
                member.seen.started_at
                if member.seen is not None and member.seen.started_at
                else member.asked_at
            )
            if member.id and member.of_use and self.now - began > self.caps.lifetime_s:
                self._retire(member, f"it is older than {format_seconds(self.caps.lifetime_s)}")

    def _ask_again(self) -> None:
        """Repeat requests that have not taken effect: calls may get lost, and are idempotent."""
        told = {action.machine for action in self.out if isinstance(action, Retire | Release)}
        for member in self.members.values():
            if member.id in told or not member.id:
                continue
            if member.phase is MachinePhase.RETIRING:
                self.out.append(Retire(member.id))
            elif member.phase is MachinePhase.RELEASING:
                self.out.append(Release(member.id))

    def _retire(self, member: FleetMember, reason: str) -> None:
        self._note(MachineRetired(at=self.now, machine=member.id, token=member.token, reason=reason))
        self.members[member.token] = replace(member, phase=MachinePhase.RETIRING)
        self.out.append(Retire(member.id))

    def _release(self, member: FleetMember, reason: str) -> None:
        self._note(MachineReleased(at=self.now, machine=member.id, token=member.token, reason=reason))
        self.members[member.token] = replace(member, phase=MachinePhase.RELEASING, bad_looks=0)
        self.out.append(Release(member.id))

    def _gone(self, member: FleetMember, how: str, *, taken: bool) -> None:
        """A machine has ended. The next launch waits where it ended by itself soon after its own: its program cannot work."""
        self._note(MachineGone(at=self.now, machine=member.id, token=member.token, how=how))
        self.members.pop(member.token, None)
        began = max(member.asked_at, member.seen.started_at if member.seen is not None else 0.0)
        if member.of_use and not taken and self.now - began < SOON_S:
            self._wait_longer()

    def _note(self, event: LedgerRecord) -> None:
        self.out.append(LedgerNote(event))


def _worth(member: FleetMember) -> tuple[int, float]:
    """Sort key: the least valuable machine first."""
    if member.phase is MachinePhase.STARTING:
        return 0, -member.asked_at
    idle = member.seen.idle_s if member.seen is not None else None
    return (1, -idle) if idle is not None else (2, -member.asked_at)
