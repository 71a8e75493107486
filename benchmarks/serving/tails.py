"""The slowest requests of Hooke beside those of bare uvicorn with the same batcher: p99 and p99.9 at half and at four fifths of a rate that both sustain.

`python -m benchmarks.serving.tails` from the repository's root, about ten minutes; it writes `benchmarks/records/tails.json`. The load is an
open loop of Poisson arrivals, the same for both servers of a pair, which take turns in who comes first. A ratio of the pairs is their
geometric mean, with the interval of Student's t on the logarithms.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.serving.__main__ import MODEL, prepare, say
from benchmarks.serving.measure import TOKEN, Server
from benchmarks.serving.peers import BARE, HOOKE, ROOT, Peer
from scipy import stats

from hooke.loadtest.load_result import BenchOrder, BenchResult, LevelResult
from hooke.loadtest.load_test import bench_url
from hooke.loadtest.target import parse_target
from hooke.serving.slo import parse_slo

RECORD = ROOT / "benchmarks" / "records" / "tails.json"
KINDS = ("predict", "echo")
SLO = "p99 < 50ms"
SHARES = (0.5, 0.8)
PERCENTILES = (99.0, 99.9)
LEVEL = 0.95
LOOKS_S = 3.0
"""Of each rate of the search."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """How often and how long."""

    count: int = 7
    seconds: float = 6.0


@dataclass(frozen=True, slots=True)
class Tail:
    """A percentile: Hooke's by bare uvicorn's, the ends of the ratio's interval, and the milliseconds of each server."""

    ratio: float
    interval: tuple[float, float]
    ms: dict[str, list[float]]


def compared(kind: str, pairs: Pairs, folder: Path) -> dict[str, object]:
    """Both servers on one kind of work: the rate that both sustain, and the ratios of their tails."""
    up: dict[str, Server] = {}
    try:
        for peer in (BARE, HOOKE):
            up[peer.title] = _started(peer, kind, folder)
        safe = {peer.title: _safe_rate(peer, kind, up[peer.title]) for peer in (BARE, HOOKE)}
        both = min(safe.values())
        rows = [_row(kind, share, share * both, pairs, up) for share in SHARES]
    finally:
        for server in up.values():
            server.stop()
    return {"kind": kind, "slo": SLO, "safe_rates": safe, "rows": rows}


def _started(peer: Peer, kind: str, folder: Path) -> Server:
    asked = peer.asked[kind]
    command = [part.replace("{python}", str(peer.python())) for part in asked.command]
    server = Server(command, folder=folder, model=folder / MODEL, python_path=(ROOT / "src",))
    return server.start(asked.load(kind))


def _measured(
    peer: Peer, kind: str, server: Server, *, rates: Sequence[float], seconds: float, seed: int
) -> BenchResult:
    asked = peer.asked[kind]
    order = BenchOrder(
        target=parse_target(f"http://127.0.0.1:{server.port}"),
        path=asked.path,
        requests=(),
        slo=parse_slo(SLO),
        rates=tuple(rates),
        seconds=seconds,
        seed=seed,
    )
    return bench_url(order, [asked.body.encode()], token=TOKEN, tell=lambda *_: None)


def _safe_rate(peer: Peer, kind: str, server: Server) -> float:
    found = _measured(peer, kind, server, rates=(), seconds=LOOKS_S, seed=0)
    if found.safe is None or found.safe.low is None:
        raise RuntimeError(f"{peer.title} meets {SLO} at no rate: the machine is too busy for this")
    say(f"{kind:8} {peer.title:36} safe at {found.safe.low:8,.0f} a second")
    return found.safe.low


def _row(kind: str, share: float, rate: float, pairs: Pairs, up: dict[str, Server]) -> dict[str, object]:
    seen: dict[str, list[LevelResult]] = {BARE.title: [], HOOKE.title: []}
    for number in range(pairs.count):
        for peer in (BARE, HOOKE) if number % 2 else (HOOKE, BARE):
            measured = _measured(
                peer, kind, up[peer.title], rates=[rate], seconds=pairs.seconds, seed=1 + number
            )
            seen[peer.title].append(measured.levels[0])
    tails = {f"p{percent:g}": _tail(percent, seen) for percent in PERCENTILES}
    for name, tail in tails.items():
        low, high = tail.interval
        say(f"{kind:8} at {share:.0%}, {rate:,.0f}/s: {name} {tail.ratio:.2f} ({low:.2f} to {high:.2f})")
    limited = sum(bool(level.summary.limited) for levels in seen.values() for level in levels)
    told = {name: asdict(tail) for name, tail in tails.items()}
    return {"share": share, "rate": rate, "generator_was_the_limit": limited, **told}


def _tail(percent: float, seen: dict[str, list[LevelResult]]) -> Tail:
    ms = {name: [1e3 * _latency_s(level, percent) for level in levels] for name, levels in seen.items()}
    ratio, low, high = ratio_of(ms[HOOKE.title], ms[BARE.title])
    return Tail(ratio, (low, high), ms)


def _latency_s(level: LevelResult, percent: float) -> float:
    summary, found = level.summary, level.summary.at(percent)
    if found is None or summary.unanswered:
        raise RuntimeError(f"{summary.unanswered} requests had no answer at {level.asked:,.0f} a second")
    return found.value


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of the pairs' ratios, and the ends of its interval."""
    logs = np.log(np.asarray(ours) / np.asarray(theirs))
    half = float(stats.t.ppf((1 + LEVEL) / 2, logs.size - 1) * logs.std(ddof=1) / np.sqrt(logs.size))
    mean = float(logs.mean())
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = [
        "| | requests a second | p99, ms | by bare | p99.9, ms | by bare |",
        "|---|---:|---|---|---|---|",
    ]
    for one in record["compared"]:
        for row in one["rows"]:
            cells = [f"{one['kind']}, {row['share']:.0%} of what both bear", f"{row['rate']:,.0f}"]
            for name in ("p99", "p99.9"):
                tail = row[name]
                ours, theirs = (float(np.median(tail["ms"][peer.title])) for peer in (HOOKE, BARE))
                low, high = tail["interval"]
                cells += [f"{ours:.1f}, bare {theirs:.1f}", f"{tail['ratio']:.2f} ({low:.2f} to {high:.2f})"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--quick", action="store_true", help="two short pairs, and no record")
    asked.add_argument("--only", choices=KINDS)
    given = asked.parse_args()
    pairs = Pairs(2, 2.0) if given.quick else Pairs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        found = [compared(kind, pairs, folder) for kind in ([given.only] if given.only else KINDS)]
    record = {
        "cores": os.cpu_count(),
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "pairs": pairs.count,
        "seconds": pairs.seconds,
        "level": LEVEL,
        "compared": found,
    }
    if not given.quick and not given.only:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
