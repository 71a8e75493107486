"""The conformance suite of providers, `check_provider(make)`, and a fake provider in virtual time.

The suite raises AssertionError with the broken guarantee. The fake has the faults of real providers at chosen rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from hooke.machines.provider import (
    Machine,
    NoCapacity,
    NotAllowed,
    OverQuota,
    Provider,
    ProviderFacts,
    Unreachable,
)
from hooke.testing.virtual_world import World

__all__ = [
    "NO_PROVIDER_FAULTS",
    "FakeMachine",
    "FakeProvider",
    "ProviderFaults",
    "check_provider",
    "draw_provider_faults",
]

PATIENCE_S = 120.0
"""Time limit for slow steps: a machine becomes ready, finishes, or is gone."""

FIRST, SECOND = "t1", "t2"


def check_provider(
    make: Callable[[str], Provider],
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
    patience_s: float = PATIENCE_S,
) -> None:
    """Run all checks on real machines, which are ended again whatever comes. `make(tag)` gives a provider of the fleet of that tag.

    Two of one tag are of one fleet, as those of a controller that was killed and of the next one. `sleep` and `now` are
    those of virtual time, where the provider lives in that.
    """
    bench = _Bench(make=make, sleep=sleep, now=now, patience_s=patience_s)
    try:
        for check in (_lists, _is_found_by_its_tag, _retires, _releases, _bears_what_is_not_there):
            check(bench)
    finally:
        bench.end()


@dataclass(slots=True, kw_only=True)
class _Bench:
    make: Callable[[str], Provider]
    sleep: Callable[[float], None]
    now: Callable[[], float]
    patience_s: float
    tags: dict[str, Provider] = field(default_factory=dict)

    def provider(self, tag: str) -> Provider:
        return self.tags.setdefault(tag, self.make(tag))

    def await_that(self, what: str, holds: Callable[[], bool], patience_s: float | None = None) -> None:
        patience_s = self.patience_s if patience_s is None else patience_s
        deadline = self.now() + patience_s
        while not holds():
            assert self.now() < deadline, f"within {patience_s:g} s {what}"
            self.sleep(0.2)

    def ready(self, provider: Provider, token: str) -> Machine:
        machine = provider.launch(token)
        visible_s = provider.facts.visible_s
        self.await_that(
            f"a machine is listed, and its launch was asked for {visible_s:g} s ago (`visible_s`)",
            lambda: machine in _listed(provider),
            patience_s=visible_s + 5.0,
        )
        self.await_that("a machine is ready", lambda: _phase(provider, machine) == "ready")
        return _listed(provider)[machine]

    def gone(self, provider: Provider, machine: str) -> bool:
        return _phase(provider, machine) in {"", "ended"}

    def end(self) -> None:
        for provider in self.tags.values():
            left = [machine for machine in _listed(provider) if not self.gone(provider, machine)]
            for machine in left:
                self._end(provider, machine)

    def _end(self, provider: Provider, machine: str) -> None:
        def released() -> bool:
            provider.release(machine)
            return self.gone(provider, machine)

        self.await_that("a machine that was released is gone", released)


def _listed(provider: Provider) -> dict[str, Machine]:
    return {machine.id: machine for machine in provider.list()}


def _phase(provider: Provider, machine: str) -> str:
    found = _listed(provider).get(machine)
    return "" if found is None else found.phase


def _lists(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    before = bench.now()
    machines = [bench.ready(provider, token) for token in (FIRST, SECOND)]
    assert len({machine.id for machine in machines}) == 2, "two launches are two machines"
    assert [machine.token for machine in machines] == [FIRST, SECOND], (
        "a machine bears the token of its launch"
    )
    for machine in machines:
        assert before - 5 <= machine.started_at <= bench.now() + 5, "it is known when a machine began to cost"
        assert machine.healthy, "a machine is healthy until something is wrong with it"


def _is_found_by_its_tag(bench: _Bench) -> None:
    known = set(_listed(bench.provider("suite-a")))
    assert set(_listed(bench.make("suite-a"))) == known, "a fleet's machines are found whoever launched them"
    bench.ready(bench.provider("suite-b"), FIRST)
    assert set(_listed(bench.provider("suite-a"))) == known, "another fleet's machines are not listed"


def _retires(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    machine = next(each.id for each in provider.list() if each.token == FIRST)
    provider.retire(machine)
    provider.retire(machine)
    bench.await_that(
        "a machine that was retired has nothing left to do, or is gone",
        lambda: _phase(provider, machine) in {"", "retired", "ended"},
    )


def _releases(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    machine = next(each.id for each in provider.list() if each.token == SECOND)

    def released() -> bool:
        provider.release(machine)
        return bench.gone(provider, machine)

    bench.await_that("a machine that was released is gone", released)


def _bears_what_is_not_there(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    provider.retire("no-such-machine")
    provider.release("no-such-machine")


# --- A fake provider of machines, for simulations.

VISIBLE_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFaults:
    """Fault rates: each is a probability between 0 and 1."""

    lost: float = 0.0
    """Of a call: to have no answer; half of them were done."""
    refused: float = 0.0
    """Of a launch: no capacity, over the quota, or not allowed."""
    doubled: float = 0.0
    """Of a launch: to start two machines."""
    late: float = 0.0
    """Of a machine: to be listed only after up to `visible_s`."""
    slow: float = 0.0
    """Of a machine: to take minutes to start."""
    dies: float = 0.0
    """Of a machine: to end by itself, listed as ended or not any more."""
    sick: float = 0.0
    """Of a machine: to be unhealthy for a while, or for good."""
    unlisted: float = 0.0
    """Of a machine: to be missing in lists for a few seconds, though it works."""
    outage: float = 0.0
    """Of any minute: no call is answered for as long as two minutes."""
    crashes: float = 0.0
    """Of a controller: to be killed between two of its steps."""


NO_PROVIDER_FAULTS = ProviderFaults()


def draw_provider_faults(random: Random) -> ProviderFaults:
    """Random faults at random rates; one history in ten has none."""
    if random.random() < 0.1:
        return NO_PROVIDER_FAULTS

    def some(most: float) -> float:
        return random.choice((0.0, most / 4, most))

    return ProviderFaults(
        lost=some(0.3),
        refused=some(0.4),
        doubled=some(0.2),
        late=some(0.5),
        slow=some(0.4),
        dies=some(0.2),
        sick=some(0.3),
        unlisted=some(0.3),
        outage=some(0.2),
        crashes=some(0.8),
    )


@dataclass(slots=True, kw_only=True)
class FakeMachine:
    """The true state of a machine, whatever is listed. Times are virtual seconds since the epoch."""

    id: str
    token: str
    started_at: float
    visible_at: float
    ready_at: float
    double: bool = False
    """Whether it is an unrequested second machine of one launch."""
    works_until: float = 0.0
    holds_until: float = 0.0
    retired_at: float = math.inf
    ended_at: float = math.inf
    dies_at: float = math.inf
    sick: tuple[float, float] = (math.inf, math.inf)
    unlisted: tuple[float, float] = (math.inf, math.inf)
    told: bool = True
    """Whether it is listed as ended for a while when it has died."""

    def lives(self, now: float) -> bool:
        """Whether it costs."""
        return now < min(self.ended_at, self.dies_at)

    def done_at(self) -> float:
        """When it has finished its work, after it was drained."""
        return max(self.retired_at, self.works_until, self.holds_until)


@dataclass(slots=True, kw_only=True)
class FakeProvider:
    """See `hooke.machines.provider.Provider`. `world` gives time and randomness; `machines` is the truth, for checks."""

    world: World
    faults: ProviderFaults = NO_PROVIDER_FAULTS
    facts: ProviderFacts = field(
        default_factory=lambda: ProviderFacts(name="fake", usd_per_hour=1.0, visible_s=VISIBLE_S, look_s=5.0)
    )
    machines: dict[str, FakeMachine] = field(default_factory=dict)
    work_s: float = 60.0
    """What a machine works at a time, on average; it works half of the time."""
    watch: Callable[[], None] = lambda: None
    """Called whenever a machine has come to be."""
    _calls: int = 0
    _launched: int = 0
    _outage_until: float = 0.0
    _next_minute: float = 0.0

    def launch(self, token: str) -> str:
        """See Provider."""
        chance = self._call("launch", token)
        if chance.random() < self.faults.refused:
            raise chance.choice((NoCapacity, NoCapacity, OverQuota, NotAllowed))("refused by chance")
        lost = chance.random() < self.faults.lost
        if lost and chance.random() < 0.5:
            raise Unreachable("lost on the way there")
        machine = self._start(token, chance)
        if chance.random() < self.faults.doubled:
            self._start(token, chance, double=True)
        self.watch()
        self.world.step()
        if lost:
            raise Unreachable("lost on the way back")
        return machine

    def list(self) -> Sequence[Machine]:
        """See Provider."""
        chance = self._call("list")
        if chance.random() < self.faults.lost:
            raise Unreachable("no list by chance")
        now = self.world.clock.now()
        return [listed for machine in self.machines.values() if (listed := self._listed(machine, now))]

    def retire(self, machine: str) -> None:
        """See Provider."""
        lost = self._call("retire", machine).random()
        known = self.machines.get(machine)
        if lost >= self.faults.lost or lost < self.faults.lost / 2:
            now = self.world.clock.now()
            if known is not None and known.lives(now):
                self._work(known, now)
                known.retired_at = min(known.retired_at, now)
        self.world.step()
        if lost < self.faults.lost:
            raise Unreachable("lost by chance")

    def release(self, machine: str) -> None:
        """See Provider."""
        chance = self._call("release", machine)
        lost = chance.random()
        known = self.machines.get(machine)
        if (lost >= self.faults.lost or lost < self.faults.lost / 2) and known is not None:
            now = self.world.clock.now()
            self.world.note("released", (machine, known.lives(now), now >= known.done_at()))
            known.ended_at = min(known.ended_at, now + chance.uniform(0.0, 8.0))
        self.world.step()
        if lost < self.faults.lost:
            raise Unreachable("lost by chance")

    # -- the true state ------------------------------------------------------------------------------

    def alive(self) -> tuple[FakeMachine, ...]:
        """The machines that cost money now."""
        now = self.world.clock.now()
        return tuple(machine for machine in self.machines.values() if machine.lives(now))

    def heal(self) -> None:
        """Stop all faults from now on; past faults stay."""
        self.faults = NO_PROVIDER_FAULTS
        self._outage_until = 0.0
        for machine in self.machines.values():
            if machine.dies_at > self.world.clock.now():
                machine.dies_at = math.inf

    def _start(self, token: str, chance: Random, *, double: bool = False) -> str:
        now = self.world.clock.now()
        self._launched += 1
        late = chance.random() < self.faults.late
        slow = chance.random() < self.faults.slow
        begins = now + chance.expovariate(1 / 300.0)
        machine = FakeMachine(
            id=f"m{self._launched}",
            token=token,
            started_at=now,
            visible_at=now + (chance.uniform(0.0, 0.9 * self.facts.visible_s) if late else 0.0),
            ready_at=now + (chance.uniform(60.0, 400.0) if slow else chance.uniform(1.0, 20.0)),
            double=double,
            told=chance.random() < 0.5,
        )
        if chance.random() < self.faults.dies:
            machine.dies_at = begins
        if chance.random() < self.faults.sick:
            machine.sick = (begins, begins + chance.choice((10.0, 45.0, math.inf)))
        if chance.random() < self.faults.unlisted:
            machine.unlisted = (begins, begins + chance.uniform(1.0, 50.0))
        self.machines[machine.id] = machine
        return machine.id

    def _listed(self, machine: FakeMachine, now: float) -> Machine | None:
        if now < machine.visible_at or machine.unlisted[0] <= now < machine.unlisted[1]:
            return None
        if not machine.lives(now):
            tells = machine.told and now - min(machine.ended_at, machine.dies_at) < 60.0
            return Machine(id=machine.id, token=machine.token, phase="ended") if tells else None
        self._work(machine, now)
        phase = "starting" if now < machine.ready_at else "ready"
        if now >= machine.done_at():
            phase = "retired"
        return Machine(
            id=machine.id,
            token=machine.token,
            phase=phase,
            started_at=machine.started_at,
            healthy=not machine.sick[0] <= now < machine.sick[1],
            idle_s=None
            if now < machine.works_until
            else max(now - max(machine.works_until, machine.ready_at), 0.0),
            holds="gang train" if now < machine.holds_until else "",
        )

    def _work(self, machine: FakeMachine, now: float) -> None:
        """It has taken work meanwhile, unless it was retired; now and then that of a gang."""
        if machine.retired_at <= now or now < machine.ready_at or now < machine.works_until:
            return
        chance = self.world.chance(f"work {machine.id} {now}")
        if chance.random() < 0.5:
            machine.works_until = now + chance.expovariate(1 / self.work_s)
            if chance.random() < 0.2:
                machine.holds_until = machine.works_until

    def _call(self, what: str, of: str = "") -> Random:
        """A call takes its time; the controller may die before it, and in an outage it has no answer."""
        self.world.step()
        self._calls += 1
        chance = self.world.chance(f"call {self._calls}")
        self.world.note(what, of)
        now = self.world.clock.now()
        while self._next_minute <= now:
            self._next_minute = max(self._next_minute, now - 60.0) + 60.0
            if chance.random() < self.faults.outage:
                self._outage_until = self._next_minute + chance.uniform(0.0, 120.0)
        self.world.clock.time += chance.uniform(0.0, 0.5)
        if now < self._outage_until:
            raise Unreachable("an outage")
        return chance
