"""Whether what the law of a language model's steps says of its requests holds: on simulated engines, with lengths and loads that the law has not seen.

    python -m benchmarks.token_laws --record

Each seed: an engine answers ten minutes of one half of Azure's conversations; the law is fitted to its windows. Then it answers other requests
(`CELLS`: lengths and loads, as a share of what it can do), and each time to the first token and for each other token counts as within the interval that
was predicted for a request with such a prompt, or such an answer, at that rate, or not. The prediction knows the rate and the lengths' distribution,
and nothing of the requests. *Percentiles*: whether those of the whole history are within their intervals. *Alone*: `first_token_s` and `token_s`, for
prompts beside a batch of known size. `--real` does the same with the engine and the model of `examples/language_model.py`, one thread. Engines: see `ENGINES`; no engine has the noise that the law assumes.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hooke.generation.token_law import TokenLaw, token_law
from hooke.generation.token_scheduler import StepWork, TokenLimits
from hooke.generation.token_times import (
    RequestTimes,
    StepTimes,
    TokenForecast,
    TokenTraffic,
    first_token_s,
    histories,
    simulate,
    statistic,
    token_s,
)
from hooke.journal.service_events import BatchWindow
from hooke.project.token_lengths import TokenLengths, read_lengths
from hooke.scaling.families import Floats
from hooke.scaling.measurements import Estimate
from hooke.serving.openai.sampling import TokenSampling
from hooke.serving.openai.token_engine import GrowingAnswer, TokenEngine
from hooke.serving.stats_windows import StatsWindow

RECORD = Path(__file__).parent / "records" / "token_laws.json"
LIMITS = TokenLimits(slots=32, step_tokens=1024, context=16384, max_waiting=100_000, patience_s=1e9)
TRUE = np.array([8e-3, 4e-5, 1e-4, 1e-7, 2e-9])
"""Seconds of a step, of a token of a prompt, of a request, of a token in memory, of a pair: some small model on some accelerator."""
WINDOW_S = 5.0
TRAINED_S = 600.0
CELLS = (
    ("azure-code", 0.3),
    ("azure-code", 0.6),
    ("azure-code", 0.85),
    ("held-out conversations", 0.7),
    ("mooncake", 0.6),
)
REQUESTS, DRAWS = 80, 19
"""Requests of a history, and histories of a prediction. The range of 19 contains a next one with 90 %."""
RANGE_LEVEL = 0.9
SEEDS = 6
BUSY_S = 1.5
"""After so long the prompts of a batch are computed, and its answers go on for longer than a request beside them takes."""


# --- Engines.


def jitter(chance: np.random.Generator) -> Callable[[float], float]:
    """Each step has noise of 8 %, with a long tail; the machine's speed wanders by 4 % within some seconds."""
    wander = _wander(chance, 0.04, 8.0)
    return lambda now: wander(now) * (0.92 + float(chance.exponential(0.08)))


def stalls(chance: np.random.Generator) -> Callable[[float], float]:
    """One step in a hundred takes three times as long; the speed wanders by 8 % within half a minute."""
    wander = _wander(chance, 0.08, 30.0)
    return lambda now: wander(now) * (3.0 if chance.random() < 0.01 else float(chance.normal(1.0, 0.04)))


def _wander(chance: np.random.Generator, spread: float, within_s: float) -> Callable[[float], float]:
    """A stationary process with exponential memory."""
    state, last = float(chance.standard_normal()), 0.0

    def factor(now: float) -> float:
        nonlocal state, last
        keep = math.exp(-(now - last) / within_s)
        state, last = keep * state + math.sqrt(1 - keep**2) * float(chance.standard_normal()), now
        return math.exp(spread * state - spread**2 / 2)

    return factor


def roofline(work: StepWork) -> float:
    """What computing takes, or reading memory, whichever is longer: not of the law's form."""
    prompt, requests, context, pairs = work
    return max(6e-3 + 4e-5 * (prompt + requests) + 2e-9 * pairs, 8e-3 + 1.5e-7 * context) + 6e-5 * requests


def linear(work: StepWork) -> float:
    """Of the law's form."""
    return float(TRUE[0] + TRUE[1] * work[0] + TRUE[2] * work[1] + TRUE[3] * work[2] + TRUE[4] * work[3])


class Engine(NamedTuple):
    """How long its steps take, and their noise."""

    mean_s: Callable[[StepWork], float]
    noise: Callable[[np.random.Generator], Callable[[float], float]]

    def steps(self, chance: np.random.Generator) -> StepTimes:
        noise = self.noise(chance)
        return lambda work, now: self.mean_s(work) * noise(now)


ENGINES = {
    "jitter": Engine(linear, jitter),
    "stalls": Engine(linear, stalls),
    "roofline": Engine(roofline, jitter),
}


