"""What a replica counts of its requests: whole numbers and sums, on the hot path, for whoever wants to write them out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["BOUNDS_S", "GONE", "Meter", "Refusals", "quantile_s", "size_bucket"]

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of answers by their seconds."""
GONE = 499
"""Stands for a status where the caller went before there was one; proxies write the same."""

Refusals = dict[str, int]
"""How often something was refused, by the reason."""


class Meter:
    """Counts the answers of one route."""

    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        """By BOUNDS_S, each not counted in the next; the last is for those above all bounds."""
        self.seconds = 0.0
        """Of all answers together."""

    def done(self, status: int, seconds: float) -> None:
        """An answer of this status began or ended after so many seconds."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds


def size_bucket(rows: int) -> int:
    """The bucket of a batch of so many rows: bucket k holds those of at most 2**k."""
    return (rows - 1).bit_length()


def quantile_s(buckets: Sequence[int], part: float) -> float | None:
    """Within so many seconds this part of the answers came, evenly spread within a bucket, as Prometheus takes them.

    None where there are none. Of those above all bounds no more is known than that: it is the highest bound then.
    """
    rank, before, low = part * sum(buckets), 0, 0.0
    if not rank:
        return None
    for bound, count in zip(BOUNDS_S, buckets, strict=False):
        if before + count >= rank:
            return low + (bound - low) * (rank - before) / count
        before, low = before + count, bound
    return low
