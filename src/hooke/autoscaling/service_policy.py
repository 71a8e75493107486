"""How many replicas a service needs, and why: a policy that reacts to load and takes the time of a start into account. Pure.

A new replica answers only `start_s` later. So the policy asks for what bears the load and works off the backlog that has
gathered by then; and it gives a replica up only after it was not needed for several times as long as a start takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from hooke.autoscaling.replay import Station
from hooke.base.errors import NotEnoughData
from hooke.base.formats import format_seconds
from hooke.journal.service_events import BatchWindow
from hooke.scaling.affine import FEWEST_BLOCKS, Affine, CallBlock, affine
from hooke.serving.slo import Slo
from hooke.serving.stats_windows import merge_windows

__all__ = [
    "Bounds",
    "Capacity",
    "ReplicaPolicy",
    "ServiceSnapshot",
    "capacity_of",
    "capacity_of_batches",
    "capacity_of_calls",
    "law_of",
    "shared_replicas",
    "station_of",
    "stretches",
]


# --- The capacity of one replica within its SLO, from the law of its batches.

LONE_TIMES = 10.0
"""Without an SLO, a request may take so many times what it takes alone."""
BISECTIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The load that one replica bears within the limit, and the requests in it when the limit is just kept."""

    rate: float
    """Requests a second."""
    in_flight: float
    station: Station | None = None
    """Where each call is for one request: the replica as a server of the queue of all. Several bear more than the sum of what each bears alone."""


def shared_replicas(load: float, station: Station) -> int:
    """The fewest replicas that share this load, in requests a second, so that no more are late than may be.

    Erlang's C for the probability of a wait, and an exponential tail of it (Kingman 1962; exact for exponential service times).
    """
    busy = load / station.rate
    blocked, count = 1.0, 0
    while True:
        count += 1
        blocked = busy * blocked / (count + busy * blocked)
        if count > busy:
            waits = count * blocked / (count - busy * (1 - blocked))
            spare = 2 * (count - busy) * station.rate * station.wait_s / (1 + station.variability)
            if waits * math.exp(-spare) <= station.budget:
                return count


def capacity_of_batches(
    a: float, b: float, *, max_batch: int, limit_s: float | None, percent: float = 99.0, rows: float = 1.0
) -> Capacity:
    """The capacity if a batch of n rows takes a n + b seconds and fires when the model is free; requests have `rows` rows on average.

    A row waits for the running batch, and runs in the next: both within the limit. While one of n runs, the next gathers,
    n' = Poisson(load (a n + b)). So n has the mean m = load b / (1 - load a) and the variance m / (1 - (load a)^2), and
    the load is the highest at which its `percent` quantile still keeps the limit: that of a normal distribution, corrected
    for a skewness of at least a Poisson's (Cornish & Fisher 1938).

    If the limit allows several full batches, rows may also queue for these: by at most one batch longer than
    rows that are taken one by one, each in its part of a full batch.
    """
    limit = limit_s if limit_s is not None else LONE_TIMES * (a + b)
    most = min(float(max_batch), (limit / 2 - b) / a if a > 0 else math.inf)
    if limit < a + b or most < 1:
        # Two in a row are too long: the limit is kept only for rare requests.
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
    alone = capacity_of_calls(a + b, limit_s=limit, percent=percent)  # rare requests have batches of one
    return Capacity(rate=max(low, queued.rate, alone.rate) / rows, in_flight=max(well / rows, 1.0))


def capacity_of_calls(seconds: float, *, limit_s: float | None, percent: float = 99.0) -> Capacity:
    """The capacity if each call is for one request and takes so long.

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


# --- The law a n + b of a method, from its windows, and the capacity by it.

MOST_BLOCKS = 12
"""More blocks would be shorter than disturbances of a machine, and so not independent; Student's t gains little by them."""

MAIN_SHARE = 0.9
"""The least share of the model's time: below it, the method's law does not describe the replica."""


