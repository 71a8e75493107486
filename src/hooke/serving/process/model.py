"""A model in a process of its own, as the dispatch knows it: asked, away when that process ended, and back when another one is set up."""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hooke.base.errors import HookeError, UsageError, WorkerDied
from hooke.base.formats import format_bytes, format_seconds
from hooke.base.kept_modules import keep_modules
from hooke.journal.replicas import ModelBack, ModelDied, ModelEvent
from hooke.serving.payloads import Method
from hooke.serving.problems import AGAIN, UNTOUCHED, Problem
from hooke.serving.process.child import Begin, DropSent, Facts, ItemSent, RunSent
from hooke.serving.process.running import Ending, Running
from hooke.serving.rows import merged
from hooke.serving.service import Service
from hooke.serving.supervision.backoff import Backoff
from hooke.serving.supervision.causes import ended_by
from hooke.serving.work import Arguments, Done, Drop, Item, Lost, Run, Work

__all__ = ["ModelProcess"]

LARGE = 1 << 20
"""Bytes of arrays that are put together and copied beside the event loop, which others wait for."""
LOOK_S = 1.0
"""Between two looks at its memory, and at how long it has been at what it does."""
SPARE_S = 2.5
"""A batch that takes so much longer than the service's timeout has nobody who waits for it. A supervisor waits for twice as long."""
HEALTHY_S = 10.0
"""Set up for so long, and what ends it then is not its start."""
BACKOFF_S, BACKOFF_CAP_S = 0.5, 60.0

_LIBRARIES = (
    Path(__file__).parents[2],
    *map(Path, {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}),
)
"""This one first: as a rule it is one of those."""

_log = logging.getLogger("hooke")


