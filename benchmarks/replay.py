"""Autoscalers judged on traffic that they were not tuned on: ours by replay, and those of others, each tuned on the same past.

    python -m benchmarks.replay                       all; writes benchmarks/records/replay.jsonl and docs/explanation/autoscaling.md
    python -m benchmarks.replay --seeds 1 --print     a part of it, to look at
    python -m benchmarks.replay --page                the page from the record

Nothing is real but the traffic. Hour-long traces are tuned on their first half and judged on the second, request by request.
Rates of days generate arrivals of a stated dispersion: the last hours are judged, the hours before them tune.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.replay_page import page
from numpy.typing import NDArray
from tests.autoscaling.request_simulation import simulate_requests, spread_in_seconds
from tests.autoscaling.traffic import numbers

from hooke.autoscaling.peers import CONSTANT, OURS, PEERS, all_families
from hooke.autoscaling.replay import (
    WARM_S,
    ReplayResult,
    RuleFamily,
    StaffingRules,
    Station,
    pick,
    replay,
    trailing_max,
)

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "records" / "replay.jsonl"
PAGE = ROOT / "docs" / "explanation" / "autoscaling.md"
GOALS = (90.0, 95.0, 97.0, 98.0, 99.0, 99.3, 99.5, 99.7, 99.9)
"""Each autoscaler is tuned for each of these: its frontier."""
STARTS_S = (1.0, 5.0, 30.0, 120.0)
SEEDS, REQUEST_SEEDS = 20, 5
HOUR_S = 3600
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One kind of traffic. `counts(seed)` are arrivals a second; judged is what follows the past."""

    name: str
    station: Station
    counts: Callable[[int], Ints]
    past_s: int = 0
    """What tunes; 0 for an hour-long trace, which is cut in half."""
    judged_s: int = 0
    starts: tuple[float, ...] = STARTS_S
    seeds: int = SEEDS
    high: int = 40
    """The greatest number of replicas."""


def generated(rates: NDArray[np.float64], step_s: int, dispersion: float, seed: int) -> Ints:
    """Arrivals a second by rates of each `step_s`, joined by lines, with this variance over the mean (Poisson, of gamma rates)."""
    at = np.arange((len(rates) - 1) * step_s)
    mean = np.maximum(np.interp(at, np.arange(len(rates)) * step_s, rates), 1e-6)
    chance = np.random.default_rng(seed)
    return chance.poisson(chance.gamma(mean / (dispersion - 1), dispersion - 1)).astype(np.int64)


def servegen(model: str, share: float = 1.0) -> Callable[[int], Ints]:
    """More than a week of a model, at a share of its rate, up to another hour for each seed."""

    def counts(seed: int) -> Ints:
        rates = numbers(f"servegen_{model}_per_10min.txt") * share
        return generated(rates[: 8 * 144 + seed * 7 * 6 + 1], 600, 1.5, seed)

    return counts


def taxi(seed: int) -> Ints:
    """More than a week, from another day and up to another hour for each seed, at twenty times the rate."""
    rates = numbers("nyc_taxi_per_30min.txt") / 1800 * 20
    first = seed * 2 * 48
    return generated(rates[first : first + 8 * 48 + seed * 7 * 2 + 1], 1800, 1.5, seed)


