"""Language models on recorded requests: what batches that change with each token gain, and how many hits prompts find that go by their beginning.

    python -m benchmarks.generation --record

Nothing is real but the requests. *Batches*: all requests wait at the beginning; a step takes as long with few requests as with many, so
what is counted is steps. In a static batch all wait for the longest, so the most that can be gained is E[max of B] / mean of the outputs.
*Prefixes*: a replica computes a prompt's blocks that it does not have at PROMPT_RATE, then a token each TOKEN_S; arrivals are made denser in
proportion to the fleet. The front's balancer sees the first 64 KiB of a prompt and reports that are late, and guesses the answer's length. Hits, of each
replica's real memory, are compared with one memory of all replicas' capacity; the load of a replica is the tokens of what it has not answered.
*A slow replica*: four replicas with the real scheduler; a step takes a time of its own and one for each token, in one of them SLOWER times as long.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import platform
import random
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from tests.generation.simulated_fleet import TokenFleet

from hooke.generation.page_pool import PagePool
from hooke.generation.prefix_router import BlockMemory
from hooke.generation.prompt_balancer import BLOCK as FRONT_BLOCK
from hooke.generation.prompt_balancer import AskedPrompt, PromptBalancer, with_unseen
from hooke.generation.token_scheduler import (
    ASSUMED_ANSWER,
    TokenLimits,
    TokenLoad,
    TokenRequest,
    TokenScheduler,
)
from hooke.project.token_lengths import read_lengths

HERE = Path(__file__).parent
RECORD = HERE / "records" / "generation.json"
SLOTS = (8, 16, 32, 64)
PROMPT_TOKENS = 2048
"""Tokens of prompts in a step, beside one for each running request."""
DRAWS = 20_000
SEED = 1
REPLICAS, SHARES = (4, 16, 64), (0.01, 0.1, 1.0)
PROMPT_RATE, TOKEN_S, BLOCK = 8000.0, 0.02, 512
DENSER = 0.8
"""Times the number of replicas, so much denser do prompts arrive: some 30 are then on each replica at once."""
BYTES, FRONT_BYTES = 4, 64 << 10
"""Bytes of a token, and those of a request that the front sees."""
REPORT_S, LATE_S = 0.2, 0.15
"""Each replica reports so often, and so much later the balancer hears of it."""
LOADS, SLOWER, SLOW_S = (0.5, 0.75), 10.0, 120
WINDOW_S = 10.0
EDGE = 2
"""Windows at either end in which the fleet fills and empties."""


class Prompt(NamedTuple):
    """A request of the trace."""

    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...]


def lengths(name: str) -> list[tuple[int, int]]:
    """Prompt and output of each request of Azure's."""
    found = read_lengths(f"azure-{name}")
    return list(zip(found.prompts.tolist(), found.outputs.tolist(), strict=True))


def prompts() -> list[Prompt]:
    """The requests of Mooncake's conversations."""
    found = []
    for line in (HERE / "traces" / "mooncake_conversation.csv").read_text("utf-8").splitlines()[1:]:
        at, prompt, output, parts = line.split(",")
        blocks: list[int] = []
        for part in parts.split():
            first, _, last = part.partition("-")
            blocks += range(int(first), int(last or first) + 1)
        found.append(Prompt(float(at), int(prompt), int(output), tuple(blocks)))
    return found


# --- Batches.


def bound(outputs: list[int], slots: int) -> float:
    """E[max of `slots` outputs] / their mean, of random groups."""
    draw = random.Random(SEED)
    most = mean(max(draw.choices(outputs, k=slots)) for _ in range(DRAWS))
    return most / mean(outputs)


