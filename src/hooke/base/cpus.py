"""The cpus: how many there are for us, which may be fewer than the machine has, and what they are called."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cpus_here", "processor"]


def cpus_here() -> int:
    """How many cpus this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The model's name."""
    try:
        with file.open("rb") as stream:
            text = stream.read(4096).decode("utf-8", "replace")  # the rest says the same of each core
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "an unnamed processor"
