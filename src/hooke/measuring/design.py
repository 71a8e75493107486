"""The design of a study: what it measures, in which order, and when it ends. Pure: the order is drawn from a seed."""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hooke.base.errors import BeyondTheData, NotEnoughData, UsageError
from hooke.journal.events import Measured, PlainMeasured
from hooke.scaling import Law, Measurements, cost, fit
from hooke.scaling.families import Floats
from hooke.scaling.family_fit import Fitted, Quantity
from hooke.scaling.law import FAR

__all__ = [
    "LEAST_S",
    "MOST_PLAIN",
    "PLAIN",
    "USUAL_REPEATS",
    "Design",
    "PlannedMeasurement",
    "Question",
    "StudyProgress",
    "Taken",
    "half_width",
    "is_answered",
    "knee_up_to",
    "levels_of",
    "next_turn",
    "question_of",
    "taken_in",
]


@dataclass(frozen=True, slots=True)
class PlannedMeasurement:
    """One measurement to take: with `n` workers, on the first `items` if that is not None."""

    n: int
    items: int | None = None


USUAL_REPEATS = 3
MOST_PLAIN = 10.0
"""Unless repeats are asked for, a study takes USUAL_REPEATS measurements for each N and for the plain calls, on average, at most, and
no longer than so many plain calls of the work."""

PLAIN = PlannedMeasurement(0)
"""The measurement of the plain calls, which are measured among the others, under the same conditions."""


WITHIN = {"knee": 0.25, "cost": 0.25}
"""Answer -> the half-width at which it counts as known, as a share, unless another is asked for;"""
WITHIN_TIME = 0.1
"""of a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a study is to answer: `knee`, `cost` (the COST), or a number N as text, for the time with N workers.

    It is answered when half the interval of the answer is at most `within`, as a share of it. Raises UsageError for anything else.
    """

    answer: str = "knee"
    within: float = WITHIN["knee"]

    def __post_init__(self) -> None:
        if self.answer not in WITHIN and not (self.answer.isdecimal() and int(self.answer)):
            raise UsageError(
                f"a study cannot answer {self.answer!r}",
                fix="ask for knee, for cost, or for the time with N workers, by its number such as 8",
            )
        if not 0 < self.within < math.inf:
            raise UsageError(f"within={self.within!r} is not valid", fix="give a share above 0, such as 0.1")

    @property
    def n(self) -> int | None:
        """The N whose time is asked for; None if another answer is."""
        return int(self.answer) if self.answer.isdecimal() else None


