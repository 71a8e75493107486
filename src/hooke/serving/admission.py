"""What a replica can answer in time: the measured law of its batches, the margin that keeps the SLO, streams by their gaps, and first tokens.

Pure: times come as arguments, all from one clock.
"""

from __future__ import annotations

import math
from enum import IntEnum

from hooke.generation.token_admission import RecentSteps, fit_step, wait_for_first_s
from hooke.generation.token_scheduler import StepWork, TokenRequest, TokenScheduler
from hooke.serving.slo import Slo

__all__ = ["BatchLaw", "SloMargin", "StreamLimit", "TokenPromise", "Urgency"]


class Urgency(IntEnum):
    """The order of what waits for the model."""

    CALL = 0
    """A call of a method."""
    ITEM = 1
    """The next item of a stream: a call waits for at most one of them, and an item not longer than its goal."""
    LOW = 2
    """A call whose client said that it may be shed first."""


FORGET = 0.98
"""A batch's weight in the law after one more batch: some fifty batches determine it."""
OUTLIER = 8.0
"""A batch that took more than so many times what the law allows for counts as that: a pause of the machine is not the model's."""
FEW = 3.0
"""Of so few batches none is an outlier."""


class BatchLaw:
    """The time of a batch, `a * rows + b` with both at least 0, by least squares over the last batches."""

    __slots__ = ("_fixed", "_mean", "_size", "_slope", "_weight", "_x", "_xx", "_xy", "_y")

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._slope: float | None = None
        """None if all batches had one size, up to rounding."""
        self._fixed = self._mean = 0.0
        self._size = 1.0
        """The mean one."""

    def add(self, rows: int, took_s: float) -> None:
        """A batch ended."""
        if self._weight:
            if self._weight > FEW:
                took_s = min(took_s, OUTLIER * max(self._mean, self.seconds(rows)))
            elif took_s * OUTLIER < self._mean * min(
                1.0, rows / self._size
            ):  # the first ones loaded libraries
                self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._weight = self._weight * FORGET + 1.0
        self._x = self._x * FORGET + rows
        self._y = self._y * FORGET + took_s
        self._xx = self._xx * FORGET + rows * rows
        self._xy = self._xy * FORGET + rows * took_s
        self._fit()

    def _fit(self) -> None:
        """Once a batch: requests are many more."""
        self._size, self._mean = self._x / self._weight, self._y / self._weight
        spread = self._xx - self._x * self._size
        if spread <= 1e-6 * self._xx:
            self._slope, self._fixed = None, self._mean
            return
        slope = max(0.0, (self._xy - self._size * self._y) / spread)
        fixed = self._mean - slope * self._size
        self._slope, self._fixed = (slope, fixed) if fixed > 0 else (self._mean / self._size, 0.0)

    @property
    def mean_s(self) -> float:
        """The mean time of a batch."""
        return self._mean

    @property
    def fixed_s(self) -> float:
        """The fixed part. If all batches had one size, the parts cannot be told apart, and it is the mean."""
        return self._fixed

    def seconds(self, rows: float) -> float:
        """The time of a batch of so many rows; 0 before the first one.

        If all batches had one size, a smaller one is taken to be cheaper and a larger one not to be dearer: who is admitted by
        mistake teaches better, and who is refused by mistake teaches nothing.
        """
        if self._slope is None:
            return self._mean * min(1.0, rows / self._size)
        return self._slope * rows + self._fixed

    def backlog_s(self, rows: float, max_batch: int) -> float:
        """The time of so many rows in full batches and a rest."""
        full, rest = divmod(rows, max_batch)
        return full * self.seconds(max_batch) + (self.seconds(rest) if rest else 0.0)


STEP = 0.05
"""Of the SLO's limit: how much one late batch widens the margin."""
WIDEST = 0.9
CALM = 0.5
"""What is left of the margin when the queue was empty: overload is over."""


class SloMargin:
    """The time that is kept free of the SLO's limit, so that of what is admitted the promised share is in time.

    It grows with each late batch and shrinks with each other one, in the proportion of the promise: where `percent` are in time it
    stands still (a quantile by stochastic approximation, Robbins and Monro 1951).
    """

    __slots__ = ("_allowed", "_limit_s", "seconds")

    def __init__(self, limit_s: float = math.inf, percent: float = 99.0) -> None:
        self._limit_s = limit_s
        self._allowed = 1.0 - percent / 100
        self.seconds = 0.0

    def answered(self, late_share: float) -> None:
        """A batch had its results, and this share of its requests had them late."""
        if self._limit_s < math.inf:
            moved = self.seconds + STEP * self._limit_s * (late_share - self._allowed)
            self.seconds = min(max(moved, 0.0), WIDEST * self._limit_s)

    def calm(self) -> None:
        """Nothing waits."""
        self.seconds *= CALM


