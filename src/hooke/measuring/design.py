"""The design of a study: what it measures, and in which order. Pure: the order is drawn from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hooke.base.errors import UsageError

__all__ = ["MOST_PLAIN", "PLAIN", "USUAL_REPEATS", "Design", "PlannedMeasurement", "levels_of"]


@dataclass(frozen=True, slots=True)
class PlannedMeasurement:
    """One measurement to take: with `n` workers, on the first `items` if that is not None."""

    n: int
    items: int | None = None


USUAL_REPEATS = 3
MOST_PLAIN = 10.0
"""Unless repeats are asked for, there are USUAL_REPEATS, or fewer if they would take longer than so many plain calls of the work,"""
FEWEST_ROUNDS = 2
"""but so many rounds, because one does not show the noise."""

PLAIN = PlannedMeasurement(0)
"""The measurement of the plain calls, which are measured among the others, under the same conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What each round measures: every N of `levels`, or, with one N, every number of items in `sizes`.

    With `weak`, the work grows with N. `most_plain` is the budget, in plain calls of the work: after FEWEST_ROUNDS, no round
    begins that would exceed it; None means all `repeats`. Raises UsageError for a design that measures nothing.
    """

    levels: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    repeats: int = USUAL_REPEATS
    weak: bool = False
    seed: int = 0
    most_plain: float | None = None

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
        for number in range(self.repeats):
            yield sorted(
                (PLAIN, *self.turns), key=lambda turn, number=number: _drawn(self.seed, number, turn)
            )

    def affords(self, done: int, *, spent_s: float, plain_s: float) -> bool:
        """Whether another round begins after `done`, on which `spent_s` went, where the plain calls take `plain_s`."""
        if done < FEWEST_ROUNDS or self.most_plain is None:
            return done < self.repeats
        return done < self.repeats and spent_s * (done + 1) / done <= self.most_plain * plain_s

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
