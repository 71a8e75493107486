"""How a Python process of ours is started, with the flags of this one, so that code means the same in both; and what it takes."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

__all__ = ["anonymous_bytes", "lives", "python_module"]

SAME_S = 0.05
"""A process whose start is known to be another by more than this has another's number."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command of `python -m module arguments`, with this process's `-O` and `-W`; its folder is not put on `sys.path`."""
    flags = ["-O"] * sys.flags.optimize + [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, "-P", *flags, "-m", module, *arguments]


def lives(pid: int, created: float) -> bool:
    """Whether the process of this number is the one that began then, and whether it lives."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) <= SAME_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def anonymous_bytes(pid: int | str = "self") -> int:
    """RssAnon of /proc/PID/status: what the process has in memory that no file backs; 0 where that is not known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, _, rest = status.partition("RssAnon:")
    return int(rest.split(None, 1)[0]) * 1024 if rest else 0
