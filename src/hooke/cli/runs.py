"""`hooke runs`: the runs of a project, the newest first."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError
from hooke.base.formats import format_seconds
from hooke.cli.options import in_project, json_option, the_project
from hooke.cli.screens import Session, command
from hooke.journal.view import RunRow
from hooke.project.folder import Project
from hooke.project.outcome import view_of
from hooke.project.table import aligned, moment

__all__ = ["runs"]

COLUMNS = ("run", "pipeline", "status", "started", "took", "done", "cached", "failed", "parameters")


@click.command()
@click.option(
    "--limit", default=20, show_default=True, metavar="N", type=click.IntRange(min=1), help="At most so many."
)
@json_option
@in_project
@click.pass_obj
def runs(session: Session, *, limit: int, as_json: bool, project: Path | None) -> int:
    """List runs, the newest first.

    `lost` are those whose driver died; they can be resumed.
    """
    where = the_project(session, project)
    names = where.runs.names()
    rows = [(name, _row(where, name)) for name in names[:limit]]
    if as_json:
        click.echo(json.dumps([_facts(name, row) for name, row in rows], indent=2))
        return 0
    if not rows:
        click.echo(f"no runs yet in {where.root}\nnext: hooke run FILE.py", err=True)
        return 0
    lines = aligned(COLUMNS, [_cells(name, row) for name, row in rows], right=range(4, 8))
    click.echo("\n".join(lines))
    if len(names) > limit:
        click.echo(f"and {len(names) - limit} older ones: hooke runs --limit {len(names)}", err=True)
    click.echo(f"next: {command(f'hooke show {names[0]}', where)}", err=True)
    return 0


def _row(project: Project, name: str) -> RunRow | HookeError:
    try:
        return view_of(project.runs, name).row(time.time())
    except HookeError as error:
        return error


def _facts(name: str, row: RunRow | HookeError) -> dict[str, Any]:
    if isinstance(row, HookeError):
        return {"run": name, "status": "unreadable", "message": row.what}
    facts: dict[str, Any] = msgspec.to_builtins(row)
    return facts | {"run": name}


def _cells(name: str, row: RunRow | HookeError) -> tuple[str, ...]:
    if isinstance(row, HookeError):
        return (name, "", "unreadable", "", "", "", "", "", row.what)
    if not row.run:
        return (name, "", "never began", "", "", "", "", "", "")
    parameters = " ".join(f"{key}={value}" for key, value in row.parameters.items())
    return (
        name,
        row.pipeline,
        row.status,
        moment(row.started_at),
        format_seconds(row.seconds),
        str(row.done),
        str(row.cached),
        str(row.failed),
        parameters if len(parameters) <= 60 else parameters[:57] + "...",
    )
