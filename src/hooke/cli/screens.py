"""Error screens on stderr, and exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
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
    "NO_THREAD",
    "CommandSession",
    "bug_screen",
    "command",
    "error_facts",
    "error_screen",
    "exit_code",
    "machine_error",
    "refuse",
    "say_next",
]


EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BROKEN = 70

NO_THREAD = "can't start new thread"
"""The text of Python's RuntimeError."""
"""EX_SOFTWARE of sysexits.h: a bug in Hooke."""
EXIT_STOPPED = 130
"""The code of shells for Ctrl-C; `hooke stop` ends a run in the same way."""

_BEFORE_ANYTHING_RAN = (UsageError, TraceError, ConfigError, MissingExtra, NotFingerprintable)


@dataclass(slots=True)
class CommandSession:
    """State of one command: whether to show tracebacks, and the project."""

    debug: bool = False
    project: Project | None = None


def exit_code(error: HookeError) -> int:
    """2 for wrong usage or configuration, 130 for a stopped run, 1 for other failures."""
    if isinstance(error, RunStopped):
        return EXIT_STOPPED
    return EXIT_USAGE if isinstance(error, _BEFORE_ANYTHING_RAN) else EXIT_FAILED


_JOINTS = re.compile(r"(, or |\n(?:or|when fixed): )")
"""Between several commands of one `next`."""


def command(text: str, project: Project | None) -> str:
    """A command to suggest, or several, with `--project` if the working directory belongs to another project."""
    return "".join(_in_project(part, project) for part in _JOINTS.split(text))


def _in_project(text: str, project: Project | None) -> str:
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
    """The error with its first line in red, below Python's traceback under --debug."""
    error.next = command(error.next, session.project)
    first, _, rest = str(error).partition("\n")
    screen = click.style(first, fg="red", bold=True) + ("\n" + rest if rest else "")
    if session.debug:
        screen = "".join(traceback.format_exception(error)) + "\n" + screen
    return screen


def error_facts(error: HookeError, session: CommandSession) -> dict[str, Any]:
    """The error as plain values for `--json`."""
    facts: dict[str, Any] = {"kind": type(error).__name__, "what": error.what}
    facts |= {name: getattr(error, name) for name in ("where", "why", "fix")}
    facts["next"] = command(error.next, session.project)
    if isinstance(error, TaskFailed):
        facts |= {"task": error.task, "item": error.item}
        facts |= {"arguments": error.arguments, "attempt": error.attempt}
        facts |= {"worker": error.worker, "log_tail": list(error.log_tail), "details": error.details}
    return facts


def refuse(error: HookeError, session: CommandSession, *, as_json: bool, **facts: Any) -> int:
    """Print an error screen, with `--json` also `facts` and the error on stdout; returns the exit code."""
    if as_json:
        click.echo(json.dumps({**facts, "error": error_facts(error, session)}, indent=2))
    click.echo(error_screen(error, session), err=True)
    return exit_code(error)


def say_next(text: str, project: Project | None) -> None:
    """Suggest a command on stderr."""
    click.echo(f"next: {command(text, project)}", err=True)


def machine_error(error: OSError | MemoryError | RuntimeError) -> HookeError:
    """An error of the operating system as a Hooke error, not as a bug. A RuntimeError is that of a thread that cannot start."""
    if isinstance(error, MemoryError):
        return HookeError(
            "the operating system refused: no memory is left", fix="free memory, or allow this process more"
        )
    if isinstance(error, RuntimeError):
        return HookeError(
            f"the operating system refused: {error}",
            fix="raise the limit on processes and threads (ulimit -u, or the container's pids limit), or end some",
        )
    fixes = {
        errno.ENOSPC: "make room on that disk (`hooke cache gc --max SIZE` evicts results)",
        errno.EDQUOT: "make room within your quota (`hooke cache gc --max SIZE` evicts results)",
        errno.EACCES: "give yourself permission, or work in another folder",
        errno.EPERM: "give yourself permission, or work in another folder",
        errno.EROFS: "work in a writable folder",
        errno.ENOTDIR: "a file lies where Hooke needs a folder: move it away",
        errno.EMFILE: "allow more open files: ulimit -n 65536",
    }
    made = HookeError(
        f"the operating system refused: {error.strerror or error}",
        where=str(error.filename or ""),
        fix=fixes.get(error.errno or 0, ""),
        next="hooke doctor",
    )
    made.__cause__ = error
    return made


def bug_screen(error: BaseException) -> str:
    """The screen for an unexpected error."""
    lines = [
        "".join(traceback.format_exception(error)).rstrip(),
        "",
        click.style(f"this is a bug in Hooke: {type(error).__name__}: {error}", fg="red", bold=True),
        "  why: Hooke did not expect this error; finished results are in the store and the journal",
        "  next: run hooke doctor, and please report the lines above",
    ]
    return "\n".join(lines)


def _is_here(project: Project) -> bool:
    from hooke.project.folder import Project

    try:
        return Project.find(Path.cwd()).root == project.root
    except (HookeError, OSError):
        return False
