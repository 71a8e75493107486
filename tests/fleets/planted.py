"""Bugs to be found: small changes of the production controller, each of a kind that fleets have had."""

from dataclasses import replace

from hooke.journal.fleet_events import LaunchIntended
from hooke.machines.controller import (
    ControllerTurn,
    FleetMember,
    Launch,
    LedgerNote,
    LookFailed,
    MachinePhase,
    ProviderListing,
)


class LaunchesBeforeItWrites(ControllerTurn):
    """Leak: a controller that dies between the two leaves a machine that nobody knows of."""

    def _launch(self, reason):
        super()._launch(reason)
        self.out[-2:] = reversed(self.out[-2:])


class ForgetsLostAnswers(ControllerTurn):
    """Caps: a launch without an answer is taken for one that failed."""

    def settle(self, *, after_look):
        for token, member in list(self.members.items()):
            if member.phase is MachinePhase.ORDERED and after_look:
                del self.members[token]
        super().settle(after_look=after_look)


class TriesTheTokenAgain(ControllerTurn):
    """Duplicates: a launch that was not answered is sent again."""

    def settle(self, *, after_look):
        if after_look:
            self.out += [Launch(m.token) for m in self.members.values() if not m.id]
        super().settle(after_look=after_look)


class BelievesOneLook(ControllerTurn):
    """Dead nodes that live: one look without a machine, and it is gone."""

    def _is_dead(self, member):
        return member.bad_looks >= 1


class EndsWhatWorks(ControllerTurn):
    """Lost work: machines are released without having been retired."""

    def _retire(self, member, reason):
        self._release(member, reason)


class AsksOnce(ControllerTurn):
    """Leak: a release that got lost is not asked for again."""

    def _ask_again(self):
        pass


class WaitsForEver(ControllerTurn):
    """A launch that came to nothing is waited for, and another takes its place never."""

    def _missed(self, member):
        if member.id:
            super()._missed(member)


class TakesOutageForDeath(ControllerTurn):
    """Dead nodes that live: a provider that does not answer is taken for one that has no machines."""

    def fold(self, event):
        super().fold(ProviderListing(()) if isinstance(event, LookFailed) else event)


class CountsOnlyTheUseful(ControllerTurn):
    """Caps: machines that are being retired cost, and are not counted."""

    def settle(self, *, after_look):
        members = self.members
        self.members = {token: member for token, member in members.items() if member.of_use}
        ending = {token: member for token, member in members.items() if not member.of_use}
        ControllerTurn.settle(self, after_look=False)
        self.members |= ending
        if after_look:
            self._ask_again()


class KeepsStrangers(ControllerTurn):
    """Leak: a second machine of one launch is not looked at."""

    def _compare(self, machines):
        known = {member.id for member in self.members.values()}
        open_ones = {member.token for member in self.members.values() if not member.id}
        super()._compare(tuple(m for m in machines if m.id in known or m.token in open_ones))


class GoesOverThePrice(ControllerTurn):
    """Caps: the number of machines is kept to, and what they cost is not."""

    def __init__(self, fleet, now, caps, facts):
        super().__init__(fleet, now, replace(caps, usd_per_hour=float("inf")), facts)


class LaunchesForEach(ControllerTurn):
    """Too many: what is on its way is not counted, so each step launches again."""

    def _launch(self, reason):
        super()._launch(reason)
        note = self.out[-2]
        assert isinstance(note, LedgerNote)
        assert isinstance(note.event, LaunchIntended)
        del self.members[note.event.token]

    def _answered(self, token, machine):
        self.members[token] = FleetMember(token=token, asked_at=self.now)
        super()._answered(token, machine)
