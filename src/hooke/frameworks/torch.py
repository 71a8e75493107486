"""PyTorch: shuffled batches as tensors, in the one order whatever the number of ranks and of loader processes.

With K loader processes, process w reads every K-th step, from step w on. DataLoader takes from its processes in turn, which
restores the order. A state counts what the training loop has taken, not what was read ahead.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from signal import SIGTERM, Signals
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hooke.base.errors import HookeError, UsageError
from hooke.data import Batches, Shuffled
from hooke.data.arrays import columns_of
from hooke.data.order import key_of
from hooke.data.shuffled import TrainingBatch
from hooke.frameworks.position import LoaderPosition
from hooke.frameworks.torch_training import (
    Checkpoint,
    device,
    kept_random_states,
    process_group,
    rank_and_ranks,
    seed_cpu,
    set_seed,
)

__all__ = [
    "Checkpoint",
    "ShuffledDataset",
    "ShuffledLoader",
    "TrainingBatch",
    "device",
    "process_group",
    "set_seed",
    "tensors_of",
]


class ShuffledDataset(IterableDataset[TrainingBatch]):
    """The batches of a `Shuffled`, for any DataLoader with `batch_size=None` and any number of workers.

    `rank` and `ranks` are by default those of torch.distributed, or of the gang where it is not initialised. `transform` gets each
    batch in the source's own kind, in the process that reads it; what it returns becomes tensors (see `tensors_of`).

    `ShuffledLoader` is the DataLoader with epochs and a state. With another one, say where each epoch begins (`set_epoch`), and
    fork no workers that read a Polars table.
    """

    def __init__(
        self,
        data: Shuffled,
        *,
        rank: int | None = None,
        ranks: int | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        here = rank_and_ranks()
        self.data = data
        self.rank = here[0] if rank is None else rank
        self.ranks = here[1] if ranks is None else ranks
        self._transform = transform
        # In shared memory, for workers that live longer than an epoch.
        self._begins = torch.zeros(2, dtype=torch.int64).share_memory_()
        data.batches(0, self.rank, self.ranks, 0)  # refuses ranks that cannot share it

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.data.steps(self.ranks)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next iteration gives the batches of this epoch, beginning with step `start`.

        If that leaves fewer rows than ranks, it gives none, and rank 0 logs a warning.
        """
        if self.rank == 0:
            self.data.warn_of_rest(epoch, start, self.ranks)
        self._begins[0], self._begins[1] = epoch, start

    def __iter__(self) -> Iterator[TrainingBatch]:
        epoch, start = self._begins.tolist()
        info = get_worker_info()
        first, workers = (start, 1) if info is None else (start + info.id, info.num_workers)
        first = min(first, len(self))
        return self._as_tensors(self.data.batches(epoch, self.rank, self.ranks, first, every=workers), epoch)

    def _as_tensors(self, batches: Batches, epoch: int) -> Iterator[TrainingBatch]:
        for batch in batches:
            rows = batch if self._transform is None else self._transformed(batch, epoch, batches.step)
            yield TrainingBatch(
                tensors_of(rows), batches.weight, batches.rows, epoch, batches.step, batches.tokens
            )

    def _transformed(self, batch: Any, epoch: int, step: int) -> Any:
        """What `transform` makes of it, with random numbers of its own: those of a step are the same in whichever process it is."""
        assert self._transform is not None
        seed = key_of(self.data.seed, epoch, step, self.rank)
        with nullcontext() if get_worker_info() is not None else kept_random_states():
            seed_cpu(seed)
            return self._transform(batch)


OWN_OPTIONS = frozenset(
    {"batch_sampler", "batch_size", "collate_fn", "drop_last", "generator", "in_order", "sampler", "shuffle"}
)
"""Options of DataLoader that are decided by `Shuffled` and by `transform`."""


