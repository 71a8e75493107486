"""Which run and which task somebody means by what he typed."""

from __future__ import annotations

from difflib import get_close_matches

from hooke.base.errors import UsageError
from hooke.project.folder import Project
from hooke.project.outcome import view_of

__all__ = ["run_and_task"]


def run_and_task(project: Project, first: str, second: str, *, verb: str) -> tuple[str, str]:
    """The run and the task of `RUN TASK`, `RUN`, `TASK` (of the last run) or nothing (the last run, and no task).

    Raises UsageError with the names that there are.
    """
    if second:
        run = project.runs.find(first)
        return run, _task(project, run, second, verb=verb)
    if not first:
        return project.runs.find(), ""
    names = project.runs.names()
    if any(name.startswith(first) for name in names):
        return project.runs.find(first), ""
    run = project.runs.find()
    return run, _task(project, run, first, verb=verb)


def _task(project: Project, run: str, name: str, *, verb: str) -> str:
    tasks = list(view_of(project.runs, run).tasks)
    if name in tasks:
        return name
    near = get_close_matches(name, tasks, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"run {run} has no task {name!r}",
        mend=f"{meant}its tasks: {', '.join(tasks) or 'none was planned'}",
        next=f"hooke {verb} {run} {near[0] if near else 'TASK'}",
    )
