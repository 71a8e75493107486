"""A real full disk: a small tmpfs."""

import os

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from msgspec.structs import replace
from tests.fixtures.small_disk import fill

from hooke.base.errors import StoreError, StoreFull
from hooke.store.backends.folder import FolderBackend
from hooke.store.entries import Entry
from hooke.store.store import Store


def test_an_object_that_does_not_fit(small_disk):
    store = Store.open(small_disk / "store")
    small = store.put(1)
    entry = Entry(key="k" * 32, ref=small, task="t", run="r", seconds=1.0, at=0.0)
    store.commit(entry)
    with pytest.raises(StoreFull) as caught:
        store.put(np.arange(20_000))
    message = str(caught.value)
    assert str(small_disk / "store") in message
    assert "160" in message
    assert "free" in message
    assert "hooke cache gc" in message
    assert not list((small_disk / "store" / "tmp").iterdir())
    assert not (small_disk / "store" / "objects").exists()
    assert store.find("k" * 32) == entry


@pytest.mark.parametrize("kind", ["array", "arrow", "polars", "own", "bytes", "strided"])
def test_every_codec_tells_it_alike(small_disk, kind):
    numbers = np.arange(20_000)
    frame = pl.DataFrame({"n": numbers})
    values = {
        "array": numbers,
        "arrow": pa.table({"n": numbers}),
        "polars": frame,
        "own": frame.select(pl.col("n").cast(pl.Int128)),
        "bytes": numbers.tobytes(),
        "strided": np.arange(40_000)[::2],
    }
    store = Store.open(small_disk / "store")
    with pytest.raises(StoreFull, match="no room"):
        store.put({"value": values[kind]})
    assert not list((small_disk / "store" / "tmp").iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = Store.open(tmp_path / "file" / "store")
    with pytest.raises(StoreError, match="cannot write to the store") as caught:
        store.commit(Entry(key="k" * 32, ref=store.put(1), task="t", run="r", seconds=1.0, at=0.0))
    assert "Not a directory" in caught.value.why
    assert store.find("k" * 32) is None


def test_a_disk_without_any_room_and_then_with_some(small_disk):
    store = Store.open(small_disk / "store")
    entry = Entry(key="k" * 32, ref=store.put(1), task="t", run="r", seconds=1.0, at=0.0)
    store.commit(entry)
    ballast = fill(small_disk)
    other = Entry(key="j" * 32, ref=entry.ref, task="t", run="r", seconds=1.0, at=0.0)
    with pytest.raises(StoreFull):
        store.commit_items("f" * 32, os.urandom(16384), entry.ref, task="t", run="r", seconds=1.0)
    more = []

    def commit_until_full():
        for number in range(20):
            store.commit(replace(entry, key=f"{number:032x}"))
            more.append(number)

    with pytest.raises(StoreFull):  # the last page that the store's file has may have some room
        commit_until_full()
    assert store.find("k" * 32) == entry
    assert all(store.find(f"{number:032x}") for number in more)
    assert store.find(f"{len(more):032x}") is None
    ballast.unlink()
    store.commit(other)
    assert store.find("j" * 32) == other
    assert store.verify().damaged == ()


def test_eviction_works_on_a_full_disk(small_disk):
    store = Store(FolderBackend(small_disk / "store"), inline_bytes=0)
    store.put(np.arange(1000))
    fill(small_disk)
    report = store.gc(0)
    assert [evicted.why for evicted in report.evicted] == ["8.12 KiB without an entry"]
    assert store.usage().objects == 0
