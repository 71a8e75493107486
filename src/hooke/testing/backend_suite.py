"""The conformance suite of store backends: `check_backend(make)`, or each of `BACKEND_CHECKS` as a test of its own.

Leases (`hooke.store.claims.LeaseClaims`) work on any backend, so they are checked on each.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeAlias

from hooke.base.clock import SystemClock
from hooke.store.backend import Backend, Batching, Fill, Gathering, ObjectSink, Stored, View
from hooke.store.claims import Claim, LeaseClaims

__all__ = [
    "BACKEND_CHECKS",
    "BackendCheck",
    "ThroughBackend",
    "await_threads",
    "check_backend",
    "without_sleeping",
]

PATIENCE_S = 30.0
"""How long a check waits for what another thread has to do."""

_LARGE = bytes(range(256)) * 2048
"""Half a mebibyte: more than any small-file path of a backend."""

BackendCheck: TypeAlias = Callable[[Backend], None]


def check_backend(make: Callable[[], Backend], *, only: BackendCheck | None = None) -> None:
    """Run all checks, or `only` one of `BACKEND_CHECKS`, each on a new and empty backend from `make`."""
    for check in BACKEND_CHECKS if only is None else (only,):
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


def _reads_many(backend: Backend) -> None:
    if not isinstance(backend, Batching):
        return
    held = {"keys/aa/a": b"1", "items/f/b": b"2", "claims/c": b"3", "objects/aa/d": b"4"}
    for name, data in held.items():
        backend.write(_holding(name, data), size=len(data))
    names = [*held, "keys/aa/none", "claims/none", "objects/aa/none", "keys/aa/a"]
    views = backend.read_many(names)
    assert [None if view is None else bytes(view.data) for view in views] == [
        *held.values(),
        *(None, None, None, b"1"),
    ], "what is read together is what is read alone"
    assert backend.read_many([]) == [], "reading nothing is nothing"
    with backend.as_of_now() as learnt:
        before = [view and bytes(view.data) for view in backend.read_many(names)]
    with backend.as_of_now(learnt):
        after = [view and bytes(view.data) for view in backend.read_many(names)]
    assert after == before, "what was learnt before holds where it is handed on"


def _writes_together(backend: Backend) -> None:
    if not isinstance(backend, Gathering):
        return
    backend.write(_holding("keys/aa/gone", b"old"), size=3)
    names = [f"keys/aa/{at}" for at in range(100)]
    with backend.together():
        for name in names:
            backend.write(_holding(name, name.encode()), size=len(name))
            assert _read(backend, name) == name.encode(), "who writes together sees what it wrote"
        assert backend.touch(names) == [len(name) for name in names], "and its sizes"
        backend.write(_holding("keys/aa/0", b"later"), size=5)
        assert backend.remove("keys/aa/gone"), "what is there can be removed"
    assert _read(backend, "keys/aa/gone") is None, "what was removed is gone"
    assert _read(backend, "keys/aa/0") == b"later", "the last write is read"
    assert [_read(backend, name) for name in names[1:]] == [name.encode() for name in names[1:]], (
        "what was written together is there at the end"
    )
    assert _names(backend, "keys/") == set(names), "and is listed"


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


# --- Leases: claims on a backend that has no locks (hooke.store.claims.LeaseClaims).

_LEASE_S = 6000.0
"""By a clock turned by hand. In real time no lease of this length is renewed while a check runs."""


class _HandClock:
    """A clock that is turned by hand."""

    time = 1e9

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class ThroughBackend:
    """A backend that passes everything on; subclasses do something else at a chosen moment."""

    def __init__(self, backend: Backend) -> None:
        self.place, self.notes_use = backend.place, backend.notes_use
        self._backend = backend

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        """See Backend."""
        return self._backend.write(fill, size=size, exclusive=exclusive)

    def sync(self, names: Sequence[str] = (), *, wait: bool = True) -> None:
        """See Backend."""
        self._backend.sync(names, wait=wait)

    def read(self, name: str, *, fresh: bool = False) -> View | None:
        """See Backend."""
        return self._backend.read(name, fresh=fresh)

    def touch(self, names: Sequence[str]) -> list[int | None]:
        """See Backend."""
        return self._backend.touch(names)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See Backend."""
        return self._backend.list(prefix)

    def remove(self, name: str, *, unused_since: float | None = None, aside: str | None = None) -> bool:
        """See Backend."""
        return self._backend.remove(name, unused_since=unused_since, aside=aside)


