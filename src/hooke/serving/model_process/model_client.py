"""The replica's side of a model in a process of its own: unavailable when that process ends, available again when another one is set up."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import inspect
import logging
import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hooke.base.errors import HookeError, UsageError, WorkerDied
from hooke.base.formats import format_bytes, format_seconds
from hooke.base.pinned_modules import pin_modules
from hooke.base.user_code import is_users
from hooke.journal.service_events import ModelBack, ModelDied, ModelEvent
from hooke.processes.devices import anonymous_bytes
from hooke.processes.exit_report import ended_by, with_short_stack
from hooke.processes.lease import Backoff
from hooke.processes.start import python_module, start_apart
from hooke.serving.model_calls import Arguments, Drop, Item, MethodRun, ModelLost, OnDone, Work
from hooke.serving.model_process.model_main import (
    DropSent,
    Facts,
    ItemSent,
    ModelProcessOrder,
    ModelSetup,
    RunSent,
)
from hooke.serving.model_process.wire import WireLink
from hooke.serving.observing.tracing import TraceSettings
from hooke.serving.payloads import Method
from hooke.serving.problems import RETRY_HEADER, UNTOUCHED, Problem
from hooke.serving.rows import merge_requests
from hooke.serving.service import Service

__all__ = ["ModelExit", "ModelProcess", "RunningModel"]


# --- One process of a model, from start to end: its messages, its output, and its exit.

_READ = 1 << 18
_TAIL = 64 << 10
"""Bytes of its output that are kept: a stack of a hundred frames, and the output before it."""
MOST_LEFT = 8
"""Reads of its remaining output: a pipe holds no more, and a process that left its group may go on printing."""
CLOSED_S = 1.0
"""The longest time from the end of its socket to the end of its process; then it is killed, since it can get no work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExit:
    """How the process ended."""

    exit_code: int
    """Minus the signal if one ended it."""
    asked: bool
    """Whether the replica killed it."""
    peak_bytes: int | None
    """Of its memory; None if unknown."""
    seconds: float
    tail: tuple[str, ...]
    """The last lines of its output."""

    @property
    def peak(self) -> str:
        """Its peak memory in words; empty if unknown."""
        return "" if self.peak_bytes is None else f"peak memory {format_bytes(self.peak_bytes)}"


def _ignore(_told: Any) -> None:
    pass


