"""Chooses the next rate to measure and finds the safe rate: a pure policy over measured levels."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from hooke.loadtest.generator_protocol import REFUSALS, Outcomes, name_of
from hooke.scaling.families import Floats
from hooke.scaling.measurements import Estimate
from hooke.serving.slo import Slo

__all__ = [
    "Ladder",
    "LevelSummary",
    "LevelVerdict",
    "SafeRate",
    "Seen",
    "encoded",
    "inflation",
    "limited_by",
    "needed",
    "next_rate",
    "quantile",
    "safe_rate",
    "share",
    "summary_of",
]


# --- Latencies as an HdrHistogram, which its plotters and other load tools read.

LONGEST_US = 3_600_000_000
DIGITS = 3


def encoded(latency: Floats) -> str:
    """The histogram of `latency` (n,) in seconds. It counts microseconds, to three digits."""
    from hdrh.histogram import HdrHistogram

    made = HdrHistogram(1, LONGEST_US, DIGITS)
    counted, numbers = np.unique(
        np.clip(np.rint(latency * 1e6), 1, LONGEST_US).astype(np.int64), return_counts=True
    )
    for value, number in zip(counted.tolist(), numbers.tolist(), strict=True):
        made.record_value(value, number)
    text: bytes = made.encode()
    return text.decode()


# --- Quantiles and shares of correlated answers, with intervals.

LEVEL = 0.95
BATCHES = 32
"""Number of batches. In a level of some seconds, each is longer than the memory of a queue."""
FEWEST = 8
"""Minimum number of answers in a batch."""


def quantile(values: Floats, percent: float, *, level: float = LEVEL) -> Estimate:
    """The percentile of `values` (n,), which are in order of time. An end of the interval is infinite if there are too few values."""
    ordered = np.sort(values)
    p = percent / 100
    value = float(ordered[min(math.ceil(p * ordered.size), ordered.size) - 1])
    effective = max(values.size / inflation(values <= value), 1.0)
    low, high = _ranks(effective, p, level)
    name = f"p{percent:g}"
    return Estimate(name=name, value=value, interval=(_at(ordered, low), _at(ordered, high)), level=level)


def share(hits: NDArray[np.bool_], *, level: float = LEVEL) -> Estimate:
    """The share of `hits` (n,), in order of time, by Clopper and Pearson with the effective number of draws."""
    effective = hits.size / inflation(hits)
    won = float(hits.mean()) * effective
    tail = (1 - level) / 2
    low = float(betaincinv(won, effective - won + 1, tail)) if won > 0 else 0.0
    high = float(betaincinv(won + 1, effective - won, 1 - tail)) if won < effective else 1.0
    return Estimate(name="share", value=float(hits.mean()), interval=(low, high), level=level)


def inflation(hits: NDArray[np.bool_]) -> float:
    """How many of `hits` (n,), in order of time, are worth one independent draw; at least 1."""
    rate = float(hits.mean())
    count = min(BATCHES, hits.size // FEWEST)
    if count < 2 or not 0 < rate < 1:
        return 1.0
    size = hits.size // count
    means = hits[: size * count].reshape(count, size).mean(axis=1)
    return max(1.0, float(means.var(ddof=1)) * size / (rate * (1 - rate)))


def _ranks(count: float, p: float, level: float) -> tuple[float, float]:
    """Shares of the sample between whose order statistics the quantile lies; -inf and inf outside the sample."""
    tail = (1 - level) / 2
    n = max(round(count), 1)
    chance = bdtr(np.arange(n + 1), n, p)
    # Of n draws fewer than `low` are below the quantile with a probability of at most `tail`, and so for those above.
    low = int(np.searchsorted(chance, tail, side="right"))
    high = int(np.searchsorted(chance, 1 - tail, side="left")) + 1
    return (low / n if low else -math.inf), (high / n if high <= n else math.inf)


def _at(ordered: Floats, part: float) -> float:
    if not math.isfinite(part):
        return 0.0 if part < 0 else math.inf
    return float(ordered[min(max(math.ceil(part * ordered.size), 1), ordered.size) - 1])


# --- The summary of a level: percentiles, failures, whether it meets the SLO, and whether the generator was the limit.

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BUSIEST = 0.9
"""Limit of the generator's CPU, as a share of one core. A busier generator reads answers late and distorts latencies."""
LEAST_LAG_S = 0.001
LAG_SHARE = 0.25
LIMIT_SHARE = 0.1
"""Limits of the generator's lag at p99, as shares of the latency there and of the SLO's limit. A larger lag distorts the result."""