class ShuffledLoader(LoaderPosition, DataLoader[TrainingBatch]):
    """A DataLoader over the batches of a `Shuffled`: each iteration is one epoch, or the rest of one.

    `options` are those of DataLoader: `num_workers`, `pin_memory`, `persistent_workers`, `prefetch_factor` and so on. The other
    arguments are those of `ShuffledDataset`; `rank` and `ranks` are attributes, too. It draws nothing from PyTorch's global random
    numbers. If a worker dies while the loop waits for a batch, HookeError names it.

    Raises UsageError for options that decide what is in a batch, and for a Polars table with workers that are forked.
    """

    def __init__(
        self,
        data: Shuffled,
        *,
        rank: int | None = None,
        ranks: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        if wrong := sorted(OWN_OPTIONS & options.keys()):
            raise UsageError(
                f"a ShuffledLoader does not take {', '.join(wrong)}",
                why="the order and the size of its batches are those of the data",
                fix="pass seed, batch and drop_last to Shuffled, and what changes batches as `transform`",
            )
        dataset = ShuffledDataset(data, rank=rank, ranks=ranks, transform=transform)
        LoaderPosition.__init__(self, data, dataset.rank, dataset.ranks)
        self._workers: list[BaseProcess] = []
        self._plain = not options.get("num_workers") and not options.get("pin_memory")
        options["collate_fn"] = _unchanged if options.get("pin_memory") else _to_send
        self._seeds = torch.Generator()
        DataLoader.__init__(self, dataset, batch_size=None, generator=self._seeds, **options)
        if self.num_workers and data.kind.startswith("polars.") and self._forks:
            raise UsageError(
                "a Polars table cannot be read in a forked worker",
                why="its threads are not forked, so it would wait for ever",
                fix='use num_workers=0 or multiprocessing_context="forkserver", or pass a dict of arrays to Shuffled',
            )

    @property
    def _forks(self) -> bool:
        method: str = (self.multiprocessing_context or multiprocessing).get_start_method()
        return method == "fork"

    def __iter__(self) -> Iterator[TrainingBatch]:  # type: ignore[override]
        self._data.note_read()  # here, since workers cannot
        epoch, start = self._at
        dataset: ShuffledDataset = self.dataset  # type: ignore[assignment]
        dataset.set_epoch(epoch, start)
        # DataLoader draws a seed for its workers: from the global generator, a resumed epoch would draw one more than a whole one.
        self._seeds.manual_seed(key_of(self._data.seed, epoch, start) >> 1)
        if self._plain:
            # Not by DataLoader's way, which takes as long as the reading.
            return self._counted(iter(dataset), epoch)
        before = active_children()
        batches = super().__iter__()
        if not (self.persistent_workers and self._workers):
            self._workers = [process for process in active_children() if process not in before]
        return self._counted(_told(batches, self._workers), epoch)

    def _counted(self, batches: Iterator[TrainingBatch], epoch: int) -> Iterator[TrainingBatch]:
        for batch in batches:
            self._taken(epoch, batch.step + 1)
            yield batch._replace(data=tensors_of(batch.data)) if self._workers else batch
        self._ended(epoch)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """See LoaderPosition."""
        super().load_state_dict(state)
        self._iterator = None  # persistent workers have the data as it was


def _told(batches: Iterator[TrainingBatch], workers: list[BaseProcess]) -> Iterator[TrainingBatch]:
    """The batches; an error that comes of a worker's death names it. Else it may be that of a connection that was reset."""
    try:
        yield from batches
    except (RuntimeError, OSError, EOFError) as error:
        if (dead := _dead(workers)) is None:
            raise
        raise HookeError(
            f"a worker of the loader died: process {dead.pid} {_ending(dead.exitcode or 0)}",
            why=f"{type(error).__name__}: {error}",
            fix="if memory was short, use fewer num_workers or smaller batches; with num_workers=0, the training reads them itself",
        ) from error


def _dead(workers: list[BaseProcess]) -> BaseProcess | None:
    """A worker that died, and has perhaps not ended yet; the others are idle or were ended by DataLoader, with SIGTERM."""
    for worker in workers:
        worker.join(1.0 / len(workers))
    dead = [worker for worker in workers if worker.exitcode]
    return min(dead, key=lambda worker: worker.exitcode == -SIGTERM, default=None)


def _ending(exit_code: int) -> str:
    return f"was killed by {Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"


SMALL_BYTES = 256 << 10
"""Up to here, a pipe takes less time than shared memory, for which PyTorch opens a connection for each tensor: 0.2 ms."""


def _to_send(batch: TrainingBatch) -> TrainingBatch:
    """In a worker, arrays in the place of small tensors: PyTorch sends these through shared memory, and arrays through a pipe."""
    if get_worker_info() is None:
        return batch
    if isinstance(batch.data, dict):
        return batch._replace(data={name: _small_array(column) for name, column in batch.data.items()})
    return batch._replace(data=_small_array(batch.data))


def _small_array(value: Any) -> Any:
    is_plain = type(value) is torch.Tensor and value.dtype in _NUMPY_HAS and not value.requires_grad
    return value.numpy() if is_plain and value.nbytes <= SMALL_BYTES else value


_NUMPY_HAS = frozenset(
    {torch.bool, torch.float16, torch.float32, torch.float64}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)


def _unchanged(batch: TrainingBatch) -> TrainingBatch:
    return batch


# --- Arrays and tables as tensors.

ALIGNED_BYTES = 64
"""As PyTorch aligns its own. Where data begin elsewhere, products of matrices may be rounded otherwise, so a resumed training would differ."""


def tensors_of(batch: Any) -> Any:
    """The batch with tensors for its arrays of numbers, without a copy where the array's memory can be used: if that is aligned.

    A dict, and a pandas, Polars or Arrow table, becomes a dict by column. Arrays of text, dates or objects, lists and all else stay
    as they are.
    """
    if isinstance(batch, np.ndarray):
        return _tensor(batch)
    columns = columns_of(batch)
    if isinstance(columns, Mapping):
        return {name: tensors_of(column) for name, column in columns.items()}
    return batch


def _tensor(array: NDArray[Any]) -> Any:
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # PyTorch's tensors can be written to
    made = torch.from_numpy(array)
    return made.clone() if made.data_ptr() % ALIGNED_BYTES else made
