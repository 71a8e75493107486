"""Eviction and verification. Results with the lowest cost of recomputing per byte go first; those of live runs stay."""

from __future__ import annotations

import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from hooke.base.formats import format_bytes, format_seconds
from hooke.store.backend import Backend, Packing, Stored, as_of_now
from hooke.store.claims import Claims, ListedClaims, waiting_claim
from hooke.store.entries import Entry, Records, aside_of, refs_of
from hooke.store.objects import Objects, name_of

__all__ = [
    "DamagedObject",
    "Evicted",
    "EvictionReport",
    "EvictionUnit",
    "StoreSurvey",
    "StoreUsage",
    "StoredTask",
    "VerifyReport",
    "await_removals",
    "clear_abandoned",
    "evict",
    "measure",
    "pieces",
    "survey",
    "verify",
]


SLACK_S = 150.0
"""Uses are recorded to the minute, and the clocks of hosts that share a folder may differ a little more."""

BATCH_S = 0.2
"""The longest that a run waits for an eviction."""

PAUSE_S = 0.2
"""Between two batches, so that runs which wait for one can begin."""

_REMOVALS = "0" * 31 + "1"
"""The claim of a batch of removals; no recipe has this key."""

ABANDONED_S = 24 * 3600.0
"""Older temporary files and damaged objects are removed."""

TOLD_EVERY = 100
"""Entries and names between two words of how far a survey is."""

_Item = TypeVar("_Item")

FORGOTTEN_S = 90 * 24 * 3600.0
"""Facts that were not used for so long are removed."""


class EvictionUnit(msgspec.Struct, frozen=True, kw_only=True):
    """A unit of eviction: an object and the entries that refer to it, or a record with inline values.

    `name` holds the `size` bytes, and `records` refer to it. Recomputing takes `seconds`.
    """

    name: str
    size: int
    used: float
    seconds: float = 0.0
    tasks: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """Recompute seconds per byte."""
        return self.seconds / max(1, self.size)


class StoreUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store holds, in bytes, except the count `objects`.

    `unreferenced` are objects without an entry, `corrupt` (not in `bytes`) damaged objects that were moved aside.
    `by_task` counts an object for each task that made it. `checkpoints` (not in `bytes`) are those of checkpoint folders.
    """

    bytes: int
    objects: int
    unreferenced: int
    corrupt: int
    by_task: dict[str, int]
    checkpoints: int = 0


class StoredTask(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one task: their number, bytes and seconds of work, and when one was used first and last."""

    task: str
    results: int
    bytes: int
    seconds: float
    first_used: float
    last_used: float


class Evicted(msgspec.Struct, frozen=True, kw_only=True):
    """A removed unit, and the reason for the choice."""

    name: str
    size: int
    tasks: tuple[str, ...]
    why: str


class EvictionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an eviction, in bytes. `spared` would have been removed without the runs in `live`."""

    before: int
    after: int
    spared: int
    live: tuple[str, ...]
    evicted: tuple[Evicted, ...]


class StoreSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds, by task, the largest first; and what an eviction to `most` bytes would remove now: None without a limit."""

    usage: StoreUsage
    tasks: tuple[StoredTask, ...]
    most: int | None
    eviction: EvictionReport | None


class _About:
    """What the entries say of one name: seconds of work, tasks, and the records that refer to it."""

    __slots__ = ("records", "seconds", "tasks")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tasks: tuple[str, ...] = ()
        self.records: tuple[str, ...] = ()

    def add(self, record: str, entry: Entry) -> None:
        self.seconds += entry.seconds
        if entry.task not in self.tasks:
            self.tasks = (*self.tasks, sys.intern(entry.task))
        if record not in self.records:
            self.records = (*self.records, record)


def pieces(stored: Iterable[Stored], entries: Iterable[tuple[str, Entry]]) -> Iterator[EvictionUnit]:
    """Group a store's content into units. `entries` has each entry with the name of its record; `stored` is read after them."""
    holding: dict[str, _About] = defaultdict(_About)
    beside: dict[str, float] = defaultdict(float)
    kept_in: dict[str, str] = {}
    several: set[str] = set()
    """Records of several results, from other observed inputs: one that loses a result stays for the others."""
    for record, entry in entries:
        own = name_of(entry.ref.digest)
        names = {
            record if ref.inline is not None else own if ref is entry.ref else name_of(ref.digest)
            for ref in refs_of(entry)
        }
        for name in names:
            holding[name].add(record, entry)
        if kept_in.setdefault(record, own) != own:
            several.add(record)
        if (
            record not in names
        ):  # evicting a map's record for its inline values also loses its entries of other objects
            beside[record] += entry.seconds
    for name, size, used in stored:
        about = holding.get(name)
        if about is None and not name.startswith("objects/"):
            continue
        about = about or _About()
        yield EvictionUnit(
            name=name,
            size=size,
            used=used,
            seconds=about.seconds + beside.get(name, 0.0),
            tasks=tuple(sorted(about.tasks)),
            records=tuple(
                record
                for record in about.records
                if record != name and record.startswith("keys/") and record not in several
            ),
        )


