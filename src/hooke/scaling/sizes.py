"""How much longer a call takes that reads more items than those that were timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hooke.base.errors import BeyondTheData, NotEnoughData
from hooke.scaling.contention import Ends
from hooke.scaling.fitting import fit
from hooke.scaling.law import FARTHEST, Law
from hooke.scaling.measurements import Measurements
from hooke.scaling.timing import Timing

__all__ = ["SAME_SIZE", "Sized", "law_of_size", "sized", "sizes_needed"]

SAME_SIZE = 1.5
"""Up to this multiple of the items that the timed calls read, a call takes between as long and that many times as long."""
FEWEST_SIZES = 3
FAMILIES = ("gustafson", "power")
"""Of seconds by items, as curves: so much a call and so much an item; or a power of the items."""


@dataclass(frozen=True, slots=True)
class Sized:
    """Timings of calls of one size, and the seconds of the call in question over theirs."""

    timings: list[Timing]
    ends: Ends = (1.0, 1.0, 1.0)


def law_of_size(timings: Sequence[Timing]) -> Law | None:
    """Seconds of a call by the items that it reads, as far as timings of several sizes tell; None for too few.

    A law's curve is then no throughput: it is the seconds that are fitted, which have the same families.
    """
    own = [each for each in timings if each.reads and each.seconds > 0]
    if len({each.reads for each in own}) < FEWEST_SIZES:
        return None
    measured = Measurements([each.reads for each in own], throughput=[each.seconds for each in own])
    try:
        return fit(measured, families=FAMILIES)
    except NotEnoughData:
        return None


def sized(timings: Sequence[Timing], reads: int, law: Law | None) -> Sized | None:
    """What tells of a call that reads so many items; None where nothing does."""
    own = [each for each in timings if each.items]
    if not own:
        return None
    nearest = min({each.reads for each in own}, key=lambda size: (_distance(size, reads), size))
    there = [each for each in own if each.reads == nearest]
    if nearest == reads:
        return Sized(there)
    if law is not None and (ends := _by_law(law, nearest, reads)) is not None:
        return Sized(there, ends)
    if _distance(nearest, reads) > math.log(SAME_SIZE) + 1e-9:
        return None
    ratio = reads / nearest
    return Sized(there, (min(ratio, 1.0), math.sqrt(ratio), max(ratio, 1.0)))


def sizes_needed(reads: int) -> str:
    """Which runs would tell of calls that read so many: no law leads farther than it does for N."""
    return f"runs of {FEWEST_SIZES} sizes, the largest {math.ceil(reads / FARTHEST)} or more, would tell"


def _distance(size: int, reads: int) -> float:
    """How far two sizes are apart, as |ln ratio|; no ratio leads from nothing to something."""
    if size == reads:
        return 0.0
    return abs(math.log(size / reads)) if size and reads else math.inf


def _by_law(law: Law, timed: int, reads: int) -> Ends | None:
    if not reads or not timed:
        return None
    try:
        found = law.predict(reads)
    except BeyondTheData:
        return None
    before = float(law.throughput(np.array([float(timed)]))[0])
    low, high = found.interval
    return low / before, found.value / before, high / before
