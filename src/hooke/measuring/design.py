"""What a study measures, and in which order. Pure: chance comes in as a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hooke.base.errors import UsageError

__all__ = ["PLAIN", "Design", "PlannedMeasurement", "levels_of"]


@dataclass(frozen=True, slots=True)
class PlannedMeasurement:
    """One measurement to take: by `n` workers, of the first `items` only where that is not None."""

    n: int
    items: int | None = None


PLAIN = PlannedMeasurement(0)
"""The turn of the plain calls: they are measured among the others, under the same conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What each round measures: every N of `levels`, or by one N every number of items in `sizes`.

    With `weak`, the work grows with N. Raises UsageError for what measures nothing.
    """

    levels: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    repeats: int = 3
    weak: bool = False
    seed: int = 0

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
                f"workers={list(self.levels)} is one N only, and a law says how throughput changes with N",
                fix="name two at least, better four: workers=[1, 2, 4, 8]",
            )

    @property
    def most(self) -> int:
        """The largest N."""
        return self.levels[-1]

    @property
    def turns(self) -> tuple[PlannedMeasurement, ...]:
        """What each round measures besides the plain calls."""
        if self.sizes:
            return tuple(PlannedMeasurement(self.most, size) for size in self.sizes)
        return tuple(map(PlannedMeasurement, self.levels))

    def rounds(self) -> Iterator[list[PlannedMeasurement]]:
        """Each round holds every turn and PLAIN once, in an order of its own: what drifts with time hits all alike."""
        for number in range(self.repeats):
            yield sorted(
                (PLAIN, *self.turns), key=lambda turn, number=number: _drawn(self.seed, number, turn)
            )

    def share(self, n: int) -> float:
        """Which part of the whole work `n` workers are given: all of it, or what keeps the work of each the same."""
        return n / self.most if self.weak else 1.0

    def _check_sweep_of_sizes(self) -> None:
        if len(self.sizes) < 3:
            raise UsageError(
                f"sizes={list(self.sizes)} cannot show that time grows evenly with size: that takes three",
                fix="name three at least, better four: sizes=[10, 100, 1000]",
            )
        if len(self.levels) > 1 or self.weak:
            raise UsageError(
                "sizes are swept with one number of workers, so that one thing changes at a time",
                fix="name one: workers=[1], and leave weak scaling out",
            )


def levels_of(
    workers: Sequence[int] | int | None, *, cores: int, sizes: Sequence[int] = ()
) -> tuple[int, ...]:
    """The N that `workers` means: those of a list, or 1, 2, 4, ... up to the one number, which is `cores` for None.

    Where sizes are swept, a number is that N alone, and None is 1.
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
    """Refuse anything but whole numbers from 1, one at least."""
    if not numbers or any(
        isinstance(each, bool) or not isinstance(each, int) or each < 1 for each in numbers
    ):
        shown = numbers[0] if name == "repeats" else list(numbers)
        raise UsageError(f"{name}={shown!r} measures nothing", fix=f"whole numbers from 1: {name}={example}")


def _drawn(*what: object) -> bytes:
    """Bytes that look random, the same for the same things."""
    return hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
