"""How many replicas of a language model, by tokens and by other measures: what keeps the SLO, and what it costs, in virtual time.

    python -m benchmarks.token_scaling --record

The requests are recorded ones, with their arrivals and their lengths; the engines are Hooke's own scheduler, and a step takes what LAW says,
with noise. A replica takes START_S to start: its process, and weights from a local disk. Requests go to the replica that has the fewest.
Hooke's policy knows the law as a service does after a minute, and of lengths what its replicas report: those of answers that have ended.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from benchmarks.generation import lengths, prompts

from hooke.autoscaling.peers import Hpa, PeerSetting
from hooke.autoscaling.replay import LoadSecond, choose
from hooke.autoscaling.replayed_policy import ReplayedPolicy
from hooke.autoscaling.service_policy import Bounds, ReplicaPolicy, ServiceSnapshot
from hooke.autoscaling.token_policy import TokenDemand, replica_tokens, token_station
from hooke.generation.page_pool import PagePool
from hooke.generation.token_law import StepNoise, TokenLaw
from hooke.generation.token_scheduler import TokenLimits, TokenLoad, TokenRequest, TokenScheduler
from hooke.serving.admission import TokenPromise
from hooke.serving.slo import Slo, parse_slo

HERE = Path(__file__).parent
RECORD = HERE / "records" / "token_scaling.json"
COUNTS = HERE.parent / "tests" / "autoscaling" / "data"
SEED = 1
COEFFICIENTS = (0.03, 1.5e-4, 4e-4, 1e-7, 0.0)
"""Seconds of a step, and for each token of a prompt, request and token in memory: about a model of 8 B parameters on a large GPU, twice as slow."""
NOISE = 0.1
LIMITS = TokenLimits(slots=32, step_tokens=1056, context=8192, pages=6000, max_waiting=10_000)
SLO = parse_slo("p95 first < 3s, each < 100ms")
START_S = 45.0
HIGH = 24
TIMEOUT_S = 60.0
TRACE_S = 480.0


class Ask(NamedTuple):
    """A request: when, and the tokens of its prompt and its answer."""

    at: float
    prompt: int
    answer: int


def azure(name: str, faster: float) -> list[Ask]:
    """Azure's requests, so much faster than they came: seconds and lengths in their order."""
    text = (COUNTS / f"azure_{'conv' if name == 'conversation' else name}_per_second.txt").read_text("utf-8")
    counts = [int(each) for line in text.splitlines() if not line.startswith("#") for each in line.split()]
    chance = random.Random(SEED)
    times = [
        second + part
        for second, count in enumerate(counts)
        for part in sorted(chance.random() for _ in range(count))
    ]
    pairs = zip(times, lengths(name), strict=True)
    return _first([Ask(at / faster, prompt, answer) for at, (prompt, answer) in pairs])


def mooncake(faster: float) -> list[Ask]:
    """Mooncake's conversations, as far as they fit the context."""
    return _first([Ask(each.at / faster, each.prompt, each.output) for each in prompts()])


def long_answers() -> list[Ask]:
    """Two requests a second, always; for 200 s with answers twenty times as long."""
    chance, at, made = random.Random(SEED), 0.0, list[Ask]()
    while (at := at + chance.expovariate(2.0)) < TRACE_S:
        long = 20 if 150 <= at < 350 else 1
        made.append(Ask(at, 200, max(int(long * chance.expovariate(1 / 60)), 1)))
    return _first(made)


def _first(asks: Sequence[Ask]) -> list[Ask]:
    """Those of the first TRACE_S seconds, cut to the context."""
    fits = LIMITS.context - 1024
    return [
        Ask(each.at, min(max(each.prompt, 1), fits), min(max(each.answer, 1), 1024))
        for each in asks
        if each.at < TRACE_S
    ]


TRAFFICS: dict[str, Callable[[], list[Ask]]] = {
    "Azure conversation x2": lambda: azure("conversation", 2.0),
    "Azure code": lambda: azure("code", 1.0),
    "Mooncake conversation x2": lambda: mooncake(2.0),
    "2/s, for 200 s long answers": long_answers,
}


# --- The fleet.


