"""Stores to test on."""

import pytest

from hooke.store.backends.memory import MemoryBackend
from hooke.store.store import Store


@pytest.fixture
def store(tmp_path):
    """A store in a folder."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def memory():
    """A store in memory."""
    return Store(MemoryBackend())
