"""The machine that a study is about, in a line."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil

from hooke.base.cpus import cpus_here
from hooke.base.formats import format_bytes

__all__ = ["machine_facts"]


def machine_facts() -> str:
    """Processor, cores and memory, such as `AMD EPYC 9654, 2 cores, 8.00 GiB`: what throughput depends on."""
    return f"{_processor()}, {cpus_here()} cores, {format_bytes(psutil.virtual_memory().total)}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "an unnamed processor"
