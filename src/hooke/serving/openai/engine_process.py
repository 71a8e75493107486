"""The engine of a replica: a program that speaks OpenAI's protocol, from its start to its end with the replica."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hooke.base.errors import HookeError, UsageError, WorkerDied
from hooke.base.formats import format_seconds
from hooke.processes.devices import anonymous_bytes
from hooke.processes.exit_report import MOST_LINES, ended_by, with_short_stack
from hooke.processes.guard import GRACE_S, guarded
from hooke.processes.start import free_port, start_apart
from hooke.serving.model_calls import OnDone, Work
from hooke.serving.openai.engine_client import EngineClient, EngineLost, EngineUnreached
from hooke.serving.problems import REPEATABLE, RETRY_HEADER, UNTOUCHED, Problem
from hooke.serving.service import EngineCommand, Service
from hooke.serving.token_metrics import TokenFamily, read_families

__all__ = ["EngineProcess"]

HOST = "127.0.0.1"
LOOK_S = 0.2
"""Between two questions whether it is ready."""
TELL_S = 15.0
"""Between two lines that say that it is not."""
ASK_S = 5.0
"""For an answer to such a question, and for the metrics."""
WATCH_S = 5.0
"""Between two questions whether it still is."""
MOST_MISSED = 12
"""So many of these without a 200, in a row, and it hangs: a minute of errors, or two of silence. What is busy may miss some."""
METRICS_S = 5.0
"""Between two readings of the metrics, which tens of replicas send to one supervisor."""
TAIL = 32 << 10
"""Bytes of its output that are kept."""
_READ = 1 << 16
LOST = "engine lost"
"""The reason of refusals."""
KEY_VARIABLES = ("VLLM_API_KEY", "LLAMA_API_KEY")
"""Where vLLM and llama.cpp's server look for the key that requests must have. Others take {api_key} in their command."""


