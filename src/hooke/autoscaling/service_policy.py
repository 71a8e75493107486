"""How many replicas there should be, and why: a pure policy that reacts to load, and takes the time of a start for what it is.

A replica that is asked for now answers `start_s` later. So what is needed is what bears the load and works off what will have
gathered by then; and one is given up only after it was not needed for several times as long as another would take to start.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from hooke.base.errors import NotEnoughData
from hooke.base.formats import format_seconds
from hooke.journal.service_events import BatchWindow
from hooke.scaling.affine import FEWEST_BLOCKS, Affine, CallBlock, affine
from hooke.serving.slo import Slo
from hooke.serving.stats_windows import merge_windows

__all__ = [
    "MOST_BLOCKS",
    "Bounds",
    "Capacity",
    "ReplicaPolicy",
    "ServiceDecision",
    "ServiceSnapshot",
    "capacity_of",
    "capacity_of_batches",
    "capacity_of_calls",
    "law_of",
    "stretches",
]


# --- What one replica does within its SLO, from the law of its batches: pure arithmetic.

LONE_TIMES = 10.0
"""Where nothing was promised, a request may take so many times what it takes alone."""
BISECTIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Of one replica: the load that it bears within the limit, and what waits or runs in it when the limit is just kept."""

    rate: float
    """Requests a second."""
    in_flight: float


def capacity_of_batches(
    a: float, b: float, *, max_batch: int, limit_s: float | None, percent: float = 99.0, rows: float = 1.0
) -> Capacity:
    """Where a batch of n rows takes a n + b seconds and fires when the model is free; requests have `rows` rows on average.

    A row waits for the batch that runs, and runs in the next: both within the limit. While one of n runs, the next gathers,
    n' = Poisson(load (a n + b)). So n has the mean m = load b / (1 - load a) and the variance m / (1 - (load a)^2), and
    the load is the highest at which its `percent` quantile still keeps the limit: that of a normal distribution, corrected
    for a skewness of at least a Poisson's (Cornish & Fisher 1938).

    Where the limit allows for several full batches, rows may also queue for these: by no more than one batch longer than
    rows that are taken one by one, each in its part of a full batch.
    """
    limit = limit_s if limit_s is not None else LONE_TIMES * (a + b)
    most = min(float(max_batch), (limit / 2 - b) / a if a > 0 else math.inf)
    if limit < a + b or most < 1:
        # Two in a row are too long: only a replica that is asked now and then keeps the limit.
        return capacity_of_calls(a + b, limit_s=limit, percent=percent)
    z = NormalDist().inv_cdf(percent / 100)

    def fits(load: float) -> bool:
        share = load * a
        if share >= 1:
            return False
        mean = load * b / (1 - share)
        return mean + z * math.sqrt(mean / (1 - share**2)) + (z**2 - 1) / (6 * (1 - share)) <= most

    low, high = 0.0, most / (a * most + b)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    full_s = a * most + b
    queued = capacity_of_calls(full_s / most, limit_s=limit - 2 * full_s + full_s / most, percent=percent)
    well = most * max(limit / full_s, 2.0)
    alone = capacity_of_calls(
        a + b, limit_s=limit, percent=percent
    )  # who is asked now and then has batches of one
    return Capacity(rate=max(low, queued.rate, alone.rate) / rows, in_flight=max(well / rows, 1.0))


def capacity_of_calls(seconds: float, *, limit_s: float | None, percent: float = 99.0) -> Capacity:
    """Where each call is for one request and takes so long.

    With Poisson arrivals and even service the wait is longer than w with probability C exp(-t w), where t solves
    u (exp(t seconds) - 1) = t seconds and C = (1 - u) / (u exp(t seconds) - 1), u being the share of time that it is
    busy (Cramer & Lundberg; Asmussen, "Applied Probability and Queues", 2003, XIII.5).
    """
    limit = limit_s if limit_s is not None else LONE_TIMES * seconds
    calls = limit / seconds - 1
    if calls <= 0:
        return Capacity(rate=0.0, in_flight=1.0)
    tail = 1 - percent / 100
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _late(middle, calls) <= tail else (low, middle)
    return Capacity(rate=low / seconds, in_flight=max(limit / seconds, 1.0))


