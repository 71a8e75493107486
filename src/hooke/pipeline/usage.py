"""What an attempt used: CPU seconds and peak memory of its process, measured where the platform can."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

__all__ = ["Usage"]

_WORTH_READING_S = 0.005
"""Reading the peak costs 30 us: it is not worth it for attempts shorter than this."""

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Usage:
    """CPU seconds and peak resident bytes between `reset` and `measure`. The peak is None where it is not known.

    Linux: the peak is VmHWM, reset by writing 5 to /proc/self/clear_refs (see proc(5)).
    """

    __slots__ = ("_cpu_s", "_fd")

    def __init__(self) -> None:
        self._cpu_s = 0.0
        self._fd = _opened(os.getpid())

    def reset(self) -> None:
        """Begin to measure."""
        if self._fd is not None:
            os.write(self._fd, b"5")
        self._cpu_s = time.process_time()

    def measure(self, seconds: float) -> tuple[float, int | None]:
        """`(cpu seconds, peak bytes)` since `reset`, which was `seconds` ago."""
        cpu_s = time.process_time() - self._cpu_s
        if self._fd is None or seconds < _WORTH_READING_S:
            return cpu_s, None
        return cpu_s, _peak(_STATUS.read_text())


@functools.cache
def _opened(_pid: int) -> int | None:
    """The reset of this process, opened once: a process measures for many runs, and a forked one needs its own."""
    return os.open(_RESET, os.O_WRONLY) if os.access(_RESET, os.W_OK) else None


def _peak(status: str) -> int | None:
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