class EngineProcess:
    """Runs the command of a service, which ends with this process. Belongs to one event loop. It is a ModelRunner without work."""

    def __init__(self, declared: Service) -> None:
        assert declared.command is not None
        self._declared = declared
        self._command: EngineCommand = declared.command
        self._loop = asyncio.get_running_loop()
        self.failure: HookeError | None = None
        """Why it ended, or that it hangs; None while it runs."""
        self.families: list[TokenFamily] = []
        """Its own metrics, as they were read last."""
        self._key = secrets.token_urlsafe(24)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._has_metrics = bool(self._command.metrics)
        self._ready = False
        self._printed = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._reading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.spoke_at = 0.0
        """When a part of an answer came last, by time.perf_counter."""
        self.client = EngineClient(
            self, [(b"host", HOST.encode()), (b"authorization", f"Bearer {self._key}".encode())]
        )

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises UsageError for a program that is not there, HookeError if it ends before, or takes longer than the service's `start_timeout`."""
        self._started = time.monotonic()
        self._begin()
        try:
            await self._until_ready()
        except BaseException:
            self.close()
            raise
        self._ready = True
        self._watching = self._loop.create_task(self._watch())
        if self._has_metrics:
            self._reading = self._loop.create_task(self._keep_reading())

    async def connect(self, make: Any) -> Any:
        """A connection to it. Raises OSError."""
        if self._folder is not None:
            return await self._loop.create_unix_connection(make, self._socket)
        return await self._loop.create_connection(make, HOST, self._port)

    def lost(self, error: EngineLost) -> Problem:
        """What clients are told whose request was under way; it says to the proxy whether another replica may have the request."""
        why = self.failure.what if self.failure is not None else str(error)
        detail, again = f"the engine did not answer: {why}", ""
        if isinstance(error, EngineUnreached):
            again = UNTOUCHED
        elif self._declared.idempotent:
            again = REPEATABLE
        if not again:
            return Problem(502, detail, reason=LOST)
        return Problem(503, detail, retry_after_s=1, headers={RETRY_HEADER: again}, reason=LOST)

    # -- as a ModelRunner --------------------------------------------------------------------------

    def submit(self, work: Work, done: OnDone) -> None:
        """Never called: no method runs beside the engine."""
        raise NotImplementedError

    def unavailable(self) -> Problem | None:
        """The refusal while it does not run."""
        if self._ready and self.failure is None:
            return None
        why = self.failure.what if self.failure is not None else f"{self._declared.name} is being set up"
        return Problem(503, why, retry_after_s=1, headers={RETRY_HEADER: UNTOUCHED})

    def on_available(self, back: Callable[[], None]) -> None:
        """Never: a replica without its engine is replaced."""

    def memory_bytes(self) -> int:
        """The memory of its processes that no file backs. Any thread may call this."""
        return sum(anonymous_bytes(each.pid) for each in self._processes())

    def close(self, timeout_s: float = GRACE_S + 2.0) -> None:
        """End it, and all that it has started; called on the event loop, or when that has ended."""
        self._closing = True
        for task in (self._reading, self._watching):
            if task is not None:
                task.cancel()
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(RuntimeError):
            self.client.close()
            self._loop.remove_reader(self._pidfd)
            self._loop.remove_reader(self._output)
        os.close(self._told)
        drained = time.monotonic() + timeout_s
        while process.poll() is None and time.monotonic() < drained:
            self._print()  # it must not wait for us to read
            time.sleep(0.01)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._forget()

    # -- its life ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        asked = self._command.words[0]
        program = shutil.which(asked, path=_path_of_programs())
        if program is None:
            raise UsageError(
                f"{self._declared.name}: there is no program {asked!r}",
                fix="install it, or give its whole path: from_command(..., '/opt/vllm/bin/vllm serve ...')",
            )
        words, environment = self._filled()
        read, self._told = os.pipe()
        self._output, output = os.pipe()
        try:
            self._process = start_apart(
                guarded(read, [os.path.abspath(program), *words[1:]]),
                descriptors=[read],
                output=output,
                environment=environment,
            )
        finally:
            os.close(read)
            os.close(output)
        self._pidfd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._print)
        self._loop.add_reader(self._pidfd, self._exited)

    def _filled(self) -> tuple[list[str], dict[str, str]]:
        """The command and the environment with what the placeholders stand for."""
        given = {"{host}": HOST, "{api_key}": self._key}
        if any("{socket}" in word for word in self._command.words):
            self._folder = tempfile.TemporaryDirectory(prefix="hooke-engine-")
            self._socket = given["{socket}"] = str(Path(self._folder.name, "engine.sock"))
        else:
            self._port = free_port()  # if another process takes it first, `_check_listener` notices
            given["{port}"] = str(self._port)

        def fill(text: str) -> str:
            return functools.reduce(lambda made, pair: made.replace(*pair), given.items(), text)

        environment = dict(os.environ) | dict.fromkeys(KEY_VARIABLES, self._key)
        environment |= {name: fill(value) for name, value in self._command.environment}
        return [fill(word) for word in self._command.words], environment

    async def _until_ready(self) -> None:
        limit_s, told = self._declared.start_timeout_s, 0.0
        while True:
            if self.failure is not None:
                raise self.failure
            passed_s = time.monotonic() - self._started
            said = await self._asked()
            if not said:
                await self._check_listener()
                return
            if passed_s >= limit_s:
                raise HookeError(
                    f"the engine of {self._declared.name} was not ready within {format_seconds(limit_s)}: {said}",
                    why="\n".join(self._tail()),
                    fix='give it more time: from_command(..., start_timeout="30m")',
                )
            if passed_s - told >= TELL_S:
                told = passed_s
                self._say(
                    f"{self._declared.name}: the engine has been starting for {passed_s:.0f} s; {said}\n"
                )
            await asyncio.sleep(LOOK_S)

    async def _asked(self) -> str:
        """Why it is not ready; empty if it is."""
        ready = self._command.ready
        try:
            answer = await self.client.ask(b"GET", ready.encode(), silence_s=ASK_S)
            try:
                await answer.whole(_READ)  # then the connection serves again
            finally:
                answer.close()
        except (EngineLost, Problem) as error:
            return f"{ready}: {error}"
        return "" if answer.status == 200 else f"{ready} answers {answer.status}"

    async def _watch(self) -> None:
        """Ask its readiness again and again; one that does not say it any more, and sends nothing else, has failed."""
        missed, said = 0, ""
        while missed < MOST_MISSED:
            since = time.perf_counter()
            await asyncio.sleep(WATCH_S)
            said = await self._asked()
            if self.failure is not None:
                return
            missed = missed + 1 if said and self.spoke_at < since else 0
        self.failure = WorkerDied(
            f"the engine of {self._declared.name} hangs: {said}, {missed} times in a row, and nothing else came from it",
            log_tail=self._tail(),
            fix="its last lines may say why; its whole output is in the log of the replica",
        )
        self.client.close()

    async def _check_listener(self) -> None:
        """Raises HookeError if another process has taken the port."""
        if self._folder is None and not await asyncio.to_thread(self._listens):
            raise HookeError(
                f"the engine of {self._declared.name} does not listen on port {self._port}, and something else does",
                fix="give it the port: from_command(..., '... --port {port}'); if it has it, start again, with another port",
            )

    def _listens(self) -> bool:
        import psutil

        for each in self._processes():
            with contextlib.suppress(psutil.Error):
                if any(
                    found.status == psutil.CONN_LISTEN and found.laddr.port == self._port
                    for found in each.net_connections("tcp")
                ):
                    return True
        return False

    def _processes(self) -> list[Any]:
        """Its processes."""
        import psutil

        process = self._process
        if process is None:
            return []
        try:
            guard = psutil.Process(process.pid)
            return [guard, *guard.children(recursive=True)]
        except psutil.Error:
            return []

    def _exited(self) -> None:
        """The guard has ended, and so has the engine."""
        process = self._process
        if process is None:
            return
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._output)
        while self._print():
            pass
        cause = ended_by(process.wait(), asked=self._closing)
        self._process = None
        with contextlib.suppress(OSError):
            os.close(self._told)
        self._forget()
        self.failure = self.failure or WorkerDied(
            f"the engine of {self._declared.name} ended: {cause}",
            log_tail=self._tail(),
            fix="its last lines say why; its whole output is in the log of the replica",
        )
        self.client.close()

    def _forget(self) -> None:
        os.close(self._pidfd)
        os.close(self._output)
        if self._folder is not None:
            self._folder.cleanup()

    def _print(self) -> bool:
        """Pass its output on to this process's stderr; False if there is none now."""
        try:
            data = os.read(self._output, _READ)
        except BlockingIOError:
            return False
        if not data:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.remove_reader(self._output)
            return False
        self._printed = (self._printed + data)[-TAIL:]
        self._say(self._decoder.decode(data))
        return True

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def _tail(self) -> tuple[str, ...]:
        lines = self._printed.decode("utf-8", "replace").splitlines()
        return tuple(with_short_stack(lines))[-MOST_LINES:]

    # -- its metrics -------------------------------------------------------------------------------

    async def read_metrics(self) -> None:
        """Read them now. An engine that does not answer, or has none, keeps those that it had."""
        path = self._command.metrics
        if not self._has_metrics or self.failure is not None:
            return
        with contextlib.suppress(EngineLost, Problem, ValueError):
            answer = await self.client.ask(b"GET", path.encode(), silence_s=ASK_S)
            try:
                if answer.status == 404:  # it has none
                    self._has_metrics = False
                if answer.status == 200:
                    text = (await answer.whole(16 << 20)).decode("utf-8", "replace")
                    self.families = read_families(text)
            finally:
                answer.close()

    async def _keep_reading(self) -> None:
        while self._has_metrics:
            await self.read_metrics()
            await asyncio.sleep(METRICS_S)


def _path_of_programs() -> str:
    """PATH, and where this environment's own programs are."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
