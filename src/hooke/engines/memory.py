"""What tasks may declare together of the memory of a place."""

from __future__ import annotations

import psutil

__all__ = ["memory_here", "memory_of"]

SAFE_SHARE = 0.9
"""Of the memory that is available: the rest is the kernel's and the driver's."""


def memory_here() -> int:
    """Bytes of this machine."""
    return int(SAFE_SHARE * psutil.virtual_memory().available)


def memory_of(limits: list[int | None]) -> int | None:
    """Bytes of several hosts; None where one does not say what it has."""
    return None if None in limits else sum(filter(None, limits))
