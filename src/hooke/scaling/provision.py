"""The rate that a service sustains in each configuration, from measured safe rates, with its price and a recommendation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hooke.base.errors import BeyondTheData, NotEnoughData
from hooke.base.formats import format_seconds
from hooke.scaling.call_times import LEVEL
from hooke.scaling.catalog import InstanceType
from hooke.scaling.law import Law, fit
from hooke.scaling.measurements import Estimate, Measurements
from hooke.scaling.time_and_price import LOCAL

__all__ = [
    "IDLE_SHARE",
    "Bearing",
    "LatencyGoal",
    "MeasuredLoad",
    "Missing",
    "Offer",
    "ProvisionChoice",
    "ServiceSetup",
    "choose",
    "offers_on_front",
]

LEAST_LEVELS = 3
"""Two points cannot identify a curve."""
IDLE_SHARE = 0.5
"""If at most this share of the cores was busy, the service waits, and replicas beyond the cores are valid measurements."""


@dataclass(frozen=True, slots=True)
class LatencyGoal:
    """A percentage of requests within a number of seconds."""

    percent: float
    limit_s: float

    def __str__(self) -> str:
        return f"p{self.percent:g} < {format_seconds(self.limit_s)}"

    def covers(self, other: LatencyGoal) -> bool:
        """Whether meeting this goal implies meeting the other."""
        return self.percent >= other.percent and self.limit_s <= other.limit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoad:
    """A load test: with these replicas and threads the SLO surely held at `rate` and surely broke at `breaks_at`.

    `cores` were busy and `memory` bytes resident at that rate, over all replicas; 0 means unknown.
    """

    replicas: int
    threads: int
    promise: LatencyGoal
    rate: float
    breaks_at: float = math.inf
    cores: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSetup:
    """A configuration: `replicas` in total, each with `threads`, on instances of a type."""

    machine: InstanceType
    instances: int = 1
    replicas: int = 1
    threads: int = 1

    @property
    def is_local(self) -> bool:
        """Whether this is the local machine, which costs nothing."""
        return self.machine.catalog == LOCAL

    @property
    def usd_per_hour(self) -> float | None:
        """The price of all instances; None if not listed."""
        return self._of_all(self.machine.usd_per_hour)

    @property
    def spot_usd_per_hour(self) -> float | None:
        """The spot price of all instances; None if not listed."""
        return self._of_all(self.machine.spot_usd_per_hour)

    @property
    def reserved_usd_per_hour(self) -> float | None:
        """The reserved price of all instances; None if not listed."""
        return self._of_all(self.machine.reserved_usd_per_hour)

    def _of_all(self, price: float | None) -> float | None:
        return None if price is None else self.instances * price

    def __str__(self) -> str:
        where = "this machine" if self.is_local else f"{self.instances} x {self.machine.id}"
        each = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{where}, {self.replicas} replica{'s' * (self.replicas != 1)} of {each}"


@dataclass(frozen=True, slots=True)
class Missing:
    """A load test to run: `replicas` with `threads`, optionally with another SLO."""

    replicas: int
    threads: int
    promise: LatencyGoal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A setup with the rate that it sustains within the SLO, or in `refused` why that is unknown.

    `bears` is in requests per second. Count on its low end; its high end is infinite if no rate is known to break the SLO.
    """

    setup: ServiceSetup
    bears: Estimate | None = None
    refused: str = ""
    missing: Missing | None = None

    def grants(self, rate: float) -> bool:
        """Whether it reliably sustains the rate."""
        return self.bears is not None and self.bears.interval[0] >= rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionChoice:
    """The recommended offer or None, the reason, and the load test to run next."""

    offer: Offer | None
    reason: str
    missing: Missing | None = None


