"""Shuffled batches from packed files: CPU time beside reads of the same bytes in their order, in one process, as ratios of one run."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hooke.data import PackedFile, Shuffled, pack

TOTAL, BATCH = 400 << 20, 256
SIZES = [4 << 10, 16 << 10, 100 << 10]
ROWS, ROW_BYTES, BLOCK = 4_000_000, 64, 64
REPEATS = 5
FEW = 64 << 20
"""Memory of a source that is read block by block: little, so that an epoch finds few blocks of the one before."""


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def spent(run: Callable[[], object], clock: Callable[[], float] = cpu_seconds) -> float:
    start = clock()
    run()
    return clock() - start


def forgotten(path: Path) -> None:
    """None of the file's pages are in memory."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# --- What is measured against.


def in_pieces(path: Path) -> None:
    """All bytes in pieces of 1 MiB, each dropped at once: they stay in the processor's cache."""
    with path.open("rb", buffering=0) as stream:
        while stream.read(1 << 20):
            pass


def in_order(path: Path, sizes: list[int]) -> None:
    """The same batches without a shuffle: lists of 256 blobs, one after another."""
    with path.open("rb", buffering=0) as stream:
        for low in range(0, len(sizes), BATCH):
            [stream.read(size) for size in sizes[low : low + BATCH]]


def sorted_blocks(table: np.ndarray) -> None:
    """`np.take` of blocks of a page, 5,000 random ones at a time in ascending order."""
    blocks = np.random.default_rng(0).permutation(ROWS // BLOCK)
    for first in range(0, len(blocks), 5000):
        rows = (np.sort(blocks[first : first + 5000])[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        for low in range(0, len(rows), BATCH):
            np.take(table, rows[low : low + BATCH], axis=0)


# --- What is measured.


def opened(path: Path, *, warm: bool) -> Shuffled:
    """Mapped with the defaults, or read in few bytes of memory."""
    if warm:
        return Shuffled(PackedFile(path, warm=True), seed=0, batch=BATCH)
    return Shuffled(PackedFile(path, warm=False, memory=FEW), seed=0, batch=BATCH, memory=FEW)


def an_epoch(data: Shuffled, number: int) -> None:
    for _ in data.batches(number):
        pass


def medians(runs: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Of REPEATS rounds, in each of which all are measured."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: float(np.median(each)) for name, each in taken.items()}


@pytest.mark.parametrize("size", SIZES)
def test_blobs(size: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    sizes = chance.integers(size // 2, size * 3 // 2, TOTAL // size).tolist()
    data = chance.bytes(4 << 20)
    path = tmp_path / "blobs.packed"
    packing = spent(
        lambda: pack((data[low % 999 : low % 999 + each] for low, each in enumerate(sizes)), path)
    )
    in_pieces(path)
    runs: dict[str, Callable[[], float]] = {
        "in pieces": lambda: spent(lambda: in_pieces(path)),
        "in order": lambda: spent(lambda: in_order(path, sizes)),
    }
    for warm in (True, False):
        source = opened(path, warm=warm)
        an_epoch(source, 0)
        name = "mapped" if warm else "read"
        runs[name] = lambda source=source: spent(lambda: an_epoch(source, 1))
        runs[f"{name}, first epoch"] = lambda warm=warm: spent(lambda: an_epoch(opened(path, warm=warm), 0))
    found = medians(runs)
    print(f"\nblobs of {size >> 10} KiB on average; packed at {TOTAL / packing / 1e9:.2f} GB a CPU-second")
    for name, each in found.items():
        print(
            f"{name:20} {TOTAL / each / 1e9:6.2f} GB a CPU-second, {found['in pieces'] / each:.2f} of pieces, "
            f"{found['in order'] / each:.2f} of batches in order"
        )
    walls = medians(
        {
            "in pieces": lambda: (forgotten(path), spent(lambda: in_pieces(path), time.perf_counter))[1],
            "read": lambda: (
                forgotten(path),
                spent(
                    lambda: an_epoch(opened(path, warm=False), 0),
                    time.perf_counter,
                ),
            )[1],
        }
    )
    print(
        f"from the disk: {TOTAL / walls['read'] / 1e9:.2f} GB/s shuffled, {walls['in pieces'] / walls['read']:.2f} of pieces in order"
    )


def test_tables(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((ROWS, ROW_BYTES // 8))
    columns = {f"f{n}": values[:, n] for n in range(5)}
    columns |= {f"h{n}": values[:, n].astype(np.float32) for n in range(4)} | {"n": np.arange(ROWS)}
    np.save(tmp_path / "rows.npy", values)
    files = {"array": pack(values, tmp_path / "a.packed"), "columns": pack(columns, tmp_path / "c.packed")}
    table = np.load(tmp_path / "rows.npy", mmap_mode="r").view(np.ndarray)
    table.sum()
    plain = Shuffled(tmp_path / "rows.npy", seed=0, batch=BATCH)
    runs: dict[str, Callable[[], float]] = {
        "sorted blocks": lambda: spent(lambda: sorted_blocks(table)),
        ".npy, mapped": lambda: spent(lambda: an_epoch(plain, 1)),
    }
    for kind, path in files.items():
        for warm in (True, False):
            source = opened(path, warm=warm)
            an_epoch(source, 0)
            name = f"{kind}, {'mapped' if warm else 'read'}"
            runs[name] = lambda source=source: spent(lambda: an_epoch(source, 1))
            runs[f"{name}, first epoch"] = lambda path=path, warm=warm: spent(
                lambda: an_epoch(opened(path, warm=warm), 0)
            )
    found = medians(runs)
    print(f"\n{ROWS:,} rows of {ROW_BYTES} bytes, batches of {BATCH}")
    for name, each in found.items():
        print(
            f"{name:28} {ROWS / each / 1e6:6.1f} M rows a CPU-second, {found['sorted blocks'] / each:.2f} of sorted blocks"
        )
