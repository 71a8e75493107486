"""Which run and which task somebody means by what he typed."""

from __future__ import annotations

from difflib import get_close_matches

from hooke.base.errors import UsageError
from hooke.journal.studies import PREFIX, read_study
from hooke.project.folder import Project
from hooke.project.outcome import view_of

__all__ = ["run_and_task"]


def run_and_task(
    project: Project, first: str, second: str, *, verb: str, studies: bool = False
) -> tuple[str, str]:
    """The run and the task of `RUN TASK`, `RUN`, `TASK` (of the last run) or nothing (the last run, and no task).

    With `studies` the last run may be one, of that task where one is given. Raises UsageError with the names that there
    are.
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
    """The newest run. Raises UsageError where there is none."""
    for name in project.runs.names():
        if not name.startswith(PREFIX) or (studies and (not task or _tasks(project, name) == [task])):
            return name
    return project.runs.find()


def _tasks(project: Project, run: str) -> list[str]:
    study = read_study(project.runs.folder(run)) if run.startswith(PREFIX) else None
    return [study.started.task] if study is not None else list(view_of(project.runs, run).tasks)


def _task(project: Project, run: str, name: str, *, verb: str) -> str:
    tasks = _tasks(project, run)
    if name in tasks:
        return name
    near = get_close_matches(name, tasks, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"run {run} has no task {name!r}",
        mend=f"{meant}its tasks: {', '.join(tasks) or 'none was planned'}",
        next=f"hooke {verb} {run} {near[0] if near else 'TASK'}",
    )
