"""Room is made of what is cheap to compute again, and never of what a live run may use."""

import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest

from hooke.base.errors import MissingObject, StoreError
from hooke.base.ref import Ref
from hooke.store.backend import Stored, hidden_as
from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.entries import Entry
from hooke.store.eviction import pieces
from hooke.store.objects import name_of
from hooke.store.store import Store


class HandClock:
    """A clock that is turned by hand."""

    def __init__(self):
        self.time = 1e9

    def now(self):
        return self.time

    def monotonic(self):
        return self.time


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def old(clock):
    """A store with five results of 80 kB, worth 1 to 5 s, then an hour of nothing."""
    store = Store(MemoryBackend(clock=clock), clock=clock)
    for number in range(1, 6):
        commit(store, number)
    clock.time += 3600
    return store


def commit(store, number, *, seconds=None):
    ref = store.put(np.full(10_000, number))
    seconds = float(number) if seconds is None else seconds
    store.commit(Entry(key=f"{number:032x}", ref=ref, task=f"task{number}", run="r", seconds=seconds, at=0.0))
    return ref


def kept(store):
    return [number for number in range(1, 20) if store.find(f"{number:032x}")]


def test_the_least_valuable_goes_first(old):
    report = old.gc(250_000)
    assert kept(old) == [3, 4, 5]
    assert [evicted.tasks for evicted in report.evicted] == [("task1",), ("task2",)]
    assert report.before - report.after == sum(evicted.size for evicted in report.evicted)
    assert report.after <= 250_000
    assert report.evicted[0].why == "1.00 s to recompute for 78.4 KiB"
    assert old.gc(250_000).evicted == ()


def test_unreferenced_objects_go_before_all(old, clock):
    stray = old.put(np.full(10_000, 77))
    clock.time += 3600
    report = old.gc(420_000)
    assert [evicted.why for evicted in report.evicted] == ["78.4 KiB without an entry"]
    assert old.keep([stray]) == [False]
    assert kept(old) == [1, 2, 3, 4, 5]


def test_what_a_live_run_uses_stays(old, clock):
    with old.live("one"):
        clock.time += 600
        assert old.find(f"{1:032x}")
        kept_ref = old.find(f"{2:032x}").ref
        fresh = commit(old, 9, seconds=0.0)
        report = old.gc(0)
        assert report.live == ("one",)
        assert report.spared > 200_000
        assert kept(old) == [1, 2, 9]
        assert old.get(fresh)[0] == 9
        clock.time += 7200
        old.gc(0)
        assert kept(old) == [1, 2, 9], "for as long as it lives"
        assert old.keep([kept_ref]) == [True]
    clock.time += 3600
    old.gc(0)
    assert kept(old) == []


def test_what_the_oldest_of_several_live_runs_uses_stays(old, clock):
    with old.live("one"):
        clock.time += 600
        assert old.find(f"{1:032x}")
        clock.time += 3600
        with old.live("two"):
            assert old.gc(0).live == ("one", "two")
            assert kept(old) == [1]


def test_a_map_s_record_is_worth_all_the_items_that_go_with_it():
    """Its inline values take 1 s to recompute, but its removal also loses its entry of an object, which took 100 s."""
    record, digest = "items/recipe/1", "d" * 64
    inline = Entry(key="recipe", ref=Ref("0" * 64, 1, b"x"), task="m", run="r", seconds=1.0, at=0.0, items=2)
    large = Entry(key="recipe", ref=Ref(digest, 80_000), task="m", run="r", seconds=100.0, at=0.0, items=1)
    stored = [Stored(record, 400, 0.0), Stored(name_of(digest), 80_000, 0.0)]
    units = pieces(stored, [(record, inline), (record, large)])
    assert {unit.name: unit.seconds for unit in units} == {record: 101.0, name_of(digest): 100.0}


def test_map_items_found_or_kept_stay_and_the_rest_goes(clock):
    store = Store(MemoryBackend(clock=clock), clock=clock)
    refs = [store.put([np.full(10_000, number)]) for number in range(4)]
    for number, ref in enumerate(refs):
        store.commit_items("f" * 32, bytes([number]) * 16, ref, task="m", run="r", seconds=number)
    stray = store.put(np.full(10_000, 50))
    clock.time += 3600
    with store.live("run"):
        keys = bytes([0]) * 16
        assert store.find_items("f" * 32, keys)
        assert store.keep([stray, refs[1]]) == [True, True]
        # find_items cannot know which objects are needed before it has looked at all: it uses them all.
        store.gc(0)
        assert store.keep(refs) == [True] * 4
    clock.time += 3600
    with store.live("run"):
        assert store.keep([refs[1]]) == [True]
        store.gc(0)
        assert store.keep(refs) == [False, True, False, False]
        hits = store.find_items("f" * 32, b"".join(bytes([number]) * 16 for number in range(4)))
        assert [(hit.lo, hit.hi) for hit in hits] == [(1, 2)]
    assert [entry.ref for entry in store.entries()] == [refs[1]]


