"""How long the next start waits after failures in a row: doubled each time, up to a cap."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Backoff"]

MOST_DOUBLINGS = 30
"""Beyond any cap, and below where a float overflows."""


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Failures in a row of one generation."""

    first_s: float
    cap_s: float
    failures: int = 0
    not_before: float = 0.0
    failed_at: float = -math.inf

    def failed(self, now: float) -> float:
        """Count a failure; returns how long to wait."""
        waits_s = min(self.cap_s, self.first_s * 2.0 ** min(self.failures, MOST_DOUBLINGS))
        self.failures += 1
        self.failed_at = now
        self.not_before = max(self.not_before, now + waits_s)
        return waits_s

    def succeeded(self, ready_at: float) -> None:
        """A replica that has been ready since then is healthy: failures before that count no more, and later ones do."""
        if ready_at > self.failed_at:
            self.failures, self.not_before = 0, 0.0
