"""Objects and records of a shared store are believed only when signed with the project's secret."""

import numpy as np
import pytest

from hooke.base.errors import StoreError, UsageError
from hooke.base.ref import Ref
from hooke.store.entries import Entry
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