def capacity_of(windows: Sequence[BatchWindow], *, max_batch: int | None, slo: Slo | None) -> Capacity | None:
    """The capacity of one replica within the SLO, at the pessimistic end of what its windows tell; None if they do not tell yet.

    It is None, too, if several methods share the model, or `async def` does all the work.
    """
    whole = merge_windows(windows)
    method = _main_method(whole)
    if method is None:
        return None
    terms = {"limit_s": slo.limit_s if slo else None, "percent": slo.percent if slo else 99.0}
    if max_batch is None:
        seconds = _mean_call(windows)
        if seconds is None:
            return None
        station = station_of(windows, max_batch=None, slo=slo, start_s=0.0) if slo else None
        return replace(capacity_of_calls(seconds, **terms), station=station)
    try:
        law = law_of(windows, method, max_batch=max_batch)
    except NotEnoughData:
        return None
    rows = max(whole.rows / max(whole.requests, 1), 1.0)
    return capacity_of_batches(law.a.interval[1], law.b.interval[1], max_batch=max_batch, rows=rows, **terms)


def _main_method(whole: BatchWindow) -> str | None:
    """The method that does nearly all of the model's work."""
    busy = {each.method: sum(size.seconds for size in each.sizes) for each in whole.methods}
    if not busy or max(busy.values()) < MAIN_SHARE * whole.busy_s:
        return None
    return max(busy, key=busy.__getitem__)


def station_of(
    windows: Sequence[BatchWindow], *, max_batch: int | None, slo: Slo, start_s: float
) -> Station | None:
    """A replica as a server of the queue of all, for replays, at the pessimistic end; None where `capacity_of` is None, or no wait keeps the SLO.

    Of a batched method, a full batch that two in a row keep the limit with counts as that many requests, one after another.
    """
    whole = merge_windows(windows)
    method = _main_method(whole)
    if method is None:
        return None
    if max_batch is None:
        seconds = _mean_call(windows)
        if not seconds or slo.limit_s <= seconds:
            return None
        sizes = [size for each in whole.methods if each.method == method for size in each.sizes]
        squares = sum(size.squares for size in sizes) / max(sum(size.batches for size in sizes), 1)
        return Station(
            rate=1 / seconds,
            wait_s=slo.limit_s - seconds,
            variability=max(squares / seconds**2 - 1, 0.0),
            percent=slo.percent,
            start_s=start_s,
        )
    try:
        law = law_of(windows, method, max_batch=max_batch)
    except NotEnoughData:
        return None
    a, b = law.a.interval[1], law.b.interval[1]
    most = min(float(max_batch), (slo.limit_s / 2 - b) / a if a > 0 else math.inf)
    if most < 1:
        return None
    rows = max(whole.rows / max(whole.requests, 1), 1.0)
    full_s = a * most + b
    return Station(
        rate=most / full_s / rows,
        wait_s=slo.limit_s - 2 * full_s + full_s / most,
        percent=slo.percent,
        start_s=start_s,
        in_service=max(2 * most / rows, 1.0),
    )


def _mean_call(windows: Sequence[BatchWindow]) -> float | None:
    """Seconds of a call for one request, two standard errors above the mean of blocks of time."""
    parts = stretches(windows, MOST_BLOCKS)
    if len(parts) < FEWEST_BLOCKS:
        return None
    means = [part.busy_s / part.batches for part in parts]
    mean = sum(means) / len(means)
    variance = sum((each - mean) ** 2 for each in means) / (len(means) - 1)
    return mean + 2 * math.sqrt(variance / len(means))


