"""Room for bodies: how many bytes of them a replica takes in at once, whoever sends them and however slowly."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hooke.serving.problems import Problem

__all__ = ["BODY_LIMIT", "SMALL_BODY", "BodyMemory", "ConnectionLimits", "body_memory_bytes"]


BODY_LIMIT = 16 << 20
"""Bytes of one body; a batch of images fits."""
SMALL_BODY = 64 << 10
"""A body of at most so many bytes takes no room: as much of each is read before anybody asks for it, and connections bound that."""
PART = 8
"""Of its memory a replica has one part of so many for bodies: numbers of JSON take eight times as much as objects of Python."""
WAIT_S = 1.0
"""For room: what goes on takes milliseconds as a rule, and a front has other replicas."""
WAITING = 64
"""Requests that wait for room; of each up to 640 KB have come, in two reads of the event loop."""
CGROUP = Path("/sys/fs/cgroup")


def body_memory_bytes(*, memory_bytes: int | None = None, among: int = 1) -> int:
    """For bodies, of a replica that may have so much memory, or else its part `among` several of what is free now; one body fits."""
    free = _free_bytes() // among
    return max(min(free, memory_bytes or free) // PART, BODY_LIMIT)


class BodyMemory:
    """Room of `most` bytes, given to bodies in the order in which they ask. It belongs to the event loop."""

    def __init__(self, most: int, *, wait_s: float = WAIT_S) -> None:
        self.most = most
        self.taken = 0
        self._wait_s = wait_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Take room, when there is some. Raises Problem (503) where there is none soon."""
        if not self._waiting and self.taken + size <= self.most:
            self.taken += size
            return
        if len(self._waiting) >= WAITING:
            raise self._refusal()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give(size)  # it was given at the very moment
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove((size, turn))
                self._next()
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def give(self, size: int) -> None:
        """Give it back."""
        self.taken -= size
        self._next()

    def _next(self) -> None:
        while self._waiting and self.taken + self._waiting[0][0] <= self.most:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.taken += size
                turn.set_result(None)

    def _refusal(self) -> Problem:
        said = (
            f"{self.most} bytes of bodies are being received or answered; more are taken when these are done"
        )
        return Problem(503, said, retry_after_s=1, reason="room for bodies")


def _free_bytes() -> int:
    """Of the machine, or of what this process's control groups (a container's, a unit's of systemd) may still have."""
    free = psutil.virtual_memory().available
    for group in _groups():
        with contextlib.suppress(
            OSError, ValueError
        ):  # it has no limit: there is no such file, or "max" in it
            limit = int((group / "memory.max").read_text())
            free = min(free, limit - int((group / "memory.current").read_text()))
    return max(free, 0)


def _groups() -> list[Path]:
    """Of cgroup v2: its own, and those around it."""
    try:
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip()
    except OSError:
        return []
    return [CGROUP / own, *(CGROUP / own).parents[: len(Path(own).parts)]]


# --- How long, and for how much, a replica waits for who connects and does not ask.

SPARE_FILES = 256
"""Of the files that the process may open, those left for models, data and logs."""


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(64, min(4096, soft - SPARE_FILES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
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
