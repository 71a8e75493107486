"""A service's object and its work: calls of a method, items of a stream. The same in a thread and in a process of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeAlias

import msgspec

from hooke.base.errors import HookeError
from hooke.base.user_code import user_frames
from hooke.serving.observing.tracing import BatchScope
from hooke.serving.payloads import Method, encode
from hooke.serving.problems import REPEATABLE, RETRY_HEADER, Problem
from hooke.serving.request_context import CURRENT_REQUESTS, ContextSource
from hooke.serving.rows import (
    Result,
    argument_slices,
    as_lists,
    join_results,
    merge_requests,
    result_slice,
    results_of,
)
from hooke.serving.service import SETUP, Service

__all__ = [
    "Arguments",
    "Drop",
    "Item",
    "MethodRun",
    "ModelLost",
    "ModelThread",
    "OnDone",
    "ServiceObject",
    "Work",
    "Write",
    "freeze_objects",
    "make_object",
]


Arguments = Callable[[], Mapping[str, Any]]
"""Makes the arguments of `setup`, where the model runs."""
OnDone = Callable[[Any, BaseException | None], None]
"""Gets the outcome of a piece of work: its answers, or its exception."""
Write = Callable[[Any], Any]
"""Makes the answer from a method's result for a request. It runs where the method does, and must not raise for a bad request."""