def weeks(seed: int) -> Ints:
    """Two weeks, up to noon of another day for each seed: a day's wave, quiet weekends, and a peak at nine that begins within a minute."""
    minute = np.arange((14 + seed % 7) * 1440 + 721)
    wave = 1 + 0.6 * np.sin((minute % 1440 / 1440 - 0.3) * 2 * np.pi)
    weekday = np.where(minute // 1440 % 7 >= 5, 0.5, 1.0)
    morning = np.where((minute % 1440 >= 540) & (minute % 1440 < 555), 1.8, 1.0)
    return generated(120.0 * wave * weekday * morning, 60, 2.0, seed)


def resampled(name: str, episode_s: float = 300.0) -> Callable[[int], Ints]:
    """Nine hours of episodes of a recorded hour, in random order and of random length: a stationary bootstrap (Politis & Romano 1994)."""

    def counts(seed: int) -> Ints:
        recorded_counts = numbers(f"{name}_per_second.txt").astype(np.int64)
        chance, seconds = np.random.default_rng(seed), 9 * HOUR_S
        begins = chance.random(seconds) < 1 / episode_s
        begins[0] = True
        since = np.arange(seconds) - np.maximum.accumulate(np.where(begins, np.arange(seconds), 0))
        first = chance.integers(0, len(recorded_counts), int(begins.sum()))[np.cumsum(begins) - 1]
        return recorded_counts[(first + since) % len(recorded_counts)]

    return counts


SHORT = {"rate": 20.0, "wait_s": 0.45}
"""50 ms of service, 99 % within 0.5 s."""
LONG = {"rate": 0.5, "wait_s": 2.0, "variability": 0.5}
"""2 s of service on average, as of a language model, 99 % begun within 2 s."""

CODE = {"rate": 2.0, "wait_s": 1.5, "variability": 0.5}
"""0.5 s of service on average, as of short completions, 99 % begun within 1.5 s."""


def recorded(name: str) -> Callable[[int], Ints]:
    """An hour-long trace; the seed only places requests within their seconds and draws their service times."""
    return lambda _: numbers(f"{name}_per_second.txt").astype(np.int64)


TRAFFICS = (
    Traffic(
        name="Azure conversation", station=Station(**LONG), counts=recorded("azure_conv"), seeds=REQUEST_SEEDS
    ),
    Traffic(
        name="Mooncake conversation",
        station=Station(**LONG),
        counts=recorded("mooncake_conversation"),
        seeds=REQUEST_SEEDS,
    ),
    Traffic(
        name="Azure code (bursts)",
        station=Station(**CODE),
        counts=recorded("azure_code"),
        seeds=REQUEST_SEEDS,
        high=80,
    ),
    Traffic(
        name="ServeGen m-large",
        station=Station(**SHORT),
        counts=servegen("m_large"),
        past_s=6 * HOUR_S,
        judged_s=3 * HOUR_S,
    ),
    Traffic(
        name="New York taxi", station=Station(**SHORT), counts=taxi, past_s=6 * HOUR_S, judged_s=3 * HOUR_S
    ),
    Traffic(
        name="generated weeks",
        station=Station(**SHORT),
        counts=weeks,
        past_s=24 * HOUR_S,
        judged_s=6 * HOUR_S,
        starts=(30.0,),
    ),
    Traffic(
        name="ServeGen m-small",
        station=Station(**SHORT),
        counts=servegen("m_small", 1 / 6),
        past_s=6 * HOUR_S,
        judged_s=3 * HOUR_S,
    ),
    Traffic(
        name="ServeGen m-mid",
        station=Station(**SHORT),
        counts=servegen("m_mid", 1 / 9),
        past_s=6 * HOUR_S,
        judged_s=3 * HOUR_S,
    ),
    Traffic(
        name="Azure code, resampled",
        station=Station(**CODE),
        counts=resampled("azure_code"),
        past_s=6 * HOUR_S,
        judged_s=3 * HOUR_S,
        high=80,
    ),
)
"""The last three were added when the grid of rules and the comparison were final, and run once."""


# --- One experiment.


def experiment(traffic: Traffic, start_s: float, seed: int) -> dict[str, Any]:
    """The judged figures of each autoscaler as tuned on the past for each goal, and with hindsight."""
    station = Station(
        **{**{n: getattr(traffic.station, n) for n in ("rate", "wait_s", "variability")}, "start_s": start_s}
    )
    counts = traffic.counts(seed)
    seconds = len(counts)
    cut = seconds - traffic.judged_s if traffic.past_s else seconds // 2
    begin = cut - traffic.past_s if traffic.past_s else 300
    first = max(begin - WARM_S, 0)
    every = all_families(counts, station, low=1, high=traffic.high, first=first, past=slice(begin, cut))
    result = replay(counts, station, every, high=traffic.high, ends=(cut, seconds), begin=begin)
    families = {
        name: _judge(traffic, station, counts, name, result.part(part), cut, seed)
        for name, part in every.slices.items()
    }
    return {
        "traffic": traffic.name,
        "start_s": start_s,
        "seed": seed,
        "requests": int(counts[cut:].sum()),
        "work_hours": round(float(counts[cut:].sum()) / station.rate / 3600, 4),
        "clairvoyant_hours": round(clairvoyant_s(counts, cut, station) / 3600, 4),
        "families": families,
    }


def _judge(  # noqa: PLR0913, PLR0917 - one family in one experiment
    traffic: Traffic, station: Station, counts: Ints, name: str, result: ReplayResult, cut: int, seed: int
) -> dict[str, Any]:
    past = ReplayResult(
        settings=result.settings,
        requests=result.requests[:-1],
        late=result.late[:-1],
        replica_s=result.replica_s[:-1],
    )
    late = result.late[-1] / max(int(result.requests[-1]), 1)
    hours = result.replica_s[-1] / 3600
    picks: list[tuple[float, float]] = []
    known: dict[int, tuple[float, float]] = {}
    for goal in GOALS:
        at, _ = pick(past, 1 - goal / 100)
        if at not in known:
            known[at] = float(late[at]), float(hours[at])
            if not traffic.past_s:
                known[at] = _by_requests(station, traffic.high, counts, name, result.settings[at], cut, seed)
        picks.append(known[at])
    keeps = late <= station.budget
    best = int(np.where(keeps, hours, np.inf).argmin()) if keeps.any() else int(late.argmin())
    tuned, _ = pick(past, station.budget)
    return {
        "picks": [(round(a, 6), round(b, 4)) for a, b in picks],
        "setting": str(result.settings[tuned]),
        "hindsight": (round(float(late[best]), 6), round(float(hours[best]), 4)),
    }


def _by_requests(  # noqa: PLR0913, PLR0917 - one simulation
    station: Station, high: int, counts: Ints, name: str, setting: Any, cut: int, seed: int
) -> tuple[float, float]:
    """(late share, hours), request by request."""
    chance = np.random.default_rng(seed)
    arrivals = spread_in_seconds(counts, chance)
    shape = 1 / station.variability
    services = chance.gamma(shape, 1 / station.rate / shape, len(arrivals)).tolist()
    if name in {OURS, CONSTANT}:
        family: RuleFamily = StaffingRules(counts, station, [setting])
    else:
        family = next(peer for peer in PEERS if peer.name == name).make([setting])
    made = simulate_requests(arrivals, services, station, family, high=high, begin=cut)
    return made.late / max(made.requests, 1), made.replica_s / 3600


def clairvoyant_s(counts: Ints, cut: int, station: Station) -> float:
    """Replica seconds of one that knows the arrivals: what each stretch of the allowed wait needs, started in time, kept over gaps of the best length."""
    stretch = max(round(station.wait_s), 1)
    sums = np.concatenate(([0], np.cumsum(counts)))
    at = np.arange(cut, len(counts))
    mean = (sums[np.minimum(at + 1, len(counts))] - sums[np.maximum(at + 1 - stretch, 0)]) / stretch
    need = np.ceil(mean / station.rate - 1e-9).astype(np.int64)
    least = float("inf")
    for starts in (1, 3, 10, 30, 100):
        gap = max(round(starts * station.start_s), 1)
        wide = trailing_max(need, gap)
        kept = -trailing_max(-wide[::-1], gap)[::-1]
        least = min(least, float(kept.sum() + np.maximum(np.diff(kept), 0).sum() * station.start_s))
    return least


# --- All of them.


def plan(seeds: int, names: Sequence[str]) -> Iterator[tuple[int, float, int]]:
    """Traces first, then the others seed by seed, so that what is done is balanced whenever it ends."""
    for generates in (False, True):
        for seed in range(seeds):
            for number, traffic in enumerate(TRAFFICS):
                if (
                    bool(traffic.past_s) == generates
                    and seed < traffic.seeds
                    and (not names or traffic.name in names)
                ):
                    for start_s in traffic.starts:
                        yield number, start_s, seed


def _one(what: tuple[int, float, int]) -> dict[str, Any]:
    number, start_s, seed = what
    return experiment(TRAFFICS[number], start_s, seed)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--traffic", action="append", default=[])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--within", type=float, default=float("inf"), help="begin nothing after so many seconds"
    )
    parser.add_argument("--more", action="store_true", help="keep what the record has, and run the rest")
    parser.add_argument("--print", action="store_true", help="print the page and write nothing")
    parser.add_argument("--page", action="store_true", help="write the page from the record")
    given = parser.parse_args()
    if given.page:
        PAGE.write_text(
            page([json.loads(line) for line in RECORD.read_text().splitlines()]), encoding="utf-8"
        )
        return
    rows: list[dict[str, Any]] = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if given.more else []
    )
    known = {(row["traffic"], row["start_s"], row["seed"]) for row in rows}
    until = time.monotonic() + given.within
    with ProcessPoolExecutor(given.processes) as pool:
        todo = (
            each
            for each in plan(given.seeds, given.traffic)
            if (TRAFFICS[each[0]].name, *each[1:]) not in known
        )
        while time.monotonic() < until and (
            some := [one for _, one in zip(range(2 * given.processes), todo, strict=False)]
        ):
            rows += pool.map(_one, some)
            if not given.print:
                RECORD.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if given.print:
        print(page(rows))
    else:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
