"""The order of a shuffled data set: a pure function of seed, epoch and position, for any number of ranks.

Rows lie in blocks of `block` rows, which are drawn in a random order. A window holds `window` blocks of each of `lanes` lanes, whose
rows are drawn in a random order; position p is a row of lane p mod lanes. So a rank that takes each W-th position reads only its own
blocks, if W divides the lanes. Blocks that do not divide evenly are pooled within their window.

A `BatchPlan` says which rows are in a batch, and which of these a rank has: `EqualBatches` of this order, or of another one.

A permutation of n numbers is a Feistel network on the pairs a * b >= n, which needs no memory and can begin anywhere (Black & Rogaway,
"Ciphers with arbitrary finite domains", CT-RSA 2002). All arithmetic is on integers of 64 bits, so no version of NumPy changes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PIECE",
    "Ahead",
    "BatchPlan",
    "BlockLayout",
    "Blocks",
    "EqualBatches",
    "Order",
    "Part",
    "Rows",
    "Windows",
    "drawn",
    "key_of",
    "mixed",
    "permuted",
    "permuted_within",
    "unheeded",
]

Rows: TypeAlias = NDArray[np.int64]
"""Numbers of rows."""

ROUNDS = 6
"""Of the Feistel network; three leave a pattern that a test of its digits shows."""


# --- Permutations.

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
"""The step of SplitMix64 from one number to the next."""


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes of 64 bits, elementwise: the finalizer of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_of(*parts: int) -> int:
    """A key of 64 bits from integers: `mixed` of one after another."""
    key = 0
    for part in parts:
        key = (key + (part + 1) * GOLDEN) & MASK
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
        key ^= key >> 31
    return key


def permuted(at: Rows, size: int, key: int) -> Rows:
    """The places of `at` (m,) in a random permutation of 0 to `size` - 1: (m,)."""
    if size < 2:
        return at
    high = math.isqrt(size - 1) + 1
    low = -(-size // high)
    found = _network(at, high, low, key)
    while (outside := found >= size).any():  # the pairs exceed `size` by less than `high`
        found[outside] = _network(found[outside], high, low, key)
    return found


def _network(values: Rows, high: int, low: int, key: int) -> Rows:
    left, right = np.divmod(values, low)
    for number in range(ROUNDS):
        salt = np.uint64(key_of(key, number))
        if number % 2:
            left = (left + _hashed(right, salt, high)) % high
        else:
            right = (right + _hashed(left, salt, low)) % low
    return left * low + right


def _hashed(values: Rows, salt: np.uint64, below: int) -> Rows:
    return (mixed(values.astype(np.uint64) + salt) >> np.uint64(1)).astype(np.int64) % below


def drawn(at: Rows, key: int | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Random numbers of 64 bits: the `at`-th ones of SplitMix64 with these keys."""
    first = np.uint64(key) if isinstance(key, int) else key
    return mixed(at.astype(np.uint64) * np.uint64(GOLDEN) + first)


def permuted_within(at: Rows, sizes: Rows, keys: NDArray[np.uint64]) -> Rows:
    """As `permuted`, with a size and a key for each of `at`: (m,). The permutations are other ones."""
    high = np.sqrt(np.maximum(sizes - 1, 0)).astype(np.uint64) + np.uint64(1)
    limits = sizes.astype(np.uint64)
    low = (limits + high - np.uint64(1)) // high
    found = _networks(at.astype(np.uint64), high, low, keys)
    while (outside := np.flatnonzero(found >= limits)).size:
        found[outside] = _networks(found[outside], high[outside], low[outside], keys[outside])
    return found.astype(np.int64)


