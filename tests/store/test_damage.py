"""A damaged object is never served: every byte flipped, every length cut."""

import struct

import numpy as np
import pytest

from hooke.base.errors import CorruptObject, MissingObject, StoreError
from hooke.base.ref import Ref
from hooke.store.backends.memory import MemoryBackend
from hooke.store.entries import Entry
from hooke.store.objects import VerifiedObjects, name_of
from hooke.store.store import Store

VALUE = {"a": np.arange(20), "b": ["text", 1.5]}


def damages(data):
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
        yield data[:at]
    yield data + b"\0"


def test_small_objects(memory):
    ref = memory.put(VALUE)
    for data in damages(ref.inline):
        with pytest.raises(CorruptObject):
            memory.get(Ref(ref.digest, ref.size, data))
    assert memory.get(ref)["b"] == VALUE["b"]


@pytest.mark.needs("cpu")
def test_objects_in_files():
    backend = MemoryBackend()
    store = Store(backend, inline_bytes=0)
    ref = store.put(VALUE)
    whole = bytes(backend.read(name_of(ref.digest)).data)

    def fill(data):
        return lambda sink: (sink.write(data), name_of(ref.digest))[1]

    for data in damages(whole):
        backend.write(fill(data))
        assert Store(backend).verify().damaged
        with pytest.raises(CorruptObject, match="is damaged"):
            store.get(ref)
        assert backend.read(name_of(ref.digest)) is None
    backend.write(fill(whole))
    assert store.get(ref)["b"] == VALUE["b"]
    assert not store.verify().damaged


def test_records(memory):
    backend = MemoryBackend()
    store = Store(backend)
    store.commit(Entry(key="k" * 32, ref=store.put(1), task="t", run="r", seconds=1.0, at=0.0))
    name = f"keys/kk/{'k' * 32}"
    whole = bytes(backend.read(name).data)
    for data in damages(whole):
        backend.write(lambda sink, data=data: (sink.write(data), name)[1])
        assert store.find("k" * 32) is None
    backend.write(lambda sink: (sink.write(whole), "keys/ll/" + "l" * 32)[1])
    assert store.find("l" * 32) is None, "an entry moved to another key counts as damaged"


@pytest.fixture
def damaged(store, tmp_path):
    ref = store.put(np.arange(100_000))
    (path,) = (path for path in (tmp_path / "store" / "objects").rglob("*") if path.is_file())
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(400_000)
        file.write(b"\xff")
    return ref, path


def test_a_damaged_file_is_set_aside_and_computed_again(store, tmp_path, damaged):
    ref, path = damaged
    entry = Entry(key="k" * 32, ref=ref, task="t", run="r", seconds=1.0, at=0.0)
    store.commit(entry)
    with pytest.raises(CorruptObject) as caught:
        store.get(ref)
    message = str(caught.value)
    assert f"expected content of digest {ref.digest}" in message
    assert str(path) in message
    assert "Hooke moved it to" in message
    assert "hooke cache verify" in message
    assert store.find("k" * 32) is None
    assert len(list((tmp_path / "store" / "corrupt").iterdir())) == 1
    assert store.put(np.arange(100_000)) == ref
    assert store.get(ref)[-1] == 99_999
    assert store.find("k" * 32) == entry


def test_verify_finds_it_and_removes_it(store, damaged):
    report = store.verify()
    assert report.objects == 1
    assert [damage.name for damage in report.damaged] == [name_of(damaged[0].digest)]
    assert not report.removed
    assert store.verify(remove=True).removed
    report = store.verify()
    assert (report.objects, report.damaged) == (0, ())
    assert store.usage().corrupt > 0


def test_a_missing_object_says_so(store):
    with pytest.raises(MissingObject, match="does not hold"):
        store.get(Ref("ab" * 32, 100))


def test_another_version_of_the_format_is_refused(memory):
    ref = memory.put(1)
    data = ref.inline[:8] + b"\x07" + ref.inline[9:]
    with pytest.raises(StoreError, match="version 7"):
        memory.get(Ref(ref.digest, ref.size, data))