def test_small_results_are_evicted_too(memory):
    for number in range(10):
        entry = Entry(key=f"{number:032x}", ref=memory.put(number), task="t", run="r", seconds=number, at=0.0)
        memory.commit(entry)
    before = memory.usage().bytes
    report = memory.gc(before // 2)
    assert len(report.evicted) == 5
    assert kept(memory) == [5, 6, 7, 8, 9]


@pytest.mark.needs("cpu")
def test_in_a_folder_and_by_another_process(tmp_path):
    store = Store.open(tmp_path)
    refs = {number: commit(store, number) for number in range(1, 4)}
    long_ago = time.time() - 7200
    for path in tmp_path.rglob("*"):
        if path.is_file() and "claims" not in str(path):
            os.utime(path, (long_ago, long_ago))
    user = Store.open(tmp_path)
    gc = f"from hooke.store.store import Store; print(len(Store.open({str(tmp_path)!r}).gc(0).evicted))"
    with user.live("run"):
        assert user.find(f"{2:032x}")
        assert user.keep([refs[3]]) == [True]
        done = subprocess.run([sys.executable, "-c", gc], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "1"
        assert user.get(refs[2])[0] == 2
        assert user.get(refs[3])[0] == 3
        with pytest.raises(MissingObject):
            user.get(refs[1])
    assert list((tmp_path / "live").iterdir()) == []


@pytest.mark.needs("cpu")
def test_a_dead_run_protects_nothing(tmp_path):
    code = f"""
import os, signal, numpy
from hooke.store.store import Store
store = Store.open({str(tmp_path)!r})
with store.live("dead"):
    store.put(numpy.arange(20_000))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store.open(tmp_path)
    report = store.gc(0)
    assert report.live == ()
    assert len(report.evicted) == 1


def test_an_object_that_an_eviction_decides_on_is_waited_for(tmp_path):
    store = Store.open(tmp_path)
    commit(store, 7)
    entry = store.find(f"{7:032x}")
    name = name_of(entry.ref.digest)
    lies, hidden = tmp_path / name, tmp_path / f"{hidden_as(name)}other"
    hidden.parent.mkdir(exist_ok=True)
    lies.rename(hidden)
    kept = threading.Timer(0.2, lambda: hidden.rename(lies))
    kept.start()
    assert store.get(entry.ref)[0] == 7
    kept.join()


def test_a_place_that_notes_no_use_evicts_nothing_while_a_run_is_live(clock):
    backend = MemoryBackend(clock=clock)
    backend.notes_use = False
    store = Store(backend, clock=clock)
    commit(store, 1)
    clock.time += 3600
    with store.live("run"):
        assert store.gc(0).evicted == ()
    assert len(store.gc(0).evicted) == 1


def test_one_run_is_live_once_and_one_eviction_works_at_a_time(memory):
    with memory.live("run"), pytest.raises(StoreError, match="already live"), memory.live("run"):
        pass
    with memory.live("run"):
        pass


def test_leftovers_of_killed_writers_are_cleared(tmp_path):
    store = Store.open(tmp_path)
    store.put(np.arange(20_000))
    leftover = tmp_path / "tmp" / "host-1-2-3"
    leftover.write_bytes(b"x")
    store.gc(10**9)
    assert leftover.exists(), "it may be at work still"
    day_old = time.time() - 2 * 24 * 3600
    os.utime(leftover, (day_old, day_old))
    store.gc(10**9)
    assert not leftover.exists()


def test_usage(old):
    usage = old.usage()
    assert usage.objects == 5
    assert usage.by_task.keys() == {f"task{number}" for number in range(1, 6)}
    assert usage.bytes > 400_000
    assert usage.unreferenced == 0


def test_the_folder_restores_what_is_used_during_its_removal(tmp_path):
    backend = FolderBackend(tmp_path)
    backend.write(lambda sink: (sink.write(b"x"), "objects/aa/x")[1])
    assert not backend.remove("objects/aa/x", unused_since=time.time() - 60)
    assert bytes(backend.read("objects/aa/x").data) == b"x"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("most", [0, 100_000, 250_000, 10**9])
@pytest.mark.parametrize("lives", [False, True])
def test_a_survey_foresees_what_an_eviction_takes_and_takes_nothing(old, clock, most, lives):
    old.put(np.full(10_000, 77))
    clock.time += 3600
    seen = []
    with old.live("one") if lives else nullcontext():
        clock.time += 600
        assert old.find(f"{2:032x}")
        before = kept(old)
        found = old.survey(most, seen.append)
        assert kept(old) == before
        assert found.eviction == old.gc(most)
    assert [(each.task, each.results) for each in found.tasks if each.task == "task2"] == [("task2", 1)]
    assert {each.task: each.bytes for each in found.tasks} == found.usage.by_task
    assert old.survey(None).eviction is None
