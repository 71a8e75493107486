"""Less CPU time for some processes: a control group, of either version, that ends with its owner's call."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hooke.base.errors import UsageError

__all__ = ["CpuLimit"]

PERIOD_US = 20_000
"""Short, so that a tenth of a core is felt as slowness, not as pauses."""

EMPTIED_S = 10.0

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


class CpuLimit:
    """A control group of this name. Needs root; raises UsageError where neither version of them can limit CPU time."""

    def __init__(self, name: str) -> None:
        if (_V1 / "cpu.cfs_quota_us").exists():
            self._folder, self._second = _V1 / name, False
        elif "cpu" in _words(_V2 / "cgroup.controllers"):
            self._folder, self._second = _V2 / name, True
            (_V2 / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
        else:
            raise UsageError(
                "CPU time cannot be limited here",
                why="no control group `cpu`, of version 1 or 2, under /sys/fs/cgroup",
            )
        self._folder.mkdir()

    def set(self, cpus: float, pids: Sequence[int]) -> None:
        """So much for all in it together, these processes among them."""
        quota = int(cpus * PERIOD_US)
        if self._second:
            (self._folder / "cpu.max").write_text(f"{quota} {PERIOD_US}", encoding="ascii")
        else:
            (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US), encoding="ascii")
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota), encoding="ascii")
        for pid in pids:
            try:
                self._members.write_text(str(pid), encoding="ascii")
            except ProcessLookupError:
                continue  # it has ended meanwhile

    def before(self) -> list[str]:
        """What is put before a command, so that it starts in the group."""
        return [shutil.which("sh") or "/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._members)]

    def remove(self) -> None:
        """Once its processes have ended."""
        until = time.monotonic() + EMPTIED_S
        while self._members.read_text(encoding="ascii").split() and time.monotonic() < until:
            time.sleep(0.01)
        self._folder.rmdir()

    @property
    def _members(self) -> Path:
        return self._folder / "cgroup.procs"


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.exists() else []
