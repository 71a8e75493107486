"""Every backend keeps its guarantees, every store those of `hooke.store.Store`, and disks those of durability."""

import itertools
import os

import fsspec
import pytest
from tests.fixtures.raw_disk import raw_disk  # noqa: F401 a fixture
from tests.store.places import DiskPlace, FolderPlace, MemoryPlace, RemotePlace

from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.backends.remote import RemoteBackend
from hooke.testing import check_backend, check_durability, check_store
from hooke.testing.store_suite import DURABILITY_CHECKS

SECRET = b"a secret of the project, derived"


@pytest.mark.needs("cpu")
def test_folder(tmp_path):
    count = itertools.count()
    check_backend(lambda: FolderBackend(tmp_path / str(next(count))))


@pytest.mark.needs("cpu")
def test_memory():
    check_backend(MemoryBackend)


@pytest.mark.needs("cpu")
def test_remote_over_a_memory_file_system(tmp_path):
    count = itertools.count()

    def make():
        number = next(count)
        url = f"memory://hooke-{os.getpid()}-{number}/store"
        return RemoteBackend(url, FolderBackend(tmp_path / str(number)))

    check_backend(make)
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "signed"])
def test_a_store_in_a_folder(tmp_path, secret):
    count = itertools.count()
    check_store(lambda: FolderPlace(tmp_path / str(next(count)), secret))


@pytest.mark.needs("cpu")
def test_a_store_in_memory():
    check_store(MemoryPlace)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_remote_store(tmp_path):
    count = itertools.count()

    def make():
        number = next(count)
        return RemotePlace(
            f"memory://hooke-store-{os.getpid()}-{number}/store", tmp_path / str(number), SECRET
        )

    check_store(make)
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("check", DURABILITY_CHECKS)
def test_a_store_on_a_disk_without_power(raw_disk, check):  # noqa: F811
    with raw_disk.mounted():
        check_durability(lambda: DiskPlace(raw_disk), only=check)