class Bearing:
    """The rates that setups sustain within an SLO. `cores` are those of the measured machine."""

    def __init__(self, loads: Iterable[MeasuredLoad], promise: LatencyGoal, *, cores: int) -> None:
        self._loads = tuple(loads)
        self._promise = promise
        self._cores = cores
        self._laws: dict[tuple[MeasuredLoad, ...], Law | NotEnoughData] = {}

    def offer(self, setup: ServiceSetup) -> Offer:
        """The rate that a setup sustains."""
        if setup.machine.speed is None:
            return Offer(setup=setup, refused="speed unknown")
        if not setup.replicas:
            return Offer(setup=setup, refused="one instance is too small for a replica")
        slowest, fastest = setup.machine.speed
        # A machine of half the speed keeps 50 ms if this one keeps 25 ms.
        here = LatencyGoal(self._promise.percent, self._promise.limit_s * slowest)
        loads = [load for load in self._loads if load.promise.covers(here)]
        if not loads:
            told = ", ".join(sorted({str(load.promise) for load in self._loads})) or "nothing"
            return Offer(
                setup=setup,
                refused=f"{here} was not measured; measured: {told}",
                missing=Missing(setup.replicas, setup.threads, here),
            )
        if not setup.is_local:
            loads = [load for load in loads if self._has_room(load)]
        known = self._of(loads, setup)
        if isinstance(known, Offer):
            return known
        exact = all(load.promise == here for load in loads) and slowest == fastest
        low, value, high = known
        ends = low * slowest, value * math.sqrt(slowest * fastest), high * fastest if exact else math.inf
        return Offer(
            setup=setup,
            bears=Estimate(name="requests/s", value=ends[1], interval=(ends[0], ends[2]), level=LEVEL),
        )

    def _of(self, loads: Sequence[MeasuredLoad], setup: ServiceSetup) -> tuple[float, float, float] | Offer:
        """(low, value, high) on the measured machine, or the refusal."""
        same = [load for load in loads if (load.replicas, load.threads) == (setup.replicas, setup.threads)]
        if same:
            held = max(load.rate for load in same)
            broke = min([load.breaks_at for load in same if load.breaks_at > held], default=math.inf)
            return held, math.sqrt(held * broke) if math.isfinite(broke) else held, broke
        of_threads = _best(load for load in loads if load.threads == setup.threads)
        alone = _best(load for load in loads if load.replicas == 1)
        if setup.replicas == 1 and not of_threads:
            return self._by_law(alone, lambda load: load.threads, setup, at=setup.threads, what="threads")
        return self._by_law(
            of_threads,
            lambda load: load.replicas,
            setup,
            at=setup.replicas,
            what=f"replicas of {setup.threads} thread{'s' * (setup.threads != 1)}",
        )

    def _by_law(
        self,
        loads: Sequence[MeasuredLoad],
        n_of: Callable[[MeasuredLoad], int],
        setup: ServiceSetup,
        *,
        at: int,
        what: str,
    ) -> tuple[float, float, float] | Offer:
        levels = sorted({n_of(load) for load in loads})
        if len(levels) < LEAST_LEVELS:
            seen = f"only N = {', '.join(map(str, levels))}" if levels else "no N"
            wanted = next(n for n in (1, 2, 4, 8) if n not in levels)
            return self._refused(setup, f"{seen} was measured for {what}; a law needs three N", wanted, what)
        law = self._law(loads, n_of)
        if isinstance(law, NotEnoughData):
            return self._refused(setup, law.what, round(law.measure_at or 2 * levels[-1]), what)
        try:
            knee = law.determined_knee().interval[0]
        except BeyondTheData:
            knee = math.inf  # predict() checks the reach
        if at > knee:
            return Offer(
                setup=setup,
                refused=f"past the knee, which may lie at {knee:.3g} {what}; more may not sustain more",
            )
        try:
            told = law.predict(at)
        except BeyondTheData as refusal:
            return self._refused(setup, refusal.what, round(refusal.measure_at or at), what)
        return max(told.interval[0], 0.0), told.value, told.interval[1]

    def _refused(self, setup: ServiceSetup, why: str, n: int, what: str) -> Offer:
        missing = Missing(1, n) if what == "threads" else Missing(n, setup.threads)
        return Offer(setup=setup, refused=why, missing=missing)

    def _law(self, loads: Sequence[MeasuredLoad], n_of: Callable[[MeasuredLoad], int]) -> Law | NotEnoughData:
        key = tuple(loads)
        if key not in self._laws:
            try:
                self._laws[key] = fit(
                    Measurements([n_of(load) for load in loads], throughput=[load.rate for load in loads])
                )
            except NotEnoughData as refusal:
                self._laws[key] = refusal
        return self._laws[key]

    def _has_room(self, load: MeasuredLoad) -> bool:
        """Whether the measured machine had enough cores; beyond, the test measured the machine, not the service."""
        waits = 0 < load.cores <= IDLE_SHARE * self._cores
        return load.replicas * load.threads <= self._cores or waits


