"""The request for a load test, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from hooke.loadtest.rate_search import Ladder, LevelSummary, LevelVerdict, SafeRate, needed
from hooke.loadtest.requests import Sent
from hooke.loadtest.target import Arrivals, Target, poisson
from hooke.scaling.call_times import Ends
from hooke.serving.slo import Slo

__all__ = ["BenchOrder", "BenchResult", "Handled", "LevelResult", "ServerUse"]


# --- The request.

LONGEST_S, MOST_S = 30.0, 300.0
"""The longest level of a search, when it is extended to have enough requests: as a rule, and for slow models and high percentiles."""
ENOUGH = 1.25
"""Requests of a level, in those that are needed if all are in time: Poisson arrivals are fewer by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOrder:
    """A requested load test: target, requests, rates and SLO."""

    target: Target
    path: str
    requests: tuple[bytes, ...]
    """Complete requests, sent unchanged, in turn."""
    sent: Sent = field(default_factory=lambda: Sent(bodies=()))
    """Their bodies and the origin of these."""
    slo: Slo | None = None
    rates: tuple[float, ...] = ()
    """The rates to measure; empty to search by the SLO."""
    seconds: float = 5.0
    """Length of each level without its warm-up. In a search, levels with too few requests are longer."""
    arrivals: Arrivals = field(default=poisson)
    arrivals_name: str = "poisson"
    connections: int = 256
    timeout_s: float = 5.0
    """A request without an answer by then has failed."""
    most: float = 1e5
    """The highest rate to try."""
    ca: str = ""
    seed: int = 0
    name: str = ""
    """The name of the target, if it has one besides its address."""

    @property
    def url(self) -> str:
        """The URL of the requests."""
        return f"{self.target.url().removesuffix(self.target.path)}{self.path}"

    @property
    def named(self) -> str:
        """The name of the target."""
        return self.name or self.url

    def longest_s(self, lone_s: float) -> float:
        """The longest level of a search: so many seconds hold the requests that can show that the SLO is met at half of the rate of sequential requests."""
        return min(max(LONGEST_S, ENOUGH * needed(self.slo) * lone_s / 0.5), MOST_S)

    def ladder(self, lone_s: float) -> Ladder:
        """The search, which starts at a quarter of the rate of sequential requests, but not where the longest level has too few requests to show anything."""
        least = ENOUGH * needed(self.slo) / self.longest_s(lone_s)
        first = min(max(0.25 / max(lone_s, 1e-4), 2.0, least), self.most)
        return Ladder(first=first, least=min(least, first), most=self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUse:
    """The resources of all server processes during a level."""

    cpu_s: float
    cores: float
    """CPU seconds per second."""
    rss: int
    """The peak of resident bytes."""
    mean_batch: float | None = None
    """Rows per batch; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelResult:
    """A level. The summary excludes the warm-up; the server's use and the connections include it."""

    asked: float
    """The requested rate."""
    summary: LevelSummary
    histogram: str
    """Latencies of the 2xx answers in microseconds, as an HdrHistogram (V2, base64)."""
    answered: int
    """2xx answers, including the warm-up."""
    opened: int
    most_open: int
    waited: int
    """Requests that waited because all allowed connections were busy."""
    said: dict[int, str]
    """Non-2xx status -> the beginning of its first answer."""
    server: ServerUse | None = None

    @property
    def cpu_us(self) -> float | None:
        """The server's CPU per answer, in microseconds."""
        return self.server.cpu_s / self.answered * 1e6 if self.server and self.answered else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What a service that was started for the test counted, from its journal."""

    run: str
    requests: int
    """Requests answered with a result."""
    batches: int
    rows: int
    law: tuple[str, ...] = ()
    """Lines on the law of batch duration by rows; empty if the batches do not determine it."""
    batch_s: tuple[Ends, Ends] | None = None
    """The law as numbers: seconds per row, and fixed seconds per batch."""

    @property
    def mean_batch(self) -> float | None:
        """Rows per batch."""
        return self.rows / self.batches if self.batches else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """The result of a load test. `safe` is None if no SLO was tested."""

    order: BenchOrder
    lone_s: float
    """The median latency of a single request."""
    levels: tuple[LevelResult, ...]
    safe: SafeRate | None
    stopped: bool = False
    """Whether Ctrl-C ended it early."""
    handled: Handled | None = None
    replicas: int | None = None
    """Replicas started behind Envoy; None for one without Envoy, and for a service that was already running."""
    threads: int | None = None
    """Library threads in each replica; None for a service that was already running."""
    asked_for: int = 0
    """2xx answers that the client received, including warm-ups and the first requests."""
    unheard: int = 0
    """Requests that may have been handled without an answer to the client: timed out, lost or cut."""

    @property
    def at_safe_rate(self) -> ServerUse | None:
        """The server's use at the safe rate."""
        held = [level for level in self.levels if self.safe and level.asked == self.safe.low and level.server]
        return held[-1].server if held else None

    @property
    def consistent(self) -> bool:
        """Whether the counts of service and client agree."""
        if self.handled is None:
            return True
        return self.asked_for <= self.handled.requests <= self.asked_for + self.unheard

    @property
    def kept(self) -> bool:
        """Whether the SLO surely held at some rate; with given rates, whether each has a result and none broke it."""
        if self.order.rates or self.safe is None:
            return not any(
                level.summary.unknown or level.summary.verdict is LevelVerdict.BROKEN for level in self.levels
            )
        return self.safe.low is not None
