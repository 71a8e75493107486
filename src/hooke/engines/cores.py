"""Cores of this machine, lent to workers that are bound to them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Cores", "cores_of_this_machine"]

_TOPOLOGY = "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"


class Cores:
    """Core ids with how many workers are bound to each: the least used are lent first, and then in the order given."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._uses = dict.fromkeys(ids, 0)

    def __len__(self) -> int:
        return len(self._uses)

    def take(self, count: int) -> tuple[int, ...]:
        """`count` different cores; all of them where there are fewer."""
        # Sorting is stable, so that equally used ones stay in order.
        chosen = sorted(self._uses, key=self._uses.__getitem__)[:count]
        for core in chosen:
            self._uses[core] += 1
        return tuple(chosen)

    def release(self, cores: Iterable[int]) -> None:
        """Give back what `take` gave."""
        for core in cores:
            self._uses[core] -= 1


def cores_of_this_machine() -> Cores:
    """The cores that this process may use; none where the system cannot bind a process to them (macOS).

    One hardware thread of each physical core comes before the second one of any.
    """
    if not hasattr(os, "sched_setaffinity"):
        return Cores(())
    ids = sorted(os.sched_getaffinity(0))
    return Cores(sorted(ids, key=_rank_among_siblings))


def _rank_among_siblings(core: int) -> int:
    """0 for the first hardware thread of a physical core; 0 too where the kernel does not say."""
    try:
        text = Path(_TOPOLOGY.format(core=core)).read_text(encoding="ascii")
    except OSError:
        return 0
    return sorted(_listed(text)).index(core)


def _listed(text: str) -> Iterable[int]:
    """`0,4` or `0-1` or `0-1,8-9`, as the kernel writes lists of cores."""
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
