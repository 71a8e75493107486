"""The conformance suites of stores and of their durability: they raise AssertionError with the broken guarantee.

Each check of `STORE_CHECKS` and `DURABILITY_CHECKS` can be a test of its own:

    @pytest.mark.parametrize("check", STORE_CHECKS)
    def test_my_store(check, tmp_path):
        check_store(lambda: MyPlace(tmp_path), only=check)
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeAlias

import msgspec

from hooke.base.background_fsync import Durability
from hooke.base.errors import StoreError
from hooke.base.ref import ItemsMadeFrom, MadeFrom, Ref
from hooke.store.backend import Backend
from hooke.store.entries import MOST_VARIANTS, Entry
from hooke.store.objects import name_of
from hooke.store.store import Store
from hooke.testing.backend_suite import ThroughBackend, await_threads, without_sleeping

__all__ = [
    "DURABILITY_CHECKS",
    "STORE_CHECKS",
    "DurablePlace",
    "StorePlace",
    "check_durability",
    "check_store",
]

PATIENCE_S = 30.0
"""How long a check waits for what another thread has to do."""

# --- Stores: what holds whatever the backend and the layout are.


class StorePlace(Protocol):
    """A new and empty place for a store."""

    def open(self, around: Callable[[Backend], Backend] | None = None) -> Store:
        """The store there, as another process opens it. `around` wraps its backend."""
        ...

    def names(self) -> list[str]:
        """All names under which bytes lie there."""
        ...

    def damage(self, name: str) -> None:
        """Flip a bit in the middle of the bytes under a name, in copies too, and set the modification times that they had.

        What has no bytes stays as it is.
        """
        ...

    def age(self) -> None:
        """As if nobody had used anything there for two hours. Does nothing where uses are not recorded."""
        ...


StoreCheck: TypeAlias = Callable[[StorePlace], None]


def check_store(make: Callable[[], StorePlace], *, only: StoreCheck | None = None) -> None:
    """Run all checks, or `only` one of `STORE_CHECKS`, each on a new place from `make`."""
    for check in STORE_CHECKS if only is None else (only,):
        check(make())


def _value(number: int) -> bytes:
    """An object of its own, too large to be stored inside a reference."""
    return number.to_bytes(4, "big") * 25_000


def _entry(key: str, ref: Ref) -> Entry:
    return Entry(key=key, ref=ref, task="t", run="r", seconds=1.0, at=0.0)


_SIZES = (10, 100_000, 3_000_000)
"""Inside a reference; hashed at each read; hashed again only when something tells of a change."""

_MAP = "f" * 32


class _Kept:
    """Results of a place: calls of each size and a map, all found and read through `store`, so that it has verified them."""

    def __init__(self, store: Store, writer: Store, number: int) -> None:
        self.store, self._number = store, number
        self._values = {f"{number:016x}{size:016x}": bytes([number]) * size for size in _SIZES}
        self._recipe, self._items = f"{number:02x}" * 16, [bytes([64 + number]) * 40_000] * 4
        self.write(writer)
        assert self.lost() == 0, "what is stored is found and read"

    def write(self, store: Store) -> None:
        self._refs = {key: store.put(value) for key, value in self._values.items()}
        for key, ref in self._refs.items():
            store.commit(_entry(key, ref))
        self._list = store.put(self._items)
        store.commit_items(self._recipe, bytes(range(64)), self._list, task="m", run="r", seconds=1.0)

    def remove(self, store: Store) -> None:
        for key in (*self._values, self._recipe):
            store.remove(key)

    def lost(self) -> int:
        """How many of the ways to these results lead to none. Raises AssertionError if one leads to a wrong one."""
        lost = 0
        for key, value in self._values.items():
            for way in (self._refs[key], self._found(key)):
                got = self._got(way)
                assert got in (None, value), "a result with a flipped bit is never served"
                lost += got is None
        for ref in (self._list, *self._hits()):
            got = self._got(ref)
            assert got in (None, self._items), "a map's results with a flipped bit are never served"
            lost += got is None
        return lost

    def _got(self, ref: Ref | None) -> Any:
        try:
            return None if ref is None else self.store.get(ref)
        except StoreError:
            return None

    def _found(self, key: str) -> Ref | None:
        try:
            entry = self.store.find(key)
        except StoreError:  # with a secret, damage looks like forgery
            return None
        return entry.ref if entry is not None else None

    def _hits(self) -> list[Ref | None]:
        try:
            hits = self.store.find_items(self._recipe, bytes(range(64)))
        except StoreError:
            return [None]
        assert not hits or hits[0][:2] == (0, 4), "a map's record with a flipped bit is not believed"
        return [hit.ref for hit in hits] or [None]


def _no_flipped_bit_is_served(place: StorePlace) -> None:
    """Not by the process that wrote or verified the bytes, nor by another, whatever the modification times say."""
    writer = place.open()
    kept = [_Kept(store, writer, number) for number, store in enumerate((writer, place.open(), place.open()))]
    kept[2].store = place.open()
    time.sleep(
        0.05
    )  # longer than the clock of a file system ticks: a change within a tick changes no time stamp
    for name in place.names():
        place.damage(name)
    for each in kept:
        assert each.lost() > 0, "damage is found"
    for each in kept:
        each.remove(writer)
        each.write(writer)
        assert each.lost() == 0, "what was damaged can be computed and stored again"


def _sync_is_of_others_too(place: StorePlace) -> None:
    refs = [place.open().put(_value(number)) for number in range(20)]
    store = place.open()
    store.sync(refs, wait=False)
    store.sync([*refs, Ref("ab" * 32, 100_000), store.put(1)])
    store.sync()
    assert store.keep(refs) == [True] * 20, "a sync changes nothing, and skips what is gone"


class _WhenItRemoves(ThroughBackend):
    """Calls `begin` before the first removal."""

    def __init__(self, backend: Backend, begin: Callable[[], None]) -> None:
        super().__init__(backend)
        self._begin: Callable[[], None] | None = begin

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()
        return super().remove(name, unused_since=unused_since, aside=aside)


def _a_run_that_begins_during_an_eviction_keeps_what_it_finds(place: StorePlace) -> None:
    user = place.open()
    for number in range(8):
        user.commit(_entry(f"{number:032x}", user.put(_value(number))))
    place.age()
    begun, found_all, over = (threading.Event() for _ in range(3))
    found: dict[int, Ref] = {}

    def run() -> None:
        begun.set()
        with user.live("run"):
            entries = {number: user.find(f"{number:032x}") for number in range(8)}
            found.update({number: entry.ref for number, entry in entries.items() if entry is not None})
            found_all.set()
            assert over.wait(PATIENCE_S)

    with ThreadPoolExecutor(1) as pool:
        running = []

        def begin() -> None:
            running.append(pool.submit(run))
            assert begun.wait(PATIENCE_S)
            found_all.wait(0.5)  # it finds everything now, or waits for the removals

        place.open(lambda backend: _WhenItRemoves(backend, begin)).gc(0)
        try:
            assert running, "an eviction removes what it evicts from the backend"
            assert found_all.wait(PATIENCE_S), "a run that begins during an eviction goes on"
            for number, ref in found.items():  # by its workers, which have no copies
                assert _read_by(place.open(), ref) == _value(number), (
                    "what a live run has found is not evicted"
                )
        finally:
            over.set()
        running[0].result()


def _read_by(store: Store, ref: Ref) -> Any:
    try:
        return store.get(ref)
    except StoreError as error:
        return error


def _found_by(store: Store, numbers: Iterable[int]) -> Iterator[tuple[int, Ref]]:
    for number in numbers:
        entry = store.find(f"{number:032x}")
        if entry is not None:
            yield number, entry.ref


def _what_a_live_run_finds_during_an_eviction_stays(place: StorePlace) -> None:
    """Before it and in the midst of it, however the two fall together."""
    for _ in range(5):
        user, evictor = place.open(), place.open()
        for number in range(30):
            user.commit(_entry(f"{number:032x}", user.put(_value(number))))
        place.age()
        found: dict[int, Ref] = {}
        with ThreadPoolExecutor(1) as pool, user.live("run"):
            found.update(_found_by(user, range(3)))  # not read: a file system may note that as a use
            eviction = pool.submit(evictor.gc, 0)
            for number, ref in _found_by(user, reversed(range(3, 30))):
                assert _read_by(user, ref) == _value(number), "what a live run has found can be read"
                found[number] = ref
            eviction.result()
            for number, ref in found.items():
                assert _read_by(place.open(), ref) == _value(number), "what a live run has found stays"
        evictor.gc(0)


class _WhenItTouches(ThroughBackend):
    """Calls `begin` before the first note of a use; never where none is noted, since nothing is evicted there beside a run."""

    def __init__(self, backend: Backend, begin: Callable[[], None]) -> None:
        super().__init__(backend)
        self._begin: Callable[[], None] | None = begin

    def touch(self, names: Sequence[str]) -> list[int | None]:
        begin, self._begin = self._begin, None
        if begin is not None and self.notes_use:
            begin()
        return super().touch(names)


def _a_result_that_goes_before_its_use_is_noted_is_not_found(place: StorePlace) -> None:
    """The result in its entry, and the one beside it: whatever is found stays for the run, so this may not be found."""
    user = place.open()
    for key, value in (("1" * 32, 7), ("2" * 32, _value(7))):
        user.commit(_entry(key, user.put(value)))
        place.age()
        gone: list[bool] = []

        def remove(key: str = key, gone: list[bool] = gone) -> None:
            gone.append(place.open().remove(key))

        entry = place.open(lambda backend, begin=remove: _WhenItTouches(backend, begin)).find(key)
        assert entry is None or not gone, "what went before its use was noted is not found"


def _claims_end_at_once(place: StorePlace) -> None:
    one, other = place.open(), place.open()
    with without_sleeping():
        for _ in range(10):
            claim = one.claim("k" * 32)
            assert claim is not None, "a claim that was released is free"
            assert other.claim("k" * 32) is None, "a claim excludes others"
            assert one.claim("k" * 32) is None, "also those of the same store"
            claim.release()
            one, other = other, one


def _stores_leave_no_thread(place: StorePlace) -> None:
    def once() -> None:
        store = place.open()
        with store.live("run"):
            claim = store.claim("k" * 32)
            assert claim is not None, "nobody else has it"
            store.commit(_entry("k" * 32, store.put(_value(1))))
            claim.release()

    once()  # a library's own threads begin with the first
    before = threading.enumerate()
    for _ in range(8):
        once()
    await_threads(before, "a store that holds nothing has no thread")


def _open_and_drop(place: StorePlace, claimed: str) -> None:
    another = place.open()
    another.claim(claimed)
    with another.live("another"):
        another.commit(_entry("a" * 32, another.put(_value(1))))
    del another
    gc.collect()


def _claims_last_until_their_own_release(place: StorePlace) -> None:
    """A result that was computed and is not committed yet must stay claimed, whatever goes on beside it."""
    holder, other = place.open(), place.open()
    held, ended = [f"{number:032x}" for number in range(16, 20)], "e" * 32
    claims = [holder.claim(key) for key in held]
    first = holder.claim(ended)
    assert first is not None, "nobody else has it"
    first.release()
    second = other.claim(ended)
    assert second is not None, "a claim that was released is free"

    def look() -> None:
        for key in held:
            other.find(key)
            other.find_items(key, bytes(16))
            other.claim(key)

    def release_others() -> None:
        for store in (holder, other):
            claim = store.claim("o" * 32)
            assert claim is not None, "nobody else has it"
            claim.release()

    steps: dict[str, Callable[[], object]] = {
        "a lookup": look,
        "the release of another claim": release_others,
        "a second release": first.release,
        "another store that is opened and gone": lambda: _open_and_drop(place, held[0]),
        "an eviction": lambda: other.gc(0),
        "a verification": other.verify,
        "the removal of a result": lambda: other.remove(held[0]),
    }
    for what, step in steps.items():
        step()
        for key in (*held, ended):
            assert place.open().claim(key) is None, f"{what} ends no claim"
    for claim in (*claims, second):
        assert claim is not None, "nobody else has it"
        claim.release()
    for key in (*held, ended):
        claim = other.claim(key)
        assert claim is not None, "a claim that was released is free"
        claim.release()


def _what_was_committed_before_a_release_is_found_after_the_next_claim(place: StorePlace) -> None:
    """Also by a process that has looked for it before."""
    one, other = place.open(), place.open()
    for number in range(16, 22):
        key, items = f"{number:032x}", number.to_bytes(16, "big")
        claim = one.claim(key)
        assert claim is not None, "a claim that was released is free"
        assert other.find(key) is None, "nothing is found before it is committed"
        assert other.find_items(_MAP, items) == [], "nothing is found before it is committed"
        assert other.claim(key) is None, "a claim excludes others"
        one.commit(_entry(key, one.put(_value(number))))
        one.commit_items(_MAP, items, one.put([number]), task="m", run="r", seconds=1.0)
        claim.release()
        claim = other.claim(key)
        assert claim is not None, "a claim that was released is free"
        entry, hits = other.find(key), other.find_items(_MAP, items)
        assert entry is not None, "who gets a claim finds what was committed before its release"
        assert other.get(entry.ref) == _value(number), "and can read it"
        assert [other.get(hit.ref)[hit.start] for hit in hits] == [number], "of a map, too"
        claim.release()
        one, other = other, one


def _what_is_asked_together_is_asked_now(place: StorePlace) -> None:
    """Lookups, claims, commits and releases of many keys give what those of each give."""
    one, other = place.open(), place.open()
    keys = [f"{number:032x}" for number in range(16, 26)]
    for turn, key in enumerate(keys):
        others = keys[: turn + 1]
        held = one.claim(key)
        claims = other.claim_many(others)
        assert [claim is None for claim in claims] == [each == key for each in others], (
            "a claim excludes others"
        )
        other.release([claim for claim in claims if claim is not None])
        with other.read_ahead(keys):
            for _ in range(2):  # what is remembered from the first time is as true
                assert not any(other.lacking(keys)[:turn]), (
                    "what was committed before is not said to be missing at the beginning"
                )
                assert [other.find(each) is not None for each in keys[: turn + 1]] == [True] * turn + [
                    False
                ], "what was committed before is found at the beginning"
            assert len(other.find_items(_MAP, bytes(16) + b"".join(map(bytes.fromhex, keys)))) == turn, (
                "items, too"
            )
            own = "f" * 31 + f"{turn:x}"
            other.commit(_entry(own, other.put(_value(turn))))
            assert other.find(own) is not None, "what it commits itself it finds"
            assert other.lacking([own]) == [False], "and it is not said to be missing"
            with one.together():
                one.commit(_entry(key, one.put(_value(turn))))
                one.commit_items(_MAP, bytes.fromhex(key), one.put([turn]), task="m", run="r", seconds=1.0)
        assert held is not None, "a claim that was released is free"
        one.release([held])


def _what_is_merged_stays(place: StorePlace) -> None:
    """More small results than a layout leaves as they are: each is what was committed last, for others too."""
    writer, watcher = place.open(), place.open()
    keys = [f"{number:032x}" for number in range(150)]
    for number in range(300):
        writer.commit(_entry(keys[number % 150], writer.put(number)))
        if number % 10 == 0:
            assert writer.remove(keys[number % 150]), "what is there can be removed"
        if number % 50 == 0:
            watcher.find(keys[0])
    wanted = {key: number for number, key in enumerate(keys, start=150) if number % 10}
    for store in (watcher, place.open()):
        assert _all_found(store, keys) == wanted, (
            "what was committed last is found, and what was removed is not"
        )
    watcher.gc(10**12)
    for store in (writer, watcher, place.open()):
        assert _all_found(store, keys) == wanted, "freeing room changes nothing"


def _all_found(store: Store, keys: Sequence[str]) -> dict[str, Any]:
    with store.read_ahead(keys):
        found = {key: store.find(key) for key in keys}
    return {key: store.get(entry.ref) for key, entry in found.items() if entry is not None}


def _each_key_is_computed_once(place: StorePlace) -> None:
    """Of several processes that claim, look up, compute, commit and release, one computes each key."""
    computed: list[str] = []
    together = threading.Barrier(3)

    def work(store: Store) -> None:
        for number in range(15):
            key = f"{number:032x}"
            together.wait(60)
            while store.find(key) is None:
                claim = store.claim(key)
                if claim is None:
                    time.sleep(0.001)
                    continue
                with ExitStack() as held:
                    held.callback(claim.release)
                    if store.find(key) is None:
                        time.sleep(0.01)  # to compute takes longer than to ask
                        computed.append(key)
                        time.sleep(0.001)  # without a claim, the others come here now
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


STORE_CHECKS: tuple[StoreCheck, ...] = (
    _no_flipped_bit_is_served,
    _sync_is_of_others_too,
    _a_run_that_begins_during_an_eviction_keeps_what_it_finds,
    _what_a_live_run_finds_during_an_eviction_stays,
    _a_result_that_goes_before_its_use_is_noted_is_not_found,
    _claims_end_at_once,
    _claims_last_until_their_own_release,
    _what_was_committed_before_a_release_is_found_after_the_next_claim,
    _stores_leave_no_thread,
    _what_is_asked_together_is_asked_now,
    _what_is_merged_stays,
    _each_key_is_computed_once,
    _a_key_has_a_result_for_each_of_its_inputs,
    _an_item_has_a_result_for_each_of_its_inputs,
)


# --- Durability: what survives a power loss, on a disk whose power can be cut.


class DurablePlace(Protocol):
    """A new and empty place for a store, on a disk of its own."""

    def open(self, durable: Durability) -> Store:
        """The store there, as another process opens it."""
        ...

    def after_power_loss(self) -> AbstractContextManager[Store]:
        """Inside, the store as it is found after the power has failed now. The place itself goes on."""
        ...

    def refuse(self) -> None:
        """From now on the disk refuses what it has not stored yet; writes to it still succeed, as they do in memory."""
        ...


DurabilityCheck: TypeAlias = Callable[[DurablePlace], None]


def check_durability(make: Callable[[], DurablePlace], *, only: DurabilityCheck | None = None) -> None:
    """Run all checks, or `only` one of `DURABILITY_CHECKS`, each on a new place from `make`."""
    for check in DURABILITY_CHECKS if only is None else (only,):
        check(make())


def _results(store: Store, number: int) -> dict[str, Any]:
    """Commit a small and a large result and a map's, each of its own; returns the keys with their values."""
    wanted: dict[str, Any] = {f"{number:030x}{size:02x}": _value(number) * size for size in (1, 20)}
    wanted[f"{number:030x}ff"] = number
    for key, value in wanted.items():
        store.commit(_entry(key, store.put(value)))
    items = [_value(number + 100)] * 2
    store.commit_items(_MAP, _item_keys(number), store.put(items), task="m", run="r", seconds=1.0)
    return wanted | {_item_keys(number).hex(): items}


