"""What a method's windows say of it: its law a n + b, and what one replica does by that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hooke.base.errors import NotEnoughData
from hooke.journal.services import BatchWindow
from hooke.scaling.affine import FEWEST_BLOCKS, Affine, Calls, affine
from hooke.serving.capacity import Capacity, batched, one_by_one
from hooke.serving.slo import Slo
from hooke.serving.windows import merged

__all__ = ["MOST_BLOCKS", "capacity_of", "law_of", "stretches"]

MOST_BLOCKS = 12
"""More would be shorter than what disturbs a machine, and then not independent; Student's t gains little by them."""

MAIN_SHARE = 0.9
"""Of the model's time: a method with less is not all that a replica does, and its law does not tell what that can do."""


def capacity_of(windows: Sequence[BatchWindow], *, max_batch: int | None, slo: Slo | None) -> Capacity | None:
    """What one replica does within the SLO, at the pessimistic end of what its windows tell; None where they do not tell yet.

    So it is where several methods share the model, and where `async def` does all the work.
    """
    whole = merged(windows)
    busy = {each.method: sum(size.seconds for size in each.sizes) for each in whole.methods}
    if not busy or max(busy.values()) < MAIN_SHARE * whole.busy_s:
        return None
    terms = {"limit_s": slo.limit_s if slo else None, "percent": slo.percent if slo else 99.0}
    if max_batch is None:
        seconds = _mean_call(windows)
        return None if seconds is None else one_by_one(seconds, **terms)
    try:
        law = law_of(windows, max(busy, key=busy.__getitem__), max_batch=max_batch)
    except NotEnoughData:
        return None
    rows = max(whole.rows / max(whole.requests, 1), 1.0)
    return batched(law.a.interval[1], law.b.interval[1], max_batch=max_batch, rows=rows, **terms)


def _mean_call(windows: Sequence[BatchWindow]) -> float | None:
    """Seconds of a call for one request, two standard errors above the mean over stretches of time."""
    parts = stretches(windows, MOST_BLOCKS)
    if len(parts) < FEWEST_BLOCKS:
        return None
    means = [part.busy_s / part.batches for part in parts]
    mean = sum(means) / len(means)
    variance = sum((each - mean) ** 2 for each in means) / (len(means) - 1)
    return mean + 2 * math.sqrt(variance / len(means))


def law_of(windows: Sequence[BatchWindow], method: str, *, max_batch: int | None) -> Affine:
    """How long a batch of n rows takes, from what replicas did over time. Raises NotEnoughData.

    Requests larger than `max_batch` count for nothing: they are several calls.
    """
    most = max_batch or 1
    blocks = [
        [
            Calls(size.batches, size.rows, size.seconds)
            for each in block.methods
            if each.method == method
            for size in each.sizes
            if size.rows <= most * size.batches
        ]
        for block in stretches(windows, MOST_BLOCKS)
    ]
    return affine(blocks)


def stretches(windows: Sequence[BatchWindow], most: int) -> list[BatchWindow]:
    """The windows put together to at most `most`, in order of time, of about as many batches each."""
    ordered = sorted(windows, key=lambda window: window.at)
    busy = [window for window in ordered if window.batches]
    share = sum(window.batches for window in busy) / most
    parts: list[list[BatchWindow]] = []
    seen = 0
    for window in busy:
        number = math.floor(seen / share + 1e-9)
        if len(parts) <= number:
            parts.append([])
        parts[-1].append(window)
        seen += window.batches
    return [merged(part) for part in parts]