class _SlowRenewals(ThroughBackend):
    """All writes but the first, which is the claim, wait until `gate` is set."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.entered, self.gate, self.written = (threading.Event() for _ in range(3))
        self.renewals = threading.Semaphore(0)
        self._claimed = False

    def write(self, fill: Fill, *, size: int = 0, exclusive: bool = False) -> bytes | None:
        if not self._claimed:
            self._claimed = True
            return super().write(fill, size=size, exclusive=exclusive)
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        stamp = super().write(fill, size=size)
        self.written.set()
        self.renewals.release()
        return stamp


class _InStep(ThroughBackend):
    """The first listing of each thread waits for those of the other threads, until that is `over`."""

    over = False

    def __init__(self, backend: Backend, threads: int) -> None:
        super().__init__(backend)
        self._barrier = threading.Barrier(threads)
        self._seen = threading.local()

    def list(self, prefix: str) -> Iterator[Stored]:
        found = list(super().list(prefix))
        if not self.over and not hasattr(self._seen, "listed"):
            self._seen.listed = True
            self._barrier.wait(PATIENCE_S)
        return iter(found)


class _Died(Exception):
    """A process that has died does nothing more."""


class _DiesAtAListing(ThroughBackend):
    """The backend as a process sees it that dies when it has written what it claims."""

    def list(self, prefix: str) -> Iterator[Stored]:
        raise _Died(prefix)


class _ClaimedInBetween(ThroughBackend):
    """Another process claims just before the first listing, or just `after` it."""

    def __init__(self, backend: Backend, claim: Callable[[], Claim | None], *, after: bool) -> None:
        super().__init__(backend)
        self._after = after
        self.other: list[Claim | None] = []
        self._claim: Callable[[], Claim | None] | None = claim

    def list(self, prefix: str) -> Iterator[Stored]:
        claim, self._claim = self._claim, None
        found = list(super().list(prefix)) if self._after or claim is None else []
        if claim is not None:
            self.other.append(claim())
        return iter(found) if self._after or claim is None else super().list(prefix)


@contextmanager
def without_sleeping() -> Iterator[None]:
    """Nothing inside sleeps in this thread: a claim is refused or given at once, for a scheduler waits for it."""
    slept: list[str] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and called is time.sleep:
            slept.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert not slept, f"claims and releases never sleep, but {slept[0]} does"


def _a_release_during_a_renewal_frees_the_key(backend: Backend) -> None:
    slow, clock = _SlowRenewals(backend), _HandClock()
    claim = LeaseClaims(slow, "claims", clock, lease_s=0.03).claim("k")
    assert claim is not None, "an empty place has no claims"
    assert slow.entered.wait(PATIENCE_S), "a lease that is held is renewed"
    releasing = threading.Thread(target=claim.release)
    releasing.start()
    releasing.join(0.2)  # it waits for the renewal, or overtakes it
    slow.gate.set()
    assert slow.written.wait(PATIENCE_S)
    releasing.join()
    again = LeaseClaims(backend, "claims", clock).claim("k")
    assert again is not None, "a renewal does not bring a released lease back"
    again.release()


def _held_leases_are_renewed(backend: Backend) -> None:
    counted, clock = _SlowRenewals(backend), _HandClock()
    counted.gate.set()
    claim = LeaseClaims(counted, "claims", clock, lease_s=0.3).claim("k")
    assert claim is not None, "an empty place has no claims"
    for _ in range(3):
        clock.time += 0.25
        for _ in range(2):  # the first may have begun before the clock was turned
            assert counted.renewals.acquire(timeout=PATIENCE_S), "a lease that is held is renewed"
    assert LeaseClaims(backend, "claims", clock).claim("k") is None, "a lease that is renewed does not end"
    claim.release()


def _expired_leases_are_taken_over_at_once(backend: Backend) -> None:
    clock = _HandClock()
    stopped, claims = (LeaseClaims(backend, "claims", clock, lease_s=_LEASE_S) for _ in range(2))
    old = [stopped.claim(str(number)) for number in range(8)]
    with without_sleeping():
        assert claims.claim("3") is None, "a claim excludes others"
    clock.time += _LEASE_S + 1
    with without_sleeping():
        new = [claims.claim(str(number)) for number in range(8)]
        assert None not in new, "a lease that has expired is free"
        assert stopped.claim("3") is None, "and then belongs to one"
    for claim in old:
        assert claim is not None, "an empty place has no claims"
        claim.release()
    assert claims.held() == {str(number): clock.time for number in range(8)}, (
        "the release of a lease that another process took over leaves that lease"
    )
    for claim in new:
        assert claim is not None
        claim.release()
    assert claims.held() == {}, "a claim that was released is free"
    assert _names(backend, "claims/") == set(), "nothing is left of it"


def _many_keys_are_claimed_as_one_by_one(backend: Backend) -> None:
    one, other = (LeaseClaims(backend, "claims", _HandClock(), lease_s=_LEASE_S) for _ in range(2))
    first = one.claim("1")
    many = other.claim_many(["0", "1", "2", "2"])
    assert [claim is not None for claim in many] == [True, False, True, False], (
        "each key has one claim, and what another has is refused alone"
    )
    assert first is not None, "an empty place has no claims"
    first.release()
    first = one.claim("1")
    assert first is not None, "what is refused is left to others"
    assert one.claim_many(["0", "1", "2", "3"])[:3] == [None] * 3, "a claim excludes others"
    other.release_many([claim for claim in many[:1] if claim is not None])
    assert one.held().keys() == {"1", "2", "3"}, "those of a release are free, and others are not"
    other.release_many([claim for claim in many if claim is not None])
    assert one.held().keys() == {"1", "3"}, "whose release may be told again"
    assert None not in other.claim_many(["0", "2"]), "a claim that was released is free"


def _what_is_released_soon_is_free_soon(backend: Backend) -> None:
    one, other = (LeaseClaims(backend, "claims", _HandClock(), lease_s=_LEASE_S) for _ in range(2))
    for key in ("k", "l"):
        claim = one.claim(key)
        assert claim is not None, "what was released is free"
        one.release_many([claim], soon=True)
        claim = one.claim("m")
        assert claim is not None, "an empty place has no claims"
        taken = other.claim(key)
        assert taken is not None, "the next claim takes along what was released before"
        taken.release()
        one.release_many([claim], soon=True)
        deadline = time.monotonic() + PATIENCE_S
        while (taken := other.claim("m")) is None:
            assert time.monotonic() < deadline, "what is released soon is free soon, without another claim"
            time.sleep(0.01)
        taken.release()
    assert one.held() == {}


def _one_of_two_in_each_others_midst_has_the_key(backend: Backend) -> None:
    """Whichever of them writes and looks first."""
    clock = _HandClock()
    for number in range(16):  # whose file comes first is by chance
        key, other = str(number), LeaseClaims(backend, "claims", clock, lease_s=_LEASE_S)
        claim = partial(other.claim, key)
        between = _ClaimedInBetween(backend, claim, after=number % 2 == 0)
        mine = LeaseClaims(between, "claims", clock, lease_s=_LEASE_S).claim(key)
        third = LeaseClaims(backend, "claims", clock, lease_s=_LEASE_S).claim(key)
        have = [each for each in (mine, *between.other, third) if each is not None]
        assert len(have) <= 1, "of two that claim at the same moment, one gets it, and none that comes later"


def _one_of_many_takes_an_expired_lease_over(backend: Backend) -> None:
    many, clock = 6, _HandClock()
    for key in ("a", "b"):
        dead = LeaseClaims(backend, "claims", clock, lease_s=_LEASE_S).claim(key)
        assert dead is not None, "an empty place has no claims"
        clock.time += _LEASE_S + 1
        together = _InStep(backend, many)
        takers = [LeaseClaims(together, "claims", clock, lease_s=_LEASE_S) for _ in range(many)]
        with ThreadPoolExecutor(many) as pool:
            taken = [claim for claim in pool.map(LeaseClaims.claim, takers, [key] * many) if claim]
        together.over = True
        # All may have seen one another; then they ask again, one before the others.
        taken += [claim for taker in takers if (claim := taker.claim(key)) is not None]
        assert len(taken) == 1, "of several processes that find an expired lease, one gets it"
        taken[0].release()
        dead.release()


def _a_claim_whose_process_died_over_it_ends_with_its_lease(backend: Backend) -> None:
    clock = _HandClock()
    with suppress(_Died):
        LeaseClaims(_DiesAtAListing(backend), "claims", clock, lease_s=_LEASE_S).claim("k")
    clock.time += _LEASE_S + 1
    claims = LeaseClaims(backend, "claims", clock, lease_s=_LEASE_S)
    claim = claims.claim("k")
    assert claim is not None, "a process that dies while it claims a key does not block it"
    clock.time += 20 * _LEASE_S
    again = claims.claim("j")
    assert again is not None, "nobody else has it"
    assert len(_names(backend, "claims/")) == 1, "what a dead process left is cleared away"


def _who_slept_longer_than_its_lease_looks_again(backend: Backend) -> None:
    clock = _HandClock()
    slept, other = (LeaseClaims(backend, "claims", clock, lease_s=_LEASE_S) for _ in range(2))
    old = slept.claim_many(["k", "l"])
    clock.time += _LEASE_S + 1
    taken = other.claim("k")
    assert taken is not None, "a lease that has expired is free"
    assert slept.claim("m") is not None, "nobody else has it"
    assert slept.held().keys() == {"k", "l", "m"}
    taken.release()
    assert slept.held().keys() == {"l", "m"}, "what another process took over meanwhile was that one's alone"
    taken = other.claim("k")
    for claim in old:
        assert claim is not None, "an empty place has no claims"
        claim.release()
    assert slept.held().keys() == {"k", "m"}, "the release of what was lost leaves the other's claim"


def _leases_leave_no_thread(backend: Backend) -> None:
    def once() -> None:
        claim = LeaseClaims(backend, "claims", SystemClock()).claim("k")
        assert claim is not None, "a claim that was released is free"
        claim.release()

    once()  # a library's own threads begin with the first
    before = threading.enumerate()
    for _ in range(8):
        once()
    await_threads(before, "leases of which none is held have no thread")


def await_threads(before: Collection[threading.Thread], guarantee: str) -> None:
    """Wait until this process has no thread but those of `before`. Raises AssertionError with the guarantee if one stays."""
    deadline = time.monotonic() + PATIENCE_S
    while (new := {*threading.enumerate()}.difference(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not new, f"{guarantee}: {new}"


BACKEND_CHECKS: tuple[BackendCheck, ...] = (
    _reads_what_was_written,
    _takes_pieces,
    _absent_is_none,
    _failed_writes_leave_nothing,
    _replaces,
    _views_outlive_removal,
    _lists,
    _touches,
    _syncs,
    _reads_many,
    _writes_together,
    _exclusive,
    _removes_unused_only,
    _sets_aside,
    _writers_do_not_mix,
    _a_release_during_a_renewal_frees_the_key,
    _held_leases_are_renewed,
    _expired_leases_are_taken_over_at_once,
    _many_keys_are_claimed_as_one_by_one,
    _what_is_released_soon_is_free_soon,
    _one_of_two_in_each_others_midst_has_the_key,
    _one_of_many_takes_an_expired_lease_over,
    _a_claim_whose_process_died_over_it_ends_with_its_lease,
    _who_slept_longer_than_its_lease_looks_again,
    _leases_leave_no_thread,
)