class RunningModel:
    """One process of a model, which ends with this one. All calls are on the event loop, and so are `answered`, for each message, and `ended`, once.

    Raises OSError if the process cannot be started.
    """

    def __init__(self, answered: Callable[[Any], None], ended: Callable[[ModelExit], None]) -> None:
        self._on_message: Callable[[Any], None] = answered
        self._on_exit: Callable[[ModelExit], None] = ended
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._killed = self._closed = False
        self._unsent = bytearray()
        self._printed = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # The kernel never reports a peak below that of the parent at the start.
        self._floor_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._sampled = 0
        self._spawn()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, packed: bytes) -> None:
        """Send what `link` packed. If the process ends meanwhile, its exit tells."""
        if self._unsent:
            self._unsent += packed
            return
        try:
            sent = self._socket.send(packed)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(packed):
            self._unsent += packed[sent:]
            self._loop.add_writer(self._socket.fileno(), self._flush)

    def memory_bytes(self) -> int:
        """Its memory that no file backs. Any thread may call this."""
        found = 0 if self._closed else anonymous_bytes(self.pid)
        self._sampled = max(self._sampled, found)
        return found

    def kill(self) -> None:
        """Kill it, and the processes that it started."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self, timeout_s: float) -> None:
        """Let it finish its work and end; kill it if that takes longer. No more callbacks."""
        if self._closed:
            return
        self._on_message = self._on_exit = _ignore
        self._killed = True
        with contextlib.suppress(OSError):
            self._socket.settimeout(timeout_s)  # a hanging process reads nothing
            self._socket.sendall(self._unsent)
            self._socket.shutdown(socket.SHUT_WR)
        look, ends = select.poll(), time.monotonic() + timeout_s
        look.register(self._pidfd, select.POLLIN)
        look.register(self._output, select.POLLIN)
        while not any(fd == self._pidfd for fd, _ in look.poll(50)) and time.monotonic() < ends:
            self._print()
        self.kill()
        self._exited()

    def _spawn(self) -> None:
        with contextlib.ExitStack() as undone:  # descriptors may run out in the middle
            ours, theirs = socket.socketpair()
            undone.callback(ours.close)
            with theirs:
                outgoing, incoming = _memory("hooke-model-in", undone), _memory("hooke-model-out", undone)
                self._output, output = os.pipe()
                undone.callback(os.close, self._output)
                try:
                    self._process = _started(theirs.fileno(), incoming, outgoing, output)
                finally:
                    os.close(output)
            self._pidfd = os.pidfd_open(self._process.pid)
            undone.pop_all()
        self._socket, self.link = ours, WireLink(outgoing, incoming)
        ours.setblocking(False)
        os.set_blocking(self._output, False)
        self._loop.add_reader(ours.fileno(), self._read)
        self._loop.add_reader(self._output, self._print)
        self._loop.add_reader(self._pidfd, self._exited)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> bool:
        """Read messages; False if there are none now."""
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.call_later(CLOSED_S, self._end_if_disconnected)
            return False
        for frame in self.link.feed(data):
            self._on_message(self.link.read(frame))
        return True

    def _end_if_disconnected(self) -> None:
        if not self._closed:
            self.kill()

    def _print(self) -> bool:
        """Pass its output on to this process's stderr; False if there is none now."""
        try:
            data = os.read(self._output, _READ)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
            return False
        self._printed = (self._printed + data)[-_TAIL:]
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self._decoder.decode(data))
            sys.stderr.flush()
        return True

    def _exited(self) -> None:
        self._closed = True
        for fd in (self._pidfd, self._socket.fileno(), self._output):
            self._loop.remove_reader(fd)
        self._loop.remove_writer(self._socket.fileno())
        with contextlib.suppress(ProcessLookupError):
            # Its children, which may print without end; its pid stays its own until it is waited for.
            os.killpg(self.pid, signal.SIGKILL)
        while self._read():
            pass
        for _ in range(MOST_LEFT):
            if not self._print():
                break
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._socket.close()
        self.link.close()
        for fd in (self._pidfd, self._output):
            os.close(fd)
        peak = usage.ru_maxrss * 1024 if usage.ru_maxrss > self._floor_kib else 0
        self._on_exit(
            ModelExit(
                exit_code=self._process.returncode,
                asked=self._killed,
                peak_bytes=max(peak, self._sampled) or None,
                seconds=time.monotonic() - self._started,
                tail=with_short_stack(self._printed.decode("utf-8", "replace").splitlines()),
            )
        )


def _memory(name: str, undone: contextlib.ExitStack) -> int:
    made = os.memfd_create(name)
    undone.callback(os.close, made)
    return made


def _started(channel: int, outgoing: int, incoming: int, output: int) -> subprocess.Popen[bytes]:
    """Start the process with its ends of the socket and of the memory, and its output."""
    order = ModelProcessOrder(parent=os.getpid(), socket=channel, outgoing=outgoing, incoming=incoming)
    command = python_module("hooke.serving.model_process.model_main", msgspec.json.encode(order).decode())
    return start_apart(command, descriptors=(channel, outgoing, incoming), output=output)


LARGE = 1 << 20
"""Larger arrays are merged and copied off the event loop."""
LOOK_S = 1.0
"""Between two checks of its memory and of the time of its current work."""
SPARE_S = 2.5
"""After so much longer than the service's timeout no client waits for a batch. A supervisor waits twice as long."""
HEALTHY_S = 10.0
"""After so long the start counts as successful."""
BACKOFF_S, BACKOFF_CAP_S = 0.5, 60.0

_log = logging.getLogger("hooke")