class ModelProcess:
    """Does the work of one service in a process, and starts another one when that ends. It belongs to one event loop."""

    def __init__(self, declared: Service, say: Callable[[ModelEvent], None]) -> None:
        self._declared = declared
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._defaults: dict[str, dict[str, Any]] = {}
        self._pending: deque[tuple[Work, Done, float]] = deque()
        self._running: Running | None = None
        self._begin = Begin(sys_path=[], modules=(), what=b"")
        self._up = self._closed = False
        self._started_at = self._up_at = self._next_at = 0.0
        self._took_s = 0.0
        """From a start to its being set up."""
        self._why = ""
        """It is away."""
        self._ended_for = ""
        """What it was killed for, from here."""
        self._backoff = Backoff(first_s=BACKOFF_S, cap_s=BACKOFF_CAP_S)
        self._back: Callable[[], None] = lambda: None
        self._first: asyncio.Future[None] = self._loop.create_future()

    async def start(self, arguments: Arguments) -> None:
        """Start it and have it set the service up. Raises HookeError for what that raised, and where it ended meanwhile."""
        self._begin = _begin(self._declared, arguments)
        try:
            self._start()
        except OSError as error:
            raise HookeError(
                f"no process can be started for the model of {self._declared.name}: {error}"
            ) from error
        await self._first
        self._loop.call_later(LOOK_S, self._look)

    def submit(self, work: Work, done: Done) -> None:
        """Do it there."""
        running = self._running
        if isinstance(work, Drop):
            if self._up and running is not None:
                running.send(running.link.packed(work.stream))
            return
        assert running is not None, "it is not away"
        self._pending.append((work, done, time.monotonic()))
        if isinstance(work, Run) and _bytes_of(work) > LARGE:
            packing = self._loop.run_in_executor(None, self._packed, running, work)
            packing.add_done_callback(lambda packed: self._send(running, packed))
            return
        try:
            running.send(self._packed(running, work))
        except Exception as error:  # noqa: BLE001 - a value that cannot be sent is a failed request
            self._pending.pop()
            self._loop.call_soon(done, None, error)

    def away(self) -> Problem | None:
        """Why nothing can be asked now; None where it can."""
        if self._up:
            return None
        wait_s = max(self._next_at - time.monotonic(), 0.0) + self._took_s
        return Problem(
            503, f"{self._why}; another one is being set up", retry_after_s=wait_s, headers={AGAIN: UNTOUCHED}
        )

    def when_back(self, back: Callable[[], None]) -> None:
        """Call this when it is set up anew."""
        self._back = back

    def memory_bytes(self) -> int:
        """What it has that no file backs. May be asked by any thread."""
        running = self._running
        return running.memory_bytes() if running is not None else 0

    def close(self, timeout_s: float = 1.0) -> None:
        """End it when its work is done; one that hangs is killed."""
        self._closed, self._up = True, False
        if self._running is not None:
            self._running.close(timeout_s)
            self._running = None

    # -- its life ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._started_at, self._ended_for = time.monotonic(), ""
        self._running = running = Running(self._answered, self._ended)
        running.send(running.link.packed(self._begin))

    def _start_again(self) -> None:
        if self._closed:
            return
        try:
            self._start()
        except OSError as error:
            _log.error("no process can be started for the model of %s: %s", self._declared.name, error)
            self._start_later()

    def _start_later(self) -> float:
        wait_s = self._backoff.failed(time.monotonic())
        self._next_at = time.monotonic() + wait_s
        self._loop.call_later(wait_s, self._start_again)
        return wait_s

    def _answered(self, message: tuple[Any, BaseException | None]) -> None:
        answers, error = message
        if self._up:
            _, done, _ = self._pending.popleft()
            done(answers, error)
        elif error is None:
            self._set_up()
        elif not self._first.done():
            self._closed = True
            self._first.set_exception(error)
        else:
            self._ended_for = "it could not be set up"
            _log.error("the model of %s cannot be set up anew: %s", self._declared.name, error)

    def _set_up(self) -> None:
        self._up, self._up_at = True, time.monotonic()
        self._took_s = self._up_at - self._started_at
        self.memory_bytes()  # a first look: it may die before the next one
        if self._first.done():
            self._say(ModelBack(seconds=self._took_s))
            _log.warning(
                "the model of %s is back, %s after its start",
                self._declared.name,
                format_seconds(self._took_s),
            )
            self._back()
        else:
            self._first.set_result(None)

    def _ended(self, ending: Ending) -> None:
        self._up, self._running = False, None
        cause = ended_by(ending.exit_code, asked=ending.asked)
        why = f"{self._ended_for}; {cause}" if self._ended_for else cause
        if not self._first.done():
            self._closed = True
            self._first.set_exception(_never_up(self._declared.name, why, ending))
            return
        if self._closed:
            return
        lost, self._pending = list(self._pending), deque()
        wait_s = self._start_later()
        self._why = f"the process of the model ended: {why}"
        peak = f"; peak memory {format_bytes(ending.peak_bytes)}" if ending.peak_bytes is not None else ""
        self._tell(why, ending, lost[0][0] if lost else None, wait_s)
        for _, done, _ in lost:
            done(None, Lost(f"{why}{peak}"))

    def _tell(self, why: str, ending: Ending, work: Work | None, wait_s: float) -> None:
        method = work.method.name if isinstance(work, Run | Item) else ""
        asked = work.asked if isinstance(work, Run | Item) else ()
        requests = len(work.rows) if isinstance(work, Run) else int(isinstance(work, Item))
        doing = (
            f"{self._declared.name}.{method}, for {requests} request{'s' * (requests != 1)}"
            if method
            else self._declared.name
        )
        peak = "" if ending.peak_bytes is None else f"peak memory {format_bytes(ending.peak_bytes)}"
        _log.error(
            "%s",
            WorkerDied(
                f"{doing}: the process of the model ended: {why}",
                log_tail=ending.tail,
                why=peak,
                next=f"another one starts in {format_seconds(wait_s)}",
            ),
            extra={"request_id": ",".join(each.context.id for each in asked) or "-"},
        )
        self._say(
            ModelDied(
                cause=why,
                method=method,
                requests=requests,
                exit_code=ending.exit_code,
                peak_bytes=ending.peak_bytes,
                seconds=ending.seconds,
                starts_in_s=wait_s,
                log_tail=ending.tail,
            )
        )

    def _look(self) -> None:
        if self._closed:
            return
        self._loop.call_later(LOOK_S, self._look)
        running, now = self._running, time.monotonic()
        if running is None:
            return
        running.memory_bytes()
        if not self._up:
            return
        if now - self._up_at > HEALTHY_S:
            self._backoff.succeeded(self._up_at)
        limit_s = self._declared.timeout_s + SPARE_S
        if self._pending and now - self._pending[0][2] > limit_s:
            self._ended_for = f"it was at one batch for {limit_s:g} s, longer than anybody waits"
            running.kill()

    # -- what is sent ------------------------------------------------------------------------------

    def _send(self, running: Running, packing: asyncio.Future[bytes]) -> None:
        if running is not self._running or packing.cancelled():
            return
        error = packing.exception()
        if error is None:
            running.send(packing.result())
            return
        _, done, _ = self._pending.pop()
        done(None, error)

    def _packed(self, running: Running, work: Run | Item) -> bytes:
        method = work.method
        asked: list[Facts] = []
        for each in work.asked:
            context = each.context
            asked.append((context.id, context.traceparent, context.tracestate))
        sent: RunSent | ItemSent | DropSent
        if isinstance(work, Item):
            given = None if work.arguments is None else self._sent(method, work.arguments)
            sent = (method.name, work.stream, given, asked)
        else:
            together = merged(method, work.arguments) if method.rows else work.arguments[0]
            arguments = [self._sent(method, together)]
            sent = (method.name, arguments, list(work.rows), list(work.writes), work.most, asked)
        return running.link.packed(sent)

    def _sent(self, method: Method, arguments: dict[str, Any]) -> dict[str, Any]:
        """Without those that are the parameter's default: there it is the object itself, as in a call."""
        defaults = self._defaults.get(method.name)
        if defaults is None:
            parameters = inspect.signature(method.function).parameters.values()
            defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
            self._defaults[method.name] = defaults
        if not defaults:
            return arguments
        return {
            name: value
            for name, value in arguments.items()
            if name not in defaults or value is not defaults[name]
        }