@dataclass(eq=False)
class Engine:
    """A replica: the scheduler of the real thing."""

    name: str
    began: float
    ready: bool = False
    leaving: bool = False
    busy: bool = False
    busy_s: float = 0.0
    scheduler: TokenScheduler = field(
        default_factory=lambda: TokenScheduler(LIMITS, PagePool(LIMITS.pages or 1, LIMITS.page_tokens))
    )

    promise: TokenPromise = field(default_factory=lambda: TokenPromise(SLO))
    """Keeps the time of a token by the size of steps. Nothing is refused."""

    @property
    def requests(self) -> int:
        """That wait or run."""
        return len(self.scheduler.running) + self.scheduler.waiting


@dataclass(kw_only=True)
class Outcome:
    """What came of it."""

    asked: int = 0
    first: int = 0
    """Had their first token in time."""
    kept: int = 0
    """And the others, too."""
    replica_s: float = 0.0
    most: int = 0
    changes: int = 0

    def row(self) -> dict[str, Any]:
        """For the record."""
        hours = round(self.replica_s / 3600, 3)
        return {
            "asked": self.asked,
            "first_in_time": self.first,
            "kept": self.kept,
            "replica_hours": hours,
        } | {
            "most": self.most,
            "changes": self.changes,
        }


class Policy(Protocol):
    """Asked once a second for how many replicas there should be."""

    def begin(self, first: int) -> None:
        """So many are there."""

    def __call__(self, now: float, fleet: Fleet) -> int:
        """The desired number."""
        ...


class Fleet:
    """Engines, requests and a policy, in virtual time."""

    def __init__(self, asks: Sequence[Ask], policy: Policy, *, first: int, start_s: float = START_S) -> None:
        self.policy, self.start_s = policy, start_s
        policy.begin(first)
        self.chance = np.random.default_rng(SEED)
        self.engines = [Engine(f"r{number}", 0.0, ready=True) for number in range(first)]
        self.out = Outcome(asked=len(asks))
        self.called = 0
        self.held: list[Ask] = []
        self.second = 0
        self._target, self._started = first, first
        self._count = 0
        self._events: list[tuple[float, int, str, Any]] = []
        self._times: dict[TokenRequest, list[float]] = {}
        for ask in asks:
            self._at(ask.at, "ask", ask)
        self._end = asks[-1].at + TIMEOUT_S

    def run(self) -> Outcome:
        """All of it."""
        for second in range(math.ceil(self._end)):
            self._at(float(second), "decide", second)
        while self._events:
            now, _, what, about = heapq.heappop(self._events)
            if now > self._end:
                break
            getattr(self, f"_{what}")(now, about)
        self.out.replica_s += sum(self._end - each.began for each in self.engines)
        return self.out

    @property
    def ready(self) -> list[Engine]:
        """Those that take requests."""
        return [each for each in self.engines if each.ready and not each.leaving]

    @property
    def starting(self) -> int:
        """Those that do not yet."""
        return sum(not each.ready for each in self.engines)

    def _at(self, when: float, what: str, about: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, about))

    def _ask(self, now: float, ask: Ask) -> None:
        self.called += 1
        ready = self.ready
        if not ready:
            self.held.append(ask)
            return
        self._give(now, min(ready, key=lambda each: each.requests), ask)

    def _give(self, now: float, engine: Engine, ask: Ask) -> None:
        request = TokenRequest(
            prompt=ask.prompt, most=ask.answer, arrived=ask.at, deadline=ask.at + TIMEOUT_S
        )
        self._times[request] = [ask.at]
        assert not engine.scheduler.offer(request)
        self._go(now, engine)

    def _go(self, now: float, engine: Engine) -> None:
        if engine.busy:
            return
        engine.scheduler.expired(now)
        step = engine.scheduler.step(now)
        if not step.pieces:
            if engine.leaving and not engine.requests and engine in self.engines:
                self.engines.remove(engine)
                self.out.replica_s += now - engine.began
            return
        took = sum(one * part for one, part in zip(COEFFICIENTS, (1, *step.work), strict=True))
        took *= math.exp(NOISE * self.chance.standard_normal())
        engine.promise.stepped(step.work, took, engine.scheduler)
        engine.busy, engine.busy_s = True, engine.busy_s + took
        self._at(now + took, "step", (engine, step))

    def _step(self, now: float, about: Any) -> None:
        engine, step = about
        engine.busy = False
        for piece in step.pieces:
            if piece.gives_token and not piece.request.answered:
                self._times[piece.request].append(now)
        for request in engine.scheduler.stepped(step):
            came, first = self._times.pop(request)
            each = (now - first) / (request.answered - 1) if request.answered > 1 else math.nan
            self.out.first += SLO.kept(first - came)
            self.out.kept += SLO.kept(first - came, each)
        self._go(now, engine)

    def _up(self, now: float, engine: Engine) -> None:
        if engine not in self.engines:
            return
        engine.ready = True
        held, self.held = self.held, []
        for ask in held:
            self._give(now, engine, ask)

    def _decide(self, now: float, second: int) -> None:
        self.second = second
        target = min(max(self.policy(now, self), 1), HIGH)
        self.out.changes += target != self._target
        self._target = target
        there = [each for each in self.engines if not each.leaving]
        self.out.most = max(self.out.most, len(there))
        for _ in range(target - len(there)):
            self._started += 1
            engine = Engine(f"r{self._started}", now)
            self.engines.append(engine)
            self._at(now + self.start_s * self.chance.uniform(0.9, 1.1), "up", engine)
        for engine in sorted(there, key=lambda one: (one.ready, -one.began))[: max(len(there) - target, 0)]:
            engine.leaving = True
            if not engine.ready:
                self.engines.remove(engine)
                self.out.replica_s += now - engine.began
            else:
                self._go(now, engine)


