"""A cold epoch of a packed file at a URL beside parallel GETs of the same bytes from the same server, which answers after 30 ms."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
import s3fs
from tests.support.object_server import ObjectServer

from hooke.data import PackedFile, Shuffled, pack

DELAY_S = 0.03
TOTAL, BATCH = 128 << 20, 256
ROUNDS = 5
FEW = 32 << 20
"""Memory of a source: less than the file, so that it is drawn in whole blocks."""


def parallel_gets(url: str, size: int, *, part: int = 2 << 20, threads: int = 16) -> None:
    """All bytes in ranges, which are dropped: by the client and with the number of requests in flight that were fastest."""
    fs, at = fsspec.core.url_to_fs(url, config_kwargs={"max_pool_connections": threads})
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(
                lambda low: len(fs.cat_file(at, start=low, end=min(low + part, size))), range(0, size, part)
            )
        )


def download_then_an_epoch(
    url: str, size: int, into: Path, *, part: int = 2 << 20, threads: int = 16
) -> None:
    """What one does otherwise: the same GETs, written to a file, of which an epoch is read block by block then."""
    fs, at = fsspec.core.url_to_fs(url, config_kwargs={"max_pool_connections": threads})
    fd = os.open(into, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, size)

    def one(low: int) -> None:
        os.pwrite(fd, fs.cat_file(at, start=low, end=min(low + part, size)), low)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(0, size, part)))
    os.close(fd)
    data = Shuffled(PackedFile(into, warm=False, memory=FEW), seed=0, batch=BATCH, memory=FEW)
    for _ in data.batches(0):
        pass


def an_epoch(url: str, cache: Path, number: int = 0, limit: int | None = None) -> Shuffled:
    source = PackedFile(url, memory=FEW, cache=cache, cache_bytes=limit)
    data = Shuffled(source, seed=0, batch=BATCH, memory=FEW)
    for _ in data.batches(number):
        pass
    return data


class Measured:
    """Wall and CPU seconds of a call, and how far its memory rose."""

    def __init__(self, run: Callable[[], object]) -> None:
        own = psutil.Process()
        before = self.most = own.memory_info().rss
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                self.most = max(self.most, own.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu
        done.set()
        watcher.join()
        self.most -= before


def shown(name: str, all_runs: list[Measured], size: int) -> None:
    wall, cpu = (float(np.median([getattr(run, what) for run in all_runs])) for what in ("wall", "cpu"))
    most = max(run.most for run in all_runs) >> 20
    print(
        f"{name:16} {size / wall / 1e6:5.0f} MB/s, {size / cpu / 1e6:5.0f} MB a CPU-second, up to {most} MiB of memory"
    )


@pytest.mark.parametrize("size", [2 << 10, 16 << 10, 100 << 10])
def test_cold_epochs(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    data = chance.bytes(4 << 20)
    (tmp_path / "bucket").mkdir()
    path = tmp_path / "bucket" / "blobs.packed"
    sizes = chance.integers(size // 2, size * 3 // 2, TOTAL // size).tolist()
    pack((data[low % 999 : low % 999 + each] for low, each in enumerate(sizes)), path)
    total, url = path.stat().st_size, "s3://bucket/blobs.packed"
    runs: dict[str, list[Measured]] = {
        "parallel GETs": [],
        "download first": [],
        "cold epoch": [],
        "later epoch": [],
    }
    with ObjectServer(tmp_path, delay_s=DELAY_S) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        parallel_gets(url, total)
        for number in range(ROUNDS):
            cache = tmp_path / f"cache{number}"
            os.sync()
            runs["parallel GETs"].append(Measured(lambda: parallel_gets(url, total)))
            runs["download first"].append(
                Measured(lambda number=number: download_then_an_epoch(url, total, tmp_path / str(number)))
            )
            runs["cold epoch"].append(Measured(lambda cache=cache: an_epoch(url, cache)))
            runs["later epoch"].append(Measured(lambda cache=cache: an_epoch(url, cache, 1)))
    print(f"\nblobs of {size >> 10} KiB on average, {total >> 20} MiB")
    for name, each in runs.items():
        shown(name, each, total)
    for name in ("parallel GETs", "download first"):
        rounds = list(zip(runs[name], runs["cold epoch"], strict=True))
        wall, cpu = (
            float(np.median([getattr(other, what) / getattr(cold, what) for other, cold in rounds]))
            for what in ("wall", "cpu")
        )
        print(f"cold: {wall:.2f} of {name} (medians of the rounds), {cpu:.2f} by CPU time")