def _item_keys(number: int) -> bytes:
    return number.to_bytes(16, "big") + (number + 2**64).to_bytes(16, "big")


def _survived(store: Store, wanted: dict[str, Any]) -> bool:
    """Whether all of it is found and read. Raises AssertionError if something else is read."""
    whole = True
    for key, value in wanted.items():
        hits = store.find_items(_MAP, bytes.fromhex(key)) if isinstance(value, list) else []
        entry = store.find(key) if not isinstance(value, list) else None
        refs = [entry.ref] if entry is not None else [hit.ref for hit in hits]
        got = [_read_by(store, ref) for ref in refs]
        whole &= got == [value]
        assert all(each == value or isinstance(each, StoreError) for each in got), "nothing else is read"
    return whole


def _each_result_is_on_the_disk_at_once(place: DurablePlace) -> None:
    store = place.open("each")
    for number in range(3):
        wanted = _results(store, number)
        with place.after_power_loss() as left:
            assert _survived(left, wanted), 'with "each", what is stored survives a power loss'


def _a_sync_covers_what_others_wrote(place: DurablePlace) -> None:
    """A worker may be gone when its driver says that the result is finished."""
    for count, large in ((3, 1), (40, 1), (2, 30)):
        writer, store = place.open("none"), place.open("group")
        refs = [writer.put(_value(number + 1000 * count) * large) for number in range(count)]
        del writer
        store.sync(refs[1:], wait=False)
        store.sync(refs)
        with place.after_power_loss() as left:
            assert left.keep(refs) == [True] * count, "what was synced survives a power loss"
            for number, ref in enumerate(refs):
                assert _read_by(left, ref) == _value(number + 1000 * count) * large, "with all its bytes"


