"""For whom the code that runs now runs: ids of requests and W3C trace context, for a service's own code and its log."""

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


_SANE = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
"""Ids of others that are taken: what can be looked for in a log, and can do nothing to a log."""
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
"""`traceparent` of W3C Trace Context; versions after 00 may say more."""
_KEY = r"(?:[a-z][_0-9a-z*/-]{0,255}|[0-9a-z][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
_MEMBER = re.compile(rf"{_KEY}=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_MOST_STATE = 512
"""Characters of `tracestate` that are passed on, as the recommendation asks at least."""
_SHOWN = 3
"""Ids of a batch that a line of the log names."""

_STEM = secrets.token_hex(6).encode()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """A request: its id, and the trace that it is part of, as headers to send on. The latter are None where there is none."""

    id: str
    traceparent: str | None = None
    tracestate: str | None = None


class ContextSource(Protocol):
    """What a context is made of when somebody asks for it."""

    @property
    def context(self) -> RequestContext:
        """Of one request."""
        ...


CURRENT_REQUESTS: ContextVar[tuple[ContextSource, ...]] = ContextVar("hooke_asked", default=())
"""The requests for which what runs now runs."""


def request_contexts() -> tuple[RequestContext, ...]:
    """The requests that the method of a service which calls this is answering: one, or all those of its batch; none elsewhere.

    `for each in request_contexts(): log.info("asked by %s", each.id)`. To go on with a trace, send `traceparent` and `tracestate`.
    """
    return tuple(source.context for source in CURRENT_REQUESTS.get())


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The id that the request has (`x-request-id`), where it is a sane one, or a new one: unique, and not secret."""
    given = headers.get(b"x-request-id")
    if given is not None and _SANE.fullmatch(given):
        return given
    return b"%b-%d" % (_STEM, next(_numbers))


def context_of(request_id: bytes, headers: Mapping[bytes, bytes]) -> RequestContext:
    """What is passed on of a request. What does not follow the recommendation is not."""
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
    """Gives each record `request_id`, for a format: the requests that it is about, `-` where it is about none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets all through."""
        if not hasattr(record, "request_id"):
            ids = [each.id for each in request_contexts()]
            more = f"+{len(ids) - _SHOWN}" if len(ids) > _SHOWN else ""
            record.request_id = ",".join(ids[:_SHOWN]) + more or "-"
        return True


def log_with_ids() -> None:
    """Have this process write warnings to stderr, each with the requests that it is about."""
    logged = logging.StreamHandler()
    logged.addFilter(RequestIds())
    form = "%(asctime)s %(levelname)s [%(request_id)s] %(message)s"
    logging.basicConfig(format=form, level=logging.WARNING, handlers=[logged])


# --- Work for a request whose caller may go, and may not wait for ever; what is done at once costs next to nothing.

Receive = Callable[[], Awaitable[Any]]


class CallerGone(Exception):
    """Whoever asked has closed the connection."""


class DeadlinePassed(Exception):
    """The work went on beyond its deadline."""


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
    """All work that is not done yet, looked at every `every_s` seconds by one timer: a timer for each would cost more than most work."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[_Watch, None] = {}
        self._sweeping = False

    async def over(self, work: Awaitable[Any], receive: Receive, deadline: float) -> Any:
        """What `work` gives. Raises CallerGone or TooLate, after cancelling it; a connection is listened to once work takes long."""
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
    """A coroutine that has run up to its first wait. `done` tells whether there was none, and then `value` is its result.

    Raises what the coroutine raises before it waits.
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
        """Go on with it, once. What it waits for is waited for by the task that awaits this."""
        yielded = self._first
        while True:
            try:
                sent = yield yielded
            except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine, whatever it is
                step, value = self._coroutine.throw, thrown
            else:
                step, value = self._coroutine.send, sent
            try:
                yielded = step(value)
            except StopIteration as stop:
                return stop.value
