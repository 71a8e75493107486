"""The driver's side of the plain baseline: a separate process that repeats the work on request."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import writing
from hooke.engines.gang import RankRange, Rendezvous, StartRanks, environment_of
from hooke.engines.worker.pool import THREAD_VARIABLES
from hooke.measuring.baseline_process import BaselineSetup, BaselineTimed, Broken, Loaded
from hooke.measuring.excerpt import Excerpt
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.references import pack
from hooke.processes.channel import Channel
from hooke.processes.exit_report import ended_by, last_lines
from hooke.processes.start import python_module, start_with_channel
from hooke.store.store import Store

__all__ = ["PlainCalls", "packed_calls", "packed_pipeline"]

_answers = msgspec.msgpack.Decoder(Loaded | BaselineTimed | Broken)


def packed_calls(part: Excerpt, calls: CallMaker, *, plain: Callable[..., Any] | None = None) -> bytes:
    """The measured calls and maps of an excerpt that has run, with results of other tasks by reference.

    With `plain`, this function replaces the task; it takes a map's whole columns.
    """
    work: list[tuple[Any, ...]] = []
    for number in part.measured:
        node = part.nodes[number]
        function = plain or node.task
        if node.kind == "call":
            args, kwargs = node.call_arguments()
            work.append((function, None, args, kwargs))
        elif plain is not None:
            work.append((function, None, tuple(node.iterables), dict(node.arguments)))
        else:
            work.append((function, tuple(node.iterables), (), dict(node.arguments)))
    return pack(work, calls.refer)


def packed_pipeline(
    function: Callable[..., Any], args: Sequence[Any], params: Mapping[str, Any], calls: CallMaker
) -> bytes:
    """The call of a whole pipeline, or of a function with the same work."""
    return pack([(function, None, tuple(args), dict(params))], calls.refer)


@dataclass(slots=True, kw_only=True)
class PlainCalls:
    """A process that does the work as plain calls in one thread. Use it in `with`, which ends the process."""

    store: Store
    secret: bytes | None
    work: bytes
    log: Path
    core: int | None = None
    """The core to which it is bound; None leaves it unbound."""
    gang: bool = False
    """Whether it finds the variables of a gang's rank, the only one."""
    start_s: float = 0.0
    """Seconds of a bare interpreter's start and of the imports of the user's code, once the process is ready."""
    import_s: float = 0.0
    """Seconds of these imports alone."""
    _process: subprocess.Popen[bytes] | None = None
    _channel: Channel | None = None
    _lifeline: int = -1
    _meeting: Rendezvous | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def _start(self) -> None:
        life_theirs, self._lifeline = os.pipe()
        core = [] if self.core is None else [str(self.core)]
        self._meeting = Rendezvous() if self.gang else None
        with (
            open(life_theirs, "rb"),
            writing("the log of the plain calls", self.log),
            self.log.open("ab") as log,
        ):
            self._process, self._channel = start_with_channel(
                lambda theirs: python_module(
                    "hooke.measuring.baseline_process", str(theirs), str(life_theirs), *core
                ),
                descriptors=[life_theirs],
                output=log,
                environment=os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | _rank_of(self._meeting),
            )
        setup = BaselineSetup(
            sys_path=[os.path.abspath(path) for path in sys.path],
            folder=os.getcwd(),
            store=self.store.place,
            secret=self.secret,
            work=self.work,
        )
        loaded = self._ask(msgspec.msgpack.encode(setup))
        assert isinstance(loaded, Loaded)
        self.import_s = loaded.import_s
        self.start_s = _interpreter_s() + loaded.import_s

    def __exit__(self, *_: object) -> None:
        self._end()

    def time(self) -> BaselineTimed:
        """Do all of the work once. Raises HookeError, with the process's output, if it fails."""
        answer = self._ask(b"")
        assert isinstance(answer, BaselineTimed)
        return answer

    def _ask(self, message: bytes) -> Loaded | BaselineTimed:
        assert self._channel is not None
        try:
            self._channel.send(message)
            answer = _answers.decode(self._channel.receive())
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, Broken):
            raise HookeError(
                f"the plain call (the baseline) raised {answer.error}",
                why=answer.traceback,
                fix="the same work finished on the engine: make the task independent of where it runs",
            )
        return answer

    def _died(self) -> HookeError:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        return HookeError(
            f"the process of the plain calls (the baseline) died: {ended_by(self._process.poll())}",
            why="\n".join(last_lines(self.log, 0, 20)),
            fix="measure with fewer items: all inputs and results of the plain calls are in memory at once",
        )

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._meeting is not None:
            self._meeting.close()


def _rank_of(meeting: Rendezvous | None) -> dict[str, str]:
    """The variables of the only rank of a gang, which may listen there; none without a gang."""
    if meeting is None:
        return {}
    whole = RankRange(try_id=0, lo=0, hi=1, ranks=1)
    return environment_of(0, whole, StartRanks(try_id=0, address=meeting.address, port=meeting.port))


def _interpreter_s() -> float:
    """Seconds that a bare interpreter takes to start and to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.perf_counter() - began
