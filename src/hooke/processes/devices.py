"""The CPUs, GPUs and memory of this machine: shares that attempts hold. Knows device ids, not what runs on them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from hooke.base.errors import UsageError

__all__ = [
    "ContainerMemory",
    "Cores",
    "Devices",
    "MachineMemory",
    "anonymous_bytes",
    "cores_of_this_machine",
    "cpus_here",
    "devices_of_this_machine",
    "machine_memory",
    "memory_here",
    "memory_of",
    "processor",
]


# --- CPUs: how many this process may use, and the model's name.


def cpus_here() -> int:
    """How many cpus this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The model's name."""
    try:
        with file.open("rb") as stream:
            text = stream.read(4096).decode("utf-8", "replace")  # the rest repeats it for each core
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "an unnamed processor"


# --- Cores that workers are bound to.

_TOPOLOGY = "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"


class Cores:
    """Core ids with the number of workers bound to each: the least used are lent first, then in the given order."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._uses = dict.fromkeys(ids, 0)

    def __len__(self) -> int:
        return len(self._uses)

    def take(self, count: int) -> tuple[int, ...]:
        """`count` different cores; all of them if there are fewer."""
        # Sorting is stable, so that equally used ones stay in order.
        chosen = sorted(self._uses, key=self._uses.__getitem__)[:count]
        for core in chosen:
            self._uses[core] += 1
        return tuple(chosen)

    def release(self, cores: Iterable[int]) -> None:
        """Return what `take` gave."""
        for core in cores:
            self._uses[core] -= 1


def cores_of_this_machine() -> Cores:
    """The cores that this process may use; none if the system cannot bind a process to them (macOS).

    One hardware thread of each physical core comes before the second one of any.
    """
    if not hasattr(os, "sched_setaffinity"):
        return Cores(())
    ids = sorted(os.sched_getaffinity(0))
    return Cores(sorted(ids, key=_rank_among_siblings))


def _rank_among_siblings(core: int) -> int:
    """0 for the first hardware thread of a physical core; 0 also if the kernel does not say."""
    try:
        text = Path(_TOPOLOGY.format(core=core)).read_text(encoding="ascii")
    except OSError:
        return 0
    return sorted(_listed(text)).index(core)


def _listed(text: str) -> Iterable[int]:
    """`0,4` or `0-1` or `0-1,8-9`, as the kernel writes lists of cores."""
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


_DRIVER = Path("/proc/driver/nvidia/gpus")


class Devices:
    """Device ids with the free part of each: whole devices for whole numbers, a share of one for a fraction."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        self._free = dict.fromkeys(ids, 1.0)

    def __len__(self) -> int:
        return len(self._free)

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids."""
        return tuple(self._free)

    def take(self, task: str, amount: float) -> tuple[str, ...] | None:
        """The ids for an attempt that asks for so much; None while they are not free.

        Raises UsageError if they never will be: more than there are, or a fraction above 1.
        """
        if not amount:
            return ()
        self.check(task, amount)
        if amount < 1:
            fitting = [name for name, free in self._free.items() if free >= amount - 1e-9]
            return self._hold(tuple(sorted(fitting, key=self._free.__getitem__)[:1]), amount)
        idle = [name for name, free in self._free.items() if free >= 1 - 1e-9]
        return self._hold(tuple(idle[: int(amount)]), 1.0) if len(idle) >= amount else None

    def keep(self, ids: tuple[str, ...], amount: float) -> None:
        """Hold ids that were taken before this object existed; unknown ids hold nothing."""
        self._hold(tuple(name for name in ids if name in self._free), min(amount, 1.0))

    def release(self, ids: tuple[str, ...], amount: float) -> None:
        """Return what `take` gave."""
        for name in ids:
            self._free[name] = min(1.0, self._free[name] + min(amount, 1.0))

    def _hold(self, ids: tuple[str, ...], each: float) -> tuple[str, ...] | None:
        for name in ids:
            self._free[name] -= each
        return ids or None

    def check(self, task: str, amount: float) -> None:
        """Raise UsageError if so many can never be given: more than there are, or a fraction above 1."""
        if amount > 1 and amount != int(amount):
            raise UsageError(
                f"task {task!r} asks for {amount:g} gpus",
                fix="ask for a whole number, or for a share below 1",
            )
        if amount > len(self):
            there = "has none that the NVIDIA driver shows" if not self._free else f"has {len(self)}"
            raise UsageError(
                f"task {task!r} asks for {amount:g} gpus, and this machine {there}",
                fix="run at a place with gpus, or take gpus= off the task",
                next="hooke doctor",
            )


def devices_of_this_machine(environment: Mapping[str, str] = os.environ) -> Devices:
    """The GPUs that the NVIDIA driver shows, cut to CUDA_VISIBLE_DEVICES if that is set."""
    there = sorted(_DRIVER.iterdir()) if _DRIVER.is_dir() else []
    ids = tuple(str(number) for number in range(len(there)))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return Devices(ids)
    return Devices(tuple(name.strip() for name in visible.split(",") if name.strip()) if ids else ())


# --- The memory that tasks may declare together.

SAFE_SHARE = 0.9
"""Of the available memory: the rest is for the kernel and the driver."""


def memory_here() -> int:
    """Bytes of this machine."""
    return int(SAFE_SHARE * machine_memory().available)


class MachineMemory(NamedTuple):
    """Bytes of this machine, as `psutil.virtual_memory` has them."""

    total: int
    available: int


def machine_memory(file: Path = Path("/proc/meminfo")) -> MachineMemory:
    """The memory of this machine. Where the kernel lists it, without psutil, whose import takes 5 ms of each start."""
    try:
        lines = dict(line.split(":", 1) for line in file.read_text(encoding="ascii").splitlines())
        total, available = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (FileNotFoundError, KeyError):
        import psutil

        memory = psutil.virtual_memory()
        total, available = memory.total, memory.available
    return MachineMemory(total, available)


def memory_of(limits: list[int | None]) -> int | None:
    """Bytes of several hosts; None if one does not report its memory."""
    return None if None in limits else sum(filter(None, limits))


def anonymous_bytes(pid: int | str = "self") -> int:
    """RssAnon of /proc/PID/status: memory that no file backs; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, _, rest = status.partition("RssAnon:")
    return int(rest.split(None, 1)[0]) * 1024 if rest else 0


_CONTAINER = (
    (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory.max")),
    (Path("/sys/fs/cgroup/memory/memory.oom_control"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")),
)
"""Where a container finds what the kernel did in it and its limit, for either version of control groups."""


class ContainerMemory(NamedTuple):
    """What the kernel says of this container's memory; nothing outside of one."""

    kills: int = 0
    """How many processes the kernel has killed here because the memory was used up."""
    limit: int | None = None
    """Bytes."""

    @classmethod
    def now(cls, places: Iterable[tuple[Path, Path]] = _CONTAINER) -> ContainerMemory:
        """As it is now."""
        for events, limit in places:
            words = _text(events).split()
            if "oom_kill" in words:
                said = _text(limit).strip()
                return cls(int(words[words.index("oom_kill") + 1]), int(said) if said.isdecimal() else None)
        return cls()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