def _a_sync_covers_all_that_the_store_wrote(place: DurablePlace) -> None:
    store = place.open("group")
    for number in range(3):
        wanted = _results(store, number)
        store.sync()
        with place.after_power_loss() as left:
            assert _survived(left, wanted), "what was synced survives a power loss"


def _a_group_is_on_the_disk_soon(place: DurablePlace) -> None:
    store = place.open("group")
    wanted = _results(store, 1)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with place.after_power_loss() as left:
            if _survived(left, wanted):
                break
        assert time.monotonic() < deadline, (
            'with "group", what is stored is soon synced without being asked for'
        )
        time.sleep(0.1)


def _each_write_that_is_not_confirmed_is_an_error(place: DurablePlace) -> None:
    store = place.open("each")
    store.put(_value(0))
    place.refuse()
    _raises(
        lambda: store.put(_value(1)), 'with "each", a write that the disk does not confirm raises StoreError'
    )


def _a_sync_that_is_not_confirmed_is_an_error(place: DurablePlace) -> None:
    writer, store = place.open("none"), place.open("group")
    store.sync([store.put(_value(0))])
    place.refuse()
    ref = writer.put(_value(1))
    _raises(lambda: store.sync([ref]), "a sync that the disk does not confirm raises StoreError")


def _an_error_of_a_group_is_raised_later(place: DurablePlace) -> None:
    store = place.open("group")
    store.sync([store.put(_value(0))])
    place.refuse()
    store.put(_value(1))
    time.sleep(3)  # longer than a group takes; a sync that has not been tried yet is tried now
    _raises(store.sync, "a sync in the background that the disk does not confirm is raised by the next one")


def _raises(action: Callable[[], object], guarantee: str) -> None:
    try:
        action()
    except StoreError:
        return
    raise AssertionError(guarantee)


DURABILITY_CHECKS: tuple[DurabilityCheck, ...] = (
    _each_result_is_on_the_disk_at_once,
    _a_sync_covers_what_others_wrote,
    _a_sync_covers_all_that_the_store_wrote,
    _a_group_is_on_the_disk_soon,
    _each_write_that_is_not_confirmed_is_an_error,
    _a_sync_that_is_not_confirmed_is_an_error,
    _an_error_of_a_group_is_raised_later,
)
