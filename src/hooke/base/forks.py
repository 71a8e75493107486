"""Hooks for objects that must repair themselves in a forked child: they hold locks, threads or file positions."""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol
from weakref import WeakSet

__all__ = ["ForkAware", "on_fork"]


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
