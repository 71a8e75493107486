"""The conformance suites of store backends and of stores: they raise AssertionError with the broken guarantee."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Protocol

import msgspec

from hooke.base.errors import CorruptObject, MissingObject
from hooke.base.ref import ItemsMadeFrom, MadeFrom, Ref
from hooke.store.backend import Backend, Fill, ObjectSink
from hooke.store.entries import MOST_VARIANTS, Entry
from hooke.store.objects import name_of
from hooke.store.store import Store

__all__ = ["StorePlace", "check_backend", "check_store"]

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
    assert backend.touch(names) == [1, *[None] * 51], (
        "touch says which names are there, and how large they are"
    )
    assert backend.touch([]) == [], "touching nothing is nothing"


def _syncs(backend: Backend) -> None:
    backend.write(_holding("objects/aa/one", _LARGE), size=len(_LARGE))
    backend.sync(["objects/aa/one", "objects/aa/none"], wait=False)
    backend.sync(["objects/aa/one", "objects/aa/none"])
    backend.sync()
    assert _read(backend, "objects/aa/one") == _LARGE, (
        "a sync changes nothing, and a name that is gone is skipped"
    )


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


# --- Stores: what holds whatever the backend and the layout are.


class StorePlace(Protocol):
    """A new and empty place for a store."""

    def open(self) -> Store:
        """The store there, as another process opens it."""
        ...

    def damage(self, name: str) -> None:
        """Flip a bit in the middle of the bytes under a name, as a failing disk does: modification times stay."""
        ...


def check_store(make: Callable[[], StorePlace]) -> None:
    """Run all checks, each on a new place from `make`."""
    for check in _STORE_CHECKS:
        check(make())


def _value(number: int) -> bytes:
    """An object of its own, too large to be stored inside a reference."""
    return number.to_bytes(4, "big") * 25_000


def _entry(key: str, ref: Ref) -> Entry:
    return Entry(key=key, ref=ref, task="t", run="r", seconds=1.0, at=0.0)


def _damage_is_never_served(place: StorePlace) -> None:
    store = place.open()
    ref = store.put(_value(7))
    store.commit(_entry("k" * 32, ref))
    assert store.get(ref) == _value(7), "what is put can be got"
    place.damage(name_of(ref.digest))
    for reader in (store, place.open()):
        try:
            reader.get(ref)
        except (CorruptObject, MissingObject):  # the first reader moves it aside
            continue
        raise AssertionError("a damaged object is not served, though it was verified before")
    assert store.find("k" * 32) is None, "the entry of a damaged object is not found any more"
    assert store.put(_value(7)) == ref, "it can be computed and stored again"
    assert place.open().get(ref) == _value(7), "and is then whole"
    assert store.find("k" * 32) is not None, "and found"


def _sync_is_of_others_too(place: StorePlace) -> None:
    refs = [place.open().put(_value(number)) for number in range(20)]
    store = place.open()
    store.sync(refs, wait=False)
    store.sync([*refs, Ref("ab" * 32, 100_000), store.put(1)])
    store.sync()
    assert store.keep(refs) == [True] * 20, "a sync changes nothing, and skips what is gone"


def _evictions_spare_what_a_new_run_finds(place: StorePlace) -> None:
    """A run may begin at any moment of an eviction."""
    for pause_s in (0.0, 0.001, 0.003, 0.01, 0.03):
        evictor, user = place.open(), place.open()
        for number in range(30):
            user.commit(_entry(f"{number:032x}", user.put(_value(number))))
        with ThreadPoolExecutor(1) as pool:
            eviction = pool.submit(evictor.gc, 0)
            time.sleep(pause_s)
            with user.live("run"):
                found = [user.find(f"{number:032x}") for number in range(30)]
                eviction.result()
                for number, entry in enumerate(found):
                    if entry is not None:
                        assert user.get(entry.ref) == _value(number), "what a live run has found can be read"
        evictor.gc(0)


def _claims_end_at_once(place: StorePlace) -> None:
    one, other = place.open(), place.open()
    for _ in range(10):
        claim = one.claim("k" * 32)
        assert claim is not None, "a claim that was released is free"
        assert other.claim("k" * 32) is None, "a claim excludes others"
        claim.release()
        one, other = other, one


def _stores_leave_no_thread(place: StorePlace) -> None:
    before = threading.active_count()
    for _ in range(8):
        store = place.open()
        with store.live("run"):
            claim = store.claim("k" * 32)
            assert claim is not None, "nobody else has it"
            claim.release()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before, "a store that holds nothing has no thread"


def _each_key_is_computed_once(place: StorePlace) -> None:
    """Of several processes that claim, look up, compute, commit and release, one computes each key."""
    computed: list[str] = []

    def work(store: Store) -> None:
        for number in range(15):
            key = f"{number:032x}"
            while store.find(key) is None:
                claim = store.claim(key)
                if claim is None:
                    time.sleep(0.001)
                    continue
                with ExitStack() as held:
                    held.callback(claim.release)
                    if store.find(key) is None:
                        computed.append(key)
                        store.commit(_entry(key, store.put(_value(number))))

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, place.open()) for _ in range(3)]:
            done.result()
    assert sorted(computed) == [f"{number:032x}" for number in range(15)], "each key is computed once"


def _made_from(store: Store, number: int) -> MadeFrom:
    """A manifest of its own, in an object of its own."""
    return MadeFrom(id=f"{number:032x}", deep=store.put(b"manifest" + _value(number)))


def _newest(store: Store, key: str) -> MadeFrom | None:
    found = store.find(key, lambda _: True)
    return found.made_from if found is not None else None


def _a_key_has_a_result_for_each_of_its_inputs(place: StorePlace) -> None:
    store, key = place.open(), "k" * 32
    store.commit(_entry(key, store.put("read nothing")))
    made = [_made_from(store, number) for number in range(MOST_VARIANTS + 1)]
    for number, made_from in enumerate(made):
        entry = msgspec.structs.replace(_entry(key, store.put(_value(number))), made_from=made_from)
        place.open().commit(entry)
    assert store.find(key) is None, (
        "a result that was made from observed inputs counts for nobody who does not check them"
    )
    for number, made_from in enumerate(made):
        found = place.open().find(key, lambda each, wanted=made_from: each.id == wanted.id)
        assert (found is not None) == (number > 0), "the newest sixteen are kept"
        assert found is None or store.get(found.ref) == _value(number), "each with its own inputs"
    assert _newest(store, key) == made[-1], "of several that count it is the newest"
    newest = store.find(key, lambda _: True)
    assert newest is not None
    place.damage(name_of(newest.ref.digest))
    assert store.verify(remove=True).removed, "damage is found"
    assert _newest(store, key) == made[-2], "a damaged result takes no other of its key along"
    usage = store.usage()
    store.gc(usage.bytes - usage.unreferenced - 1)
    kept = [each for each in store.entries() if each.key == key]
    assert len(kept) == MOST_VARIANTS - 2, "an eviction removes one result of the key, and the damaged one"
    assert store.remove(key), "what is removed is removed with all its results"
    assert store.find(key, lambda _: True) is None


def _an_item_has_a_result_for_each_of_its_inputs(place: StorePlace) -> None:
    store, recipe, keys = place.open(), "a" * 32, bytes(range(64))
    facts = {"task": "t", "run": "r", "seconds": 1.0}
    place.open().commit_items(recipe, keys, store.put(["old"] * 4), **facts)
    made = [_made_from(store, number) for number in range(MOST_VARIANTS + 1)]
    for number, made_from in enumerate(made):
        pieces = [ItemsMadeFrom(lo=1, hi=3, made_from=made_from)]
        place.open().commit_items(recipe, keys, store.put([_value(number)] * 4), pieces=pieces, **facts)
    assert [hit[:2] for hit in store.find_items(recipe, keys)] == [(0, 1), (3, 4)], (
        "items 1 and 2 read something"
    )
    for number, made_from in enumerate(made):
        hits = place.open().find_items(recipe, keys, lambda each, wanted=made_from: each.id == wanted.id)
        found = {item: store.get(hit.ref)[hit.start] for hit in hits for item in range(hit.lo, hit.hi)}
        assert found.keys() == ({0, 1, 2, 3} if number else {0, 3}), "the newest sixteen are kept"
        assert number == 0 or found[1] == found[2] == _value(number), "each with its own inputs"
    unsettled = [ItemsMadeFrom(lo=0, hi=4, made_from=MadeFrom(id="x", unsettled="it changed what it read"))]
    place.open().commit_items("b" * 32, keys, store.put([1] * 4), pieces=unsettled, **facts)
    assert store.find_items("b" * 32, keys, lambda _: True) == [], "what is unsettled is not kept"
    assert store.remove(recipe)
    assert store.find_items(recipe, keys, lambda _: True) == []


_STORE_CHECKS: tuple[Callable[[StorePlace], None], ...] = (
    _damage_is_never_served,
    _sync_is_of_others_too,
    _evictions_spare_what_a_new_run_finds,
    _claims_end_at_once,
    _stores_leave_no_thread,
    _each_key_is_computed_once,
    _a_key_has_a_result_for_each_of_its_inputs,
    _an_item_has_a_result_for_each_of_its_inputs,
)
