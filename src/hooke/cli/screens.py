"""Errors as one screen on stderr, and the exit code that goes with each."""

from __future__ import annotations

import errno
import os
import shlex
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hooke.base.errors import (
    ConfigError,
    HookeError,
    MissingExtra,
    NotFingerprintable,
    RunStopped,
    TaskFailed,
    TraceError,
    UsageError,
)

if TYPE_CHECKING:
    from hooke.project.folder import Project

__all__ = [
    "EXIT_BROKEN",
    "EXIT_FAILED",
    "EXIT_STOPPED",
    "EXIT_USAGE",
    "CommandSession",
    "bug_screen",
    "command",
    "error_facts",
    "error_screen",
    "exit_code",
    "machine_error",
]


EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BROKEN = 70
"""EX_SOFTWARE of sysexits.h: the fault is Hooke's own."""
EXIT_STOPPED = 130
"""What shells give for Ctrl-C; `hooke stop` ends a run in the same way."""

_BEFORE_ANYTHING_RAN = (UsageError, TraceError, ConfigError, MissingExtra, NotFingerprintable)


@dataclass(slots=True)
class CommandSession:
    """What is true for the whole of one command: whether tracebacks are shown, and which project it is about."""

    debug: bool = False
    project: Project | None = None


def exit_code(error: HookeError) -> int:
    """2 where what was asked for cannot be, 130 for a run that was stopped, 1 for all that failed on the way."""
    if isinstance(error, RunStopped):
        return EXIT_STOPPED
    return EXIT_USAGE if isinstance(error, _BEFORE_ANYTHING_RAN) else EXIT_FAILED


def command(text: str, project: Project | None) -> str:
    """A command to type next, with `--project` where the working directory belongs to another project."""
    if (
        project is None
        or not text.startswith("hooke ")
        or text.startswith(("hooke run ", "hooke measure "))
        or _is_here(project)
    ):
        return text
    folder = os.path.relpath(project.root)
    shorter = folder if len(folder) < len(str(project.root)) else str(project.root)
    ours, dashes, theirs = text.partition(" -- ")
    return f"{ours} --project {shlex.quote(shorter)}{dashes}{theirs}"


def error_screen(error: HookeError, session: CommandSession) -> str:
    """The error as it is, its first line in red; with Python's own traceback above it under --debug."""
    error.next = command(error.next, session.project)
    first, _, rest = str(error).partition("\n")
    screen = click.style(first, fg="red", bold=True) + ("\n" + rest if rest else "")
    if session.debug:
        screen = "".join(traceback.format_exception(error)) + "\n" + screen
    return screen


def error_facts(error: HookeError, session: CommandSession) -> dict[str, Any]:
    """The error as plain values, for `--json`."""
    facts: dict[str, Any] = {"kind": type(error).__name__, "what": error.what}
    facts |= {name: getattr(error, name) for name in ("where", "why", "fix")}
    facts["next"] = command(error.next, session.project)
    if isinstance(error, TaskFailed):
        facts |= {"task": error.task, "arguments": error.arguments, "attempt": error.attempt}
        facts |= {"worker": error.worker, "log_tail": list(error.log_tail), "details": error.details}
    return facts


def machine_error(error: OSError) -> HookeError:
    """What the operating system refused, told as what it is rather than as a bug."""
    fixes = {
        errno.ENOSPC: "make room on that disk (`hooke cache gc --max SIZE` evicts results)",
        errno.EDQUOT: "make room within your quota (`hooke cache gc --max SIZE` evicts results)",
        errno.EACCES: "give yourself the right to it, or work in another folder",
        errno.EPERM: "give yourself the right to it, or work in another folder",
        errno.EROFS: "work in a folder that can be written",
        errno.EMFILE: "allow more open files: ulimit -n 65536",
    }
    made = HookeError(
        f"the machine refused: {error.strerror or error}",
        where=str(error.filename or ""),
        fix=fixes.get(error.errno or 0, ""),
        next="hooke doctor",
    )
    made.__cause__ = error
    return made


def bug_screen(error: BaseException) -> str:
    """An error that Hooke did not foresee."""
    lines = [
        "".join(traceback.format_exception(error)).rstrip(),
        "",
        click.style(f"this is a bug in Hooke: {type(error).__name__}: {error}", fg="red", bold=True),
        "  why: Hooke did not foresee this error; what had finished is in the store and the journal",
        "  next: hooke doctor, and please report the lines above",
    ]
    return "\n".join(lines)


def _is_here(project: Project) -> bool:
    from hooke.project.folder import Project

    try:
        return Project.find(Path.cwd()).root == project.root
    except (HookeError, OSError):
        return False
