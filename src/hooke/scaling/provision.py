"""What a service bears in each configuration, from safe rates that were measured; what that costs, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hooke.base.errors import BeyondTheData, NotEnoughData
from hooke.base.formats import format_seconds
from hooke.scaling.call_times import LEVEL
from hooke.scaling.catalog import InstanceType
from hooke.scaling.fitting import fit
from hooke.scaling.law import Law
from hooke.scaling.measurements import Estimate, Measurements
from hooke.scaling.planning import LOCAL

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
"""Through two points goes a line, and a curve that is about to bend."""
IDLE_SHARE = 0.5
"""Of the cores: where no more were busy, replicas beyond them tell of the service, which waits, and not of the machine."""


@dataclass(frozen=True, slots=True)
class LatencyGoal:
    """So many percent of requests within so many seconds."""

    percent: float
    limit_s: float

    def __str__(self) -> str:
        return f"p{self.percent:g} < {format_seconds(self.limit_s)}"

    def covers(self, other: LatencyGoal) -> bool:
        """Whether who keeps this keeps the other one, too."""
        return self.percent >= other.percent and self.limit_s <= other.limit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoad:
    """What was measured: with so many replicas of so many threads the promise surely held at `rate`, and surely broke at `breaks_at`.

    `cores` were busy at that rate, and `memory` bytes resident, of all replicas together; 0 is: not known.
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
    """A configuration: `replicas` in all, of so many threads each, on instances of a type."""

    machine: InstanceType
    instances: int = 1
    replicas: int = 1
    threads: int = 1

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, which costs nothing."""
        return self.machine.catalog == LOCAL

    @property
    def usd_per_hour(self) -> float | None:
        """The price of all its instances; None where it is not listed."""
        price = self.machine.usd_per_hour
        return None if price is None else self.instances * price

    def __str__(self) -> str:
        where = "this machine" if self.is_local else f"{self.instances} x {self.machine.id}"
        each = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{where}, {self.replicas} replica{'s' * (self.replicas != 1)} of {each}"


@dataclass(frozen=True, slots=True)
class Missing:
    """What to measure: the safe rate of `replicas` of `threads`; with another promise where one is named."""

    replicas: int
    threads: int
    promise: LatencyGoal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A setup with the rate that it bears within the promise; where nothing is known of that, `refused` says why.

    `bears` is requests a second. Its low end is to be counted on; its high end may be infinite: nothing is known to break it.
    """

    setup: ServiceSetup
    bears: Estimate | None = None
    refused: str = ""
    missing: Missing | None = None

    def grants(self, rate: float) -> bool:
        """Whether it surely bears that rate."""
        return self.bears is not None and self.bears.interval[0] >= rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionChoice:
    """The offer to take, None where none can be named, why, and what to measure for more."""

    offer: Offer | None
    reason: str
    missing: Missing | None = None


class Bearing:
    """What setups bear within a promise. `cores` is how many the machine has that was measured."""

    def __init__(self, loads: Iterable[MeasuredLoad], promise: LatencyGoal, *, cores: int) -> None:
        self._loads = tuple(loads)
        self._promise = promise
        self._cores = cores
        self._laws: dict[tuple[MeasuredLoad, ...], Law | NotEnoughData] = {}

    def offer(self, setup: ServiceSetup) -> Offer:
        """What is known of a setup."""
        if setup.machine.speed is None:
            return Offer(setup=setup, refused="speed not known")
        if not setup.replicas:
            return Offer(setup=setup, refused="one instance is too small for a replica")
        slowest, fastest = setup.machine.speed
        # On a machine of half the speed a promise of 50 ms is kept by who keeps 25 ms here.
        here = LatencyGoal(self._promise.percent, self._promise.limit_s * slowest)
        loads = [load for load in self._loads if load.promise.covers(here)]
        if not loads:
            told = ", ".join(sorted({str(load.promise) for load in self._loads})) or "nothing"
            return Offer(
                setup=setup,
                refused=f"{here} was not measured, but {told}",
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
        """(low, value, high) on the machine that was measured, or the refusal."""
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
            return self._refused(setup, f"{seen} was measured of {what}; three N make a law", wanted, what)
        law = self._law(loads, n_of)
        if isinstance(law, NotEnoughData):
            return self._refused(setup, law.what, round(law.measure_at or 2 * levels[-1]), what)
        try:
            knee = law.determined_knee().interval[0]
        except BeyondTheData:
            knee = math.inf  # the reach of the law is the limit then
        if at > knee:
            return Offer(
                setup=setup,
                refused=f"past the knee, which may be at {knee:.3g} {what}: more need not bear more",
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
        """Whether the machine that was measured had cores enough: beyond, it was the machine that was measured."""
        waits = 0 < load.cores <= IDLE_SHARE * self._cores
        return load.replicas * load.threads <= self._cores or waits


def _best(loads: Iterable[MeasuredLoad]) -> list[MeasuredLoad]:
    """The highest rate for each (replicas, threads): of several promises that do, the laxest."""
    best: dict[tuple[int, int], MeasuredLoad] = {}
    for load in loads:
        key = load.replicas, load.threads
        if key not in best or load.rate > best[key].rate:
            best[key] = load
    return [best[key] for key in sorted(best)]


def offers_on_front(offers: Sequence[Offer]) -> list[Offer]:
    """Those that no other beats in what they surely bear without costing more an hour; the cheapest first."""
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
    """The cheapest offer that surely bears the rate; this machine, where it does, with the fewest threads in all."""
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
        reason = f"none surely bears {rate:,.4g}/s: the most that can be predicted is {_what(best)}"
        return ProvisionChoice(offer=None, reason=reason, missing=missing)
    local = [offer for offer in granted if offer.setup.is_local]
    if local:
        offer = min(local, key=_smallness)
        return ProvisionChoice(
            offer=offer, reason=f"you need no other machine: {_what(offer)}", missing=missing
        )
    offer = min(granted, key=lambda each: (each.setup.usd_per_hour or 0.0, -_surely(each), *_smallness(each)))
    usd = offer.setup.usd_per_hour or 0.0
    return ProvisionChoice(
        offer=offer,
        reason=f"the cheapest that surely bears {rate:,.4g}/s: {_what(offer)} for ${usd:,.2f}/h",
        missing=missing,
    )


def _surely(offer: Offer) -> float:
    return offer.bears.interval[0] if offer.bears is not None else 0.0


def _smallness(offer: Offer) -> tuple[bool, int, int]:
    setup = offer.setup
    return not setup.is_local, setup.replicas * setup.threads, setup.replicas


def _what(offer: Offer) -> str:
    return f"{offer.setup}, which bears {_surely(offer):,.4g}/s at least"
