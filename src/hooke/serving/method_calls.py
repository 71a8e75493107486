"""Calls of a service's methods for requests: within the timeout, cancelled with the client, answered at once or as a stream."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hooke.serving.admission import StreamLimit
from hooke.serving.dispatch import Dispatch
from hooke.serving.http import JSON, Exchange
from hooke.serving.model_calls import Write
from hooke.serving.models_by_name.model_loads import ModelLoads
from hooke.serving.payloads import DECODE_ON_LOOP, Method, ResponseKind, encode, methods_of
from hooke.serving.problems import PASSED_ON, Problem, problem_of, too_many
from hooke.serving.request_context import CallerGone, DeadlinePassed, DeadlineWatch, EagerCoroutine
from hooke.serving.service import MODEL_FIELD

__all__ = ["MethodCalls", "event", "items_of"]

T = TypeVar("T")


# --- A generator's items as server-sent events.


def event(data: bytes, name: str = "") -> bytes:
    """One event. `data` is JSON without line breaks."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def items_of(
    dispatch: Dispatch,
    method: Method,
    arguments: dict[str, Any],
    *,
    pass_on: bool = False,
    low: bool = False,
) -> AsyncGenerator[bytes]:
    """Each item as JSON, made when it is awaited. Raises Problem for what the generator raises, 429 as `Dispatch.call`, and 504.

    Items of a plain generator are made where the model runs, between its calls; with `low`, the first one is made after them.
    """
    if method.kind is ResponseKind.ASYNC_STREAM:
        return _async_items(dispatch, method, arguments)
    return _plain_items(dispatch, method, arguments, pass_on=pass_on, low=low)


async def _plain_items(
    dispatch: Dispatch, method: Method, arguments: dict[str, Any], *, pass_on: bool, low: bool
) -> AsyncGenerator[bytes]:
    stream = dispatch.stream()
    try:
        data: bytes | None = await dispatch.item(stream, method, arguments, pass_on=pass_on, low=low)
        while data is not None:
            yield data
            data = await dispatch.item(stream, method, None)
    finally:
        dispatch.drop(stream)


async def _async_items(
    dispatch: Dispatch, method: Method, arguments: dict[str, Any]
) -> AsyncGenerator[bytes]:
    made = method.function(**arguments)
    timeout_s = dispatch.declared.timeout_s
    timer = asyncio.timeout(None)
    try:
        while True:
            timer = asyncio.timeout(timeout_s)
            async with timer:
                item = await anext(made)
            yield encode(item)
    except StopAsyncIteration:
        return
    except Exception as error:
        if isinstance(error, TimeoutError) and timer.expired():
            raise Problem(504, f"{method.name} produced no item within {timeout_s:g} s") from None
        raise problem_of(error, method.name) from error
    finally:
        await made.aclose()


MOST_ASYNC = 1024


