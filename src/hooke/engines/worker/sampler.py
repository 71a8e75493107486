"""Samples of a worker process for studies: what its threads wait for, and where."""

from __future__ import annotations

import ctypes
import faulthandler
import linecache
import os
import re
import resource
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hooke.base.user_code import is_users

__all__ = ["SAMPLES", "Sampler", "WorkerSample"]

SAMPLES = ".samples"
"""The suffix of a worker's samples, beside its log: one WorkerSample in JSON a line."""
_LOCKING, _NETWORK, _SLEEPING, _SYNCING, _CHILDREN = "lock", "network", "sleep", "disk", "child"
_INTERPRETER = "gil"
_SYNCS = re.compile(r"\b(fsync|fdatasync)\(")
_X86_64 = {
    **dict.fromkeys((73, 65, 220), _LOCKING),
    **dict.fromkeys((7, 23, 42, 43, 44, 45, 46, 47, 270, 271, 288, 299), _NETWORK),
    **dict.fromkeys((35, 230), _SLEEPING),
    26: "disk msync",
    74: "disk fsync",
    75: "disk fdatasync",
    162: "disk sync",
    277: "disk sync_file_range",
    306: "disk syncfs",
    **dict.fromkeys((61, 247), _CHILDREN),
    **dict.fromkeys((0, 17, 19), "file read"),
    **dict.fromkeys((1, 18, 20), "file write"),
    72: "fcntl",
    202: "futex",
}
_AARCH64 = {
    **dict.fromkeys((32, 192, 193), _LOCKING),
    **dict.fromkeys((72, 73, 202, 203, 206, 207, 211, 212, 242, 243), _NETWORK),
    **dict.fromkeys((101, 115), _SLEEPING),
    81: "disk sync",
    82: "disk fsync",
    83: "disk fdatasync",
    84: "disk sync_file_range",
    227: "disk msync",
    267: "disk syncfs",
    **dict.fromkeys((95, 260), _CHILDREN),
    **dict.fromkeys((63, 65, 67), "file read"),
    **dict.fromkeys((64, 66, 68), "file write"),
    25: "fcntl",
    98: "futex",
}
_SYSCALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(os.uname().machine, {})
"""Number of a system call -> what a thread in it waits for, and the call's name where that is shown."""
_SETLKW = {7, 38}
"""Commands of fcntl that wait for a lock."""
_OWN_THREADS = ("threading.py", "queue.py", "concurrent/futures/", "multiprocessing/pool.py")
"""Where the standard library waits for other threads of this process."""
_TOOK_PART = 0.03
"""A thread of a library that used this share of a core since the last sample is what its caller waits for."""
_COMPUTED = 0.5
"""A thread that ran for this share of the time since the last sample in which it could have had a core did not wait for others."""
_MOST_DELAY = 0.8
"""Of the time since the last sample: a thread that had no core for longer has shown little of what it does."""
_LOOKS, _LOOK_AGAIN_US = 4, 200
"""How often a thread that is ready to run is looked at again, and after how long. All others wait meanwhile, at most 2 % of the time."""
_RUNTIME_BYTES = 1 << 20
"""More than the interpreter's state takes."""
_LIBC = ctypes.PyDLL(None)
"""Keeps the interpreter lock during a call: whoever gives it up for a read of 2 us may wait 5 ms for it."""
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+).*\n((?:  .*\n)*)", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in ', re.MULTILINE)
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")
"""What is not ASCII in a file's name."""
_Stack = list[tuple[str, int]]
"""File and line of each frame, the innermost first."""


class WorkerSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker process at one moment. Counters count since it started; None where the system does not tell.

    `wait` is what the thread of the attempt waits for: `lock`, `gil`, `network`, `disk`, `sleep` (that the code asked for), `retry`
    (a C function that sleeps, as SQLite does for a lock), `child`, `other`; "" where it runs or is ready to run. `place` is the
    innermost line of the user's code, `file.py:41` or `file.py:41 (fsync)`; empty outside of attempts.
    """

    at: float
    wait: str = ""
    place: str = ""
    user_s: float = 0.0
    sys_s: float = 0.0
    delay_s: float | None = None
    """In which its threads were ready and had no core (/proc/self/task/*/schedstat)."""
    voluntary: int = 0
    involuntary: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    read_bytes: int | None = None
    written_bytes: int | None = None


class Sampler:
    """A thread that samples this process, outside the code that is measured.

    It waits for the interpreter lock too. If it had to, another thread held the lock at the moment of the sample.
    """

    def __init__(self, path: Path, every_s: float) -> None:
        self._main = threading.main_thread()
        self._every_s = every_s
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._told = os.memfd_create("hooke-stacks", os.MFD_CLOEXEC)
        self._lock = _interpreter_lock()
        self._ended = threading.Event()
        self._before: dict[int, tuple[int, int]] = {}
        """Thread -> the nanoseconds that it had run at the last sample, and had been ready without a core."""
        self._thread = threading.Thread(target=self._follow, name="hooke-samples", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        os.close(self._file)
        os.close(self._told)

    def _follow(self) -> None:
        last = time.monotonic()
        while True:
            switches = _switches()
            if self._ended.wait(self._every_s):
                return
            held = _switches() - switches > 1  # it slept twice: for the time, and for the interpreter lock
            now = time.monotonic()
            sample = self._sample(now - last, held=held)
            last = now
            try:
                os.write(self._file, msgspec.json.encode(sample) + b"\n")
            except OSError:  # the disk is full: the study says that nothing was sampled
                return
            if not os.fstat(self._file).st_nlink:  # its reader has removed the file: the run is over
                return

    def _sample(self, since_s: float, *, held: bool) -> WorkerSample:
        main = (
            os.getpid()
        )  # Linux: the main thread's id, which `native_id` is not in a forked process before Python 3.13
        threads, beginning = self._look(main, since_s, held=held)
        used = {
            thread: _scheduled(thread)
            for thread in map(int, os.listdir("/proc/self/task"))
            if thread != self._thread.native_id
        }
        took = [
            thread
            for thread, (cpu, _) in used.items()
            # A thread that is new since the last sample has used all of its time since then.
            if cpu - self._before.get(thread, (0 if self._before else cpu, 0))[0]
            >= _TOOK_PART * 1e9 * since_s
        ]
        self._before = used
        native = bool(set(took) - threads.keys())
        wait, place = _attempt_waits(threads, main, beginning=beginning, held=held, native=native)
        usage, io = resource.getrusage(resource.RUSAGE_SELF), _io()
        return WorkerSample(
            at=time.time(),
            wait=wait,
            place=place,
            user_s=usage.ru_utime,
            sys_s=usage.ru_stime,
            delay_s=sum(delay for _, delay in used.values()) / 1e9 if used else None,
            voluntary=usage.ru_nvcsw,
            involuntary=usage.ru_nivcsw,
            minor_faults=usage.ru_minflt,
            major_faults=usage.ru_majflt,
            read_bytes=io.get("read_bytes"),
            written_bytes=io.get("write_bytes"),
        )

    def _look(self, main: int, since_s: float, *, held: bool) -> tuple[dict[int, _Thread], int]:
        """The threads that run Python, and how many have not begun."""
        os.ftruncate(self._told, 0)
        os.lseek(self._told, 0, os.SEEK_SET)
        # One call that keeps the interpreter lock. Frame objects of threads that run on can end the process (CPython issue 111363).
        faulthandler.dump_traceback(self._told, all_threads=True)
        known, beginning = {main: self._main.ident}, 0
        for thread in threading.enumerate():
            if thread.native_id is None:  # to begin, it needs the interpreter lock
                beginning += 1
            elif thread not in (self._main, self._thread):
                known[thread.native_id] = thread.ident
        # Before anything lets go of the interpreter lock: then threads run on.
        told = {thread: _system_call(thread) for thread in known}
        for _ in range(_LOOKS):
            # No other thread runs Python now. One that is ready to run computes in a library, or its wait for the interpreter lock has
            # just timed out (after 5 ms) and it needs a core to begin the next: a worker's threads share one core.
            if not (ready := [thread for thread, called in told.items() if not called]):
                break
            _LIBC.usleep(_LOOK_AGAIN_US)
            told |= {thread: _system_call(thread) for thread in ready}
        found_stacks = _stacks_of(
            os.pread(self._told, os.fstat(self._told).st_size, 0).decode("ascii", "replace")
        )
        stacks = {thread: found_stacks.get(ident or 0, []) for thread, ident in known.items()}
        found = {}
        for thread, stack in stacks.items():
            ran, delayed = (
                now - then
                for now, then in zip(_scheduled(thread), self._before.get(thread, (0, 0)), strict=True)
            )
            computed = ran >= _COMPUTED * (1e9 * since_s - min(delayed, _MOST_DELAY * 1e9 * since_s))
            found[thread] = _Thread.of(
                stack, _wait_of(told[thread], self._lock), held=held, computed=computed
            )
        return found, beginning


class _Thread(NamedTuple):
    """A thread that runs Python: what it waits for, and where.

    `idle`: it waits for other threads of this process, or for none of the user's. `woken`: it waited for other threads, and wants
    the interpreter lock to go on; one that computes in the same lines, with queues and events, has used a core since the last sample.
    """

    wait: str
    place: str
    idle: bool
    woken: bool

    @staticmethod
    def of(stack: _Stack, wait: str, *, held: bool, computed: bool) -> _Thread:
        synced = _SYNCS.search(_text_of(stack)) if wait == _INTERPRETER and not held else None
        if (
            synced is not None
        ):  # a fast disk: the call ended while the sampler woke, and wants the lock from it
            wait = f"{_SYNCING} {synced[1]}"
        wait, _, call = wait.partition(" ")
        place = _place_of(stack)
        if place and call:
            place += f" ({call})"
        own = bool(stack) and any(part in stack[0][0] for part in _OWN_THREADS)
        if wait == _SLEEPING and place and "sleep" not in _text_of(stack):
            wait = "retry"
        idle = not place or (own and wait not in ("", _INTERPRETER))
        return _Thread(wait, place, idle=idle, woken=own and wait == _INTERPRETER and not computed)


def _attempt_waits(
    threads: Mapping[int, _Thread], main: int, *, beginning: int, held: bool, native: bool
) -> tuple[str, str]:
    """What the attempt waits for, and where: its own thread, or the threads that this one waits for.

    `beginning`: threads that have not begun; `held`: another thread than the sampler held the interpreter lock when the sample was
    due; `native`: threads of libraries compute.
    """
    wait, place, idle, _ = threads[main]
    if not place:
        return "", ""
    running = [each for each in threads.values() if not each.wait]
    queue = [each for each in threads.values() if each.wait == _INTERPRETER]
    # One that wants the lock now may be the one that had it, and wants it back from the sampler.
    back = not running and not all(each.woken for each in queue)
    waiting = len(queue) + beginning - back if held else 0
    one_at_a_time = waiting > 0 and waiting >= len(running) + back
    if not idle:
        if wait in ("", _INTERPRETER):
            return (_INTERPRETER if one_at_a_time else ""), place
        alone = len(running) + len(queue) == 0
        return ("" if (held and alone) or (native and wait == _LOCKING) else wait), place
    waits = Counter((each.wait, each.place) for each in threads.values() if not each.idle)
    locking = sum(count for (wait, _), count in waits.items() if wait == _LOCKING)
    if one_at_a_time and waiting > locking:
        return _INTERPRETER, place
    computing = len(running) + len(queue)
    chosen = {
        what: count
        for what, count in waits.items()
        if what[0] == _LOCKING or (not computing and what[0] != "other")
    }
    if not chosen or (computing and locking < computing):
        return ("" if computing or native else "other"), place
    return max(chosen, key=chosen.__getitem__)


def _stacks_of(text: str) -> dict[int, _Stack]:
    """Thread -> its lines, from what faulthandler writes: at most a hundred frames of each."""
    return {
        int(thread, 16): [(_plain(file), int(line)) for file, line in _FRAME.findall(frames)]
        for thread, frames in _THREAD.findall(text)
    }


def _plain(file: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[found.lastindex or 0], 16)), file)


def _interpreter_lock() -> range:
    """The addresses of the interpreter's state, where its lock is: other locks of Python are on the heap. Empty where it is hidden."""
    try:
        start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    except ValueError:
        return range(0)
    heaps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    ends = [int(line.partition("-")[0], 16) for line in heaps]
    return range(start, min([start + _RUNTIME_BYTES, *(end for end in ends if end > start)]))


def _switches() -> int:
    """How often this thread has slept."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _told(file: str) -> str:
    """The text of a file of /proc, which fits into one read. Keeps the interpreter lock. Raises OSError."""
    descriptor = _LIBC.open(file.encode(), os.O_RDONLY | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(f"{file} cannot be opened")
    text = ctypes.create_string_buffer(4096)
    _LIBC.read(descriptor, text, len(text) - 1)
    _LIBC.close(descriptor)
    return text.value.decode("ascii", "replace")


def _system_call(thread: int) -> list[str]:
    """The system call in which a thread waits: its number and arguments; empty if it runs, or has ended."""
    try:
        called = _told(f"/proc/self/task/{thread}/syscall").split()
        if called and int(called[0]) not in _SYSCALLS:  # ValueError: it is running
            state = _told(f"/proc/self/task/{thread}/stat").rpartition(")")[2].split()[0]
            return ["D"] if state == "D" else called
    except (OSError, ValueError):
        return []
    return called


def _wait_of(called: Sequence[str], lock: range) -> str:
    """What a thread of this process waits for in a system call, of the disk with its name; `lock`: addresses of the interpreter lock."""
    if not called or called[0] in ("-1", "D"):
        return _SYNCING if called and called[0] == "D" else ""
    kind = _SYSCALLS.get(int(called[0]), "other")
    if kind == "futex":
        if int(called[1], 16) in lock:
            return _INTERPRETER
        timed = int(called[4], 16) > 0
        return "" if timed and not lock else _LOCKING
    if kind == "fcntl":
        return _LOCKING if int(called[2], 16) in _SETLKW else "other"
    kind, _, call = kind.partition(" ")
    if kind == "file":
        kind = _end_of(int(called[1], 16))
    return f"{kind} {call}" if kind == _SYNCING else kind


def _end_of(descriptor: int) -> str:
    """What a thread waits for that reads or writes a descriptor."""
    try:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "other"
    if name.startswith("socket:"):
        return _NETWORK
    return _SYNCING if name.startswith("/") and not name.startswith("/dev/") else "other"


def _scheduled(thread: int) -> tuple[int, int]:
    """Nanoseconds that a thread ran, and that it was ready and had no core; zeros where it has ended or the kernel does not count."""
    try:
        ran, delayed, _ = _told(f"/proc/self/task/{thread}/schedstat").split()
    except (OSError, ValueError):
        return 0, 0
    return int(ran), int(delayed)


def _io() -> dict[str, int]:
    """/proc/self/io; empty where it may not be read."""
    try:
        lines = _told("/proc/self/io").splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


def _place_of(stack: _Stack) -> str:
    """The innermost line of the user's code on a stack; empty if there is none."""
    return next((f"{os.path.basename(file)}:{line}" for file, line in stack if is_users(file)), "")


def _text_of(stack: _Stack) -> str:
    return linecache.getline(*stack[0]) if stack else ""
