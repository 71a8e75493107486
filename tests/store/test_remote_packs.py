"""Packs of a remote place: what is damaged, forged, merged by others or of a store of before."""

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import msgspec
import pytest
from blake3 import blake3
from fsspec.implementations.memory import MemoryFileSystem
from tests.store.places import RemotePlace

from hooke.store.backends import remote_packs
from hooke.store.backends.remote_packs import _HEAD, MOST_SMALL, RemoteFiles
from hooke.store.entries import Entry, Records

SECRET = b"a secret of the project, derived"


@pytest.fixture
def place(tmp_path):
    yield RemotePlace(f"memory://hooke-packs-{os.getpid()}/store", tmp_path / "hosts", SECRET)
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(f"/hooke-packs-{os.getpid()}", recursive=True)


def entry(store, number):
    return Entry(key=f"{number:032x}", ref=store.put(number), task="t", run="r", seconds=1.0, at=0.0)


def found(store, numbers):
    entries = [store.find(f"{number:032x}") for number in numbers]
    return [each and store.get(each.ref) for each in entries]


def packs(place):
    return [name for name in place.names() if name.startswith("packs/")]


def test_a_damaged_pack_is_said_and_set_aside(place):
    store = place.open()
    store.commit(entry(store, 1))
    (name,) = packs(place)
    store.commit(entry(store, 2))
    path = f"{place.root}/{name}"
    data = bytearray(place.files.cat_file(path))
    data[50] ^= 1  # in the list of its records
    place.files.pipe_file(path, bytes(data))
    other = place.open()
    assert found(other, (1, 2)) == [None, 2]
    (damage,) = other.verify().damaged
    assert damage.name.startswith(name)
    assert len(packs(place)) == 2
    assert other.verify(remove=True).damaged
    assert other.verify().damaged == ()
    assert found(place.open(), (1, 2)) == [None, 2]
    assert any(name.startswith("corrupt/packs-") for name in place.names())


@pytest.mark.parametrize(
    "listed",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([("keys/aa/k", 2**62, 10**12)]),
        msgspec.msgpack.encode([("keys/aa/k", 2**64 - 1, 0)]),
        msgspec.msgpack.encode([("keys/aa/k", 1, 0)]).replace(b"keys", b"\xff\xfe\xff\xfe"),
        msgspec.msgpack.encode({"a": 1}),
    ],
)
def test_what_somebody_else_puts_there_does_no_harm(place, listed):
    store = place.open()
    store.commit(entry(store, 1))
    head = _HEAD.pack(b"HKR1", blake3(listed).digest(), len(listed))
    place.files.pipe_file(f"{place.root}/packs/forged", head + listed)
    place.files.pipe_file(f"{place.root}/packs/empty", b"")
    assert found(place.open(), (1, 2)) == [1, None]
    assert found(store, (1, 2)) == [1, None]


def test_records_that_are_files_as_in_stores_of_before_are_found_and_replaced(place):
    store = place.open()
    for number in range(3):
        each = entry(store, number)
        name = f"keys/{each.key[:2]}/{each.key}"
        content = msgspec.msgpack.encode(each)
        head = b"HKE1" + Records(None, SECRET)._sum(name, content)
        place.files.pipe_file(f"{place.root}/{name}", head + content)
    store = place.open()
    assert found(store, range(4)) == [0, 1, 2, None]
    assert {each.key for each in store.entries()} == {f"{number:032x}" for number in range(3)}
    assert store.remove(f"{0:032x}")
    again = Entry(key=f"{1:032x}", ref=store.put("again"), task="t", run="r", seconds=1.0, at=0.0)
    store.commit(again)
    for each in (store, place.open()):
        assert found(each, range(3)) == [None, "again", 2]
        assert each.verify().damaged == ()
        assert len(list(each.entries())) == 2


