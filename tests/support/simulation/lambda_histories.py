"""Simulated histories of a fleet on Lambda Cloud: the production controller, ledger and provider against an account in virtual time.

`play_lambda(seed)` and `check_lambda(history)` are as those of `fleet_histories`. At the end a keeper without a ledger reaps.
`python -m tests.support.simulation.lambda_histories seed=N` plays one.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.simulation.checks import described, refuse
from tests.support.simulation.sim_store import SimJournal

from hooke.journal.fleet_events import LaunchIntended, LedgerRecord
from hooke.machines.controller import Caps
from hooke.machines.keeper import LEDGER, FleetKeeper, Ledger, records_of
from hooke.providers.lambda_cloud import LambdaApi, LambdaCloud
from hooke.testing.lambda_cloud import LambdaAccount, LambdaFaults, draw_lambda_faults
from hooke.testing.virtual_world import NO_FAULTS, DriverCrash, Record, World

__all__ = ["USD", "LambdaHistory", "check_lambda", "play_lambda"]

HORIZON_S = 3600.0
QUIET_S = 3000.0
USD = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class LambdaHistory:
    """What happened, and what was found wrong while it was played."""

    seed: int
    faults: LambdaFaults
    caps: Caps
    trace: tuple[Record, ...]
    ledger: tuple[LedgerRecord, ...]
    launches: tuple[str, ...]
    refused: Mapping[str, int]
    crashes: int
    most: int
    """The most instances that were billed at once, without those that Lambda started unasked."""
    problems: tuple[str, ...]


def check_lambda(history: LambdaHistory) -> None:
    """Raise AssertionError, with the seed, unless the history keeps the invariants."""
    problems = list(history.problems)
    intended = {each.token for each in history.ledger if isinstance(each, LaunchIntended)}
    twice = {token for token in history.launches if history.launches.count(token) > 1}
    problems += [f"{token} was launched twice" for token in sorted(twice)]
    problems += [f"{token} was not in the ledger" for token in history.launches if token not in intended]
    if (
        history.refused.get("early", 0) > history.crashes + 2
    ):  # only a new controller does not know when the last request was
        problems.append(f"{history.refused['early']} requests came faster than the limits allow")
    refuse(problems, f"tests.support.simulation.lambda_histories seed={history.seed}")


def play_lambda(
    seed: int, *, provider: type[LambdaCloud] = LambdaCloud, faults: LambdaFaults | None = None
) -> LambdaHistory:
    """Play one history; the same seed gives the same trace. `provider` in place of the production one, for a test of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="hooke-lambda-"))
    try:
        return _Play(seed, folder, provider, faults).history()
    finally:
        shutil.rmtree(folder)