def law_of(windows: Sequence[BatchWindow], method: str, *, max_batch: int | None) -> Affine:
    """The law of a batch's time, from windows over time. Raises NotEnoughData.

    Requests larger than `max_batch` are left out: they take several calls.
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
    """The windows merged to at most `most` blocks, in order of time, of about as many batches each."""
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
"""A replica is given up after it was not needed for so many starts. One start is what keeping it costs beside starting a new one (the
rule of ski rental); a late request costs more than an idle replica."""
LEAST_HOLD_S = 10.0
"""For services that start at once: the load itself is not known sooner."""
LOOK_STARTS, LEAST_LOOK_S, MOST_LOOK_S = 0.1, 1.0, 15.0
ENOUGH = 100
"""The load is the mean over the last tenth of a start (no start could meet shorter changes), but over a second at least,
and over as many more as contain so many requests: chance alone then adds 10 %. Replicas are added for the load less
that, and kept for the load plus that."""
DRAIN_STARTS = 1.0
"""The backlog when more replicas answer is to be worked off within so many starts."""
FORGET_HOLDS = 20.0
"""A load that was too much for a replica is remembered for so many holds."""
REGRET_HOLDS = 4.0
"""A rise within so many holds of a fall means that the fall was a mistake, and doubles the hold."""
MOST_PATIENCE = 16.0
SAFE_SHARE = 0.8
"""How near to that load giving a replica up may lead."""
MOST_GROWTH = 2.0
"""With unknown capacity: at most so many times the replicas that answer, at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The minimum and maximum. One replica is the least: `scale_to_zero` decides about the last one."""

    low: int
    high: int
    assumed_in_flight: float = 2.0
    """Requests in a replica that are assumed to be fine while nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSnapshot:
    """The state of a service at one moment."""

    ready: int
    """Replicas that answer."""
    starting: int
    in_flight: float
    """Calls of methods that wait or run, in all replicas; of a language model, the tokens that they need."""
    arrived: float
    """Calls of methods since the service began, with open ones and those refused for overload, or their tokens. Other requests are no load."""
    start_s: float
    """The time of the latest starts, from the order to the first answer."""
    capacity: Capacity | None = None
    """The capacity of one replica, at the pessimistic end."""
    unit: str = "requests"
    """What load is counted in."""
    grain: float = 1.0
    """What a call counts: mean square by mean."""


@dataclass(frozen=True, slots=True)
class ServiceDecision:
    """The number of replicas. `reason` is one plain sentence; only its numbers change while the situation stays the same."""

    target: int
    reason: str