# --- Ordinary traffic, and the law of it.


@cache
def halves() -> tuple[TokenLengths, TokenLengths]:
    """Azure's conversations, the even and the odd ones."""
    whole = read_lengths("azure-conversation").fitting(LIMITS.context)
    return tuple(  # type: ignore[return-value]
        TokenLengths(
            name="held-out conversations", prompts=whole.prompts[at::2], outputs=whole.outputs[at::2]
        )
        for at in (0, 1)
    )


@cache
def lengths_of(name: str) -> TokenLengths:
    return halves()[1] if name == "held-out conversations" else read_lengths(name).fitting(LIMITS.context)


def load_of(lengths: TokenLengths, rate: float, count: int, chance: np.random.Generator) -> TokenTraffic:
    """Independent users with such requests."""
    prompts, outputs = lengths.drawn(count, chance)
    return TokenTraffic(prompts=prompts, outputs=outputs, due=np.cumsum(chance.exponential(1 / rate, count)))


@cache
def capacity(engine: Engine, name: str) -> float:
    """Requests of these lengths a second with all slots busy, without noise."""
    prompts, outputs = lengths_of(name).drawn(200, np.random.default_rng(0))
    load = TokenTraffic(prompts=prompts, outputs=outputs, users=LIMITS.slots)
    return 200 / float(simulate(LIMITS, load, lambda work, _: engine.mean_s(work)).ended.max())


def windows_of(engine: Engine, load: TokenTraffic, chance: np.random.Generator) -> list[BatchWindow]:
    """What a replica would keep of this traffic."""
    sums, made, end = StatsWindow(0.0), list[BatchWindow](), WINDOW_S
    steps = engine.steps(chance)

    def step_s(work: StepWork, now: float) -> float:
        nonlocal end
        while now >= end:
            made.append(msgspec.structs.replace(sums.take(end), at=end))
            end += WINDOW_S
        took = steps(work, now)
        sums.step(work, took)
        return took

    simulate(LIMITS, load, step_s)
    return made


def trained(engine: Engine, chance: np.random.Generator, seconds: float = TRAINED_S) -> TokenLaw:
    """The law after so many seconds of traffic, at half of what the engine can do."""
    lengths = halves()[0]
    rate = 0.5 * capacity(engine, "held-out conversations")
    return token_law(windows_of(engine, load_of(lengths, rate, round(rate * seconds), chance), chance))


# --- Predictions, and what then happens.


QUANTITIES: dict[str, Callable[[RequestTimes], float]] = {
    "first token, p50": lambda told: float(np.quantile(told.first_s, 0.5)),
    "first token, p95": lambda told: float(np.quantile(told.first_s, 0.95)),
    "each token, p50": lambda told: float(np.nanquantile(told.per_token_s, 0.5)),
    "each token, p95": lambda told: float(np.nanquantile(told.per_token_s, 0.95)),
}


def cell(
    engine: Engine, law: TokenLaw, name: str, share: float, chance: np.random.Generator, *, draws: int = DRAWS
) -> dict[str, Any]:
    """One history of these requests, and what was predicted of it."""
    lengths = lengths_of(name)
    rate = share * capacity(engine, name)
    loads = [load_of(lengths, rate, REQUESTS, chance) for _ in range(draws)]
    told = histories(law, LIMITS, loads, chance)
    forecast = TokenForecast(told)
    seen = simulate(LIMITS, load_of(lengths, rate, REQUESTS, chance), engine.steps(chance))
    several = seen.outputs > 1
    return {
        "lengths": name,
        "load": share,
        "first": _within(seen.first_s, map(forecast.first_s, seen.prompts)),
        "token": _within(seen.per_token_s[several], map(forecast.per_token_s, seen.outputs[several])),
        "percentiles": _within(
            [quantity(seen) for quantity in QUANTITIES.values()],
            [statistic(name, told, quantity, level=RANGE_LEVEL) for name, quantity in QUANTITIES.items()],
        ),
    }


def _within(seen: Iterable[float], predicted: Iterable[Estimate]) -> list[int]:
    """How many were in their intervals, and how many there are."""
    found = [
        each.interval[0] <= value <= each.interval[1] for value, each in zip(seen, predicted, strict=True)
    ]
    return [int(sum(found)), len(found)]


