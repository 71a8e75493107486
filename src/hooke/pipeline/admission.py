"""Whether an attempt's resources are free, and how its memory grows after it ran out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hooke.journal.events import CapacityChanged

__all__ = ["Asked", "fits", "memory_after"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one attempt asks for: slots, and for each of them cpus, memory (bytes) and gpus."""

    cpus: float
    memory: int
    gpus: float
    slots: int = 1
    """More than one for a gang."""


def fits(wanted: Asked, used: Mapping[Asked, int], place: CapacityChanged) -> bool:
    """Whether there is room beside `used` (what is asked for -> how often). What asks for more than there is gets all, alone."""
    slots = wanted.slots
    return (
        _fits(
            slots * wanted.cpus, [(each.slots * each.cpus, count) for each, count in used.items()], place.cpus
        )
        and _fits(
            slots * wanted.memory,
            [(each.slots * each.memory, count) for each, count in used.items()],
            place.memory,
        )
        and _fits(
            slots * wanted.gpus, [(each.slots * each.gpus, count) for each, count in used.items()], place.gpus
        )
    )


def _fits(wanted: float, used: Sequence[tuple[float, int]], total: float | None) -> bool:
    if total is None or not wanted:
        return True
    return sum(count * min(amount, total) for amount, count in used) + min(wanted, total) <= total + 1e-9


def memory_after(declared: int | None, growths: int, place: CapacityChanged, *, slots: int = 1) -> int | None:
    """Bytes for each slot of an attempt that ran out `growths` times: doubled each time, up to what the place has."""
    if declared is None:
        return None
    grown = declared << growths
    return grown if place.memory is None else max(declared, min(grown, place.memory // slots))