class LevelVerdict(enum.Enum):
    """Whether a level meets the SLO, as far as its answers show."""

    HELD = "held"
    BROKEN = "broken"
    UNCLEAR = "unclear"
    """The interval of the share in time includes the SLO's share."""
    LIMITED = "limited"
    """Unknown: the generator was the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSummary:
    """A level. Times are in seconds; `percentiles` are of the 2xx answers, `kept` of all requests."""

    rate: float
    """Requests due per second."""
    seconds: float
    count: int
    answered: int
    """Number of 2xx answers."""
    throughput: float
    """2xx answers per second."""
    percentiles: tuple[Estimate, ...]
    lag: float
    """The generator's lag at p99."""
    cpu: float
    """The generator's share of one core."""
    refused: dict[int, int]
    failed: dict[str, int]
    """Other failures, by status or fate."""
    kept: Estimate | None = None
    """The share answered with 2xx within the SLO's limit."""
    verdict: LevelVerdict | None = None
    limited: str = ""
    """Why the generator was the limit; empty if it was not."""

    def at(self, percent: float) -> Estimate | None:
        """A percentile; None if nothing was answered, or if it is neither in PERCENTILES nor that of the SLO."""
        return next((each for each in self.percentiles if each.name == f"p{percent:g}"), None)

    @property
    def unknown(self) -> bool:
        """Whether the result is unknown because the generator was the limit. An SLO that held nevertheless did hold."""
        return bool(self.limited) and self.verdict is not LevelVerdict.HELD

    @property
    def unanswered(self) -> int:
        """Number of requests without a 2xx answer."""
        return self.count - self.answered


def summary_of(outcomes: Outcomes, *, seconds: float, cpu: float, slo: Slo | None) -> LevelSummary:
    """The summary of a level with at least one outcome. `cpu` is the generator's share of one core."""
    good = outcomes.answered
    latency = outcomes.latency
    wanted = sorted({*PERCENTILES, *([slo.percent] if slo else [])})
    percentiles = tuple(quantile(latency[good], percent) for percent in wanted) if good.any() else ()
    counts = Counter(outcomes.status[~good].tolist())
    lag = float(np.quantile(outcomes.lag, 0.99))
    ends = max(seconds, float(outcomes.ended[good].max(initial=0.0)))
    kept = None if slo is None else share(good & (latency < slo.limit_s))
    limited = limited_by(outcomes, cpu, slo)
    return LevelSummary(
        rate=len(outcomes) / seconds,
        seconds=seconds,
        count=len(outcomes),
        answered=int(good.sum()),
        throughput=float(good.sum()) / ends,
        percentiles=percentiles,
        lag=lag,
        cpu=cpu,
        refused={status: number for status, number in sorted(counts.items()) if status in REFUSALS},
        failed={
            name_of(status): number for status, number in sorted(counts.items()) if status not in REFUSALS
        },
        kept=kept,
        verdict=None if slo is None or kept is None else _verdict(outcomes, slo, kept, limited),
        limited=limited,
    )


def needed(slo: Slo | None) -> int:
    """The smallest number of requests that can show that an SLO is met, if all are in time (Clopper and Pearson, two-sided 95 %)."""
    if slo is None:
        return 1
    return int(np.ceil(np.log(0.025) / np.log(slo.percent / 100)))


def _verdict(outcomes: Outcomes, slo: Slo, kept: Estimate, limited: str) -> LevelVerdict:
    promised = slo.percent / 100
    low, high = kept.interval
    if low >= promised:
        return LevelVerdict.HELD  # despite the generator's lag
    own = share(outcomes.answered & (outcomes.ended - outcomes.begun < slo.limit_s))
    if limited or (high < promised <= own.value):
        return LevelVerdict.LIMITED
    return LevelVerdict.BROKEN if high < promised else LevelVerdict.UNCLEAR


def limited_by(outcomes: Outcomes, cpu: float, slo: Slo | None = None) -> str:
    """Why the generator was the limit, with this share of one core busy; empty if it was not."""
    lag = float(np.quantile(outcomes.lag, 0.99))
    if cpu > BUSIEST:
        return f"the generator was busy for {cpu:.0%} of the time"
    felt = LAG_SHARE * float(np.quantile(outcomes.latency, 0.99))
    allowed = max(LEAST_LAG_S, felt, LIMIT_SHARE * slo.limit_s if slo else 0.0)
    if lag > allowed:
        return f"the generator itself was {lag * 1e3:.3g} ms late at p99"
    return ""


