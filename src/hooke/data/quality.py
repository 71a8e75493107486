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

from hooke.data.order import BlockLayout, Order

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


def plan_layout(rows: int, row_bytes: float, batch: int, memory: int) -> BlockLayout:
    """The layout with the largest blocks up to a page of which a window fits into `memory` bytes and has a VIF of 1.05 or less.

    Where `memory` is too small for that, rows are drawn one by one, which takes longer.
    """
    lanes = LANES if rows >= LANES * LANES else 1
    window = -(-BLOCKS_PER_ROW * batch // lanes)
    block = 1
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
    held = (
        max(window, batch) / layout.block
    )  # blocks that a batch is drawn from: those of a window, or of some
    within = (1 - 1 / layout.cell) * max(1 / batch - 1 / window, 0.0)
    between = max(1 - held / layout.blocks, 0.0) / held
    return (within + between) / (1 / batch - 1 / layout.rows)


COLUMNS = 16
"""Random values of a block that are averaged at once."""
MOST_ROWS = 4_000_000


def measured_vif(order: Order, batch: int, values: NDArray[Any] | None = None) -> tuple[float, int]:
    """The VIF of `values` (rows,), by default of random values for each block, and the number of batches that it was measured on.

    For large data sets of some windows only.
    """
    layout = order.layout
    if values is None:
        drawn = np.random.default_rng(0).standard_normal(
            (layout.rows // layout.block + 1, COLUMNS), np.float32
        )
        numbers = np.arange(layout.rows) // layout.block
        spread = drawn[numbers[:: max(1, layout.rows // MOST_ROWS)]]
        centre, variance = spread.mean(axis=0), spread.var(axis=0)
    else:
        drawn = np.asarray(values, np.float64)[:, None]
        centre, variance = drawn.mean(axis=0), drawn.var(axis=0)
    squares, count = np.zeros(drawn.shape[1]), 0
    together = -(-4 * batch * layout.windows // layout.rows)
    for first in range(0, layout.windows, together * max(1, layout.rows // MOST_ROWS)):
        windows = range(first, min(first + together, layout.windows))
        rows = np.concatenate([order.of_window(window) for window in windows])
        rows = rows[: rows.size // batch * batch]
        taken = drawn[rows // layout.block if values is None else rows]
        means = taken.reshape(-1, batch, drawn.shape[1]).mean(axis=1)
        squares += ((means - centre) ** 2).sum(axis=0)
        count += len(means)
    if not count or not variance.any():
        return 1.0, count
    share = squares / count / (variance * (1 / batch - 1 / layout.rows))
    return float(share[variance > 0].mean()), count
