"""`hooke import`: imports runs of another tracker into the project."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hooke.base.formats import aligned
from hooke.cli.entry import Commands
from hooke.cli.options import in_project, json_option
from hooke.cli.screens import EXIT_FAILED, EXIT_STOPPED, CommandSession, error_facts, error_screen, say_next
from hooke.importers.landing import Losses
from hooke.importers.neptune import ImportedRun, ImportOptions, import_neptune
from hooke.project.folder import Project

__all__ = ["imports"]

COLUMNS = ("run", "from project", "neptune run", "points", "attributes", "files", "state")
SAID = {
    "imported": "imported",
    "there": "already here",
    "changed": "already here, from other files",
    "found": "would be imported",
}


@click.group(cls=Commands, name="import")
def imports() -> None:
    """Import runs of another tracker into this project."""


@imports.command(
    "neptune", short_help="Import runs of Neptune, from a dump of neptune-exporter or from offline logs."
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--files",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder of the dump's files, if not beside its data, or of files that a log names.",
)
@click.option(
    "--from-project",
    "projects",
    multiple=True,
    metavar="NAME",
    help="Only runs of this Neptune project; * and ? are wildcards. Can be repeated.",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="ID",
    help="Only this Neptune run; * and ? are wildcards. Can be repeated.",
)
@click.option(
    "--experiment",
    default="",
    metavar="NAME",
    help="The pipeline name of the runs.  [default: their Neptune project]",
)
@click.option(
    "--step-multiplier",
    type=click.Choice(["1", "10", "100", "1000", "10000", "100000", "1000000"]),
    help="The factor for decimal steps.  [default: per run, the smallest that makes them whole]",
)
@click.option("--skip-missing", is_flag=True, help="Import runs with missing files, without these files.")
@click.option(
    "--dry-run", is_flag=True, help="Read everything, write nothing, and report what would be imported."
)
@json_option
@in_project
@click.pass_obj
def neptune(
    session: CommandSession, *, as_json: bool, project: Project, step_multiplier: str | None, **wanted: Any
) -> int:
    """Import the Neptune runs at PATH: a dump of neptune-exporter, or offline logs of its clients.

    Each becomes a run of this project with its original times; `hooke sync` sends them to MLflow. Runs that were imported
    before are skipped. Data without an equivalent in MLflow are listed, with how they are kept. Exit code 1 if a run failed.
    """
    ask = ImportOptions(step_multiplier=int(step_multiplier) if step_multiplier else None, **wanted)
    done: list[ImportedRun] = []
    stopped = False
    try:
        for each in import_neptune(project, ask):
            done.append(each)
            _tell(each, session, quiet=as_json)
    except KeyboardInterrupt:
        stopped = True
    if as_json:
        click.echo(json.dumps([_facts(each, session) for each in done], indent=2))
    else:
        _say(done, project, dry_run=ask.dry_run)
    if stopped:
        click.echo("stopped: the listed runs are imported; repeat the command for the rest", err=True)
        return EXIT_STOPPED
    return EXIT_FAILED if any(each.error is not None for each in done) else 0


def _tell(each: ImportedRun, session: CommandSession, *, quiet: bool) -> None:
    """Report failures as they happen; on a terminal also each finished run."""
    if quiet:
        return
    if each.error is not None:
        click.echo(error_screen(each.error, session), err=True)
    elif sys.stderr.isatty():
        click.echo(f"{each.run}: {SAID[each.state]}", err=True)


def _say(done: list[ImportedRun], where: Project, *, dry_run: bool) -> None:
    rows = [_cells(each) for each in done if each.error is None]
    if rows:
        click.echo("\n".join(aligned(COLUMNS, rows, right=(3, 4, 5))))
    total = Losses()
    for each in done:
        total.add(each.losses)
    if table := total.table():
        click.echo("\n" + "\n".join(table))
    for each in done:
        if each.state == "changed":
            click.echo(
                f"{each.run} was imported from other files, or these have grown. To import it again, "
                f"first remove {where.runs.folder(each.run)}",
                err=True,
            )
    if any(each.state == "imported" for each in done):
        say_next("hooke sync", where)
    elif dry_run and rows:
        click.echo("nothing was written: omit --dry-run to import", err=True)


def _cells(each: ImportedRun) -> tuple[str, ...]:
    counted = each.state in ("imported", "found")
    values = each.losses.values
    counts = [f"{values[name]:,}" if counted else "" for name in ("points", "attributes", "files")]
    return (each.run, each.project, each.neptune_run, *counts, SAID[each.state])


def _facts(each: ImportedRun, session: CommandSession) -> dict[str, Any]:
    facts: dict[str, Any] = {
        name: getattr(each, name) for name in ("run", "project", "neptune_run", "kind", "state")
    }
    facts |= {"kept": dict(each.losses.values), "losses": dict(each.losses.counts)}
    facts["error"] = error_facts(each.error, session) if each.error is not None else None
    return facts
