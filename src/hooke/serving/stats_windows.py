"""A replica's batches and answers, summed over windows of time: small enough for a journal, and enough to fit the model's law.

Pure: times come as arguments, all from one clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple, Self

from hooke.journal.service_events import BatchSize, BatchWindow, MethodBatches, StepSums

__all__ = [
    "BINS",
    "SHORTEST_WINDOW_S",
    "STEP_BINS",
    "StatsWindow",
    "StepPairs",
    "StepTotals",
    "latency_bin",
    "merge_counts",
    "merge_steps",
    "merge_windows",
    "next_window_end_s",
    "nonzero_counts",
    "quantile_s",
    "size_bin",
    "step_bin",
    "window_length_s",
]


# --- Answer times, counted in logarithmic bins: small enough for a journal, and they add up.

LEAST_BIN_S, OCTAVES, EACH = 2.0**-10, 16, 8
"""From a millisecond, an event loop's resolution, to a minute; eight bins each time it doubles."""
BIN_BOUNDS_S = tuple(LEAST_BIN_S * 2.0 ** (at / EACH) for at in range(OCTAVES * EACH + 1))
BINS = len(BIN_BOUNDS_S) + 1
"""The first bin is for a millisecond at most, the last for more than a minute."""


def latency_bin(seconds: float) -> int:
    """The bin of an answer time."""
    return bisect_left(BIN_BOUNDS_S, seconds)


