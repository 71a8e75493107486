"""Latencies as an HdrHistogram, in the form that its plotters and other tools of load read."""

from __future__ import annotations

import numpy as np
from hdrh.histogram import HdrHistogram

from hooke.scaling.families import Floats

__all__ = ["encoded"]

LONGEST_US = 3_600_000_000
DIGITS = 3


def encoded(latency: Floats) -> str:
    """The histogram of `latency` (n,) in seconds; it counts microseconds, to three digits."""
    made = HdrHistogram(1, LONGEST_US, DIGITS)
    counted, numbers = np.unique(
        np.clip(np.rint(latency * 1e6), 1, LONGEST_US).astype(np.int64), return_counts=True
    )
    for value, number in zip(counted.tolist(), numbers.tolist(), strict=True):
        made.record_value(value, number)
    text: bytes = made.encode()
    return text.decode()
