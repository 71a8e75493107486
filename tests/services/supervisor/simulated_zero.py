"""A service between no replica and one under a virtual clock: the real supervision, keep-alive and activator, and simulated processes.

A seed is a whole history of requests, starts of a second to a quarter of an hour, clients that leave, and kills of replica, supervisor and
proxy in any state.
"""

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from hooke.autoscaling.scale_to_zero import ZeroPolicy, ZeroSnapshot
from hooke.journal.service_events import ReplicaReady, ServiceScaled
from hooke.proxy.held_requests import Forward, HeldRequests, HoldLimits, Refuse
from hooke.services.supervisor.replica_events import (
    Adopted,
    Exited,
    KillReplica,
    Publish,
    Published,
    RecordEvent,
    ReplicaReport,
    Reported,
    Rules,
    Scale,
    StartReplica,
    SupervisionBegan,
    SupervisionTick,
    Terminate,
)
from hooke.services.supervisor.supervision import Supervision

RULES = Rules(timeout_s=20.0, ready_s=1800.0)
LIMITS = HoldLimits(timeout_s=20.0, most_requests=5, most_bytes=5000)
SHORT_S, LONG_S = 0.25, 1.0
PROXY_AWAY_S = 1.0
FAULTS = ("replica", "supervisor", "proxy")


@dataclass
class Process:
    """A simulated replica, with the requests that it has and when each is answered."""

    name: str
    port: int
    born: float
    ready_at: float
    work: dict[int, float] = field(default_factory=dict)
    called: int = 0
    answered: int = 0
    ends: bool = False

    def report(self, now: float) -> ReplicaReport:
        state = "draining" if self.ends else "ready" if now >= self.ready_at else "starting"
        return ReplicaReport(
            state=state,
            in_flight=len(self.work),
            answered=self.answered,
            open_calls=len(self.work),
            called=self.called,
        )


