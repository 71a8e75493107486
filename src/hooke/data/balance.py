"""Batches that are balanced by class, weight or length: what a user passes to `Shuffled` as `balance`.

Each makes a `BatchPlan`. Those by class and by weight are `EqualBatches` of another order than that of blocks; token buckets have batches
of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.data.order import (
    Ahead,
    BatchPlan,
    EqualBatches,
    Part,
    Rows,
    Windows,
    drawn,
    key_of,
    permuted,
    permuted_within,
    unheeded,
)

__all__ = [
    "Balancing",
    "Oversampled",
    "Stratified",
    "TokenBuckets",
    "Weighted",
    "class_codes",
    "needed",
    "numeric_values",
    "row_lengths",
    "whole",
]

WINDOW = 16_384
"""Positions whose rows are computed at once: arrays that stay in the cache of a core."""


def whole(name: str, value: Any, *, least: int | None = 1) -> int:
    """`value`. Raises UsageError if it is not a whole number of at least `least`."""
    if (
        not isinstance(value, int | np.integer)
        or isinstance(value, bool)
        or (least is not None and value < least)
    ):
        raise UsageError(
            f"{name} is {value!r}",
            fix="use a whole number" + ("" if least is None else f" of at least {least}"),
        )
    return int(value)


# --- What a user passes as `balance`.


class Balancing(Protocol):
    """How batches are balanced."""

    def plan(self, rows: int, *, seed: int, batch: int | None, drop_last: bool) -> BatchPlan:
        """The batches of a data set of `rows` rows. Raises UsageError if they cannot be balanced so."""

    def classes(self) -> tuple[Sequence[Any], Rows] | None:
        """The names of the classes and the number of each row's, if there are classes."""

    def lengths(self) -> Rows | None:
        """The length of each row, if rows have one."""


def needed(batch: int | None) -> int:
    """The rows of a batch. Raises UsageError if there is none."""
    if batch is None:
        raise UsageError(
            "batch is missing",
            fix="pass the number of rows of the global batch; only TokenBuckets does without",
        )
    return whole("batch", batch)


def refuse_other_length(name: str, found: int, rows: int) -> None:
    """Raise UsageError unless each row has one of what is called `name`."""
    if found != rows:
        raise UsageError(
            f"{found} {name} for {rows} rows", fix=f"pass {name} in the order of the rows, one for each"
        )


def vector(name: str, values: Any) -> NDArray[Any]:
    """The values of the rows as an array. Raises UsageError unless it has one dimension and a value."""
    if isinstance(values, np.ma.MaskedArray):
        raise UsageError(f"the {name} are a masked array", fix="fill it first with .filled()")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UsageError(f"the {name} are no array", why=str(error)) from error
    if array.ndim != 1 or not array.size:
        raise UsageError(
            f"the {name} have the shape {array.shape}",
            fix=f"pass one-dimensional {name} with a value for each row",
        )
    return array


def digest(values: NDArray[Any]) -> int:
    """A number of 53 bits, which any reader of JSON keeps, that stands for these integers or floats and their order."""
    bits = np.ascontiguousarray(values, np.float64 if values.dtype.kind == "f" else np.int64).view(np.int64)
    total = 0
    for low in range(0, bits.size, 1 << 20):
        some = bits[low : low + (1 << 20)]
        keys = drawn(np.arange(low, low + some.size), 0)
        total += int(drawn(some, keys).sum(dtype=np.uint64))
    return key_of(bits.size, total) >> 11


def compact(numbers: Rows) -> NDArray[Any]:
    """Numbers of at least 0 in 4 bytes each, if all are small enough."""
    return numbers.astype(np.int32) if numbers.max() < 1 << 31 else numbers


# --- By class.


