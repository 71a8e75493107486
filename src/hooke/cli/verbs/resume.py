"""`hooke resume`: continues a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from hooke.cli.drive import DrivenRun
from hooke.cli.in_cluster import resume_in_cluster
from hooke.cli.options import backend_options, complete_run, in_project, json_option, worker_range
from hooke.cli.screens import CommandSession
from hooke.fleets.elastic import parse_wanted
from hooke.journal.reader import read
from hooke.journal.run_folders import DRIVER
from hooke.journal.run_view import view_of
from hooke.project.backends import find_backend
from hooke.project.folder import Project
from hooke.running.resume import last_resumable
from hooke.running.resume import resume as take_up
from hooke.running.run import Run

__all__ = ["resume"]


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@backend_options(default=None)
@click.option("--deadline", metavar="TIME", help="The new deadline: 30m, 2h.")
@click.option("--budget", metavar="USD", help="The budget including the cost so far: 20, or '$20'.")
@json_option
@in_project
@click.pass_obj
def resume(  # noqa: PLR0913 - one per option
    session: CommandSession,
    *,
    run: str,
    backend: str | None,
    workers: str | None,
    deadline: str | None,
    budget: str | None,
    as_json: bool,
    project: Project,
) -> int:
    """Continue RUN (by default the last unfinished run) and print its result.

    Finished tasks do not run again, except those whose code was edited: the current code counts. For a finished run, the
    result is printed. RUN may be a prefix of an id. --on moves the rest of it to another backend.
    """
    name = project.runs.find(run) if run else last_resumable(project)
    if project.runs.elsewhere(name) is not None:
        given = {"--on": backend, "--workers": workers, "--deadline": deadline, "--budget": budget}
        options = [f"{option}={value}" for option, value in given.items() if value is not None]
        return resume_in_cluster(project, name, options, as_json=as_json)
    _say_torn(project, name)
    earlier = view_of(project.runs, name)
    earlier.driver_alive(None)  # there will be one
    begun = earlier.begun
    serial = begun is not None and begun.kind == "pipeline" and _is_serial(project, backend or begun.place)
    conduct = DrivenRun(session=session, as_json=as_json, in_this_process=serial, earlier=earlier)
    if begun is not None and begun.folder != os.getcwd() and Path(begun.folder).is_dir():
        conduct.folder = Path(begun.folder)
    with conduct.in_folder():
        wanted = parse_wanted(deadline, budget, now=time.time())
        driver = take_up(
            project,
            name,
            observers=(conduct.progress.observe,),
            wanted=wanted,
            on=backend,
            workers=worker_range(workers),
        )
    if driver is None:
        click.echo(f"run {name} is finished already; this is its result", err=True)
        return conduct.told(Run(project, name))
    return conduct.drive(driver)


def _is_serial(project: Project, place: str) -> bool:
    return find_backend(place, workers=None, places=project.settings.places).engine == "serial"


def _say_torn(project: Project, run: str) -> None:
    """A driver that died while writing leaves half a record, whose work is repeated."""
    for segment in read(project.runs.folder(run), DRIVER):
        if segment.torn is not None:
            click.echo(
                f"the journal ended with an incomplete record, which was cut: {segment.torn}; everything before is kept",
                err=True,
            )
