"""Tasks that the engine suite runs: functions of an importable module, as a user's would be."""

from __future__ import annotations

import decimal
import locale
import os
import resource
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hooke.base.errors import Permanent, Temporary
from hooke.store.checkpoints import checkpoint_dir

__all__ = [
    "add",
    "allocate",
    "checkpoint_of",
    "count_on",
    "die",
    "exit_once",
    "exit_process",
    "fail_at",
    "fail_for_good",
    "fail_for_now",
    "leave_a_child",
    "leave_python",
    "listed",
    "noisy",
    "one_of_many",
    "ones",
    "raise_base",
    "sleep",
    "total",
    "unpicklable",
    "wait_for_file",
]


class Odd(BaseException):
    """A BaseException, which user code may raise, too."""


def add(item: int, other: int = 10, *, by: int = 0) -> int:
    """Arithmetic."""
    return item + other + by


def one_of_many(item: int, what: str = "", path: str = "") -> Any:
    """What a short call may do: `print`, `fail`, `wait` for a file, return what is `large`, or nothing but arithmetic."""
    if what == "print":
        sys.stdout.write(f"item {item}\n")
    elif what == "fail":
        raise Permanent(f"item {item} is bad")
    elif what == "wait":
        wait_for_file(path)
    return [item] if what == "large" else item + 10


def total(items: list[int]) -> int:
    """The sum of other tasks' results."""
    return sum(items)


def listed(count: int) -> list[int]:
    """A list for a dynamic map."""
    return list(range(count))


def ones(megabytes: int) -> np.ndarray:
    """A large result."""
    return np.ones(megabytes * 131_072)


def fail_at(item: int, *, bad: int) -> int:
    """One bad item."""
    if item == bad:
        raise ValueError(f"item {item} is bad")
    return item


def fail_for_good() -> None:
    """A failure that no retry fixes."""
    raise Permanent("no")


def fail_for_now() -> None:
    """A failure with a delay for its retry."""
    raise Temporary("busy", delay_s=3.5)


def leave_python() -> None:
    """Raises SystemExit, like a command line library."""
    sys.exit(3)


def raise_base() -> None:
    """An exception that `except Exception` does not catch."""
    raise Odd("odd")


def unpicklable() -> Any:
    """A result that cannot be pickled."""
    return (number for number in range(3))


def die() -> None:
    """Killed from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def count_on(until: int, how: str) -> tuple[int, str]:
    """Counts from its checkpoint on, and ends badly at 3 the first time. Returns where it began, and its folder."""
    saved = checkpoint_dir() / "count"
    first = int(saved.read_text("utf-8")) if saved.exists() else 0
    for number in range(first, until):
        if number == 3 and first == 0:
            if how == "raise":
                raise ValueError("the first attempt fails")
            os.kill(os.getpid(), signal.SIGKILL)
        fresh = saved.with_suffix(".new")
        fresh.write_text(str(number + 1), "utf-8")
        fresh.replace(saved)
    return first, str(checkpoint_dir())


def checkpoint_of(item: int) -> tuple[str, int]:
    """Its checkpoint folder, and how many files it found there."""
    folder = checkpoint_dir()
    found = len(list(folder.iterdir()))
    (folder / str(item)).touch()
    return str(folder), found


def exit_process(code: int) -> None:
    """Ends without output."""
    os._exit(code)


def note_in(item: int, *, folder: str) -> int:
    """The item, after a line for it in the file `ran`."""
    with open(Path(folder) / "ran", "a", encoding="utf-8") as stream:
        stream.write(f"{item}\n")
    return item


def exit_once(item: int, *, folder: str) -> int:
    """Item 7 ends its process the first time."""
    mark = Path(folder) / "exited"
    if item == 7 and not mark.exists():
        mark.touch()
        os._exit(5)
    return item


def sleep(seconds: float) -> float:
    """A task that takes its time."""
    time.sleep(seconds)
    return seconds


def wait_for_file(path: str) -> str:
    """A task that runs until the file exists."""
    while not Path(path).exists():
        time.sleep(0.005)
    return path


def noisy(text: str) -> str:
    """Output through Python's streams and through the process's descriptors."""
    print(f"out {text}")  # noqa: T201 - the subject of the check
    print(f"err {text}", file=sys.stderr)  # noqa: T201 - same
    sys.stdout.flush()
    sys.stderr.flush()
    return text


def allocate(megabytes: int) -> int:
    """Memory that is used for a moment."""
    held = bytearray(megabytes << 20)
    time.sleep(0.02)
    return len(held)


def leave_a_child() -> int:
    """Starts a process and forgets it."""
    return os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], os.environ)


def state_of_the_process() -> dict[str, Any]:
    """What a task may change in its process, as it is now."""
    umask = os.umask(0o022)
    os.umask(umask)
    return {
        "folder": os.getcwd(),
        "umask": umask,
        "variables": dict(os.environ),
        "path": list(sys.path),
        "filters": [str(each) for each in warnings.filters],
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "decimals": decimal.getcontext().prec,
        "division": np.geterr()["divide"],
        "handler": str(signal.getsignal(signal.SIGUSR1)),
        "open files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "zone": time.tzname,
    }


def change_the_process(item: int) -> dict[str, Any]:
    """Changes all of that, and returns what it was before."""
    before = state_of_the_process()
    os.chdir("/")
    os.umask(0o777)
    os.environ["LEFT_BEHIND"] = str(item)
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    os.environ.pop("HOME", None)
    sys.path.insert(0, "/left/behind")
    warnings.simplefilter("error")
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if before["locale"] == "C" else "C")
    sys.setrecursionlimit(sys.getrecursionlimit() + 100)
    decimal.getcontext().prec = 3
    np.seterr(divide="raise" if before["division"] != "raise" else "ignore")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    return before
