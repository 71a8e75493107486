"""What a level tells: its percentiles, what failed, whether it keeps a promise, and whether the generator was the limit."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass

import numpy as np

from hooke.load.outcomes import REFUSALS, Outcomes, name_of
from hooke.load.quantiles import quantile, share
from hooke.scaling.estimate import Estimate
from hooke.serving.slo import Slo

__all__ = ["PERCENTILES", "Summary", "Verdict", "needed", "summary_of"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BUSIEST = 0.9
"""Of one core: a generator that is busier reads its answers late, and their times are its own."""
LEAST_LAG_S = 0.001
LAG_SHARE = 0.25
LIMIT_SHARE = 0.1
"""The generator's lag at p99 may be this much of the latency there, or of the promise's limit: more, and the picture is its own."""


class Verdict(enum.Enum):
    """Whether a level keeps the promise, as far as its answers can tell."""

    HELD = "held"
    BROKEN = "broken"
    UNCLEAR = "unclear"
    """The interval of the share in time holds the promised one."""
    LIMITED = "limited"
    """The generator could not tell: it was itself the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A level. Times are seconds; `percentiles` are of the 2xx answers, `kept` of all that was due within the limit."""

    rate: float
    """Requests that were due a second."""
    seconds: float
    count: int
    answered: int
    """With 2xx."""
    throughput: float
    """2xx answers a second."""
    percentiles: tuple[Estimate, ...]
    lag: float
    """That of the generator, at p99."""
    cpu: float
    """The generator's share of one core."""
    refused: dict[int, int]
    failed: dict[str, int]
    """What failed otherwise, by status or fate."""
    kept: Estimate | None = None
    """The share that was answered with 2xx within the limit of the promise."""
    verdict: Verdict | None = None
    limited: str = ""
    """Why the generator was the limit; empty where it was not."""

    def at(self, percent: float) -> Estimate | None:
        """That percentile; None where nothing was answered, or it is none of PERCENTILES and not that of the promise."""
        return next((each for each in self.percentiles if each.name == f"p{percent:g}"), None)

    @property
    def unknown(self) -> bool:
        """Whether it gives no figure, the generator having been the limit; a promise that held in spite of it did hold."""
        return bool(self.limited) and self.verdict is not Verdict.HELD

    @property
    def unanswered(self) -> int:
        """What had no 2xx answer."""
        return self.count - self.answered


def summary_of(outcomes: Outcomes, *, seconds: float, cpu: float, slo: Slo | None) -> Summary:
    """The summary of a level's outcomes, of which there is at least one. `cpu` is the generator's share of one core."""
    good = outcomes.answered
    latency = outcomes.latency
    wanted = sorted({*PERCENTILES, *([slo.percent] if slo else [])})
    percentiles = tuple(quantile(latency[good], percent) for percent in wanted) if good.any() else ()
    counts = Counter(outcomes.status[~good].tolist())
    lag = float(np.quantile(outcomes.lag, 0.99))
    ends = max(seconds, float(outcomes.ended[good].max(initial=0.0)))
    kept = None if slo is None else share(good & (latency < slo.limit_s))
    limited = _limited(outcomes, lag, cpu, slo)
    return Summary(
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
    """The fewest requests that could show a promise to be kept: all of them in time (Clopper and Pearson, two-sided 95 %)."""
    if slo is None:
        return 1
    return int(np.ceil(np.log(0.025) / np.log(slo.percent / 100)))


def _verdict(outcomes: Outcomes, slo: Slo, kept: Estimate, limited: str) -> Verdict:
    promised = slo.percent / 100
    low, high = kept.interval
    if low >= promised:
        return Verdict.HELD  # with the generator's lag in it
    own = share(outcomes.answered & (outcomes.ended - outcomes.begun < slo.limit_s))
    if limited or (high < promised <= own.value):
        return Verdict.LIMITED
    return Verdict.BROKEN if high < promised else Verdict.UNCLEAR


def _limited(outcomes: Outcomes, lag: float, cpu: float, slo: Slo | None) -> str:
    if cpu > BUSIEST:
        return f"the generator was busy for {cpu:.0%} of the time"
    felt = LAG_SHARE * float(np.quantile(outcomes.latency, 0.99))
    allowed = max(LEAST_LAG_S, felt, LIMIT_SHARE * slo.limit_s if slo else 0.0)
    if lag > allowed:
        return f"the generator itself was {lag * 1e3:.3g} ms late at p99"
    return ""
