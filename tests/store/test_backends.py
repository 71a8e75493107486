"""Every backend keeps every guarantee of `hooke.store.backend.Backend`, and a lease in one ends with its owner alone."""

import itertools
import os

import fsspec

from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.backends.remote import RemoteBackend
from hooke.store.claims import LEASE_S, LeaseClaims
from hooke.testing.store_suite import check_backend


def test_folder(tmp_path):
    count = itertools.count()
    check_backend(lambda: FolderBackend(tmp_path / str(next(count))))


def test_memory():
    check_backend(MemoryBackend)


def test_remote_over_a_memory_file_system(tmp_path):
    count = itertools.count()

    def make():
        number = next(count)
        url = f"memory://hooke-{os.getpid()}-{number}/store"
        return RemoteBackend(url, FolderBackend(tmp_path / str(number)))

    check_backend(make)
    fsspec.filesystem("memory").rm("/", recursive=True)


class Hand:
    """A clock turned by hand."""

    time = 0.0

    def now(self):
        return self.time

    def monotonic(self):
        return self.time


def test_the_release_of_a_lease_that_another_process_took_over_leaves_that_lease():
    backend, clock = MemoryBackend(), Hand()
    stopped, other = (LeaseClaims(backend, "claims", clock) for _ in range(2))
    old = stopped.claim("k")
    assert old is not None
    assert other.claim("k") is None
    clock.time += LEASE_S + 1  # its process was stopped for so long
    new = other.claim("k")
    assert new is not None
    old.release()
    assert other.held() == {"k": clock.time}
    assert stopped.claim("k") is None
    new.release()
    assert other.held() == {}