def _share(most: int, *, low: bool) -> int:
    """How many may be open when one more begins. Those of low priority leave half of the room to others, as at Envoy."""
    return -(-most // 2) if low else most


_STREAMS = (ResponseKind.STREAM, ResponseKind.ASYNC_STREAM)


def _growing(now_open: int) -> int:
    """Those that are open, and as many more: room for more would admit calls of other methods instead."""
    return now_open + max(now_open, 2)


class MethodCalls:
    """Calls the methods of one object. Lives on one event loop."""

    def __init__(self, dispatch: Dispatch, models: ModelLoads | None = None) -> None:
        """`models` are those that requests name."""
        self.dispatch = dispatch
        self.models = models
        self.declared = dispatch.declared
        self.cut = 0
        """Calls that the end of the process left unanswered."""
        self.called = 0
        """Calls so far, with those that were refused because too much was in progress. Not counted: requests that were passed on to another replica, or that no method could answer, such as one with a wrong field."""
        self.open_calls = 0
        """Calls in progress."""
        self.most_async = MOST_ASYNC
        """The most concurrent calls of `async def`."""
        self._watches = DeadlineWatch(dispatch.sweep_s)
        self._async_calls = 0
        kinds = [(method.kind, bool(method.rows)) for method in methods_of(self.declared).values()]
        self._has_streams = any(kind in _STREAMS for kind, _ in kinds)
        self._has_async = (ResponseKind.ASYNC, False) in kinds
        self._has_calls = any(
            kind not in _STREAMS and (kind, rows) != (ResponseKind.ASYNC, False) for kind, rows in kinds
        )

    @property
    def room(self) -> int | None:
        """How many requests can be in progress and be answered within the SLO; None if that is not known. Any thread may call this."""
        if (
            self.declared.slo is None
            or self.declared.protocol is not None
            or (self._has_calls and self.dispatch.room is None)
        ):
            return None
        streams = self.dispatch.streams
        beside = min(streams.limit, _growing(streams.open)) if self._has_streams else 0
        if self._has_async:
            beside += min(self.most_async, _growing(self._async_calls))
        return (self.dispatch.room or 0) + beside

    async def answer(self, method: Method, exchange: Exchange) -> None:
        """Answer `POST /<method>`. Raises Problem, and CallerGone."""
        body = exchange.json_body_now()
        if body is None:
            body = await self.body(exchange.json_body())
        if len(body) > DECODE_ON_LOOP:
            await self.body(exchange.reserve(await asyncio.to_thread(method.large.memory_bytes, body)))
            arguments = await asyncio.to_thread(method.read, body)
        else:
            arguments = method.read(body)
        if method.by_name and self.models is not None:
            name = arguments[MODEL_FIELD]
            if not self.models.acquire_now(name):
                await self.watched(self.models.acquire(name), exchange, method.name)
            try:
                await self._answer(method, arguments, exchange)
            finally:
                self.models.release(name)
        else:
            await self._answer(method, arguments, exchange)

    async def _answer(self, method: Method, arguments: dict[str, Any], exchange: Exchange) -> None:
        if method.kind in _STREAMS:
            await self._stream(method, arguments, exchange)
        else:
            answer = await self.call(method, arguments, exchange)
            if not exchange.answer_now(200, answer, JSON):
                await exchange.answer(200, answer, JSON)

    async def body(self, body: Awaitable[T]) -> T:
        """The body of a call, or the room for its values. A call without room for them counts as one: another replica would have room."""
        try:
            return await body
        except Problem as problem:
            self.called += problem.status == 503
            raise

    def call(
        self, method: Method, arguments: dict[str, Any], exchange: Exchange, write: Write | None = None
    ) -> Awaitable[Any]:
        """The result of a method that is not a generator, as JSON or as `write` makes it. Raises Problem, and CallerGone."""
        if method.kind is ResponseKind.ASYNC and not method.rows:
            return self._call_async(method, arguments, exchange, write or encode)
        return self._call_dispatched(method, arguments, exchange, write)

    async def _call_dispatched(
        self, method: Method, arguments: dict[str, Any], exchange: Exchange, write: Write | None
    ) -> Any:
        # It raises at once for what no method could answer, which is not counted.
        work = self.dispatch.call(
            method, arguments, write, exchange.gone, pass_on=exchange.can_pass_on, low=exchange.is_low
        )
        self.called += 1
        self.open_calls += 1
        try:
            return await work
        except asyncio.CancelledError:
            self._raise_if_closing(exchange)
            raise
        except Problem as problem:
            self.called -= problem.reason == PASSED_ON
            raise
        finally:
            self.open_calls -= 1

    async def _call_async(
        self, method: Method, arguments: dict[str, Any], exchange: Exchange, write: Write
    ) -> Any:
        windows, most = self.dispatch.windows, _share(self.most_async, low=exchange.is_low)
        windows.arrived += 1
        if self._async_calls >= most:
            pass_on = exchange.can_pass_on
            windows.full(passed_on=pass_on)
            self.called += not pass_on
            said = f"{self._async_calls} calls are already running, as many as this replica admits"
            raise too_many(said, retry_after_s=1, pass_on=pass_on)
        self.called += 1
        self.open_calls += 1
        self._async_calls += 1
        began = time.perf_counter()
        try:
            work = EagerCoroutine(method.function(**arguments))
            if work.done:
                answer = write(work.value)
                windows.unbatched(0.0)
            else:
                answer = write(await self.watched(work, exchange, method.name))
                windows.unbatched(time.perf_counter() - began)
        except CallerGone:
            windows.gone(time.perf_counter() - began)
            raise
        except Problem:
            raise
        except Exception as error:
            problem = self.dispatch.shapes.problem(method, arguments, error)
            if problem.status >= 500:
                windows.raised += 1
            else:  # the client's fault is answered, not failed
                windows.unbatched(time.perf_counter() - began)
            raise problem from error
        else:
            self.dispatch.shapes.answered(method, arguments)
            return answer
        finally:
            self._async_calls -= 1
            self.open_calls -= 1

    @contextmanager
    def unbatched(self, over_slo: Callable[[], bool | None] = lambda: None) -> Iterator[None]:
        """Count a call that has no batch: as in progress, and for the windows as answered, or left by its client.

        `over_slo` is asked then whether it broke the SLO; None: by its time.
        """
        windows, began = self.dispatch.windows, time.perf_counter()
        self.called += 1
        self.open_calls += 1
        try:
            yield
        except CallerGone:
            windows.gone(time.perf_counter() - began, over_slo=over_slo())
            raise
        else:
            windows.unbatched(time.perf_counter() - began, over_slo=over_slo())
        finally:
            self.open_calls -= 1

    async def watched(
        self, work: Awaitable[Any], exchange: Exchange, method: str, timeout_s: float = 0
    ) -> Any:
        """The result of `work` within the service's timeout, or another one."""
        limit_s = timeout_s or self.declared.timeout_s
        try:
            deadline = asyncio.get_running_loop().time() + limit_s
            return await self._watches.over(work, exchange.gone, deadline)
        except DeadlinePassed:
            self.dispatch.windows.late += 1
            raise Problem(504, f"{method} gave no answer within {limit_s:g} s") from None
        except asyncio.CancelledError:
            self._raise_if_closing(exchange)
            raise

    def _raise_if_closing(self, exchange: Exchange) -> None:
        """The server ends without waiting longer: answer 503 rather than only closing the connection."""
        if exchange.options.closing:
            self.cut += 1
            raise Problem(503, f"{self.declared.name} ended before the answer", retry_after_s=1) from None

    async def _stream(self, method: Method, arguments: dict[str, Any], exchange: Exchange) -> None:
        streams, pass_on, low = self.dispatch.streams, exchange.can_pass_on, exchange.is_low
        if (low and streams.open >= _share(streams.limit, low=True)) or not streams.begin():
            self.dispatch.windows.arrived += 1
            self.dispatch.windows.full(passed_on=pass_on)
            self.called += not pass_on
            said = f"{streams.open} streams are open, as many as this replica can serve in time"
            raise too_many(said, retry_after_s=1, pass_on=pass_on)
        items = items_of(self.dispatch, method, arguments, pass_on=pass_on, low=low)
        self.called += 1
        self.open_calls += 1
        try:
            await self.watched(_send_items(items, exchange, streams), exchange, method.name, math.inf)
        except Problem as problem:
            self.called -= problem.reason == PASSED_ON
            if not exchange.status:
                raise
        finally:
            self.open_calls -= 1
            streams.end()
            await items.aclose()


async def _send_items(items: AsyncIterator[bytes], exchange: Exchange, streams: StreamLimit) -> None:
    # The first item decides the status: an error before it is a plain refusal.
    data = await anext(items, None)
    await exchange.begin(200, (b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"))
    made = time.perf_counter()
    try:
        while data is not None:
            began = time.perf_counter()
            await exchange.piece(event(data))
            made += time.perf_counter() - began  # a client that reads slowly is not the replica's fault
            # A generator that never waits would keep the loop from writing, and from noticing a disconnect.
            await asyncio.sleep(0)
            data = await anext(items, None)
            now = time.perf_counter()
            streams.gap(now, now - made)
            made = now
        end = event(b"null", "end")
    except Problem as problem:
        end = event(problem.body(exchange.id.decode()), "error")
    await exchange.end(end)
