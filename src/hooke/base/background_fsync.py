"""How written files reach the disk: at once, or in groups that a thread of its own syncs every second."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

from hooke.base.files import sync_path
from hooke.base.this_process import on_fork

__all__ = ["Durability", "GroupSync", "sync_files"]

Durability: TypeAlias = Literal["group", "each", "none"]
"""When what was written survives a power loss: "group" within a second, "each" before the write returns, "none" eventually.

In every mode, a killed process loses nothing that was written.
"""

ONE_BY_ONE = 16
"""Up to this many files are synced one by one. For more, one `syncfs` of the whole file system is cheaper."""

IDLE_S = 5.0
"""The thread ends when no file was marked for this long: a process may open many stores, one after another."""


class GroupSync:
    """Syncs the files below `root` whose paths are marked, with their folders, within `interval_s` seconds.

    The death of the process loses nothing that was written; a power loss takes at most the last interval.
    A file that no longer exists is skipped. A failure is kept until `raise_failure` or `sync` raises it.
    """

    def __init__(self, root: Path, *, interval_s: float = 1.0) -> None:
        self._root = root
        self._interval_s = interval_s
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: begin without marks; the thread and the marks are the parent's."""
        self._paths: set[str] = set()
        self._syncing = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._failed: OSError | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """How many files are marked."""
        return len(self._paths)

    def mark(self, path: str) -> None:
        """Have the file at `path` synced soon."""
        # Without the lock: a set that is being swapped out is synced after the swap, so it covers this write.
        if path in self._paths:
            return
        with self._changed:
            first = not self._paths
            self._paths.add(path)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="hooke-group-sync", daemon=True)
                self._thread.start()
            if first:  # the thread waits for that alone, and each waking of it costs more than a mark
                self._changed.notify_all()

    def sync(self) -> None:
        """Return when all that was marked is on the disk. Raises OSError when this or an earlier sync in the background failed."""
        self._sync_marked()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the OSError of a sync in the background that failed, once."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self) -> None:
        """End the thread, without waiting for that, and sync what is marked. Raises OSError like `sync`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.sync()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._paths, IDLE_S)
                if not self._closed and self._paths:
                    self._changed.wait_for(lambda: self._closed, self._interval_s)
                if self._closed or not self._paths:
                    self._thread = None
                    return
            self._sync_marked()

    def _sync_marked(self) -> None:
        # One at a time: marks that the thread has taken may not be on the disk yet.
        with self._syncing:
            with self._changed:
                paths, self._paths = self._paths, set()
            try:
                if len(paths) <= ONE_BY_ONE or not _sync_file_system(self._root):
                    sync_files(paths)
            except OSError as error:
                self._failed = error


_named: set[tuple[str, int, int]] = set()
"""Folders (path, device, inode) whose names this process has made durable."""


def sync_files(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Return when the files and their names are on the disk, with the folders above that are new to this process.

    A file that no longer exists is skipped. Raises OSError.
    """
    folders: set[str] = set()
    for path in paths:
        try:
            sync_path(path)  # fsync is the same for a file
        except FileNotFoundError:
            continue
        folders.add(os.path.dirname(os.path.abspath(path)))
    for folder in folders:
        try:
            sync_path(folder)
            _sync_name(folder)
        except FileNotFoundError:  # removed meanwhile
            continue


def _sync_name(folder: str) -> None:
    """Make the name of a folder durable, and those of the folders above: a file cannot be found without them."""
    facts, above = os.stat(folder), os.path.dirname(folder)
    known = folder, facts.st_dev, facts.st_ino
    if known in _named or os.path.ismount(folder):
        return
    try:
        sync_path(above)
    except PermissionError:  # so this process did not make a name there
        return
    _sync_name(above)
    _named.add(known)


def _sync_file_system(root: Path) -> bool:
    """Sync the file system that `root` lies on; False if there is no such call (macOS)."""
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