def _begin(declared: Service, arguments: Arguments) -> Begin:
    """What it is begun with. Raises UsageError where the class cannot be found from there, or its values cannot be sent."""
    name, made_by = declared.name, declared.made_by
    if sys.platform != "linux":
        raise UsageError(
            f'{name}: model="process" needs Linux', mend="leave model= out here: the class is the same"
        )
    if made_by.__module__ == "__main__" or "<locals>" in made_by.__qualname__:
        place = "the script that runs" if made_by.__module__ == "__main__" else "a function"
        raise UsageError(
            f'{name}: model="process" starts a process that imports the class, and it is in {place}',
            mend="put it at the top of a file of its own, and import it from there",
        )
    try:
        what, modules = pickle.dumps((made_by, arguments)), keep_modules(_is_own)
    except OSError as error:
        raise HookeError(f"{name} cannot be imported by the process of its model: {error}") from error
    except Exception as error:  # whatever a value's own code raises
        raise UsageError(
            f'{name}: what setup takes cannot be sent to the process of model="process": {error}',
            mend="give the name of a registered model (--with model=NAME@ALIAS), or a path, which is read there",
        ) from error
    return Begin(sys_path=list(sys.path), modules=modules, what=what)


def _is_own(file: Path) -> bool:
    """Whether it may be edited while the service runs: it is of no library that is installed."""
    if any(file.is_relative_to(folder) for folder in _LIBRARIES):
        return False
    return file.is_absolute() and file.is_file()  # some modules name a file that there is not


def _never_up(name: str, why: str, ending: Ending) -> HookeError:
    peak = "" if ending.peak_bytes is None else f"peak memory {format_bytes(ending.peak_bytes)}"
    return HookeError(
        f"{name} cannot be set up: the process of its model ended: {why}",
        why="\n".join(filter(None, (peak, *ending.tail))),
    )


def _bytes_of(run: Run) -> int:
    return sum(
        value.nbytes for one in run.arguments for value in one.values() if isinstance(value, np.ndarray)
    )
