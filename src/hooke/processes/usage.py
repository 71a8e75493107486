"""What the system says of a process: whether it lives, its memory, and the CPU time of a tree of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

__all__ = ["ProcessTreeUsage", "anonymous_bytes", "lives"]

SAME_START_S = 0.05
"""Two start times further apart than this belong to two processes that had the same pid."""


def lives(pid: int, created: float) -> bool:
    """Whether the process with this pid is the one that started at `created`, and still runs."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) <= SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def anonymous_bytes(pid: int | str = "self") -> int:
    """RssAnon of /proc/PID/status: memory that no file backs; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, _, rest = status.partition("RssAnon:")
    return int(rest.split(None, 1)[0]) * 1024 if rest else 0


class ProcessTreeUsage:
    """CPU time and peak memory of a process and its descendants. One that ended counts once its parent has waited for it."""

    def __init__(self, pid: int, batches: Callable[[], tuple[float, float] | None] = lambda: None) -> None:
        self.batches = batches
        """Batches and their rows so far, if the service reports them."""
        self._root = psutil.Process(pid)
        self._peak = 0

    def cpu_s(self) -> float:
        """User and system seconds of the whole tree so far."""
        total = 0.0
        for process in self._tree():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue  # its parent has its time
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def sample(self) -> None:
        """Note the memory in use now."""
        resident = 0
        for process in self._tree():
            try:
                resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self._peak = max(self._peak, resident)

    def peak(self) -> int:
        """The most resident bytes at any sample since the last call. Pages that processes share count in each."""
        self.sample()
        peak, self._peak = self._peak, 0
        return peak

    def _tree(self) -> Iterator[psutil.Process]:
        try:
            yield self._root
            yield from self._root.children(recursive=True)
        except psutil.NoSuchProcess:
            return
