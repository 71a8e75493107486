"""Brings requests to the model and answers back, as the batcher decides: the part on the event loop."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from hooke.serving.admission import StreamLimit, Urgency
from hooke.serving.batcher import Batch, Batcher, BatchLimits, PendingRequest
from hooke.serving.metrics import size_bucket
from hooke.serving.model_calls import Drop, Item, MethodRun, ModelLost, OnDone, Work, Write
from hooke.serving.observing.observer import RequestObserver
from hooke.serving.payloads import Method, ResponseKind
from hooke.serving.problems import Problem, too_many
from hooke.serving.request_context import CURRENT_REQUESTS, CallerGone, ContextSource, Gone
from hooke.serving.rows import RowShapes, count_rows, group_of, results_of
from hooke.serving.service import Service
from hooke.serving.stats_windows import StatsWindow

__all__ = ["Dispatch", "ModelRunner", "Tally"]

QUEUE_BATCHES = 32
"""Waiting rows, in batches: with the model's time for a batch this bounds the time in the queue."""
QUEUE_LEAST = 1024
STREAMS = 1024
"""The most open streams, and without an SLO their limit."""
ITEM_S = 0.2
"""Without an SLO: an item that has waited for so long goes before calls."""
TOO_MANY = "too many requests wait to be answered in time"
LEAST_WAIT_S = 0.001
SLOWEST_SWEEP_S = 0.05
"""The delay of a deadline's check, and the time before a waiting request's connection is watched."""


class ModelRunner(Protocol):
    """Does a service's work beside the event loop, piece by piece, in the order of submission.

    All calls are on the event loop. So is `done`, which is called later, once for each piece, even if the model ends.
    """

    def submit(self, work: Work, done: OnDone) -> None:
        """Do a piece of work; while unavailable only a Drop is allowed."""
        ...

    def unavailable(self) -> Problem | None:
        """The refusal for new requests while the model is unavailable; None if it is available."""
        ...

    def on_available(self, back: Callable[[], None]) -> None:
        """Call this each time the model becomes available again."""
        ...