def measure(backend: Backend, entries: Iterable[tuple[str, Entry]], *, checkpoints: int = 0) -> StoreUsage:
    """How much the store holds."""
    return _measured(backend, entries, checkpoints, lambda _: None)[0]


def _measured(
    backend: Backend, entries: Iterable[tuple[str, Entry]], checkpoints: int, tell: Callable[[int], None]
) -> tuple[StoreUsage, list[EvictionUnit]]:
    size = objects = read = 0

    def listed() -> Iterator[Stored]:
        nonlocal size, objects
        for item in _stored(backend):
            size += item.size
            objects += item.name.startswith("objects/")
            yield item

    def told(items: Iterable[_Item]) -> Iterator[_Item]:
        nonlocal read
        for item in items:
            read += 1
            if read % TOLD_EVERY == 0:
                tell(read)
            yield item

    found = list(pieces(told(listed()), told(entries)))
    by_task: dict[str, int] = defaultdict(int)
    for piece in found:
        for task in piece.tasks:
            by_task[task] += piece.size
    usage = StoreUsage(
        bytes=size,
        objects=objects,
        unreferenced=sum(piece.size for piece in found if not piece.tasks),
        corrupt=sum(item.size for item in backend.list("corrupt/")),
        by_task=dict(by_task),
        checkpoints=checkpoints,
    )
    return usage, found


def survey(
    backend: Backend,
    entries: Iterable[tuple[str, Entry]],
    *,
    most: int | None,
    live: ListedClaims,
    checkpoints: int = 0,
    tell: Callable[[int], None],
) -> StoreSurvey:
    """What the store holds, and what an eviction would remove, without removing anything. `tell` gets the number of entries and names read so far."""
    usage, found = _measured(backend, entries, checkpoints, tell)
    by_task: dict[str, list[EvictionUnit]] = defaultdict(list)
    for piece in found:
        for task in piece.tasks:
            by_task[task].append(piece)
    tasks = [
        StoredTask(
            task=task,
            results=len(own),
            bytes=sum(piece.size for piece in own),
            seconds=sum(piece.seconds for piece in own),
            first_used=min(piece.used for piece in own),
            last_used=max(piece.used for piece in own),
        )
        for task, own in by_task.items()
    ]
    return StoreSurvey(
        usage=usage,
        tasks=tuple(sorted(tasks, key=lambda each: -each.bytes)),
        most=most,
        eviction=None if most is None else _foreseen(backend, found, usage.bytes, most, live.held()),
    )


def _foreseen(
    backend: Backend, found: Iterable[EvictionUnit], before: int, most: int, runs: dict[str, float]
) -> EvictionReport:
    """What `evict` would remove with these runs alive."""
    after, spared = before, 0
    evicted: list[Evicted] = []
    since = _since(runs)
    for piece in sorted(found, key=_worth):
        if after <= most:
            break
        if since is not None and (not backend.notes_use or piece.used >= since):
            spared += piece.size
            continue
        after -= piece.size
        evicted.append(_gone(piece))
    return EvictionReport(
        before=before, after=after, spared=spared, live=tuple(sorted(runs)), evicted=tuple(evicted)
    )


def evict(
    backend: Backend, entries: Iterable[tuple[str, Entry]], *, most: int, live: ListedClaims, claims: Claims
) -> EvictionReport:
    """Remove units until at most `most` bytes are left, or only units remain that must stay.

    A run that begins meanwhile is listed in `live` and then waits for the batch in progress (`await_removals`), so that
    each later batch spares what it finds.
    """
    stored = list(_stored(backend))
    before = after = sum(item.size for item in stored)
    spared = 0
    evicted: list[Evicted] = []
    seen: set[str] = set()
    waiting = deque(sorted(pieces(stored, entries), key=_worth))
    while True:
        with waiting_claim(claims, _REMOVALS):
            runs = live.held()
            seen |= runs.keys()
            until = time.monotonic() + BATCH_S
            while waiting and after > most and time.monotonic() < until:
                piece = waiting.popleft()
                if not _remove(backend, piece, runs):
                    spared += piece.size
                    continue
                after -= piece.size
                evicted.append(_gone(piece))
        if not waiting or after <= most:
            break
        time.sleep(PAUSE_S)
    return EvictionReport(
        before=before, after=after, spared=spared, live=tuple(sorted(seen)), evicted=tuple(evicted)
    )


