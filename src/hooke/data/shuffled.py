"""`Shuffled`: the batches of a data set in a random order that depends on nothing but its seed."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.base.formats import format_bytes
from hooke.base.observed import note_data_set
from hooke.base.this_process import most_ranks
from hooke.data.balance import Balancing, class_codes, needed, numeric_values, row_lengths, whole
from hooke.data.order import BatchPlan, BlockLayout, Blocks, EqualBatches, Order, Part
from hooke.data.quality import (
    WORST_VIF,
    Balance,
    Quality,
    measured_balance,
    measured_vif,
    memory_for,
    plan_layout,
    predicted_vif,
)
from hooke.data.sources import Source, opened

__all__ = ["Batches", "Shuffled", "TrainingBatch"]

_log = logging.getLogger("hooke")

MEMORY = 256 << 20
AT_ONCE_BYTES = 256 << 10
"""Read at once for some batches, each of which is a part of it."""
KINDS = {
    "block": "plain shuffling",
    "stratified": "Stratified",
    "oversampled": "Oversampled",
    "weighted": "Weighted",
    "tokens": "TokenBuckets",
}
"""The way of balancing whose states have this entry."""
POSITION = ("epoch", "step")
LAYOUT = ("block", "lanes", "window")
"""Of a state: taken from it, for the planner may give another layout."""


class Batches(Iterator[Any]):
    """Batches of one epoch for one rank.

    After each: `step` is its number in the epoch, `rows` the rows of the global batch, and `weight` the factor on the mean loss
    of this rank's part with which the average over the ranks is the mean over the global batch; 1 where the parts are equal.
    `tokens` are those of the global batch with TokenBuckets, without padding; else None.
    """

    def __init__(
        self,
        source: Source,
        parts: Iterator[Part],
        *,
        start: int,
        ranks: int,
        at_once: int,
        moved: Callable[[int], None],
    ) -> None:
        self._part = Part(start - 1, np.empty(0, np.int64), 0, None)
        self._ranks, self._moved = ranks, moved
        self._read = _read(source, parts, at_once)

    def __repr__(self) -> str:
        return f"<batches of an epoch: next is {self.step + 1}>"

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        part, batch = next(self._read)
        self._part = (
            part  # what it says is computed when it is asked for: that takes as long as the rest of a batch
        )
        self._moved(part.step + 1)
        return batch

    @property
    def step(self) -> int:
        """The number of the batch in the epoch."""
        return self._part.step

    @property
    def rows(self) -> int:
        """The rows of the global batch; 0 before the first."""
        return self._part.rows

    @property
    def weight(self) -> float:
        """The factor on the mean loss of this rank's part."""
        part = self._part
        return part.numbers.size * self._ranks / part.rows if part.rows else 1.0

    @property
    def tokens(self) -> int | None:
        """Tokens of the global batch with TokenBuckets."""
        return self._part.tokens


def _read(source: Source, parts: Iterator[Part], at_once: int) -> Iterator[tuple[Part, Any]]:
    """Each part with its rows; some parts are read at once."""
    while waiting := list(itertools.islice(parts, at_once)):
        numbers = [part.numbers for part in waiting]
        read = source.take(numbers[0] if len(numbers) == 1 else np.concatenate(numbers))
        low = 0
        for part in waiting:
            high = low + part.numbers.size
            yield part, source.part(read, low, high)
            low = high


class TrainingBatch(NamedTuple):
    """A rank's part of a global batch, as a training framework gets it."""

    data: Any
    """The rows: tensors, or a dict of them by column."""
    weight: float
    """The factor on the mean loss of this part with which the average over the ranks is the mean over the global batch."""
    rows: int
    """Rows of the global batch."""
    epoch: int
    step: int
    """The number of the batch in its epoch."""
    tokens: int | None = None
    """Tokens of the global batch, without padding, with TokenBuckets."""


