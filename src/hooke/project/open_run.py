"""How every run begins: its folder, its lock, and a first event with the facts of the process that drives it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import version

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import UsageError
from hooke.base.files import FileLock, writing
from hooke.journal.events import Event, RunStarted, StudyStarted
from hooke.journal.run_folders import DRIVER, LOCK
from hooke.journal.writer import Journal
from hooke.project.folder import Project

__all__ = ["lock_run", "open_run"]


def lock_run(project: Project, run: str) -> FileLock:
    """Make the run's folder and take its lock.

    Raises UsageError where another process drives the run, HookeError where the folder cannot be written.
    """
    folder = project.runs.folder(run)
    with writing("the run's folder", folder):
        project.create()
        lock = FileLock(project.runs.create(run) / LOCK)
        acquired = lock.try_acquire()
    if not acquired:
        raise UsageError(f"run {run} is being driven by another process", next=f"hooke show {run}")
    return lock


def open_run(
    project: Project,
    begun: RunStarted | StudyStarted,
    *,
    clock: Clock,
    observers: Sequence[Callable[[Event], None]] = (),
) -> Journal:
    """The driver's journal of a run whose folder exists; its first event is `begun`, with the facts of this process.

    Raises JournalError.
    """
    run = begun.run if isinstance(begun, RunStarted) else begun.study
    durable = project.settings.journal.durable
    journal = Journal.create(project.runs.folder(run), DRIVER, durable=durable, clock=clock)
    try:
        journal.observers.extend(observers)
        facts = {
            "folder": os.getcwd(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "hooke": version("hooke"),
        }
        journal.append(msgspec.structs.replace(begun, **facts))
    except BaseException:
        journal.close()
        raise
    return journal
