"""What is asked of a supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field

from hooke.serving.exposure import Exposure
from hooke.serving.service import Service
from hooke.serving.supervision.lease import LEASE_S
from hooke.serving.supervision.member import Rules

__all__ = ["Wish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many replicas, where, and what each may take."""

    replicas: tuple[int, int] = (1, 1)
    """The fewest and the most."""
    exposure: Exposure = field(default_factory=Exposure)
    """Where it is reached, and what it asks of who asks."""
    memory_bytes: int | None = None
    """A replica with more is replaced by another."""
    lease_s: float = LEASE_S
    healthy_s: float = 10.0
    poll_s: float = 5.0
    """Between two looks at what an alias means: a query of one row."""

    def rules(self, declared: Service) -> Rules:
        """What replicas of that service are kept to."""
        return Rules(
            timeout_s=declared.timeout_s,
            healthy_s=self.healthy_s,
            memory_bytes=self.memory_bytes,
            again=declared.idempotent,
        )