def test_an_object_that_a_power_loss_left_empty_counts_as_missing(store, tmp_path):
    ref = store.put(np.arange(100_000))
    entry = Entry(key="k" * 32, ref=ref, task="t", run="r", seconds=1.0, at=0.0)
    store.commit(entry)
    store.commit_items("f" * 32, b"i" * 16, ref, task="t", run="r", seconds=1.0)
    path = tmp_path / "store" / name_of(ref.digest)
    path.chmod(0o644)
    path.write_bytes(b"")
    assert store.keep([ref]) == [False]
    assert store.find("k" * 32) is None
    assert store.find_items("f" * 32, b"i" * 16) == []
    assert store.put(np.arange(100_000)) == ref
    assert store.find("k" * 32) == entry


def test_a_signed_record_that_a_power_loss_left_empty_counts_as_missing(tmp_path):
    store = Store.open(tmp_path, secret=b"a secret of the project")
    store.commit(Entry(key="k" * 32, ref=store.put(1), task="t", run="r", seconds=1.0, at=0.0))
    del store
    (path,) = (tmp_path / "packs").glob("*.pack")
    whole = path.read_bytes()
    # The file system knew of the append, and had not written the bytes, or not all.
    for left in (b"", whole[:-50], whole[:60] + bytes(len(whole) - 60), bytes(len(whole))):
        path.write_bytes(left)
        store = Store.open(tmp_path, secret=b"a secret of the project")
        assert store.find("k" * 32) is None
        assert store.verify().damaged == ()


@pytest.mark.parametrize("durable", ["group", "each"])
def test_a_sync_that_the_disk_does_not_confirm_is_an_error(tmp_path, durable):
    store = Store.open(tmp_path, durable=durable)
    ref = store.put(np.arange(100_000))
    path = tmp_path / name_of(ref.digest)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(StoreError, match="the disk did not confirm") as caught:
        store.sync([ref])
    assert "symbolic links" in caught.value.why


def test_a_disk_that_loses_bits_without_a_trace_is_found_out(tmp_path):
    """Small objects at each read; nothing tells of the loss, not even a time stamp."""
    backend = MemoryBackend()
    store = Store(backend, inline_bytes=0, near=tmp_path)
    ref = store.put(bytes(100_000))
    name = name_of(ref.digest)
    store.get(ref)
    rotten = bytearray(backend.read(name).data)
    rotten[50_000] ^= 1
    backend.rot(name, rotten)
    with pytest.raises(CorruptObject):
        store.get(ref)


def test_a_check_of_a_large_object_counts_for_a_while_and_until_a_restart(tmp_path):
    notes = VerifiedObjects(tmp_path)
    notes.add(b"d" * 32, b"stamp")
    assert VerifiedObjects(tmp_path).has(b"d" * 32, b"stamp")
    assert not VerifiedObjects(tmp_path).has(b"d" * 32, b"other")
    assert not VerifiedObjects(tmp_path).has(b"e" * 32, b"stamp")
    (file,) = tmp_path.iterdir()
    digest, stamp, at = struct.unpack("<32s16sd", file.read_bytes())
    for later in (at - 601, at + 1000):
        file.write_bytes(struct.pack("<32s16sd", digest, stamp, later))
        assert not VerifiedObjects(tmp_path).has(b"d" * 32, b"stamp")
    file.rename(tmp_path / "verified-the-start-before")
    assert not VerifiedObjects(tmp_path).has(b"d" * 32, b"stamp")


@pytest.mark.needs("cpu")
def test_records_of_checks_stay_few(tmp_path):
    notes = VerifiedObjects(tmp_path)
    reader = VerifiedObjects(tmp_path)
    (tmp_path / "other").mkdir()
    for number in range(40_000):
        notes.add(number.to_bytes(32, "big"), b"stamp")
        if number % 10_000 == 0:
            assert reader.has(number.to_bytes(32, "big"), b"stamp")
    (file,) = (path for path in tmp_path.iterdir() if path.is_file())
    assert file.stat().st_size < 1.1 * (1 << 20)
    assert reader.has((39_999).to_bytes(32, "big"), b"stamp")
