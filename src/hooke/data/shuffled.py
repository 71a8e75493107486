"""`Shuffled`: the batches of a data set in a random order that depends on nothing but its seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.data.order import BlockLayout, Order, Rows
from hooke.data.quality import Quality, measured_vif, plan_layout, predicted_vif
from hooke.data.sources import Source, opened

__all__ = ["Batches", "Shuffled"]

MEMORY = 256 << 20
AT_ONCE_BYTES = 256 << 10
"""Read at once for some batches, each of which is a part of it."""


@dataclass(frozen=True)
class _Share:
    """The global batches of an epoch, and the positions in them that are a rank's: those that leave its number, modulo the ranks."""

    rows: int
    batch: int
    drop_last: bool
    rank: int
    ranks: int

    @cached_property
    def steps(self) -> int:
        """Batches in the epoch. A tail with fewer rows than ranks joins the batch before it."""
        full, rest = divmod(self.rows, self.batch)
        alone = rest >= self.ranks or not full
        return full + (alone if rest and not self.drop_last else 0)

    def ends(self, step: int) -> tuple[int, int]:
        """The first position of a global batch, and the one after its last."""
        low = step * self.batch
        return low, self.rows if step == self.steps - 1 and not self.drop_last else low + self.batch

    def before(self, position: int) -> int:
        """How many positions before this one are the rank's."""
        return -((self.rank - position) // self.ranks)


class Batches(Iterator[Any]):
    """Batches of one epoch for one rank.

    After each: `step` is its number in the epoch, `rows` the rows of the global batch, and `weight` the factor on the mean loss
    of this rank's part with which the average over the ranks is the mean over the global batch; 1 where the parts are equal.
    """

    def __init__(
        self, source: Source, order: Order, share: _Share, steps: range, moved: Callable[[int], None]
    ) -> None:
        self.step = steps.start - 1
        self.rows = 0
        self.weight = 1.0
        self._source, self._order, self._share, self._moved = source, order, share, moved
        self._parts = self._read(steps)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        self.step, rows, batch = next(self._parts)
        low, high = self._share.ends(self.step)
        self.rows = high - low
        self.weight = rows * self._share.ranks / self.rows
        self._moved(self.step + 1)
        return batch

    def _read(self, steps: range) -> Iterator[tuple[int, int, Any]]:
        """(step, rows of this rank's part, this part) of these steps; some batches are read at once."""
        size = self._source.row_bytes * self._share.batch / self._share.ranks
        together = max(1, int(AT_ONCE_BYTES / max(size, 1)))
        numbered = itertools.islice(self._numbered(steps.start), 0, None, steps.step)
        while waiting := list(itertools.islice(numbered, together)):
            numbers = [rows for _, rows in waiting]
            read = self._source.take(numbers[0] if len(numbers) == 1 else np.concatenate(numbers))
            low = 0
            for step, rows in waiting:
                yield step, rows.size, self._source.part(read, low, low + rows.size)
                low += rows.size

    def _numbered(self, start: int) -> Iterator[tuple[int, Rows]]:
        """(step, numbers of this rank's rows) from step `start` on."""
        share = self._share
        if start >= share.steps:
            return
        window = self._order.window_at(share.ends(start)[0])
        numbers, first = self._of_window(window)
        for step in range(start, share.steps):
            mine, until = map(share.before, share.ends(step))
            while first + numbers.size < until:
                window += 1
                more, _ = self._of_window(window)
                numbers, first = np.concatenate([numbers[mine - first :], more]), mine
            yield step, numbers[mine - first : until - first]

    def _of_window(self, window: int) -> tuple[Rows, int]:
        """The numbers of the rank's rows in a window, and how many are before them."""
        share = self._share
        numbers = self._order.of_window(window, share.rank, share.ranks)
        self._source.ahead(numbers)
        return numbers, share.before(self._order.start(window))


class Shuffled:
    """Batches of a data set in random order.

    The order is a pure function of seed and epoch: the same for any number of ranks, each row once an epoch. `batch` is the number
    of rows of the global batch, which the ranks share. Batches are of the source's own kind; a source is an array (memory-mapped
    ones too), a dict of arrays, a pandas, Polars or Arrow table, a sequence of anything, or the path of a file: a packed one
    (`pack`), a `.npy` file, which is memory-mapped, or a Parquet file, which is read into memory if it fits into `memory`.

    Rows are drawn in blocks; `quality()` says how near that comes to a perfect shuffle. `memory` is what a window of blocks may
    take, in bytes. Raises UsageError for a source or a number that cannot be used.
    """

    def __init__(
        self, source: Any, *, seed: int, batch: int, drop_last: bool = False, memory: int | None = None
    ) -> None:
        self._room = MEMORY if memory is None else _whole("memory", memory)
        self._given, self._source = source, opened(source, self._room)
        self.seed, self.batch = _whole("seed", seed, least=None), _whole("batch", batch)
        self.drop_last = drop_last
        if not self._source.rows:
            raise UsageError("the data set has no rows", fix="pass one with at least one row")
        if drop_last and len(self) < self.batch:
            raise UsageError(
                f"{len(self)} rows are less than a batch of {self.batch}, so drop_last leaves nothing",
                fix="use a smaller batch, or drop_last=False",
            )
        own = self._source
        self.layout = plan_layout(own.rows, own.row_bytes, self.batch, self._room, own.together)
        self._at = (0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_source"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._source = opened(self._given, self._room)  # another process opens a file itself

    @property
    def kind(self) -> str:
        """The class of the source and of its batches, as `numpy.ndarray` or `polars.DataFrame`."""
        return self._source.kind

    def __len__(self) -> int:
        """The number of rows."""
        return self._source.rows

    def __repr__(self) -> str:
        return f"Shuffled({self._source.kind}, {len(self):,} rows, seed={self.seed}, batch={self.batch})"

    def steps(self, ranks: int = 1) -> int:
        """Batches in an epoch. A last batch with fewer rows than ranks joins the one before it, so that no rank has none."""
        return self._share(0, ranks).steps

    def batches(
        self,
        epoch: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        start: int | None = None,
        every: int = 1,
    ) -> Batches:
        """The batches of one rank, beginning with step `start`; by default where the state is: at first epoch 0, step 0.

        With `every`, only each so many-th step is read, for several processes that read the batches of one rank in turn.

        Raises UsageError if there are fewer rows in a batch or in all than ranks, or for numbers that are out of range.
        """
        ranks, rank = _whole("ranks", ranks), _whole("rank", rank, least=0)
        epoch = self._at[0] if epoch is None else _whole("epoch", epoch, least=0)
        if start is None:
            start = self._at[1] if epoch == self._at[0] else 0
        start = _whole("start", start, least=0)
        if rank >= ranks:
            raise UsageError(f"rank is {rank}, of {ranks} ranks", fix=f"use a rank from 0 to {ranks - 1}")
        fewest = min(self.batch, len(self))
        if fewest < ranks:
            raise UsageError(
                f"{fewest} rows cannot be shared by {ranks} ranks",
                why="a rank without rows would wait for ever",
                fix=f"use a batch of at least {ranks} rows, or fewer ranks",
            )
        if start > self.steps(ranks):
            raise UsageError(
                f"start is {start}, of {self.steps(ranks)} steps", fix="use a step of this epoch"
            )
        share = self._share(rank, ranks)

        def moved(step: int) -> None:
            self._at = (epoch + 1, 0) if step >= share.steps else (epoch, step)

        steps = range(start, share.steps, _whole("every", every))
        return Batches(self._source, Order(self.layout, self.seed, epoch), share, steps, moved)

    def state_dict(self) -> dict[str, int]:
        """Where the batches are: epoch and step of the next one, and what the order depends on. Save it with the model."""
        epoch, step = self._at
        return {"epoch": epoch, "step": step, "seed": self.seed, "batch": self.batch} | asdict(self.layout)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was called. Raises UsageError if the state is that of another data set."""
        own = self.state_dict()
        if missing := sorted(own.keys() - state.keys()):
            raise UsageError("this is not a state of Shuffled", why=f"it lacks {', '.join(missing)}")
        for name in ("rows", "seed", "batch"):
            if state[name] != own[name]:
                raise UsageError(
                    f"the state is of other data: {name} is {state[name]}, and here {own[name]}",
                    fix=f"use the data and the {name} that the checkpoint was made with",
                )
        self.layout = BlockLayout(**{name: _whole(name, state[name]) for name in asdict(self.layout)})
        self._at = _whole("epoch", state["epoch"], least=0), _whole("step", state["step"], least=0)

    def quality(self, values: NDArray[Any] | None = None) -> Quality:
        """How good the shuffle is: the variance of the batches' means over that of a perfect shuffle.

        By default of data in which the rows of each block are alike, the worst case; else of `values` (rows,), such as the labels.
        """
        if values is not None and len(values) != len(self):
            raise UsageError(f"{len(values)} values for {len(self)} rows", fix="pass a value for each row")
        measured, batches = measured_vif(Order(self.layout, self.seed, 0), self.batch, values)
        return Quality(predicted=predicted_vif(self.layout, self.batch), measured=measured, batches=batches)

    def _share(self, rank: int, ranks: int) -> _Share:
        return _Share(len(self), self.batch, self.drop_last, rank, ranks)


def _whole(name: str, value: Any, *, least: int | None = 1) -> int:
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
