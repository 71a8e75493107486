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
from hooke.base.later import LATER, LaterWork
from hooke.base.this_process import on_fork

__all__ = ["Durability", "GroupSync", "sync_files"]

Durability: TypeAlias = Literal["group", "each", "none"]
"""When what was written survives a power loss: "group" within a second, "each" before the write returns, "none" eventually.

In every mode, a killed process loses nothing that was written.
"""

ONE_BY_ONE = 16
"""Up to this many files are synced one by one. For more, one `syncfs` of the whole file system is cheaper."""


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
        """In a child: begin without marks; those that there are, are the parent's to sync."""
        self._paths: set[str] = set()
        self._syncing = threading.Lock()
        self._changed = threading.Lock()
        self._later: LaterWork | None = None
        self._is_due = False
        """Whether `_later` is yet to take marks."""
        self._failed: OSError | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """How many files are marked."""
        return len(self._paths)

    def mark(self, path: str) -> None:
        """Have the file at `path` synced soon. Raises RuntimeError if no thread can start; the next mark tries again."""
        # Without the lock: a set that is being swapped out is synced after the swap, so it covers this write.
        if self._is_due and path in self._paths:
            return
        with self._changed:
            self._paths.add(path)
            if not (self._is_due or self._closed):
                self._later = LATER.after(self._interval_s, self._sync_due, name="hooke-group-sync")
                self._is_due = True

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
        """Sync what is marked; later marks wait for a `sync`. Raises OSError like `sync`."""
        with self._changed:
            self._closed, later = True, self._later
        if later is not None:
            later.cancel()
        self.sync()

    def _sync_due(self) -> None:
        with self._changed:
            self._is_due = False
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
