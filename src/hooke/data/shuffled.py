"""`Shuffled`: the batches of a data set in a random order that depends on nothing but its seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.data.order import BlockLayout, Order, Rows
from hooke.data.quality import Quality, measured_vif, plan_layout, predicted_vif

__all__ = ["Batches", "Shuffled"]

MEMORY = 256 << 20
AT_ONCE_BYTES = 256 << 10
"""Read at once for some batches, each of which is a part of it."""


# --- Sources: anything with rows.


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows by number; `take` gives them in the source's own kind, `part` rows [low, high) of what `take` gave."""

    kind: str
    rows: int
    row_bytes: float
    take: Callable[[Rows], Any]
    part: Callable[[Any, int, int], Any]


def _opened(data: Any) -> _Source:
    if isinstance(data, str | Path):
        return _opened(_read(Path(data)))
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__qualname__}"
    if isinstance(data, np.ndarray):
        return _of_array(data)
    if isinstance(data, Mapping):
        return _of_columns(data)
    if kind == "pandas.DataFrame":
        size = float(data.memory_usage(deep=True).sum())
        return _Source(
            kind, len(data), size / max(len(data), 1), data.take, lambda read, low, high: read.iloc[low:high]
        )
    if kind == "polars.DataFrame":
        size = float(data.estimated_size())
        return _Source(kind, len(data), size / max(len(data), 1), data.__getitem__, _sliced)
    if kind == "pyarrow.Table":
        whole = data.combine_chunks()  # `take` copies the chunks each time otherwise
        return _Source(kind, len(whole), whole.nbytes / max(len(whole), 1), whole.take, _sliced)
    if isinstance(data, Sequence) and not isinstance(data, bytes | bytearray | memoryview):
        return _of_sequence(data)
    raise UsageError(
        f"cannot shuffle a {type(data).__qualname__}",
        fix="pass an array, a dict of arrays, a pandas, Polars or Arrow table, a sequence such as a list, or the path of a .npy file",
    )


def _sliced(read: Any, low: int, high: int) -> Any:
    return read.slice(low, high - low)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="pass the path of a .npy file")
    if path.suffix != ".npy":
        raise UsageError(
            f"{path} is not a .npy file",
            fix="read it, for example with polars.read_parquet, and pass the table",
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as an array", why=str(error)) from error


def _of_array(data: NDArray[Any]) -> _Source:
    if data.ndim == 0:
        raise UsageError(
            "cannot shuffle an array without dimensions", fix="pass one with a row for each example"
        )
    plain = data.view(np.ndarray)  # of a memory-mapped one too, whose class costs time with each batch
    size = plain.nbytes / max(len(plain), 1)
    return _Source("numpy.ndarray", len(plain), size, lambda rows: np.take(plain, rows, axis=0), _indexed)


def _indexed(read: Any, low: int, high: int) -> Any:
    return read[low:high]


def _of_columns(data: Mapping[str, Any]) -> _Source:
    columns = {name: np.asarray(values) for name, values in data.items()}
    lengths = {name: len(values) if values.ndim else 0 for name, values in columns.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise UsageError(
            "the columns have different numbers of rows" if columns else "the dict has no columns",
            why=", ".join(f"{name}: {rows}" for name, rows in lengths.items()),
            fix="pass arrays of the same length",
        )
    rows = next(iter(lengths.values()))
    size = sum(values.nbytes for values in columns.values()) / max(rows, 1)
    return _Source(
        "dict",
        rows,
        size,
        lambda at: {name: np.take(values, at, axis=0) for name, values in columns.items()},
        lambda read, low, high: {name: values[low:high] for name, values in read.items()},
    )


def _of_sequence(data: Sequence[Any]) -> _Source:
    sizes = [len(each) for each in data[:64] if hasattr(each, "__len__")]
    size = sum(sizes) / len(sizes) if sizes else 64.0
    return _Source("sequence", len(data), size, lambda rows: [data[row] for row in rows.tolist()], _indexed)


# --- The data set.


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
        self, source: _Source, order: Order, share: _Share, start: int, moved: Callable[[int], None]
    ) -> None:
        self.step = start - 1
        self.rows = 0
        self.weight = 1.0
        self._source, self._order, self._share, self._moved = source, order, share, moved
        self._parts = self._read(start)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        self.step, rows, batch = next(self._parts)
        low, high = self._share.ends(self.step)
        self.rows = high - low
        self.weight = rows * self._share.ranks / self.rows
        self._moved(self.step + 1)
        return batch

    def _read(self, start: int) -> Iterator[tuple[int, int, Any]]:
        """(step, rows of this rank's part, this part) from step `start` on; some batches are read at once."""
        size = self._source.row_bytes * self._share.batch / self._share.ranks
        together = max(1, int(AT_ONCE_BYTES / max(size, 1)))
        numbered = self._numbered(start)
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
        return self._order.of_window(window, share.rank, share.ranks), share.before(self._order.start(window))


class Shuffled:
    """Batches of a data set in random order.

    The order is a pure function of seed and epoch: the same for any number of ranks, each row once an epoch. `batch` is the number
    of rows of the global batch, which the ranks share. Batches are of the source's own kind; a source is an array (memory-mapped
    ones too), a dict of arrays, a pandas, Polars or Arrow table, a sequence of anything, or the path of a `.npy` file, which is
    memory-mapped.

    Rows are drawn in blocks; `quality()` says how near that comes to a perfect shuffle. `memory` is what a window of blocks may
    take, in bytes. Raises UsageError for a source or a number that cannot be used.
    """

    def __init__(
        self, source: Any, *, seed: int, batch: int, drop_last: bool = False, memory: int | None = None
    ) -> None:
        self._source = _opened(source)
        self.seed, self.batch = _whole("seed", seed, least=None), _whole("batch", batch)
        self.drop_last = drop_last
        if not self._source.rows:
            raise UsageError("the data set has no rows", fix="pass one with at least one row")
        if drop_last and len(self) < self.batch:
            raise UsageError(
                f"{len(self)} rows are less than a batch of {self.batch}, so drop_last leaves nothing",
                fix="use a smaller batch, or drop_last=False",
            )
        room = MEMORY if memory is None else _whole("memory", memory)
        self.layout = plan_layout(self._source.rows, self._source.row_bytes, self.batch, room)
        self._at = (0, 0)

    def __len__(self) -> int:
        """The number of rows."""
        return self._source.rows

    def __repr__(self) -> str:
        return f"Shuffled({self._source.kind}, {len(self):,} rows, seed={self.seed}, batch={self.batch})"

    def steps(self, ranks: int = 1) -> int:
        """Batches in an epoch. A last batch with fewer rows than ranks joins the one before it, so that no rank has none."""
        return self._share(0, ranks).steps

    def batches(
        self, epoch: int | None = None, rank: int = 0, ranks: int = 1, start: int | None = None
    ) -> Batches:
        """The batches of one rank, beginning with step `start`; by default where the state is: at first epoch 0, step 0.

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

        return Batches(self._source, Order(self.layout, self.seed, epoch), share, start, moved)

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
