"""Whether an attempt's resources are free, and how its memory grows after it ran out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hooke.journal.events import CapacityChanged

__all__ = ["Asked", "fits", "memory_after"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one attempt asks for: cpus, memory (bytes), gpus."""

    cpus: float
    memory: int
    gpus: float


def fits(wanted: Asked, used: Iterable[Asked], place: CapacityChanged) -> bool:
    """Whether there is room beside `used`. What asks for more than there is gets all there is, alone."""
    used = list(used)
    return (
        _fits(wanted.cpus, [asked.cpus for asked in used], place.cpus)
        and _fits(wanted.memory, [asked.memory for asked in used], place.memory)
        and _fits(wanted.gpus, [asked.gpus for asked in used], place.gpus)
    )


def _fits(wanted: float, used: list[float] | list[int], total: float | None) -> bool:
    if total is None or not wanted:
        return True
    return sum(min(amount, total) for amount in used) + min(wanted, total) <= total + 1e-9


def memory_after(declared: int | None, growths: int, place: CapacityChanged) -> int | None:
    """Bytes for an attempt that ran out `growths` times: doubled each time, up to what the place has."""
    if declared is None:
        return None
    grown = declared << growths
    return grown if place.memory is None else max(declared, min(grown, place.memory))
