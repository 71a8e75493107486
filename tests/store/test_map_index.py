"""The index of map items: exact, merged, fast at a million."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.entries import Hit
from hooke.store.map_index import MOST_FILES
from hooke.store.store import Store

RECIPE = "f" * 32


def key(number):
    """Few distinct first halves, so that equal ones are met too."""
    return (number % 3).to_bytes(8, "little") + number.to_bytes(8, "little")


def keys_of(numbers):
    return b"".join(map(key, numbers))


def commit(store, numbers, ref):
    store.commit_items(RECIPE, keys_of(numbers), ref, task="t", run="r", seconds=1.0)


def found(store, numbers):
    """Item -> value, by way of the hits."""
    values = {}
    last = 0
    for lo, hi, ref, start, _ in store.find_items(RECIPE, keys_of(numbers)):
        assert lo >= last, "hits are in order and apart"
        last = hi
        results = store.get(ref)
        values.update({numbers[item]: results[start + item - lo] for item in range(lo, hi)})
    return values


@pytest.mark.needs("cpu")
@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.lists(st.integers(0, 40), unique=True, max_size=12), max_size=12),
    st.lists(st.integers(0, 50), unique=True),
    st.booleans(),
)
def test_it_is_a_dictionary(commits, asked, other_process):
    backend = MemoryBackend()
    store = Store(backend)
    model = {}
    for round_, numbers in enumerate(commits):
        commit(store, numbers, store.put([(round_, number) for number in numbers]))
        model.update({number: (round_, number) for number in numbers})
        assert found(store, asked) == {number: model[number] for number in asked if number in model}
    if other_process:
        store = Store(backend)
    assert found(store, asked) == {number: model[number] for number in asked if number in model}


def test_items_in_a_row_are_one_hit(store):
    for start in range(0, 100, 10):
        commit(store, range(start, start + 10), store.put(list(range(start, start + 10))))
    hits = store.find_items(RECIPE, keys_of(range(5, 95)))
    assert [(hit.lo, hit.hi, hit.start) for hit in hits[:2]] == [(0, 5, 5), (5, 15, 0)]
    assert len(hits) == 10
    assert isinstance(hits[0], Hit)


def test_one_more_item_or_one_less(store):
    ref = store.put(list(range(10)))
    commit(store, range(10), ref)
    assert store.find_items(RECIPE, keys_of([99, *range(10), 98])) == [Hit(1, 11, ref, 0)]
    assert store.find_items(RECIPE, keys_of([0, 1, 5, 6])) == [Hit(0, 2, ref, 0), Hit(2, 4, ref, 5)]
    assert store.find_items(RECIPE, b"") == []
    assert store.find_items("e" * 32, keys_of([1])) == []


def test_the_items_of_a_lost_object_are_misses(store, tmp_path):
    large = store.put([np.arange(10_000), np.arange(10_000)])
    small = store.put([1, 2])
    commit(store, [0, 1], large)
    commit(store, [2, 3], small)
    assert len(store.find_items(RECIPE, keys_of(range(4)))) == 2
    for path in (tmp_path / "store" / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    assert store.find_items(RECIPE, keys_of(range(4))) == [Hit(2, 4, small, 0)]


def test_many_commits_become_one_file(store, tmp_path):
    backend = FolderBackend(tmp_path / "store")

    def files():
        return list(backend.list(f"items/{RECIPE}/"))

    for number in range(MOST_FILES + 1):
        commit(store, [number], store.put([number]))
    assert len(files()) == MOST_FILES + 1
    everything = list(range(MOST_FILES + 1))
    reader = Store.open(tmp_path / "store")
    assert found(reader, everything) == {number: number for number in everything}
    assert len(files()) == 1
    commit(store, [1000], store.put([1000]))
    for one in (store, reader, Store.open(tmp_path / "store")):
        assert found(one, [*everything, 1000]) == {number: number for number in [*everything, 1000]}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_commits_beside_its_parent(store):
    child = os.fork()
    numbers = range(10) if child else range(10, 20)
    for number in numbers:
        commit(store, [number], store.put([number]))
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert found(store, list(range(20))) == {number: number for number in range(20)}


def test_remove_forgets_all_items(store):
    commit(store, [1], store.put([1]))
    assert store.remove(RECIPE)
    assert store.find_items(RECIPE, keys_of([1])) == []
    assert not store.remove(RECIPE)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_million_items_of_a_thousand_commits(tmp_path):
    """Committed and looked up within 3 s and 200 MB of memory, all of it, keys included."""
    code = textwrap.dedent(
        """
        import os, re, sys, time
        from hooke.store.store import Store
        import numpy
        store = Store.open(sys.argv[1])
        keys = os.urandom(16_000_000)
        ref = store.put(list(range(1000)))
        started = time.perf_counter()
        for at in range(1000):
            piece = keys[at * 16_000 : at * 16_000 + 16_000]
            store.commit_items("f" * 32, piece, ref, task="t", run="r", seconds=1.0)
        hits = store.find_items("f" * 32, keys)
        seconds = time.perf_counter() - started
        assert len(hits) == 1000 and hits[-1].hi == 1_000_000
        # Unlike getrusage this does not count the process that started this one.
        status = open("/proc/self/status").read() if os.path.exists("/proc") else "VmHWM: 0"
        print(seconds, int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) / 1024)
        """
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    seconds, mebibytes = map(float, done.stdout.split())
    print(done.stdout)
    assert mebibytes < 200


@pytest.mark.needs("cpu")
def test_random_keys_in_random_order(memory):
    rng = np.random.default_rng(7)
    keys = os.urandom(16 * 5000)
    words = np.frombuffer(keys, "V16")
    for piece in range(10):
        memory.commit_items(
            RECIPE,
            words[piece * 500 : piece * 500 + 500].tobytes(),
            memory.put(list(range(piece * 500, piece * 500 + 500))),
            task="t",
            run="r",
            seconds=1.0,
        )
    order = rng.permutation(5000)
    values = {}
    for lo, hi, ref, start, _ in memory.find_items(RECIPE, words[order].tobytes()):
        values.update(zip(range(lo, hi), memory.get(ref)[start : start + hi - lo], strict=True))
    assert [values[at] for at in range(5000)] == order.tolist()
