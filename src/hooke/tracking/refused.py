"""What could not be logged: counted in a file whose room was taken beforehand, so that a full disk can be reported."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

import msgspec

from hooke.base.forks import on_fork

__all__ = ["SUFFIX", "Refusals", "Refused", "refusals_in"]

SUFFIX = ".refused"
ROOM_BYTES = 1024

_log = logging.getLogger("hooke")


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """How many calls of a process were refused, since when, and why: the first reason, and how many had another."""

    calls: int
    first_at: float
    last_at: float
    why: str
    otherwise: int = 0


class Refusals:
    """The count of one process, in the file `<path>`, written anew at each refusal: 2 us, and no room is needed for it.

    Safe to share between threads. What is refused before the file could be made is counted here, and written as soon as
    it can be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total: Refused | None = None
        self._fd = -1
        self._lock = threading.Lock()
        on_fork(self)

    def reserve(self) -> None:
        """Take the room, in a folder that is there. Raises OSError when the disk is full already."""
        if self._fd >= 0:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(fd, bytes(ROOM_BYTES), 0)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def add(self, calls: int, why: str, now: float) -> None:
        """Count. The first refusal of a process is also said, on the logger `hooke`."""
        with self._lock:
            before = self.total
            if before is None:
                self.total = Refused(calls=calls, first_at=now, last_at=now, why=why)
            else:
                self.total = msgspec.structs.replace(
                    before,
                    calls=before.calls + calls,
                    last_at=now,
                    otherwise=before.otherwise + (calls if why != before.why else 0),
                )
            self._write(self.total)
        if before is None:
            _log.warning("not logged: %s. The program goes on; what else is refused is counted", why)

    def keep(self) -> None:
        """Write what could not be written when it was counted, if there is room now."""
        with self._lock:
            if self.total is not None:
                self._write(self.total)

    def close(self) -> None:
        """Give the room back; the file stays only if something was refused."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
                if self.total is None:
                    self.path.unlink(missing_ok=True)

    def after_fork(self) -> None:
        """In a child: the file is the parent's."""
        self._lock = threading.Lock()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, total: Refused) -> None:
        shown = msgspec.structs.replace(total, why=total.why[:400])
        # Full as the disk is there may be no room for the file; it is tried again with the next.
        with contextlib.suppress(OSError):
            if self._fd < 0:
                self.reserve()
            os.pwrite(self._fd, msgspec.json.encode(shown).ljust(ROOM_BYTES), 0)


def refusals_in(folder: Path) -> dict[str, Refused]:
    """By segment, what the processes of the run in `folder` could not log."""
    found = {}
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        if text := path.read_bytes().strip(b"\0 "):
            found[path.stem.removeprefix(".")] = msgspec.json.decode(text, type=Refused)
    return found