class MethodRun(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one method: one by one, or, if it takes rows, as few calls as `most` rows a call allow."""

    method: Method
    arguments: Sequence[dict[str, Any]]
    """The arguments of each call; or of all calls together, already merged."""
    rows: Sequence[int]
    """Of each call."""
    writes: Sequence[Write | None]
    """None: as JSON."""
    most: int
    contexts: tuple[ContextSource, ...] = ()
    """For whom."""
    scope: BatchScope | None = None

    def pieces(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The arguments and the number of rows of each actual call."""
        return argument_slices(
            self.method, merge_requests(self.method, self.arguments), sum(self.rows), self.most
        )

    def shared(self, results: Sequence[Result]) -> list[Any]:
        """The answers of the calls, each made from its own rows."""
        whole = join_results(results)
        listed = as_lists(whole) if any(write is None for write in self.writes) else whole
        answers: list[Any] = []
        start = 0
        for count, chosen in zip(self.rows, self.writes, strict=True):
            write, rows = (encode, listed) if chosen is None else (chosen, whole)
            answers.append(write(result_slice(rows, start, start + count)))
            start += count
        return answers


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """The next item of a stream, which begins with it if there are `arguments`; the answer is None at its end."""

    stream: int
    method: Method
    arguments: dict[str, Any] | None = None
    contexts: tuple[ContextSource, ...] = ()
    scope: BatchScope | None = None


class Drop(msgspec.Struct, frozen=True):
    """No client wants more of this stream. It has no answer."""

    stream: int


Work: TypeAlias = MethodRun | Item | Drop


class ModelLost(Exception):
    """The model's process ended during this work; `why` says how."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def problem(self, method: str, *, idempotent: bool) -> Problem:
        """The answer: 503 for an idempotent service, whose request another replica may retry; else 500, since the work may have been done."""
        detail = f"the process of the model ended with this call of {method}: {self.why}"
        if idempotent:
            return Problem(503, detail, retry_after_s=1, headers={RETRY_HEADER: REPEATABLE})
        return Problem(500, detail)


class ServiceObject:
    """A service's object after setup."""

    def __init__(self, made: object, methods: Mapping[str, Method]) -> None:
        self.object = made
        self.methods = {
            name: dataclasses.replace(method, function=getattr(made, name))
            for name, method in methods.items()
        }
        self._streams: dict[int, Iterator[Any]] = {}

    def do(self, work: Work) -> list[Any]:
        """The answers, one for each call. The context holds their requests meanwhile. Raises what the service's code raises."""
        if isinstance(work, Drop):
            stream = self._streams.pop(work.stream, None)
            close = getattr(stream, "close", None)
            if close is not None:
                close()
            return []
        before = CURRENT_REQUESTS.set(work.contexts)
        try:
            with nullcontext() if work.scope is None else work.scope.entered():
                return [self._next(work)] if isinstance(work, Item) else self._run(work)
        finally:
            CURRENT_REQUESTS.reset(before)

    def _run(self, run: MethodRun) -> list[Any]:
        method = self.methods[run.method.name]
        if not method.rows:
            return [(run.writes[0] or encode)(method.function(**run.arguments[0]))]
        return run.shared(
            [results_of(method, method.function(**arguments), rows) for arguments, rows in run.pieces()]
        )

    def _next(self, item: Item) -> bytes | None:
        if item.arguments is not None:
            self._streams[item.stream] = self.methods[item.method.name].function(**item.arguments)
        stream = self._streams.get(item.stream)
        if stream is None:
            raise ModelLost("the process that made the earlier items is gone")
        for made in stream:
            return encode(made)
        return None


def make_object(declared: Service, methods: Mapping[str, Method], arguments: Arguments) -> ServiceObject:
    """Make the object, and set it up. Raises HookeError for any exception."""
    given = arguments()
    try:
        made = declared.made_by()
        setup = getattr(made, SETUP, None)
        if setup is not None:
            if inspect.iscoroutinefunction(setup):
                asyncio.run(setup(**given))
            else:
                setup(**given)
    except HookeError:
        raise
    except Exception as error:
        frames = user_frames("".join(traceback.format_exception(error)))
        raise HookeError(
            f"{declared.name} cannot be set up: {type(error).__name__}: {error}",
            why="\n".join(frames),
            fix=f"check the path: it is relative to {os.getcwd()}"
            if isinstance(error, FileNotFoundError) and not os.path.isabs(str(error.filename or os.sep))
            else f"correct {SETUP} of {declared.name}, or what it is given",
        ) from error
    return ServiceObject(made, methods)


def freeze_objects() -> None:
    """Keep garbage collection off the objects that exist now; called by a process that is ready to serve, and does nothing else.

    They are the service's and those of its libraries, for good. A full collection walked 160,000 of them once or twice in
    three seconds of load, for 80 to 130 ms each. Without: p99 at saturation 6 to 11 ms instead of 83 to 101, and a safe rate of
    11,534 requests/s instead of 9,219 (bare uvicorn: 11,977). Garbage of later objects is collected as before.
    """
    gc.collect()
    gc.freeze()


# --- The one thread that runs a service's own code, so that the event loop never waits for it.


class ModelThread:
    """Does work in the order of submission, and reports each outcome on the event loop.

    One thread for the service's whole life: objects bound to a thread (SQLite, CUDA contexts) work.
    """

    def __init__(self, name: str = "hooke-model") -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], OnDone] | None] = queue.SimpleQueue()
        # A model that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        self._made: ServiceObject | None = None

    async def start(
        self, declared: Service, methods: Mapping[str, Method], arguments: Arguments
    ) -> ServiceObject:
        """Make the object in the thread, and set it up. Raises HookeError for any exception."""
        future: asyncio.Future[ServiceObject] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(result)

        self.run(lambda: make_object(declared, methods, arguments), done)
        self._made = await future
        return self._made

    def submit(self, work: Work, done: OnDone) -> None:
        """Do a piece of work; `done` is called on the event loop."""
        assert self._made is not None, "it is set up before"
        self.run(partial(self._made.do, work), done)

    def run(self, job: Callable[[], Any], done: OnDone) -> None:
        """Call this in the thread; `done` is called on the event loop."""
        self._jobs.put((job, done))

    def unavailable(self) -> Problem | None:
        """Always None: the thread ends only with this process."""
        return None

    def on_available(self, back: Callable[[], None]) -> None:
        """Never."""

    def memory_bytes(self) -> int:
        """No memory beside this process's own."""
        return 0

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread when its work is done; a hanging one is left behind."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = job()
            except StopIteration as stop:
                error = RuntimeError(f"StopIteration({stop.value!r}) was raised outside a generator")
            except BaseException as raised:  # noqa: BLE001 - exit() in a service's code is a failed request, too
                error = raised
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop is closed: no one waits
                return