@dataclass(slots=True)
class Tally:
    """What the model has done so far."""

    batches: int = 0
    rows: int = 0
    busy_s: float = 0.0
    sizes: list[int] = field(default_factory=lambda: [0] * 34)
    """Finished batches by `size_bucket`; the last bucket is for all larger ones."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Call(PendingRequest):
    method: Method
    arguments: dict[str, Any]
    future: asyncio.Future[Any]
    contexts: tuple[ContextSource, ...]
    """The request that it serves, if known."""
    write: Write | None = None
    """None: as JSON."""
    gone: Gone | None = None
    """Waits until its client has disconnected."""
    listener: asyncio.Task[None] | None = None
    item: Item | None = None
    """The next item of a stream, instead of a call."""


class Dispatch:
    """One service's model and its waiting requests. Lives on one event loop."""

    def __init__(
        self, declared: Service, model: ModelRunner, observer: RequestObserver | None = None
    ) -> None:
        self.declared = declared
        self._observer = observer
        self.tally = Tally()
        self._max_batch = declared.max_batch or 1
        slo = declared.slo
        self._slo_s, percent = (slo.limit_s, slo.percent) if slo is not None else (math.inf, 99.0)
        waiting = max(QUEUE_LEAST, QUEUE_BATCHES * self._max_batch)
        self.batcher = Batcher(
            BatchLimits(
                max_batch=self._max_batch,
                max_waiting=waiting,
                slo_s=self._slo_s,
                slo_percent=percent,
                wait_s=declared.wait_s,
                fill=declared.fill,
            )
        )
        self.streams = StreamLimit(most=STREAMS, gap_s=self._slo_s, percent=percent)
        """The open streams of all methods."""
        self.room: int | None = None
        """How many calls can be inside and be answered within the SLO; as `Batcher.room`, for any thread."""
        self._model = model
        self._loop = asyncio.get_running_loop()
        self.sweep_s = min(SLOWEST_SWEEP_S, declared.timeout_s / 10)
        self.windows = StatsWindow(self._loop.time(), limit_s=self._slo_s)
        self.shapes = RowShapes()
        self._fired = 0.0
        """When the running batch began. `perf_counter`, since uvloop counts milliseconds, and a batch may take less."""
        self._sweeping = False
        self._turning = False
        self._waiting = 0
        self._wake: asyncio.TimerHandle | None = None
        self._wakes = math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        model.on_available(self._pump)

    def call(
        self,
        method: Method,
        arguments: dict[str, Any],
        write: Write | None = None,
        gone: Gone | None = None,
        *,
        pass_on: bool = False,
        low: bool = False,
    ) -> Awaitable[Any]:
        """The answer as JSON, or as `write` makes it. Raises Problem: 422, 429 if too much waits, 500, 503, 504.

        `pass_on`: if too much waits, the proxy asks another replica, and nothing is counted here. `low`: it may be shed first.

        The rows of a cancelled call leave, and so do those of a client that disconnects, as `gone` tells: CallerGone.
        """
        batched, now = bool(method.rows), self._loop.time()
        return self._submit(
            _Call(
                method=method,
                arguments=arguments,
                group=group_of(method, arguments) if batched else None,
                rows=count_rows(method, arguments) if batched else 1,
                write=write,
                gone=gone,
                future=self._loop.create_future(),
                contexts=CURRENT_REQUESTS.get(),
                arrived=now,
                deadline=now + self.declared.timeout_s,
                goal=now + self._slo_s,
                urgency=Urgency.LOW if low else Urgency.CALL,
                law=method.name,
            ),
            pass_on=pass_on,
        )

    def stream(self) -> int:
        """The number of a new stream."""
        return next(self._numbers)

    async def item(
        self,
        stream: int,
        method: Method,
        arguments: dict[str, Any] | None,
        *,
        pass_on: bool = False,
        low: bool = False,
    ) -> Any:
        """The next item of a stream, the first with `arguments`. A stream that has begun is never refused for lack of room.

        `low`: the first item waits behind all calls, and may be shed.
        """
        now, contexts = self._loop.time(), CURRENT_REQUESTS.get()
        call = _Call(
            method=method,
            arguments={},
            group=None,
            rows=1,
            future=self._loop.create_future(),
            contexts=contexts,
            arrived=now,
            deadline=now + self.declared.timeout_s,
            goal=now + min(self._slo_s, ITEM_S),
            urgency=Urgency.LOW if low else Urgency.ITEM,
            law=method.name,
            item=Item(stream=stream, method=method, arguments=arguments, contexts=contexts),
        )
        return await self._submit(call, accepted=arguments is None, pass_on=pass_on)

    def drop(self, stream: int) -> None:
        """End this stream after the current work."""
        self._model.submit(Drop(stream), lambda _result, _error: None)

    async def _submit(self, call: _Call, *, accepted: bool = False, pass_on: bool = False) -> Any:
        self.windows.arrived += 1
        unavailable = self._model.unavailable()
        if unavailable is not None:
            self.windows.refused += 1
            raise unavailable
        if not self.batcher.offer(call, accepted=accepted):
            self.windows.full(passed_on=pass_on)
            raise too_many(TOO_MANY, retry_after_s=self.batcher.backlog_s(), pass_on=pass_on)
        self._waiting += 1
        if self._observer is not None:
            self._observer.queued(call.contexts)
        if self.batcher.running is None and not self._turning:
            # At the end of this turn of the loop: requests of other connections in the same turn join the batch.
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
        """Fire the next batch, or schedule the next look."""
        if self._model.unavailable() is not None:
            return
        batch = self.batcher.take(self._loop.time())
        self._settle_shed()
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
            # uvloop counts milliseconds: it would return at once for less than one, again and again.
            self._wake = self._loop.call_later(max(wakes - self._loop.time(), LEAST_WAIT_S), self._woken)

    def _woken(self) -> None:
        self._wake, self._wakes = None, math.inf
        self._pump()

    def _fire(self, batch: Batch) -> None:
        calls: list[Any] = list(batch.requests)
        self._fired = time.perf_counter()
        work: MethodRun | Item = calls[0].item or _run_of(calls, self._max_batch)
        if self._observer is not None:
            is_item = calls[0].item is not None
            scope = self._observer.fired(work.method.name, work.contexts, batch.rows, item=is_item)
            if scope is not None:
                work = msgspec.structs.replace(work, scope=scope)
        if isinstance(work, MethodRun) and work.method.kind is ResponseKind.ASYNC:
            task = self._loop.create_task(self._run_async(batch, calls, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        self._model.submit(work, lambda result, error: self._done(batch, calls, result, error))

    async def _run_async(self, batch: Batch, calls: list[_Call], run: MethodRun) -> None:
        method = run.method
        CURRENT_REQUESTS.set(run.contexts)
        try:
            with nullcontext() if run.scope is None else run.scope.entered():
                answers = run.shared(
                    [
                        results_of(method, await method.function(**arguments), rows)
                        for arguments, rows in run.pieces()
                    ]
                )
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the process ends; otherwise the service's own code cancelled something
            self._done(batch, calls, None, error)
        else:
            self._done(batch, calls, answers, None)

    def _done(
        self, batch: Batch, calls: list[_Call], answers: list[Any] | None, error: BaseException | None
    ) -> None:
        now = self._loop.time()
        if self._observer is not None:
            self._observer.done(error)
        took, name = time.perf_counter() - self._fired, calls[0].method.name
        self.tally.batches += 1
        self.tally.busy_s += took
        if error is None and answers is not None:
            rows = batch.rows
            self.tally.rows += rows
            self.tally.sizes[min(size_bucket(rows), 33)] += 1
            self.batcher.finished(now, took)
            self.shapes.answered(
                calls[0].method, calls[0].arguments
            )  # those of one batch are equal, but for lists
            self.windows.add(name, rows, took, self._settle_all(calls, answers, now), self._waiting)
        elif isinstance(error, ModelLost):
            self._lose(calls, error, took)
        else:
            assert error is not None
            blamed = self.batcher.failed() is not None
            problem = None
            if blamed:
                call = calls[0]
                ids = ",".join(contexts.context.id for contexts in call.contexts)
                problem = self.shapes.problem(call.method, call.arguments, error, ids or None)
                _settle(call, problem)
            failed = problem is not None and problem.status >= 500
            self.windows.failure(name, took, self._waiting, blamed=failed)
            if problem is not None and not failed:  # the client's fault is answered, not failed
                self.windows.unbatched(now - calls[0].arrived)
        self._pump()

    def _lose(self, calls: list[_Call], lost: ModelLost, took: float) -> None:
        """The model died with this batch. None of it is retried: it could kill the next model, too."""
        method = calls[0].method.name
        self.batcher.lost()
        self.windows.failure(method, took, self._waiting, blamed=False)
        for call in calls:
            self.windows.raised += not call.future.done()
            _settle(call, lost.problem(method, idempotent=self.declared.idempotent))

    def _settle_all(self, calls: list[_Call], answers: list[Any], now: float) -> int:
        """Give each request its answer; returns how many clients still waited."""
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
        self.room = self.batcher.room()
        for call in self.batcher.expired(now):
            assert isinstance(call, _Call)
            problem = self._model.unavailable() or Problem(
                504, f"{call.method.name} gave no answer within {self.declared.timeout_s:g} s"
            )
            self.windows.late += 1
            _settle(call, problem)
        self._settle_shed()
        for call in self.batcher.inside():
            assert isinstance(call, _Call)
            # Only now: most are answered long before, and a task for each would cost more than its answer.
            if call.gone is not None and call.listener is None and now - call.arrived >= self.sweep_s:
                call.listener = self._loop.create_task(self._listen(call, call.gone))
        self._sweeping = self._waiting > 0
        if self._sweeping:
            self._loop.call_later(self.sweep_s, self._sweep)

    def _settle_shed(self) -> None:
        """Answer what became late while it waited, and would take the time of others."""
        for call in self.batcher.shed():
            assert isinstance(call, _Call)
            self.windows.refused += 1
            said = f"it waited too long to be answered within the SLO, {self.declared.slo}"
            _settle(call, Problem(503, said, retry_after_s=self.batcher.backlog_s(), reason="shed"))

    async def _listen(self, call: _Call, gone: Gone) -> None:
        await gone()
        if not call.future.done():
            self.batcher.cancel(call)
            call.future.set_exception(CallerGone())


def _run_of(calls: list[_Call], most: int) -> MethodRun:
    return MethodRun(
        method=calls[0].method,
        arguments=[call.arguments for call in calls],
        rows=[call.rows for call in calls],
        writes=[call.write for call in calls],
        most=most,
        contexts=tuple(contexts for call in calls for contexts in call.contexts),
    )


def _settle(call: _Call, problem: Problem) -> None:
    if not call.future.done():
        call.future.set_exception(problem)
