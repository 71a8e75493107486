"""The context of requests: ids and W3C trace context, for a service's own code and its log; deadlines and disconnects."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextvars import Context, ContextVar, copy_context
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
    "EagerTasks",
    "Gone",
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

Gone = Callable[[], Awaitable[None]]
"""Returns when the client of a request has disconnected."""


class CallerGone(Exception):
    """The client has closed the connection."""


class DeadlinePassed(Exception):
    """The work passed its deadline."""


class _Watch:
    __slots__ = ("deadline", "gone", "listener", "outcome", "since", "task")

    def __init__(self, gone: Gone, since: float, deadline: float) -> None:
        self.gone = gone
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
        await self.gone()
        self.end(CallerGone)


class DeadlineWatch:
    """All unfinished work, checked every `every_s` seconds by one timer: a timer for each would cost more than most work."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[_Watch, None] = {}
        self._sweeping = False

    async def over(self, work: Awaitable[Any], gone: Gone, deadline: float) -> Any:
        """The result of `work`. Raises CallerGone or DeadlinePassed after cancelling it; the connection is watched once work takes long."""
        watch = _Watch(gone, self._loop.time(), deadline)
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


class EagerTasks:
    """Runs coroutines at once, and makes a task only of one that waits. Lives on one event loop.

    The code of a coroutine sees a task (`asyncio.current_task`) from the beginning, as `asyncio.timeout` and others need: one
    that is kept for this. If the coroutine waits, this task goes on with it; else the next coroutine gets it. Each
    coroutine has a context of its own.
    """

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()
        """The tasks of those that wait."""
        self._loop = asyncio.get_running_loop()
        self._spare: _Runner | None = None

    def run(self, work: Coroutine[Any, Any, None], ended: Ended) -> None:
        """Run it up to its first wait. `ended` gets its exception, or None, at its end. To be called outside of tasks."""
        runner, self._spare = self._spare or _Runner(self._loop), None
        context, error = copy_context(), None
        asyncio._enter_task(self._loop, runner.task)  # noqa: SLF001 - documented for other makers of tasks
        try:
            first = context.run(work.send, None)
        except StopIteration:
            pass
        except BaseException as raised:  # noqa: BLE001 - `ended` gets it, whatever it is
            error = raised
        else:
            self.running.add(runner.task)
            runner.task.add_done_callback(self.running.discard)
            runner.go_on(work, first, context, ended)
            return
        finally:
            asyncio._leave_task(self._loop, runner.task)  # noqa: SLF001 - as above
        if not runner.task.cancelling():
            self._spare = runner
        ended(error)


Ended = Callable[[BaseException | None], None]


class _Runner(Coroutine[Any, None, None]):
    """The coroutine of a task that waits until there is work, and then does it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: Coroutine[Any, Any, None] | None = None
        self._first: Any = None
        self._is_first = False
        self._idle: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] = loop.create_task(self)

    def go_on(self, work: Coroutine[Any, Any, None], first: Any, context: Context, ended: Ended) -> None:
        """Go on with work that has run to its first wait, for `first`."""
        self._work, self._first, self._is_first = work, first, True
        self._context, self._ended = context, ended
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def send(self, value: None) -> Any:
        """One step of the task. Raises StopIteration at the end."""
        if self._work is None:
            self._idle = self._loop.create_future()
            return next(self._idle.__await__())
        if self._is_first:
            self._is_first, first, self._first = False, self._first, None
            return first
        return self._step(self._work.send, value)

    def throw(self, error: Any, value: Any = None, traceback: Any = None) -> Any:  # noqa: ARG002 - a coroutine's signature
        """The task is cancelled."""
        if self._work is None:
            raise error
        if self._is_first:
            self._is_first, first, self._first = False, self._first, None
            # A task that waits passes its cancellation on to what it waits for.
            if asyncio.isfuture(first) and first.cancel():
                return first
        return self._step(self._work.throw, error)

    def _step(self, step: Callable[[Any], Any], value: Any) -> Any:
        error: BaseException | None = None
        try:
            return self._context.run(step, value)
        except StopIteration:
            pass
        except BaseException as raised:  # noqa: BLE001 - `ended` gets it, whatever it is
            error = raised
        ended = self._ended
        del self.task, self._context, self._ended  # they refer to it, and to each other
        self._work = None
        ended(error)
        if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
            raise error
        raise StopIteration

    def close(self) -> None:
        """The loop ends before its work."""
        if self._work is not None:
            self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Never awaited: its task drives it."""
        raise NotImplementedError