# --- Policies.


def law() -> TokenLaw:
    """The engines', as far as a service knows it: within 3 %."""
    found = np.array(COEFFICIENTS)
    off = np.outer(np.linspace(-0.01, 0.01, 8), found)
    single = 1 + NOISE * np.linspace(-(3**0.5), 3**0.5, 64)
    noise = StepNoise(single=single, shared=0.0, memory_s=5.0, freedom=100.0)
    return TokenLaw(coefficients=found, left_out=found + off, noise=noise, steps=1000, block_s=5.0)


class ByTokens:
    """Hooke's for language models."""

    def __init__(self, slo: Slo = SLO, start_s: float = START_S) -> None:
        self.demand, self.law, self.slo, self.start_s = TokenDemand(), law(), slo, start_s
        reactive = ReplicaPolicy(Bounds(low=1, high=HIGH, assumed_in_flight=LIMITS.slots * 128.0))
        self.policy = ReplayedPolicy(reactive)
        self.arrivals: list[int] = []
        self.reasons: list[str] = []
        self._tokens = None

    def begin(self, first: int) -> None:
        self.policy.target = self.policy.reactive.target = first

    def __call__(self, now: float, fleet: Fleet) -> int:
        loads: dict[str, TokenLoad] = {
            each.name: each.scheduler.load() for each in fleet.engines if each.ready
        }
        before = self.demand.arrived
        self.demand.update(loads, fleet.called, len(fleet.held))
        self.arrivals.append(round(self.demand.arrived - before))
        if fleet.second >= 20 and fleet.second % 10 == 0:
            self._tokens = replica_tokens(self.law, LIMITS, self.demand.mix, self.slo)
            self.demand.weight = self._tokens.prompt
        self.policy.reactive.assumed = LIMITS.slots * self.demand.mix.answer
        seen = ServiceSnapshot(
            ready=len(fleet.ready),
            starting=fleet.starting,
            in_flight=self.demand.outstanding,
            arrived=self.demand.arrived,
            start_s=self.start_s,
            capacity=self._tokens.capacity if self._tokens is not None else None,
            unit="tokens",
            grain=self.demand.grain,
        )
        decision = self.policy.decide(now, seen)
        if " stay: " not in decision.reason:
            self.reasons.append(f"{now:.0f} s: {decision.reason}")
        return decision.target


class ByReplay(ByTokens):
    """The same, which chooses a rule by its own arrivals every 100 s."""

    def __call__(self, now: float, fleet: Fleet) -> int:
        if fleet.second >= 200 and fleet.second % 100 == 0 and self._tokens is not None:
            station = token_station(self._tokens, self.slo, start_s=self.start_s, grain=self.demand.grain)
            if station is not None:
                chosen = choose(np.array(self.arrivals), station, low=1, high=HIGH)
                self.policy.follow(chosen, station, now)
        return super().__call__(now, fleet)


