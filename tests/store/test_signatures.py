"""Objects and records of a shared store are believed only when signed with the project's secret."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hooke.base.errors import CorruptObject, StoreError, UsageError
from hooke.base.ref import Ref
from hooke.journal.events import AttemptFailed
from hooke.pipeline.failures import failure_of, task_failed
from hooke.store.codecs import encode, encode_plain
from hooke.store.entries import Entry
from hooke.store.objects import VerifiedObjects, name_of
from hooke.store.store import Store

SECRET, OTHER = b"a secret of the project", b"a secret of somebody else"


def entry(store, value):
    return Entry(key="k" * 32, ref=store.put(value), task="t", run="r", seconds=1.0, at=0.0)


@pytest.mark.parametrize("value", [[1, 2], np.arange(50_000)], ids=["inline", "file"])
def test_only_the_right_secret_opens(tmp_path, value):
    ours = Store.open(tmp_path, secret=SECRET)
    ours.commit(stored := entry(ours, value))
    again = Store.open(tmp_path, secret=SECRET)
    assert np.array_equal(again.get(again.find("k" * 32).ref), value)
    for secret in (OTHER, SECRET + b"!"):
        theirs = Store.open(tmp_path, secret=secret)
        with pytest.raises(StoreError, match="not signed with this project's secret"):
            theirs.get(stored.ref)
        with pytest.raises(StoreError, match="cannot trust the record"):
            theirs.find("k" * 32)
    assert again.find("k" * 32) == stored, "a refusal destroys nothing"


def test_an_unsigned_pickle_is_never_opened(tmp_path):
    canary = tmp_path / "canary"
    plain = Store.open(tmp_path / "store")

    class Bomb:
        def __reduce__(self):
            return canary.touch, ()

    refs = [plain.put(Bomb()), plain.put([Bomb(), np.arange(50_000)])]
    store = Store.open(tmp_path / "store", secret=SECRET)
    for ref in refs:
        with pytest.raises(StoreError):
            store.get(ref)
    assert not canary.exists()


def test_a_signature_does_not_fit_another_object(tmp_path):
    store = Store.open(tmp_path, secret=SECRET)
    one, two = store.put("one"), store.put("two")
    forged = one.inline[:-80] + two.inline[-80:]
    with pytest.raises(StoreError):
        store.get(Ref(one.digest, one.size, forged))
    with pytest.raises(StoreError):
        store.get(Ref(two.digest, two.size, forged))


def test_a_remote_store_wants_a_secret(tmp_path):
    with pytest.raises(UsageError, match="needs a secret") as caught:
        Store.open("memory://hooke-unsigned", near=tmp_path)
    assert "token_hex" in caught.value.fix
    with pytest.raises(UsageError, match="5 bytes"):
        Store.open(tmp_path, secret=b"short")


def test_copies_are_kept_in_a_private_folder_only(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="other users can write"):
        Store.open("memory://hooke-open", secret=SECRET, near=tmp_path)


def test_who_writes_to_a_shared_folder_cannot_vouch_for_a_forged_object(tmp_path):
    """Records of what was verified do not lie where others write."""
    store = Store.open(tmp_path / "store", secret=SECRET, near=tmp_path / "near")
    ref = store.put(bytes(3_000_000))
    store.get(ref)
    inside = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert [path.parent.parent.name for path in inside] == ["objects"], "there is nothing but the object"
    assert (tmp_path / "near").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("opened", ["folder", "file"])
def test_records_that_others_can_write_to_count_for_nothing(tmp_path, opened):
    notes = VerifiedObjects(tmp_path)
    notes.add(b"d" * 32, b"stamp")
    (file,) = tmp_path.iterdir()
    assert VerifiedObjects(tmp_path).has(b"d" * 32, b"stamp")
    (tmp_path if opened == "folder" else file).chmod(0o777)
    assert not VerifiedObjects(tmp_path).has(b"d" * 32, b"stamp")
    VerifiedObjects(tmp_path).add(b"e" * 32, b"stamp")
    assert file.stat().st_size == 56


@pytest.mark.needs("root")  # it makes a file of another user
def test_another_users_object_is_opened_from_a_copy_that_its_owner_cannot_change(tmp_path):
    store = Store.open(tmp_path, secret=SECRET, near=tmp_path / "near")
    ref = store.put(np.zeros(500_000))
    path = tmp_path / name_of(ref.digest)
    os.chown(path, 65534, 65534)
    value = store.get(ref)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x01" * 1000)
    assert not value.any(), "after it was verified, nothing changes"
    with pytest.raises(CorruptObject):
        store.get(ref)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_folder_that_others_can_write_to_wants_a_secret(tmp_path, mode):
    folder = tmp_path / "store"
    Store.open(folder).put(np.arange(50_000))
    folder.chmod(mode)
    with pytest.raises(UsageError, match="needs a secret") as caught:
        Store.open(folder)
    assert "other users can write to it" in caught.value.why
    assert f"chmod -R go-w {folder}" in caught.value.fix
    Store.open(folder, secret=SECRET)
    folder.chmod(0o755)
    Store.open(folder)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("secret", "shared"), [(None, False), (SECRET, True)])
def test_only_a_signed_store_makes_folders_for_others_to_write_to(tmp_path, secret, shared):
    code = f"""
import os, numpy
os.umask(0o002)
from hooke.store.store import Entry, Store
store = Store.open({str(tmp_path / "store")!r}, secret={secret!r})
store.claim("k" * 32).release()
with store.live("run"):
    ref = store.put(numpy.arange(50_000))
    store.commit(Entry(key="k" * 32, ref=ref, task="t", run="r", seconds=1.0, at=0.0))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    folders = [path for path in (tmp_path / "store").rglob("*") if path.is_dir()] + [tmp_path / "store"]
    assert len(folders) > 5
    assert {bool(path.stat().st_mode & 0o022) for path in folders} == {shared}
    Store.open(tmp_path / "store", secret=secret)


def test_an_exception_that_is_not_signed_is_not_unpickled(tmp_path):
    """It comes from a worker, or from a journal that others may have written."""
    canary = tmp_path / "canary"

    class BombError(Exception):
        def __reduce__(self):
            return canary.touch, ()

    ours, theirs = Store.open(tmp_path / "a", secret=SECRET), Store.open(tmp_path / "b")
    good = failure_of(KeyError("x"), arguments="", store=ours)
    forged = [pickle.dumps(BombError()), theirs.seal(BombError()), b""]

    def raised(pickled):
        event = AttemptFailed(
            attempt=1, node=0, lo=0, hi=1, worker="w", failure=replace(good, pickled=pickled)
        )
        return task_failed(event, task="t", run="r", unseal=ours.unseal)

    assert repr(raised(good.pickled).__cause__) == "KeyError('x')"
    for pickled in forged:
        error = raised(pickled)
        assert error.__cause__ is None
        assert "KeyError" in str(error)
    assert not canary.exists()


short = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9)


@pytest.mark.needs("cpu")
@given(short | st.sampled_from([-0.0, 10**5000, "x" * 1024, b"x" * 1024]), st.sampled_from([None, b"s" * 32]))
def test_a_number_or_short_text_has_the_object_that_every_value_has_signed_or_not(value, secret):
    assert encode_plain(value, secret) == encode(value).to_bytes(secret)