class ZeroWorld:
    """`outcomes` counts what became of requests: answered, late (504), no room (503), gone, killed, no proxy. All others are lost."""

    def __init__(self, seed: int, *, faults: bool = True) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.faults = faults
        self.now = 1000.0
        self.outcomes: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        """Faults that hit, by victim and state."""
        self.cold: list[tuple[float, float]] = []
        """Of each cold start: its seconds, and the start-up time of the replica."""
        self.cycles = 0
        self.had = 0
        """Requests in flight on what was killed."""
        self.processes: dict[str, Process] = {}
        self.pending: dict[int, float] = {}
        """Requests without an outcome, by their deadline."""
        self.numbers = itertools.count(1)
        self.ports = itertools.count(2000)
        self.start_s = 5.0
        self.called = 0
        self.published: tuple[str, ...] = ()
        self.routed: tuple[str, ...] = ()
        self.acks: list[tuple[float, tuple[str, ...]]] = []
        self.proxy_back = 0.0
        self.held = HeldRequests(LIMITS)
        self.supervise(first=True)

    # -- the supervisor ----------------------------------------------------------------------------

    def supervise(self, *, first: bool = False) -> None:
        """A new supervisor takes over what there is."""
        found = [one for one in self.processes.values() if not one.ends]
        self.core = Supervision(RULES, generation="a", wanted=len(found) or int(first))
        self.zero = ZeroPolicy(fixed_s=self.chance.choice([None, 1.0, 3.0]))
        self.called = 0
        self.tell(
            SupervisionBegan(
                adopted=tuple(
                    Adopted(
                        name=one.name, generation="a", report=one.report(self.now), age_s=self.now - one.born
                    )
                    for one in found
                )
            )
        )

    def tell(self, event: object) -> None:
        for action in self.core.step(event, self.now):
            match action:
                case StartReplica():
                    takes = self.chance.choice([1.0, 2.0, 5.0, 15.0, 15.0, 25.0])
                    takes = 900.0 if self.chance.random() < 0.002 else takes
                    ready_at = self.now + takes
                    self.processes[action.name] = Process(action.name, next(self.ports), self.now, ready_at)
                case Publish(names):
                    self.published = names
                    if self.now >= self.proxy_back:
                        self.order(names)
                case Terminate(name):
                    assert self.processes[name].ready_at <= self.now, "a start under way is never cancelled"
                    self.processes[name].ends = True
                case KillReplica(name):
                    raise AssertionError(f"seed {self.seed}: replica {name} is killed")
                case RecordEvent(ReplicaReady(seconds=seconds)):
                    self.start_s = seconds
                case RecordEvent(ServiceScaled(after=after)):
                    self.cycles += not after

    def order(self, names: tuple[str, ...]) -> None:
        """The proxy is told: the activator forwards at once, and Envoy follows."""
        self.acks.append((self.now + self.chance.choice([0.0, 0.01, 0.3]), names))
        ports = [self.processes[name].port for name in names]
        self.perform(self.held.serve(ports, holding=True))

    def decide(self) -> None:
        seen = ZeroSnapshot(
            wanted=self.core.wanted,
            starting=self.core.starts(),
            open_calls=self.core.open_calls(),
            called=self.called,
            held=len(self.held),
            start_s=self.start_s,
        )
        decision = self.zero.decide(self.now, seen)
        if decision is not None:
            self.tell(Scale(decision.target, decision.reason))

    # -- requests ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """A client sends a request."""
        if self.now < self.proxy_back:
            self.outcomes["no proxy"] += 1
            return
        number = next(self.numbers)
        self.pending[number] = self.now + LIMITS.timeout_s + RULES.timeout_s
        able = [self.processes[name] for name in self.routed if name in self.processes]
        if able:
            self.give(self.chance.choice(able), number)
        elif self.routed:
            self.end(number, "killed")  # its replica died a moment ago
        else:
            self.perform(self.held.arrive(number, self.chance.choice([100, 2000]), self.now))

    def give(self, process: Process, number: int) -> None:
        process.called += 1
        process.work[number] = self.now + self.chance.choice([0.01, 0.1, 1.0])

    def perform(self, actions: list) -> None:
        for action in actions:
            match action:
                case Forward(number, port):
                    able = [one for one in self.processes.values() if one.port == port]
                    if able:
                        self.give(able[0], number)
                    else:
                        self.held.fail(number, 100, self.now)
                case Refuse():
                    self.end(action.request, "late" if action.status == 504 else "no room")

    def end(self, number: int, outcome: str) -> None:
        if self.pending.pop(number, None) is not None:
            self.outcomes[outcome] += 1

    # -- time --------------------------------------------------------------------------------------

    def live(self) -> None:
        """One step of time."""
        self.now += SHORT_S if self.in_motion() else LONG_S
        while self.acks and self.acks[0][0] <= self.now:
            self.routed = self.acks.pop(0)[1]
            self.tell(Published(self.routed))
        if self.proxy_back and self.now >= self.proxy_back:
            self.proxy_back = 0.0
            self.order(self.published)
        for process in list(self.processes.values()):
            for number, at in list(process.work.items()):
                if at <= self.now:
                    self.answer(process, number)
            if process.ends and not process.work:
                del self.processes[process.name]
                self.tell(Exited(name=process.name, exit_code=0))
                continue
            report = process.report(self.now)
            member = self.core.members.get(process.name)
            self.called += report.called - (member.report.called if member is not None else 0)
            self.tell(Reported(process.name, report))
        self.perform(self.held.tick(self.now))
        self.decide()
        self.tell(SupervisionTick())
        stuck = [number for number, ends in self.pending.items() if ends < self.now]
        assert not stuck, f"seed {self.seed}: requests {stuck} have no outcome at {self.now}"

    def in_motion(self) -> bool:
        """Whether something changes soon: else a second at once passes."""
        return bool(self.pending or self.acks or self.proxy_back) or any(
            one.ends or one.ready_at > self.now for one in self.processes.values()
        )

    def answer(self, process: Process, number: int) -> None:
        del process.work[number]
        process.answered += 1
        self.end(number, "answered")
        cold = self.held.answer(number, self.now)
        if cold is not None:
            self.cold.append((cold.seconds, process.ready_at - process.born))

    def fail_somewhere(self) -> None:
        """Kill one of the three, in whatever state they are."""
        victim = self.chance.choice(FAULTS if self.processes else FAULTS[1:])
        self.done[f"{victim}, {self.state()}"] += 1
        self.had += len(self.pending) if victim != "supervisor" else 0
        if victim == "supervisor":
            self.supervise()
        elif victim == "proxy":
            for number in list(self.pending):
                self.end(number, "killed")
            for process in self.processes.values():
                process.work.clear()
            self.held = HeldRequests(LIMITS)
            self.acks, self.routed = [], ()
            self.tell(Published(()))
            self.proxy_back = self.now + PROXY_AWAY_S
        else:
            process = self.processes.pop(self.chance.choice(sorted(self.processes)))
            for number in process.work:
                self.end(number, "killed")
            self.tell(Exited(name=process.name, exit_code=-9))

    def state(self) -> str:
        """Of scale to zero, for counting."""
        if any(one.ready_at > self.now for one in self.processes.values()):
            return "starting"
        if self.core.ready():
            return "serving"
        return "leaving" if self.processes else "zero"

    def cycle(self) -> None:
        """Requests after a silence, and silence until no replica runs."""
        for _ in range(self.chance.randint(1, 7)):
            self.ask()
            for _ in range(self.chance.choice([0, 0, 1, 5])):
                self.live()
            if self.faults and self.chance.random() < 0.05:
                self.fail_somewhere()
            if self.pending and self.chance.random() < 0.1:
                self.leave(self.chance.choice(sorted(self.pending)))
        before = self.now
        while self.processes or self.core.wanted or self.pending or self.proxy_back:
            self.live()
            assert self.now - before < 8000, (
                f"seed {self.seed}: it does not come to rest: {self.core.members}"
            )

    def lived(self, cycles: int) -> Self:
        """Itself, after so many cycles."""
        while self.cycles < cycles:
            self.cycle()
        return self

    def leave(self, number: int) -> None:
        """A client goes. A replica works on."""
        self.held.leave(number)
        self.end(number, "gone")
