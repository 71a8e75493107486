"""What the system says of processes, of a tree of them, and of the cores: whether they live, and what they use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from hooke.base.formats import format_bytes
from hooke.processes.devices import cpus_here, machine_memory, processor

__all__ = ["CoreTimes", "ProcessTreeUsage", "frequency_here", "lives", "machine_facts", "runnable_here"]


# --- The machine of a study, in one line.


def machine_facts() -> str:
    """Processor, cores and memory, such as `AMD EPYC 9654, 2 cores, 8.00 GiB`: what throughput depends on."""
    return f"{processor()}, {cpus_here()} cores, {format_bytes(machine_memory().total)}"


# --- What the system says of a process: whether it lives.

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


# --- How busy the cores are, whoever uses them.


class CoreTimes(NamedTuple):
    """Seconds since the machine started, summed over the cores that this process may use; None where the system does not say."""

    busy_s: float
    stolen_s: float | None
    """What the hypervisor gave to other machines."""
    waiting_s: float | None
    """Wall seconds in which some process waited for a core (/proc/pressure/cpu), of the whole machine."""

    @classmethod
    def now(cls) -> CoreTimes:
        """As they are now."""
        cores = psutil.cpu_times(percpu=True)
        if hasattr(os, "sched_getaffinity"):
            mine = os.sched_getaffinity(0)
            cores = [times for core, times in enumerate(cores) if core in mine] or cores
        names = ("user", "nice", "system", "irq", "softirq")
        busy = sum(getattr(times, name, 0.0) for times in cores for name in names)
        stolen = sum(times.steal for times in cores) if hasattr(cores[0], "steal") else None
        return cls(busy, stolen, _some_waited_s())


def _some_waited_s(file: Path = Path("/proc/pressure/cpu")) -> float | None:
    try:
        line = file.read_text(encoding="ascii").partition("\n")[0]
    except OSError:  # the kernel does not count it, or not for everyone
        return None
    return int(line.rpartition("total=")[2]) / 1e6


def runnable_here(file: Path = Path("/proc/loadavg")) -> int | None:
    """The processes and threads of this machine that run or wait to run; None where the system does not say."""
    try:
        return int(file.read_text(encoding="ascii").split()[3].partition("/")[0])
    except OSError:
        return None


def frequency_here() -> float | None:
    """The mean frequency of the cores in MHz; None where the system does not say, as on many virtual machines."""
    try:
        now = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):  # by system: see psutil's issues 1481 and 2382
        return None
    return now.current if now is not None and now.current else None


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