class ModelProcess:
    """Does the work of one service in a process, and restarts it after its end. Belongs to one event loop."""

    def __init__(
        self, declared: Service, say: Callable[[ModelEvent], None], trace: TraceSettings | None = None
    ) -> None:
        """With `trace`, the process sends spans of its own, too."""
        self._declared = declared
        self._trace = trace
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._defaults: dict[str, dict[str, Any]] = {}
        self._pending: deque[tuple[Work, OnDone, float]] = deque()
        self._running: RunningModel | None = None
        self._begin = ModelSetup(sys_path=[], modules=(), what=b"")
        self._up = self._closed = False
        self._started_at = self._up_at = self._next_at = 0.0
        self._setup_s = 0.0
        """From a start to the end of its setup."""
        self._exit_reason = ""
        """Why the process ended."""
        self._kill_reason = ""
        """Why the replica killed it."""
        self._backoff = Backoff(first_s=BACKOFF_S, cap_s=BACKOFF_CAP_S)
        self._on_available: Callable[[], None] = lambda: None
        self._first: asyncio.Future[None] = self._loop.create_future()

    async def start(self, arguments: Arguments) -> None:
        """Start it and set the service up. Raises HookeError for an exception of `setup`, and if it ends meanwhile."""
        self._begin = msgspec.structs.replace(_begin(self._declared, arguments), trace=self._trace)
        try:
            self._start()
        except OSError as error:
            raise HookeError(
                f"cannot start the process for the model of {self._declared.name}: {error}"
            ) from error
        await self._first
        self._loop.call_later(LOOK_S, self._check)

    def submit(self, work: Work, done: OnDone) -> None:
        """Submit a piece of work."""
        running = self._running
        if isinstance(work, Drop):
            if self._up and running is not None:
                running.send(running.link.packed(work.stream))
            return
        assert running is not None, "it is not away"
        self._pending.append((work, done, time.monotonic()))
        if isinstance(work, MethodRun) and _bytes_of(work) > LARGE:
            packing = self._loop.run_in_executor(None, self._packed, running, work)
            packing.add_done_callback(lambda packed: self._send(running, packed))
            return
        try:
            running.send(self._packed(running, work))
        except Exception as error:  # noqa: BLE001 - a value that cannot be sent is a failed request
            self._pending.pop()
            self._loop.call_soon(done, None, error)

    def unavailable(self) -> Problem | None:
        """The refusal while it is unavailable; None if it is available."""
        if self._up:
            return None
        wait_s = max(self._next_at - time.monotonic(), 0.0) + self._setup_s
        return Problem(
            503,
            f"{self._exit_reason}; it is being restarted",
            retry_after_s=wait_s,
            headers={RETRY_HEADER: UNTOUCHED},
        )

    def on_available(self, back: Callable[[], None]) -> None:
        """Call this when it is available again."""
        self._on_available = back

    def memory_bytes(self) -> int:
        """Its memory that no file backs. Any thread may call this."""
        running = self._running
        return running.memory_bytes() if running is not None else 0

    def close(self, timeout_s: float = 1.0) -> None:
        """End it after its current work; a hanging one is killed."""
        self._closed, self._up = True, False
        if self._running is not None:
            self._running.close(timeout_s)
            self._running = None

    # -- its life ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._started_at, self._kill_reason = time.monotonic(), ""
        self._running = running = RunningModel(self._on_message, self._on_exit)
        running.send(running.link.packed(self._begin))

    def _start_again(self) -> None:
        if self._closed:
            return
        try:
            self._start()
        except OSError as error:
            _log.error("cannot start the process for the model of %s: %s", self._declared.name, error)
            self._start_later()

    def _start_later(self) -> float:
        wait_s = self._backoff.failed(time.monotonic())
        self._next_at = time.monotonic() + wait_s
        self._loop.call_later(wait_s, self._start_again)
        return wait_s

    def _on_message(self, message: tuple[Any, BaseException | None]) -> None:
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
            self._kill_reason = "setup failed"
            _log.error("the model of %s cannot be restarted: %s", self._declared.name, error)

    def _set_up(self) -> None:
        self._up, self._up_at = True, time.monotonic()
        self._setup_s = self._up_at - self._started_at
        self.memory_bytes()  # an early measurement: it may die before the next one
        if self._first.done():
            self._say(ModelBack(seconds=self._setup_s))
            _log.warning(
                "the model of %s is back, %s after its start",
                self._declared.name,
                format_seconds(self._setup_s),
            )
            self._on_available()
        else:
            self._first.set_result(None)

    def _on_exit(self, ended: ModelExit) -> None:
        self._up, self._running = False, None
        cause = ended_by(ended.exit_code, asked=ended.asked)
        why = f"{self._kill_reason}; {cause}" if self._kill_reason else cause
        if not self._first.done():
            self._closed = True
            self._first.set_exception(_never_up(self._declared.name, why, ended))
            return
        if self._closed:
            return
        lost, self._pending = list(self._pending), deque()
        wait_s = self._start_later()
        self._exit_reason = f"the process of the model ended: {why}"
        self._report_exit(why, ended, lost[0][0] if lost else None, wait_s)
        for _, done, _ in lost:
            done(None, ModelLost("; ".join(filter(None, (why, ended.peak)))))

    def _report_exit(self, why: str, ended: ModelExit, work: Work | None, wait_s: float) -> None:
        method = work.method.name if isinstance(work, MethodRun | Item) else ""
        contexts = work.contexts if isinstance(work, MethodRun | Item) else ()
        requests = len(work.rows) if isinstance(work, MethodRun) else int(isinstance(work, Item))
        doing = (
            f"{self._declared.name}.{method}, for {requests} request{'s' * (requests != 1)}"
            if method
            else self._declared.name
        )
        _log.error(
            "%s",
            WorkerDied(
                f"{doing}: the process of the model ended: {why}",
                log_tail=ended.tail,
                why=ended.peak,
                next=f"it restarts in {format_seconds(wait_s)}",
            ),
            extra={"request_id": ",".join(each.context.id for each in contexts) or "-"},
        )
        self._say(
            ModelDied(
                cause=why,
                method=method,
                requests=requests,
                exit_code=ended.exit_code,
                peak_bytes=ended.peak_bytes,
                seconds=ended.seconds,
                starts_in_s=wait_s,
                log_tail=ended.tail,
            )
        )

    def _check(self) -> None:
        if self._closed:
            return
        self._loop.call_later(LOOK_S, self._check)
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
            self._kill_reason = f"one batch took {limit_s:g} s, longer than any client waits"
            running.kill()

    # -- what is sent ------------------------------------------------------------------------------

    def _send(self, running: RunningModel, packing: asyncio.Future[bytes]) -> None:
        if running is not self._running or packing.cancelled():
            return
        error = packing.exception()
        if error is None:
            running.send(packing.result())
            return
        _, done, _ = self._pending.pop()
        done(None, error)

    def _packed(self, running: RunningModel, work: MethodRun | Item) -> bytes:
        method = work.method
        contexts: list[Facts] = []
        for each in work.contexts:
            context = each.context
            contexts.append((context.id, context.traceparent, context.tracestate))
        span = work.scope.traceparent if work.scope is not None else None
        sent: RunSent | ItemSent | DropSent
        if isinstance(work, Item):
            given = None if work.arguments is None else self._sent(method, work.arguments)
            sent = (method.name, work.stream, given, contexts, span)
        else:
            together = merge_requests(method, work.arguments) if method.rows else work.arguments[0]
            arguments = [self._sent(method, together)]
            sent = (method.name, arguments, list(work.rows), list(work.writes), work.most, contexts, span)
        return running.link.packed(sent)

    def _sent(self, method: Method, arguments: dict[str, Any]) -> dict[str, Any]:
        """Without arguments that are the parameter's default: the other process uses its own object, as in a call."""
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


