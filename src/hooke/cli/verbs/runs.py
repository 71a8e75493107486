"""`hooke runs` and `hooke stop`: the runs of a project, filtered and sorted, and the end of one."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import aligned, format_seconds
from hooke.cli.in_cluster import stop_in_cluster
from hooke.cli.options import complete_run, in_project, json_option
from hooke.cli.screens import EXIT_FAILED, say_next
from hooke.comparing.facts import RunFacts, facts_of
from hooke.comparing.query import NameGroup, RunQuery, cell_of, selected, values_hint
from hooke.fleets.elastic import run_meter
from hooke.journal.events import RunStarted
from hooke.journal.reader import first_event
from hooke.journal.run_folders import RunElsewhere
from hooke.journal.run_view import RunRow, moment, view_of
from hooke.project.folder import Project

__all__ = ["runs", "stop"]

COLUMNS = ("run", "pipeline", "status", "started", "took", "done", "cached", "failed", "parameters")
ASKED = ("run", "pipeline", "status", "started", "took")
"""The columns before the metrics."""
IN_CLUSTER = "in the cluster"
"""The status of a run whose journal is there: `hooke show` asks for more."""


@click.command()
@click.option(
    "--limit", default=20, show_default=True, metavar="N", type=click.IntRange(min=1), help="Show at most N."
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Show the last value of a metric, or with NAME.min and NAME.max the smallest and the largest. Can be repeated.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Only matching runs: params.depth>6, tags.team=ours, metrics.auc.max>=0.9, status=failed, pipeline!=demo; "
    "joined by and, or, parentheses; a list of values: 'status in (failed, lost)'. Can be repeated; all must match.",
)
@click.option(
    "--sort",
    default="",
    metavar="NAME",
    help="Sort by a metric, params.NAME, tags.NAME, started, took, status or pipeline; -NAME sorts in descending order.",
)
@click.option(
    "--trials",
    is_flag=True,
    help="Also list the trials of searches, as --metric, --where and --sort always do.",
)
@json_option
@in_project
def runs(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    limit: int,
    metrics: tuple[str, ...],
    where: tuple[str, ...],
    sort: str,
    trials: bool,
    as_json: bool,
    project: Project,
) -> int:
    """List runs, the newest first.

    The driver of a `lost` run died; such a run can be resumed. A metric is NAME, or TASK.NAME if several tasks logged
    NAME. Numbers are compared as numbers.
    """
    project.say_notes(below=True)
    query = RunQuery.of(where, sort)
    if metrics or where or sort:
        return _asked(project, query, metrics, limit, as_json=as_json)
    names = project.runs.names()
    rows, seen = _newest(project, names, limit, trials=trials)
    if as_json:
        click.echo(json.dumps([_facts(name, row) for name, row in rows], indent=2))
        return 0
    if not rows:
        click.echo(f"no runs yet in {project.root}\nnext: hooke run FILE.py", err=True)
        return 0
    cells = [_cells(name, row) for name, row in rows]
    header = COLUMNS
    more = {"cost": [_cost(project, name) for name, _ in rows], "tags": [_tags(row) for _, row in rows]}
    for column, texts in more.items():
        if any(texts):
            header = (*header, column)
            cells = [(*own, text) for own, text in zip(cells, texts, strict=True)]
    lines = aligned(header, cells, right=range(4, 8))
    click.echo("\n".join(lines))
    if seen < len(names):
        click.echo(f"{len(names) - seen} older runs not shown: hooke runs --limit {len(names)}", err=True)
    if seen > len(rows):
        click.echo(f"{seen - len(rows)} trials of searches not shown: hooke runs --trials", err=True)
    say_next(f"hooke show {rows[0][0]}", project)
    return 0


def _newest(
    project: Project, names: Sequence[str], limit: int, *, trials: bool
) -> tuple[list[tuple[str, RunRow | RunElsewhere | HookeError]], int]:
    """At most `limit` rows, and how many runs were read for them."""
    rows: list[tuple[str, RunRow | RunElsewhere | HookeError]] = []
    seen = 0
    for name in names:
        if len(rows) == limit:
            break
        seen += 1
        if trials or not _is_trial(project, name):
            rows.append((name, _row(project, name)))
    return rows, seen


def _is_trial(project: Project, name: str) -> bool:
    """Whether the run is a trial of a search; False for an unreadable journal."""
    try:
        begun = first_event(project.runs.folder(name), "driver")
    except HookeError:
        return False
    return isinstance(begun, RunStarted) and bool(begun.parent)


def _asked(project: Project, query: RunQuery, metrics: Sequence[str], limit: int, *, as_json: bool) -> int:
    """The matching runs in the requested order, with the requested metrics."""
    known, unreadable = _read(project)
    for name, error in unreadable:
        click.echo(f"left out, because it is unreadable: {name}: {error.what}", err=True)
    names = NameGroup("metrics", known)
    asked = {text: names.metric(text) for text in metrics} if known else {}
    found = selected(known, query)
    values = [{text: cell_of(facts, metric) for text, metric in asked.items()} for facts in found]
    if as_json:
        listed = [
            _facts(facts.run, facts.row) | {"metrics": _finite(cells)}
            for facts, cells in zip(found, values, strict=True)
        ]
        click.echo(json.dumps(listed[:limit], indent=2))
        return 0
    if not found:
        none = f"none of {len(known)} runs matches" if known else f"no runs yet in {project.root}"
        if hint := values_hint(known, query):
            none = f"{none}: {hint}"
        click.echo(f"{none}\nnext: hooke {'runs' if known else 'run FILE.py'}", err=True)
        return 0
    header = (*ASKED, *asked, "parameters")
    lines = [
        (*_cells(facts.run, facts.row)[: len(ASKED)], *map(_number, cells.values()), _parameters(facts.row))
        for facts, cells in zip(found[:limit], values, strict=False)
    ]
    click.echo("\n".join(aligned(header, lines, right=range(4, 5 + len(asked)))))
    if len(found) > limit:
        click.echo(f"{len(found) - limit} more not shown: --limit {len(found)}", err=True)
    if len(found) > 1:
        say_next(f"hooke compare {found[0].run} {found[1].run}", project)
    return 0


def _read(project: Project) -> tuple[list[RunFacts], list[tuple[str, HookeError]]]:
    known: list[RunFacts] = []
    unreadable: list[tuple[str, HookeError]] = []
    for name in project.runs.names():
        try:
            known.append(facts_of(project.runs, name))
        except HookeError as error:
            unreadable.append((name, error))
    return known, unreadable


def _row(project: Project, name: str) -> RunRow | RunElsewhere | HookeError:
    try:
        if (elsewhere := project.runs.elsewhere(name)) is not None:
            return elsewhere
        return view_of(project.runs, name).row(time.time())
    except HookeError as error:
        return error


def _facts(name: str, row: RunRow | RunElsewhere | HookeError) -> dict[str, Any]:
    if isinstance(row, HookeError):
        return {"run": name, "status": "unreadable", "message": row.what}
    facts: dict[str, Any] = msgspec.to_builtins(row)
    return facts | {"run": name} | ({"status": IN_CLUSTER} if isinstance(row, RunElsewhere) else {})


def _finite(cells: dict[str, float | None]) -> dict[str, float | str | None]:
    """JSON has no nan or infinity, so they become text."""
    return {
        name: value if value is None or math.isfinite(value) else str(value) for name, value in cells.items()
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _cells(name: str, row: RunRow | RunElsewhere | HookeError) -> tuple[str, ...]:
    if isinstance(row, RunElsewhere):
        typed = shlex.join(row.typed)
        return (name, row.pipeline, IN_CLUSTER, moment(row.started_at), "", "", "", "", typed)
    if isinstance(row, HookeError):
        return (name, "", "unreadable", "", "", "", "", "", row.what)
    if not row.run:
        return (name, "", "never began", "", "", "", "", "", "")
    return (
        name,
        row.pipeline,
        row.status,
        moment(row.started_at),
        format_seconds(row.seconds),
        str(row.done),
        str(row.cached),
        str(row.failed),
        _parameters(row),
    )


def _cost(project: Project, run: str) -> str:
    """What its machines have cost, of a run whose ledger has a price."""
    try:
        meter = run_meter(project, run)
        return f"${meter.usd(time.time()):.4g}" if meter is not None else ""
    except HookeError:  # the row says that it is unreadable
        return ""


def _parameters(row: RunRow) -> str:
    return _pairs(row.parameters)


def _tags(row: RunRow | RunElsewhere | HookeError) -> str:
    return "" if isinstance(row, (HookeError, RunElsewhere)) else _pairs(row.tags)


def _pairs(values: Mapping[str, str]) -> str:
    text = " ".join(f"{key}={value}" for key, value in values.items())
    return text if len(text) <= 60 else text[:57] + "..."


# --- `hooke stop`: stops a run cleanly from another terminal.

PATIENCE_S = 60.0
"""A task of the backend `serial` cannot be interrupted; others end within a second."""


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@json_option
@in_project
def stop(*, run: str, as_json: bool, project: Project) -> int:
    """Stop RUN (by default the running one) like Ctrl-C in its terminal. A service drains; other runs can be resumed."""
    name = project.runs.find(run) if run else _running(project)
    if project.runs.elsewhere(name) is not None:
        return stop_in_cluster(project, name, as_json=as_json)
    if not project.runs.alive(name):
        status = view_of(project.runs, name).status
        raise UsageError(f"run {name} is not running: it is {status}", next=f"hooke show {name}")
    begun = view_of(project.runs, name).begun
    if begun is not None and begun.kind == "service":
        os.kill(begun.pid, signal.SIGTERM)  # it holds the lock, so it is alive and drains
    else:
        project.runs.request_stop(name, "hooke stop")
    deadline = time.monotonic() + PATIENCE_S
    while project.runs.alive(name):
        if time.monotonic() > deadline:
            click.echo(f"run {name} received the request to stop, but a task is still running", err=True)
            return EXIT_FAILED
        time.sleep(0.05)
    view = view_of(project.runs, name)
    status = view.status
    if as_json:
        click.echo(json.dumps({"run": name, "status": status}))
        return 0
    click.echo(f"run {name}: {status}")
    if status != "finished":
        say_next(view.resume_command, project)
    return 0


def _running(project: Project) -> str:
    names = [name for name in project.runs.names() if project.runs.alive(name)]
    if not names:
        raise UsageError("no run is running", where=str(project.runs.path), next="hooke runs")
    if len(names) > 1:
        raise UsageError(
            f"{len(names)} runs are running",
            fix=f"pass one of: {', '.join(names)}",
            next=f"hooke stop {names[0]}",
        )
    return names[0]
