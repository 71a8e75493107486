"""A child's right to go on: it ends unless its supervisor, or another one, renews it in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LEASE_S", "Backoff", "Lease"]


# --- How long the next start waits after failures in a row: doubled each time, up to a cap.

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


LEASE_S = 30.0
"""Long enough to start a new supervisor by hand after the old one was killed, short enough that nothing is left for a night."""


@dataclass(slots=True, kw_only=True)
class Lease:
    """Renewed at `renewed` for `seconds`. A renewal that comes late, before anybody looked, counts: whoever renews is there."""

    seconds: float
    renewed: float

    def renew(self, now: float) -> None:
        """Whoever holds it is alive."""
        self.renewed = max(self.renewed, now)

    def left_s(self, now: float) -> float:
        """Seconds until it expires; 0 once it has."""
        return max(0.0, self.renewed + self.seconds - now)

    def expired(self, now: float) -> bool:
        """Whether nobody has renewed it in time."""
        return self.left_s(now) <= 0.0

    @property
    def renew_every_s(self) -> float:
        """Two renewals may be late or lost before it expires."""
        return self.seconds / 3