class ReplicaPolicy:
    """Decides repeatedly: `decide` is called about once a second. All times are seconds of one monotonic clock."""

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
        """When a load was too much for a replica, and its requests a second."""

    def decide(self, now: float, seen: ServiceSnapshot) -> ServiceDecision:
        """The number of replicas needed now. It rises at once, and falls when the greatest need of a whole hold is lower."""
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
                self.target,
                f"{self.target} stay: {keep} would suffice, but not for {format_seconds(hold)} yet",
            )
        return self._fall(now, seen, load, hold)

    def _change(self, target: int, why: str) -> ServiceDecision:
        before, self.target = self.target, target
        return ServiceDecision(target, f"{before} -> {target}: {why}")

    def _regret(self, now: float, hold: float) -> None:
        """A replica given up a short time ago is needed again: double the hold; otherwise shorten it slowly."""
        if now - self._fell < REGRET_HOLDS * hold:
            self._patience, self._regretted = min(2 * self._patience, MOST_PATIENCE), now
        elif now - self._regretted > FORGET_HOLDS * hold:
            self._patience, self._regretted = max(self._patience / 2, 1.0), now
        self._fell = -math.inf

    def _fall(self, now: float, seen: ServiceSnapshot, load: float, hold: float) -> ServiceDecision:
        greatest = max(count for _, count in self._needs)
        why = f"the load needed no more than {greatest} for {format_seconds(hold)}, {hold / seen.start_s:.3g} times the time of a start"
        if seen.capacity is None:
            # How the backlog grows with the load is unknown: give up one at a time, and not to a load that was too much before.
            greatest = self.target - 1
            limit = self._too_much[0][1] if self._too_much else math.inf
            if load / greatest > SAFE_SHARE * limit:
                return ServiceDecision(
                    self.target,
                    f"{self.target} stay: {_count(limit)} {seen.unit}/s were too many for one before",
                )
            if now - self._fell < max(seen.start_s, LEAST_LOOK_S):
                return ServiceDecision(self.target, f"{self.target} stay: one was given up just now")
        self._fell = now
        return self._change(greatest, why)

    def _load(self, now: float, seen: ServiceSnapshot) -> tuple[float, float]:
        """The arriving requests a second, and one standard deviation of chance."""
        self._seen.append((now, seen))
        while len(self._seen) > 2 and self._is_enough(now, seen, self._seen[1]):
            self._seen.popleft()
        began, first = self._seen[0]
        if now <= began:
            return 0.0, 0.0
        arrived = max(seen.arrived - first.arrived, 0)
        return arrived / (now - began), math.sqrt(arrived * seen.grain) / (now - began)

    def _is_enough(self, now: float, seen: ServiceSnapshot, since: tuple[float, ServiceSnapshot]) -> bool:
        length = now - since[0]
        least = max(LEAST_LOOK_S, LOOK_STARTS * seen.start_s)
        return length >= max(MOST_LOOK_S, least) or (
            length >= least and seen.arrived - since[1].arrived >= ENOUGH * seen.grain
        )

    def _needed(self, seen: ServiceSnapshot, load: float, *, backlog: bool = True) -> tuple[int, str]:
        """The number needed with the backlog, or without it, as it is worked off only once."""
        if seen.capacity is not None:
            wanted, why = self._by_law(seen, load, seen.capacity, backlog=backlog)
        else:
            wanted, why = self._by_in_flight(seen)
        if wanted > self.high:
            why += f"; {wanted} would be needed, but at most {self.high} are allowed"
        elif wanted < self.low:
            why += f"; at least {self.low} are required"
        return min(max(wanted, self.low), self.high), why

    def _by_law(
        self, seen: ServiceSnapshot, load: float, capacity: Capacity, *, backlog: bool
    ) -> tuple[int, str]:
        """The replicas that bear the load, and work off the backlog until another has started."""
        said = f"{_count(load)} {seen.unit}/s, and one replica does {_count(capacity.rate)}/s within the SLO"
        if not capacity.rate:
            return seen.ready, f"{_count(load)} {seen.unit}/s; no number of replicas keeps the SLO"
        bears, rate = load / capacity.rate, capacity.rate
        if capacity.station is not None and bears > 1:
            rate = capacity.station.rate
            shared = shared_replicas(load, capacity.station)
            if shared < bears:
                bears = shared
                said = f"{_count(load)} {seen.unit}/s keep {_count(load / rate)} busy, and {shared} together keep the SLO"
        working = max(seen.ready, 1)
        over = seen.in_flight - working * capacity.in_flight
        if over <= 0 or not backlog:
            return math.ceil(bears - 1e-9), said
        # Until another has started, those on their way start: on average, half of that time.
        after = working * rate, (working + seen.starting) * rate
        gathers = sum((load - each) * seen.start_s / 2 for each in after)
        drains = max(over + gathers, 0.0) / (rate * max(DRAIN_STARTS * seen.start_s, LEAST_LOOK_S))
        return math.ceil(
            bears + drains - 1e-9
        ), f"{said}; {seen.in_flight:.0f} wait or run, {over:.0f} too many"

    def _by_in_flight(self, seen: ServiceSnapshot) -> tuple[int, str]:
        """With unknown capacity: as many replicas as keep the requests in each at the assumed number."""
        recent = [each.in_flight for _, each in self._seen]
        mean = sum(recent) / len(recent)
        wanted = math.ceil(mean / self.assumed - 1e-9)
        most = math.ceil(MOST_GROWTH * max(seen.ready, 1))
        why = f"{_count(mean)} {seen.unit} wait or run, and {self.assumed:g} a replica are assumed to be fine"
        if wanted > most:
            return max(most, self.target), f"{why}; twice those that answer, until more is known"
        return wanted, why

    def _note_strain(self, now: float, seen: ServiceSnapshot, load: float, keep_s: float) -> None:
        if seen.ready and seen.in_flight > seen.ready * self.assumed and load:
            rate = load / seen.ready
            while self._too_much and self._too_much[-1][1] >= rate:
                self._too_much.pop()  # an entry that is older and not lower can never be the least again
            self._too_much.append((now, rate))
        while self._too_much and self._too_much[0][0] < now - keep_s:
            self._too_much.popleft()


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
