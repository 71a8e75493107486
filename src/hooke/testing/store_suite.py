"""The conformance suite of store backends: `check_backend(make)` raises AssertionError with the broken guarantee."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hooke.store.backend import Backend, Fill, ObjectSink

__all__ = ["check_backend"]

_LARGE = bytes(range(256)) * 2048
"""Half a mebibyte: more than any small-file path of a backend."""


def check_backend(make: Callable[[], Backend]) -> None:
    """Run all checks, each on a new and empty backend from `make`."""
    for check in _CHECKS:
        check(make())


def _holding(name: str, data: bytes) -> Fill:
    def fill(sink: ObjectSink) -> str:
        sink.write(data)
        return name

    return fill


def _read(backend: Backend, name: str) -> bytes | None:
    view = backend.read(name)
    return None if view is None else bytes(view.data)


def _names(backend: Backend, prefix: str) -> set[str]:
    return {stored.name for stored in backend.list(prefix)}


def _reads_what_was_written(backend: Backend) -> None:
    for name, data in (("objects/aa/small", b"x"), ("objects/ab/empty", b""), ("keys/aa/large", _LARGE)):
        stamp = backend.write(_holding(name, data), size=len(data))
        assert stamp is not None, f"a write of {name} gives a stamp"
        assert _read(backend, name) == data, f"{name} reads as it was written"
        fresh = backend.read(name, fresh=True)
        assert fresh is not None, f"{name} is there without copies too"
        assert bytes(fresh.data) == data, f"{name} reads the same without copies"
        assert fresh.data.readonly, "what is read cannot be written to"


def _takes_pieces(backend: Backend) -> None:
    def fill(sink: ObjectSink) -> str:
        for start in range(0, len(_LARGE), 1000):
            sink.write(memoryview(_LARGE)[start : start + 1000])
        return "objects/aa/pieces"

    backend.write(fill)
    assert _read(backend, "objects/aa/pieces") == _LARGE, "pieces are joined in order"


def _absent_is_none(backend: Backend) -> None:
    assert backend.read("objects/aa/none") is None, "an absent name reads as None"
    assert backend.read("objects/aa/none", fresh=True) is None, (
        "an absent name reads as None without copies too"
    )
    assert backend.touch(["objects/aa/none"]) == [None], "an absent name cannot be touched"
    assert not backend.remove("objects/aa/none"), "an absent name cannot be removed"
    assert not backend.remove("objects/aa/none", aside="corrupt/none"), "an absent name cannot be set aside"
    assert _names(backend, "objects/") == set(), "an empty place lists nothing"


def _failed_writes_leave_nothing(backend: Backend) -> None:
    def fill(sink: ObjectSink) -> str:
        sink.write(_LARGE)
        raise KeyError("cut off")

    try:
        backend.write(fill)
    except KeyError:
        pass
    else:
        raise AssertionError("a write raises what its fill raises")
    assert _names(backend, "objects/") == set(), "a write that failed leaves nothing to see"


def _replaces(backend: Backend) -> None:
    first = backend.write(_holding("keys/aa/k", b"old"))
    held = backend.read("keys/aa/k")
    time.sleep(0.01)
    second = backend.write(_holding("keys/aa/k", b"newer"))
    assert first != second, "another content has another stamp"
    assert _read(backend, "keys/aa/k") == b"newer", "the last write is read"
    assert held is not None, "what is held is there"
    assert bytes(held.data) == b"old", "what was read before stays as it was"


def _views_outlive_removal(backend: Backend) -> None:
    backend.write(_holding("objects/aa/gone", _LARGE))
    view = backend.read("objects/aa/gone")
    assert view is not None, "it is there"
    assert backend.remove("objects/aa/gone"), "what is there can be removed"
    assert bytes(view.data) == _LARGE, "a view outlives the removal of its name"
    assert backend.read("objects/aa/gone") is None, "what was removed is gone"


def _lists(backend: Backend) -> None:
    before = time.time()
    for name in ("objects/aa/one", "objects/ab/two", "keys/aa/three"):
        backend.write(_holding(name, b"12345"))
    found = {stored.name: stored for stored in backend.list("objects/")}
    assert set(found) == {"objects/aa/one", "objects/ab/two"}, "a listing is of its prefix, at any depth"
    assert all(stored.size == 5 for stored in found.values()), "a listing says sizes"
    assert all(before - 5 <= stored.used <= time.time() + 5 for stored in found.values()), "a write is a use"
    assert _names(backend, "objects/aa/") == {"objects/aa/one"}, "a prefix can be of two parts"


def _touches(backend: Backend) -> None:
    backend.write(_holding("objects/aa/here", b"x"))
    names = ["objects/aa/here", "objects/aa/not", *(f"keys/aa/{at}" for at in range(50))]
    assert backend.touch(names) == [1, *[None] * 51], "touch says which names are there, and how large they are"
    assert backend.touch([]) == [], "touching nothing is nothing"


def _syncs(backend: Backend) -> None:
    backend.write(_holding("objects/aa/one", _LARGE), size=len(_LARGE))
    backend.sync(["objects/aa/one", "objects/aa/none"], wait=False)
    backend.sync(["objects/aa/one", "objects/aa/none"])
    backend.sync()
    assert _read(backend, "objects/aa/one") == _LARGE, "a sync changes nothing, and a name that is gone is skipped"


def _exclusive(backend: Backend) -> None:
    assert backend.write(_holding("claims/k", b"a"), exclusive=True) is not None, (
        "the first exclusive write wins"
    )
    assert backend.write(_holding("claims/k", b"b"), exclusive=True) is None, (
        "the second exclusive write loses"
    )
    assert _read(backend, "claims/k") == b"a", "a lost exclusive write changes nothing"
    backend.remove("claims/k")
    assert backend.write(_holding("claims/k", b"c"), exclusive=True) is not None, (
        "a removed name can be had again"
    )


def _removes_unused_only(backend: Backend) -> None:
    backend.write(_holding("objects/aa/used", b"x"))
    assert not backend.remove("objects/aa/used", unused_since=time.time() - 3600), "what was used since stays"
    assert _read(backend, "objects/aa/used") == b"x", "and is whole"
    assert backend.remove("objects/aa/used", unused_since=time.time() + 3600), "what was not used since goes"
    assert backend.read("objects/aa/used") is None, "and is gone"


def _sets_aside(backend: Backend) -> None:
    backend.write(_holding("objects/aa/bad", b"bad"))
    assert backend.remove("objects/aa/bad", aside="corrupt/bad"), "a name can be set aside"
    assert backend.read("objects/aa/bad") is None, "what was set aside is gone from its name"
    assert _read(backend, "corrupt/bad") == b"bad", "what was set aside is kept"


def _writers_do_not_mix(backend: Backend) -> None:
    contents = [bytes([at]) * 200_000 for at in range(4)]
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(5):
            backend.write(_holding("keys/aa/shared", content))

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.extend(data for data in (_read(backend, "keys/aa/shared"),) if data is not None)
    for thread in threads:
        thread.join()
    assert set(seen) <= set(contents), "a reader sees one writer's bytes, whole"
    assert _read(backend, "keys/aa/shared") in contents, "in the end one writer's bytes are there"


_CHECKS: tuple[Callable[[Backend], None], ...] = (
    _reads_what_was_written,
    _takes_pieces,
    _absent_is_none,
    _failed_writes_leave_nothing,
    _replaces,
    _views_outlive_removal,
    _lists,
    _touches,
    _syncs,
    _exclusive,
    _removes_unused_only,
    _sets_aside,
    _writers_do_not_mix,
)
