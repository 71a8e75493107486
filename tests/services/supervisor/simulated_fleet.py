"""A supervision under a virtual clock: a seed is a whole history of starts, loads, hangs, deaths, scalings and roll-outs."""

import random
from collections import Counter
from dataclasses import dataclass, field

from hooke.services.supervisor.canary import ReplicaOutcomes
from hooke.services.supervisor.replica_events import (
    Action,
    CutService,
    DrainProxy,
    DrainService,
    Exited,
    GiveUp,
    KillReplica,
    OutcomesReported,
    ProxyDrained,
    Publish,
    Published,
    RecordEvent,
    ReplicaReport,
    Reported,
    RollOut,
    Rules,
    Scale,
    StartReplica,
    SupervisionBegan,
    SupervisionDone,
    SupervisionTick,
    Terminate,
)
from hooke.services.supervisor.supervision import Supervision

STEP_S = 0.25
RULES = Rules(
    timeout_s=5.0, ready_s=30.0, healthy_s=4.0, silent_s=6.0, memory_bytes=1000, backoff_cap_s=8.0, tries=3
)


@dataclass
class Process:
    """A replica that behaves as it was drawn: gets ready, takes requests while it is published, dies, hangs, grows."""

    name: str
    generation: str
    born: float
    ready_at: float
    dies_at: float = float("inf")
    hangs_at: float = float("inf")
    grows: bool = False
    in_flight: int = 0
    published_at: float | None = None
    left_at: float | None = None
    terminated_at: float | None = None
    deaf: bool = False
    """Whether it does not heed SIGTERM."""
    away_at: float = float("inf")
    """When its model ends, beside which it lives on."""
    back_at: float = float("inf")

    def away(self, now: float) -> bool:
        """Whether its model is being set up anew."""
        return self.ready_at <= now and self.away_at <= now < self.back_at

    def report(self, now: float) -> ReplicaReport | None:
        if now >= self.hangs_at and self.deaf:
            return None
        state = "starting" if now < self.ready_at else "restarting" if self.away(now) else "ready"
        return ReplicaReport(
            state="draining" if self.terminated_at is not None else state,
            in_flight=self.in_flight,
            memory_bytes=int(100 * (now - self.born)) if self.grows else 10,
            batch_s=max(0.0, now - self.hangs_at) if self.hangs_at <= now else 0.0,
        )


