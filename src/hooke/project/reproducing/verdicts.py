"""What became of each task and each output, and from where on results differ. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hooke.project.reproducing.values import CLOSE, DIFFERENT, EQUAL, Likeness

__all__ = ["MISSING", "Pair", "Verdict", "begins", "pairs", "verdict"]

MISSING = "missing"
"""One of the two has no result: it was evicted, or the task is not in both runs."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a task's results, or an output, compare: the number of items of each kind, and the first that is not equal."""

    name: str
    node: int = 0
    equal: int = 0
    close: int = 0
    different: int = 0
    missing: int = 0
    first: str = ""
    """Of the worst kind: which item, and how it differs."""
    begins: bool = False
    """Whether results differ from here on: all that it was given is equal."""

    @property
    def kind(self) -> str:
        """The worst kind of any item."""
        if self.different:
            return DIFFERENT
        if self.missing:
            return MISSING
        return CLOSE if self.close else EQUAL

    @property
    def items(self) -> int:
        """All of them."""
        return self.equal + self.close + self.different + self.missing


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The graph nodes of one task in two runs; None where one has it not."""

    task: str
    was: int | None
    now: int | None


def verdict(
    name: str, likenesses: Iterable[tuple[str, Likeness]], *, node: int = 0, missing: int = 0
) -> Verdict:
    """The verdict on items, each named as it is to be shown (`[3]`, or empty for a call's result)."""
    counts = {EQUAL: 0, CLOSE: 0, DIFFERENT: 0}
    first: dict[str, str] = {}
    for item, likeness in likenesses:
        counts[likeness.kind] += 1
        if likeness.kind != EQUAL:
            first.setdefault(likeness.kind, f"{name}{item}: {likeness}")
    return Verdict(
        name=name,
        node=node,
        equal=counts[EQUAL],
        close=counts[CLOSE],
        different=counts[DIFFERENT],
        missing=missing,
        first=first.get(DIFFERENT) or first.get(CLOSE, ""),
    )


def pairs(was: Mapping[int, str], now: Mapping[int, str]) -> list[Pair]:
    """Nodes (number -> task) of two graphs side by side: the n-th of a task with the n-th, in the order of then."""
    waiting: dict[str, list[int]] = {}
    for node, task in now.items():
        waiting.setdefault(task, []).append(node)
    found = [
        Pair(task=task, was=node, now=waiting[task].pop(0) if waiting.get(task) else None)
        for node, task in was.items()
    ]
    left = [Pair(task=task, was=None, now=node) for task, nodes in waiting.items() for node in nodes]
    return found + left


def begins(verdicts: Sequence[Verdict], parents: Mapping[int, Sequence[int]]) -> list[Verdict]:
    """The same, those marked that differ (or are close) though all that they were given is bitwise equal."""
    kinds = {each.node: each.kind for each in verdicts}
    return [
        msgspec.structs.replace(
            each,
            begins=each.kind in (CLOSE, DIFFERENT)
            and all(kinds.get(parent, EQUAL) == EQUAL for parent in parents.get(each.node, ())),
        )
        for each in verdicts
    ]
