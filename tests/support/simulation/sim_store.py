"""The real store on memory, with claims that other processes have too, and a driver that may die between two writes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from typing import Any

from hooke.base.ref import Ref
from hooke.journal.events import Event
from hooke.journal.writer import Journal
from hooke.store.backends.memory import MemoryBackend
from hooke.store.entries import Entry
from hooke.store.store import Store
from hooke.testing.virtual_world import DriverCrash, World

__all__ = ["SimAside", "SimClaims", "SimJournal", "SimStore"]


class SimClaims:
    """Claims of the simulated driver and of rivals: other processes that come first at some keys.

    A rival releases its claim after a while, having published its result or, like one that died, nothing.
    """

    def __init__(self, world: World) -> None:
        self.publish: Callable[[str], None] = lambda _: None
        self.mine: set[str] = set()
        self._world = world
        self._seen: set[str] = set()
        self._rivals: set[str] = set()
        self._chance: Random = world.chance("rivals")

    def claim(self, key: str) -> SimClaim | None:
        """See Claims."""
        if key not in self._seen:
            self._seen.add(key)
            if self._chance.random() < self._world.faults.rivals:
                self._rivals.add(key)
                self._world.later(self._chance.expovariate(0.3), lambda: self._leave(key))
        if key in self._rivals or key in self.mine:
            self._world.note("held", key)
            return None
        self.mine.add(key)
        self._world.note("claim", key)
        return SimClaim(key, self)

    def held(self) -> dict[str, float]:
        """See Claims."""
        return dict.fromkeys(self.mine | self._rivals, self._world.clock.time)

    def release(self, key: str) -> None:
        """The driver lets go."""
        if key in self.mine:
            self.mine.remove(key)
            self._world.note("release", key)

    def _leave(self, key: str) -> None:
        if self._chance.random() < 0.7:
            self.publish(key)
        self._rivals.discard(key)


class SimClaim:
    """A key that the driver has."""

    def __init__(self, key: str, claims: SimClaims) -> None:
        self.key = key
        self._claims = claims

    def release(self) -> None:
        """See Claim."""
        self._claims.release(self.key)


class SimStore(Store):
    """The production store; each commit is a moment at which the driver may die."""

    def __init__(self, world: World) -> None:
        self.claims = SimClaims(world)
        self.world = world
        backend = MemoryBackend(clock=world.clock)
        super().__init__(backend, claims=self.claims, live=SimClaims(World(0)), clock=world.clock)

    def commit(self, entry: Entry) -> None:
        """See Store."""
        self.world.step()
        super().commit(entry)

    def commit_items(self, recipe: str, keys: bytes, ref: Ref, **facts: Any) -> None:
        """See Store."""
        self.world.step()
        super().commit_items(recipe, keys, ref, **facts)


class SimJournal(Journal):
    """The production journal; the driver may die before each write and after it."""

    world: World

    def append(self, event: Event) -> None:
        """See Journal."""
        self.world.step()
        super().append(event)
        self.world.step()

    def flush(self) -> None:
        """See Journal."""
        if self._held:
            self.world.step()
            super().flush()
            self.world.step()


class SimAside:
    """Makes the calls of a driver later, in virtual time and in any order, as threads do where a store takes long to answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.under_way = 0
        self._chance = world.chance("aside")

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """See Aside. The driver that dies takes with it what was not made until then."""
        future = _SimFuture(call, self)
        self._count(1)
        self.world.later(self._chance.expovariate(20.0), future.make, owner=self)
        return future

    def _count(self, more: int) -> None:
        self.under_way += more
        self.world.note("aside", self.under_way)


class _SimFuture(Future[Any]):
    """A call that is made when its time has come, or when somebody waits for it."""

    def __init__(self, call: Callable[[], Any], aside: SimAside) -> None:
        super().__init__()
        self._call = call
        self._aside = aside

    def make(self) -> None:
        """Make the call, unless it was made."""
        if self.done():
            return
        try:
            self.set_result(self._call())
        except DriverCrash as crash:
            self.set_exception(crash)
            raise
        except BaseException as error:  # noqa: BLE001 - the driver's thread raises it
            self.set_exception(error)
        self._aside._count(-1)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See Future."""
        self.make()
        return super().exception(timeout)
