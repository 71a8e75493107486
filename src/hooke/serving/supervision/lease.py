"""A child's right to go on: it ends unless its supervisor, or another one, renews it in time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEASE_S", "Lease"]

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
