"""The parent's side of the generator's process."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

import msgspec
import numpy as np

from hooke.base.errors import HookeError
from hooke.loadtest.generator_protocol import LENGTH, Goal, Level, LevelReport, Outcomes, Stop, pack
from hooke.processes.start import python_module
from hooke.scaling.families import Floats

__all__ = ["Generator", "outcomes_of"]

TICK_S = 0.25


class Generator:
    """A process that sends requests. Use it in `with`, which ends the process."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal

    def __enter__(self) -> Self:
        # In its own session, so that the terminal's Ctrl-C reaches only the parent.
        self._process = subprocess.Popen(
            python_module("hooke.loadtest.generator"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._send(pack(self._goal))
        return self

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has already ended
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def run(self, due: Floats, *, timeout_s: float, tick: Callable[[], None] = lambda: None) -> LevelReport:
        """Send requests at `due` (n,) seconds from now, and wait until each has its answer or has timed out.

        Meanwhile `tick` is called some times a second. Ctrl-C ends the level, whose report is then `stopped`.
        Raises HookeError if the process died.
        """
        self._send(
            pack(Level(due=np.ascontiguousarray(due, dtype=np.float64).tobytes(), timeout_s=timeout_s))
        )
        try:
            return self._report(tick)
        except KeyboardInterrupt:
            self.stop()
            return self._report(tick)

    def stop(self) -> None:
        """End the level now, from another thread; its report is then `stopped`."""
        self._send(pack(Stop()))

    def _report(self, tick: Callable[[], None]) -> LevelReport:
        file = self._process.stdout
        assert file is not None
        while not select.select([file], [], [], TICK_S)[0]:
            tick()
        head = self._read(file, LENGTH.size)
        return msgspec.msgpack.decode(self._read(file, LENGTH.unpack(head)[0]), type=LevelReport)

    def _read(self, file: IO[bytes], size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise self._died()
        return data

    def _send(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame)
            self._process.stdin.flush()
        except BrokenPipeError:
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