def _late(busy: float, calls: float) -> float:
    """The probability of a wait of more than so many calls."""
    low, high = 1e-9, 100.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if busy * math.expm1(middle) < middle else (low, middle)
    steep = busy * math.exp(low) - 1
    return min((1 - busy) / steep * math.exp(-low * calls), 1.0) if steep > 0 else 1.0


# --- What a method's windows say of it: its law a n + b, and what one replica does by that.

MOST_BLOCKS = 12
"""More would be shorter than what disturbs a machine, and then not independent; Student's t gains little by them."""

MAIN_SHARE = 0.9
"""Of the model's time: a method with less is not all that a replica does, and its law does not tell what that can do."""


def capacity_of(windows: Sequence[BatchWindow], *, max_batch: int | None, slo: Slo | None) -> Capacity | None:
    """What one replica does within the SLO, at the pessimistic end of what its windows tell; None where they do not tell yet.

    So it is where several methods share the model, and where `async def` does all the work.
    """
    whole = merge_windows(windows)
    busy = {each.method: sum(size.seconds for size in each.sizes) for each in whole.methods}
    if not busy or max(busy.values()) < MAIN_SHARE * whole.busy_s:
        return None
    terms = {"limit_s": slo.limit_s if slo else None, "percent": slo.percent if slo else 99.0}
    if max_batch is None:
        seconds = _mean_call(windows)
        return None if seconds is None else capacity_of_calls(seconds, **terms)
    try:
        law = law_of(windows, max(busy, key=busy.__getitem__), max_batch=max_batch)
    except NotEnoughData:
        return None
    rows = max(whole.rows / max(whole.requests, 1), 1.0)
    return capacity_of_batches(law.a.interval[1], law.b.interval[1], max_batch=max_batch, rows=rows, **terms)


def _mean_call(windows: Sequence[BatchWindow]) -> float | None:
    """Seconds of a call for one request, two standard errors above the mean over stretches of time."""
    parts = stretches(windows, MOST_BLOCKS)
    if len(parts) < FEWEST_BLOCKS:
        return None
    means = [part.busy_s / part.batches for part in parts]
    mean = sum(means) / len(means)
    variance = sum((each - mean) ** 2 for each in means) / (len(means) - 1)
    return mean + 2 * math.sqrt(variance / len(means))


def law_of(windows: Sequence[BatchWindow], method: str, *, max_batch: int | None) -> Affine:
    """How long a batch of n rows takes, from what replicas did over time. Raises NotEnoughData.

    Requests larger than `max_batch` count for nothing: they are several calls.
    """
    most = max_batch or 1
    blocks = [
        [
            CallBlock(size.batches, size.rows, size.seconds)
            for each in block.methods
            if each.method == method
            for size in each.sizes
            if size.rows <= most * size.batches
        ]
        for block in stretches(windows, MOST_BLOCKS)
    ]
    return affine(blocks)


def stretches(windows: Sequence[BatchWindow], most: int) -> list[BatchWindow]:
    """The windows put together to at most `most`, in order of time, of about as many batches each."""
    ordered = sorted(windows, key=lambda window: window.at)
    busy = [window for window in ordered if window.batches]
    share = sum(window.batches for window in busy) / most
    parts: list[list[BatchWindow]] = []
    seen = 0
    for window in busy:
        number = math.floor(seen / share + 1e-9)
        if len(parts) <= number:
            parts.append([])
        parts[-1].append(window)
        seen += window.batches
    return [merge_windows(part) for part in parts]