@pytest.mark.needs("cpu")
def test_two_processes_that_merge_see_each_others_results(place):
    one, other = place.open(), place.open()
    for number in range(3 * MOST_SMALL):
        (one, other)[number % 2].commit(entry(one, number))
        if number % 40 == 0:
            assert found((other, one)[number % 2], [number]) == [number]
    assert len(packs(place)) <= 2 * MOST_SMALL + 2
    for store in (one, other, place.open()):
        assert found(store, range(3 * MOST_SMALL)) == list(range(3 * MOST_SMALL))


def test_what_was_removed_takes_no_room_after_an_eviction(place):
    store = place.open()
    for number in range(20):
        store.commit(entry(store, number))
        store.remove(f"{number:032x}")
    store.gc(10**12)
    assert packs(place) == []
    assert found(place.open(), range(20)) == [None] * 20


def test_what_was_removed_and_dropped_is_gone_for_others_who_knew_it(place):
    one, other = place.open(), place.open()
    one.commit(entry(one, 1))
    assert found(other, [1]) == [1]
    one.remove(f"{1:032x}")
    one.gc(10**12)
    assert found(other, [1]) == [None]


def test_what_was_removed_is_not_brought_back_by_a_process_that_has_not_looked_since(place):
    one, other = place.open(), place.open()
    one.commit(entry(one, 7))
    for number in range(100, 100 + MOST_SMALL // 2):
        one.commit(entry(one, number))
    assert found(other, [7]) == [7]
    assert other.remove(f"{7:032x}")
    for number in range(200, 200 + MOST_SMALL // 2):  # merges
        other.commit(entry(other, number))
    for number in range(300, 300 + MOST_SMALL):  # so does one that knows what was there before
        one.commit(entry(one, number))
    assert [found(store, [7]) for store in (place.open(), other, one)] == [[None]] * 3


def test_a_map_of_a_store_of_before_that_was_removed_stays_so_after_a_merge(place):
    place.files.pipe_file(f"{place.root}/items/r/1", b"of before")
    backend = place.open()._backend
    assert [stored.name for stored in backend.list("items/r/")] == ["items/r/1"]
    with backend.together():
        assert backend.remove("items/r/1")
    for number in range(MOST_SMALL + 5):
        backend._packs.append({f"keys/aa/{number}": b"x"})
    assert list(place.open()._backend.list("items/r/")) == []
    assert place.open()._backend.read("items/r/1") is None


def test_a_forced_result_counts_though_the_clock_of_the_first_was_ahead(place, monkeypatch):
    first, forced = place.open(), place.open()
    ahead = time.time_ns() + 5 * 10**9
    with monkeypatch.context() as patch:
        patch.setattr(remote_packs.time, "time_ns", lambda: ahead)
        first.commit(entry(first, 1))
    forced.commit(Entry(key=f"{1:032x}", ref=forced.put("forced"), task="t", run="r", seconds=1.0, at=0.0))
    assert [found(store, [1]) for store in (forced, first, place.open())] == [["forced"]] * 3


class OneClient(MemoryFileSystem):
    """A file system whose client mixes up the answers of two calls at once, as that of SFTP does."""

    protocol = "oneclient"
    store, pseudo_dirs = {}, [""]
    inside = 0

    def info(self, path, **kwargs):
        type(self).inside += 1
        assert type(self).inside == 1, "two threads use one client"
        time.sleep(0.001)
        try:
            return super().info(path, **kwargs)
        finally:
            type(self).inside -= 1


def test_a_client_that_serves_one_call_at_a_time_is_asked_so(tmp_path):
    fsspec.register_implementation("oneclient", OneClient, clobber=True)
    files = RemoteFiles("oneclient://store")
    for number in range(5):
        files.put(f"objects/{number}", b"x" * number)
    names = [f"objects/{number}" for number in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for sizes in pool.map(lambda _: files.sizes(names), range(8)):
            assert sizes == [0, 1, 2, 3, 4, None]
