"""Between no replica and one: when the last replica ends, by the gaps between calls, and when the first one starts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hooke.autoscaling.service_policy import ServiceDecision
from hooke.base.formats import format_seconds

__all__ = ["GapHistogram", "KeepAlive", "ZeroPolicy", "ZeroSnapshot"]

FLOOR_S = 30.0
"""The shortest keep-alive: a person who reads an answer and asks again finds the replica."""
CEILING_S = 3600.0
"""The longest one: whoever comes back after an hour of silence has been away, and a replica that waits longer costs more than any start."""
WORTH = 20.0
"""A cold start costs as much as a replica that waits for so many times its length: the client waits, and may go. On a trace of 26,392
calls of models that start in 52 s, keeping the replica for 900 s, 17 times as long, was where longer waits began to buy little."""
ENOUGH_GAPS = 10
"""Gaps longer than the floor, before they decide."""
FORGETS = 0.99
"""What a gap counts after the next one: about the last hundred decide."""
BINS = 48
"""Between floor and ceiling; each is a tenth longer than the one before."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How long the last replica stays without a call, and why."""

    seconds: float
    reason: str


class GapHistogram:
    """The gaps between calls that are longer than the floor, by length."""

    def __init__(self, floor_s: float = FLOOR_S, ceiling_s: float = CEILING_S) -> None:
        ratio = ceiling_s / floor_s
        self.edges = [floor_s * ratio ** (number / BINS) for number in range(BINS + 1)]
        self.seen = 0
        """Gaps longer than the floor."""
        self._counts = [0.0] * (BINS + 1)
        """From each edge to the next; the last one has no end."""
        self._sums = [0.0] * (BINS + 1)

    def add(self, seconds: float) -> None:
        """Add a gap; one below the floor tells nothing, as every keep-alive covers it."""
        if seconds < self.edges[0]:
            return
        self.seen += 1
        self._counts = [count * FORGETS for count in self._counts]
        self._sums = [each * FORGETS for each in self._sums]
        at = max(number for number, edge in enumerate(self.edges) if seconds >= edge)
        self._counts[at] += 1
        self._sums[at] += seconds

    def keep_alive(self, start_s: float) -> KeepAlive:
        """The keep-alive that would have cost least: the seconds that replicas waited, and `WORTH` times those of the cold starts.

        Before there are enough gaps it is `WORTH` starts: whatever the gaps are, that costs at most twice the least (the rule of
        ski rental; Karlin et al., "Competitive snoopy caching", 1988).
        """
        price = WORTH * start_s
        if self.seen < ENOUGH_GAPS:
            kept = min(max(price, self.edges[0]), self.edges[-1])
            return KeepAlive(
                kept,
                f"{WORTH:g} times a start of {format_seconds(start_s)}, between {format_seconds(self.edges[0])} and"
                f" {format_seconds(self.edges[-1])}, until {ENOUGH_GAPS} longer gaps were seen ({self.seen} so far)",
            )
        costs = [self._cost(number, price) for number in range(BINS + 1)]
        best = min(range(BINS + 1), key=costs.__getitem__)
        found = sum(self._counts[:best]) / sum(self._counts)
        return KeepAlive(
            self.edges[best],
            f"the cheapest by {self.seen} gaps of more than {format_seconds(self.edges[0])}: {found:.0%} of them were shorter,"
            f" and a start takes {format_seconds(start_s)}",
        )

    def _cost(self, number: int, price: float) -> float:
        """Of a keep-alive as long as that edge."""
        longer = sum(self._counts[number:])
        return sum(self._sums[:number]) + longer * (self.edges[number] + price)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSnapshot:
    """A service at one moment."""

    wanted: int
    starting: int
    """Replicas that start, or whose model is being set up again."""
    open_calls: int
    called: int
    """Calls of methods so far."""
    held: int
    """Requests that wait because there is no replica."""
    start_s: float
    """The time of the latest starts."""


class ZeroPolicy:
    """Decides about the last replica, and about the first. All times are seconds of one monotonic clock.

    A start under way is never given up: the keep-alive begins when it has ended. Where a rule for the load keeps several replicas
    without a call, such as a constant number, all of them end after the keep-alive.
    """

    def __init__(self, *, fixed_s: float | None = None) -> None:
        """`fixed_s` is the keep-alive, whatever the gaps are."""
        self.gaps = GapHistogram()
        self._fixed_s = fixed_s
        self._called = 0
        self._idle_since: float | None = None
        self._kept_since = 0.0
        self._chosen: tuple[tuple[int, float], KeepAlive] | None = None

    def keep_alive(self, start_s: float) -> KeepAlive:
        """The keep-alive now."""
        if self._fixed_s is not None:
            return KeepAlive(self._fixed_s, "as --keep-alive says")
        by = (self.gaps.seen, start_s)
        if self._chosen is None or self._chosen[0] != by:
            self._chosen = by, self.gaps.keep_alive(start_s)
        return self._chosen[1]

    def decide(self, now: float, seen: ZeroSnapshot) -> ServiceDecision | None:
        """None replica, or the first; None if that is not to change. Call it at least once a second."""
        if seen.open_calls or seen.held or seen.called != self._called:
            if self._idle_since is not None:
                self.gaps.add(now - self._idle_since)
            self._idle_since, self._called = None, seen.called
            if seen.held and not seen.wanted:
                more = "1 request waits" if seen.held == 1 else f"{seen.held} requests wait"
                return ServiceDecision(1, f"{more}, and no replica runs")
            return None
        if self._idle_since is None:
            self._idle_since = self._kept_since = now
        if seen.starting:
            self._kept_since = now
        if not seen.wanted or seen.starting:
            return None
        keep = self.keep_alive(seen.start_s)
        if now - self._kept_since < keep.seconds:
            return None
        return ServiceDecision(0, f"no call for {format_seconds(keep.seconds)}; {keep.reason}")
