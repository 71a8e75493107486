"""Claims in a backend without locks, when the backend fails or stalls."""

import subprocess
import sys

import pytest

from hooke.base.clock import SystemClock
from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.claims import FileClaims, LeaseClaims
from hooke.testing.backend_suite import ThroughBackend


class Clock:
    seconds = 1000.0

    def now(self):
        return self.seconds

    def monotonic(self):
        return self.seconds


class Faulty(ThroughBackend):
    """Fails to list, or stalls in a write, when told to."""

    lists = True
    stalls_s = 0.0

    def __init__(self, backend, clock):
        super().__init__(backend)
        self._clock = clock

    def list(self, prefix):
        if not self.lists:
            raise OSError("out of reach")
        return super().list(prefix)

    def write(self, fill, *, size=0, exclusive=False):
        self._clock.seconds += self.stalls_s
        return super().write(fill, size=size, exclusive=exclusive)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def faulty(clock):
    return Faulty(MemoryBackend(), clock)


@pytest.fixture
def two(faulty, clock):
    return LeaseClaims(faulty, "claims", clock), LeaseClaims(faulty, "claims", clock)


def test_a_claim_that_failed_half_way_is_free_after_the_next_release(two, faulty):
    one, other = two
    faulty.lists = False
    with pytest.raises(OSError, match="out of reach"):
        one.claim("k")
    faulty.lists = True
    one.release_many([])
    assert other.claim("k")


def test_what_others_took_is_lost_though_the_first_look_for_it_failed(two, faulty, clock):
    one, other = two
    mine = one.claim("k")
    clock.seconds += 61
    theirs = other.claim("k")
    assert theirs
    faulty.lists = False
    with pytest.raises(OSError, match="out of reach"):
        one._renew_all()
    faulty.lists = True
    clock.seconds += 1
    one._renew_all()
    assert other.held().keys() == {"k"}
    assert not one._held
    mine.release()
    assert other.held().keys() == {"k"}


def test_a_lease_that_was_over_before_it_was_written_claims_nothing(two, faulty):
    one, other = two
    faulty.stalls_s = 61.0
    assert one.claim("k") is None
    faulty.stalls_s = 0.0
    assert other.claim("k")


def test_a_renewal_that_took_longer_than_the_lease_looks_whether_others_have_the_keys(two, faulty, clock):
    one, other = two
    one.claim("k")
    clock.seconds += 50
    writes = faulty.write

    def overtaken(fill, **options):
        clock.seconds += 30
        faulty.write = writes
        assert other.claim("k"), "the lease is over"
        return writes(fill, **options)

    faulty.write = overtaken
    one._renew_all()
    assert not one._held
    assert other._held.keys() == {"k"}


def test_to_claim_or_release_nothing_asks_nothing(two, faulty):
    one, _ = two
    faulty.lists = False
    with one._file_lock:
        assert one.claim_many([]) == []
        one.release_many([], soon=True)


HOLDS = """
import sys
from pathlib import Path
from hooke.base.clock import SystemClock
from hooke.store.backends.folder import FolderBackend
from hooke.store.claims import FileClaims, LeaseClaims

folder = Path(sys.argv[1])
claims = LeaseClaims(FolderBackend(folder / "store"), "claims", SystemClock(), locks=FileClaims(folder / "here"))
claim = claims.claim("k")
assert claim is not None
print("held", flush=True)
if sys.stdin.readline() == "release\\n":
    claim.release()
    print("released", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the claim "k", on this host."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def claims_of(folder, host):
    backend = FolderBackend(folder / "store")
    return LeaseClaims(backend, "claims", SystemClock(), locks=FileClaims(folder / host))


def test_processes_of_the_same_host_need_not_wait_for_the_lease_of_one_that_died(holder, tmp_path):
    assert claims_of(tmp_path, "here").claim("k") is None
    holder.kill()
    holder.wait()
    assert claims_of(tmp_path, "elsewhere").claim("k") is None, "it may live, as far as others know"
    assert claims_of(tmp_path, "here").held() == {}
    claim = claims_of(tmp_path, "elsewhere").claim("k")
    assert claim is not None, "the file of the dead process is removed"
    claim.release()
    assert list((tmp_path / "here").iterdir()) == []


def test_a_host_has_a_lock_for_each_process_that_claims_something(holder, tmp_path):
    assert len(list((tmp_path / "here").iterdir())) == 1
    holder.stdin.write("release\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    assert list((tmp_path / "here").iterdir()) == []
    claims = claims_of(tmp_path, "here")
    names = set()
    for _ in range(2):
        claim = claims.claim("k")
        assert claim is not None
        names |= {path.name for path in (tmp_path / "here").iterdir()}
        claim.release()
    assert len(names) == 2, (
        "who has read the first file, and looks for its lock now, does not find the second one's"
    )


def test_of_threads_that_claim_a_key_at_once_one_gets_it(faulty, clock):
    import threading

    def claim():
        got.append(claims.claim("k"))

    class Interrupted(ThroughBackend):
        def write(self, fill, **options):
            if second.ident is None:
                second.start()
                second.join(0.1)  # it waits for the first one, or gets the claim meanwhile
            return super().write(fill, **options)

    got, second = [], threading.Thread(target=claim)
    claims = LeaseClaims(Interrupted(faulty), "claims", clock)
    claim()
    second.join()
    assert sum(each is not None for each in got) == 1
