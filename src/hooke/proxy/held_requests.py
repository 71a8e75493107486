"""The requests that wait while a service has no replica: held, forwarded, refused or dropped. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Forward", "HeldAnswer", "HeldRequests", "HoldAction", "HoldLimits", "Refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLimits:
    """How much is held, and for how long."""

    timeout_s: float
    """A request is held for so long, which is the timeout of the service, and then answered with 504."""
    most_requests: int = 1000
    """Fewer than fit the queue of one replica, which gets all of them at once."""
    most_bytes: int = 64 << 20
    """Of heads and bodies together. A body is read only to `most_body`, and the rest of it when its replica reads."""
    most_body: int = 64 << 10
    assumed_start_s: float = 5.0
    """For `Retry-After` before a start was measured."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this request to the replica at this port. `failed` or `answered` follows."""

    request: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer this request with a problem."""

    request: int
    status: int
    detail: str
    retry_after_s: float | None = None


HoldAction: TypeAlias = Forward | Refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAnswer:
    """The first answer after a time without a replica."""

    seconds: float
    """From the arrival of this request to the first byte of its answer."""
    held: int
    """The most requests that were held at once."""
    refused: int
    """Those for which there was no room, or no time."""
    gone: int
    """Those whose clients left."""


@dataclass(slots=True)
class _Held:
    since: float
    size: int


class HeldRequests:
    """Requests by number. Times are seconds of one monotonic clock.

    Its invariants: each request that arrives is forwarded or refused once, unless its client leaves, within its deadline; the older one is forwarded
    first; no more is held than the limits allow; while there is a replica, nothing is held but what could not reach it.
    """

    def __init__(self, limits: HoldLimits) -> None:
        self.limits = limits
        self.arrived = 0
        """All requests so far."""
        self.bytes = 0
        self._holding = True
        self._why = "no replica is ready"
        self._ports: tuple[int, ...] = ()
        self._turn = 0
        self._held: dict[int, _Held] = {}
        self._waited: dict[int, float] = {}
        """Requests that were held and have no answer yet, by the time of their arrival; empty after the first answer."""
        self._most = self._refused = self._gone = 0
        self._last_start_s = limits.assumed_start_s

    def __len__(self) -> int:
        return len(self._held)

    def arrive(self, request: int, size: int, now: float) -> list[HoldAction]:
        """A request arrived, with so many bytes."""
        self.arrived += 1
        if self._ports:
            return [self._forward(request)]
        if not self._holding:
            return [self._refuse(request, 503, self._why)]
        limits = self.limits
        if len(self._held) >= limits.most_requests or self.bytes + size > limits.most_bytes:
            said = f"the first replica is starting, and {len(self._held)} requests wait for it already"
            return [self._refuse(request, 503, said)]
        if not self._held:
            self._most = self._refused = self._gone = 0
            self._waited.clear()
        self._held[request] = _Held(now, size)
        self._waited[request] = now
        self.bytes += size
        self._most = max(self._most, len(self._held))
        return []

    def grow(self, request: int, size: int) -> list[HoldAction]:
        """More of a held request was read."""
        held = self._held.get(request)
        if held is None:
            return []
        held.size += size
        self.bytes += size
        if self.bytes <= self.limits.most_bytes:
            return []
        self._remove(request)
        return [
            self._refuse(request, 503, "the first replica is starting, and held requests take all the room")
        ]

    def leave(self, request: int) -> None:
        """The client has gone."""
        self._waited.pop(request, None)
        if self._remove(request) is not None:
            self._gone += 1

    def serve(
        self, ports: Iterable[int], *, holding: bool, why: str = "no replica is ready"
    ) -> list[HoldAction]:
        """Replicas answer at these ports. Without any, requests are held if `holding`, else refused; `why` says the reason."""
        self._ports = tuple(ports)
        self._holding, self._why = holding, why
        if self._ports:
            return self._release()
        if not holding:
            refused = [self._refuse(request, 503, why) for request in self._held]
            self._clear()
            return list(refused)
        return []

    def fail(self, request: int, size: int, since: float) -> None:
        """The replica could not be reached, and got nothing of this request: it waits for the next `tick`, or for another replica."""
        self._held = {request: _Held(since, size), **self._held}  # it was the first
        self.bytes += size

    def tick(self, now: float) -> list[HoldAction]:
        """Time has passed."""
        late: list[HoldAction] = []
        timeout_s = self.limits.timeout_s
        said = f"no replica was ready within {timeout_s:g} s; one may be starting"
        for request, held in list(self._held.items()):
            if now - held.since >= timeout_s:
                self._remove(request)
                late.append(self._refuse(request, 504, said))
        return [*late, *self._release()] if self._ports else late

    def answer(self, request: int, now: float) -> HeldAnswer | None:
        """The first byte of an answer came; returns the cold start if it is the first one after a time without a replica."""
        since = self._waited.get(request)
        if since is None:
            return None
        self._waited.clear()
        self._last_start_s = now - since
        return HeldAnswer(seconds=now - since, held=self._most, refused=self._refused, gone=self._gone)

    def _release(self) -> list[HoldAction]:
        forwarded: list[HoldAction] = [self._forward(request) for request in self._held]
        self._clear()
        return forwarded

    def _forward(self, request: int) -> Forward:
        self._turn += 1
        return Forward(request, self._ports[self._turn % len(self._ports)])

    def _refuse(self, request: int, status: int, detail: str) -> Refuse:
        self._refused += 1
        self._waited.pop(request, None)
        again = max(1.0, math.ceil(self._last_start_s)) if status == 503 else None
        return Refuse(request=request, status=status, detail=detail, retry_after_s=again)

    def _remove(self, request: int) -> _Held | None:
        held = self._held.pop(request, None)
        if held is not None:
            self.bytes -= held.size
        return held

    def _clear(self) -> None:
        self._held.clear()
        self.bytes = 0
