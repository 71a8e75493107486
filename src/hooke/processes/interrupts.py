"""Ctrl-C during a run: the first asks it to stop cleanly, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self

__all__ = ["Interrupts"]


class Interrupts:
    """Inside this context the first SIGINT is noted instead of raised. Does nothing outside the main thread."""

    def __init__(self, *, deferred: bool) -> None:
        """`deferred=False` keeps Python's own handling, for tasks that run in this thread."""
        self.received = False
        self._answered = False
        self._former = signal.getsignal(signal.SIGINT)
        in_main = threading.current_thread() is threading.main_thread()
        self._deferred = (
            deferred and in_main and callable(self._former)
        )  # else SIGINT is ignored, as under nohup

    def __enter__(self) -> Self:
        if self._deferred:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._deferred:
            signal.signal(signal.SIGINT, self._former)
            if self.received and not self._answered:  # it came when the run needed nothing any more
                signal.raise_signal(signal.SIGINT)

    def asked(self) -> bool:
        """Whether Ctrl-C asks the run to stop; the caller then stops it."""
        self._answered = self._answered or self.received
        return self.received

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