@dataclass(slots=True)
class _Play:
    seed: int
    folder: Path
    kind: type[LambdaCloud]
    given: LambdaFaults | None
    world: World = field(init=False)
    account: LambdaAccount = field(init=False)
    caps: Caps = field(init=False)
    problems: list[str] = field(default_factory=list)
    crashes: int = 0
    most: int = 0

    def history(self) -> LambdaHistory:
        self.world = World(self.seed, NO_FAULTS)
        faults = self.given or draw_lambda_faults(self.world.chance("provider"))
        self.account = LambdaAccount(clock=self.world.clock, seed=self.seed, faults=faults)
        self.account.begun = lambda _: self._check_caps()
        chance = self.world.chance("caps")
        self.caps = Caps(
            workers=chance.randint(1, 8),
            usd_per_hour=chance.choice((math.inf, math.inf, 5 * USD)),
            lifetime_s=chance.choice((math.inf, math.inf, 1200.0)),
        )
        self._go_wrong()
        self._fill()
        self._reap()
        return LambdaHistory(
            seed=self.seed,
            faults=faults,
            caps=self.caps,
            trace=tuple(self.world.trace),
            ledger=tuple(records_of(self.folder)),
            launches=tuple(self.account.launches),
            refused=dict(self.account.refused),
            crashes=self.crashes,
            most=self.most,
            problems=tuple(self.problems),
        )

    def _go_wrong(self) -> None:
        """Controllers come and go, and want one number and another."""
        chance = self.world.chance("wishes")
        until = self.world.clock.time + HORIZON_S
        while self.world.clock.time < until:
            begun = self.world.chance(f"controller {self.world.clock.time}")
            self.world.begin(0)
            self.world.crash_in = (
                begun.randint(1, 300) if begun.random() < self.account.faults.crashes else -1
            )
            try:
                with self._ledger(self.folder) as ledger:
                    keeper = self._keeper(ledger)
                    while self.world.clock.time < until:
                        if chance.random() < 0.05:
                            keeper.want(chance.randint(0, self.caps.workers + 1), "the simulation")
                        self._turn(keeper)
            except DriverCrash:
                self.world.note("crash")
                self.crashes += 1
            self.world.clock.time += begun.choice((0.5, 20.0, 120.0))
        self.world.crash_in = -1

    def _fill(self) -> None:
        """Nothing goes wrong any more: as many machines come as are allowed."""
        self.account.heal()
        self.world.begin(0)
        until = self.world.clock.time + QUIET_S
        with self._ledger(self.folder) as ledger:
            keeper = self._keeper(ledger)
            keeper.want(self.caps.workers, "the simulation")
            while self.world.clock.time < until:
                self._turn(keeper)
                if keeper.fleet.settled and len(self.account.billing()) == self.caps.most(USD):
                    return
        self.problems.append(
            f"{len(self.account.billing())} machines came, and {self.caps.most(USD)} are allowed"
        )

    def _reap(self) -> None:
        """The ledger is lost: `hooke fleet reap` ends all that is billed."""
        self.world.begin(0)
        until = self.world.clock.time + QUIET_S
        with self._ledger(self.folder / "lost") as ledger:
            keeper = self._keeper(ledger)
            keeper.down("hooke fleet reap")
            while self.world.clock.time < until:
                self._turn(keeper)
                if keeper.fleet.settled and not self.account.billing():
                    return
        left = ", ".join(each.token for each in self.account.billing())
        self.problems.append(f"left billing: {left or 'nothing, but the fleet does not know it'}")

    def _turn(self, keeper: FleetKeeper) -> None:
        pause = keeper.turn()
        self.world.clock.time += max(pause, 0.1)
        self._check_caps()

    def _keeper(self, ledger: Ledger) -> FleetKeeper:
        provider = self.kind(
            "sim",
            user_data=lambda token: f"#!/bin/sh\n# {token}\n",
            logs=self.folder,
            usd_per_hour=USD,
            api=LambdaApi(self.account.key, self._send, clock=self.world.clock, sleep=self._sleep),
            instance="cpu_4x_general",
            ssh_key="sim",
            owner="sim",
        )
        return FleetKeeper("sim", provider, ledger, caps=self.caps, clock=self.world.clock)

    def _sleep(self, seconds: float) -> None:
        self.world.clock.time += seconds

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Any:
        """A request takes its time; the controller may die before it, and after it."""
        self.world.step()
        chance = self.world.chance(f"network {self.world.clock.time}")
        self.world.clock.time += chance.uniform(0.05, 0.4)
        made = self.account.answer(method, path, headers, body)
        self.world.note(path, made[0])
        self.world.step()
        return made

    def _ledger(self, folder: Path) -> Ledger:
        folder.mkdir(exist_ok=True)
        journal = SimJournal.create(folder, LEDGER, durable="none", clock=self.world.clock)
        assert isinstance(journal, SimJournal)
        journal.world = self.world
        return Ledger(journal)

    def _check_caps(self) -> None:
        """By what is billed. An instance that nobody asked for may be there until it is found and ended."""
        asked = sum(1 for each in self.account.billing() if not each.double)
        self.most = max(self.most, asked)
        if asked > self.caps.most(USD):
            self.problems.append(
                f"{asked} are billed at {self.world.clock.time:.1f}, and {self.caps.most(USD)} are allowed"
            )


def _main(arguments: list[str], say: Callable[[str], Any] = sys.stdout.write) -> None:
    seed = int(arguments[0].partition("=")[2])
    history = play_lambda(seed)
    say(f"{history.faults}\n{history.caps}\n" + described(history.trace))
    check_lambda(history)


if __name__ == "__main__":
    _main(sys.argv[1:])
