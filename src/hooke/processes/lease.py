"""Leases, under which a child runs only while a supervisor renews them in time; and backoff between restarts."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LEASE_S", "Backoff", "Lease"]


# --- The wait before the next start after failures in a row: doubled each time, up to a cap.

MOST_DOUBLINGS = 30
"""Beyond any cap, and below a float's overflow."""


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
        """A replica ready since then is healthy: earlier failures count no more, later ones do."""
        if ready_at > self.failed_at:
            self.failures, self.not_before = 0, 0.0


LEASE_S = 30.0
"""Long enough to start a new supervisor by hand, short enough that nothing runs on for a night."""


@dataclass(slots=True, kw_only=True)
class Lease:
    """Renewed at `renewed` for `seconds`. A late renewal counts if no one has checked before: the supervisor is alive."""

    seconds: float
    renewed: float

    def renew(self, now: float) -> None:
        """Extend the lease."""
        self.renewed = max(self.renewed, now)

    def left_s(self, now: float) -> float:
        """Seconds until it expires; 0 afterwards."""
        return max(0.0, self.renewed + self.seconds - now)

    def expired(self, now: float) -> bool:
        """Whether it has expired."""
        return self.left_s(now) <= 0.0

    @property
    def renew_every_s(self) -> float:
        """Two renewals may be late or lost before it expires."""
        return self.seconds / 3
