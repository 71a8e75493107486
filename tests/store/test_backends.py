"""Every backend keeps every guarantee of `hooke.store.backend.Backend`."""

import itertools
import os

import fsspec

from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.backends.remote import RemoteBackend
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
