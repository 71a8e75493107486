"""`hooke sync`: send what runs logged to the trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from hooke.base.distributions import install_command
from hooke.base.errors import UsageError
from hooke.base.files import FileLock
from hooke.base.formats import aligned, format_bytes
from hooke.cli.options import complete_run, in_project, json_option
from hooke.cli.screens import EXIT_FAILED
from hooke.project.folder import Project
from hooke.sync.background import LOCK, open_sinks, sink_names
from hooke.sync.outbox import has_logged
from hooke.sync.shipper import Shipper, SyncState, logged_bytes, standing

__all__ = ["sync"]

COLUMNS = ("run", "sink", "points", "merged", "stands")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    run: str
    sink: str
    standing: SyncState

    @property
    def done(self) -> bool:
        """Whether the sink has everything so far."""
        return self.standing.pending_bytes == 0 and not self.standing.cursor.trouble

    def said(self) -> str:
        """The state as text."""
        if self.standing.cursor.trouble:
            return self.standing.cursor.trouble
        if self.standing.pending_bytes:
            return f"{format_bytes(self.standing.pending_bytes)} left"
        return "complete" if self.standing.told else "complete so far; the run continues"

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        cursor = self.standing.cursor
        return {
            "run": self.run,
            "sink": self.sink,
            "points": cursor.points,
            "merged": cursor.merged,
            "pending_bytes": self.standing.pending_bytes,
            "told": self.standing.told,
            "trouble": cursor.trouble or None,
            "notes": cursor.notes,
        }


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.option(
    "--patience",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="How long to go on while no tracker takes anything.",
)
@json_option
@in_project
def sync(*, run: str, patience: float, as_json: bool, project: Project) -> int:
    """Send what RUN (by default all runs) logged to the project's trackers, and report the state of each.

    Runs do this themselves in a background process; this command completes it after an outage. It also asks MLflow what it
    still has: what is missing is sent again. Exit code 1 if something is left.
    """
    names = [project.runs.find(run)] if run else project.runs.names()
    if not sink_names(project):
        raise UsageError(
            "this project has no tracker",
            fix=f'{install_command("mlflow")}, or set sinks in hooke.toml: [tracking] sinks = ["mlflow"]',
        )
    logged = [name for name in names if has_logged(project.runs.folder(name))]
    _ship(project, logged[::-1], patience)  # the oldest first: a search before its nested trials
    rows = [
        _Row(run=name, sink=sink, standing=standing(project.runs, name, sink))
        for name in logged
        for sink in sink_names(project)
    ]
    if as_json:
        click.echo(json.dumps([row.facts() for row in rows], indent=2))
    elif rows:
        cells = [
            (row.run, row.sink, f"{row.standing.points:,}", f"{row.standing.cursor.merged:,}", row.said())
            for row in rows
        ]
        click.echo("\n".join(aligned(COLUMNS, cells, right=range(2, 4))))
        for row in rows:
            for note in row.standing.cursor.notes:
                click.echo(f"{row.run} in {row.sink}: {note}", err=True)
    else:
        click.echo("no run has logged anything", err=True)
    return 0 if all(row.done for row in rows) else EXIT_FAILED


def _ship(project: Project, runs: list[str], patience_s: float) -> None:
    """Ship these runs when the project's shipper releases its lock, or watch while it ships. A shipper ends soon after the last run."""
    project.create()
    lock, progress_at = FileLock(project.data / LOCK), time.monotonic()
    goals = {run: logged_bytes(project.runs.folder(run)) for run in runs}
    before: dict[str, int] = {}
    while not lock.try_acquire():
        left = {run: bytes_left for run in goals if (bytes_left := _left(project, run, goals[run]))}
        if not left and any(project.runs.alive(each) for each in project.runs.names()):
            return
        if left != before:
            before, progress_at = left, time.monotonic()
        if time.monotonic() - progress_at > patience_s:
            return
        goals = {run: goals[run] for run in left} or goals
        time.sleep(0.2)
    try:
        with Shipper(runs=project.runs, sinks=open_sinks(project)) as shipper:
            shipper.send(runs, patience_s=patience_s)
    finally:
        lock.release()


def _left(project: Project, run: str, goal: Mapping[str, int]) -> int:
    """Bytes up to `goal` that are not sent yet, and one for each tracker that has not heard of the run's end."""
    alive = project.runs.alive(run)
    stands = [standing(project.runs, run, sink, goal) for sink in sink_names(project)]
    return sum(each.pending_bytes + (not each.told and not alive) for each in stands)
