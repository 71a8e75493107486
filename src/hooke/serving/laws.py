"""What a method's windows say of it: its law a n + b, and what one replica does by that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hooke.journal.services import BatchWindow
from hooke.scaling.affine import Affine, Calls, affine
from hooke.serving.windows import merged

__all__ = ["MOST_BLOCKS", "law_of", "stretches"]

MOST_BLOCKS = 12
"""More would be shorter than what disturbs a machine, and then not independent; Student's t gains little by them."""


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
