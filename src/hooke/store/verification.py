"""Reading a whole store to find what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hooke.store.backend import Backend
from hooke.store.entries import Records, aside_of
from hooke.store.objects import Objects

__all__ = ["Damage", "VerifyReport", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A name whose bytes are not what was written, and what is wrong with them."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was read, in numbers and bytes, and what was damaged; `removed` says whether that was set aside."""

    objects: int
    records: int
    bytes: int
    damaged: tuple[Damage, ...]
    removed: bool


def verify(backend: Backend, objects: Objects, records: Records, *, remove: bool) -> VerifyReport:
    """Check every object and record; with `remove` the damaged ones go to `corrupt/`."""
    counts = {"objects": 0, "records": 0}
    size = 0
    damaged = []
    for name, length, kind, why in _checks(backend, objects, records):
        counts[kind] += 1
        size += length
        if why:
            damaged.append(Damage(name=name, why=why))
    if remove:
        for damage in damaged:
            backend.remove(damage.name, aside=aside_of(damage.name))
    return VerifyReport(**counts, bytes=size, damaged=tuple(damaged), removed=remove and bool(damaged))


def _checks(backend: Backend, objects: Objects, records: Records) -> Iterator[tuple[str, int, str, str]]:
    for name, size, _ in backend.list("objects/"):
        yield name, size, "objects", objects.check(name.rpartition("/")[2])
    for prefix in ("keys/", "items/"):
        for name, size, _ in backend.list(prefix):
            why = "" if records.sound(name) else "the record does not match its check sum or its signature"
            yield name, size, "records", why
