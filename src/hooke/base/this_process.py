"""What a process has once: hooks after a fork, environment variables, standard streams, a garbage collector, a limit of open files, and a place in a gang."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Protocol, Self, TextIO
from weakref import WeakSet

from hooke.base.clock import Clock

__all__ = [
    "MOST_RANKS",
    "NO_CHANGE",
    "ForkAware",
    "RareCollections",
    "keep_imports",
    "most_ranks",
    "on_fork",
    "raise_open_files",
    "set_variables",
    "silence",
    "variables_here",
    "with_variables",
]


class ForkAware(Protocol):
    """An object for `on_fork`."""

    def after_fork(self) -> None:
        """Called in the child before its other Python code. Must not raise or wait for a lock."""
        ...


_watched: WeakSet[ForkAware] = WeakSet()


def on_fork(watched: ForkAware) -> None:
    """Call `watched.after_fork()` in every child forked while `watched` lives; keeps no reference to it."""
    _register()
    _watched.add(watched)


@cache
def _register() -> None:
    # At the first use, because an import must have no effect.
    os.register_at_fork(after_in_child=_tell_all)


def _tell_all() -> None:
    for watched in list(_watched):
        watched.after_fork()


# --- Environment variables that Hooke sets and reads for itself.


def variables_here() -> dict[bytes, bytes]:
    """The variables of `os.environ`, for Hooke itself: in a worker `os.environ` notes who reads and sets what."""
    found: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return found


def set_variables(variables: Mapping[bytes, bytes | None]) -> None:
    """Set environment variables for Hooke itself; None removes one."""
    data = variables_here()
    for name, value in variables.items():
        if value is None:
            if data.pop(name, None) is not None:
                os.unsetenv(name)
        elif data.get(name) != value:
            os.putenv(name, value)
            data[name] = value


NO_CHANGE: AbstractContextManager[None] = nullcontext()


def with_variables(variables: Mapping[str, str | None]) -> AbstractContextManager[None]:
    """Inside, these variables have these values; None for one that is not set. It is NO_CHANGE if they have them already."""
    here = variables_here()
    for name, value in variables.items():
        if here.get(os.fsencode(name)) != (None if value is None else os.fsencode(value)):
            return _changed_variables(variables)
    return NO_CHANGE


@contextmanager
def _changed_variables(variables: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    differing = {name for name, value in variables.items() if before[name] != value}
    _put_variables({name: variables[name] for name in differing})
    try:
        yield
    finally:
        _put_variables({name: before[name] for name in differing})


def _put_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# --- Garbage collection: after imports, and while a run is traced and driven.


def keep_imports() -> None:
    """Where a process turned collections off to import what it needs: turn them on, and let none look at that again, not even at exit."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


RARELY = 50_000
"""New objects between two collections. Python's own 700 find nothing in the scheduler's state, at a tenth of a short call's cost."""

COLLECT_S = 1.0
"""Garbage of other threads waits no longer than this for a collection, however few objects it has."""


COLLECT_OLDEST_S = 60.0
"""A collection of all generations looks at the whole program."""


class RareCollections:
    """Inside, Python collects garbage after 50,000 new objects, or when `due` is called a second after the last time.

    Only the threshold of the youngest generation is raised, so `gc.disable()` and `gc.enable()` keep their meaning. A program that
    has turned collections off, or made them as rare, keeps its own thresholds, as one that sets them inside does. May be entered
    by several threads at once: the last to leave sets the threshold back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_at: float | None = None

    def __enter__(self) -> Self:
        _collections.enter()
        return self

    def __exit__(self, *_: object) -> None:
        _collections.leave()

    def due(self) -> None:
        """Let Python collect what it would have by now, once a second."""
        now = self._clock.monotonic()
        if self._due_at is None:
            self._due_at = now + COLLECT_S
        elif now >= self._due_at:
            self._due_at = now + COLLECT_S
            _collections.catch_up(now)


class _Collections:
    """The collector of this process, and how many runs want it to be rare."""

    def __init__(self) -> None:
        self._usual: tuple[int, int, int] | None = None
        """The program's thresholds while ours are set."""
        self._oldest_at = -COLLECT_OLDEST_S
        """When all generations were collected last, by the clock of the run that did."""
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: no run goes on there."""
        self._lock = threading.Lock()
        self._runs = 0
        self._set_back()

    def enter(self) -> None:
        with self._lock:
            on_fork(self)
            self._runs += 1
            usual = gc.get_threshold()
            if self._usual is None and 0 < usual[0] < RARELY:
                self._usual = usual
                gc.set_threshold(RARELY, *usual[1:])

    def leave(self) -> None:
        with self._lock:
            self._runs = max(self._runs - 1, 0)  # a forked child leaves what its parent entered
            if not self._runs:
                self._set_back()

    def catch_up(self, now: float) -> None:
        usual, counts = self._usual, gc.get_count()
        if usual is None or not gc.isenabled() or counts[0] <= usual[0]:
            return
        oldest = 1 if 0 < usual[1] < counts[1] else 0
        # A time before the last one is of another clock, which says nothing of how long ago that was.
        just_now = self._oldest_at <= now < self._oldest_at + COLLECT_OLDEST_S
        if 0 < usual[2] < counts[2] and not just_now:
            self._oldest_at, oldest = now, 2
        gc.collect(oldest)

    def _set_back(self) -> None:
        usual, self._usual = self._usual, None
        if usual is not None and gc.get_threshold() == (RARELY, *usual[1:]):
            gc.set_threshold(*usual)


_collections = _Collections()


# --- The size of an elastic gang, as its ranks see it.

MOST_RANKS = "HOOKE_MOST_RANKS"
"""Environment variable of the ranks of an elastic gang: how many ranks it may have at other times."""


def most_ranks() -> int:
    """The most ranks that the elastic gang of this process may have; 0 outside one."""
    return int(os.environ.get(MOST_RANKS, "0"))


def raise_open_files() -> int:
    """Raise the limit of open files as far as that is allowed; returns it."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 16)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def silence(stream: TextIO) -> None:
    """Lead a standard stream whose reader is gone to nowhere.

    Otherwise Python's last flush of what is left in its buffer fails, and the process ends with exit code 120.
    """
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor, or a closed one
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
