"""How long, and for how much, a replica waits for who connects and does not ask."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

__all__ = ["Patience"]

SPARE_FILES = 256
"""Of the files that the process may open, those left for models, data and logs."""


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(64, min(4096, soft - SPARE_FILES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, and for how much, a connection is waited for."""

    head_s: float = 10.0
    """For the head of a request, once it began; phones on bad lines take seconds."""
    idle_s: float = 75.0
    """For the next request, and the first one; longer than a proxy in front keeps a connection, so that it is the proxy who closes."""
    stall_s: float = 30.0
    """For somebody who takes no more of his answer."""
    head_bytes: int = 32 << 10
    """Of request line and headers; browsers send 2 KiB, and proxies allow 8 to 64."""
    connections: int = field(default_factory=_most_connections)