def question_of(answer: str | int | None, within: float | None) -> Question | None:
    """The question that these mean, with WITHIN or WITHIN_TIME unless it is given; None if neither is. Raises UsageError."""
    if answer is None and within is None:
        return None
    about = "knee" if answer is None else str(answer)
    return Question(answer=about, within=WITHIN.get(about, WITHIN_TIME) if within is None else within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What each round measures: every N of `levels`, or, with one N, every number of items in `sizes`.

    With `weak`, the work grows with N. `most_plain` is the budget, in plain calls of the work: then `next_turn` decides what is
    measured after the first round, by `question` if there is one. None means all `repeats`. Raises UsageError for a design
    that measures nothing.
    """

    levels: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    repeats: int = USUAL_REPEATS
    weak: bool = False
    seed: int = 0
    most_plain: float | None = None
    question: Question | None = None
    other_plain: bool = False
    """Whether the plain calls do the work in another way: then the budget is counted in times of `alone`, if that is longer."""

    def __post_init__(self) -> None:
        _check_whole("workers", self.levels, "[1, 2, 4]")
        if self.sizes:
            _check_whole("sizes", self.sizes, "[10, 100, 1000]")
        _check_whole("repeats", (self.repeats,), "3")
        for name in ("levels", "sizes"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        if self.sizes:
            self._check_sweep_of_sizes()
        elif len(self.levels) < 2:
            raise UsageError(
                f"workers={list(self.levels)} is only one N, but a scaling law needs several",
                fix="give at least two, better four: workers=[1, 2, 4, 8]",
            )
        asked = self.question.n if self.question is not None else None
        if asked is not None and asked > FAR * self.most:
            raise UsageError(
                f"N up to {self.most} cannot tell the time with {asked} workers",
                why=f"nothing is predicted beyond {FAR:g} times the largest N",
                fix=f"ask for at most {int(FAR * self.most)}, or measure with more workers",
            )

    @property
    def alone(self) -> PlannedMeasurement:
        """The measurement that does all of the work as the plain calls do, on the fewest workers: with `sizes` of the largest size."""
        return self.turns[-1] if self.sizes else self.turns[0]

    @property
    def most(self) -> int:
        """The largest N."""
        return self.levels[-1]

    @property
    def turns(self) -> tuple[PlannedMeasurement, ...]:
        """The measurements of each round, without the plain calls."""
        if self.sizes:
            return tuple(PlannedMeasurement(self.most, size) for size in self.sizes)
        return tuple(map(PlannedMeasurement, self.levels))

    def rounds(self) -> Iterator[list[PlannedMeasurement]]:
        """The rounds. Each has every measurement and PLAIN once, in its own order, so that drift over time affects all equally."""
        return map(self.round, range(self.repeats))

    def round(self, number: int) -> list[PlannedMeasurement]:
        """The round of this number. With a budget the first begins with what it is counted in."""
        ahead: list[PlannedMeasurement] = []
        if self.most_plain is not None and number == 0:
            ahead = [PLAIN, self.alone] if self.other_plain else [PLAIN]
        return sorted(
            (PLAIN, *self.turns), key=lambda turn: (turn not in ahead, _drawn(self.seed, number, turn))
        )

    def share(self, n: int) -> float:
        """The share of the work for `n` workers: all of it, or with `weak` a share proportional to N."""
        return n / self.most if self.weak else 1.0

    def _check_sweep_of_sizes(self) -> None:
        if len(self.sizes) < 3:
            raise UsageError(
                f"sizes={list(self.sizes)} cannot show how time grows with size; that takes three",
                fix="give at least three, better four: sizes=[10, 100, 1000]",
            )
        if len(self.levels) > 1 or self.weak:
            raise UsageError(
                "sizes need exactly one number of workers, so that only one thing varies",
                fix="give one: workers=[1], without weak scaling",
            )


def levels_of(
    workers: Sequence[int] | int | None, *, cores: int, sizes: Sequence[int] = ()
) -> tuple[int, ...]:
    """The N that `workers` means: a list, or 1, 2, 4, ... up to a number; None means `cores`.

    With sizes, a number means only this N, and None means 1.
    """
    if isinstance(workers, Sequence):
        return tuple(workers)
    if sizes:
        return (1 if workers is None else workers,)
    most = max(cores, 2) if workers is None else workers
    doubled = [1]
    while doubled[-1] < most:
        doubled.append(min(2 * doubled[-1], most))
    return tuple(doubled)


def _check_whole(name: str, numbers: Sequence[int], example: str) -> None:
    """Raise UsageError unless there is at least one number and all are whole numbers from 1."""
    if not numbers or any(
        isinstance(each, bool) or not isinstance(each, int) or each < 1 for each in numbers
    ):
        shown = numbers[0] if name == "repeats" else list(numbers)
        raise UsageError(
            f"{name}={shown!r} is not valid", fix=f"give whole numbers from 1, such as {name}={example}"
        )


def _drawn(*what: object) -> bytes:
    """Pseudo-random bytes, equal for equal arguments."""
    return hashlib.blake2b(repr(what).encode(), digest_size=8).digest()


# --- What is measured next, in a study with a budget.

LEAST_S = 1.0
"""A study whose measurements take no longer than this may exceed its budget, because starting its workers takes as long."""
FEWEST_AGAIN = 3
"""So many measurements are repeats, because without them the noise is unknown; for them, N are left out of the first round."""
FEWEST = 8
"""A study does not end by its answer before it has so many measurements at all N: fewer do not show drift."""
MOST_AT_ONE = 2
"""No N is measured more often than this times the repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A measurement that was taken: `work` took `seconds`, until the time `at`."""

    turn: PlannedMeasurement
    seconds: float
    work: float = 1.0
    at: float = math.nan
    repeat: int = 0
    """Its round, or how often the same was measured before."""


def taken_in(
    plain: Sequence[PlainMeasured], measured: Sequence[Measured], *, sized: bool = False
) -> list[Taken]:
    """What was measured, in the order of time. `sized`: the number of items varies."""
    turns = [
        *((PLAIN, each) for each in plain),
        *((PlannedMeasurement(each.n, int(each.work) if sized else None), each) for each in measured),
    ]
    return [
        Taken(turn=turn, seconds=each.seconds, work=each.work, at=each.at or math.nan, repeat=each.repeat)
        for turn, each in sorted(turns, key=lambda of: of[1].at)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """What was `taken`, in the order of time, and what other seconds were spent (`warm_s`: the warm-up)."""

    design: Design
    taken: Sequence[Taken]
    warm_s: float = 0.0

    def count(self, turn: PlannedMeasurement) -> int:
        """How often this was measured."""
        return sum(each.turn == turn for each in self.taken)

    @property
    def repeated(self) -> int:
        """How many measurements are repeats of others."""
        return len(self.taken) - len({each.turn for each in self.taken})

    @property
    def plain_s(self) -> float:
        """The mean of the plain calls; nan before the first."""
        return self._mean(PLAIN) or math.nan

    @property
    def left_s(self) -> float:
        """What is left of the budget, in seconds; infinite before what it is counted in was measured."""
        most, one = self.design.most_plain, self._mean(self.design.alone)
        other = self.design.other_plain
        if most is None or not self.count(PLAIN) or (other and one is None):
            return math.inf
        unit = max(self.plain_s, one or 0.0) if other else self.plain_s
        return max(most * unit, LEAST_S) - self.warm_s - sum(each.seconds for each in self.taken)

    def expected_s(self, turn: PlannedMeasurement) -> float:
        """How long this takes: the mean of its measurements, or else by those beside it; before them, as long as the plain calls.

        Between two it follows the line in logarithms; beyond the largest N it is not shorter than there.
        """
        found = self._mean(turn)
        if found is not None:
            return found
        known = {
            _amount(each.turn): self._mean(each.turn) or 0.0 for each in self.taken if each.turn != PLAIN
        }
        if self.count(PLAIN) and not (self.design.sizes or self.design.weak or self.design.other_plain):
            known.setdefault(1, self.plain_s)
        if not known:
            return self.plain_s if self.count(PLAIN) else 0.0
        at = sorted(known)
        logs = np.interp(math.log(max(_amount(turn), 1)), np.log(at), np.log([known[each] for each in at]))
        return math.exp(float(logs))

    @property
    def start_s(self) -> float:
        """What a measurement costs besides its seconds: the median time between one and the next."""
        gaps = [
            later.at - earlier.at - later.seconds
            for earlier, later in itertools.pairwise(self.taken)
            if later.at - earlier.at >= later.seconds
        ]
        return statistics.median(gaps) if gaps else 0.0

    def affords(self, turn: PlannedMeasurement) -> bool:
        """Whether the rest of the budget is enough for it."""
        return self.expected_s(turn) <= self.left_s

    def first(self) -> list[PlannedMeasurement]:
        """What is left of the first round. If it and FEWEST_AGAIN repeats exceed the budget, N between others are left out.

        That N is left out first whose neighbours are closest, as a ratio; never the smallest or the largest.
        """
        left = [turn for turn in self.design.round(0) if not self.count(turn)]
        kept = [turn for turn in (PLAIN, *self.design.turns) if turn in left or self.count(turn)]
        again = max(FEWEST_AGAIN - self.repeated, 0)
        while left:
            costs = [self.expected_s(turn) for turn in left]
            if sum(costs) + again * statistics.median(map(self.expected_s, kept)) <= self.left_s:
                break
            between = [
                (_amount(after) / _amount(before), turn)
                for before, turn, after in zip(kept[1:], kept[2:], kept[3:], strict=False)
                if turn in left
            ]
            if not between:
                break
            turn = min(between, key=lambda each: each[0])[1]
            left.remove(turn)
            kept.remove(turn)
        return left

    def again(self) -> list[PlannedMeasurement]:
        """What may be measured after the first round, the most seldom measured first, in the order of its round.

        Not what was measured last, if anything else fits into the budget, so that N does not change with time. What the first round
        left out comes only after FEWEST_AGAIN repeats. Without any repeat, that which is expected to take the shortest, even beyond
        the budget.
        """
        design = self.design
        if len(self.taken) >= design.repeats * (1 + len(design.turns)):
            return []
        least = 0 if self.repeated >= FEWEST_AGAIN else 1
        counts = {turn: self.count(turn) for turn in (PLAIN, *design.turns)}
        may = [
            turn
            for turn, count in counts.items()
            if least <= count < MOST_AT_ONE * design.repeats and self.affords(turn)
        ]
        if not may and not self.repeated:
            return [min(counts, key=self.expected_s)]
        may.sort(key=lambda turn: (counts[turn], design.round(counts[turn]).index(turn)))
        return [turn for turn in may if turn != self.taken[-1].turn] or may

    def measurements(self) -> Measurements:
        """The measurements with workers."""
        own = [each for each in self.taken if each.turn != PLAIN]
        return Measurements(
            [each.turn.n for each in own],
            throughput=[each.work / each.seconds for each in own],
            work=[each.work for each in own],
            at=[each.at for each in own],
        )

    def _mean(self, turn: PlannedMeasurement) -> float | None:
        own = [each.seconds for each in self.taken if each.turn == turn]
        return sum(own) / len(own) if own else None


def next_turn(progress: StudyProgress) -> PlannedMeasurement | None:
    """What to measure next; None if the question is answered, or the budget or the number of measurements is used up.

    First everything once, as far as the budget allows. Then, by the law of what was taken, that N whose measurement is expected to
    reduce the variance of the answer most, per second that it takes. Without a question or a law, or where all laws that
    are not ruled out agree on the answer, what was measured most seldom.
    """
    design, taken = progress.design, progress.taken
    left = progress.first()
    if left:
        return left[0]
    may = progress.again()
    if not may or design.question is None:
        return may[0] if may else None
    if progress.count(PLAIN) < 2 and progress.repeated >= FEWEST_AGAIN - 1 and PLAIN in may:
        return PLAIN
    try:
        law = fit(progress.measurements())
    except NotEnoughData:
        return may[0]
    enough = sum(each.turn != PLAIN for each in taken) >= FEWEST and progress.repeated >= FEWEST_AGAIN
    if enough and is_answered(design.question, law, progress):
        return None
    worth = _worth(design.question, law, progress, may)
    return max(may, key=worth.__getitem__)  # the first of equals


def is_answered(question: Question, law: Law, progress: StudyProgress) -> bool:
    """Whether half the interval of the answer is at most `within`."""
    return half_width(question, law, progress) <= question.within


def half_width(question: Question, law: Law, progress: StudyProgress) -> float:
    """Half the interval of the answer, as a share of it; infinite where the law does not fit or tells none.

    A knee beyond the largest N counts as there, and a COST beyond FARTHEST_COST times that.
    """
    if law.lack_of_fit.found:
        return math.inf
    try:
        low, high = _interval(question, law, progress)
    except NotEnoughData:
        return math.inf
    return 0.0 if low == high else math.expm1(math.log(high / low) / 2)


def _interval(question: Question, law: Law, progress: StudyProgress) -> tuple[float, float]:
    if question.n is not None:
        return law.predict(question.n).interval
    most = float(law.measurements.levels[-1])
    if question.answer == "knee":
        low, high = law.ends(partial(knee_up_to, most))
        return math.exp(low), math.exp(high)
    plain = [each for each in progress.taken if each.turn == PLAIN]
    try:
        low, high = cost(law, [each.seconds for each in plain], work=plain[0].work).interval
    except BeyondTheData:
        seconds = math.exp(statistics.fmean(math.log(each.seconds) for each in plain))
        low, high = law.reaching(plain[0].work / seconds).interval
    return min(low, FARTHEST_COST * most), min(high, FARTHEST_COST * most)


FARTHEST_COST = 2.0
"""A COST beyond so many times the largest N counts as there."""


def knee_up_to(most: float, fitted: Fitted) -> Quantity:
    """The logarithm of the smallest N that reaches the knee's share (95 %) of the highest throughput at N up to `most`.

    If the highest is at `most` or before, this is the knee. Beyond, a study of N up to `most` cannot tell, and need not.
    """
    family, at = fitted.family, np.array([most])

    def answer(shape: Floats, rate: Floats) -> Floats:
        del rate  # it does not matter
        best = np.where(family.peak(shape) <= most, family.ceiling(shape), family.curve(at, shape)[..., 0])
        return np.log(np.clip(family.reach(family.knee_share * best, shape), 1.0, most))

    return answer


def _worth(
    question: Question, law: Law, progress: StudyProgress, turns: Sequence[PlannedMeasurement]
) -> dict[PlannedMeasurement, float]:
    """By how much each is expected to reduce the variance of the answer's logarithm, per second that it costs."""
    most = float(law.measurements.levels[-1])
    plain_x = next(each.work for each in progress.taken if each.turn == PLAIN) / progress.plain_s

    def answer(fitted: Fitted, plain: float = plain_x) -> Quantity:
        if question.n is not None:
            at = np.array([float(question.n)])
            return lambda shape, rate: np.log(rate * fitted.family.curve(at, shape)[..., 0])
        if question.answer == "knee":
            return knee_up_to(most, fitted)
        return lambda shape, rate: np.log(
            np.clip(fitted.family.reach(plain / rate, shape), 1.0, FARTHEST_COST * most)
        )

    own = [turn for turn in turns if turn != PLAIN]
    found = law.reductions(np.array([float(turn.n) for turn in own]), answer)
    worth = dict(zip(own, map(float, found), strict=True))
    if PLAIN in turns:
        worth[PLAIN] = _worth_of_plain(law, answer, plain_x, progress) if question.answer == "cost" else 0.0
    return {turn: each / (progress.expected_s(turn) + progress.start_s) for turn, each in worth.items()}


def _worth_of_plain(
    law: Law, answer: Callable[[Fitted, float], Quantity], plain: float, progress: StudyProgress
) -> float:
    """The same of the plain calls: what their noise adds to the COST, now and with one more, by the best law."""
    noise = law.fitted.quantile * float(
        law.fitted.relative_scatter(np.array([1.0]))[0]
    )  # as far as the laws' region
    count = progress.count(PLAIN)
    shape, rate = law.fitted.shape[None, :], np.array([law.fitted.rate])
    ends: list[Floats] = [answer(law.fitted, plain * math.exp(side * noise))(shape, rate) for side in (-1, 1)]
    slope = float((ends[1] - ends[0])[0]) / 2  # by the logarithm of the plain calls' speed, times the noise
    return slope**2 * (1 / count - 1 / (count + 1))


def _amount(turn: PlannedMeasurement) -> int:
    """What varies: the number of items, or else N."""
    return turn.n if turn.items is None else turn.items
