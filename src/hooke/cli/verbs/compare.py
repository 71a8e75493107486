"""`hooke compare`: runs side by side."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from hooke.cli.options import complete_run, in_project, json_option
from hooke.cli.screens import say_next
from hooke.comparing.facts import facts_of
from hooke.comparing.side_by_side import Comparison
from hooke.project.folder import Project

__all__ = ["compare"]


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", shell_complete=complete_run)
@click.option(
    "--html",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write an HTML page with learning curves and parallel coordinates. Needs the extra `plot`.",
)
@json_option
@in_project
def compare(*, runs: tuple[str, ...], file: Path | None, as_json: bool, project: Project) -> int:
    """Show what differs between runs: parameters, metrics, tags, artifacts, durations and code. Equal rows are counted.

    RUN may be a prefix of an id. For a metric with several values, the last, the smallest (NAME.min) and the largest
    (NAME.max) are shown.
    """
    names = [project.runs.find(run) for run in runs]
    found = Comparison(project.runs, [facts_of(project.runs, name) for name in names])
    if file is not None:
        found.save(file)
    if as_json:
        click.echo(json.dumps(found.facts(), indent=2))
        return 0
    click.echo(found.text())
    if file is None:
        again = shlex.join(["hooke", "compare", *runs, "--html", "compared.html"])
        say_next(again, project)
    return 0
