"""What is asked of a load test."""

from __future__ import annotations

from dataclasses import dataclass, field

from hooke.load.arrivals import Arrivals, poisson
from hooke.load.ladder import Ladder
from hooke.load.target import Target
from hooke.project.benching.sent import Sent
from hooke.serving.slo import Slo

__all__ = ["BenchOrder"]


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
