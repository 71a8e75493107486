"""`hooke debug`: one task of a run again, in this process, with its real inputs, under pdb."""

from __future__ import annotations

import pdb  # noqa: T100 - it is what the verb is for
import sys
from pathlib import Path

import click

from hooke.base.errors import UsageError
from hooke.base.formats import short_repr
from hooke.cli.options import complete_run, in_project, run_and_task, the_project
from hooke.cli.screens import EXIT_FAILED, CommandSession, command
from hooke.pipeline.failures import user_traceback
from hooke.running.replay import Replay, replay
from hooke.tracking.tracker import MUTED, logging_into

__all__ = ["debug"]


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option("--item", type=int, help="Which item of a map; by default the one that failed.")
@click.option("--step", is_flag=True, help="Stop at the task's first line instead of where it fails.")
@in_project
@click.pass_obj
def debug(
    session: CommandSession, *, run: str, task: str, item: int | None, step: bool, project: Path | None
) -> int:
    """Run TASK of RUN (by default the last run) again, in this process, with the inputs that it had.

    Where it fails, pdb opens at the line that failed. The code is that of now, so an edit can be tried at once.
    """
    where = the_project(session, project)
    name, only = run_and_task(where, run, task, verb="debug")
    if not only:
        raise UsageError("which task?", next=command(f"hooke debug {name} TASK", where))
    again = replay(where, name, only, item=item)
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
    except Exception as error:  # noqa: BLE001 - whatever the task raises is what is looked for
        click.echo(user_traceback(error), err=True)
        pdb.post_mortem(sys.exc_info()[2])
        return EXIT_FAILED
    click.echo(f"it did not fail here: {short_repr(result)}")
    return 0