class _Strata:
    """The rows of each class. `members` has the numbers of all rows, class by class: 4 bytes a row."""

    def __init__(self, labels: Any, classes: Sequence[Any] | None) -> None:
        given = vector("labels", labels)
        self.names, codes = _coded(given, classes)
        few = codes.astype(np.uint16) if len(self.names) <= 1 << 16 else codes  # a radix sort
        self.members = compact(np.argsort(few, kind="stable"))
        self.sizes = np.bincount(codes, minlength=len(self.names)).astype(np.int64)
        self.digest = digest(codes)
        if (empty := np.flatnonzero(self.sizes == 0)).size:
            raise UsageError(
                f"class {self.names[empty[0]]!r} has no rows",
                fix="leave it out of classes, or pass data in which it occurs",
            )

    def __str__(self) -> str:
        return f"{self.members.size:,} rows, {len(self.names):,} classes"

    def classes(self) -> tuple[Sequence[Any], Rows]:
        """The names of the classes, and the number of each row's: (rows,)."""
        codes = np.empty(self.members.size, np.int64)
        codes[self.members] = np.repeat(np.arange(self.sizes.size), self.sizes)
        return self.names, codes

    def refuse_small(self, rows: int, batch: int) -> None:
        """Raise UsageError if labels and rows don't match, or a batch cannot hold all classes."""
        refuse_other_length("labels", self.members.size, rows)
        if len(self.names) > batch:
            raise UsageError(
                f"{len(self.names)} classes do not fit into a batch of {batch} rows",
                why="a batch holds rows of each class",
                fix=f"use a batch of at least {len(self.names)} rows, or labels with fewer classes",
            )


def class_codes(labels: Any, rows: int) -> tuple[Sequence[Any], Rows]:
    """The names of the classes, and the number of each row's. Raises UsageError if they are of other rows."""
    given = vector("labels", labels)
    refuse_other_length("labels", given.size, rows)
    return _coded(given, None)


def numeric_values(values: Any, rows: int) -> NDArray[Any]:
    """Finite numbers, one for each row; those of classes, where the values are no numbers. Raises UsageError if there are none."""
    given = vector("values", values)
    refuse_other_length("values", given.size, rows)
    if given.dtype.kind not in "biuf":
        return _coded(given, None)[1]
    if (wrong := np.flatnonzero(~np.isfinite(given))).size:
        raise UsageError(f"the value of row {wrong[0]} is {given[wrong[0]]}", fix="use finite values")
    return given


def _without_label(labels: NDArray[Any]) -> int | None:
    """The first row whose label is missing: None, or not equal to itself, as NaN, NaT and the NA of pandas are."""
    if labels.dtype.kind in "fcmM":
        missing = np.flatnonzero(np.isnan(labels))
        return int(missing[0]) if missing.size else None
    if labels.dtype.kind not in "OT":
        return None
    return next((row for row, label in enumerate(labels.tolist()) if _is_missing(label)), None)


def _is_missing(label: Any) -> bool:
    if label is None or type(label).__name__ == "NAType":  # which is neither equal to itself nor not
        return True
    unequal = label != label  # noqa: PLR0124 (so NaN is)
    return isinstance(unequal, bool | np.bool_) and bool(unequal)


def _coded(labels: NDArray[Any], classes: Sequence[Any] | None) -> tuple[list[Any], Rows]:
    """The names of the classes, and the number of each row's class."""
    if (missing := _without_label(labels)) is not None:
        raise UsageError(
            f"row {missing} has no label: it is {labels[missing]}",
            fix="leave such rows out, or give them a label",
        )
    try:
        found, codes = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "the labels cannot be sorted",
            why=str(error),
            fix="use labels of one type, such as strings or integers",
        ) from error
    names, codes = found.tolist(), codes.reshape(-1).astype(np.int64)
    if classes is None:
        return names, codes
    named = {name: number for number, name in enumerate(dict.fromkeys(classes))}
    if unknown := [name for name in names if name not in named]:
        row = int(np.flatnonzero(codes == names.index(unknown[0]))[0])
        raise UsageError(
            f"the label of row {row} is {unknown[0]!r}, which is not in classes",
            fix=f"use one of {', '.join(map(repr, list(named)[:20]))}",
        )
    return list(named), np.array([named[name] for name in names], np.int64)[codes]


class Stratified:
    """Each batch holds each class in the proportion that it has in the data set, up to rounding; each row comes once an epoch.

    `labels` (rows,) are integers, strings or what else can be sorted, and none is missing; `classes` names those that must occur. If the ranks divide the
    batch, each rank's part is stratified too. Rows are drawn one by one, in any order within their class. It takes 4 bytes a row.
    """

    def __init__(self, labels: Any, *, classes: Sequence[Any] | None = None) -> None:
        self.strata = _Strata(labels, classes)

    def __repr__(self) -> str:
        return f"Stratified({self.strata})"

    def plan(self, rows: int, *, seed: int, batch: int | None, drop_last: bool) -> BatchPlan:
        """The batches of a data set of `rows` rows. Raises UsageError if they cannot be stratified."""
        size = needed(batch)
        self.strata.refuse_small(rows, size)
        ordering = _ByClass(self.strata, self.strata.sizes, size, seed, "stratified")
        return EqualBatches(ordering, size, drop_last)

    def classes(self) -> tuple[Sequence[Any], Rows]:
        """The names of the classes, and the number of each row's: (rows,)."""
        return self.strata.classes()

    def lengths(self) -> None:
        """Rows have none."""


