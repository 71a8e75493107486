"""How good a block shuffle is, and the layout that is good enough.

The measure is the variance inflation factor: the variance of the batches' means over that of a perfect shuffle, which is 1. The worst case
is assumed, data whose rows are alike within each block, as in a table that is sorted by its label. Sampling theory (Cochran, "Sampling
Techniques", chapters 5 and 9) then gives, for batches of B rows from windows of K blocks of R rows in C lanes, out of M blocks,

    VIF = ((K - 1) / K * (1/B - 1/KCR) + (1 - KC/M) / KC) / (1/B - 1/MR)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.data.order import BlockLayout, Order, Rows, mixed

__all__ = ["Quality", "measured_vif", "plan_layout", "predicted_vif"]

LANES = 24
"""Divided by 1, 2, 3, 4, 6, 8, 12 and 24 ranks: of these, each reads only blocks of its own."""
BLOCKS_PER_ROW = 20
"""Blocks in a window for each row of a batch: a VIF of 1.05."""
BLOCK_BYTES = 4096
"""Of a block: a page of memory. Rows of this size and larger are their own blocks."""
NUMBER_BYTES = 8
"""Of a row's number in a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The variance inflation factors of a shuffle: `predicted` from its layout for data sorted by block, `measured` on `batches` batches."""

    predicted: float
    measured: float
    batches: int

    def __str__(self) -> str:
        return (
            f"VIF {self.measured:.2f} measured on {self.batches:,} batches, {self.predicted:.2f} predicted for sorted data "
            "(1 is a perfect shuffle)"
        )


def plan_layout(rows: int, row_bytes: float, batch: int, memory: int, together: int = 1) -> BlockLayout:
    """The layout with the largest blocks up to a page of which a window fits into `memory` bytes and has a VIF of 1.05 or less.

    Where `memory` is too small for that, rows are drawn one by one, which takes longer. Of data larger than `memory`, blocks have
    at least `together` rows (a power of two), which are read at once, and windows as many blocks as fit: `predicted_vif` says how good
    that is. What is read how must not depend on the machine: ranks would have orders of their own.
    """
    lanes = LANES if rows >= LANES * LANES else 1
    window = -(-BLOCKS_PER_ROW * batch // lanes)
    block = together if rows * row_bytes > memory else 1
    while (
        2 * block * row_bytes <= BLOCK_BYTES
        and 2 * block * lanes * window <= rows
        and _bytes(2 * block, lanes, window, row_bytes) <= memory
    ):
        block *= 2
    most = int(memory // _bytes(block, lanes, 1, row_bytes))
    return BlockLayout(rows=rows, block=block, lanes=lanes, window=max(1, min(window, most)))


def _bytes(block: int, lanes: int, window: int, row_bytes: float) -> float:
    return block * lanes * window * (row_bytes + NUMBER_BYTES)


def predicted_vif(layout: BlockLayout, batch: int) -> float:
    """The VIF for data that are sorted by block."""
    if layout.rows <= batch or layout.blocks < 2:
        return 1.0
    if layout.block == 1 or not layout.cell:  # rows are drawn one by one, or all are pooled
        return 1.0
    window = layout.rows / layout.windows
    # The blocks that a batch is drawn from are those of a window, or of some.
    held = max(window, batch) / layout.block
    within = (1 - 1 / layout.cell) * max(1 / batch - 1 / window, 0.0)
    between = max(1 - held / layout.blocks, 0.0) / held
    return (within + between) / (1 / batch - 1 / layout.rows)


COLUMNS = 16
"""Random values of a block that are averaged at once."""
MOST_ROWS = 4_000_000


def measured_vif(order: Order, batch: int, values: NDArray[Any] | None = None) -> tuple[float, int]:
    """The VIF of `values` (rows,), by default of random values for each block, and the number of batches that it was measured on.

    Of more than MOST_ROWS rows, only some windows are measured.
    """
    layout = order.layout
    every = max(1, layout.rows // MOST_ROWS)

    def values_of(rows: Rows) -> NDArray[Any]:
        return _signs(rows // layout.block) if values is None else np.asarray(values)[rows, None]

    some = values_of(np.arange(0, layout.rows, every)).astype(np.float64)
    centre, variance = some.mean(axis=0), some.var(axis=0)
    squares, count = np.zeros(centre.size), 0
    together = -(-4 * batch * layout.windows // layout.rows)
    for first in range(0, layout.windows, together * every):
        windows = range(first, min(first + together, layout.windows))
        rows = np.concatenate([order.of_window(window) for window in windows])
        rows = rows[: rows.size // batch * batch]
        means = values_of(rows).reshape(-1, batch, centre.size).mean(axis=1, dtype=np.float64)
        squares += ((means - centre) ** 2).sum(axis=0)
        count += len(means)
    if not count or not variance.any() or layout.rows == batch:
        return 1.0, count
    share = squares / count / (variance * (1 / batch - 1 / layout.rows))
    return float(share[variance > 0].mean()), count


def _signs(blocks: Rows) -> NDArray[np.float32]:
    """COLUMNS random values of each block, 1 or -1: (m, COLUMNS)."""
    bits = mixed(blocks.astype(np.uint64))[:, None] >> np.arange(COLUMNS, dtype=np.uint64) & np.uint64(1)
    return 2 * bits.astype(np.float32) - 1
