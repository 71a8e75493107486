"""Simulated histories of a fleet: the production controller, ledger and all, against a fake provider, each replayed from its seed.

`play_fleet(seed)` draws faults, caps and wishes, kills and restarts the controller, and returns the history of it;
`check_fleet(history)` raises where an invariant is broken, naming the seed. `python -m tests.support.simulation.fleet_histories seed=N` plays one.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.simulation.checks import described, refuse
from tests.support.simulation.sim_store import SimJournal

from hooke.journal.fleet_events import LaunchIntended, LedgerRecord
from hooke.machines import controller
from hooke.machines.controller import Caps
from hooke.machines.keeper import LEDGER, FleetKeeper, Ledger, records_of
from hooke.testing.provider_suite import FakeProvider, ProviderFaults, draw_provider_faults
from hooke.testing.virtual_world import NO_FAULTS, DriverCrash, Record, World

__all__ = ["FleetHistory", "check_fleet", "play_fleet"]

HORIZON_S = 1500.0
"""How long things go wrong,"""
QUIET_S = 1500.0
"""and how long it may take then until all is as it was wanted: the slowest start, the longest work and the last wait together."""

Step = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHistory:
    """What happened: everything in `trace`, the ledger as read back, and what was found wrong while it was played."""

    seed: int
    faults: ProviderFaults
    caps: Caps
    wanted: int
    trace: tuple[Record, ...]
    ledger: tuple[LedgerRecord, ...]
    problems: tuple[str, ...]


def check_fleet(history: FleetHistory) -> None:
    """Raise AssertionError, with the seed, unless the history keeps the invariants."""
    problems = [*history.problems, *_in_the_trace(history)]
    refuse(problems, f"tests.support.simulation.fleet_histories seed={history.seed}")


def play_fleet(seed: int, *, step: Step | None = None, faults: ProviderFaults | None = None) -> FleetHistory:
    """Play one history; the same seed gives the same trace. `step` in place of the production one, for a test of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="hooke-fleet-"))
    try:
        return _Play(seed, folder, step or controller.step, faults).history()
    finally:
        shutil.rmtree(folder)


class _Keeper(FleetKeeper):
    """The production keeper, with the step that is to be tried."""

    def __init__(self, step: Step, *args: Any, **kwargs: Any) -> None:
        self.step = step
        super().__init__(*args, **kwargs)


