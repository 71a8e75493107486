"""What a load test found."""

from __future__ import annotations

from dataclasses import dataclass, field

from hooke.loadtest.ladder import Ladder, LevelSummary, LevelVerdict, SafeRate
from hooke.loadtest.requests import Sent
from hooke.loadtest.target import Arrivals, Target, poisson
from hooke.scaling.call_times import Ends
from hooke.serving.slo import Slo

__all__ = ["BenchOrder", "BenchResult", "Handled", "LevelResult", "ServerUse"]


# --- What is asked of a load test.


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOrder:
    """Where requests go, which, how many, and what is promised of the answers."""

    target: Target
    path: str
    requests: tuple[bytes, ...]
    """Sent as they are, in turn."""
    sent: Sent = field(default_factory=lambda: Sent(bodies=()))
    """Their bodies, and where these are from."""
    slo: Slo | None = None
    rates: tuple[float, ...] = ()
    """The levels; empty where they are to be found by the promise."""
    seconds: float = 5.0
    """Of each level, beside its warm-up; in a search longer where so few requests could not tell."""
    arrivals: Arrivals = field(default=poisson)
    arrivals_name: str = "poisson"
    connections: int = 256
    timeout_s: float = 5.0
    """A request that has no answer then has failed."""
    most: float = 1e5
    """The highest rate that is tried."""
    ca: str = ""
    seed: int = 0
    name: str = ""
    """What is put under load, where it has a better name than its address."""

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.target.url().removesuffix(self.target.path)}{self.path}"

    @property
    def named(self) -> str:
        """What is put under load."""
        return self.name or self.url

    def ladder(self, lone_s: float) -> Ladder:
        """Where to begin: a quarter of what one request after the other would make."""
        return Ladder(first=min(max(0.25 / max(lone_s, 1e-4), 2.0), self.most), most=self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUse:
    """What the server's processes together took for a level."""

    cpu_s: float
    cores: float
    """CPU seconds a second."""
    rss: int
    """The most bytes that were resident at once."""
    mean_batch: float | None = None
    """Rows of a batch; None where the service does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelResult:
    """A level: of its counted part the summary, of all of it the server's use and the connections."""

    asked: float
    """The rate."""
    summary: LevelSummary
    histogram: str
    """Of the 2xx answers' latencies, in microseconds, as HdrHistogram writes it (V2, base64)."""
    answered: int
    """2xx answers with those of the warm-up."""
    opened: int
    most_open: int
    waited: int
    """Requests that waited for a connection, as many were busy as there may be."""
    said: dict[int, str]
    """What the first answer of each status said that is no 2xx."""
    server: ServerUse | None = None

    @property
    def cpu_us(self) -> float | None:
        """The server's CPU for an answer, in microseconds."""
        return self.server.cpu_s / self.answered * 1e6 if self.server and self.answered else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What a service that was started for the test says that it did, from its journal."""

    run: str
    requests: int
    """Answered with a result."""
    batches: int
    rows: int
    law: tuple[str, ...] = ()
    """What a batch takes by its rows, and what follows from it, in lines; none where its batches do not tell."""
    batch_s: tuple[Ends, Ends] | None = None
    """The same as numbers: seconds a row, and seconds a batch beside."""

    @property
    def mean_batch(self) -> float | None:
        """Rows of a batch."""
        return self.rows / self.batches if self.batches else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """All of it. `safe` is None where no promise was tested."""

    order: BenchOrder
    lone_s: float
    """The median time of a request that is alone."""
    levels: tuple[LevelResult, ...]
    safe: SafeRate | None
    stopped: bool = False
    """Ended by Ctrl-C, before all was measured."""
    handled: Handled | None = None
    replicas: int | None = None
    """How many were started behind Envoy; None for one without it, and for a service that ran already."""
    threads: int | None = None
    """Of the model's libraries in each replica; None for a service that ran already."""
    asked_for: int = 0
    """2xx answers that the client got, with those of warm-ups and of the first requests."""
    unheard: int = 0
    """Requests that may have been handled without the client's hearing of it: timed out, lost, or cut."""

    @property
    def at_safe_rate(self) -> ServerUse | None:
        """What the server took at the safe rate."""
        held = [level for level in self.levels if self.safe and level.asked == self.safe.low and level.server]
        return held[-1].server if held else None

    @property
    def consistent(self) -> bool:
        """Whether the service counted what the client did."""
        if self.handled is None:
            return True
        return self.asked_for <= self.handled.requests <= self.asked_for + self.unheard

    @property
    def kept(self) -> bool:
        """Whether the promise surely held at some rate; of rates that were asked for, whether each gave a figure and none broke it."""
        if self.order.rates or self.safe is None:
            return not any(
                level.summary.unknown or level.summary.verdict is LevelVerdict.BROKEN for level in self.levels
            )
        return self.safe.low is not None