def _best(loads: Iterable[MeasuredLoad]) -> list[MeasuredLoad]:
    """The load with the highest rate for each (replicas, threads)."""
    best: dict[tuple[int, int], MeasuredLoad] = {}
    for load in loads:
        key = load.replicas, load.threads
        if key not in best or load.rate > best[key].rate:
            best[key] = load
    return [best[key] for key in sorted(best)]


def offers_on_front(offers: Sequence[Offer]) -> list[Offer]:
    """The offers that no other beats in both price and reliably sustained rate, the cheapest first."""
    priced = [
        (
            offer.setup.usd_per_hour,
            -offer.bears.interval[0],
            offer.setup.replicas * offer.setup.threads,
            offer,
        )
        for offer in offers
        if offer.bears is not None and offer.setup.usd_per_hour is not None
    ]
    kept: list[Offer] = []
    most = 0.0
    for _, bears, _, offer in sorted(priced, key=lambda each: each[:3]):
        if -bears > most:
            kept.append(offer)
            most = -bears
    return kept


def choose(offers: Sequence[Offer], rate: float) -> ProvisionChoice:
    """The cheapest offer that reliably sustains the rate; on this machine, if possible, with the fewest threads."""
    known = [offer for offer in offers if offer.bears is not None and offer.setup.usd_per_hour is not None]
    lacking = [offer for offer in offers if offer.missing is not None]
    missing = min(lacking, key=_smallness).missing if lacking else None
    if not known:
        reasons = "; ".join(sorted({offer.refused for offer in offers if offer.refused}))
        return ProvisionChoice(
            offer=None, reason=f"not enough data: {reasons or 'no configuration'}", missing=missing
        )
    granted = [offer for offer in known if offer.grants(rate)]
    if not granted:
        best = max(known, key=lambda offer: offer.bears.interval[0] if offer.bears else 0.0)
        reason = f"no configuration reliably sustains {rate:,.4g}/s: the best prediction is {_what(best)}"
        return ProvisionChoice(offer=None, reason=reason, missing=missing)
    local = [offer for offer in granted if offer.setup.is_local]
    if local:
        offer = min(local, key=_smallness)
        return ProvisionChoice(offer=offer, reason=f"this machine suffices: {_what(offer)}", missing=missing)
    offer = min(granted, key=lambda each: (each.setup.usd_per_hour or 0.0, -_surely(each), *_smallness(each)))
    usd = offer.setup.usd_per_hour or 0.0
    return ProvisionChoice(
        offer=offer,
        reason=f"the cheapest that reliably sustains {rate:,.4g}/s: {_what(offer)} for ${usd:,.2f}/h",
        missing=missing,
    )


def _surely(offer: Offer) -> float:
    return offer.bears.interval[0] if offer.bears is not None else 0.0


def _smallness(offer: Offer) -> tuple[bool, int, int]:
    setup = offer.setup
    return not setup.is_local, setup.replicas * setup.threads, setup.replicas


def _what(offer: Offer) -> str:
    return f"{offer.setup}, which sustains at least {_surely(offer):,.4g}/s"