class Shuffled:
    """Batches of a data set in random order.

    The order is a pure function of seed and epoch: the same for any number of ranks, each row once an epoch. `batch` is the number
    of rows of the global batch, which the ranks share. Batches are of the source's own kind; a source is an array (memory-mapped
    ones too), a dict of arrays, a pandas, Polars or Arrow table, a sequence of anything, or the path of a file: a packed one
    (`pack`), a `.npy` file, which is memory-mapped, or a Parquet file, which is read into memory if it fits into `memory`.

    Rows are drawn in blocks; `quality()` says how near that comes to a perfect shuffle. `memory` is what a window of blocks may
    take, in bytes. Raises UsageError for a source or a number that cannot be used.

    `balance` is Stratified, Oversampled, Weighted or TokenBuckets. Rows are then drawn one by one; `balance()` reports what it comes to.
    With TokenBuckets, `batch` may be left out; else it is the most rows of a batch.
    """

    def __init__(
        self,
        source: Any,
        *,
        seed: int,
        batch: int | None = None,
        drop_last: bool = False,
        memory: int | None = None,
        balance: Balancing | None = None,
    ) -> None:
        self._memory = MEMORY if memory is None else whole("memory", memory)
        self._given, self._source = source, opened(source, self._memory)
        self.seed = whole("seed", seed, least=None)
        self.drop_last = drop_last
        if not self._source.rows:
            raise UsageError("the data set has no rows", fix="pass one with at least one row")
        self._balancing = balance
        if balance is None:
            size = needed(batch)
            self._plan: BatchPlan = self._plain(size)
        else:
            self._plan = _balanced(balance).plan(
                self._source.rows, seed=self.seed, batch=batch, drop_last=drop_last
            )
        self.batch = self._plan.batch
        if not self._plan.steps(1):
            raise UsageError(
                f"{len(self)} rows are less than a batch of {self.batch}, so drop_last leaves nothing",
                fix="use a smaller batch, or drop_last=False",
            )
        self._warn_of_quality()
        self._at = (0, 0)
        self._key = object()
        """Of the data set, among those that are read."""

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_source"}
        file = self._source.file  # another process has another working folder, and may find another file
        return state if file is None else state | {"_given": file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._source = opened(self._given, self._memory)  # another process opens a file itself

    @property
    def kind(self) -> str:
        """The class of the source and of its batches, as `numpy.ndarray` or `polars.DataFrame`."""
        return self._source.kind

    def __len__(self) -> int:
        """The number of rows."""
        return self._source.rows

    def __repr__(self) -> str:
        how = "" if self._balancing is None else f", balance={type(self._balancing).__name__}"
        return f"Shuffled({self._source.kind}, {len(self):,} rows, seed={self.seed}, batch={self.batch}{how})"

    @property
    def layout(self) -> BlockLayout | None:
        """How the rows are cut into blocks. With `balance`, they are not."""
        plan = self._plan
        return (
            plan.ordering.layout
            if isinstance(plan, EqualBatches) and isinstance(plan.ordering, Blocks)
            else None
        )

    def steps(self, ranks: int = 1) -> int:
        """Batches in an epoch. A last batch with fewer rows than ranks joins the one before it, so that no rank has none.

        In an elastic gang, it joins that if it has fewer rows than the gang may have ranks, so that the batches stay the same.
        """
        return self._plan.steps(max(ranks, most_ranks()))

    def batches(
        self,
        epoch: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        start: int | None = None,
        every: int = 1,
    ) -> Batches:
        """The batches of one rank, beginning with step `start`; by default where the state is: at first epoch 0, step 0.

        Where the state is of fewer ranks and leaves fewer rows of its epoch than these, there are no more batches in it: the next
        epoch follows, and a warning in the log says so.

        With `every`, only each so many-th step is read, for several processes that read the batches of one rank in turn.

        Raises UsageError if there are fewer rows in a batch or in all than ranks, or for numbers that are out of range.
        """
        rank, ranks = self._one_of(whole("rank", rank, least=0), ranks)
        every, steps, given = whole("every", every), self.steps(ranks), epoch
        epoch = self._at[0] if epoch is None else whole("epoch", epoch, least=0)
        if start is None:
            start = self._at[1] if epoch == self._at[0] else 0
            if start == steps and rank == 0:
                self.warn_of_rest(epoch, start, ranks)
            if start == steps and given is None:
                epoch, start = epoch + 1, 0
        start = whole("start", start, least=0)
        if start > steps:
            raise UsageError(f"start is {start}, of {steps} steps", fix="use a step of this epoch")

        def moved(step: int) -> None:
            self._at = (epoch + 1, 0) if step >= steps else (epoch, step)

        def parts() -> Iterator[Part]:
            if start == steps and every == 1:
                moved(start)  # else a loop over the epochs of the state would never leave this one
            self.note_read()
            self._follow(epoch, rank, ranks, start)
            planned = self._plan.parts(epoch, rank, ranks, start, self._source.ahead, most=most_ranks())
            yield from itertools.islice(planned, 0, None, every)

        at_once = max(1, int(AT_ONCE_BYTES / max(self._source.read_bytes * self.batch / ranks, 1)))
        return Batches(self._source, parts(), start=start, ranks=ranks, at_once=at_once, moved=moved)

    def note_read(self) -> None:
        """Note that its rows are read, among the data sets of the task or the script: for loaders that read in other processes."""
        source = self._source
        if source.note_read is not None:
            source.note_read()
        elif source.file is not None:
            note_data_set(source.file, source.described)
        else:
            note_data_set(self._key, source.described, self._given)

    def _follow(self, epoch: int, rank: int, ranks: int, start: int) -> None:
        """Tell the source what is read from here on, in this epoch and those after it."""
        plan = self._plan
        follow, own = self._source.follow, plan.windows(epoch, rank, ranks, start)
        if follow is None or own is None:
            return

        def later() -> Iterator[NDArray[np.int64]]:
            for number in itertools.count(epoch + 1):
                more = plan.windows(number, rank, ranks, 0)
                assert more is not None
                yield from more.blocks

        follow(itertools.chain(own.blocks, later()), own.block, own.count)

    def warn_of_rest(self, epoch: int, start: int, ranks: int) -> None:
        """Log a warning if the epoch has rows from step `start` on, but fewer than `ranks`, so that these end it without them."""
        if self.steps(ranks) <= start < self.steps(1):
            rows = next(self._plan.parts(epoch, 0, 1, start)).rows
            _log.warning(
                "epoch %s ends without its last %s rows, which are fewer than the %s ranks; %s ranks or fewer can read them",
                epoch,
                rows,
                ranks,
                rows,
            )

    def state_dict(self) -> dict[str, int]:
        """Where the batches are: epoch and step of the next one, and what the order depends on. Save it with the model."""
        epoch, step = self._at
        own = {"epoch": epoch, "step": step, "seed": self.seed, "batch": self.batch}
        return own | {"drop_last": int(self.drop_last)} | self._plan.state()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was called.

        Raises UsageError if the state is of another number of rows, seed, batch, drop_last or balance. The rows are not compared.
        """
        own = self.state_dict()
        there, here = (next((kind for kind in KINDS if kind in one), None) for one in (state, own))
        if there and here and there != here:
            raise UsageError(
                f"the state is one of {KINDS[there]}, and this data set has {KINDS[here]}",
                fix="balance the data set as it was when the checkpoint was made",
            )
        if missing := sorted(own.keys() - state.keys() - {"drop_last"}):  # older states lack it
            raise UsageError("this is not a state of Shuffled", why=f"it lacks {', '.join(missing)}")
        for name in own:
            if name in state and name not in (*POSITION, *LAYOUT) and state[name] != own[name]:
                raise _of_other_data(name, state[name], own[name])
        layout = {name: whole(name, state[name]) for name in ("rows", *LAYOUT) if name in own}
        self._plan = self._plan.resumed(layout)
        self._at = whole("epoch", state["epoch"], least=0), whole("step", state["step"], least=0)

    def quality(self, values: NDArray[Any] | None = None) -> Quality:
        """How good the shuffle is: the variance of the batches' means over that of a perfect shuffle.

        By default of data in which the rows of each block are alike, the worst case; else of `values` (rows,), such as the labels;
        those that are no numbers are numbered in their order.
        Raises UsageError with `balance`, where rows are not drawn in blocks.
        """
        if self.layout is None:
            raise UsageError(
                "quality() tells how well blocks are shuffled, and with balance rows are drawn one by one",
                fix="ask balance() how even the batches are",
            )
        if values is not None:
            values = numeric_values(values, len(self))
        measured, batches = measured_vif(Order(self.layout, self.seed, 0), self.batch, values)
        return Quality(predicted=predicted_vif(self.layout, self.batch), measured=measured, batches=batches)

    def balance(self, ranks: int = 1, *, labels: Any = None, lengths: Any = None) -> Balance:
        """How evenly the batches divide their work between `ranks` ranks, beside plain shuffling; measured on the batches of epoch 0.

        By default with the labels or lengths by which they are balanced, else with these, one for each row.
        """
        _, ranks = self._one_of(0, ranks)
        own, plan = self._balancing, self._plan
        classes, work = (own.classes(), own.lengths()) if own else (None, None)
        if labels is not None:
            classes = class_codes(labels, len(self))
        if lengths is not None:
            work = row_lengths(lengths, len(self))
        told = measured_balance(plan, ranks, classes, work)
        if own is None:
            return told
        size = plan.batch if isinstance(plan, EqualBatches) else max(1, round(len(self) / plan.steps(1)))
        return replace(told, plain=measured_balance(self._plain(size), ranks, classes, work))

    def _warn_of_quality(self) -> None:
        """Log a warning, on rank 0 of a gang, where the memory is too small for a good shuffle."""
        layout, own = self.layout, self._source
        if layout is None or os.environ.get("RANK", "0") != "0":
            return
        predicted = predicted_vif(layout, self.batch)
        if predicted < WORST_VIF:
            return
        enough = memory_for(own.rows, own.row_bytes, self.batch, own.together)
        _log.warning(
            "%s: %s of memory hold too few blocks for a good shuffle. If the data are sorted, the means of its batches have %.2f times the "
            "variance of a perfect shuffle's; for at most 1.05 times, pass memory=%d (%s)",
            repr(self),  # who keeps the record does not keep the file
            format_bytes(self._memory),
            predicted,
            enough,
            format_bytes(enough),
        )

    def _plain(self, batch: int) -> EqualBatches:
        """Batches that are not balanced."""
        own = self._source
        layout = plan_layout(own.rows, own.row_bytes, batch, self._memory, own.together)
        return EqualBatches(Blocks(layout, self.seed), batch, self.drop_last)

    def _one_of(self, rank: int, ranks: int) -> tuple[int, int]:
        """A rank and the number of them. Raises UsageError if one of them would have no rows."""
        ranks = whole("ranks", ranks)
        if rank >= ranks:
            raise UsageError(f"rank is {rank}, of {ranks} ranks", fix=f"use a rank from 0 to {ranks - 1}")
        most = max(ranks, most_ranks())
        if (fewest := self._plan.fewest()) < most:
            raise UsageError(
                f"{fewest} rows cannot be shared by {most} ranks",
                why="a rank without rows would wait for ever",
                fix=f"use batches of at least {most} rows, or fewer ranks",
            )
        return rank, ranks


def _balanced(balance: Balancing) -> Balancing:
    """`balance`. Raises UsageError if it is not one."""
    if isinstance(balance, type) or not hasattr(balance, "plan"):
        raise UsageError(
            f"balance is {balance!r}"[:100],
            fix="use hooke.data.Stratified(labels), Oversampled(labels), Weighted(weights) or TokenBuckets(lengths, tokens)",
        )
    return balance


DIGESTED = {
    "stratified": "labels",
    "oversampled": "labels",
    "weighted": "weights",
    "lengths": "lengths",
    "buckets": "buckets",
}
"""What these entries of a state stand for."""


def _of_other_data(name: str, there: int, here: int) -> UsageError:
    what = DIGESTED.get(name)
    return UsageError(
        f"the state is of other {what}"
        if what
        else f"the state is of other data: {name} is {there}, and here {here}",
        fix=f"use the data and the {what or name} that the checkpoint was made with",
    )
