"""Brings requests to the model and answers back, as the batcher decides: the part with the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hooke.serving.batcher import Batch, Batcher, Limits, Request
from hooke.serving.contexts import ASKED, Asked
from hooke.serving.metrics import size_bucket
from hooke.serving.model_thread import ModelThread
from hooke.serving.payloads import Kind, Method, encode
from hooke.serving.problems import Problem, problem_of
from hooke.serving.rows import (
    Result,
    as_lists,
    count_rows,
    group_of,
    joined,
    merged,
    part,
    results_of,
    slices,
)
from hooke.serving.service import Service
from hooke.serving.watching import CallerGone, Receive
from hooke.serving.windows import Windows

__all__ = ["Dispatch", "Tally", "Write"]

Write = Callable[[Any], Any]
"""Makes an answer of what a method returned for a request. It runs where the method does, and must not raise for its caller's wishes."""

QUEUE_BATCHES = 32
"""Rows that may wait, in batches: with the model's time for a batch this bounds what a queue adds to an answer."""
QUEUE_LEAST = 1024
LEAST_WAIT_S = 0.001
SLOWEST_SWEEP_S = 0.05
"""How late a deadline may be noticed, and how long a request waits before its connection is watched."""


@dataclass(slots=True)
class Tally:
    """What the model did so far."""

    batches: int = 0
    rows: int = 0
    busy_s: float = 0.0
    sizes: list[int] = field(default_factory=lambda: [0] * 34)
    """Batches that gave their results, by `size_bucket`; the last is for larger ones than any."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Call(Request):
    method: Method
    arguments: dict[str, Any]
    future: asyncio.Future[Any]
    asked: tuple[Asked, ...]
    """For whom: the one request, or none where nobody says."""
    write: Write | None = None
    """None: as JSON."""
    receive: Receive | None = None
    """What tells that its caller has gone."""
    listener: asyncio.Task[None] | None = None
    step: Callable[[], Any] | None = None
    """What runs instead of the method: the next item of a stream."""


class Dispatch:
    """One service's model, and those who wait for it. Lives on one event loop."""

    def __init__(self, declared: Service, thread: ModelThread) -> None:
        self.declared = declared
        self.tally = Tally()
        self._most = declared.max_batch or 1
        waiting = max(QUEUE_LEAST, QUEUE_BATCHES * self._most)
        self.batcher = Batcher(
            Limits(max_batch=self._most, max_waiting=waiting, wait_s=declared.wait_s, fill=declared.fill)
        )
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self.sweep_s = min(SLOWEST_SWEEP_S, declared.timeout_s / 10)
        self.windows = Windows(
            self._loop.time(), limit_s=declared.slo.limit_s if declared.slo is not None else math.inf
        )
        self._fired = 0.0
        """When the running batch was. By a clock of its own: uvloop's counts milliseconds, which a batch may not take."""
        self._sweeping = False
        self._turning = False
        self._waiting = 0
        self._wake: asyncio.TimerHandle | None = None
        self._wakes = math.inf
        self._tasks: set[asyncio.Task[None]] = set()

    def call(
        self,
        method: Method,
        arguments: dict[str, Any],
        write: Write | None = None,
        receive: Receive | None = None,
    ) -> Awaitable[Any]:
        """The answer as JSON, or as `write` makes it. Raises Problem: 422, 429 where too much waits, 500, 503, 504.

        A cancelled caller's rows leave, and so do those of one who closes the connection that `receive` listens to: CallerGone.
        """
        batched, now = bool(method.rows), self._loop.time()
        return self._through(
            _Call(
                method=method,
                arguments=arguments,
                group=group_of(method, arguments) if batched else None,
                rows=count_rows(method, arguments) if batched else 1,
                write=write,
                receive=receive,
                future=self._loop.create_future(),
                asked=ASKED.get(),
                arrived=now,
                deadline=now + self.declared.timeout_s,
            )
        )

    async def step(self, method: Method, step: Callable[[], Any], *, first: bool) -> Any:
        """Run the next step of a stream in the model's turn. What has begun is never refused for want of room."""
        now = self._loop.time()
        call = _Call(
            method=method,
            arguments={},
            group=None,
            rows=1,
            future=self._loop.create_future(),
            asked=ASKED.get(),
            arrived=now,
            deadline=now + self.declared.timeout_s,
            step=step,
        )
        return await self._through(call, accepted=not first)

    def last(self, step: Callable[[], Any]) -> None:
        """Run this after what runs now, and tell nobody."""
        self._thread.submit(step, lambda _result, _error: None)

    async def _through(self, call: _Call, *, accepted: bool = False) -> Any:
        self.windows.arrived += 1
        if not self.batcher.offer(call, accepted=accepted):
            self.windows.refused += 1
            backlog = self.batcher.backlog_s()
            raise Problem(429, "more requests wait than can be answered in time", retry_after_s=backlog)
        self._waiting += 1
        if self.batcher.running is None and not self._turning:
            # At the end of this turn of the loop: what other connections brought in the same turn goes with it.
            self._turning = True
            self._loop.call_soon(self._turn)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self.sweep_s, self._sweep)
        try:
            return await call.future
        except (asyncio.CancelledError, CallerGone) as error:
            if isinstance(error, asyncio.CancelledError):
                self.batcher.cancel(call)
            self.windows.gone(self._loop.time() - call.arrived)
            raise
        finally:
            self._waiting -= 1
            if call.listener is not None:
                call.listener.cancel()

    def _turn(self) -> None:
        self._turning = False
        self._pump()

    def _pump(self) -> None:
        """Fire what is to be fired, and see to be woken when more is."""
        batch = self.batcher.take(self._loop.time())
        if batch is not None:
            self._fire(batch)
            return
        wakes = self.batcher.wakes()
        if wakes == self._wakes:
            return
        self._wakes = wakes
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if wakes < math.inf:
            # uvloop counts milliseconds: for less than one it would come back at once, again and again.
            self._wake = self._loop.call_later(max(wakes - self._loop.time(), LEAST_WAIT_S), self._woken)

    def _woken(self) -> None:
        self._wake, self._wakes = None, math.inf
        self._pump()

    def _fire(self, batch: Batch) -> None:
        calls: list[Any] = list(batch.requests)
        self._fired = time.perf_counter()
        if calls[0].method.kind is Kind.ASYNC:
            task = self._loop.create_task(self._run_async(batch, calls))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        self._thread.submit(
            lambda: _run_for(calls, self._most), lambda result, error: self._done(batch, calls, result, error)
        )

    async def _run_async(self, batch: Batch, calls: list[_Call]) -> None:
        ASKED.set(_asked(calls))
        try:
            answers = _shared(
                calls,
                [
                    results_of(calls[0].method, await calls[0].method.function(**arguments), rows)
                    for arguments, rows in _pieces(calls, self._most)
                ],
            )
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the process ends; else a service's own code cancelled something
            self._done(batch, calls, None, error)
        else:
            self._done(batch, calls, answers, None)

    def _done(
        self, batch: Batch, calls: list[_Call], answers: list[Any] | None, error: BaseException | None
    ) -> None:
        now = self._loop.time()
        took, name = time.perf_counter() - self._fired, calls[0].method.name
        self.tally.batches += 1
        self.tally.busy_s += took
        if error is None and answers is not None:
            rows = batch.rows
            self.tally.rows += rows
            self.tally.sizes[min(size_bucket(rows), 33)] += 1
            self.batcher.finished(now, took)
            self.windows.add(name, rows, took, self._settle_all(calls, answers, now), self._waiting)
        else:
            assert error is not None
            blamed = self.batcher.failed() is not None
            self.windows.failure(name, took, self._waiting, blamed=blamed)
            if blamed:
                ids = ",".join(asked.context.id for asked in calls[0].asked)
                _settle(calls[0], problem_of(error, name, ids or None))
        self._pump()

    def _settle_all(self, calls: list[_Call], answers: list[Any], now: float) -> int:
        """Give each its answer; how many still waited for one."""
        windows, settled = self.windows, 0
        for call, answer in zip(calls, answers, strict=True):
            if not call.future.done():
                call.future.set_result(answer)
                settled += 1
                windows.answered(now - call.arrived)
        windows.most_waiting = max(windows.most_waiting, self.batcher.waiting_rows)
        return settled

    def _sweep(self) -> None:
        now = self._loop.time()
        for call in self.batcher.expired(now):
            assert isinstance(call, _Call)
            problem = Problem(504, f"{call.method.name} gave no answer within {self.declared.timeout_s:g} s")
            self.windows.late += 1
            _settle(call, problem)
        for call in self.batcher.inside():
            assert isinstance(call, _Call)
            # Only now: most have their answer long before, and a task for each would cost more than they do.
            if call.receive is not None and call.listener is None and now - call.arrived >= self.sweep_s:
                call.listener = self._loop.create_task(self._listen(call, call.receive))
        self._sweeping = self._waiting > 0
        if self._sweeping:
            self._loop.call_later(self.sweep_s, self._sweep)

    async def _listen(self, call: _Call, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not call.future.done():
            self.batcher.cancel(call)
            call.future.set_exception(CallerGone())


def _asked(calls: list[_Call]) -> tuple[Asked, ...]:
    return tuple(asked for call in calls for asked in call.asked)


def _run_for(calls: list[_Call], most: int) -> list[Any]:
    """Run them in a context that names whose they are."""
    before = ASKED.set(_asked(calls))
    try:
        return _run(calls, most)
    finally:
        ASKED.reset(before)


def _run(calls: list[_Call], most: int) -> list[Any]:
    """In the model's thread: the answers, in the order of the calls."""
    first = calls[0]
    if first.step is not None:
        return [first.step()]
    if not first.method.rows:
        return [(first.write or encode)(first.method.function(**first.arguments))]
    return _shared(
        calls,
        [
            results_of(first.method, first.method.function(**arguments), rows)
            for arguments, rows in _pieces(calls, most)
        ],
    )


def _pieces(calls: list[_Call], most: int) -> Iterator[tuple[dict[str, Any], int]]:
    method = calls[0].method
    arguments = merged(method, [call.arguments for call in calls])
    return slices(method, arguments, sum(call.rows for call in calls), most)


def _shared(calls: list[_Call], results: list[Result]) -> list[Any]:
    """To each call its own rows."""
    whole = joined(results)
    listed = as_lists(whole) if any(call.write is None for call in calls) else whole
    answers: list[Any] = []
    start = 0
    for call in calls:
        end = start + call.rows
        write, rows = (encode, listed) if call.write is None else (call.write, whole)
        answers.append(write(part(rows, start, end)))
        start = end
    return answers


def _settle(call: _Call, problem: Problem) -> None:
    if not call.future.done():
        call.future.set_exception(problem)
