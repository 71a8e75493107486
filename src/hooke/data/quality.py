"""How good a block shuffle is, and the layout that is good enough; how evenly batches divide their work between ranks.

The measure of a shuffle is the variance inflation factor: the variance of the batches' means over that of a perfect shuffle, which is 1. The worst case
is assumed, data whose rows are alike within each block, as in a table that is sorted by its label. The mean of a batch then varies as much as its
rows are of the same blocks: for batches of B of R rows, where c is the chance that two rows of a batch are of one block, and a that of any two rows,
drawn with replacement,

    VIF = (1 + (B - 1) c - B a) / ((1 - a) (1 - B/R))

(after Cochran, "Sampling Techniques", chapters 2 and 9).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.base.table import Printed
from hooke.data.order import BatchPlan, BlockLayout, Order, Rows, mixed

__all__ = [
    "WORST_VIF",
    "Balance",
    "Quality",
    "measured_balance",
    "measured_vif",
    "memory_for",
    "plan_layout",
    "predicted_vif",
]

LANES = 24
"""Divided by 1, 2, 3, 4, 6, 8, 12 and 24 ranks: of these, each reads only blocks of its own."""
BLOCKS_PER_ROW = 20
"""Blocks in a window for each row of a batch: a VIF of 1.05."""
WORST_VIF = 1.055
"""One that is still printed as 1.05."""
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


def memory_for(rows: int, row_bytes: float, batch: int, together: int) -> int:
    """The least `memory`, in bytes, with which `plan_layout` gives data of which `together` rows are read at once a VIF of 1.05."""
    lanes = LANES if rows >= LANES * LANES else 1
    window = -(-BLOCKS_PER_ROW * batch // lanes)
    return math.ceil(min(_bytes(together, lanes, window, row_bytes), rows * row_bytes))


def _bytes(block: int, lanes: int, window: int, row_bytes: float) -> float:
    return block * lanes * window * (row_bytes + NUMBER_BYTES)


def predicted_vif(layout: BlockLayout, batch: int) -> float:
    """The VIF for data that are sorted by block."""
    drawn_alone = layout.block == 1 or batch == 1
    if drawn_alone or layout.blocks < 2 or layout.rows <= batch:
        return 1.0
    rows = layout.rows
    of_any = _equal_pairs(layout, layout.blocks, rows) / rows**2 + 1 / rows
    found = 1 + (batch - 1) * _chance_of_one_block(layout, batch) - batch * of_any
    return max(0.0, found / ((1 - of_any) * (1 - batch / rows)))


def _chance_of_one_block(layout: BlockLayout, batch: int) -> float:
    """That two rows of a batch are of one block: of one window, and there of one lane, or both pooled."""
    own, window = layout, layout.rows / layout.windows
    in_cell = own.cell * own.block
    in_pool = window - own.lanes * in_cell
    size = min(batch, window)
    pooled = size * in_pool / window
    alike = 0.0
    if in_cell:
        alike += _pairs_of_lanes(size - pooled, own.lanes) * (own.block - 1) / (in_cell - 1)
    if in_pool > 1:
        # A batch has them in evenly spread groups.
        others = max(pooled, min(own.lanes, size)) - 1
        pairs = _equal_pairs(own, own.spare, own.spare * own.block + own.rows % own.block) / own.windows
        alike += pooled * others * min(pairs / (in_pool * (in_pool - 1)), 1.0)
    return _chance_of_one_window(own, batch) * alike / (size * (size - 1))


def _equal_pairs(layout: BlockLayout, blocks: int, rows: int) -> int:
    """How often two of these rows are of one block: so many whole blocks, and what is left after the last one."""
    rest = rows - blocks * layout.block
    return blocks * layout.block * (layout.block - 1) + rest * (rest - 1)


def _chance_of_one_window(layout: BlockLayout, batch: int) -> float:
    """That two rows of a batch are of one window, in the first WINDOWS ones."""
    order = Order(layout, 0, 0)
    starts = np.array([order.start(window) for window in range(min(layout.windows, WINDOWS) + 1)])
    first = starts // batch * batch
    places = np.unique(np.concatenate([starts, first, np.minimum(first + batch, starts[-1])]))
    rows = np.diff(places)  # of parts of batches that a window's end cuts, else of some whole batches
    return float((rows * (np.minimum(rows, batch) - 1)).sum() / (rows.sum() * (batch - 1)))


def _pairs_of_lanes(rows: float, lanes: int) -> float:
    """How often two of so many rows, which are of each lane in turn, are of one lane."""
    each, more = divmod(rows, lanes)
    return each * ((lanes - more) * (each - 1) + more * (each + 1))


WINDOWS = 1000
"""Whose ends are compared with those of batches."""
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
    rest = np.empty(0, np.int64)
    for first in range(0, layout.windows, together * every):
        windows = range(first, min(first + together, layout.windows))
        rows = np.concatenate([order.of_window(window) for window in windows])
        # Batches begin where they do in an epoch, not with a window.
        rows = np.concatenate([rest, rows]) if every == 1 else rows[-order.start(first) % batch :]
        rows, rest = np.split(rows, [rows.size // batch * batch])
        means = values_of(rows).reshape(-1, batch, centre.size).mean(axis=1, dtype=np.float64)
        squares += ((means - centre) ** 2).sum(axis=0)
        count += len(means)
    if not count or not variance.any() or layout.rows == batch:
        return 1.0, count
    differ = variance > 0
    share = squares[differ] / count / (variance[differ] * (1 / batch - 1 / layout.rows))
    return float(share.mean()), count


def _signs(blocks: Rows) -> NDArray[np.float32]:
    """COLUMNS random values of each block, 1 or -1: (m, COLUMNS)."""
    bits = mixed(blocks.astype(np.uint64))[:, None] >> np.arange(COLUMNS, dtype=np.uint64) & np.uint64(1)
    return 2 * bits.astype(np.float32) - 1


# --- Balance.


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Balance(Printed):
    """How evenly batches divide their work between ranks, measured on `steps` batches of epoch 0.

    `rows`, `tokens` and `padded_tokens` are what the rank with the most has at each step over the mean of all ranks, so 1.05 means that
    a gang takes 5 % longer than with equal parts. Padded tokens are the rows of a part times its longest row, and `padding` is their
    share that no row fills. `classes` has the fewest, the mean and the most rows of each class in a batch; the last batch of an epoch is
    left out of it. `plain` is the same of plain shuffling.
    """

    ranks: int
    steps: int
    rows: float
    tokens: float | None = None
    padded_tokens: float | None = None
    padding: float | None = None
    classes: Mapping[Any, tuple[int, float, int]] = field(default_factory=dict)
    plain: Balance | None = None

    def __repr__(self) -> str:
        return f"Balance({self.ranks} ranks, {self.steps:,} steps: {self.rows:.3f} times the mean rows)"

    def __str__(self) -> str:
        columns = [self] if self.plain is None else [self, self.plain]
        lines = [
            ("most on a rank over the mean: rows", [f"{one.rows:.3f}" for one in columns]),
            *_lines("tokens", [one.tokens for one in columns], "{:.3f}"),
            *_lines("padded tokens", [one.padded_tokens for one in columns], "{:.3f}"),
            *_lines("padding", [one.padding for one in columns], "{:.1%}"),
        ]
        rarest = sorted(self.classes, key=lambda name: round(self.classes[name][1], 1))[:MOST_CLASSES]
        for name in rarest:
            spans = [one.classes[name] for one in columns]
            lines.append((f"rows of class {name!r} a batch", [f"{low} to {high}" for low, _, high in spans]))
        if more := len(self.classes) - len(rarest):
            lines.append((f"and {more:,} larger classes", []))
        title = f"{self.steps:,} steps, {self.ranks} ranks"
        heads = ["balanced", "plain shuffling"] if self.plain else ["plain shuffling"]
        wide = max(len(title), *(len(text) for text, _ in lines))
        return "\n".join(
            text.rjust(wide) + "".join(cell.rjust(17) for cell in cells)
            for text, cells in [(title, heads), *lines]
        )


MOST_CLASSES = 10
"""That are printed: the rarest."""


def _lines(text: str, values: Sequence[float | None], form: str) -> list[tuple[str, list[str]]]:
    known = [form.format(value) for value in values if value is not None]
    return [(text, known)] if known else []


def measured_balance(
    plan: BatchPlan, ranks: int, classes: tuple[Sequence[Any], Rows] | None, lengths: Rows | None
) -> Balance:
    """How even the batches of `plan` are. `classes` are the names of classes and the number of each row's (rows,); `lengths` (rows,).

    Of more than MOST_ROWS rows, only the first steps are measured.
    """
    names, codes = classes or ((), None)
    most, sums = np.zeros(3), np.zeros(3)
    counts: list[Rows] = []
    steps = seen = 0
    for parts in zip(*(plan.parts(0, rank, ranks, 0) for rank in range(ranks)), strict=True):
        work = np.array([_work(part.numbers, lengths) for part in parts], np.float64)
        most += work.max(axis=0) * ranks
        sums += work.sum(axis=0)
        if codes is not None:
            rows = np.concatenate([part.numbers for part in parts])
            counts.append(np.bincount(codes[rows], minlength=len(names)))
        steps += 1
        seen += parts[0].rows
        if seen >= MOST_ROWS:
            break
    rows, tokens, padded = (most / np.maximum(sums, 1)).tolist()
    table = np.array(counts[:-1] or counts)
    spans = {
        name: (int(each.min()), float(each.mean()), int(each.max()))
        for name, each in zip(names, table.T, strict=True)
    }
    if lengths is None:
        return Balance(ranks=ranks, steps=steps, rows=rows, classes=spans)
    padding = float(1 - sums[1] / sums[2])
    return Balance(
        ranks=ranks,
        steps=steps,
        rows=rows,
        tokens=tokens,
        padded_tokens=padded,
        padding=padding,
        classes=spans,
    )


def _work(numbers: Rows, lengths: Rows | None) -> tuple[int, float, float]:
    """The rows, tokens and padded tokens of a part."""
    if lengths is None:
        return numbers.size, 0, 0
    own = lengths[numbers]
    return numbers.size, float(own.sum(dtype=np.float64)), float(own.max()) * numbers.size
