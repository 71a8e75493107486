"""Claims and commits of a scheduler: its thread asks for them and goes on, and other threads make the requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from hooke.base.clock import Clock
from hooke.base.ref import Ref
from hooke.store.backend import Learnt
from hooke.store.claims import Claim
from hooke.store.store import Store

__all__ = ["Aside", "Claimed", "Committed", "StoreWork"]


class Aside(Protocol):
    """Where calls are made that nobody waits for: a ThreadPoolExecutor, or what a simulation has instead."""

    def submit(self, call: Callable[[], Any], /) -> Future[Any]:
        """Make the call, now or later."""
        ...


class Claimed(msgspec.Struct, frozen=True):
    """The answer to claims."""

    nodes: Sequence[int]
    claims: Sequence[Claim | None]
    """Of each node; None where others have it."""
    learnt: Learnt | None
    """What the store had after that."""


class Committed(msgspec.Struct, frozen=True):
    """What becomes true once results are committed."""

    nodes: Sequence[int]
    """Those whose claims are released then."""
    refs: Sequence[Ref]
    checkpoints: Sequence[str]
    """Keys whose checkpoint folders may go, when the refs are durable."""


COMMIT_EVERY_S = 0.5
"""Results that are ready sooner after the last commit are committed together, where that takes a request."""

LOOK_EVERY_S = 0.003
"""How long an answer may go unseen: a tenth of what a request takes."""


class _Claiming(msgspec.Struct):
    nodes: list[int] = msgspec.field(default_factory=list)
    keys: list[str] = msgspec.field(default_factory=list)
    asked: list[str] = msgspec.field(default_factory=list)


class _Committing(msgspec.Struct):
    writes: list[Callable[[], None]] = msgspec.field(default_factory=list)
    claims: list[Claim] = msgspec.field(default_factory=list)
    then: list[Committed] = msgspec.field(default_factory=list)


class StoreWork:
    """A scheduler's claims and commits.

    Which thread does what:

    - The scheduler's thread calls all methods here, and alone has their state. Here it waits for requests in `rest` and `close` alone;
      elsewhere, for lookups at the start, of what others hold, and of the lists of maps.
    - Where a request takes long, a thread makes the claims and looks for results after them, and another one makes the commits and
      releases claims after them. Each has one request at a time; all that is asked for meanwhile is its next one.
    - Where it does not, as for a folder, the scheduler's thread does it all at once, in `claim` and `commit`.

    `aside` takes the place of the threads.
    """

    def __init__(self, store: Store, clock: Clock, aside: Aside | None = None) -> None:
        self._store = store
        self._clock = clock
        self._next_commit = 0.0
        """When it may begin (seconds of the monotonic clock)."""
        has_threads = aside is None and store.takes_long
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="hooke-store") if has_threads else None
        self._aside = aside or self._threads
        self._to_claim, self._to_commit, self._under_way = _Claiming(), _Committing(), _Committing()
        self._claiming: Future[Claimed] | None = None
        self._committing: Future[Sequence[Committed]] | None = None
        self._claimed: list[Claimed] = []
        self._committed: list[Committed] = []

    @property
    def is_aside(self) -> bool:
        """Whether answers come later."""
        return self._aside is not None

    @property
    def is_claiming(self) -> bool:
        """Whether claims were asked for that are not answered."""
        return self._claiming is not None

    @property
    def patience_s(self) -> float:
        """How long the scheduler may wait for something else before it asks for answers again."""
        if self._claiming is not None or self._committing is not None:
            return LOOK_EVERY_S
        return max(0.0, self._next_commit - self._clock.monotonic()) if self._to_commit.then else math.inf

    def claim(self, nodes: Sequence[int], keys: Sequence[str], asked: Iterable[str]) -> None:
        """Claim the nodes' keys, and then learn what the store has of the keys that are `asked`. `claimed` gives the answer."""
        self._to_claim.nodes += nodes
        self._to_claim.keys += keys
        self._to_claim.asked += asked
        self._begin_claims()

    def commit(self, writes: Iterable[Callable[[], None]], claims: Sequence[Claim], then: Committed) -> None:
        """Make these writes, which are found together, and then release the claims. `committed` gives `then` after that."""
        self._to_commit.writes += writes
        self._to_commit.claims += claims
        self._to_commit.then.append(then)
        self._begin_commits()

    def claimed(self) -> Sequence[Claimed]:
        """The answers to `claim` since the last call. Raises what the store raised."""
        if self._claiming is not None and self._claiming.done():
            done, self._claiming = self._claiming, None
            self._claimed.append(done.result())
            self._begin_claims()
        answers = tuple(self._claimed)
        self._claimed.clear()
        return answers

    def committed(self) -> Sequence[Committed]:
        """What was committed since the last call. Raises what the store raised."""
        if self._committing is not None and self._committing.done():
            done, self._committing = self._committing, None
            self._committed += done.result()
            self._under_way = _Committing()
        self._begin_commits()
        answers = tuple(self._committed)
        self._committed.clear()
        return answers

    def rest(self) -> Sequence[Committed]:
        """What `committed` gives after waiting for all that was asked for."""
        answers: list[Committed] = []
        while True:
            self._next_commit = 0.0
            answers += self.committed()
            if self._committing is None:
                return answers
            self._committing.exception()

    def close(self, claims: Iterable[Claim]) -> None:
        """Wait for the requests that are under way, make no more, and release these claims and those of what is left."""
        try:
            if self._threads is not None:
                self._threads.shutdown(cancel_futures=True)
        finally:
            left = [*claims, *self._under_way.claims, *self._to_commit.claims]
            claiming = self._claiming
            if (
                claiming is not None
                and claiming.done()
                and not (claiming.cancelled() or claiming.exception())
            ):
                self._claimed.append(claiming.result())
            left += [claim for answer in self._claimed for claim in answer.claims if claim is not None]
            self._store.release(left)

    def _begin_claims(self) -> None:
        if self._claiming is not None or not self._to_claim.nodes:
            return
        wanted, self._to_claim = self._to_claim, _Claiming()
        if self._aside is None:
            self._claimed.append(self._claim(wanted))
        else:
            self._claiming = self._aside.submit(lambda: self._claim(wanted))

    def _begin_commits(self) -> None:
        if self._committing is not None or not self._to_commit.then:
            return
        # Claims without results, of what others had stored, go at once: nodes of the same keys wait for them.
        if self._to_commit.writes and self._aside is not None and self._clock.monotonic() < self._next_commit:
            return
        ended, self._to_commit = self._to_commit, _Committing()
        if self._aside is None:
            self._committed += self._commit(ended)
            return
        self._under_way = ended
        if ended.writes:
            self._next_commit = self._clock.monotonic() + COMMIT_EVERY_S
        self._committing = self._aside.submit(lambda: self._commit(ended))

    def _claim(self, wanted: _Claiming) -> Claimed:
        claims = self._store.claim_many(wanted.keys)
        try:
            return Claimed(wanted.nodes, claims, self._store.learn(wanted.asked))
        except BaseException:
            self._store.release([claim for claim in claims if claim is not None], soon=True)
            raise

    def _commit(self, ended: _Committing) -> Sequence[Committed]:
        try:
            with self._store.together():
                for write in ended.writes:
                    write()
        finally:
            self._store.release(ended.claims, soon=True)
        return ended.then
