"""How many cpus there are for us, which may be fewer than the machine has."""

from __future__ import annotations

import os

__all__ = ["cpus_here"]


def cpus_here() -> int:
    """How many cpus this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
