"""The error for what cannot be stored names the part."""

import dataclasses
import io
import pickle
import socket
import threading

import numpy as np
import polars as pl
import pytest

from hooke.base.errors import StoreError, StoreUnavailable
from hooke.pipeline.failures import failure_of
from hooke.store import by_value
from hooke.store.backends.memory import MemoryBackend
from hooke.store.store import Store


@dataclasses.dataclass
class Holder:
    name: str
    inner: object


class Plain:
    def __init__(self, inner):
        self.inner = inner


class Refuses:
    def __reduce__(self):
        raise RuntimeError("not me")


def closure(captured):
    return lambda: captured


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (LOCK, "result", "_thread.lock"),
        ({"model": [1, (2, LOCK)]}, "result['model'][1][1]", "_thread.lock"),
        (Holder("x", {"a": Plain([LOCK])}), "result.inner['a'].inner[0]", "_thread.lock"),
        (closure({"lock": LOCK}), "result.<closure captured>['lock']", "_thread.lock"),
        ([1, Refuses()], "result[1]", "Refuses"),
    ],
)
def test_it_names_the_way_to_the_part(store, value, path, kind):
    with pytest.raises(StoreError) as caught:
        store.put(value)
    error = caught.value
    assert error.where == path
    assert f"{path} is of type" in error.what
    assert kind in error.what
    assert "made from instead" in error.fix
    assert error.__cause__ is not None


def test_a_generator_is_to_be_a_list(store):
    with pytest.raises(StoreError, match=r"result\[0\] is a generator") as caught:
        store.put([(n for n in range(3))])
    assert "return a list" in caught.value.fix


@pytest.mark.parametrize("mode", ["r", "w", "rb"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_open_file_is_refused_with_what_to_return(store, tmp_path, mode, nested):
    """cloudpickle makes an io.StringIO of one that is open for reading."""
    path = tmp_path / "rows.txt"
    path.write_text("1\n2\n", "utf-8")
    with path.open(mode) as file, pytest.raises(StoreError) as caught:
        store.put({"rows": [file]} if nested else file)
    assert f"is an open file ({path})" in caught.value.what
    assert "return its path" in caught.value.fix
    assert store.get(store.put(io.StringIO("in memory"))).read() == "in memory"


def test_a_captured_open_file_does_not_reach_a_worker_as_another_object(tmp_path):
    (tmp_path / "rows.txt").write_text("1\n", "utf-8")
    with (
        (tmp_path / "rows.txt").open(encoding="utf-8") as file,
        pytest.raises(pickle.PicklingError, match=r"open file .*rows\.txt"),
    ):
        by_value.dumps(closure(file))


class Away(MemoryBackend):
    """A place that does not answer for a while."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def write(self, fill, *, size=0, exclusive=False):
        if size > 10_000 and self.times:
            self.times -= 1
            super().write(lambda sink: (fill(sink), "tmp/lost")[1])
            raise ConnectionResetError("the server is gone")
        return super().write(fill, size=size, exclusive=exclusive)


class FailingSink:
    def write(self, data):
        raise OSError("cut off")


def test_an_upload_that_fails_is_not_the_values_fault():
    store = Store(Away(1), inline_bytes=0)
    with pytest.raises(StoreUnavailable, match="did not answer") as caught:
        store.put(np.arange(10_000))
    assert caught.value.why == "ConnectionResetError: the server is gone"
    assert "pickled" not in str(caught.value)
    assert failure_of(caught.value, arguments="").retryable
    assert store.get(store.put(np.arange(10_000)))[-1] == 9_999


@pytest.mark.needs("cpu")
def test_a_sink_that_fails_is_not_the_values_fault():
    class Cut(MemoryBackend):
        def write(self, fill, *, size=0, exclusive=False):
            fill(FailingSink())

    with pytest.raises(StoreUnavailable, match="did not answer"):
        Store(Cut(), inline_bytes=0).put(pl.DataFrame({"n": range(1000)}))


def test_a_read_that_fails_can_be_retried():
    backend = MemoryBackend()
    store = Store(backend, inline_bytes=0)
    ref = store.put(np.arange(10_000))
    backend.reading_fails = TimeoutError("no answer")
    with pytest.raises(StoreUnavailable) as caught:
        store.get(ref)
    assert failure_of(caught.value, arguments="").retryable


def test_no_memory_is_not_the_values_fault(memory):
    class Huge:
        def __reduce__(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        memory.put(Huge())


def test_a_remote_place_that_refuses_is_not_the_values_fault(tmp_path):
    """A real one: nobody listens at the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/store"
    store = Store.open(url, secret=b"a secret of the project", near=tmp_path)
    with pytest.raises(StoreUnavailable):
        store.put(np.arange(50_000))
