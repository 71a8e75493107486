"""Which version an alias belongs to, when it is to belong to the best."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from hooke.base.errors import HookeError, UsageError
from hooke.models.registry import WANTS, Version

__all__ = ["Aim", "elect", "holder_of", "not_better", "parse_aim", "settling"]

RECENT_S = 60.0
"""How long before a version another may have been registered that is still on its way to the alias."""
MOST_ROUNDS = 50
"""Of moving an alias and looking again: each is one other process that moved it meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A metric, and whether less of it is better."""

    metric: str
    lower: bool = False

    def better(self, new: float, old: float) -> bool:
        """Whether `new` is better. An equal one is not; any number is better than NaN, which stands for none."""
        return math.isnan(old) > math.isnan(new) or (new < old if self.lower else new > old)

    def __str__(self) -> str:
        return f"-{self.metric}" if self.lower else self.metric


def parse_aim(text: str) -> Aim:
    """`auc`: more is better; `-loss`: less is. Raises UsageError."""
    metric = text.removeprefix("-")
    if not metric:
        raise UsageError(
            f"if_better={text!r} names no metric", mend="write 'auc', or '-loss' where less is better"
        )
    return Aim(metric=metric, lower=text.startswith("-"))


def elect(aim: Aim, alias: str, mine: Version, versions: Iterable[Version]) -> Version:
    """Who should have the alias: who has it, unless one of those that want it now is better; of equals the oldest.

    Those are `mine` and what was registered for this alias about the same time. So all who register at once come to the
    same answer, in whatever order they look.
    """
    listed = sorted(versions, key=lambda each: each.number)
    wanting = [each for each in listed if each.number == mine.number or _competes(each, mine, alias)]
    best = holder_of(alias, listed)
    for each in wanting:
        value = each.metrics.get(aim.metric, math.nan)
        if best is None or aim.better(value, best.metrics.get(aim.metric, math.nan)):
            best = each
    assert best is not None
    return best


def settling(aim: Aim, alias: str, mine: Version) -> Generator[Version | None, Sequence[Version], Version]:
    """Bring an alias to the best: yields None to be sent all versions, and a version that is to get the alias.

    Returns who has it. It looks again after each move, since another may have moved it meanwhile: whoever moves it last
    looks last, and then all who want it are registered, so the best has it in the end.
    """
    for _ in range(MOST_ROUNDS):
        best = elect(aim, alias, mine, (yield None))
        if alias in best.aliases:
            return best
        yield best
    raise HookeError(
        f"the alias {alias} of {mine.name} is moved faster than it can be looked at",
        where=f"version {mine.number} is registered",
        mend="let fewer processes register at once",
    )


def holder_of(alias: str, versions: Iterable[Version]) -> Version | None:
    """The version that has the alias now."""
    return next((each for each in versions if alias in each.aliases), None)


def not_better(aim: Aim, mine: float, held: float, holder: Version) -> str:
    """The sentence for it."""
    relation = "equals" if mine == held else "is not better than"
    return f"{aim.metric} {mine:.6g} {relation} {held:.6g} of version {holder.number}"


def _competes(other: Version, mine: Version, alias: str) -> bool:
    return other.tags.get(WANTS) == alias and other.created_at > mine.created_at - RECENT_S