def await_removals(claims: Claims) -> None:
    """Wait for the end of a batch of removals that may not know of a run that has just begun."""
    with waiting_claim(claims, _REMOVALS):
        pass


def clear_abandoned(backend: Backend, *, now: float) -> None:
    """Remove leftovers of killed writers, old damaged objects, and facts that nothing has asked for in a long time."""
    for prefix, kept_s in (("tmp/", ABANDONED_S), ("corrupt/", ABANDONED_S), ("facts/", FORGOTTEN_S)):
        for stored in list(backend.list(prefix)):
            if stored.used < now - kept_s:
                backend.remove(stored.name)


def _stored(backend: Backend) -> Iterator[Stored]:
    for prefix in ("objects/", "keys/", "items/"):
        yield from backend.list(prefix)


def _worth(piece: EvictionUnit) -> tuple[float, float]:
    """The least worthy goes first; of equal ones the one that was not used for longer."""
    return piece.value, piece.used


def _since(runs: Mapping[str, float]) -> float | None:
    """What was used since then stays, because a live run may need it; None where none lives."""
    return min(runs.values()) - SLACK_S if runs else None


def _gone(piece: EvictionUnit) -> Evicted:
    return Evicted(name=piece.name, size=piece.size, tasks=piece.tasks, why=_why(piece))


def _remove(backend: Backend, piece: EvictionUnit, runs: dict[str, float]) -> bool:
    if runs and not backend.notes_use:
        return False
    since = _since(runs)
    if not backend.remove(piece.name, unused_since=since):
        return False
    for record in piece.records:
        backend.remove(record, unused_since=since)
    return True


def _why(piece: EvictionUnit) -> str:
    if not piece.tasks:
        return f"{format_bytes(piece.size)} without an entry"
    return f"{format_seconds(piece.seconds)} to recompute for {format_bytes(piece.size)}"


# --- Verification: reads a whole store to find damage.


class DamagedObject(msgspec.Struct, frozen=True, kw_only=True):
    """A name with damaged bytes, and what is wrong with them."""

    name: str
    why: str


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """How much was read, and what is damaged. `removed`: whether damaged objects were moved aside.

    `torn` are bytes of writes that a death cut off. They are no damage: nothing had been said to be stored there.
    """

    objects: int
    records: int
    bytes: int
    damaged: tuple[DamagedObject, ...]
    removed: bool
    torn: int = 0


def verify(backend: Backend, objects: Objects, records: Records, *, remove: bool) -> VerifyReport:
    """Check every object and record. With `remove` the damaged ones move to `corrupt/`."""
    counts = {"objects": 0, "records": 0}
    size = 0
    damaged = []
    with as_of_now(backend):
        for name, length, kind, why in _checks(backend, objects, records):
            counts[kind] += 1
            size += length
            if why:
                damaged.append(DamagedObject(name=name, why=why))
    if remove:
        for damage in damaged:
            backend.remove(damage.name, aside=aside_of(damage.name))
    torn = list(backend.torn()) if isinstance(backend, Packing) else []
    for each in torn:
        if not each.at_end:
            where = f"{each.path.removeprefix(backend.place + '/')} from byte {each.start}"
            damaged.append(DamagedObject(name=where, why=f"{each.end - each.start} bytes are no record"))
    if remove and torn and isinstance(backend, Packing):
        backend.compact()
    return VerifyReport(
        **counts,
        bytes=size,
        damaged=tuple(damaged),
        removed=remove and bool(damaged),
        torn=sum(each.end - each.start for each in torn if each.at_end),
    )


def _checks(backend: Backend, objects: Objects, records: Records) -> Iterator[tuple[str, int, str, str]]:
    for name, size, _ in backend.list("objects/"):
        yield name, size, "objects", objects.check(name.rpartition("/")[2])
    for prefix in ("keys/", "items/"):
        for name, size, _ in backend.list(prefix):
            why = "" if records.sound(name) else "the record does not match its checksum or its signature"
            yield name, size, "records", why
