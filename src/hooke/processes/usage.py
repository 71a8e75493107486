"""What a tree of processes takes: CPU, and the most memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil

__all__ = ["ProcessTreeUsage"]


class ProcessTreeUsage:
    """Watches a process and all below it. One that ended counts as far as its parent waited for it."""

    def __init__(self, pid: int, batches: Callable[[], tuple[float, float] | None] = lambda: None) -> None:
        self.batches = batches
        """Batches and their rows so far, where the service says."""
        self._root = psutil.Process(pid)
        self._peak = 0

    def cpu_s(self) -> float:
        """User and system seconds of all, so far."""
        total = 0.0
        for process in self._all():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue  # its parent has its time
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def sample(self) -> None:
        """Look at the memory."""
        resident = 0
        for process in self._all():
            try:
                resident += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self._peak = max(self._peak, resident)

    def peak(self) -> int:
        """The most resident bytes at any sample since the last call; pages that processes share count in each."""
        self.sample()
        peak, self._peak = self._peak, 0
        return peak

    def _all(self) -> Iterator[psutil.Process]:
        try:
            yield self._root
            yield from self._root.children(recursive=True)
        except psutil.NoSuchProcess:
            return
