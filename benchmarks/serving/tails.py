"""Tails of latency under a steady load, beside bare uvicorn: interleaved pairs, and an interval of their ratio.

    python -m benchmarks.serving.tails                     echo and predict at 50 and 80 % of the safe rate, some 15 minutes
    python -m benchmarks.serving.tails --pairs 2 --seconds 2 --only echo

The safe rate is that of bare uvicorn for p99 < 50 ms; both servers get the same rates, from Hooke's load generator (open loop, Poisson
arrivals). A pair is one window of each, in random order. Its ratio is Hooke's percentile over that of bare uvicorn. The interval is that
of Student's t for the mean of the logarithms.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.__main__ import MODEL, prepare, say
from benchmarks.serving.measure import TOKEN, Server
from benchmarks.serving.peers import BARE, HOOKE, ROOT, Peer
from scipy.special import stdtrit

from hooke.loadtest.load_result import BenchOrder, LevelResult
from hooke.loadtest.load_test import bench_url
from hooke.loadtest.target import parse_target
from hooke.serving.slo import parse_slo

SLO = "p99 < 50ms"
SHARES = (0.5, 0.8)
PERCENTS = (99.0, 99.9)
WARM_S = 1.0


@dataclass(slots=True)
class Tails:
    """Seconds at one percentile, by pair."""

    bare: list[float] = field(default_factory=list)
    hooke: list[float] = field(default_factory=list)

    def interval(self) -> tuple[float, float, float]:
        """The ratio of Hooke to bare uvicorn, and its 95 % interval."""
        logs = [math.log(ours / theirs) for ours, theirs in zip(self.hooke, self.bare, strict=True)]
        mean = statistics.fmean(logs)
        off = math.inf
        if len(logs) > 1:
            off = float(stdtrit(len(logs) - 1, 0.975)) * statistics.stdev(logs) / math.sqrt(len(logs))
        return math.exp(mean - off), math.exp(mean), math.exp(mean + off)


def order_of(server: Server, peer: Peer, kind: str, rates: tuple[float, ...], seconds: float) -> BenchOrder:
    """A load test of a running server; without rates, the search for the safe one."""
    target = parse_target(f"http://127.0.0.1:{server.port}")
    slo = None if rates else parse_slo(SLO)
    return BenchOrder(
        target=target, path=peer.asked[kind].path, requests=(), slo=slo, rates=rates, seconds=seconds
    )


def window(server: Server, peer: Peer, kind: str, rate: float, seconds: float) -> LevelResult:
    """One level. Raises RuntimeError if a request failed, or if the generator was the limit."""
    order = order_of(server, peer, kind, (rate,), seconds)
    level = bench_url(order, [peer.asked[kind].body.encode()], token=TOKEN, tell=lambda _: None).levels[-1]
    summary = level.summary
    if summary.unanswered or summary.limited:
        raise RuntimeError(f"{peer.title} at {rate:.0f}/s: {summary.unanswered} unanswered {summary.limited}")
    return level


def measure(kind: str, pairs: int, seconds: float, folder: Path) -> list[str]:
    """The lines of the table for one kind of work."""
    chance, lines = random.Random(kind), []
    with ExitStack() as opened:
        servers = {}
        for peer in (BARE, HOOKE):
            command = [part.replace("{python}", str(peer.python())) for part in peer.asked[kind].command]
            server = Server(command, folder=folder, model=folder / MODEL, python_path=(ROOT / "src",))
            opened.callback(server.stop)
            servers[peer.title] = server.start(peer.asked[kind].load(kind))
            server.under(peer.asked[kind].load(kind), WARM_S)
        order = order_of(servers[BARE.title], BARE, kind, (), seconds)
        found = bench_url(order, [BARE.asked[kind].body.encode()], token=TOKEN, tell=lambda _: None)
        if found.safe is None or not found.safe.rate:
            raise RuntimeError(f"no safe rate of {kind} for {SLO}")
        say(f"{kind}: safe rate {found.safe.rate:.0f}/s")
        for share in SHARES:
            rate, tails = share * found.safe.rate, {percent: Tails() for percent in PERCENTS}
            for number in range(pairs):
                for peer in chance.sample((BARE, HOOKE), 2):
                    summary = window(servers[peer.title], peer, kind, rate, seconds).summary
                    for percent in PERCENTS:
                        estimate = summary.at(percent)
                        assert estimate is not None
                        own = tails[percent].bare if peer is BARE else tails[percent].hooke
                        own.append(estimate.value)
                said = ", ".join(
                    f"p{percent:g} {tails[percent].hooke[-1] / tails[percent].bare[-1]:.2f}"
                    for percent in PERCENTS
                )
                say(f"{kind} at {rate:.0f}/s, pair {number + 1}: {said}")
            for percent in PERCENTS:
                own = tails[percent]
                low, ratio, high = own.interval()
                bare, ours = (1e3 * statistics.median(each) for each in (own.bare, own.hooke))
                lines.append(
                    f"| {kind} | {rate:,.0f} ({share:.0%}) | p{percent:g} | {bare:.2f} | {ours:.2f} | {ratio:.2f} ({low:.2f} to {high:.2f}) |"
                )
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.tails", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window")
    parser.add_argument("--only", default="echo,predict")
    given = parser.parse_args()
    lines = [
        "| | requests/s (of the safe rate) | | bare uvicorn, ms | Hooke, ms | ratio (95 %) |",
        "|---" * 6 + "|",
    ]
    with tempfile.TemporaryDirectory(prefix="tails", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        prepare(folder)
        for kind in given.only.split(","):
            lines += measure(kind, given.pairs, given.seconds, folder)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
