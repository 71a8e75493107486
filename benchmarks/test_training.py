"""What the loader takes of a training step: CPU time in the training's own process, beside DataLoader's own shuffles."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hooke.data import Shuffled

ROWS, BATCH, COLUMNS, STEPS, REPEATS = 1_000_000, 256, 16, 200, 5
MODEL_S = 0.005


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    return {"x": chance.random((ROWS, COLUMNS), np.float32), "y": chance.integers(0, 2, ROWS)}


def hooke_loader(table: dict[str, np.ndarray], workers: int) -> Iterator[Any]:
    from hooke.frameworks.torch import ShuffledLoader

    return iter(ShuffledLoader(Shuffled(table, seed=0, batch=BATCH), num_workers=workers))


def sliced(table: dict[str, np.ndarray], workers: int) -> Iterator[Any]:
    """A permutation of all rows in batches, each taken at once: DataLoader's fastest way, with a sampler of whole batches."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    class Table(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, rows: list[int]) -> Any:
            return {name: column[rows] for name, column in table.items()}

    batches = BatchSampler(RandomSampler(range(ROWS)), BATCH, drop_last=False)
    return iter(DataLoader(Table(), sampler=batches, batch_size=None, num_workers=workers))


def by_item(table: dict[str, np.ndarray], workers: int) -> Iterator[Any]:
    from torch import from_numpy
    from torch.utils.data import DataLoader, TensorDataset

    rows = TensorDataset(from_numpy(table["x"]), from_numpy(table["y"]))
    return iter(DataLoader(rows, batch_size=BATCH, shuffle=True, num_workers=workers))


def test_the_loaders_share_of_a_step_of_5_ms(table: dict[str, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    found: dict[tuple[str, int], list[float]] = {}
    loaders: list[Callable[..., Iterator[Any]]] = [hooke_loader, sliced, by_item]
    for _ in range(REPEATS):
        for workers in (0, 1):
            for make in loaders:
                found.setdefault((make.__name__, workers), []).append(share(make(table, workers)))
    for (name, workers), shares in found.items():
        print(f"{name:13} {workers} workers: {np.median(shares):.2%} of a step in which the model takes 5 ms")


def share(batches: Iterator[Any]) -> float:
    """CPU time of this process for a batch, over that of a step; after the first batches, for which workers start."""
    import torch

    weights = torch.ones(256, 256)
    for _ in range(20):
        next(batches)
    taken = 0.0
    for _ in range(STEPS):
        start = time.process_time()
        while time.process_time() < start + MODEL_S:
            weights @ weights
        start = time.process_time()
        next(batches)
        taken += time.process_time() - start
    return taken / STEPS / (taken / STEPS + MODEL_S)
