"""An alarm for an event loop that rings to some ten microseconds, where loops count in milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable

__all__ = ["Alarm"]

_MONOTONIC, _NONBLOCK = 1, 0o4000
_LEAST_S = 1e-6
"""Zero would disarm it."""


class Alarm:
    """Calls `ring` once after each `set`. By a timerfd on Linux; elsewhere as exact as the loop's own timers are."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)  # Python has it from 3.13 on
            self._file = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK)
        if self._file >= 0:
            loop.add_reader(self._file, self._rung)

    def set(self, delay_s: float) -> None:
        """Ring after so many seconds, and not when it was to ring before."""
        delay_s = max(delay_s, _LEAST_S)
        if self._file < 0:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(delay_s, self._ring)
            return
        whole = int(delay_s)
        setting = struct.pack("=qqqq", 0, 0, whole, int((delay_s - whole) * 1e9))
        if self._libc.timerfd_settime(self._file, 0, setting, None):
            raise OSError(ctypes.get_errno(), "an alarm cannot be set")

    def close(self) -> None:
        """It rings no more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
            self._ring()
