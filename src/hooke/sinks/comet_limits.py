"""Comet's rate limits, and how to stay below them. Pure: the clock is an argument.

As documented (Comet's page "Limits and performance", November 2026): 12,000 values of metrics a minute, 10,000 parameters,
8,000 of everything else, and 15,000 values a metric in an experiment, beyond which Comet samples. Archives have none of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["METRICS", "NOTES", "Bucket", "allowance", "thinned"]

MOST_VALUES = 15_000
"""Values of a metric in one experiment."""
IN_FULL = 12_000
"""This many values of a metric are sent unchanged; then three per batch, which leaves room for 1,000 batches."""
ENVELOPE = 3
"""Minimum, maximum and last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A token bucket: `per_s` tokens per second, up to `most`. `level` is the number of tokens at time `at`."""

    per_s: float
    most: float
    level: float
    at: float = 0.0

    def take(self, count: int, now: float) -> tuple[Bucket, float]:
        """Take `count` tokens. Returns the new bucket and the seconds to wait before sending. The level may become negative."""
        level = min(self.most, self.level + max(0.0, now - self.at) * self.per_s) - count
        left = Bucket(per_s=self.per_s, most=self.most, level=level, at=max(now, self.at))
        return left, max(0.0, -level / self.per_s)


METRICS = Bucket(per_s=150.0, most=2_000.0, level=2_000.0)
"""At most 11,000 values in any minute: 150 per second plus what was saved up."""
NOTES = Bucket(per_s=100.0, most=1_000.0, level=1_000.0)
"""At most 7,000 other entries in any minute, below the smallest of the other limits."""


def allowance(sent: int) -> int:
    """How many values of a metric may go in the next batch, after `sent` values."""
    return max(ENVELOPE, IN_FULL - sent)


def thinned(values: Sequence[float], most: int) -> list[int]:
    """The indices of the values to send, in order: all, or `most` of them, including the smallest, the largest and the last.

    The others are evenly spaced. `most` is at least 3. NaN is neither smallest nor largest.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    kept = {count - 1}
    if numbers := [at for at in range(count) if not math.isnan(values[at])]:
        kept |= {min(numbers, key=values.__getitem__), max(numbers, key=values.__getitem__)}
    room = most - len(kept)
    return sorted(kept | {at * count // room for at in range(room)})
