"""`hooke curve`: how a task scales, from the journal of a run or a study."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import click

from hooke.cli.options import complete_run, in_project, is_unicode, json_option, run_and_task
from hooke.cli.screens import say_next
from hooke.planning.curves import curve_of
from hooke.project.folder import Project

__all__ = ["curve"]


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option(
    "--save",
    "files",
    metavar="FILE",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the chart to FILE.svg, or with the extra `plot` to FILE.png or FILE.html. Can be repeated.",
)
@json_option
@in_project
def curve(*, run: str, task: str, files: tuple[Path, ...], as_json: bool, project: Project) -> int:
    """Show how TASK scales, from RUN (by default the last run).

    By default, TASK is the one that took longest. RUN may be a study of `hooke measure`. Other runs of the project
    contribute if they did the same work with another number of workers. Exit code 1 if the data do not determine a law.
    """
    name, only = run_and_task(project, run, task, verb="curve", studies=True)
    found = curve_of(project.runs, name, only)
    for file in files:
        found.save(file)
    if as_json:
        click.echo(json.dumps(found.facts(), indent=2))
        return 0
    click.echo(found.text(colour=not os.environ.get("NO_COLOR"), plain=not is_unicode()))
    if not files:
        again = shlex.join(["hooke", "curve", name, *filter(None, [only]), "--save", "curve.svg"])
        say_next(again, project)
    return 0