HOLD_STARTS = 3.0
"""For so many starts a replica must not have been needed. One start is what keeping it costs beside starting it anew (the
rule of ski rental); a request that is late costs more than a replica that idles."""
LEAST_HOLD_S = 10.0
"""Of services that start at once: the load itself is not known sooner."""
LOOK_STARTS, LEAST_LOOK_S, MOST_LOOK_S = 0.1, 1.0, 15.0
ENOUGH = 100
"""The load is its mean over the last tenth of a start (what is shorter, no start could meet), but over a second at least,
and over as many more as have so many requests: 10 % is what chance alone adds to these. Replicas are added for the load less
that, and kept for the load and that."""
DRAIN_STARTS = 1.0
"""What has gathered until more replicas answer is to be worked off within this many starts."""
FORGET_HOLDS = 20.0
"""A load that was too much for a replica is remembered for so many holds."""
REGRET_HOLDS = 4.0
"""Within so many holds of a fall a rise means that the fall was a mistake, and doubles the hold."""
MOST_PATIENCE = 16.0
SAFE_SHARE = 0.8
"""How near to that load one goes by giving a replica up."""
MOST_GROWTH = 2.0
"""Where it is not known what a replica does: to at most so many times those that answer, at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The fewest and the most. There is always one: nothing else would hold requests."""

    low: int
    high: int
    assumed_in_flight: float = 2.0
    """What may wait or run in a replica of which nothing is known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSnapshot:
    """A service at one moment."""

    ready: int
    """Replicas that answer."""
    starting: int
    in_flight: int
    """Requests that wait or run, in all of them."""
    arrived: int
    """Requests since the service began, the ones in flight included; refused ones too."""
    start_s: float
    """What the latest starts took, from asking to answering."""
    capacity: Capacity | None = None
    """What one replica is known to do, at the pessimistic end of it."""


@dataclass(frozen=True, slots=True)
class ServiceDecision:
    """So many there should be. `reason` is one plain sentence, of the same words as long as nothing changes but numbers."""

    target: int
    reason: str


class ReplicaPolicy:
    """Decides again and again: `decide` is called once a second or so. All times are seconds of one clock, which never goes back."""

    def __init__(self, bounds: Bounds) -> None:
        self.low = max(bounds.low, 1)
        self.high = max(bounds.high, self.low)
        self.assumed = bounds.assumed_in_flight
        self.target = self.low
        self._fell = -math.inf
        self._patience = 1.0
        self._regretted = -math.inf
        self._rose = -math.inf
        self._seen: deque[tuple[float, ServiceSnapshot]] = deque()
        self._needs: deque[tuple[float, int]] = deque()
        self._too_much: deque[tuple[float, float]] = deque()
        """When, and how many requests a second a replica had when that was more than it could bear."""

    def decide(self, now: float, seen: ServiceSnapshot) -> ServiceDecision:
        """How many there should be now. It rises at once, and falls when the greatest need of a whole hold is lower."""
        least_hold = max(HOLD_STARTS * seen.start_s, LEAST_HOLD_S)
        hold = least_hold * self._patience
        load, chance = self._load(now, seen)
        self._note_strain(now, seen, load, FORGET_HOLDS * hold)
        rise, why = self._needed(seen, max(load - chance, 0.0))
        if rise > self.target:
            self._regret(now, hold)
            self._rose = now
            return self._change(rise, why)
        keep, _ = self._needed(seen, load + chance, backlog=False)
        self._needs.append((now, keep))
        while self._needs[0][0] < now - hold:
            self._needs.popleft()
        if keep >= self.target:
            return ServiceDecision(self.target, f"{self.target} stay: {why}")
        whole = now - self._needs[0][0] >= 0.9 * hold and now - self._rose >= least_hold
        if not whole or max(count for _, count in self._needs) >= self.target:
            return ServiceDecision(
                self.target, f"{self.target} stay: {keep} would do, but not for {format_seconds(hold)} yet"
            )
        return self._fall(now, seen, load, hold)

    def _change(self, target: int, why: str) -> ServiceDecision:
        before, self.target = self.target, target
        return ServiceDecision(target, f"{before} -> {target}: {why}")

    def _regret(self, now: float, hold: float) -> None:
        """What was given up a short time ago is wanted again: from now on wait for longer before that; else, slowly, for less."""
        if now - self._fell < REGRET_HOLDS * hold:
            self._patience, self._regretted = min(2 * self._patience, MOST_PATIENCE), now
        elif now - self._regretted > FORGET_HOLDS * hold:
            self._patience, self._regretted = max(self._patience / 2, 1.0), now
        self._fell = -math.inf

    def _fall(self, now: float, seen: ServiceSnapshot, load: float, hold: float) -> ServiceDecision:
        greatest = max(count for _, count in self._needs)
        why = f"the load needed no more than {greatest} for {format_seconds(hold)}, {hold / seen.start_s:.3g} times what a start takes"
        if seen.capacity is None:
            # How what waits grows with load is not known: one at a time, and not to where it was too much before.
            greatest = self.target - 1
            limit = self._too_much[0][1] if self._too_much else math.inf
            if load / greatest > SAFE_SHARE * limit:
                return ServiceDecision(
                    self.target,
                    f"{self.target} stay: {_count(limit)} requests/s were too much for one before",
                )
            if now - self._fell < max(seen.start_s, LEAST_LOOK_S):
                return ServiceDecision(self.target, f"{self.target} stay: the last one was given up just now")
        self._fell = now
        return self._change(greatest, why)

    def _load(self, now: float, seen: ServiceSnapshot) -> tuple[float, float]:
        """Requests a second that arrive, and by how much that may be chance: one standard deviation."""
        self._seen.append((now, seen))
        while len(self._seen) > 2 and self._is_enough(now, seen, self._seen[1]):
            self._seen.popleft()
        began, first = self._seen[0]
        if now <= began:
            return 0.0, 0.0
        arrived = max(seen.arrived - first.arrived, 0)
        return arrived / (now - began), math.sqrt(arrived) / (now - began)

    def _is_enough(self, now: float, seen: ServiceSnapshot, since: tuple[float, ServiceSnapshot]) -> bool:
        length = now - since[0]
        least = max(LEAST_LOOK_S, LOOK_STARTS * seen.start_s)
        return length >= max(MOST_LOOK_S, least) or (
            length >= least and seen.arrived - since[1].arrived >= ENOUGH
        )

    def _needed(self, seen: ServiceSnapshot, load: float, *, backlog: bool = True) -> tuple[int, str]:
        """With what has gathered already, or, as that is worked off once, without."""
        if seen.capacity is not None:
            wanted, why = self._by_law(seen, load, seen.capacity, backlog=backlog)
        else:
            wanted, why = self._by_in_flight(seen)
        if wanted > self.high:
            why += f"; {wanted} would be needed, and {self.high} are allowed"
        elif wanted < self.low:
            why += f"; {self.low} are the fewest allowed"
        return min(max(wanted, self.low), self.high), why

    def _by_law(
        self, seen: ServiceSnapshot, load: float, capacity: Capacity, *, backlog: bool
    ) -> tuple[int, str]:
        """Those that bear the load, and work off what is too much and will be when another has started."""
        said = f"{_count(load)} requests/s, and one replica does {_count(capacity.rate)}/s within the SLO"
        if not capacity.rate:
            return seen.ready, f"{_count(load)} requests/s, and no number of replicas keeps the SLO"
        bears = load / capacity.rate
        working = max(seen.ready, 1)
        over = seen.in_flight - working * capacity.in_flight
        if over <= 0 or not backlog:
            return math.ceil(bears - 1e-9), said
        # Until another has started, those that are on their way start: on average, half of that time.
        after = working * capacity.rate, (working + seen.starting) * capacity.rate
        gathers = sum((load - rate) * seen.start_s / 2 for rate in after)
        drains = max(over + gathers, 0.0) / (capacity.rate * max(DRAIN_STARTS * seen.start_s, LEAST_LOOK_S))
        return math.ceil(bears + drains - 1e-9), f"{said}; {seen.in_flight} wait or run, {over:.0f} too many"

    def _by_in_flight(self, seen: ServiceSnapshot) -> tuple[int, str]:
        """Nothing is known of what a replica does: those among whom what waits and runs is as little as is assumed to be well."""
        recent = [each.in_flight for _, each in self._seen]
        mean = sum(recent) / len(recent)
        wanted = math.ceil(mean / self.assumed - 1e-9)
        most = math.ceil(MOST_GROWTH * max(seen.ready, 1))
        why = f"{_count(mean)} requests wait or run, and {self.assumed:g} a replica are assumed to be well"
        if wanted > most:
            return max(most, self.target), f"{why}; twice those that answer, until more is known"
        return wanted, why

    def _note_strain(self, now: float, seen: ServiceSnapshot, load: float, keep_s: float) -> None:
        if seen.ready and seen.in_flight > seen.ready * self.assumed and load:
            rate = load / seen.ready
            while self._too_much and self._too_much[-1][1] >= rate:
                self._too_much.pop()  # what is both older and no lower can never be the least again
            self._too_much.append((now, rate))
        while self._too_much and self._too_much[0][0] < now - keep_s:
            self._too_much.popleft()


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