def _begin(declared: Service, arguments: Arguments) -> ModelSetup:
    """The setup message. Raises UsageError if the class cannot be imported there, or the arguments cannot be sent."""
    name, made_by = declared.name, declared.made_by
    if sys.platform != "linux":
        raise UsageError(
            f'{name}: model="process" needs Linux',
            fix="leave out model= on this system: the class stays the same",
        )
    if made_by.__module__ == "__main__" or "<locals>" in made_by.__qualname__:
        place = "the script that runs" if made_by.__module__ == "__main__" else "a function"
        raise UsageError(
            f'{name}: model="process" starts a process that imports the class, but the class is in {place}',
            fix="move it to the top level of a module, and import it from there",
        )
    try:
        what, modules = pickle.dumps((made_by, arguments)), pin_modules(is_users)
    except OSError as error:
        raise HookeError(f"{name} cannot be imported by the process of its model: {error}") from error
    except Exception as error:  # whatever a value's own code raises
        raise UsageError(
            f'{name}: the arguments of setup cannot be sent to the process of model="process": {error}',
            fix="give the name of a registered model (--with model=NAME@ALIAS), or a path, and load it in setup",
        ) from error
    return ModelSetup(sys_path=list(sys.path), modules=modules, what=what)


def _never_up(name: str, why: str, ended: ModelExit) -> HookeError:
    return HookeError(
        f"{name} cannot be set up: the process of its model ended: {why}",
        why="\n".join(filter(None, (ended.peak, *ended.tail))),
    )


def _bytes_of(run: MethodRun) -> int:
    return sum(
        value.nbytes for one in run.arguments for value in one.values() if isinstance(value, np.ndarray)
    )
