"""`hooke debug`: rerun one task in this process with its real inputs under pdb."""

from __future__ import annotations

import pdb  # noqa: T100 - the purpose of this verb
import sys

import click

from hooke.base.errors import UsageError
from hooke.base.formats import short_repr
from hooke.cli.options import complete_run, in_project, run_and_task
from hooke.cli.screens import EXIT_FAILED, command
from hooke.pipeline.failures import user_traceback
from hooke.project.folder import Project
from hooke.running.replay import Replay, replay
from hooke.tracking.tracker import MUTED, logging_into

__all__ = ["debug"]


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option("--item", type=int, help="The item of a map.  [default: the one that failed]")
@click.option("--step", is_flag=True, help="Stop at the task's first line instead of where it fails.")
@in_project
def debug(*, run: str, task: str, item: int | None, step: bool, project: Project) -> int:
    """Rerun TASK of RUN (by default the last run) in this process, with its original inputs.

    If it fails, pdb opens at the failing line. The current code runs, so you can try an edit at once.
    """
    name, only = run_and_task(project, run, task, verb="debug")
    if not only:
        raise UsageError("missing TASK", next=command(f"hooke debug {name} TASK", project))
    again = replay(project, name, only, item=item)
    click.echo(f"{again.shown} of run {name}", err=True)
    return _step(again) if step else _until_it_fails(again)


def _step(again: Replay) -> int:
    with logging_into(MUTED):
        pdb.runcall(again.function, *again.args, **again.kwargs)
    return 0


def _until_it_fails(again: Replay) -> int:
    try:
        with logging_into(MUTED):
            result = again.function(*again.args, **again.kwargs)
    except Exception as error:  # noqa: BLE001 - any exception of the task is of interest
        click.echo(user_traceback(error), err=True)
        pdb.post_mortem(sys.exc_info()[2])
        return EXIT_FAILED
    click.echo(f"the task did not fail; it returned {short_repr(result)}")
    return 0
