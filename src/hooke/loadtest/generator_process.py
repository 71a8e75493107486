"""The parent's side of the generator's process."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from hooke.base.errors import HookeError
from hooke.loadtest.generator_protocol import Goal, Level, LevelReport, Outcomes, Question, Stop, encode
from hooke.processes.start import python_module, start_with_channel
from hooke.scaling.families import Floats

__all__ = ["Generator", "outcomes_of"]

TICK_S = 0.25
STDERR = 2
"""Where the process prints: stdout is for reports."""


class Generator:
    """A process that sends requests. Use it in `with`, which ends the process."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal

    def __enter__(self) -> Self:
        self._process, self._channel = start_with_channel(
            lambda theirs: python_module("hooke.loadtest.generator", str(theirs)), output=STDERR
        )
        self._tell(self._goal)
        return self

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._channel.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, due: Floats, *, timeout_s: float, tick: Callable[[], None] = lambda: None) -> LevelReport:
        """Send requests at `due` (n,) seconds from now, and wait until each has its answer or has timed out.

        Meanwhile `tick` is called some times a second. Ctrl-C ends the level, whose report is then `stopped`.
        Raises HookeError if the process died.
        """
        self._tell(Level(due=np.ascontiguousarray(due, dtype=np.float64).tobytes(), timeout_s=timeout_s))
        try:
            return self._report(tick)
        except KeyboardInterrupt:
            self.stop()
            return self._report(tick)

    def stop(self) -> None:
        """End the level now, from another thread: its report then says `stopped`."""
        self._tell(Stop())

    def _report(self, tick: Callable[[], None]) -> LevelReport:
        while not select.select([self._channel], [], [], TICK_S)[0]:
            tick()
        try:
            return msgspec.msgpack.decode(self._channel.receive(), type=LevelReport)
        except (EOFError, OSError):
            raise self._died() from None

    def _tell(self, question: Question) -> None:
        try:
            self._channel.send(encode(question))
        except OSError:
            raise self._died() from None

    def _died(self) -> HookeError:
        code = self._process.wait()
        return HookeError(f"the load generator ended with exit code {code}", why="its output is above")


def outcomes_of(due: Floats, report: LevelReport) -> Outcomes:
    """The outcomes of the requests that were due."""
    return Outcomes(
        due=due,
        begun=np.frombuffer(report.begun),
        ended=np.frombuffer(report.ended),
        status=np.frombuffer(report.status, dtype=np.int16),
    )
