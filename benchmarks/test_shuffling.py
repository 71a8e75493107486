"""Shuffled batches of a table in the page cache: rows a CPU-second beside plain NumPy and PyTorch's DataLoader, in one process."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from hooke.data import Shuffled

ROWS, BATCH, ROW_BYTES, BLOCK = 4_000_000, 256, 64, 64
REPEATS = 5


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("table") / "rows.npy"
    np.save(path, np.random.default_rng(0).random((ROWS, ROW_BYTES // 8)))
    rows = np.load(path, mmap_mode="r")
    rows.sum()  # read into the page cache
    return rows


def rate(run: Callable[[], int]) -> float:
    """Rows a CPU-second of this process."""
    start = time.process_time()
    rows = run()
    return rows / (time.process_time() - start)


def ascending(table: np.ndarray) -> int:
    """`np.take` of all rows in their order."""
    plain = table.view(np.ndarray)
    for low in range(0, ROWS, BATCH):
        np.take(plain, np.arange(low, low + BATCH), axis=0)
    return ROWS


def sorted_blocks(table: np.ndarray) -> int:
    """`np.take` of blocks of a page: of 5,000 random ones at a time in ascending order, as a window reads them, without a shuffle."""
    plain, blocks = table.view(np.ndarray), np.random.default_rng(0).permutation(ROWS // BLOCK)
    for first in range(0, len(blocks), 5000):
        rows = (np.sort(blocks[first : first + 5000])[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        for low in range(0, len(rows), BATCH):
            np.take(plain, rows[low : low + BATCH], axis=0)
    return ROWS


def shuffled(table: np.ndarray) -> int:
    return sum(map(len, Shuffled(table, seed=0, batch=BATCH).batches()))


def permuted(table: np.ndarray) -> int:
    """A permutation of all rows, which holds 8 bytes a row and reads each at random."""
    plain, order = table.view(np.ndarray), np.random.default_rng(0).permutation(ROWS)
    for low in range(0, ROWS, BATCH):
        np.take(plain, order[low : low + BATCH], axis=0)
    return ROWS


def loader(table: np.ndarray) -> int:
    """PyTorch's DataLoader with shuffle=True, item by item; on fewer rows, for it takes long."""
    from torch.utils.data import DataLoader

    few = np.array(table[:50_000])
    return sum(map(len, DataLoader(few, batch_size=BATCH, shuffle=True)))


def test_shuffled_batches_beside_the_peers(table: np.ndarray) -> None:
    pytest.importorskip("torch")
    print(
        f"\n{ROWS:,} rows of {ROW_BYTES} bytes, batches of {BATCH}: {Shuffled(table, seed=0, batch=BATCH).quality()}"
    )
    rates: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        for run in (ascending, sorted_blocks, shuffled, permuted, loader):
            rates.setdefault(run.__name__, []).append(rate(lambda run=run: run(table)))
    base = np.median(rates["sorted_blocks"])
    for name, each in rates.items():
        print(
            f"{name:14} {np.median(each) / 1e6:7.2f} M rows a CPU-second, {np.median(each) / base:.2f} of sorted blocks"
        )
