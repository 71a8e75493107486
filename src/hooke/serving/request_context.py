"""The context of requests: ids and W3C trace context, for a service's own code and its log; deadlines and disconnects."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from hooke.serving.problems import SANE_ID

__all__ = [
    "CURRENT_REQUESTS",
    "CallerGone",
    "ContextSource",
    "DeadlinePassed",
    "DeadlineWatch",
    "EagerCoroutine",
    "Receive",
    "RequestContext",
    "RequestIds",
    "context_of",
    "log_with_ids",
    "request_contexts",
    "request_id_of",
]


_SANE = re.compile(SANE_ID.encode())
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
"""`traceparent` of W3C Trace Context; versions after 00 may say more."""
_KEY = r"(?:[a-z][_0-9a-z*/-]{0,255}|[0-9a-z][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
_MEMBER = re.compile(rf"{_KEY}=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_MOST_STATE = 512
"""Characters of `tracestate` that are passed on; the recommendation's minimum."""
_SHOWN = 3
"""Ids of a batch that a log line shows."""

_STEM = secrets.token_hex(6).encode()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """A request's id and trace context, as headers to send on; these are None if the request has none."""

    id: str
    traceparent: str | None = None
    tracestate: str | None = None


class ContextSource(Protocol):
    """Makes a context when it is needed."""

    @property
    def context(self) -> RequestContext:
        """The context of one request."""
        ...


CURRENT_REQUESTS: ContextVar[tuple[ContextSource, ...]] = ContextVar("hooke_asked", default=())
"""The requests that the current code works for."""


def request_contexts() -> tuple[RequestContext, ...]:
    """The requests that the calling method answers: one, or all of its batch; none outside a service's method.

    `for each in request_contexts(): log.info("for %s", each.id)`. To continue a trace, send `traceparent` and `tracestate`.
    """
    return tuple(source.context for source in CURRENT_REQUESTS.get())


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The request's own id (`x-request-id`) if it is acceptable, or a new one: unique, and not secret."""
    given = headers.get(b"x-request-id")
    if given is not None and _SANE.fullmatch(given):
        return given
    return b"%b-%d" % (_STEM, next(_numbers))


def context_of(request_id: bytes, headers: Mapping[bytes, bytes]) -> RequestContext:
    """The context to pass on. Headers that do not follow the recommendation are dropped."""
    parent = headers.get(b"traceparent", b"").decode("latin-1")
    found = _TRACE.fullmatch(parent)
    if found is None or (parent.startswith("00") and found[1]):
        return RequestContext(id=request_id.decode())
    state = _state(headers.get(b"tracestate", b"").decode("latin-1"))
    return RequestContext(id=request_id.decode(), traceparent=parent, tracestate=state)


def _state(text: str) -> str | None:
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    sane = len(text) <= _MOST_STATE and len(keys) == len(members) <= 32
    return ",".join(members) if members and sane and all(map(_MEMBER.fullmatch, members)) else None


class RequestIds(logging.Filter):
    """Gives each log record `request_id`, for a format: its requests, or `-`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets all through."""
        if not hasattr(record, "request_id"):
            ids = [each.id for each in request_contexts()]
            more = f"+{len(ids) - _SHOWN}" if len(ids) > _SHOWN else ""
            record.request_id = ",".join(ids[:_SHOWN]) + more or "-"
        return True


def log_with_ids() -> None:
    """Have this process log warnings to stderr, each with its requests."""
    logged = logging.StreamHandler()
    logged.addFilter(RequestIds())
    form = "%(asctime)s %(levelname)s [%(request_id)s] %(message)s"
    logging.basicConfig(format=form, level=logging.WARNING, handlers=[logged])


# --- Work with a deadline and a client that may disconnect; work that finishes at once costs next to nothing.

Receive = Callable[[], Awaitable[Any]]


class CallerGone(Exception):
    """The client has closed the connection."""


class DeadlinePassed(Exception):
    """The work passed its deadline."""


class _Watch:
    __slots__ = ("deadline", "listener", "outcome", "receive", "since", "task")

    def __init__(self, receive: Receive, since: float, deadline: float) -> None:
        self.receive = receive
        self.since = since
        self.deadline = deadline
        self.task = asyncio.current_task()
        self.listener: asyncio.Task[None] | None = None
        self.outcome: type[Exception] | None = None

    def end(self, outcome: type[Exception]) -> None:
        if self.outcome is None and self.task is not None:
            self.outcome = outcome
            self.task.cancel()

    async def listen(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.end(CallerGone)


class DeadlineWatch:
    """All unfinished work, checked every `every_s` seconds by one timer: a timer for each would cost more than most work."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[_Watch, None] = {}
        self._sweeping = False

    async def over(self, work: Awaitable[Any], receive: Receive, deadline: float) -> Any:
        """The result of `work`. Raises CallerGone or DeadlinePassed after cancelling it; the connection is watched once work takes long."""
        watch = _Watch(receive, self._loop.time(), deadline)
        self._open[watch] = None
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._every_s, self._sweep)
        try:
            return await work
        except asyncio.CancelledError:
            if watch.outcome is None or watch.task is None:
                raise
            watch.task.uncancel()
            raise watch.outcome from None
        finally:
            del self._open[watch]
            if watch.listener is not None:
                watch.listener.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        for watch in list(self._open):
            if now >= watch.deadline:
                watch.end(DeadlinePassed)
            elif watch.listener is None and now - watch.since >= self._every_s:
                watch.listener = self._loop.create_task(watch.listen())
        self._sweeping = bool(self._open)
        if self._sweeping:
            self._loop.call_later(self._every_s, self._sweep)


class EagerCoroutine:
    """A coroutine that has run up to its first await. If it finished, `done` is true and `value` its result.

    Raises what the coroutine raises before it awaits.
    """

    __slots__ = ("_coroutine", "_first", "done", "value")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.value: Any = None
        try:
            self._first = coroutine.send(None)
        except StopIteration as stop:
            self.done, self.value = True, stop.value
        else:
            self.done = False

    def __await__(self) -> Generator[Any, Any, Any]:
        """Continue it, once; the awaiting task waits for what it awaits."""
        yielded = self._first
        while True:
            try:
                sent = yield yielded
            except BaseException as thrown:  # noqa: BLE001 - passed to the coroutine, whatever it is
                step, value = self._coroutine.throw, thrown
            else:
                step, value = self._coroutine.send, sent
            try:
                yielded = step(value)
            except StopIteration as stop:
                return stop.value
