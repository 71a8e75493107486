"""The machine that a study is about, in a line."""

from __future__ import annotations

import psutil

from hooke.base.cpus import cpus_here, processor
from hooke.base.formats import format_bytes

__all__ = ["machine_facts"]


def machine_facts() -> str:
    """Processor, cores and memory, such as `AMD EPYC 9654, 2 cores, 8.00 GiB`: what throughput depends on."""
    return f"{processor()}, {cpus_here()} cores, {format_bytes(psutil.virtual_memory().total)}"
