"""Files that reach the disk together: written ones are synced in groups, every second, on a thread of its own."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

from hooke.base.forks import on_fork

__all__ = ["Settler"]

ONE_BY_ONE = 16
"""Up to that many files are synced each for itself; above it one `syncfs` of the whole file system is cheaper."""

IDLE_S = 5.0
"""The thread ends when nothing was marked for so long: a process may open many stores, one after another."""


class Settler:
    """Syncs the files below `root` whose paths are marked, with their folders, within `interval_s` seconds.

    Unlike `base.files.GroupSync` it takes paths: files that are written once and closed, thousands a second.
    A file that is gone by then is passed over. Failures are kept for the next `sync()`, which raises them.
    """

    def __init__(self, root: Path, *, interval_s: float = 1.0) -> None:
        self._root = root
        self._interval_s = interval_s
        self._begin()
        on_fork(self)

    def _begin(self) -> None:
        self._paths: set[str] = set()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failed: OSError | None = None

    def mark(self, path: str) -> None:
        """Have the file at `path` synced soon."""
        self._paths.add(path)
        if not self._wake.is_set():
            self._wake.set()
            self._start()

    @property
    def pending(self) -> int:
        """How many files are marked."""
        return len(self._paths)

    def sync(self) -> None:
        """Sync what is marked, now. Raises OSError when this or an earlier sync in the background failed."""
        self._sync()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def after_fork(self) -> None:
        """In a child: the thread and the marks are the parent's."""
        self._begin()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="hooke-settler", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            if not self._wake.wait(IDLE_S):
                with self._starting:
                    if not self._wake.is_set():
                        self._thread = None
                        return
            pause.wait(self._interval_s)
            self._wake.clear()
            self._sync()

    def _sync(self) -> None:
        paths, self._paths = self._paths, set()
        try:
            if len(paths) > ONE_BY_ONE and _sync_file_system(self._root):
                return
            for path in {*paths, *map(os.path.dirname, paths)}:
                _sync_path(path)
        except OSError as error:
            self._failed = error


def _sync_path(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_file_system(root: Path) -> bool:
    """Sync the file system that `root` lies on; False where there is no such call (macOS)."""
    if sys.platform != "linux":
        return False
    fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(root))
    finally:
        os.close(fd)
    return True