Seen = tuple[float, LevelVerdict]
"""A measured rate and its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rates grow by `growth` from `first` until the SLO breaks, then the gap is halved until it is within `finest`."""

    first: float
    growth: float = 2.0
    finest: float = 1.1
    """Final ratio of the broken rate to the safe rate; below it, noise would decide."""
    least: float = 1.0
    most: float = 1e6
    downs: int = 5
    """How often the first rate is lowered in search of a safe one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeRate:
    """The highest rate that meets the SLO is between `low`, which surely met it, and `high`, which surely broke it.

    `low` is the rate to rely on; None if no rate met the SLO. `high` is infinite if none surely broke it, and
    `limited` says that the generator was the limit.
    """

    low: float | None
    high: float
    limited: bool


def next_rate(ladder: Ladder, seen: Sequence[Seen]) -> float | None:
    """The next rate to measure, given all earlier ones in order; None if the search is over.

    A break counts only if it happens twice, because something else on the machine may have caused the first. A rate that is
    unclear, before any held, had too few requests: a higher one has more.
    """
    if not seen:
        return ladder.first
    rate, verdict = seen[-1]
    low, high = _bracket(seen)
    looks = Counter(each for each, _ in seen)
    again = verdict is LevelVerdict.BROKEN or (verdict is LevelVerdict.UNCLEAR and low is not None)
    if again and looks[rate] < 2:
        return rate
    if low is None:
        unclear, worse = _unclear_below(seen)
        climbed = sum(each > ladder.first for each in looks)
        above = min(max(unclear, default=math.inf) * ladder.growth, ladder.most)
        if unclear and above not in looks and above < worse and climbed < ladder.downs:
            return above
        if once := [each for each in unclear if looks[each] < 2]:
            return max(once)
        lowered = len({each for each, _ in seen if each < ladder.first})
        below = high / ladder.growth
        return below if below >= ladder.least and lowered < ladder.downs else None
    if math.isinf(high):
        return None if low >= ladder.most else min(low * ladder.growth, ladder.most)
    return None if high / low <= ladder.finest else math.sqrt(low * high)


def safe_rate(seen: Sequence[Seen]) -> SafeRate:
    """The safe rate from all levels."""
    low, _ = _bracket(seen)
    verdicts = _verdicts(seen)
    above = [rate for rate in verdicts if low is None or rate > low]
    broken = min((rate for rate in above if verdicts[rate] is LevelVerdict.BROKEN), default=math.inf)
    limited = any(verdicts[rate] is LevelVerdict.LIMITED and rate < broken for rate in above)
    return SafeRate(low=low, high=broken, limited=limited)


def _unclear_below(seen: Sequence[Seen]) -> tuple[list[float], float]:
    """The unclear rates below the lowest one that did not hold for another reason, and that one."""
    verdicts = _verdicts(seen)
    worse = (LevelVerdict.BROKEN, LevelVerdict.LIMITED)
    end = min((rate for rate, verdict in verdicts.items() if verdict in worse), default=math.inf)
    unclear = [rate for rate, verdict in verdicts.items() if verdict is LevelVerdict.UNCLEAR and rate < end]
    return unclear, end


def _verdicts(seen: Sequence[Seen]) -> dict[float, LevelVerdict]:
    """The last verdict on each rate."""
    return dict(seen)


def _bracket(seen: Sequence[Seen]) -> tuple[float | None, float]:
    """The highest rate that held below all broken ones, and the lowest rate above it that did not hold."""
    verdicts = _verdicts(seen)
    broken = min(
        (rate for rate, verdict in verdicts.items() if verdict is LevelVerdict.BROKEN), default=math.inf
    )
    held = [rate for rate, verdict in verdicts.items() if verdict is LevelVerdict.HELD and rate < broken]
    low = max(held, default=None)
    # A rate that is unclear, for lack of requests, does not contradict a higher rate that surely held.
    others = [
        rate
        for rate, verdict in verdicts.items()
        if verdict is not LevelVerdict.HELD and (low is None or rate > low)
    ]
    return low, min(others, default=math.inf)