class Oversampled:
    """Each batch holds equally many rows of each class, up to rounding: the rows of rare classes come several times.

    An epoch has `classes * n` rows, where n are the rows of the largest class, each of which comes once. Each row of another class comes
    as often as any other of its class, or once more. `labels` and `classes` are as those of Stratified. It takes 4 bytes a row.
    """

    def __init__(self, labels: Any, *, classes: Sequence[Any] | None = None) -> None:
        self.strata = _Strata(labels, classes)

    def __repr__(self) -> str:
        return f"Oversampled({self.strata})"

    def plan(self, rows: int, *, seed: int, batch: int | None, drop_last: bool) -> BatchPlan:
        """The batches of a data set of `rows` rows. Raises UsageError if they cannot be balanced."""
        size = needed(batch)
        self.strata.refuse_small(rows, size)
        sizes = self.strata.sizes
        ordering = _ByClass(self.strata, np.full_like(sizes, sizes.max()), size, seed, "oversampled")
        return EqualBatches(ordering, size, drop_last)

    def classes(self) -> tuple[Sequence[Any], Rows]:
        """The names of the classes, and the number of each row's: (rows,)."""
        return self.strata.classes()

    def lengths(self) -> None:
        """Rows have none."""


@dataclass(frozen=True)
class _ByClass:
    """An ordering in which each batch has its share of each class, of which `counts` rows come in an epoch."""

    strata: _Strata
    counts: Rows
    batch: int
    seed: int
    kind: str

    @cached_property
    def rows(self) -> int:
        return int(self.counts.sum())

    def of_epoch(self, epoch: int) -> _EpochByClass:
        return _EpochByClass(self, key_of(self.seed, epoch))

    def state(self) -> dict[str, int]:
        return {"rows": self.strata.members.size, self.kind: self.strata.digest}

    def resumed(self, state: Mapping[str, int]) -> _ByClass:  # noqa: ARG002 (nothing of it is chosen by a planner)
        return self


