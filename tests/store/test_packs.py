"""Small results in packs: few files, whole after any death and damage, followed by other processes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.store.places import age_packs

from hooke.store import packs as store_packs
from hooke.store.backends.folder import FolderBackend
from hooke.store.claims import RangeClaims, has_range_locks
from hooke.store.entries import Entry
from hooke.store.pack_file import DEAD, HIDDEN, LIVE, PackFile, packed
from hooke.store.packs import MERGE_BELOW_BYTES, MOST_PACKS, SMALL_BYTES, Packs
from hooke.store.store import Store

PACKER = Path(__file__).with_name("packer.py")


def entry(store, number, value=None):
    key = f"{number:032x}"
    ref = store.put(number if value is None else value)
    return Entry(key=key, ref=ref, task="t", run="r", seconds=1.0, at=0.0)


def commit(store, number, value=None):
    store.commit(made := entry(store, number, value))
    return made


def found(store, number):
    there = store.find(f"{number:032x}")
    return None if there is None else store.get(there.ref)


def write(backend, name, data):
    return backend.write(lambda sink: (sink.write(data), name)[1])


def content(backend, name):
    view = backend.read(name)
    return None if view is None else bytes(view.data)


def packs(folder):
    return sorted((folder / "packs").glob("*.pack"))


@pytest.mark.needs("cpu")
def test_thousands_of_results_are_few_files_and_are_found_by_all(tmp_path):
    store = Store.open(tmp_path, durable="none")
    for number in range(3000):
        commit(store, number)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) < 10
    assert sum(path.stat().st_size for path in files) < 3000 * 600
    for reader in (store, Store.open(tmp_path)):
        assert [found(reader, number) for number in range(3000)] == list(range(3000))
        assert found(reader, 3000) is None
    assert len(list(store.entries())) == 3000
    assert store.verify().records == 3000


@pytest.mark.needs("cpu")
def test_another_process_sees_each_commit_at_once(tmp_path):
    reader = Store.open(tmp_path)
    with subprocess.Popen(
        [sys.executable, PACKER, tmp_path, "a", "100"], stdout=subprocess.PIPE, text=True
    ) as writer:
        for line in writer.stdout:
            assert found(reader, int(line)) == ["a", int(line)]
    assert int(line) == 99


def test_the_later_commit_of_a_key_counts_whoever_makes_it(tmp_path):
    stores = [Store.open(tmp_path, durable="none") for _ in range(3)]
    for number in range(60):
        commit(stores[number % 3], 7, [number])
        for store in (*stores, Store.open(tmp_path)):
            assert found(store, 7) == [number]
    assert len(packs(tmp_path)) == 3, "each writer has a file of its own"
    assert stores[1].remove(f"{7:032x}")
    assert [found(store, 7) for store in stores] == [None] * 3, "no older one comes back"


def test_the_next_process_goes_on_with_the_file_that_one_left(tmp_path):
    for number in range(5):
        commit(Store.open(tmp_path, durable="none"), number)
    assert len(packs(tmp_path)) == 1


@pytest.mark.parametrize("tail", ["half", "zeros", "noise", "header"])
def test_a_torn_tail_is_reported_and_cut(tmp_path, tail):
    for number in range(3):
        commit(Store.open(tmp_path), number)
    (path,) = packs(tmp_path)
    whole = path.read_bytes()
    record = packed(bytes.fromhex(path.name[:32]), "keys/aa/a", b"x" * 500, sequence=2**63, used=0)
    torn = {"half": record[:300], "zeros": bytes(4096), "noise": os.urandom(1001), "header": record[:40]}[
        tail
    ]
    path.write_bytes(whole + torn)
    store = Store.open(tmp_path)
    assert [found(store, number) for number in range(3)] == [0, 1, 2]
    report = store.verify()
    assert report.damaged == ()
    assert report.torn == len(torn)
    store.gc(10**9)
    assert store.verify().torn == 0
    path = packs(tmp_path)[0]
    path.write_bytes(path.read_bytes() + torn)
    for written in path.parent.glob("*.index"):
        written.unlink()
    store = Store.open(tmp_path)
    commit(store, 3)
    assert [found(Store.open(tmp_path), number) for number in range(4)] == [0, 1, 2, 3]
    assert store.verify().torn == 0


KINDS = ("flip", "zeros", "cut", "empty", "append", "gone", "noise")


def damage(path, kind, rng):
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    match kind:
        case "flip":
            data[at] ^= 1 << rng.randrange(8)
        case "zeros":
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        case "cut":
            del data[at:]
        case "empty":
            data.clear()
        case "append":
            data += rng.randbytes(rng.randrange(1, 200))
        case "noise":
            data[at : at + 100] = rng.randbytes(len(data[at : at + 100]))
        case _:
            path.unlink()
            return
    path.write_bytes(data)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("secret", [None, b"a secret of the project"], ids=["plain", "signed"])
@pytest.mark.parametrize("closed", [False, True])
def test_damage_loses_what_it_hits_and_nothing_is_wrong(tmp_path, closed, secret):
    rng = random.Random(f"{closed} {secret}")
    store = Store.open(tmp_path / "whole", secret=secret)
    for number in range(40):
        commit(store, number, [number, "x" * rng.randrange(2000)])
        store.commit_items(
            "f" * 32, number.to_bytes(16, "big"), store.put([number]), task="m", run="r", seconds=1.0
        )
    right = {number: found(store, number) for number in range(40)}
    if closed:
        for number in range(40, 100):
            commit(store, number, "x" * 2000)
            store.remove(f"{number:032x}")
        store._backend.compact()
        assert list((tmp_path / "whole" / "packs").glob("*.index"))
    del store
    for trial in range(25):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        files = [path for path in (folder / "packs").iterdir() if path.stat().st_size]
        path, kind = rng.choice(files), rng.choice(KINDS)
        damage(path, kind, rng)
        store = Store.open(folder, secret=secret, durable="none")
        told = f"trial {trial}: {kind} of {path.suffix}"
        values = {number: value for number in right if (value := readable(store, number)) is not None}
        assert all(right[number] == value for number, value in values.items()), told
        if kind in ("flip", "append", "noise"):
            assert len(values) >= 37, told
        if path.suffix == ".index" and kind == "gone":
            assert values == right, told
        store.verify(remove=True)
        for number in range(40):
            commit(store, number, right[number])
        assert {number: found(Store.open(folder, secret=secret), number) for number in right} == right, told
        assert store.verify().damaged == (), told


def readable(store, number):
    """The value, or None where it is missing, or the record cannot be trusted."""
    from hooke.base.errors import StoreError

    try:
        return found(store, number)
    except StoreError:
        return None


def test_a_pack_inside_a_value_is_no_pack(tmp_path):
    """A damaged header makes the reader look for the next record, which must not be one that a user stored."""
    other = Store.open(tmp_path / "other")
    commit(other, 1, "foreign")
    (foreign,) = packs(tmp_path / "other")
    store = Store.open(tmp_path / "store")
    commit(store, 2, "first")
    commit(store, 3, foreign.read_bytes())
    commit(store, 4, "last")
    (path,) = packs(tmp_path / "store")
    places = [offset for offset, *_ in PackFile(str(path)).walk()]
    data = bytearray(path.read_bytes())
    data[places[1] + 20] ^= 1
    path.write_bytes(data)
    del store
    store = Store.open(tmp_path / "store")
    assert [found(store, number) for number in (1, 2, 3, 4)] == [None, "first", None, "last"]
    (damaged,) = store.verify(remove=True).damaged
    assert damaged.name == f"packs/{path.name} from byte {places[1]}"
    assert [each.name for each in (tmp_path / "store" / "corrupt").iterdir()]
    assert store.verify().damaged == ()
    assert found(store, 4) == "last"


def test_a_name_that_leads_outside_of_the_store_is_none(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    store = Store.open(tmp_path / "store")
    commit(store, 1)
    (path,) = packs(tmp_path / "store")
    salt = bytes.fromhex(path.name[:32])
    for name in ("keys/../../outside", "/etc/passwd", "keys/a\nb"):
        path.write_bytes(path.read_bytes() + packed(salt, name, b"x", sequence=1, used=0))
    del store
    store = Store.open(tmp_path / "store")
    assert len(list(store.entries())) == 1
    store.gc(0)
    assert outside.read_text() == "mine"


def test_a_store_of_files_is_read_on_and_written_to(tmp_path):
    before = FolderBackend(tmp_path, packed=False)
    old = Store(before)
    for number in range(10):
        commit(old, number)
    old.commit_items("f" * 32, bytes(16), old.put(["item"]), task="m", run="r", seconds=1.0)
    write(before, "objects/aa/small", b"small")
    assert not (tmp_path / "packs").exists()
    store = Store.open(tmp_path)
    assert [found(store, number) for number in range(10)] == list(range(10))
    commit(store, 3, "new")
    commit(store, 10)
    for reader in (store, Store.open(tmp_path)):
        assert [found(reader, number) for number in range(11)] == [0, 1, 2, "new", *range(4, 11)]
        assert len(reader.find_items("f" * 32, bytes(16))) == 1
    assert content(FolderBackend(tmp_path), "objects/aa/small") == b"small"
    assert len(list(store.entries())) == 12
    assert store.remove(f"{3:032x}")
    assert store.remove(f"{4:032x}")
    assert [found(Store.open(tmp_path), number) for number in (3, 4)] == [None, None]
    assert store.verify().damaged == ()
    store.gc(0)
    assert list(store.entries()) == []


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_writes_removals_merges_and_deaths_is_a_dictionary(tmp_path, seed):
    rng = random.Random(seed)
    if seed % 2:
        write(FolderBackend(tmp_path, packed=False), "keys/aa/0", b"old")
    model = {"keys/aa/0": b"old"} if seed % 2 else {}
    names = [f"{kind}/{number % 3}a/{number}" for number in range(6) for kind in ("keys", "items")]
    backends = [FolderBackend(tmp_path, durable="none") for _ in range(3)]
    for step in range(300):
        at = rng.randrange(3)
        name = rng.choice(names)
        match rng.choice(["write", "write", "large", "remove", "aside", "reopen", "compact", "unused"]):
            case "write":
                model[name] = f"{step}".encode() * rng.randrange(1, 50)
                write(backends[at], name, model[name])
            case "large" if rng.random() < 0.3:
                model[name] = rng.randbytes(70_000)
                write(backends[at], name, model[name])
            case "remove":
                assert backends[at].remove(name) == (model.pop(name, None) is not None)
            case "aside":
                assert backends[at].remove(name, aside=f"corrupt/{step}") == (name in model)
                assert content(backends[at], f"corrupt/{step}") == model.pop(name, None)
            case "reopen":
                backends[at] = FolderBackend(tmp_path, durable="none")
            case "compact" if rng.random() < 0.3:
                backends[at].compact()
            case "unused":
                assert not backends[at].remove(name, unused_since=time.time() - 100)
            case _:
                pass
        reader = rng.choice(backends)
        assert content(reader, name) == model.get(name)
        assert reader.touch([name]) == [len(model[name]) if name in model else None]
        for prefix in ("keys/", "items/", "items/1a/"):
            listed = {stored.name: stored.size for stored in reader.list(prefix)}
            assert listed == {each: len(data) for each, data in model.items() if each.startswith(prefix)}
    assert not list(backends[0].torn())


@pytest.mark.long
@pytest.mark.needs("processes")
def test_writers_and_merges_killed_again_and_again(tmp_path):
    done, merges = {}, 0
    rng = random.Random(1)
    for time_of in range(5):
        commands = [
            [sys.executable, PACKER, tmp_path, who, "1000000", *(["merge"] if who == "m" else [])]
            for who in "abm"
        ]
        processes = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in commands]
        for process in processes:
            process.stdout.readline()
        merges += bool(processes[2].stdout.readline())  # a merge or more after the writers have begun
        time.sleep(rng.random() * 0.3)
        for process, who in zip(processes, "abm", strict=True):
            process.send_signal(signal.SIGKILL)
            process.wait()
            lines = [
                int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
            ]
            done[who] = max([done.get(who, 0), *lines])
            process.stdout.close()
        store = Store.open(tmp_path)
        for who in "ab":
            for number in range(done[who]):
                where = f"round {time_of}: {who} {number}"
                key = f"{who}{number:031x}"
                assert store.get(store.find(key).ref) == [who, number], where
        assert store.verify().damaged == ()
        listed = [each.key for each in store.entries()]
        assert len(listed) == len(set(listed)), "nothing is there twice"
    assert merges == 5, "merges were under way"


def test_a_leftover_that_another_process_clears_first_is_no_failure(tmp_path, monkeypatch):
    backend = FolderBackend(tmp_path, durable="none")
    write(backend, "keys/aa/1", b"x")
    leftover = tmp_path / "packs" / "of-a-merge.tmp"
    scandir = os.scandir

    def listed_late(folder):  # each listing shows it, and then it is gone
        leftover.write_bytes(b"x")
        entries = list(scandir(folder))
        leftover.unlink()
        return entries

    with monkeypatch.context() as patch:
        patch.setattr(store_packs.os, "scandir", listed_late)
        backend.compact()
    assert not leftover.exists()
    assert content(backend, "keys/aa/1") == b"x"


@pytest.mark.needs("cpu")
def test_readers_go_on_while_others_merge(tmp_path):
    writer, merger = (FolderBackend(tmp_path, durable="none") for _ in range(2))
    reader = FolderBackend(tmp_path)
    names = [f"keys/aa/{number}" for number in range(200)]
    for name in names:
        write(writer, name, name.encode())
    views = {name: reader.read(name) for name in names}
    del writer
    over = threading.Event()

    def merge():
        while not over.is_set():
            merger.compact()
            write(merger, "keys/bb/x", b"x")
            merger.remove("keys/bb/x")

    thread = threading.Thread(target=merge)
    thread.start()
    try:
        for _ in range(20):
            for name in names:
                assert content(reader, name) == name.encode()
                assert reader.touch([name]) == [len(name)]
    finally:
        over.set()
        thread.join()
    assert all(bytes(view.data) == name.encode() for name, view in views.items())


def test_merges_free_the_room_of_what_was_removed(tmp_path):
    backend, reader = FolderBackend(tmp_path, durable="none"), FolderBackend(tmp_path)
    for number in range(400):
        write(backend, f"keys/aa/{number}", b"x" * 1000)
    assert content(reader, "keys/aa/399") is not None

    def size():
        return sum(path.stat().st_size for path in (tmp_path / "packs").iterdir())

    before = size()
    for number in range(300):
        assert backend.remove(f"keys/aa/{number}")
    assert size() == before
    backend.compact()
    assert size() < before / 3
    for each in (backend, reader):
        assert [content(each, f"keys/aa/{number}") is not None for number in (0, 299, 300, 399)] == [
            False,
            False,
            True,
            True,
        ]
    for number in range(300, 400):
        assert backend.remove(f"keys/aa/{number}")
    backend.compact()
    assert packs(tmp_path) == []
    write(backend, "keys/aa/0", b"again")
    assert content(reader, "keys/aa/0") == b"again"


def test_many_small_packs_become_one(tmp_path):
    together = [FolderBackend(tmp_path, durable="none") for _ in range(MOST_PACKS + 5)]
    for number, backend in enumerate(together):
        write(backend, f"keys/aa/{number}", b"x")
    assert len(packs(tmp_path)) == len(together)
    count = len(together)
    together.clear()
    del backend
    last = FolderBackend(tmp_path, durable="none")
    write(last, "keys/bb/x", b"x")
    assert len(packs(tmp_path)) == 2
    assert len(list(FolderBackend(tmp_path).list("keys/"))) == count + 1
    assert MERGE_BELOW_BYTES > SMALL_BYTES


@pytest.mark.needs("cpu")
def test_what_is_used_during_a_merge_keeps_its_use(tmp_path):
    """An eviction of what was not used spares what another process used while its record moved."""
    backend = FolderBackend(tmp_path, durable="none")
    names = [f"keys/aa/{number}" for number in range(50)]
    for name in names:
        write(backend, name, b"x")
    del backend
    user, merger = FolderBackend(tmp_path), FolderBackend(tmp_path)
    for turn in range(10):
        age_packs(tmp_path, 1_000_000)
        begun = time.time()
        merging = threading.Thread(target=merger.compact)
        write(merger, f"keys/gone/{turn}", b"x" * 20_000)
        merger.remove(f"keys/gone/{turn}")
        merging.start()
        assert user.touch(names) == [1] * 50
        merging.join()
        assert not any(merger.remove(name, unused_since=begun - 1) for name in names)


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_an_eviction_of_records_that_finders_use(tmp_path):
    """Small results, inside their entries: what a live run has found stays, however the eviction falls."""
    for pause_s in (0.0, 0.002, 0.005, 0.01, 0.02):
        folder = tmp_path / f"{pause_s}"
        writer = Store.open(folder, durable="none")
        for number in range(100):
            commit(writer, number)
        del writer
        age_packs(folder, 1_000_000)
        gc = f"from hooke.store.store import Store; print('go', flush=True); input(); Store.open({str(folder)!r}).gc(0)"
        user = Store.open(folder)
        with subprocess.Popen(
            [sys.executable, "-c", gc], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as evictor:
            evictor.stdout.readline()
            evictor.stdin.write("\n")
            evictor.stdin.flush()
            time.sleep(pause_s)
            with user.live("run"):
                kept = [number for number in range(99, -1, -1) if found(user, number) is not None]
                assert evictor.wait(60) == 0
                assert [number for number in range(99, -1, -1) if found(user, number) is not None] == kept
        assert [found(Store.open(folder), number) for number in kept] == kept


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("decision", [LIVE, DEAD])
def test_a_record_that_an_eviction_decides_on_is_waited_for(tmp_path, decision):
    store = Store.open(tmp_path)
    commit(store, 7)
    (path,) = packs(tmp_path)
    pack = PackFile(str(path))
    pack.set_state(0, HIDDEN)
    decided = threading.Timer(0.2, lambda: pack.set_state(0, decision))
    decided.start()
    there = store._backend.touch([f"keys/00/{7:032x}"])
    decided.join()
    assert (there == [None]) == (decision == DEAD)
    assert found(store, 7) == (7 if decision == LIVE else None)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_file_of_its_own(tmp_path):
    store = Store.open(tmp_path)
    commit(store, 0)
    child = os.fork()
    numbers = range(1, 50) if child else range(50, 100)
    for number in numbers:
        commit(store, number)
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [found(store, number) for number in range(100)] == list(range(100))
    assert len(packs(tmp_path)) == 2
    assert store.verify().torn == 0


def test_a_folder_that_is_removed_and_put_back_under_a_living_store(tmp_path):
    folder = tmp_path / "store"
    store = Store.open(folder)
    commit(store, 1)
    shutil.copytree(folder, tmp_path / "kept")
    commit(store, 2)
    shutil.rmtree(folder)
    assert found(store, 1) is None
    commit(store, 3)
    assert [found(store, number) for number in (1, 2, 3)] == [None, None, 3]
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)
    commit(store, 4)
    for each in (store, Store.open(folder)):
        assert [found(each, number) for number in (1, 2, 3, 4)] == [1, None, None, 4]


@pytest.mark.needs("cpu")
def test_threads_of_one_store(tmp_path):
    store = Store.open(tmp_path, durable="none")

    def work(first):
        for number in range(first, first + 100):
            commit(store, number)
            assert found(store, number) == number

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found(Store.open(tmp_path), number) for number in range(400)] == list(range(400))


@pytest.mark.needs("cpu")
def test_the_newest_of_many_results_are_told_without_reading_all(tmp_path):
    store = Store.open(tmp_path, durable="none")
    many = 21_000
    ref = store.put(1)
    for number in range(many):
        store.commit(plain(number, ref))
        if number == 100:
            store.commit_items("f" * 32, bytes(16), ref, task="m", run="r", seconds=1.0)
    store.commit_items("f" * 32, bytes([1]) * 16, ref, task="m", run="r", seconds=1.0)
    store.remove(f"{many - 1:032x}")
    store.commit(plain(5, ref))
    wanted = [f"{5:032x}", "f" * 32, *(f"{many - 2 - number:032x}" for number in range(48))]
    for each in (store, Store.open(tmp_path)):
        entries, about = each.newest(50)
        assert list(dict.fromkeys(entry.key for entry in entries)) == wanted
        assert sum(entry.items is not None for entry in entries) == 2, "both parts of the map"
        assert many <= about < many + 10
        assert each.newest(many) is None
    del store, each
    Store.open(tmp_path)._backend.compact()
    entries, _ = Store.open(tmp_path).newest(50)
    assert list(dict.fromkeys(entry.key for entry in entries)) == wanted
    assert Store.open(tmp_path / "small").newest(50) is None


def plain(number, ref):
    return Entry(key=f"{number:032x}", ref=ref, task="t", run="r", seconds=1.0, at=0.0)


def test_a_turn_of_commits_is_one_append_and_seen_by_its_thread_before(tmp_path):
    store, other = Store.open(tmp_path), Store.open(tmp_path)
    commit(store, 0)
    (path,) = packs(tmp_path)
    before = path.stat().st_size
    with store.together():
        for number in range(1, 30):
            commit(store, number)
            assert found(store, number) == number
        store.commit_items("f" * 32, bytes(16), store.put(["item"]), task="m", run="r", seconds=1.0)
        assert path.stat().st_size == before
        assert found(other, 1) is None
    assert [found(each, number) for each in (store, other) for number in range(30)] == [*range(30)] * 2
    assert len(other.find_items("f" * 32, bytes(16))) == 1

    def fail_late():
        with store.together():
            commit(store, 30)
            raise KeyError

    with pytest.raises(KeyError):
        fail_late()
    assert found(other, 30) == 30, "what was committed before an error stays"
    with store.together():
        commit(store, 31)
        commit(store, 31, "later")
        commit(store, 32, os.urandom(60_000))
        assert store.remove(f"{31:032x}")
    assert found(other, 31) is None
    assert len(found(other, 32)) == 60_000
    assert len(packs(tmp_path)) == 1


def test_a_turn_of_lookups_is_one_look_at_the_folder(tmp_path, monkeypatch):
    store, other = Store.open(tmp_path), Store.open(tmp_path)
    commit(store, 0)
    looks = []
    refresh = Packs._refresh
    monkeypatch.setattr(Packs, "_refresh", lambda self: (looks.append(self), refresh(self))[1])
    commit(other, 1)
    looks.clear()
    with store.read_ahead([]):
        assert [found(store, number) for number in range(100)] == [0, 1, *[None] * 98]
        assert len(looks) == 1
        commit(other, 2)
        commit(store, 3)
        looks.clear()
        assert found(store, 3) == 3, "what it commits itself it finds"
        with store.read_ahead([]):
            assert found(store, 2) == 2, "a claim that was made meanwhile begins a new turn"
        assert len(looks) == 1
    commit(other, 4)
    assert found(store, 4) == 4
    del store, other


def test_what_was_missing_is_found_when_another_has_it_in_a_closed_pack(tmp_path, monkeypatch):
    store, other = Store.open(tmp_path), Store.open(tmp_path)
    commit(store, 0)
    for number in range(1, 4):
        with store.read_ahead([]):
            assert found(store, number) is None
            assert found(store, number) is None, "this is remembered"
        monkeypatch.setattr(store_packs, "FULL_BYTES", 1)
        commit(store if number == 3 else other, number)
        monkeypatch.undo()
        with store.read_ahead([]):
            assert found(store, number) == number
    assert [found(store, number) for number in range(4)] == [0, 1, 2, 3]


def test_what_is_missing_is_remembered_of_so_many_names_only(tmp_path, monkeypatch):
    monkeypatch.setattr(store_packs, "MOST_ABSENT", 10)
    store = Store.open(tmp_path)
    commit(store, 0)
    with store.read_ahead([]):
        assert [found(store, number) for number in range(100)] == [0, *[None] * 99]
    assert len(store._backend._packs._absent) <= 10


def test_a_record_that_moves_in_a_merge_during_a_turn_is_found_and_used(tmp_path):
    other = Store.open(tmp_path)
    for number in range(200):
        commit(other, number)
    for number in range(50, 200):
        other.remove(f"{number:032x}")
    del other
    age_packs(tmp_path, 1000)
    before = packs(tmp_path)
    store = Store.open(tmp_path)
    with store.read_ahead([]):
        FolderBackend(tmp_path).compact()
        assert not set(packs(tmp_path)) & set(before)
        assert [found(store, number) for number in range(50)] == [*range(50)]
    used = [stored.used for stored in FolderBackend(tmp_path).list("keys/")]
    assert len(used) == 50
    assert min(used) > time.time() - 3600


@pytest.mark.skipif(not has_range_locks(), reason="claims are files of their own")
def test_claims_of_a_turn_are_made_and_released_together(tmp_path: Path) -> None:
    one, other = (RangeClaims(tmp_path / "claims.lock") for _ in range(2))
    first = one.claim_many(["a", "b", "b", "c"])
    assert [each is None for each in first] == [False, False, True, False], (
        "a key that is given twice is claimed once"
    )
    assert [each is None for each in other.claim_many(["a", "b", "d"])] == [True, True, False]
    one.release_many([each for each in first if each is not None][:2])
    again = other.claim_many(["a", "b", "c"])
    assert [each is None for each in again] == [False, False, True]
    one.release_many([each for each in first if each is not None])
    assert one.claim_many(["a", "b"]) == [None, None], "they are another's now"
    other.release_many([each for each in first if each is not None])
    assert one.claim("a") is None, "a claim is released by who gave it"


@pytest.mark.skipif(not has_range_locks(), reason="claims are files of their own")
def test_a_store_that_closed_its_files_has_none_open_and_goes_on(tmp_path: Path) -> None:
    def open_there() -> set[str]:
        links = (f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd"))
        found = {os.readlink(link) for link in links if os.path.lexists(link)}
        return {path for path in found if path.startswith(str(tmp_path))}

    folder = FolderBackend(tmp_path / "s")
    store = Store(folder, claims=RangeClaims(tmp_path / "claims.lock"))
    write(folder, "keys/aa/aa", b"1")
    held = store.claim("k")
    assert held is not None
    store.close_files()
    assert open_there() == {str(tmp_path / "claims.lock")}, "a claim that is held stays"
    assert RangeClaims(tmp_path / "claims.lock").claim("k") is None
    held.release()
    store.close_files()
    assert not open_there()
    write(folder, "keys/aa/ab", b"2")
    assert [bytes(folder.read(name).data) for name in ("keys/aa/aa", "keys/aa/ab")] == [b"1", b"2"]
    assert len(list((tmp_path / "s/packs").glob("*.pack"))) == 1, "the own pack goes on"


def test_a_large_pack_gets_its_index_when_its_writer_closes_it(tmp_path):
    folder = FolderBackend(tmp_path / "s")
    names = [f"keys/{number:04x}"[:7] + f"/{number:06x}" for number in range(400)]
    with folder.together():
        for name in names:
            write(folder, name, name.encode() * 40)
    folder.close_files()
    packs = tmp_path / "s/packs"
    assert len(list(packs.glob("*.index"))) == len(list(packs.glob("*.pack"))) == 1
    write(folder, "keys/ff/more", b"1")
    assert len(list(packs.glob("*.pack"))) == 2, "it never grows again"
    for _ in range(3):  # so often that it keeps the first bits of its hashes
        for name in names:
            assert bytes(folder.read(name).data) == name.encode() * 40
            assert folder.read(f"{name}0") is None


def test_a_large_pack_that_was_cut_gets_no_index_when_its_writer_closes_it(tmp_path):
    folder = FolderBackend(tmp_path / "s")
    with folder.together():
        for number in range(400):
            write(folder, f"keys/aa/{number:06x}", b"x" * 400)
    (pack,) = (tmp_path / "s/packs").glob("*.pack")
    os.truncate(pack, 10_000)
    folder.close_files()
    assert not list((tmp_path / "s/packs").glob("*.index"))
    assert folder.read("keys/aa/000000") is not None
    assert folder.read("keys/aa/00018f") is None
