"""Options that several verbs share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hooke.base.errors import UsageError
from hooke.cli.screens import Session
from hooke.project.folder import Project

__all__ = ["complete_run", "debug_option", "in_project", "is_unicode", "json_option", "the_project"]

F = TypeVar("F", bound=Callable[..., Any])


def _debug(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's signature
    if asked:
        ctx.ensure_object(Session).debug = True


def debug_option(function: F) -> F:
    """`--debug`, noted in the session."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show Python tracebacks of errors."
    )(function)


def json_option(function: F) -> F:
    """`--json`, given to the function as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def in_project(function: F) -> F:
    """`--project FOLDER` and `--debug`; the function gets the folder as `project`, for `the_project`."""
    option = click.option(
        "--project",
        metavar="FOLDER",
        type=click.Path(file_okay=True, path_type=Path),
        help="A folder or file of the project; by default the working directory's project.",
    )
    return debug_option(option(function))


def the_project(session: Session, folder: Path | None) -> Project:
    """The project that the command is about. Raises UsageError for a folder that does not exist, ConfigError."""
    folder = folder or Path.cwd()
    if not folder.exists():
        raise UsageError(f"--project {folder}: there is no such folder", where=os.getcwd())
    session.project = Project.find(folder)
    return session.project


def complete_run(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run ids that begin as typed, the newest first."""
    project = Project.find(ctx.params.get("project") or Path.cwd())
    return [CompletionItem(name) for name in project.runs.names() if name.startswith(incomplete)]


def is_unicode() -> bool:
    """Whether what is printed may be more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}
