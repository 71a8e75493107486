"""The store's speed beside joblib and plain pickle, in one run: arrays, frames, small results, a million items."""

import os
import pickle
import subprocess
import sys
import time

import joblib
import numpy as np
import polars as pl
import pytest

from hooke.store.entries import Entry
from hooke.store.store import Store

ARRAY = np.random.default_rng(0).standard_normal(12_500_000)
"""100 MB."""

FRAME = pl.DataFrame(
    {
        "number": ARRAY[:3_000_000],
        "text": pl.Series(range(3_000_000)).cast(pl.String) + " is a text of its own",
    }
)
"""220 MB, half of it text."""


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store")


def total(array):
    return float(array[::4096].sum())


# -- 100 MB array, reading: opened and a part of it used ------------------------------------------------


@pytest.mark.benchmark(group="store: read a 100 MB array")
def test_get(benchmark, store):
    ref = store.put(ARRAY)
    assert benchmark(lambda: total(store.get(ref))) == total(ARRAY)
    assert benchmark.stats.stats.median < 0.005


@pytest.mark.benchmark(group="store: read a 100 MB array")
def test_joblib_mmap(benchmark, tmp_path):
    path = tmp_path / "array.joblib"
    joblib.dump(ARRAY, path)
    benchmark(lambda: total(joblib.load(path, mmap_mode="r")))


@pytest.mark.benchmark(group="store: read a 100 MB array")
def test_joblib_memory_mmap(benchmark, tmp_path):
    """Joblib's cache, which also hashes the arguments and looks the entry up."""
    memory = joblib.Memory(tmp_path, mmap_mode="r", verbose=0)
    make = memory.cache(lambda seed: ARRAY, ignore=[])
    make(0)
    benchmark(lambda: total(make(0)))


@pytest.mark.benchmark(group="store: read a 100 MB array")
def test_plain_pickle(benchmark, tmp_path):
    path = tmp_path / "array.pickle"
    path.write_bytes(pickle.dumps(ARRAY, 5))
    benchmark(lambda: total(pickle.loads(path.read_bytes())))


# -- 100 MB array, writing ---------------------------------------------------------------------------


@pytest.mark.benchmark(group="store: write a 100 MB array", max_time=3)
def test_put(benchmark, store):
    benchmark(store.put, ARRAY)


@pytest.mark.benchmark(group="store: write a 100 MB array", max_time=3)
def test_joblib_dump(benchmark, tmp_path):
    benchmark(joblib.dump, ARRAY, tmp_path / "array.joblib")


@pytest.mark.benchmark(group="store: write a 100 MB array", max_time=3)
def test_plain_pickle_dump(benchmark, tmp_path):
    benchmark(lambda: (tmp_path / "array.pickle").write_bytes(pickle.dumps(ARRAY, 5)))


# -- a frame of 3,000,000 rows --------------------------------------------------------------------------


@pytest.mark.benchmark(group="store: read a frame of 220 MB")
def test_get_frame(benchmark, store):
    ref = store.put(FRAME)
    assert benchmark(lambda: store.get(ref).height) == FRAME.height


@pytest.mark.benchmark(group="store: read a frame of 220 MB", max_time=3)
def test_pickled_frame(benchmark, tmp_path):
    path = tmp_path / "frame.pickle"
    path.write_bytes(pickle.dumps(FRAME, 5))
    benchmark(lambda: pickle.loads(path.read_bytes()).height)


@pytest.mark.benchmark(group="store: write a frame of 220 MB", max_time=3)
def test_put_frame(benchmark, store):
    benchmark(store.put, FRAME)


@pytest.mark.benchmark(group="store: write a frame of 220 MB", max_time=3)
def test_pickle_frame(benchmark, tmp_path):
    benchmark(lambda: (tmp_path / "frame.pickle").write_bytes(pickle.dumps(FRAME, 5)))


# -- small results ---------------------------------------------------------------------------------------


def entry(store, number):
    ref = store.put({"score": number, "names": ["a", "b"]})
    return Entry(key=os.urandom(16).hex(), ref=ref, task="t", run="r", seconds=1.0, at=time.time())


@pytest.mark.benchmark(group="store: a small result")
def test_put_and_commit(benchmark, store):
    benchmark(lambda: store.commit(entry(store, 1)))


@pytest.mark.benchmark(group="store: a small result")
def test_joblib_memory(benchmark, tmp_path):
    memory = joblib.Memory(tmp_path, verbose=0)
    make = memory.cache(lambda number: {"score": number, "names": ["a", "b"]})
    numbers = iter(range(10**9))
    benchmark(lambda: make(next(numbers)))


@pytest.mark.benchmark(group="store: a small result")
def test_find(benchmark, store):
    store.commit(found := entry(store, 1))
    assert benchmark(store.find, found.key) == found


@pytest.mark.benchmark(group="store: a small result")
def test_find_nothing(benchmark, store):
    store.commit(entry(store, 1))
    assert benchmark(store.find, "0" * 32) is None
    assert benchmark.stats.stats.median < 50e-6


# -- a million items ---------------------------------------------------------------------------------


@pytest.mark.benchmark(group="store: 1,000,000 items in 1,000 commits")
def test_items(benchmark, store):
    keys, ref = os.urandom(16_000_000), store.put(list(range(1000)))

    def commit_and_find():
        recipe = os.urandom(16).hex()
        for at in range(1000):
            piece = keys[at * 16_000 : at * 16_000 + 16_000]
            store.commit_items(recipe, piece, ref, task="t", run="r", seconds=1.0)
        return store.find_items(recipe, keys)

    assert len(benchmark.pedantic(commit_and_find, rounds=3)) == 1000
    assert benchmark.stats.stats.median < 3


# -- a million small results ---------------------------------------------------------------------------

LIST = """
import re, sys, time
from hooke.store.store import Store
begun = time.process_time()
entries, about = Store.open(sys.argv[1]).newest(50)
spent = time.process_time() - begun
assert len(entries) == 50
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
print(spent, int(peak) / 1024, about)
"""


def test_a_million_results(benchmark, tmp_path):
    """CPU of a commit and of a lookup, files and bytes, and CPU and memory of a page of the newest in a process of its own."""
    many, store = 1_000_000, Store.open(tmp_path / "store", durable="none")
    ref, begun = store.put(1), time.process_time()
    for number in range(many):
        key = f"{number * 7919:032x}"[::-1]
        store.commit(Entry(key=key, ref=ref, task="t", run="r", seconds=1.0, at=float(number)))
    committed = (time.process_time() - begun) / many * 1e6
    reader, begun = Store.open(tmp_path / "store"), time.process_time()
    for number in range(0, many, 100):
        assert reader.find(f"{number * 7919:032x}"[::-1]) is not None
    found = (time.process_time() - begun) / (many // 100) * 1e6
    files = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]

    def page():
        command = [sys.executable, "-c", LIST, tmp_path / "store"]
        return [
            float(each) for each in subprocess.run(command, capture_output=True, check=True).stdout.split()
        ]

    seconds, mib, about = benchmark.pedantic(page, rounds=5, warmup_rounds=1)
    assert about >= many
    assert seconds < 1
    assert mib < 100
    size = sum(file.stat().st_size for file in files)
    print(
        f"\ncommit {committed:.1f} us, find {found:.1f} us, {len(files)} files, {size / many:.0f} bytes a result, "
        f"a page of 50: {seconds:.2f} s of CPU, {mib:.0f} MiB"
    )
