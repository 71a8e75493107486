"""What the front counted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FrontStats", "UpstreamStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStats:
    """What the front saw of one replica since it has it."""

    active: int
    """Requests that it has now."""
    requests: int
    failed: int
    """Those without an answer, or with one of 500 and above."""
    unreachable: int
    """Connections that it did not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontStats:
    """Counted since the front started."""

    connections: int
    """Of clients, now."""
    active: int
    """Requests that have no answer yet."""
    requests: int
    answers: dict[str, int]
    """By `2xx` to `5xx`."""
    retries: int
    not_retried: int
    """Too many retries went on at once, or the body was too long to be kept for one."""
    ejected: int
    """Replicas that it sends nothing to now, as they could not be reached."""
    ejections: int
    memory_bytes: int
    """Of its heap, now."""
    replicas: dict[str, UpstreamStats]
    """By `Upstream.place`: those that are published, and those that left and may have requests still."""