@dataclass(slots=True)
class _Play:
    seed: int
    folder: Path
    step: Step
    given: ProviderFaults | None
    world: World = field(init=False)
    provider: FakeProvider = field(init=False)
    caps: Caps = field(init=False)
    problems: list[str] = field(default_factory=list)
    wanted: int = 0

    def history(self) -> FleetHistory:
        self.world = World(self.seed, NO_FAULTS)
        faults = self.given or draw_provider_faults(self.world.chance("provider"))
        self.provider = FakeProvider(world=self.world, faults=faults, watch=self._check_caps)
        chance = self.world.chance("caps")
        self.caps = Caps(
            workers=chance.randint(1, 8),
            usd_per_hour=chance.choice((float("inf"), float("inf"), 5.0)),
            lifetime_s=chance.choice((float("inf"), float("inf"), 600.0)),
        )
        self._go_wrong()
        self._come_to_rest(self.wanted, "as was wanted")
        self._come_to_rest(0, "down to nothing")
        left = [machine.id for machine in self.provider.alive()]
        if left:
            self.problems.append(f"left running: {', '.join(left)}")
        return FleetHistory(
            seed=self.seed,
            faults=faults,
            caps=self.caps,
            wanted=self.wanted,
            trace=tuple(self.world.trace),
            ledger=tuple(records_of(self.folder)),
            problems=tuple(self.problems),
        )

    def _go_wrong(self) -> None:
        """Controllers come and go, and want one number and another."""
        chance = self.world.chance("wishes")
        until = self.world.clock.time + HORIZON_S
        while self.world.clock.time < until:
            begun = self.world.chance(f"controller {self.world.clock.time}")
            crashes = begun.random() < self.provider.faults.crashes
            self.world.begin(0)
            self.world.crash_in = begun.randint(1, 150) if crashes else -1
            try:
                with self._keeper() as kept:
                    while self.world.clock.time < until:
                        if chance.random() < 0.03:
                            self.wanted = chance.randint(0, self.caps.workers + 1)
                            kept.keeper.want(self.wanted, "the simulation")
                        self._turn(kept.keeper)
            except DriverCrash:
                self.world.note("crash")
            self.world.clock.time += begun.choice((0.5, 20.0, 120.0))
        self.world.crash_in = -1

    def _come_to_rest(self, machines: int, what: str) -> None:
        """Nothing goes wrong any more: it must come to what is wanted, and stay there."""
        self.provider.heal()
        self.world.begin(0)
        self.world.crash_in = -1
        most = min(machines, self.caps.most(self.provider.facts.usd_per_hour))
        until = self.world.clock.time + QUIET_S
        with self._keeper() as kept:
            kept.keeper.want(machines, "the simulation")
            while self.world.clock.time < until:
                self._turn(kept.keeper)
                ready = [m for m in self.provider.alive() if m.ready_at <= self.world.clock.time]
                if len(self.provider.alive()) == len(ready) == most and self._rests(kept.keeper, machines):
                    return
        self.problems.append(
            f"did not come to rest {what}: {most} wanted, {len(self.provider.alive())} there"
        )

    def _rests(self, keeper: FleetKeeper, machines: int) -> bool:
        useful = [member for member in keeper.fleet.members.values() if member.of_use]
        return len(useful) == len(keeper.fleet.members) == min(machines, self.caps.most(1.0))

    def _turn(self, keeper: FleetKeeper) -> None:
        pause = keeper.turn()
        self.world.clock.time += max(pause, 0.1)
        self._check_caps()

    def _keeper(self) -> _Kept:
        return _Kept(self)

    def _check_caps(self) -> None:
        """By what really is. A machine that nobody asked for may be there until it is found and ended."""
        alive = self.provider.alive()
        asked = [machine for machine in alive if not machine.double]
        most = self.caps.most(self.provider.facts.usd_per_hour)
        if len(asked) > most:
            self.problems.append(
                f"{len(asked)} machines at {self.world.clock.time:.1f}, and {most} are allowed"
            )


class _Kept:
    """One controller, from its start until it is closed or dies."""

    def __init__(self, play: _Play) -> None:
        journal = SimJournal.create(play.folder, LEDGER, durable="none", clock=play.world.clock)
        assert isinstance(journal, SimJournal)
        journal.world = play.world
        journal.observers.append(lambda event: play.world.note("ledger", event))
        self._ledger = Ledger(journal)
        self.keeper = _Keeper(
            play.step, "sim", play.provider, self._ledger, caps=play.caps, clock=play.world.clock
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger.close()


def _in_the_trace(history: FleetHistory) -> list[str]:
    """What the order of things tells: intent before launch, no token twice, and no work lost but of the dead."""
    problems: list[str] = []
    intended: set[str] = set()
    launched: set[str] = set()
    dead: set[str] = set()
    for record in history.trace:
        facts = record.facts
        if record.what == "ledger" and isinstance(facts, LaunchIntended):
            intended.add(facts.token)
        elif record.what == "ledger" and getattr(facts, "reason", "").startswith("it was not healthy"):
            dead.add(facts.machine)
        elif record.what == "launch":
            if facts not in intended:
                problems.append(f"{facts} was launched before it was in the ledger")
            if facts in launched:
                problems.append(f"{facts} was launched twice")
            launched.add(facts)
        elif record.what == "released":
            machine, lives, done = facts
            if lives and not done and machine not in dead:
                problems.append(f"{machine} was ended with work on it")
    return problems


def _main(arguments: list[str], say: Callable[[str], Any] = sys.stdout.write) -> None:
    seed = int(arguments[0].partition("=")[2])
    history = play_fleet(seed)
    say(f"{history.faults}\n{history.caps}\n" + described(history.trace))
    check_fleet(history)


if __name__ == "__main__":
    _main(sys.argv[1:])