def nonzero_counts(counts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The non-zero counts (BINS,) as (bin, count)."""
    return tuple((at, count) for at, count in enumerate(counts) if count)


def merge_counts(several: Iterable[Iterable[tuple[int, int]]]) -> tuple[tuple[int, int], ...]:
    """The sums of several counts."""
    sums: dict[int, int] = {}
    for counts in several:
        for at, count in counts:
            sums[at] = sums.get(at, 0) + count
    return tuple(sorted(sums.items()))


def quantile_s(
    counts: Mapping[int, float], percent: float, bounds: Sequence[float] = BIN_BOUNDS_S
) -> float | None:
    """The seconds within which this percentage of the counted requests was answered; None without any.

    `counts` are by bin; bin k ends at `bounds[k]`, and of the last one, above all bounds, the highest bound stands for all.
    """
    whole = sum(counts.values())
    if not whole:
        return None
    left = percent / 100 * whole
    for at in sorted(counts):
        if counts[at] and left <= counts[at] * (1 + 1e-12):
            return _within(at, left / counts[at], bounds)
        left -= counts[at]
    return _within(max(counts), 1.0, bounds)


def _within(at: int, share: float, bounds: Sequence[float]) -> float:
    """A point in a bin, whose requests count as evenly spread."""
    low = bounds[at - 1] if at else 0.0
    high = bounds[min(at, len(bounds) - 1)]
    return low + share * (high - low)


SHORTEST_WINDOW_S = 5.0
"""The first windows: what a crash loses, and the resolution of a spike afterwards."""
SHORTEST = 0.1
"""A first window, or one with an early timer, that would be so short a part is merged into the next."""
MOST_S = 300.0
SHARE = 720
"""A window is at most this part of the time before it, so that days take little more room than an hour does."""


def window_length_s(age_s: float) -> float:
    """The length of a window of a service that has been up for `age_s` seconds.

    5 s in the first hour, then a 720th of its age, up to five minutes: some 700 in the first hour, 3,000 in the two days
    after it, and 288 in each further day.
    """
    return min(max(age_s / SHARE, SHORTEST_WINDOW_S), MOST_S)


def next_window_end_s(wall: float) -> float:
    """Seconds until the next window ends, by the wall clock `wall`: at multiples of SHORTEST_WINDOW_S.

    So the windows of all replicas end together, and their sums add up without a remainder.
    """
    left = SHORTEST_WINDOW_S - wall % SHORTEST_WINDOW_S
    return left if left > SHORTEST * SHORTEST_WINDOW_S else left + SHORTEST_WINDOW_S


def size_bin(rows: int) -> int:
    """The bin of a batch size: each up to 16 by itself, then in steps of at most an eighth."""
    if rows < 16:
        return rows
    octave = rows.bit_length() - 4
    return (octave << 3) + (rows >> octave)


PRODUCTS = tuple(
    (at, one, other) for at, (one, other) in enumerate(combinations_with_replacement(range(6), 2))
)
"""The place of each product in the sums of `StepSums`, and which two of its six values it is of."""
ANSWERS_ONLY = tuple(each for each in PRODUCTS if not {1, 4} & {*each[1:]})
"""Those that a step without prompts, as most are, adds to: the others are 0."""
STEP_BINS = 8


def step_bin(prompt: int, requests: int) -> int:
    """The bin of a step: by its tokens of prompts and its requests, each four times as many as in the bin before, so that noise is about alike in a bin."""
    return STEP_BINS * ((prompt.bit_length() + 1) // 2) + min((requests.bit_length() - 1) // 2, STEP_BINS - 1)


PAIRS, MERGED_PAIRS = 8, 64
"""Pairs of steps that a window keeps at least, if it has so many steps; and merged windows at most."""


class StepPairs:
    """Some of a window's steps, each with the one after it: every k-th, so that there are at least `PAIRS` and at most twice as many."""

    __slots__ = ("_every", "_kept", "_open", "_steps")

    def __init__(self) -> None:
        self._every = 1
        self._steps = 0
        self._open = False
        self._kept: list[tuple[float, ...]] = []

    def add(self, step: tuple[float, ...]) -> None:
        """The next step."""
        if self._open:
            self._kept[-1] += step
        self._open = self._steps % self._every == 0
        self._steps += 1
        if self._open:
            if len(self._kept) == 2 * PAIRS:
                del self._kept[1::2]
                self._every *= 2
            self._kept.append(step)

    def whole(self) -> tuple[tuple[float, ...], ...]:
        """The pairs so far; one whose second step is not there yet is left out."""
        return tuple(self._kept[:-1] if self._open else self._kept)


def _thinned(pairs: Sequence[tuple[float, ...]], most: int) -> tuple[tuple[float, ...], ...]:
    """At most so many, evenly."""
    return tuple(pairs) if len(pairs) <= most else tuple(pairs[at * len(pairs) // most] for at in range(most))


def merge_steps(several: Iterable[Iterable[StepSums]]) -> tuple[StepSums, ...]:
    """The sums of several windows' steps."""
    found: dict[int, tuple[float, ...]] = {}
    for steps in several:
        for each in steps:
            known = found.get(each.size)
            found[each.size] = (
                each.products
                if known is None
                else tuple(one + other for one, other in zip(known, each.products, strict=True))
            )
    return tuple(StepSums(size, found[size]) for size in sorted(found))


class StepTotals(NamedTuple):
    """Steps of a language model, with the sums of what was in them."""

    steps: float = 0.0
    prompt: float = 0.0
    """Tokens of prompts that they computed."""
    requests: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, steps: Iterable[StepSums]) -> Self:
        """Of these steps together."""
        sums = [each.products for each in steps]
        return cls(*(sum(each[at] for each in sums) for at in (0, 1, 2, 5)))


class StatsWindow:
    """Sums of one replica's batches since the last window. `limit_s` is the SLO's limit, infinity without one.

    Not thread-safe: it belongs to the event loop.
    """

    __slots__ = (
        "_answer_tokens",
        "_answers",
        "_failed",
        "_gone",
        "_gone_over",
        "_latencies",
        "_pairs",
        "_requests",
        "_since",
        "_sizes",
        "_steps",
        "_unbatched",
        "_unbatched_s",
        "arrived",
        "late",
        "limit_s",
        "most_waiting",
        "over_slo",
        "raised",
        "refused",
        "token_limits",
    )  # fmt: skip

    def __init__(self, now: float, *, limit_s: float = math.inf) -> None:
        self.limit_s = limit_s
        self.token_limits: tuple[int, ...] = ()
        """Of a language model, as in `BatchWindow`."""
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = now
        self._sizes: dict[str, dict[int, list[float]]] = {}
        self._steps: dict[int, list[float]] = {}
        self._pairs = StepPairs()
        self._answers = self._answer_tokens = 0
        self._failed: dict[str, list[float]] = {}
        self._requests = self._unbatched = 0
        self._unbatched_s = 0.0
        self._latencies = [0] * BINS
        self._gone = self._gone_over = 0
        self.arrived = 0
        self.over_slo = 0
        self.raised = 0
        self.refused = 0
        self.late = 0
        self.most_waiting = 0

    def add(self, method: str, rows: int, took: float, answered: int, active: int) -> None:
        """A batch gave its results after `took` seconds, to `answered` requests.

        `active` is the number of requests that waited or ran when it ended, its own included.
        """
        try:
            sums = self._sizes[method][rows]
        except KeyError:
            sums = self._sizes.setdefault(method, {}).setdefault(rows, [0, 0.0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += took
        sums[2] += took * took
        sums[3] += took * active
        self._requests += answered

    def step(self, work: tuple[int, int, int, int], took: float, begun: int = 0, given: int = 0) -> None:
        """A language model computed a step of this work, as in `StepSums`, and its texts within `took` seconds.

        So many answers began with it, and so many tokens of answers came of it.
        """
        self._answers += begun
        self._answer_tokens += given
        values = (1.0, *work, took)
        at = step_bin(*work[:2])
        sums = self._steps.get(at)
        if sums is None:
            sums = self._steps[at] = [0.0] * len(PRODUCTS)
        for place, one, other in PRODUCTS if work[0] or work[3] else ANSWERS_ONLY:
            sums[place] += values[one] * values[other]
        self._pairs.add((*work, took))

    def unbatched(self, took: float, *, over_slo: bool | None = None) -> None:
        """A call outside batches, of an `async def` or a language model, gave its result after `took` seconds; `raised` counts failed ones.

        `over_slo` says whether it broke the SLO, where that is not by `took`.
        """
        self._unbatched += 1
        self._unbatched_s += took
        self.answered(took, over_slo=over_slo)

    def answered(self, took: float, *, over_slo: bool | None = None) -> None:
        """A request had its result `took` seconds after its arrival; counted with `add` or `unbatched`."""
        self._latencies[latency_bin(took)] += 1
        self.over_slo += took > self.limit_s if over_slo is None else over_slo

    def full(self, *, passed_on: bool) -> None:
        """A request that was counted as arrived is refused for lack of room. If it is passed on, the other replica counts it."""
        self.arrived -= passed_on
        self.refused += not passed_on

    def gone(self, after: float, *, over_slo: bool | None = None) -> None:
        """A client left after so many seconds without an answer; `over_slo` as in `unbatched`."""
        self._gone += 1
        self._gone_over += after > self.limit_s if over_slo is None else over_slo

    def failure(self, method: str, took: float, active: int, *, blamed: bool) -> None:
        """A batch raised after `took` seconds; `blamed` if it was a single request, and the service's fault."""
        failed = self._failed.setdefault(method, [0, 0.0, 0, 0.0])
        failed[0] += 1
        failed[1] += took
        failed[2] += blamed
        failed[3] += took * active

    def latencies(self) -> tuple[tuple[int, int], ...]:
        """The answer times of this window so far, as in `BatchWindow`. Any thread may call this."""
        return nonzero_counts(self._latencies)

    def take(self, now: float) -> BatchWindow:
        """End the window and begin the next one."""
        sums = [each for sizes in self._sizes.values() for each in sizes.values()]
        failed = list(self._failed.values())
        made = BatchWindow(
            seconds=max(now - self._since, 0.0),
            arrived=self.arrived,
            methods=tuple(self._method(name) for name in sorted({*self._sizes, *self._failed})),
            requests=self._requests + self._unbatched,
            failed=self.raised + int(sum(each[2] for each in failed)),
            refused=self.refused,
            late=self.late,
            over_slo=self.over_slo,
            gone=self._gone,
            gone_over_slo=self._gone_over,
            latencies=nonzero_counts(self._latencies),
            busy_s=sum(each[1] for each in sums) + sum(each[1] for each in failed),
            request_s=sum(each[3] for each in sums) + sum(each[3] for each in failed) + self._unbatched_s,
            most_waiting=self.most_waiting,
            answers=self._answers,
            answer_tokens=self._answer_tokens,
            token_limits=self.token_limits,
            step_pairs=self._pairs.whole(),
            steps=tuple(StepSums(at, tuple(self._steps[at])) for at in sorted(self._steps)),
        )
        self._begin(now)
        return made

    def _method(self, name: str) -> MethodBatches:
        failed = self._failed.get(name, (0, 0.0))
        exact = self._sizes.get(name, {})
        sizes = (
            BatchSize(int(each[0]), int(rows * each[0]), each[1], each[2]) for rows, each in exact.items()
        )
        return MethodBatches(method=name, sizes=_binned(sizes), failed=int(failed[0]), failed_s=failed[1])


def merge_windows(
    windows: Iterable[BatchWindow], *, replica: str = "", side_by_side: bool = False
) -> BatchWindow:
    """Merge windows: of one replica one after another, or of several replicas `side_by_side`."""
    several = list(windows)
    lengths = [each.seconds for each in several]
    names = sorted({method.method for each in several for method in each.methods})
    return BatchWindow(
        at=max((each.at for each in several), default=0.0),
        seconds=max(lengths, default=0.0) if side_by_side else sum(lengths),
        replica=replica,
        methods=tuple(_together(name, several) for name in names),
        arrived=sum(each.arrived for each in several),
        requests=sum(each.requests for each in several),
        failed=sum(each.failed for each in several),
        refused=sum(each.refused for each in several),
        late=sum(each.late for each in several),
        over_slo=sum(each.over_slo for each in several),
        gone=sum(each.gone for each in several),
        gone_over_slo=sum(each.gone_over_slo for each in several),
        latencies=merge_counts(each.latencies for each in several),
        busy_s=sum(each.busy_s for each in several),
        request_s=sum(each.request_s for each in several),
        most_waiting=(sum if side_by_side else max)([0, *(each.most_waiting for each in several)]),
        steps=merge_steps(each.steps for each in several),
        step_pairs=_thinned([pair for each in several for pair in each.step_pairs], MERGED_PAIRS),
        answers=sum(each.answers for each in several),
        answer_tokens=sum(each.answer_tokens for each in several),
        token_limits=next((each.token_limits for each in several if each.token_limits), ()),
    )


def _together(name: str, windows: Iterable[BatchWindow]) -> MethodBatches:
    parts = [method for each in windows for method in each.methods if method.method == name]
    return MethodBatches(
        method=name,
        sizes=_binned(size for part in parts for size in part.sizes),
        failed=sum(part.failed for part in parts),
        failed_s=sum(part.failed_s for part in parts),
    )


def _binned(sizes: Iterable[BatchSize]) -> tuple[BatchSize, ...]:
    """Merge sizes of one bin, in ascending order."""
    bins: dict[int, list[BatchSize]] = {}
    for size in sizes:
        bins.setdefault(size_bin(size.rows // size.batches), []).append(size)
    return tuple(
        BatchSize(
            sum(size.batches for size in bins[at]),
            sum(size.rows for size in bins[at]),
            sum(size.seconds for size in bins[at]),
            sum(size.squares for size in bins[at]),
        )
        for at in sorted(bins)
    )