def alone(engine: Engine, law: TokenLaw, chance: np.random.Generator, tests: int = 50) -> dict[str, Any]:
    """Prompts of held-out lengths that find a batch of known size at work."""
    lengths = lengths_of("azure-code")
    firsts, tokens = list[int](), list[int]()
    for _ in range(tests):
        batch, context = int(chance.integers(0, 12)), int(chance.integers(100, 1500))
        (prompt,), _ = lengths.drawn(1, chance)
        output = int(chance.integers(2, 150))
        at = BUSY_S + float(chance.uniform(0, 0.5))
        load = TokenTraffic(
            prompts=[context] * batch + [int(prompt)],
            outputs=[600] * batch + [output],
            due=np.array([0.0] * batch + [at]),
        )
        told, seen = _beside(LIMITS, load, engine.steps(chance))
        first = first_token_s(law, LIMITS, int(prompt), batch=batch, context=told)
        each = token_s(law, output, batch=batch + 1, context=(told * batch + int(prompt)) // (batch + 1))
        firsts.append(_within([seen[0]], [first])[0])
        tokens.append(_within([seen[1]], [each])[0])
    return {"first": [sum(firsts), tests], "token": [sum(tokens), tests]}


def _beside(limits: TokenLimits, load: TokenTraffic, steps: StepTimes) -> tuple[int, tuple[float, float]]:
    """(tokens of each other request when it came, its times)."""
    at = float(load.due[-1])  # type: ignore[index]
    context = 0

    def step_s(work: StepWork, now: float) -> float:
        nonlocal context
        others = work.requests - 1 if now >= at else work.requests
        if now < at and others and not work.prompt:
            context = work.context // others
        return steps(work, now)

    told = simulate(limits, load, step_s)
    return context, (float(told.first_s[-1]), float(told.per_token_s[-1]))


def one(asked: tuple[str, int]) -> dict[str, Any]:
    """All of one engine and seed."""
    name, seed = asked
    engine, chance = ENGINES[name], np.random.default_rng([seed, *name.encode()])
    law = trained(engine, chance)
    cells = [cell(engine, law, lengths, share, chance) for lengths, share in CELLS]
    return {
        "engine": name,
        "seed": seed,
        "steps": law.steps,
        "cells": cells,
        "alone": alone(engine, law, chance),
    }


# --- The real engine with the example's model.

REAL_TRAINED_S, REAL_TESTED_S = 60.0, 25.0
REAL_CELLS = (
    ("azure-code", 0.04, 0.3),
    ("azure-code", 0.04, 0.6),
    ("azure-conversation", 0.08, 0.3),
    ("azure-conversation", 0.08, 0.6),
)
"""Lengths, times a factor, and the load. The law is of conversations times half of that factor."""


async def _traffic(
    engine: TokenEngine, load: TokenTraffic, at_end: Callable[[], None] = lambda: None
) -> tuple[Floats, Floats]:
    """Send these requests when they are due; (seconds to the first token, seconds for each other one)."""
    began = time.monotonic()
    chance = np.random.default_rng()

    async def one_of(number: int) -> tuple[float, float]:
        due, output = float(load.due[number]), int(load.outputs[number])  # type: ignore[index]
        await asyncio.sleep(max(began + due - time.monotonic(), 0.0))
        prompt = chance.integers(32, 127, size=int(load.prompts[number])).tolist()
        answer = GrowingAnswer(
            prompt=prompt, most=output, sampling=TokenSampling(temperature=0, ignore_end=True)
        )
        engine.submit([answer])
        first = last = math.nan
        reason = None
        while reason is None:
            reason = (await answer.next()).reason
            last = time.monotonic() - began
            first = last if math.isnan(first) else first
        return first - due, (last - first) / (output - 1) if output > 1 else math.nan

    seen = await asyncio.gather(*(one_of(number) for number in range(len(load.prompts))))
    at_end()
    return np.array([each[0] for each in seen]), np.array([each[1] for each in seen])


class _Ends(NamedTuple):
    low: float
    value: float
    high: float


async def _real(model: Any) -> dict[str, Any]:
    sums, kept = StatsWindow(time.monotonic()), list[BatchWindow]()
    engine = TokenEngine(model, "Zen", sums.step)

    async def windows() -> None:
        while True:
            await asyncio.sleep(WINDOW_S)
            kept.append(msgspec.structs.replace(sums.take(time.monotonic()), at=time.time()))

    limits = replace(model.limits, max_waiting=100_000, patience_s=1e9)
    taking = asyncio.ensure_future(windows())
    chance = np.random.default_rng(SEEDS)
    learnt = read_lengths("azure-conversation").scaled(0.04).fitting(limits.context)
    await _traffic(engine, load_of(learnt, 2.0, 20, chance))
    kept.clear()
    rate = 4.0
    await _traffic(engine, load_of(learnt, rate, round(rate * REAL_TRAINED_S), chance))
    law = token_law(kept)
    cells = []
    for name, factor, share in REAL_CELLS:
        other = read_lengths(name).scaled(factor).fitting(limits.context)
        most = _capacity(law, limits, other)
        count = round(share * most * REAL_TESTED_S)
        told = histories(
            law, limits, [load_of(other, share * most, count, chance) for _ in range(DRAWS)], chance
        )
        forecast = TokenForecast(told)
        load = load_of(other, share * most, count, chance)
        first, each = await _traffic(engine, load)
        several = np.isfinite(each)
        cells.append(
            {
                "lengths": other.name,
                "load": share,
                "rate": round(share * most, 2),
                "first": _within(first, map(forecast.first_s, load.prompts)),
                "token": _within(each[several], map(forecast.per_token_s, np.asarray(load.outputs)[several])),
                "seen": [float(value) for value in np.nanquantile(each, [0.05, 0.5, 0.95])],
                "foretold": [
                    float(np.median([getattr(told_of, end) for told_of in ends]))
                    for ends in [
                        [
                            _Ends(*forecast.per_token_s(int(output)).ends)
                            for output in np.asarray(load.outputs)[several][:200]
                        ]
                    ]
                    for end in ("low", "value", "high")
                ],
            }
        )
    taking.cancel()
    engine.close()
    parts = [{"name": each.name, **each.facts()} for each in law.parts()]
    return {
        "steps": law.steps,
        "law": parts,
        "shared": law.noise.shared,
        "memory_s": law.noise.memory_s,
        "cells": cells,
    }


def _capacity(law: TokenLaw, limits: TokenLimits, lengths: TokenLengths) -> float:
    prompts, outputs = lengths.drawn(200, np.random.default_rng(0))
    load = TokenTraffic(prompts=prompts, outputs=outputs, users=limits.slots)
    return 200 / float(simulate(limits, load, lambda work, _: law.step_s(work)).ended.max())


def real() -> dict[str, Any]:
    """The example's model on this machine, with whatever else runs there."""
    spec = importlib.util.spec_from_file_location(
        "language_model", RECORD.parents[2] / "examples" / "language_model.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["language_model"] = module
    spec.loader.exec_module(module)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    made = module.Zen.made_by if hasattr(module.Zen, "made_by") else module.Zen
    model = made()
    model.setup()
    return asyncio.run(_real(model))


def real_table(record: dict[str, Any]) -> str:
    """How often what was seen on the real engine was within the interval, and the medians of each other token's time."""
    lines = [
        f"| {each['lengths']} | {each['load']:.0%} | {each['rate']:g} | {_share([each], 'first')} | {_share([each], 'token')} "
        f"| {each['seen'][1] * 1e3:.0f} ms | {each['foretold'][1] * 1e3:.0f} ms |\n"
        for each in record["real"]["cells"]
    ]
    return (
        "| lengths | load | requests/s | first token | each other token | median seen | predicted |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n" + "".join(lines)
    )


def table(record: dict[str, Any]) -> str:
    """How often what was seen was within the interval."""
    lines = []
    for name in ENGINES:
        mine = [each for each in record["runs"] if each["engine"] == name]
        for lengths, share in CELLS:
            cells = [
                each
                for run in mine
                for each in run["cells"]
                if (each["lengths"], each["load"]) == (lengths, share)
            ]
            lines.append(
                f"| {name} | {lengths} | {share:.0%} | {_share(cells, 'first')} | {_share(cells, 'token')} | {_percentiles(cells)} |\n"
            )
        every = [each for run in mine for each in run["cells"]]
        lines.append(
            f"| {name} | all | | {_share(every, 'first')} | {_share(every, 'token')} | {_percentiles(every)} |\n"
        )
        free = [each["alone"] for each in mine]
        lines.append(
            f"| {name} | beside a known batch | | {_share(free, 'first')} | {_share(free, 'token')} | |\n"
        )
    head = "| engine | lengths | load | first token | each other token | percentiles |\n|---|---|---:|---:|---:|---:|\n"
    return head + "".join(lines)


def _share(cells: Sequence[dict[str, Any]], what: str) -> str:
    within, count = (sum(each[what][at] for each in cells) for at in (0, 1))
    return f"{within / count:.1%} of {count:,}"


def _percentiles(cells: Sequence[dict[str, Any]]) -> str:
    within, count = (sum(each["percentiles"][at] for each in cells) for at in (0, 1))
    return f"{within / count:.0%} of {count}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--real", action="store_true", help="the real engine with the example's model instead"
    )
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    if asked.real:
        found = json.loads(RECORD.read_text("utf-8")) | {"real": real()}
        print(real_table(found))
        if asked.record:
            RECORD.write_text(json.dumps(found, separators=(",", ":")) + "\n", "utf-8")
        return
    work = [(name, seed) for seed in range(asked.seeds) for name in ENGINES]
    record: dict[str, Any] = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    record |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "requests": REQUESTS,
        "histories": DRAWS,
        "runs": [],
    }
    with ProcessPoolExecutor(asked.processes) as pool:
        for run in pool.map(one, work):
            record["runs"].append(run)
            if asked.record:  # a study that is stopped has what it had
                RECORD.write_text(json.dumps(record, separators=(",", ":")) + "\n", "utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