@dataclass
class World:
    """The processes, and what the supervision did to them."""

    seed: int
    calm: bool = False
    """Whether nothing dies, hangs or grows."""
    rules: Rules = RULES
    wanted: int = 2
    processes: dict[str, Process] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    """Generations whose replicas die at their start."""
    failing: set[str] = field(default_factory=set)
    """Those that come up, and fail each request."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failed requests of clients, by generation."""
    order: Publish = field(default_factory=lambda: Publish(()))
    """The last one."""
    said: list[tuple[float, object]] = field(default_factory=list)
    starts: list[tuple[float, StartReplica]] = field(default_factory=list)
    published: tuple[str, ...] = ()
    acks: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    """When the front says that it has the endpoints, a while after it was told."""
    routed: tuple[str, ...] = ()
    done: bool = False
    given_up: GiveUp | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.now = 100.0
        self.core = Supervision(self.rules, generation="a", wanted=self.wanted)

    def tell(self, event: object) -> list[Action]:
        ready = len(self.core.ready())
        before = {member.name for member in self.core.ready()}
        actions = self.core.step(event, self.now)
        for number, action in enumerate(actions):
            self.obey(action, actions[:number])
        self.check(event, before, ready)
        return actions

    def check(self, _event: object, before: set[str], _ready: int) -> None:
        """No voluntary step leaves fewer ready than wanted."""
        left = [name for name in before if name in self.core.members and self.members_left(name)]
        left = [name for name in left if self.core.members[name].generation != self.core.refused]
        if not left or self.core.closing:
            return
        assert len(self.core.ready()) >= self.core.wanted, (self.seed, left)
        if self.core.trial is not None and any(
            self.core.members[name].generation == self.core.generation for name in left
        ):
            old = [one for one in self.core.ready() if one.generation == self.core.generation]
            assert len(old) >= self.core.wanted, (self.seed, left)

    def members_left(self, name: str) -> bool:
        member = self.core.members[name]
        return member.phase.value == "leaving" and member.since == self.now

    def obey(self, action: Action, before: list[Action]) -> None:
        now = self.now
        match action:
            case StartReplica():
                self.starts.append((now, action))
                self.spawn(action)
            case Publish(names):
                assert not before, "the front is told first"
                for name in set(self.published) - set(names):
                    if name in self.processes:
                        self.processes[name].left_at = now
                self.published, self.order = names, action
                trial = self.core.trial
                assert not action.new or (trial is not None and action.share is not None)
                assert not (action.mirror and set(action.new) & set(names))
                self.acks = [*self.acks, (now + self.chance.choice([0.0, 0.25, 1.0]), names)]
            case Terminate(name):
                process = self.processes[name]
                self.check_term(process)
                process.terminated_at = now
            case KillReplica(name):
                process = self.processes[name]
                late = process.terminated_at is not None and now - process.terminated_at > self.rules.term_s
                hung = (
                    self.rules.idempotent
                    and process.deaf
                    and now - process.hangs_at > self.rules.hung_s - STEP_S
                )
                assert late or hung or self.core.closing, "SIGKILL only after the deadline of SIGTERM"
                process.dies_at = now
            case RecordEvent(event):
                self.said.append((now, event))
            case DrainProxy():
                pass
            case GiveUp():
                self.given_up = action
            case SupervisionDone():
                assert not self.done
                self.done = True

    def check_term(self, process: Process) -> None:
        """Leaving comes before SIGTERM, and between them nothing is in flight, unless that took too long or it hangs."""
        if process.published_at is None or process.hangs_at <= self.now:
            return
        if process.away(self.now) and self.now - process.away_at >= self.rules.ready_s:
            return  # nothing comes of it any more
        assert process.left_at is not None
        waited = self.now - process.left_at
        assert waited >= self.rules.quiet_s
        late = waited > self.rules.leave_s
        assert late or (process.name not in self.routed and not process.in_flight)

    def spawn(self, start: StartReplica) -> None:
        chance = self.chance
        made = Process(
            start.name, start.generation, self.now, self.now + chance.choice([0.5, 1.0, 3.0]), deaf=False
        )
        if start.generation in self.bad:
            made.dies_at = self.now + 0.25
        elif not self.calm:
            made.dies_at = self.now + chance.choice([1.0, 20.0, *[float("inf")] * 4])
            made.hangs_at = self.now + chance.choice([15.0, *[float("inf")] * 5])
            made.deaf = chance.random() < 0.3
            made.grows = chance.random() < 0.1
            made.away_at = self.now + chance.choice([2.0, 10.0, *[float("inf")] * 4])
            made.back_at = made.away_at + chance.choice([1.0, 5.0, float("inf")])
        self.processes[start.name] = made

    def live(self) -> None:
        """One step of time: deaths, reports, requests."""
        self.now += STEP_S
        while self.acks and self.acks[0][0] <= self.now:
            self.routed = self.acks.pop(0)[1]
            self.tell(Published(self.routed))
        for process in list(self.processes.values()):
            if process.name in self.routed and process.published_at is None:
                process.published_at = self.now
            self.serve(process)
            if process.name in self.routed:
                process.in_flight = self.chance.randint(0, 3)
            elif process.in_flight and self.chance.random() < 0.3:
                process.in_flight -= 1
            obeys = process.terminated_at is not None and not process.deaf and not process.in_flight
            if self.now >= process.dies_at or obeys:
                del self.processes[process.name]
                self.tell(Exited(name=process.name, exit_code=0 if obeys else -9))
            elif (report := process.report(self.now)) is not None:
                self.tell(Reported(process.name, report))
        self.tell(SupervisionTick())

    def serve(self, process: Process) -> None:
        """What becomes of the requests of a step; a version on trial gets its share of them."""
        copies = self.order.mirror and process.name in self.order.new
        if self.now < process.ready_at or not (process.name in self.routed or copies):
            return
        share = self.order.share if self.order.share is not None and process.name in self.order.new else 1.0
        count = sum(self.chance.random() < share for _ in range(20))
        failed = count if process.generation in self.failing else 0
        if not copies:
            self.failed[process.generation] += failed
        self.tell(
            OutcomesReported(
                process.name, ReplicaOutcomes(answered=count, failed=failed, latencies=((40, count),))
            )
        )

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.live()

    def random_life(self, steps: int) -> None:
        """Scalings and roll-outs, good and bad, at any time."""
        self.tell(SupervisionBegan())
        generations = iter("bcdefghijklmnopqrstuvwxyz" * 10)
        for _ in range(steps):
            drawn = self.chance.random()
            if drawn < 0.03:
                self.tell(Scale(self.chance.randint(1, 5), "drawn"))
            elif drawn < 0.05:
                new = next(generations)
                if self.chance.random() < 0.4:
                    (
                        self.bad if self.rules.canary is None or self.chance.random() < 0.5 else self.failing
                    ).add(new)
                self.tell(RollOut(new, "drawn"))
            self.live()

    def end(self) -> None:
        self.tell(DrainService("the end"))
        self.run(8)
        self.tell(ProxyDrained())
        for _ in range(400):
            if self.done:
                return
            self.live()
        raise AssertionError(f"seed {self.seed}: it does not end: {self.core.members}")

    def cut(self) -> None:
        self.tell(CutService("the end"))
