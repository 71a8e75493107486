"""The choices of a generator: from a seed, or given, so that a failure can be replayed and made smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TypeVar

__all__ = ["Choices", "shrink"]

T = TypeVar("T")


class Choices:
    """Small numbers, in the order in which they are drawn. 0 is the simplest choice; after the given ones all are 0."""

    def __init__(self, seed: int | None = None, given: Sequence[int] = ()) -> None:
        self._random = Random(seed) if seed is not None else None
        self._given = given
        self.taken: list[int] = []

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        at = len(self.taken)
        if self._random is not None:
            number = self._random.randrange(count)
        else:
            number = min(self._given[at], count - 1) if at < len(self._given) else 0
        self.taken.append(number)
        return number

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, the first of which is the simplest."""
        return options[self.below(len(options))]

    def rarely(self, one_in: int) -> bool:
        """Whether something happens that does so once in `one_in` times."""
        return self.below(one_in) == one_in - 1


def shrink(taken: Sequence[int], fails: Callable[[Sequence[int]], bool], *, most: int = 400) -> list[int]:
    """Fewer and smaller choices with which it still fails, after at most `most` trials."""
    best, left = list(taken), most

    def better(trial: Sequence[int]) -> bool:
        nonlocal best, left
        if left <= 0 or (len(trial), list(trial)) >= (len(best), best):
            return False
        left -= 1
        if fails(trial):
            best = list(trial)
            return True
        return False

    improved = True
    while improved and left > 0:
        improved = any([_without_parts(lambda: best, better), _smaller(lambda: best, better)])
    return best


def _without_parts(best: Callable[[], list[int]], better: Callable[[Sequence[int]], bool]) -> bool:
    found = False
    for size in (64, 32, 16, 8, 4, 2, 1):
        at = len(best()) - size
        while at >= 0:
            now = best()
            found |= better(now[:at] + now[at + size :])
            at -= size
    return found


def _smaller(best: Callable[[], list[int]], better: Callable[[Sequence[int]], bool]) -> bool:
    found = False
    for at in range(len(best())):
        for value in _lower(best(), at):
            if at < len(best()) and better([*best()[:at], value, *best()[at + 1 :]]):
                found = True
                break
    return found


def _lower(now: Sequence[int], at: int) -> Iterator[int]:
    if at < len(now) and now[at]:
        yield from dict.fromkeys((0, now[at] // 2, now[at] - 1))
