"""The clock as an argument: shells own one, pure cores get `now`."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """The source of time. A test passes one that it sets by hand."""

    def now(self) -> float:
        """Wall clock, in seconds since the epoch; jumps when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary origin; never goes back, so differences are durations."""
        ...


class SystemClock:
    """This machine's clock."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary origin."""
        return time.monotonic()