class ByRequests:
    """What a service did before: by requests that wait or run, of which so many a replica are assumed to be fine."""

    def __init__(self, fine: float) -> None:
        self.policy = ReplicaPolicy(Bounds(low=1, high=HIGH, assumed_in_flight=fine))

    def begin(self, first: int) -> None:
        self.policy.target = first

    def __call__(self, now: float, fleet: Fleet) -> int:
        seen = ServiceSnapshot(
            ready=len(fleet.ready),
            starting=fleet.starting,
            in_flight=sum(each.requests for each in fleet.engines) + len(fleet.held),
            arrived=fleet.called,
            start_s=START_S,
        )
        return self.policy.decide(now, seen).target


class ByHpa:
    """Kubernetes' autoscaler on a number of requests of vLLM's metrics: `num_requests_waiting`, or `num_requests_running` with it."""

    def __init__(self, target: float, *, running: bool = False) -> None:
        self.running, self.target = running, target
        self.rule = Hpa([PeerSetting(target=target)], lambda seen: seen.waiting, mean_s=1)

    def begin(self, first: int) -> None:
        load = np.array([first * self.target])
        for _ in range(first):  # it takes several at once at most
            self.rule.decide(LoadSecond(0, 0, load, load, load, np.array([first])))

    def __call__(self, now: float, fleet: Fleet) -> int:
        waiting = sum(each.scheduler.waiting for each in fleet.engines) + len(fleet.held)
        running = sum(len(each.scheduler.running) for each in fleet.engines)
        load = np.array([float(waiting + running * self.running)])
        ready = np.array([len(fleet.ready)])
        return int(self.rule.decide(LoadSecond(fleet.second, 0, load, load, load, ready))[0])


class Always:
    """A constant number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def begin(self, first: int) -> None:
        """As many as always, from the beginning."""

    def __call__(self, now: float, fleet: Fleet) -> int:
        return self.count


POLICIES: dict[str, Callable[[], Policy]] = {
    "Hooke, by tokens": ByTokens,
    "Hooke, a rule chosen by replay": ByReplay,
    "by requests, 2 a replica (before)": lambda: ByRequests(2.0),
    "by requests, 32 a replica": lambda: ByRequests(32.0),
    "HPA, 2 waiting a replica": lambda: ByHpa(2.0),
    "HPA, 10 waiting a replica": lambda: ByHpa(10.0),
    "HPA, 24 waiting and running": lambda: ByHpa(24.0, running=True),
    "always 8": lambda: Always(8),
}


def first_number(asks: Sequence[Ask]) -> int:
    """What the first minute needs: all policies begin with it."""
    one = replica_tokens(law(), LIMITS, _mix(asks), SLO)
    tokens = sum(one.prompt * each.prompt + each.answer for each in asks if each.at < 60) / 60
    return max(math.ceil(tokens / one.capacity.rate), 1)


def _mix(asks: Sequence[Ask]) -> Any:
    from hooke.autoscaling.token_policy import TokenMix

    count = max(len(asks), 1)
    return TokenMix(
        prompt=sum(each.prompt for each in asks) / count, answer=sum(each.answer for each in asks) / count
    )


def table(record: dict[str, Any]) -> str:
    """What each policy kept, and what it cost."""
    names = list(dict.fromkeys(row["policy"] for row in record["rows"]))
    traffics = list(dict.fromkeys(row["traffic"] for row in record["rows"]))
    found = {(row["policy"], row["traffic"]): row for row in record["rows"]}
    lines = ["| | " + " | ".join(traffics) + " |", "|---|" + "---:|" * len(traffics)]
    for name in names:
        cells = [found[name, traffic] for traffic in traffics]
        shown = [f"{one['kept'] / one['asked']:.1%}, {one['replica_hours']:.2f} h" for one in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    asked = parser.parse_args()
    rows = []
    for traffic, load in TRAFFICS.items():
        asks = load()
        for name, policy in POLICIES.items():
            made = Fleet(asks, policy(), first=first_number(asks)).run()
            rows.append({"traffic": traffic, "policy": name} | made.row())
            print(rows[-1], flush=True)
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": SEED,
        "law": COEFFICIENTS,
        "noise": NOISE,
        "slo": str(SLO),
        "start_s": START_S,
        "trace_s": TRACE_S,
        "rows": rows,
    }
    print(table(record))
    if asked.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