@dataclass(frozen=True)
class _EpochByClass:
    """One epoch by class.

    The rows of the full batches, class after class, are dealt out to them like cards, so that each batch has of each class the same
    number or one more (as in scikit-learn's StratifiedKFold). The tail has got its share of each class before. Within a batch rows lie
    class after class, from a random row on, so what a rank has of it is also stratified.
    """

    own: _ByClass
    key: int

    def start(self, window: int) -> int:
        return min(window * self._window, self.own.rows)

    def window_at(self, position: int) -> int:
        return position // self._window

    def of_window(self, window: int, rank: int = 0, ranks: int = 1) -> Rows:
        low, high = self.start(window), self.start(window + 1)
        at = np.arange(low + (rank - low) % ranks, high, ranks)
        full = int(np.searchsorted(at, self._full * self.own.batch))
        if full == at.size:
            return self._dealt(at)
        return np.concatenate([self._dealt(at[:full]), self._of_tail(at[full:])])

    @cached_property
    def _window(self) -> int:
        return max(1, WINDOW // self.own.batch) * self.own.batch

    @cached_property
    def _full(self) -> int:
        """The number of full batches."""
        return self.own.rows // self.own.batch

    @cached_property
    def _tail_ends(self) -> Rows:
        """Where each class ends in the tail: its share, rounded up or down by chance."""
        rest = self.own.rows % self.own.batch
        return (np.cumsum(self.own.counts) * rest + key_of(self.key, 1) % self.own.rows) // self.own.rows

    @cached_property
    def _dealt_counts(self) -> Rows:
        """The rows of each class in all full batches."""
        return self.own.counts - np.diff(self._tail_ends, prepend=0)

    @cached_property
    def _dealt_ends(self) -> Rows:
        return np.cumsum(self._dealt_counts)

    def _dealt(self, at: Rows) -> Rows:
        if not at.size:
            return at
        batch, full = self.own.batch, self._full
        steps, slots = np.divmod(at, batch)
        low = steps[0]
        some = np.arange(low, steps[-1] + 1)
        slots += (drawn(some, key_of(self.key, 2)) % np.uint64(batch)).astype(np.int64)[steps - low]
        slots -= batch * (slots >= batch)
        cards = permuted(some, full, key_of(self.key, 3))[steps - low] + full * slots
        classes = np.searchsorted(self._dealt_ends, cards, side="right")
        return self._members(classes, cards - (self._dealt_ends - self._dealt_counts)[classes])

    def _of_tail(self, at: Rows) -> Rows:
        places = at - self._full * self.own.batch
        classes = np.searchsorted(self._tail_ends, places, side="right")
        before = np.concatenate([[0], self._tail_ends[:-1]])
        return self._members(classes, self._dealt_counts[classes] + places - before[classes])

    def _members(self, classes: Rows, places: Rows) -> Rows:
        """The rows at these places of their class, in random order; after the last comes another such round of the class."""
        sizes = self.own.strata.sizes
        rounds, places = np.divmod(places, sizes[classes])
        keys = drawn(rounds * sizes.size + classes, key_of(self.key, 4))
        found = (np.cumsum(sizes) - sizes)[classes] + permuted_within(places, sizes[classes], keys)
        return self.own.strata.members[found].astype(np.int64)


# --- By weight.


class Weighted:
    """Rows are drawn with replacement, each with a probability proportional to its weight, as by PyTorch's WeightedRandomSampler.

    An epoch has as many draws as the data set has rows; a row may come several times in it, or never. It takes 16 bytes a row.
    """

    def __init__(self, weights: Any) -> None:
        numbers = vector("weights", weights)
        if numbers.dtype.kind not in "fiub":
            raise UsageError(f"the weights are of the type {numbers.dtype}", fix="pass real numbers")
        given = numbers.astype(np.float64)
        if (wrong := np.flatnonzero(~np.isfinite(given) | (given < 0))).size:
            raise UsageError(
                f"the weight of row {wrong[0]} is {given[wrong[0]]}", fix="use finite weights of at least 0"
            )
        sums = np.cumsum(given / max(given.max(), np.finfo(np.float64).tiny))
        if not sums[-1] > 0:
            raise UsageError("all weights are 0", fix="give at least one row a weight above 0")
        self.table = _Cumulative(np.floor(sums / sums[-1] * (1 << DRAW_BITS)).astype(np.int64))
        self.digest = digest(given)

    def __repr__(self) -> str:
        return f"Weighted({self.table.ends.size:,} rows)"

    def plan(self, rows: int, *, seed: int, batch: int | None, drop_last: bool) -> BatchPlan:
        """The batches of a data set of `rows` rows. Raises UsageError if the weights are of other data."""
        size = needed(batch)
        refuse_other_length("weights", self.table.ends.size, rows)
        return EqualBatches(_ByWeight(self.table, self.digest, seed), size, drop_last)

    def classes(self) -> None:
        """There are none."""

    def lengths(self) -> None:
        """Rows have none."""


DRAW_BITS = 53
"""A row is drawn by a number of so many bits."""


class _Cumulative:
    """Cumulative weights, where each row ends, with a guide table (Chen & Asau, AIIE Transactions 6, 1974): a row is found at once or nearly."""

    def __init__(self, ends: Rows) -> None:
        self.ends = ends
        self._shift = DRAW_BITS - min(DRAW_BITS, max(1, int(ends.size).bit_length()))
        self._guide = compact(
            np.searchsorted(
                ends, np.arange((1 << (DRAW_BITS - self._shift)) + 1) << self._shift, side="right"
            )
        )

    def rows(self, draws: Rows) -> Rows:
        """The first row that ends after each draw."""
        cells = draws >> self._shift
        low, high = (self._guide[each].astype(np.int64) for each in (cells, cells + 1))
        left = np.flatnonzero(low < high)
        while left.size:  # bisection of what the guide leaves open
            middle = (low[left] + high[left]) >> 1
            after = self.ends[middle] > draws[left]
            low[left] = np.where(after, low[left], middle + 1)
            high[left] = np.where(after, middle, high[left])
            left = left[low[left] < high[left]]
        return low


@dataclass(frozen=True, slots=True)
class _ByWeight:
    table: _Cumulative
    digest: int
    seed: int

    @property
    def rows(self) -> int:
        return self.table.ends.size

    def of_epoch(self, epoch: int) -> _EpochByWeight:
        return _EpochByWeight(self.table, key_of(self.seed, epoch))

    def state(self) -> dict[str, int]:
        return {"rows": self.rows, "weighted": self.digest}

    def resumed(self, state: Mapping[str, int]) -> _ByWeight:  # noqa: ARG002 (as that of _ByClass)
        return self


@dataclass(frozen=True, slots=True)
class _EpochByWeight:
    table: _Cumulative
    key: int

    def start(self, window: int) -> int:
        return min(window * WINDOW, self.table.ends.size)

    def window_at(self, position: int) -> int:
        return position // WINDOW

    def of_window(self, window: int, rank: int = 0, ranks: int = 1) -> Rows:
        low, high = self.start(window), self.start(window + 1)
        draws = drawn(np.arange(low + (rank - low) % ranks, high, ranks), self.key) >> np.uint64(11)
        return self.table.rows(draws.astype(np.int64))


# --- By length.

WIDTH = 16
"""Rows of a bucket are at most a sixteenth shorter than its longest, if that makes MIXED batches."""
MIXED = 4
"""Batches whose rows are mixed with one another, so that those of each epoch are other ones."""


LONGEST = (1 << 63) - 1
"""What a number of 64 bits can hold."""


def row_lengths(lengths: Any, rows: int | None = None) -> Rows:
    """The lengths of rows. Raises UsageError if one is no whole number of at least 1, or if they are not `rows`."""
    given = vector("lengths", lengths)
    if given.dtype.kind not in "iu":
        raise UsageError(f"the lengths are of the type {given.dtype}", fix="pass whole numbers")
    if rows is not None:
        refuse_other_length("lengths", given.size, rows)
    if (wrong := np.flatnonzero(given <= 0)).size:
        raise UsageError(
            f"the length of row {wrong[0]} is {given[wrong[0]]}", fix="leave out rows without tokens"
        )
    if given.max() > LONGEST:
        row = int(given.argmax())
        raise UsageError(f"the length of row {row} is {given[row]}", fix=f"use lengths up to {LONGEST}")
    return given.astype(np.int64)


class TokenBuckets:
    """Batches of rows of similar length, of at most `tokens` tokens with their padding: rows times the longest row.

    Each row comes once an epoch. `lengths` (rows,) are whole numbers; `tokens` is the limit of the global batch, which the ranks share,
    and `batch` may limit its rows too. A batch has a multiple of `multiple` rows where so many fit: give a multiple of the number of
    ranks, so that they get equally many. At each step the tokens of two ranks differ by the longest row at most. `drop_last`
    leaves out some of the shortest rows. It takes 8 bytes a row, 12 with lengths from 2^31 on.
    """

    def __init__(self, lengths: Any, tokens: int, *, multiple: int = 8) -> None:
        self.tokens, self.multiple = whole("tokens", tokens), whole("multiple", multiple)
        if self.tokens > LONGEST:
            raise UsageError(f"tokens is {tokens}", fix=f"use up to {LONGEST}")
        given = row_lengths(lengths)
        if (long := np.flatnonzero(given > self.tokens)).size:
            row = int(long[given[long].argmax()])
            raise UsageError(
                f"row {row} has {given[row]} tokens, more than a batch of {self.tokens}",
                why=f"{long.size} of {given.size} rows are too long",
                fix=f"cut or leave out such rows, or use tokens={given[row]} or more",
            )
        shorter = given.max() - given
        few = shorter.astype(np.uint16) if shorter.max() < 1 << 16 else shorter  # a radix sort
        self.members = compact(np.argsort(few, kind="stable"))
        self.sorted = compact(given[self.members])
        self.digest = digest(given)

    def __repr__(self) -> str:
        return f"TokenBuckets({self.members.size:,} rows, tokens={self.tokens:,}, multiple={self.multiple})"

    def plan(self, rows: int, *, seed: int, batch: int | None, drop_last: bool) -> BatchPlan:
        """The batches of a data set of `rows` rows. Raises UsageError if the lengths are of other data."""
        refuse_other_length("lengths", self.members.size, rows)
        most = self.tokens if batch is None else whole("batch", batch)
        return _BucketPlan(self, _Buckets.of(self.sorted, self.tokens, self.multiple, most), seed, drop_last)

    def classes(self) -> None:
        """There are none."""

    def lengths(self) -> Rows:
        """The length of each row."""
        lengths = np.empty(self.members.size, np.int64)
        lengths[self.members] = self.sorted
        return lengths


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Rows in the order of their length, the longest first, as they are cut into buckets of similar length and into batches.

    `starts` are the places where buckets begin, `cuts` where batches do, and where the last one ends. `batch` are the rows of the largest
    batch, and `tail` is set if the last batch has fewer rows than would fit.
    """

    starts: Rows
    cuts: Rows
    batch: int
    tail: bool

    @classmethod
    def of(cls, lengths: Rows, tokens: int, multiple: int, most: int) -> _Buckets:
        """Those of sorted lengths: batches of at most `tokens` padded tokens and `most` rows."""
        rows, starts = lengths.size, [0]
        cuts: list[Rows] = []
        fits: list[int] = []
        at = 0  # where the next batch begins
        while starts[-1] < rows:
            low = starts[-1]
            longest = int(lengths[low])
            fit = min(tokens // longest, most)
            fit -= fit % multiple if fit >= multiple else 0
            similar = rows - int(np.searchsorted(lengths[::-1], longest - longest // WIDTH))
            high = max(similar, low + MIXED * fit)
            high = high if high + fit <= rows else rows
            batches = max(0, -(-(high - at) // fit))
            cuts.append(at + fit * np.arange(batches))
            at += fit * batches
            starts.append(high)
            fits.append(fit)
        ends = np.concatenate([*cuts, [rows]])
        return cls(np.array(starts[:-1]), ends, max(fits), at > rows)


@dataclass(frozen=True)
class _BucketPlan:
    """A plan of batches that are cut from rows of similar length in random order.

    The batches come in random order; but if the last one cut is not full, it and the one before it come last.
    """

    own: TokenBuckets
    buckets: _Buckets
    seed: int
    drop_last: bool

    @property
    def batch(self) -> int:
        return self.buckets.batch

    @cached_property
    def _sizes(self) -> Rows:
        return np.diff(self.buckets.cuts)

    def fewest(self) -> int:
        sizes = self._sizes
        return int((sizes[:-1] if self.buckets.tail and sizes.size > 1 else sizes).min())

    def steps(self, ranks: int) -> int:
        sizes = self._sizes
        left_out = self.drop_last or (sizes.size > 1 and sizes[-1] < ranks)
        return sizes.size - (1 if self.buckets.tail and left_out else 0)

    def parts(
        self, epoch: int, rank: int, ranks: int, start: int, ahead: Ahead = unheeded, *, most: int = 0
    ) -> Iterator[Part]:
        steps, key, cuts = self.steps(max(ranks, most)), key_of(self.seed, epoch), self.buckets.cuts
        free = max(0, self._sizes.size - 2) if self.buckets.tail else self._sizes.size
        together = max(1, WINDOW * self._sizes.size // int(cuts[-1]))
        for first in range(start, steps, together):
            some = np.arange(first, min(first + together, steps))
            found = np.where(some < free, permuted(np.minimum(some, free - 1), free, key), some)
            lows, highs = cuts[found], cuts[found + 1]
            if some[-1] == steps - 1 and not self.drop_last and free < steps:
                highs[-1] = cuts[-1]  # the tail joins it, or it is the tail
            sizes = highs - lows
            ends = np.cumsum(sizes)
            places = self._mixed(np.arange(ends[-1]) + np.repeat(lows - ends + sizes, sizes), key)
            sorted_places = [
                np.sort(places[high - size : high]) for size, high in zip(sizes, ends, strict=True)
            ]
            mine = [
                # Another rank has the longest row at each step.
                self.own.members[batch[(rank + step) % ranks :: ranks]].astype(np.int64)
                for step, batch in zip(some.tolist(), sorted_places, strict=True)
            ]
            ahead(np.concatenate(mine))
            for step, numbers, batch in zip(some.tolist(), mine, sorted_places, strict=True):
                tokens = int(self.own.sorted[batch].sum(dtype=np.int64))
                yield Part(step, numbers, batch.size, tokens)

    def windows(self, epoch: int, rank: int, ranks: int, start: int) -> Windows | None:  # noqa: ARG002 the protocol's
        return None

    def state(self) -> dict[str, int]:
        cut = np.concatenate([self.buckets.starts, self.buckets.cuts])
        tokens, rows = self.own.tokens, self.own.members.size
        return {"rows": rows, "tokens": tokens, "lengths": self.own.digest, "buckets": digest(cut)}

    def resumed(self, state: Mapping[str, int]) -> _BucketPlan:  # noqa: ARG002 (as that of _ByClass)
        return self

    def _mixed(self, places: Rows, key: int) -> Rows:
        """Where the rows at these places come from: other places of their bucket."""
        starts = self.buckets.starts
        bucket = np.searchsorted(starts, places, side="right") - 1
        sizes = np.diff(starts, append=self.buckets.cuts[-1])[bucket]
        return starts[bucket] + permuted_within(places - starts[bucket], sizes, drawn(bucket, key_of(key, 1)))