FIRST_STREAMS = 64
"""Streams at once before any gap was measured."""
WINDOW_GAPS = 32
"""Gaps, and at least WINDOW_S, between two decisions."""
WINDOW_S = 0.1
FEWER, MORE = 0.8, 1.05
LONE = 2.0
"""A goal below so many times the shortest mean gap that was seen is the generator's own affair: fewer streams would not help."""


class StreamLimit:
    """How many streams may be open: as many as keep the gap between two items within the SLO.

    The number doubles while all is well and it is reached, until gaps are too long for the first time; then it falls by a fifth
    whenever they are, and rises by a twentieth whenever they are not. Open streams go on.
    """

    def __init__(self, *, most: int, gap_s: float = math.inf, percent: float = 99.0) -> None:
        """`gap_s` is the SLO's limit, infinity without one: then `most` are admitted."""
        self.open = 0
        self.most = most
        self.gap_s = gap_s
        self._allowed = 1.0 - percent / 100
        self._limit = float(most if gap_s == math.inf else min(FIRST_STREAMS, most))
        self._learning = True
        self._best_s = math.inf
        self._since = -math.inf
        self._gaps = self._late = 0
        self._sum_s = 0.0
        self._reached = False

    @property
    def limit(self) -> int:
        """Streams that may be open."""
        return int(self._limit)

    def begin(self) -> bool:
        """Admit a stream, or not."""
        self._reached = self._reached or self.open + 1 >= self.limit
        if self.open >= self.limit:
            return False
        self.open += 1
        return True

    def end(self) -> None:
        """An admitted stream ended."""
        self.open -= 1

    def gap(self, now: float, seconds: float) -> None:
        """An item came so long after the one before."""
        if self.gap_s == math.inf:
            return
        self._gaps += 1
        self._sum_s += seconds
        self._late += seconds > max(self.gap_s, LONE * self._best_s if self._best_s < math.inf else 0.0)
        if self._gaps >= max(WINDOW_GAPS, self.open) and now - self._since >= WINDOW_S:
            self._decide()
            self._since = now

    def _decide(self) -> None:
        self._best_s = min(self._best_s, self._sum_s / self._gaps)
        if self._late > self._allowed * self._gaps and self._late > 1:
            self._learning = False
            self._limit = max(1.0, FEWER * min(self._limit, self.open))
        elif self._reached:
            self._limit = min(self._limit * (2.0 if self._learning else MORE) + 1.0, float(self.most))
        self._gaps = self._late = 0
        self._sum_s = 0.0
        self._reached = self.open >= self.limit


class TokenPromise:
    """What a language model can answer in time: first tokens before clients' deadlines and within the SLO, the others as fast as it says."""

    def __init__(self, slo: Slo | None) -> None:
        self._slo = slo
        self._limit_s = slo.limit_s if slo is not None else math.inf
        self._margin = SloMargin(self._limit_s, slo.percent if slo is not None else 99.0)
        self._times = RecentSteps()

    def late_s(self, request: TokenRequest, scheduler: TokenScheduler, now: float) -> float:
        """How much later than it may the first token of a request would come that is not offered yet; 0 if it would be in time.

        What nothing goes before is always in time: it teaches how long steps take.
        """
        if not self._times.known or not (scheduler.running or scheduler.waiting):
            return 0.0
        most = min(request.deadline, request.arrived + self._limit_s - self._margin.seconds) - now
        return max(wait_for_first_s(request, scheduler, self._times) - most, 0.0) if most < math.inf else 0.0

    def stepped(self, work: StepWork, took_s: float, scheduler: TokenScheduler) -> None:
        """A step was computed; the next one may have another size."""
        found = self._times.add(work, took_s)
        if found and self._slo is not None and self._slo.each_s is not None:
            fit_step(scheduler, self._times, self._slo.each_s)

    def first(self, took_s: float, scheduler: TokenScheduler) -> None:
        """A request had its first token so long after it came."""
        self._margin.answered(float(took_s > self._limit_s))
        if not scheduler.waiting:
            self._margin.calm()

    def broken(self, arrived: float, first: float | None, last: float, tokens: int) -> bool | None:
        """Whether an answer of so many tokens, the first and last ones at these times, broke the SLO; None without one."""
        if self._slo is None:
            return None
        if first is None:
            return not self._slo.kept(last - arrived)
        each_s = (last - first) / (tokens - 1) if tokens > 1 else math.nan
        return not self._slo.kept(first - arrived, each_s)