def _networks(
    values: NDArray[np.uint64], high: NDArray[np.uint64], low: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    left, right = np.divmod(values, low)
    for number in range(ROUNDS):
        changed, other, limit = (left, right, high) if number % 2 else (right, left, low)
        draws = mixed(other * np.uint64(ROUNDS * GOLDEN & MASK) + (keys + np.uint64(number * GOLDEN & MASK)))
        changed += (draws >> np.uint64(32)) * limit >> np.uint64(32)  # below the limit, without a division
        np.minimum(changed, changed - limit, out=changed)  # modulo the limit, for less than 0 is more than it
    return left * low + right


# --- The layout.


@dataclass(frozen=True, kw_only=True)
class BlockLayout:
    """How `rows` rows are cut: `block` rows lie together, and a window holds at most `window` blocks of each of `lanes` lanes."""

    rows: int
    block: int
    lanes: int
    window: int

    @cached_property
    def blocks(self) -> int:
        """Whole blocks; the rows after the last of them are a part of one."""
        return self.rows // self.block

    @cached_property
    def windows(self) -> int:
        """The number of windows, at least 1."""
        return max(1, -(-self.blocks // (self.lanes * self.window)))

    @cached_property
    def cell(self) -> int:
        """Blocks of one lane in one window; the same in all."""
        return self.blocks // (self.windows * self.lanes)

    @property
    def spare(self) -> int:
        """Whole blocks beyond those of the cells: some in each window."""
        return self.blocks - self.windows * self.lanes * self.cell


PIECE = 1 << 15
"""Rows whose numbers are computed at once: 256 KiB of them."""


@dataclass(frozen=True)
class Order:
    """The order of one epoch of a layout."""

    layout: BlockLayout
    seed: int
    epoch: int

    def start(self, window: int) -> int:
        """The position at which a window starts; that of the window after the last is the number of rows."""
        own = self.layout
        spare = window * own.spare // own.windows
        whole = (window * own.lanes * own.cell + spare) * own.block
        return whole + (own.rows - own.blocks * own.block) * (window > self._last_rows_in)

    def window_at(self, position: int) -> int:
        """The window that holds a position."""
        low, high = 0, self.layout.windows
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.start(middle) <= position else (low, middle)
        return low

    def of_window(self, window: int, rank: int = 0, ranks: int = 1) -> Rows:
        """The rows at the positions of a window that are `rank` modulo `ranks`, in their order."""
        return np.concatenate(list(self.pieces(window, rank, ranks)))

    def pieces(self, window: int, rank: int = 0, ranks: int = 1) -> Iterator[Rows]:
        """As `of_window`, piece by piece, each small enough for the processor's cache."""
        own, start = self.layout, self.start(window)
        pooled = self._pooled(window)
        first = (rank - start) % ranks
        if own.lanes % ranks:
            whole = np.concatenate(list(self._grouped(window, pooled, range(own.lanes))))
            yield whole[first::ranks]
        else:
            yield from self._grouped(window, pooled, range(first, own.lanes, ranks))

    def blocks_of_window(self, window: int, rank: int = 0, ranks: int = 1) -> Rows:
        """The first row of each block in which `of_window` has rows, and of a few more that this rank may not need."""
        own = self.layout
        # The lane of a position is that modulo the lanes, so a rank's are those modulo the ranks.
        lanes = slice(None) if own.lanes % ranks else slice(rank, None, ranks)
        cells = self._starts(window)[lanes].ravel() & -own.block
        return np.concatenate([cells, np.unique(self._pooled(window) & -own.block)])

    @cached_property
    def _key(self) -> int:
        return key_of(self.seed, self.epoch)

    @cached_property
    def _last_rows_in(self) -> int:
        """The window that holds the rows after the last whole block."""
        return key_of(self._key, 1) % self.layout.windows

    def _grouped(self, window: int, pooled: Rows, places: range) -> Iterator[Rows]:
        """The rows of the window at these places of each group of `lanes` positions, group by group."""
        own, start = self.layout, self.start(window)
        few, rest = divmod(pooled.size, own.lanes)
        size = own.cell * own.block
        spread = pooled[: few * own.lanes].reshape(few, own.lanes)[:, places]
        before = np.arange(few) * size // max(few, 1)  # evenly among the groups of the cells
        lanes = [(start + place) % own.lanes for place in places]
        begins = [key_of(self._key, 2, window, lane) % max(size, 1) for lane in lanes]
        cells = list(zip(self._starts(window)[lanes], begins, strict=True))
        most = max(1, PIECE // len(cells))
        for low in range(0, size, most):
            groups = self._walked(cells, low, min(low + most, size))
            here = slice(*np.searchsorted(before, (low, low + most)).tolist())
            if here.start < here.stop:
                groups = np.insert(groups, before[here] - low, spread[here], axis=0)
            yield groups.ravel()
        if not size:
            yield spread.ravel()
        yield pooled[pooled.size - rest :][[place for place in places if place < rest]]

    def _walked(self, cells: list[tuple[Rows, int]], low: int, high: int) -> Rows:
        """Rows low to high of each cell, in their order: (high - low, cells).

        There is one walk through blocks and rows for all cells, from another place in each.
        """
        slots, offsets = self._walk
        found = np.empty((len(cells), high - low), np.int64)
        for (starts, begin), into in zip(cells, found, strict=True):
            part = slice(begin + low, begin + high)
            starts.take(slots[part], out=into, mode="clip")  # they are in range; "raise" would copy
            np.bitwise_xor(into, offsets[part], out=into)
        return np.ascontiguousarray(found.T)

    def _starts(self, window: int) -> Rows:
        """A row of each block of each cell in a window: (lanes, cell). Blocks are powers of two, so its lower bits are free: any."""
        own = self.layout
        numbers = np.arange(own.lanes * own.cell) + window * own.lanes * own.cell
        starts = permuted(numbers, own.blocks, self._key) * own.block
        starts |= mixed(numbers.astype(np.uint64) + np.uint64(self._key)).astype(np.int64) & (own.block - 1)
        return starts.reshape(own.lanes, own.cell)

    @cached_property
    def _walk(self) -> tuple[Rows, Rows]:
        """Blocks of a cell and rows of these in a random order, twice, so that a walk from anywhere is a slice."""
        own = self.layout
        size = own.cell * own.block
        walk = np.tile(permuted(np.arange(size), size, key_of(self._key, 3)), 2)
        return walk // own.block, walk & (own.block - 1)

    def _pooled(self, window: int) -> Rows:
        """The rows of a window that are in no cell, in their order."""
        own = self.layout
        cells = own.windows * own.lanes * own.cell
        first, last = (cells + at * own.spare // own.windows for at in (window, window + 1))
        blocks = permuted(np.arange(first, last), own.blocks, self._key)
        rows = (blocks[:, None] * own.block + np.arange(own.block)).ravel()
        if window == self._last_rows_in:
            rows = np.concatenate([rows, np.arange(own.blocks * own.block, own.rows)])
        return rows[permuted(np.arange(rows.size), rows.size, key_of(self._key, 4, window))]


# --- Plans of batches.


class Part(NamedTuple):
    """What a rank has of a global batch: the `numbers` of its rows, of `rows` in the batch with `tokens` in all, if rows have a length."""

    step: int
    numbers: Rows
    rows: int
    tokens: int | None


Ahead: TypeAlias = Callable[[Rows], None]
"""Is told the rows of a window that will be read."""


def unheeded(_: Rows) -> None:
    """No one wants to know."""


class Windows(NamedTuple):
    """The blocks of the windows of an epoch, before their rows are computed: in turn, the first row of each block of `block` rows.

    There are `count` windows in a whole epoch.
    """

    blocks: Iterator[Rows]
    block: int
    count: int


class BatchPlan(Protocol):
    """The global batches of each epoch and their parts.

    They are the same for any number of ranks; but a tail with fewer rows than ranks joins the batch before it, and where the number of
    ranks changes, with fewer than the `most` that read a part of the epoch.
    """

    @property
    def batch(self) -> int:
        """Rows of a batch, or the most of any."""

    def fewest(self) -> int:
        """Rows of the smallest batch but the tail: no more ranks can share the data set."""

    def steps(self, ranks: int) -> int:
        """Batches in an epoch."""

    def parts(
        self, epoch: int, rank: int, ranks: int, start: int, ahead: Ahead = unheeded, *, most: int = 0
    ) -> Iterator[Part]:
        """Those of one rank, from step `start` on. `ahead` is told the rows of the next ones together, before these come."""

    def windows(self, epoch: int, rank: int, ranks: int, start: int) -> Windows | None:
        """What `ahead` will be told, or None if that takes as long as the batches themselves."""

    def state(self) -> dict[str, int]:
        """What the order depends on, beside the seed."""

    def resumed(self, state: Mapping[str, int]) -> BatchPlan:
        """The plan of a state that has the same `state()`, but for the layout of blocks, which is taken from it."""


class Positions(Protocol):
    """The rows of an epoch by position, in windows that are computed at once; `Order` is one."""

    def start(self, window: int) -> int:
        """The position at which a window starts."""

    def window_at(self, position: int) -> int:
        """The window that holds a position."""

    def of_window(self, window: int, rank: int = 0, ranks: int = 1) -> Rows:
        """The rows at the positions of a window that are `rank` modulo `ranks`."""


class Ordering(Protocol):
    """What row is at which position; `rows` positions an epoch."""

    @property
    def rows(self) -> int:
        """Positions in an epoch."""

    def of_epoch(self, epoch: int) -> Positions:
        """The order of one epoch."""

    def state(self) -> dict[str, int]:
        """As of BatchPlan."""

    def resumed(self, state: Mapping[str, int]) -> Ordering:
        """As of BatchPlan."""


@dataclass(frozen=True, slots=True)
class EqualBatches:
    """Each `batch` positions of an order are a batch. Rank r of n has the positions that are r modulo n."""

    ordering: Ordering
    batch: int
    drop_last: bool

    def fewest(self) -> int:
        """The rows of a batch."""
        return min(self.batch, self.ordering.rows)

    def steps(self, ranks: int) -> int:
        """Batches in an epoch. A tail with fewer rows than ranks joins the batch before it."""
        full, rest = divmod(self.ordering.rows, self.batch)
        alone = rest >= ranks or not full
        return full + (alone if rest and not self.drop_last else 0)

    def parts(
        self, epoch: int, rank: int, ranks: int, start: int, ahead: Ahead = unheeded, *, most: int = 0
    ) -> Iterator[Part]:
        """Those of one rank, from step `start` on."""
        steps, order = self.steps(max(ranks, most)), self.ordering.of_epoch(epoch)
        if start >= steps:
            return

        def before(position: int) -> int:
            """How many positions before this one are the rank's."""
            return -((rank - position) // ranks)

        window = order.window_at(start * self.batch)
        first, numbers = before(order.start(window)), np.empty(0, np.int64)
        pieces = _pieces(order, window, rank, ranks, ahead)
        for step in range(start, steps):
            low = step * self.batch
            high = self.ordering.rows if step == steps - 1 and not self.drop_last else low + self.batch
            mine, until = before(low), before(high)
            while first + numbers.size < until:
                kept = numbers[mine - first :]
                first = min(mine, first + numbers.size)
                more = next(pieces)
                numbers = np.concatenate([kept, more]) if kept.size else more
            yield Part(step, numbers[mine - first : until - first], high - low, None)

    def windows(self, epoch: int, rank: int, ranks: int, start: int) -> Windows | None:
        """Those of one rank, from that of step `start` on."""
        order = self.ordering.of_epoch(epoch)
        if not isinstance(order, Order):
            return None
        count, first = order.layout.windows, order.window_at(start * self.batch)
        found = (order.blocks_of_window(window, rank, ranks) for window in range(first, count))
        return Windows(found, order.layout.block, count)

    def state(self) -> dict[str, int]:
        """That of the ordering."""
        return self.ordering.state()

    def resumed(self, state: Mapping[str, int]) -> EqualBatches:
        """With the ordering of the state."""
        return EqualBatches(self.ordering.resumed(state), self.batch, self.drop_last)


def _pieces(order: Positions, window: int, rank: int, ranks: int, ahead: Ahead) -> Iterator[Rows]:
    """The rows from a window on: where these are not to be known ahead, before all of a window are computed."""
    for number in itertools.count(window):
        if isinstance(order, Order) and ahead is unheeded:
            yield from order.pieces(number, rank, ranks)
        else:
            rows = order.of_window(number, rank, ranks)
            ahead(rows)
            yield rows


@dataclass(frozen=True, slots=True)
class Blocks:
    """The ordering of plain shuffling: each row once, drawn in blocks."""

    layout: BlockLayout
    seed: int

    @property
    def rows(self) -> int:
        """Those of the data set."""
        return self.layout.rows

    def of_epoch(self, epoch: int) -> Order:
        """The order of one epoch."""
        return Order(self.layout, self.seed, epoch)

    def state(self) -> dict[str, int]:
        """The layout."""
        return asdict(self.layout)

    def resumed(self, state: Mapping[str, int]) -> Blocks:
        """With the layout of the state."""
        return Blocks(BlockLayout(**{name: state[name] for name in self.state()}), self.seed)
