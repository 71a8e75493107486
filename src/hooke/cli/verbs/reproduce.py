"""`hooke reproduce` and `hooke debug`: repeat a run, or one of its tasks, from the record."""

from __future__ import annotations

import json
import pdb  # noqa: T100 - the purpose of this verb
from types import FrameType, TracebackType

import click

from hooke.base.errors import UsageError
from hooke.base.formats import readable, short_repr
from hooke.base.user_code import is_users
from hooke.cli.options import complete_run, in_project, json_option, run_and_task
from hooke.cli.screens import EXIT_FAILED
from hooke.journal.run_view import view_of
from hooke.pipeline.failures import user_traceback
from hooke.project.folder import Project
from hooke.running.replay import Replay, replay
from hooke.tracking.tracker import MUTED, logging_into

__all__ = ["debug", "reproduce"]

EXIT_DIFFERENT = 3
EXIT_UNMET = 4


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.option("--verify", is_flag=True, help="Repeat the run in a store of its own, and compare each result.")
@click.option("--here", is_flag=True, help="Use the project's current code instead of the recorded tree.")
@click.option("--best-effort", is_flag=True, help="Repeat the run even if conditions differ.")
@click.option(
    "--rtol",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Relative tolerance for numbers.",
)
@click.option(
    "--atol",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Absolute tolerance for numbers.",
)
@click.option("--keep", is_flag=True, help="Keep the folder with the restored tree and the new results.")
@json_option
@in_project
def reproduce(*, run: str, rtol: float, atol: float, as_json: bool, project: Project, **asked: bool) -> int:
    """Check whether RUN (by default the last run) can be repeated; with --verify, repeat it and compare the results.

    The conditions are code, Python, library versions, data files, seed, thread counts and hardware. The code is the tree
    that the run recorded, restored outside the project. For a script with start_run(), the logged values are compared.

    Exit codes: 0 all conditions are met, or all results are equal or within the tolerance; 1 the repetition failed;
    2 wrong usage; 3 results differ; 4 a condition differs, so the run was not repeated.
    """
    from hooke.running.reproduce.reproduce import ReproduceOptions, reproduce_in
    from hooke.running.reproduce.result_comparison import Tolerance

    options = ReproduceOptions(tolerance=Tolerance(rtol=rtol, atol=atol), **asked)
    found = reproduce_in(project, project.runs.find(run), options)
    click.echo(json.dumps(found.facts(), indent=2) if as_json else str(found))
    if found.status == "checked":
        return EXIT_UNMET if found.unmet else 0
    return {"unmet": EXIT_UNMET, "different": EXIT_DIFFERENT, "failed": EXIT_FAILED}.get(found.status, 0)


# --- `hooke debug`: rerun one task in this process with its real inputs under pdb.


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option("--item", type=int, help="The item of a map.  [default: the one that failed]")
@click.option("--step", is_flag=True, help="Stop at the task's first line instead of where it fails.")
@in_project
def debug(*, run: str, task: str, item: int | None, step: bool, project: Project) -> int:
    """Rerun TASK (by default the one that failed) of RUN (by default the last run) in this process, with its original inputs.

    If it fails, pdb opens at the failing line of your code. The current code runs, so you can try an edit at once.
    """
    name, only = run_and_task(project, run, task, verb="debug")
    only = only or _failed_task(project, name)
    again = replay(project, name, only, item=item)
    click.echo(f"{again.shown} of run {name}", err=True)
    return _step(again) if step else _until_it_fails(again)


def _failed_task(project: Project, run: str) -> str:
    """The task that failed, or the run's only one. Raises UsageError with the tasks if there is neither."""
    view = view_of(project.runs, run)
    failed = [event.node for _, event in view.failures()]
    if view.failure is not None:
        failed.insert(0, view.failure.node)
    names = [view.nodes[node].planned.task for node in failed if node in view.nodes] or list(view.tasks)
    tasks = list(dict.fromkeys(names))
    if failed and len(tasks) > 1:
        click.echo(f"{len(tasks)} tasks failed: {', '.join(tasks)}; this is the first", err=True)
    elif len(tasks) != 1:
        raise UsageError(
            f"no task of run {run} failed",
            fix=f"name one of its tasks: {', '.join(tasks)}" if tasks else "",
            next=f"hooke debug {run} {tasks[0]}" if tasks else f"hooke show {run}",
        )
    return tasks[0]


class _Debugger(pdb.Pdb):
    """pdb after an exception, at the innermost line of the user's code: `down` leads into the libraries that it called."""

    def get_stack(
        self, f: FrameType | None, t: TracebackType | None
    ) -> tuple[list[tuple[FrameType, int]], int]:
        stack, at = super().get_stack(f, t)
        own = [number for number, (frame, _) in enumerate(stack) if is_users(frame.f_code.co_filename)]
        return stack, own[-1] if own else at


def _step(again: Replay) -> int:
    with logging_into(MUTED), again.checkpoints():
        pdb.runcall(again.function, *again.args, **again.kwargs)
    return 0


def _until_it_fails(again: Replay) -> int:
    try:
        with logging_into(MUTED), again.checkpoints():
            result = again.function(*again.args, **again.kwargs)
    except Exception as error:  # noqa: BLE001 - any exception of the task is of interest
        click.echo(readable(user_traceback(error)), err=True)
        debugger = _Debugger()
        debugger.reset()
        debugger.interaction(None, error.__traceback__)
        return EXIT_FAILED
    click.echo(f"the task did not fail; it returned {short_repr(result)}")
    return 0
