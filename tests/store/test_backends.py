"""Every backend keeps its guarantees, every store those of `hooke.store.Store`, and a lease ends with its owner alone."""

import itertools
import os

import fsspec
import pytest

from hooke.base.clock import SystemClock
from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.backends.remote import RemoteBackend
from hooke.store.claims import LEASE_S, LeaseClaims, MemoryClaims
from hooke.store.store import Store
from hooke.testing.store_suite import check_backend, check_store


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


class FolderPlace:
    def __init__(self, folder, secret=None):
        self.folder, self.secret = folder, secret

    def open(self):
        return Store.open(self.folder, secret=self.secret)

    def damage(self, name):
        path = self.folder / name
        before, data = path.stat(), bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class MemoryPlace:
    def __init__(self):
        self.backend, clock = MemoryBackend(), SystemClock()
        self.claims, self.live = MemoryClaims(clock), MemoryClaims(clock)

    def open(self):
        return Store(self.backend, claims=self.claims, live=self.live)

    def damage(self, name):
        data = bytearray(self.backend.read(name).data)
        data[len(data) // 2] ^= 1
        self.backend.rot(name, data)


class RemotePlace:
    def __init__(self, url, folder):
        self.url, self.folder, self.count = url, folder, itertools.count()

    def open(self):
        return Store.open(
            self.url, secret=b"a secret of the project", near=self.folder / str(next(self.count))
        )

    def damage(self, name):
        files = fsspec.filesystem("memory")
        path = f"{self.url.partition('://')[2]}/{name}"
        data = bytearray(files.cat_file(path))
        data[len(data) // 2] ^= 1
        files.pipe_file(path, bytes(data))
        for copy in self.folder.rglob(name.rpartition("/")[2]):
            copy.unlink()


@pytest.mark.parametrize("secret", [None, b"a secret of the project"], ids=["plain", "signed"])
def test_a_store_in_a_folder(tmp_path, secret):
    count = itertools.count()
    check_store(lambda: FolderPlace(tmp_path / str(next(count)), secret))


def test_a_store_in_memory():
    check_store(MemoryPlace)


def test_a_remote_store(tmp_path):
    count = itertools.count()

    def make():
        number = next(count)
        return RemotePlace(f"memory://hooke-store-{os.getpid()}-{number}/store", tmp_path / str(number))

    check_store(make)
    fsspec.filesystem("memory").rm("/", recursive=True)