def static_steps(requests: list[tuple[int, int]], slots: int, step_tokens: int) -> int:
    """Steps of batches that are computed to their end: parts of prompts, then tokens until the longest has all."""
    steps = 0
    for at in range(0, len(requests), slots):
        batch = requests[at : at + slots]
        steps += -(-sum(prompt for prompt, _ in batch) // step_tokens) + max(out for _, out in batch) - 1
    return steps


def continuous_steps(requests: list[tuple[int, int]], slots: int, step_tokens: int) -> int:
    """Steps of our scheduler, with memory for all slots."""
    longest = max(prompt + output for prompt, output in requests)
    pool = PagePool(slots * -(-longest // 16), 16)
    limits = TokenLimits(
        slots=slots, step_tokens=step_tokens, context=longest, max_waiting=len(requests), patience_s=1e12
    )
    scheduler = TokenScheduler(limits, pool)
    for prompt, output in requests:
        assert not scheduler.offer(TokenRequest(prompt=prompt, most=output, arrived=0.0))
    steps = 0
    while scheduler.waiting or scheduler.running:
        scheduler.stepped(scheduler.step(0.0))
        steps += 1
    return steps


def batches(name: str, slots: int, requests: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    """The gain of one trace with so many slots, and its bound."""
    requests = lengths(name) if requests is None else requests
    step_tokens = slots + PROMPT_TOKENS
    static, ours = (
        static_steps(requests, slots, step_tokens),
        continuous_steps(requests, slots, step_tokens),
    )
    most = bound([output for _, output in requests], slots)
    facts = {"trace": name, "slots": slots, "static_steps": static, "continuous_steps": ours}
    return facts | {"gain": round(static / ours, 3), "bound": round(most, 3)}


# --- Prefixes.


def one_memory(trace: list[Prompt], blocks: int) -> int:
    """Hits of a single memory."""
    memory, hits = BlockMemory(blocks), 0
    for each in trace:
        hits += memory.known(each.blocks)
        memory.use(each.blocks)
    return hits


class Loads:
    """Tokens on each replica, averaged over windows."""

    def __init__(self, replicas: int) -> None:
        self.now = [0] * replicas
        self._since = [0.0] * replicas
        self._windows: dict[int, list[float]] = defaultdict(lambda: [0.0] * replicas)

    def change(self, replica: int, at: float, tokens: int) -> None:
        """So many more, or fewer."""
        since = self._since[replica]
        while since < at:
            window = int(since // WINDOW_S)
            until = min(at, (window + 1) * WINDOW_S)
            self._windows[window][replica] += self.now[replica] * (until - since)
            since = until
        self._since[replica] = at
        self.now[replica] += tokens

    def ratios(self) -> list[float]:
        """The highest of the replicas by the mean, in each window between the edges."""
        inside = sorted(self._windows)[EDGE : -EDGE - 1]
        return sorted(max(self._windows[at]) / mean(self._windows[at]) for at in inside)


class SimulatedReplica:
    """A replica that reports now and then what it has to do. Each request takes as long as it would alone."""

    def __init__(self, blocks: int) -> None:
        self.memory = BlockMemory(blocks)
        self.open: dict[int, tuple[Prompt, float]] = {}
        """With the time at which the prompt is computed."""
        self.taken: list[tuple[str, int]] = []
        self.ended = self.answer_tokens = 0
        self.expected = float(ASSUMED_ANSWER)

    def take(self, number: int, asked: Prompt, at: float) -> tuple[float, int]:
        """When it is answered, and how many blocks were there."""
        known = self.memory.known(asked.blocks)
        self.memory.use(asked.blocks)
        computed = at + max(asked.prompt - BLOCK * known, 0) / PROMPT_RATE
        self.open[number] = asked, computed
        self.taken.append((str(number), asked.prompt))
        return computed + TOKEN_S * asked.output, known

    def end(self, number: int) -> None:
        """It is answered."""
        asked, _ = self.open.pop(number)
        self.ended += 1
        self.answer_tokens += asked.output
        self.expected += (asked.output - self.expected) / min(self.ended, 100)

    def report(self, at: float) -> tuple[TokenLoad, list[tuple[str, int]]]:
        """As a replica does."""
        held = 0.0
        for asked, computed in self.open.values():
            answered = max((at - computed) / TOKEN_S, 0)
            held += asked.prompt + answered + max(self.expected - answered, self.expected / 2)
        taken, self.taken = self.taken, []
        load = TokenLoad(
            running=len(self.open),
            held_tokens=round(held),
            memory_tokens=self.memory.blocks * BLOCK,
            ended=self.ended,
            answer_tokens=self.answer_tokens,
        )
        return load, taken


class SimulatedFleet:
    """Replicas behind the balancer of the front."""

    def __init__(self, replicas: int, blocks: int) -> None:
        self.balancer = PromptBalancer()
        self.balancer.publish([str(replica) for replica in range(replicas)])
        self.replicas = [SimulatedReplica(blocks) for _ in range(replicas)]
        self.loads = Loads(replicas)
        self.hits = 0
        self.decision_s = 0.0
        self._ends: list[tuple[float, int, int]] = []
        self._next = 0
        """The replica that reports next, at `_due`: they take turns, in steps of REPORT_S together."""
        self._due = 0.0
        self._on_the_way: list[tuple[float, int, TokenLoad, list[tuple[str, int]]]] = []

    def until(self, at: float) -> None:
        """Let time pass."""
        while True:
            ends = self._ends[0][0] if self._ends else math.inf
            arrives = self._on_the_way[0][0] if self._on_the_way else math.inf
            first = min(ends, arrives, self._due)
            if first > at:
                return
            if first == ends:
                ended, number, replica = heapq.heappop(self._ends)
                asked = self.replicas[replica].open[number][0]
                self.replicas[replica].end(number)
                self.loads.change(replica, ended, -asked.prompt - asked.output)
            elif first == arrives:
                _, replica, load, taken = self._on_the_way.pop(0)
                self.balancer.report(str(replica), load, first, taken=taken)
            else:
                load, taken = self.replicas[self._next].report(first)
                self._on_the_way.append((first + LATE_S, self._next, load, taken))
                self._next = (self._next + 1) % len(self.replicas)
                self._due += REPORT_S / len(self.replicas)

    def ask(self, number: int, asked: Prompt, at: float) -> None:
        """A request arrives."""
        parts = range(BLOCK * BYTES // FRONT_BLOCK)
        seen = [(block, part) for block in asked.blocks for part in parts][: FRONT_BYTES // FRONT_BLOCK]
        blocks = with_unseen(seen, asked.prompt * BYTES // FRONT_BLOCK)
        sent = AskedPrompt(blocks=blocks, size=asked.prompt * BYTES, identity=str(number))
        began = time.process_time()
        chosen = self.balancer.choose(sent, at)
        self.decision_s += time.process_time() - began
        replica = int(chosen[0])
        ends, known = self.replicas[replica].take(number, asked, at)
        self.hits += known
        self.loads.change(replica, at, asked.prompt + asked.output)
        heapq.heappush(self._ends, (ends, number, replica))


def prefixes(trace: list[Prompt], share: float, replicas: int) -> dict[str, Any]:
    """Hits and loads of a fleet whose memories have this share of all distinct blocks."""
    distinct = len({block for each in trace for block in each.blocks})
    blocks = max(int(share * distinct) // replicas, 1)
    fleet = SimulatedFleet(replicas, blocks)
    for number, each in enumerate(trace):
        at = each.at / (DENSER * replicas)
        fleet.until(at)
        fleet.ask(number, each, at)
    ratios, did = fleet.loads.ratios(), fleet.balancer.facts()
    facts = {"share": share, "replicas": replicas, "blocks_each": blocks, "prompts": len(trace)}
    facts |= {"hits": fleet.hits, "one_memory_hits": one_memory(trace, blocks * replicas)}
    facts |= {"spilled": did.spilled, "decision_us": round(1e6 * fleet.decision_s / len(trace))}
    return facts | {"windows": len(ratios), "highest_load": round(ratios[-1], 3) if ratios else None}


# --- A slow replica.


def slow_replica(of_capacity: float) -> dict[str, Any]:
    """The 99 % quantile of the time to the first token where one of four replicas is SLOWER times as slow, beside that of the other three alone."""
    slow, others = [1.0, 1.0, 1.0, SLOWER], [1.0, 1.0, 1.0]
    of_others = TokenFleet(others, seed=SEED).run(seconds=SLOW_S, of_capacity=of_capacity)
    balanced = TokenFleet(slow, seed=SEED).run(seconds=SLOW_S, of_capacity=of_capacity)
    by_requests = TokenFleet(slow, seed=SEED, by_requests=True).run(seconds=SLOW_S, of_capacity=of_capacity)
    return {
        "of_capacity": of_capacity,
        "seconds": SLOW_S,
        "slower": SLOWER,
        "others_p99_s": round(of_others.p99_s, 3),
        "p99_s": round(balanced.p99_s, 3),
        "by_requests_p99_s": round(by_requests.p99_s, 3),
        "sent": balanced.sent,
    }


def batch_table(record: dict[str, Any]) -> str:
    """Gains of batches."""
    lines = [
        f"| {each['trace']} | {each['slots']} | {each['gain']:.2f}x | {each['bound']:.2f}x | {each['gain'] / each['bound']:.0%} |\n"
        for each in record["batches"]
    ]
    return "| Azure's requests | slots | gain | bound | reached |\n|---|---:|---:|---:|---:|\n" + "".join(
        lines
    )


def prefix_table(record: dict[str, Any]) -> str:
    """Hits and loads of fleets."""
    lines = [
        f"| {each['share']:.0%} | {each['replicas']} | {each['hits'] / each['one_memory_hits']:.1%} | {each['highest_load']:.2f}x | {each['decision_us']} |\n"
        for each in record["prefixes"]
    ]
    head = "| memory of all, of the distinct blocks | replicas | hits of one memory | highest load of ten seconds | us of CPU a decision |\n"
    return f"{head}|---:|---:|---:|---:|---:|\n" + "".join(lines)


def slow_table(record: dict[str, Any]) -> str:
    """Times to the first token with a slow replica."""
    lines = [
        f"| {each['of_capacity']:.0%} | {each['others_p99_s']:.2f} s | {each['p99_s']:.2f} s | {each['by_requests_p99_s']:.2f} s |\n"
        for each in record["slow_replica"]
    ]
    head = (
        "| load, of what all bear | the other three alone | by tokens and speeds | to the fewest requests |\n"
    )
    return f"{head}|---:|---:|---:|---:|\n" + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    asked = parser.parse_args()
    trace = prompts()
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": SEED,
        "batches": [batches(name, slots) for name in ("conversation", "code") for slots in SLOTS],
        "slow_replica": [slow_replica(load) for load in LOADS],
        "prefixes": [prefixes(trace, share, replicas) for share in SHARES for replicas in REPLICAS],
    }
    print(batch_table(record), prefix_table(record), slow_table(record), sep="\n")
    if asked.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
