"""Observes the requests of one replica, for its request log and its spans."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from hooke.serving.http import Exchange
from hooke.serving.metrics import CLIENT_GONE
from hooke.serving.observing.request_log import LoggedRequest, RequestLog
from hooke.serving.observing.tracing import BatchScope, Tracing
from hooke.serving.request_context import ContextSource

__all__ = ["RequestObserver"]

SLOW_S = 1.0
"""A request that takes longer is slow, unless an SLO says otherwise."""
SHED = frozenset({"too many requests", "shed", "rate of a key"})
"""Reasons of refusals that come by the thousand in overload: of these a sample is logged, too."""


class RequestObserver:
    """Writes lines and spans of requests. Its methods are called on the event loop, and do not wait."""

    def __init__(
        self,
        *,
        log: RequestLog | None = None,
        tracing: Tracing | None = None,
        version: str = "",
        replica: str = "",
        slow_s: float = SLOW_S,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`version` is the model's, `draw` a random number below 1."""
        self.log = log
        self.tracing = tracing
        self._version = version or None
        self._replica = replica or None
        self._slow_s = slow_s
        self._draw = draw
        self._scope: BatchScope | None = None

    def lost(self) -> dict[str, int]:
        """What could not be written, by kind."""
        found: dict[str, int] = {}
        if self.log is not None:
            found["request log"] = self.log.dropped
        if self.tracing is not None:
            found["spans"] = self.tracing.lost
        return found

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        if self.log is not None:
            self.log.close()
        if self.tracing is not None:
            self.tracing.close()

    def began(self, exchange: Exchange) -> None:
        """A request's head was read; called in its own context."""
        if self.tracing is not None:
            self.tracing.began(exchange)

    def ended(self, exchange: Exchange, route: str | None, took_s: float) -> None:
        """It was answered, or its client is gone. One that another replica gets is not told of here."""
        status = exchange.status or CLIENT_GONE
        if self.tracing is not None:
            self.tracing.ended(exchange, route, status, version=self._version, replica=self._replica)
        if self.log is not None and not exchange.passed_on:
            self._write(self.log, exchange, route, status, took_s)

    def queued(self, contexts: Sequence[ContextSource]) -> None:
        """A call waits for the model."""
        now = time.perf_counter()
        for source in contexts:
            if isinstance(source, Exchange) and not source.queued_at:
                source.queued_at = now

    def fired(
        self, method: str, contexts: Sequence[ContextSource], rows: int, *, item: bool
    ) -> BatchScope | None:
        """A batch of these requests begins. The model works within the returned scope."""
        now = time.perf_counter()
        exchanges = [source for source in contexts if isinstance(source, Exchange)]
        begins = [one for one in exchanges if one.batch_rows is None]
        for one in begins:
            one.waited_s, one.batch_rows = now - one.queued_at, rows
        if self.tracing is None:
            return None
        self._scope = self.tracing.fired(method, exchanges, begins, rows, item=item)
        return self._scope

    def done(self, error: BaseException | None) -> None:
        """It ended."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.end(error)

    def _write(
        self, log: RequestLog, exchange: Exchange, route: str | None, status: int, took_s: float
    ) -> None:
        shed = exchange.refused_for in SHED
        # The length of a stream says nothing: the time to its first item does.
        slow = (exchange.begun_s if exchange.begun_s is not None else took_s) > self._slow_s
        always = slow or (status >= 400 and not shed)
        if not always and _is_probe(route):
            return
        share = 1.0 if always else log.options.sample
        if share < 1 and self._draw() >= share:
            return
        log.write(_line(exchange, route, status, took_s, share=share, facts=(self._version, self._replica)))


def _is_probe(route: str | None) -> bool:
    """Health checks and scrapes are logged only if they fail."""
    return route is not None and route.startswith(("/-/", "/v2/health/"))


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"


def _moment(at: float) -> str:
    """By RFC 3339. Most lines are of a second that was written before."""
    second = int(at)
    return f"{_second(second)}.{int((at - second) * 1e3):03}Z"


def _line(
    exchange: Exchange, route: str | None, status: int, took_s: float, *, share: float, facts: Sequence[Any]
) -> LoggedRequest:
    version, replica = facts
    return LoggedRequest(
        time=_moment(time.time() - took_s),
        id=exchange.id.decode(),
        method=exchange.verb if exchange.verb.isascii() and len(exchange.verb) <= 10 else "?",
        route=route,
        status=status,
        ms=round(took_s * 1e3, 3),
        key=exchange.client or None,
        why=exchange.refused_for or None,
        queue_ms=round(exchange.waited_s * 1e3, 3) if exchange.batch_rows is not None else None,
        batch=exchange.batch_rows,
        version=version,
        replica=replica,
        bytes_in=exchange.bytes_in,
        bytes_out=exchange.bytes_out,
        low=exchange.low_key or exchange.says_low,
        trace=exchange.traceparent[3:35] if exchange.traceparent else None,
        sample=share if share < 1 else None,
    )
