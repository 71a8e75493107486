"""Options that several verbs share."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.cli.screens import CommandSession
from hooke.journal.run_view import view_of
from hooke.journal.study_records import STUDY_PREFIX, read_study
from hooke.project.folder import Project

__all__ = [
    "TYPED",
    "backend_options",
    "check_target",
    "complete_run",
    "debug_option",
    "in_project",
    "is_unicode",
    "json_option",
    "lengths_options",
    "number_list",
    "options_of_command",
    "project_option",
    "run_and_task",
    "the_project",
    "worker_range",
]


TYPED = "hooke.typed"
"""Where a click context keeps the words after `hooke run`: those before and those from `--`."""


def options_of_command() -> list[str]:
    """The options of the command that runs now."""
    context = click.get_current_context(silent=True)
    return (
        []
        if context is None
        else [name for each in context.command.params for name in each.opts if name.startswith("--")]
    )


def check_target(target: str) -> None:
    """Raise UsageError for a mistyped option, which was taken for the file: commands leave unknown options to the pipeline."""
    if target.startswith("-"):
        raise UsageError(
            f"no option {target}",
            fix=f"{did_you_mean(target, options_of_command())}parameters of the pipeline come after the file",
        )


F = TypeVar("F", bound=Callable[..., Any])


def _debug(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's signature
    if asked:
        ctx.ensure_object(CommandSession).debug = True


def debug_option(function: F) -> F:
    """`--debug`, stored in the session."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show Python tracebacks of errors."
    )(function)


def lengths_options(whose: str, *, default: str) -> Callable[[F], F]:
    """The options that say how long prompts and answers of a language model are; `default` says what they are without."""

    def add(function: F) -> F:
        function = click.option(
            "--length-scale",
            default=1.0,
            type=click.FloatRange(min=0, min_open=True),
            metavar="F",
            help="Multiply them.",
        )(function)
        said = f"{whose}: azure-conversation, azure-code, mooncake, or a file.  [default: {default}]"
        return click.option("--lengths", metavar="NAME|FILE.csv", help=said)(function)

    return add


def json_option(function: F) -> F:
    """`--json`, passed to the function as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def in_project(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """`--project FOLDER` and `--debug`; the function receives the Project as `project`."""

    @functools.wraps(function)
    @click.pass_obj
    def opened(session: CommandSession, /, *args: Any, project: Path | None, **given: Any) -> int | None:
        found = the_project(session, project)
        if not found.data.is_dir():
            found.say_notes(below=True)
        return function(*args, project=found, **given)

    return project_option(opened)


def project_option(function: F) -> F:
    """`--project FOLDER` and `--debug`; the function receives the folder as `project`, for `the_project`."""
    option = click.option(
        "--project",
        metavar="FOLDER",
        type=click.Path(file_okay=True, path_type=Path),
        help="A folder or file of the project.  [default: the working directory's project]",
    )
    return debug_option(option(function))


def the_project(session: CommandSession, folder: Path | None) -> Project:
    """The project of the command. Raises UsageError for a folder that does not exist, ConfigError."""
    if folder is not None and not folder.exists():
        raise UsageError(f"--project {folder}: the folder does not exist", where=os.getcwd())
    session.project = _named(folder)
    return session.project


def _named(folder: Path | None) -> Project:
    return Project.find(Path.cwd()) if folder is None else Project.named(folder)


def complete_run(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run ids that start with what was typed, the newest first."""
    project = _named(ctx.params.get("project"))
    return [CompletionItem(name) for name in project.runs.names() if name.startswith(incomplete)]


def is_unicode() -> bool:
    """Whether stdout can encode more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}


def number_list(option: str, text: str | None, *, most: int | None = None) -> tuple[int, ...] | None:
    """The whole numbers of `1,2,4`; with `most`, from 1 to that. Raises UsageError."""
    if text is None:
        return None
    try:
        found = tuple(int(each) for each in text.split(","))
    except ValueError:
        found = ()
    if not found or (most is not None and not all(1 <= each <= most for each in found)):
        raise UsageError(f"{option} {text!r} is not a list of whole numbers", fix=f"write {option} 1,2,4")
    return found


def run_and_task(
    project: Project, first: str, second: str, *, verb: str, studies: bool = False
) -> tuple[str, str]:
    """The run and the task for `RUN TASK`, `RUN`, `TASK` (of the last run) or nothing (the last run, no task).

    With `studies`, the last run may be a study, of the given task if any. Raises UsageError with the valid names.
    """
    if second:
        run = project.runs.find(first)
        return run, _task(project, run, second, verb=verb)
    if not first:
        return _last(project, "", studies=studies), ""
    names = project.runs.names()
    if any(name.startswith(first) for name in names):
        return project.runs.find(first), ""
    run = _last(project, first, studies=studies)
    return run, _task(project, run, first, verb=verb)


def _last(project: Project, task: str, *, studies: bool) -> str:
    """The newest run. Raises UsageError if there is none."""
    for name in project.runs.names():
        if not name.startswith(STUDY_PREFIX) or (studies and (not task or _tasks(project, name) == [task])):
            return name
    return project.runs.find()


def _tasks(project: Project, run: str) -> list[str]:
    study = read_study(project.runs.folder(run)) if run.startswith(STUDY_PREFIX) else None
    return [study.started.task] if study is not None else list(view_of(project.runs, run).tasks)


def _task(project: Project, run: str, name: str, *, verb: str) -> str:
    tasks = _tasks(project, run)
    if name in tasks:
        return name
    near = get_close_matches(name, tasks, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"run {run} has no task {name!r}",
        fix=f"{meant}its tasks: {', '.join(tasks) or 'none'}",
        next=f"hooke {verb} {run} {near[0] if near else 'TASK'}",
    )


# --- Where a run runs.

_RANGE = re.compile(r"(?P<low>[0-9]+)(-(?P<high>[0-9]+))?")


def backend_options(*, default: str | None) -> Callable[[F], F]:
    """Add `--on` (as `backend`) and `--workers`. Without a default, a run stays where it was."""
    shown = f"  [default: {default}]" if default else ""

    def add(function: F) -> F:
        function = click.option(
            "--workers",
            metavar="N|LOW-HIGH",
            help="The number of workers; with LOW-HIGH it follows the work.",
        )(function)
        return click.option(
            "--on",
            "backend",
            default=default,
            metavar="BACKEND",
            help=f"The backend: local, local:N, serial, dask, ray, the address of a cluster, or a name in hooke.toml.{shown}",
        )(function)

    return add


def worker_range(text: str | None) -> int | tuple[int, int] | None:
    """The number of workers, or their range, as typed. Raises UsageError."""
    if text is None:
        return None
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--workers {text!r} is not a number of workers", fix="write --workers 4, or --workers 1-4"
        )
    low = int(match["low"])
    return (low, int(match["high"])) if match["high"] else low
