"""When a failed item runs again: exponential backoff with jitter drawn from the run's seed, so that it replays."""

from __future__ import annotations

import zlib

__all__ = ["retry_delay"]

BASE_S = 0.1
LONGEST_S = 60.0

_DOUBLINGS = 10
"""By then the longest wait is reached, and a float's range is not."""


def retry_delay(failures: int, *, seed: int, salt: tuple[int, ...], asked_s: float | None = None) -> float:
    """Seconds to wait after the `failures`-th failure: 0.1 s doubled each time, at most 60 s, jittered by +-50 %.

    A delay that the task asked for (`Temporary(delay_s=...)`) is taken as it is.
    """
    if asked_s is not None:
        return asked_s
    wait = min(LONGEST_S, BASE_S * 2.0 ** min(failures - 1, _DOUBLINGS))
    draw = zlib.crc32(repr((seed, failures, salt)).encode()) / 2**32
    return wait * (0.5 + draw)
