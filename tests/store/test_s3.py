"""A store on S3: through s3fs, against a server on the loopback."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.store.places import RemotePlace
from tests.store.s3_server import s3

from hooke.base.errors import StoreError
from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.remote import RemoteBackend
from hooke.store.claims import LeaseClaims
from hooke.store.entries import Entry
from hooke.store.store import Store
from hooke.testing import check_backend, check_store
from hooke.testing.store_suite import STORE_CHECKS

__all__ = ["s3"]

pytestmark = pytest.mark.needs("processes")
SECRET = b"a secret of sixteen bytes or more"
CHURN = Path(__file__).with_name("s3_churn.py")


def start(*args):
    return subprocess.Popen([sys.executable, *map(str, args)], stdout=subprocess.PIPE, text=True)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.long
def test_it_keeps_every_guarantee(s3, tmp_path):
    count = itertools.count()

    def make():
        number = next(count)
        return RemoteBackend(f"{s3}/suite/{number}", FolderBackend(tmp_path / str(number)))

    check_backend(make)


SOON = (
    "_claims_end_at_once",
    "_what_was_committed_before_a_release_is_found_after_the_next_claim",
    "_a_run_that_begins_during_an_eviction_keeps_what_it_finds",
)


@pytest.mark.long
@pytest.mark.parametrize("check", [check for check in STORE_CHECKS if check.__name__ in SOON])
def test_a_store_there_keeps_the_guarantees_of_claims_and_evictions(s3, tmp_path, check):
    """Those that need few requests."""
    secret = b"a secret of the project, derived"
    check_store(lambda: RemotePlace(f"{s3}/{check.__name__}", tmp_path / "hosts", secret), only=check)


def test_values_travel_between_hosts(s3, tmp_path):
    here = Store.open(f"{s3}/travel", secret=SECRET, near=tmp_path / "here")
    there = Store.open(f"{s3}/travel", secret=SECRET, near=tmp_path / "there")
    array = np.arange(3_000_000)
    ref = here.put({"array": array})
    here.commit(Entry(key="k" * 32, ref=ref, task="t", run="r", seconds=1.0, at=0.0))
    here.commit_items("f" * 32, bytes(range(32)), here.put([1, 2]), task="m", run="r", seconds=1.0)
    found = there.get(there.find("k" * 32).ref)["array"]
    assert np.array_equal(found, array)
    assert not found.flags.owndata
    (hit,) = there.find_items("f" * 32, bytes(range(32)))
    assert there.get(hit.ref) == [1, 2]
    assert there.find("j" * 32) is None
    assert there.keep([ref]) == [True]
    assert there.get(ref)["array"][-1] == 2_999_999
    assert there.verify().damaged == ()
    with pytest.raises(StoreError, match="signed"):
        Store.open(f"{s3}/travel", secret=SECRET + b"!", near=tmp_path / "other").find("k" * 32)


def test_a_damaged_copy_is_fetched_again(s3, tmp_path):
    store = Store.open(f"{s3}/copies", secret=SECRET, near=tmp_path)
    ref = store.put(np.arange(50_000))
    (copy,) = (path for path in tmp_path.rglob(ref.digest) if path.is_file())
    copy.chmod(0o644)
    with copy.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff")
    assert store.get(ref)[-1] == 49_999
    assert store.keep([ref]) == [True]


@pytest.mark.long
def test_two_writers_at_once(s3, tmp_path):
    url = f"{s3}/writers"
    writers = [start(CHURN, url, SECRET.decode(), tmp_path / who, who, 15) for who in "ab"]
    for writer in writers:
        assert writer.wait(100) == 0
        writer.stdout.close()
    store = Store.open(url, secret=SECRET, near=tmp_path / "reader")
    for number in range(15):
        for key in (f"{number % 5:032x}", f"a{number:031x}", f"b{number:031x}"):
            entry = store.find(key)
            assert np.array_equal(store.get(entry.ref), np.full(30_000, number % 5))
    hits = store.find_items("f" * 32, b"".join(number.to_bytes(16, "big") for number in range(15)))
    assert sum(hit.hi - hit.lo for hit in hits) == 15
    report = store.verify()
    assert report.damaged == ()
    assert report.objects == 5


@pytest.mark.long
def test_an_upload_cut_off_by_a_kill_leaves_nothing_to_see(s3, tmp_path):
    url = f"{s3}/cut"
    for pause in (0.0, 0.1, 0.3):
        writer = start(CHURN, url, SECRET.decode(), tmp_path / str(pause), "large", 0)
        assert writer.stdout.readline().strip() == "uploading"
        time.sleep(pause)
        kill(writer)
        if not pause:
            assert list(RemoteBackend(url, FolderBackend(tmp_path / "look")).list("objects/")) == []
    store = Store.open(url, secret=SECRET, near=tmp_path / "reader")
    report = store.verify()
    assert report.damaged == ()
    value = np.arange(1000)
    assert np.array_equal(store.get(store.put(value)), value)


def test_a_dead_ones_lease_runs_out(s3, tmp_path):
    backend = RemoteBackend(f"{s3}/leases", FolderBackend(tmp_path))
    clock = Ahead()
    claims = LeaseClaims(backend, "claims", clock)
    code = (
        "import sys, os, signal\n"
        "from hooke.store.store import Store\n"
        "store = Store.open(sys.argv[1], secret=sys.argv[2].encode(), near=sys.argv[3])\n"
        "assert store.claim('k')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, backend.place, SECRET.decode(), tmp_path / "near"], check=False
    )
    assert claims.claim("k") is None
    assert claims.held().keys() == {"k"}
    clock.ahead = 61
    claim = claims.claim("k")
    assert claim is not None
    assert claims.claim("k") is None
    claim.release()
    assert claims.held() == {}


@pytest.mark.long
def test_nothing_is_evicted_while_a_run_is_live(s3, tmp_path):
    store = Store.open(f"{s3}/evict", secret=SECRET, near=tmp_path)
    ref = store.put(np.arange(50_000))
    with store.live("run"):
        assert store.gc(0).evicted == ()
        assert store.keep([ref]) == [True]
    assert len(store.gc(0).evicted) == 1
    assert store.keep([ref]) == [False]


class Ahead:
    """The machine's clock, some seconds ahead."""

    ahead = 0.0

    def now(self):
        return time.time() + self.ahead

    def monotonic(self):
        return time.monotonic()
