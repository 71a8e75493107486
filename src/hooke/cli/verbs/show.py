"""`hooke show`: one run, its tasks, its failures and its decisions."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import UsageError
from hooke.base.formats import aligned, format_bytes
from hooke.base.observed import describe
from hooke.cli.in_cluster import look_in_cluster
from hooke.cli.options import complete_run, in_project, is_unicode, json_option
from hooke.cli.screens import CommandSession, error_facts, say_next
from hooke.comparing.facts import facts_of
from hooke.fleets.elastic import run_meter
from hooke.journal import events
from hooke.journal.fleet_events import FleetDecided
from hooke.journal.occupancy import SkewedItem, skewed_items
from hooke.journal.reader import read
from hooke.journal.run_folders import DRIVER
from hooke.journal.run_view import RunView, is_service, moment, run_table
from hooke.journal.study_records import SEARCH_PREFIX as SEARCH
from hooke.journal.study_records import StudyRecord, read_study
from hooke.project.folder import Project
from hooke.running.provenance import sentence
from hooke.searching.search_result import Search
from hooke.sync.outbox import logged_segments
from hooke.sync.sync_report import tracking_facts, tracking_lines

__all__ = ["show"]

MOST_WIDE = 110
FEWEST_STRETCHES = 6
"""The least number of time windows for the chart of a service."""
MOST_SAID = 20
"""Decisions to show; --json has all."""


@dataclass(slots=True)
class _Story:
    """A run's view, and the parts of its journal outside the view: decisions, lost workers, slow items, a torn end."""

    view: RunView = field(default_factory=RunView)
    said: list[tuple[float, str]] = field(default_factory=list)
    torn: str = ""
    made_of: events.MadeOf | None = None
    skewed: list[SkewedItem] = field(default_factory=list)


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.option(
    "--save",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="For a service: also write its chart to FILE.html, FILE.svg, or with the extra `plot` to FILE.png.",
)
@json_option
@in_project
@click.pass_obj
def show(session: CommandSession, *, run: str, file: Path | None, as_json: bool, project: Project) -> int:
    """Show RUN (by default the last run): its tasks, failures with their reasons, and retries.

    For a service: its load, responses and replicas over time, with the reason of each change. For a study of `hooke measure`:
    its measurements. For a search of `hooke.search()`: its best trials. RUN may be a prefix of an id.
    """
    name = project.runs.find(run)
    if project.runs.elsewhere(name) is not None and file is None:
        return look_in_cluster(project, name, ["show", name, *(["--json"] if as_json else [])])
    if is_service(project.runs.folder(name)):
        return _show_service(project, name, file, as_json=as_json)
    if file is not None:
        raise UsageError(
            f"--save {file}: {name} is not the run of a service",
            fix=f"for the scaling curve of a task: hooke curve {name} --save {file}",
        )
    study = read_study(project.runs.folder(name))
    if study is not None:
        return _show_study(study, as_json=as_json)
    if name.startswith(SEARCH):
        return _show_search(project, name, as_json=as_json)
    return _show_tasks(session, project, name, as_json=as_json)


def _show_tasks(session: CommandSession, where: Project, name: str, *, as_json: bool) -> int:
    story = _read(where, name)
    if as_json:
        kept = [each | {"file": str(each["file"])} for each in _artifacts(where, name)]
        more = {"artifacts": kept, "logged": tracking_facts(where, name), "cost": _cost(where, name)}
        click.echo(json.dumps(_facts(session, story) | more, indent=2))
        return 0
    click.echo(run_table(story.view, name))
    if cost := _cost(where, name):
        whose = f"the fleet {cost['fleet']} while it ran" if cost["fleet"] else f"{cost['machines']} machines"
        click.echo(
            f"\ncost so far ${cost['usd']:.4g}, of {whose}; their ledger: hooke fleet why {cost['fleet'] or name}"
        )
    if story.said:
        click.echo("\ndecisions")
        click.echo("\n".join(f"  {moment(at)}  {text}" for at, text in story.said[-MOST_SAID:]))
        if len(story.said) > MOST_SAID:
            click.echo(f"  {len(story.said) - MOST_SAID} earlier ones: hooke show --json {name}")
    if story.skewed:
        click.echo("\nuneven work")
        click.echo("\n".join(f"  {each}" for each in story.skewed))
    if artifacts := _artifacts(where, name):
        click.echo("\nartifacts")
        click.echo("\n".join(f"  {line}" for line in _artifact_lines(artifacts, name)))
    if lines := tracking_lines(where, name):
        click.echo("\nlogged values")
        click.echo("\n".join(f"  {line}" for line in lines))
    if story.made_of is not None:
        click.echo(f"\nprovenance\n  {sentence(story.made_of)}")
    if story.torn:
        click.echo(f"\nthe journal ended with an incomplete record, which was cut: {story.torn}")
    say_next(_next(story.view, name), where)
    return 0


def _cost(project: Project, run: str) -> dict[str, Any] | None:
    """What the machines of a run have cost, and how many were asked for; None of a run that has no ledger, or no price."""
    meter = run_meter(project, run)
    if meter is None:
        return None
    return {"usd": meter.usd(time.time()), "machines": meter.machines, "fleet": meter.fleet}


def _artifacts(project: Project, run: str) -> list[dict[str, Any]]:
    """The files that the run and its tasks logged, those that count: task (empty for the run), path, size in bytes, file."""
    if not logged_segments(project.runs.folder(run)):
        return []
    found = facts_of(project.runs, run).artifacts
    return [
        {"task": name.task, "path": name.name, "size": size, "file": file.absolute()}
        for name, files in found.items()
        for file, size in files
    ]


def _artifact_lines(artifacts: list[dict[str, Any]], run: str) -> list[str]:
    """A line for each: its name, its size and where it lies, to be opened or copied."""
    cells = [
        (
            f"{each['task']}: {each['path']}" if each["task"] else each["path"],
            format_bytes(each["size"]),
            os.path.relpath(each["file"]),
        )
        for each in artifacts[:MOST_SAID]
    ]
    lines = aligned(("name", "size", "file"), cells, right=(1,))
    more = len(artifacts) - MOST_SAID
    return lines + ([f"{more} more: hooke show --json {run}"] if more > 0 else [])


def _show_study(record: StudyRecord, *, as_json: bool) -> int:
    from hooke.measuring.study_report import facts_of, text_of  # SciPy takes half a second

    click.echo(json.dumps(facts_of(record), indent=2) if as_json else text_of(record))
    return 0


def _show_service(project: Project, name: str, file: Path | None, *, as_json: bool) -> int:
    from hooke.charts.service_chart import service_plot
    from hooke.services.service_report import (
        picture_of,
        read_service,
        save_service,
        service_facts,
        service_text,
    )

    record, alive = read_service(project.runs.folder(name)), project.runs.alive(name)
    if file is not None:
        save_service(record, file, alive=alive)
    if as_json:
        click.echo(json.dumps(service_facts(record, alive=alive), indent=2))
        return 0
    picture = picture_of(record) if record.replicas else None
    drawn = ""
    if picture is not None and len(picture.asked) >= FEWEST_STRETCHES:
        width = min(shutil.get_terminal_size().columns, MOST_WIDE)
        colour = not os.environ.get("NO_COLOR")
        drawn = service_plot(picture, width=width, colour=colour, ascii_only=not is_unicode())
    click.echo(service_text(record, alive=alive, drawn=drawn))
    again = (
        f"hooke show {name} --save service.html" if file is None else f"hooke serve {record.started.entry}"
    )
    say_next(again, project)
    return 0


def _show_search(project: Project, name: str, *, as_json: bool) -> int:
    found = Search(project, name)
    click.echo(json.dumps(found.facts(), indent=2) if as_json else str(found))
    tried = [trial.run.id for trial in found.trials if trial.value is not None]
    if tried and not as_json:
        say_next(f"hooke show {found.best.run.id}", project)
    return 0


def _read(project: Project, run: str) -> _Story:
    story = _Story()
    alive = project.runs.alive(run)
    for segment in read(project.runs.folder(run), DRIVER):
        story.skewed += skewed_items(segment.events)
        for event in segment.events:
            if said := _said(story.view, event):
                story.said.append((event.at, said))
            story.view.apply(event)
            if isinstance(event, events.RunMadeOf):
                story.made_of = event.record
        if segment.torn is not None and not alive:
            story.torn = str(segment.torn)
    story.view.driver_alive(alive, project.runs.last_written(run))
    return story


def _said(view: RunView, event: events.Event) -> str:
    """The decision in this event, or an empty string. The view does not include the event yet."""
    match event:
        case events.RetryPlanned():
            items = f" items {event.lo}..{event.hi - 1}" if event.hi - event.lo > 1 else ""
            return f"{_task(view, event.node)}{items}: runs again, because {event.reason}"
        case events.AttemptStarted(twin_of=int()):
            items = f"{event.lo}..{event.hi - 1}" if event.hi - event.lo > 1 else f"{event.lo}"
            return f"{_task(view, event.node)}[{items}]: a second attempt, {event.attempt}, because {event.twin_of} is slow"
        case events.AttemptStarted(workers=(_, *_) as workers):
            ranks = ", ".join(f"{rank} on {worker}" for rank, worker in enumerate(workers))
            return f"{_task(view, event.node)}: attempt {event.attempt} is a gang of {len(workers)}; ranks: {ranks}"
        case events.AttemptFailed() if event.resized:
            return f"{_task(view, event.node)}: {event.failure.message}"
        case events.AttemptFinished() if (beaten := view.nodes[event.node].beside(event.attempt)) is not None:
            task = _task(view, event.node)
            return f"{task}: attempt {event.attempt} finished first; {beaten.attempt} is abandoned"
        case events.InputsChanged(inputs=(_, *_) as inputs):
            return f"{_task(view, event.node)} runs again: {'; '.join(map(describe, inputs))}"
        case events.AttemptFinished() if reasons := [
            each.unsettled for each in event.observed if each.unsettled
        ]:
            task = _task(view, event.node)
            return (
                ""
                if view.nodes[event.node].unsettled
                else f"{task}: its result counts in this run only, because {reasons[0]}"
            )
        case events.WorkerStopped() | events.BackendTrouble() | FleetDecided():
            return _of_workers(event)
        case _:
            return ""


def _of_workers(event: events.WorkerStopped | events.BackendTrouble | FleetDecided) -> str:
    match event:
        case events.WorkerStopped():
            return f"worker {event.worker} is gone: {event.cause}"
        case events.BackendTrouble():
            return f"{event.about}: {event.message}"
        case FleetDecided():
            return f"workers {event.reason}"


def _task(view: RunView, node: int) -> str:
    return view.nodes[node].planned.task


def _facts(session: CommandSession, story: _Story) -> dict[str, Any]:
    now, error = time.time(), story.view.error()
    facts: dict[str, Any] = msgspec.to_builtins(story.view.row(now))
    return facts | {
        "tasks": msgspec.to_builtins(story.view.rows(now)),
        "error": error_facts(error, session) if error is not None else None,
        "failures": [error_facts(each, session) for each in story.view.errors()],
        "decisions": [{"at": at, "what": text} for at, text in story.said],
        "skewed": msgspec.to_builtins(story.skewed),
        "torn": story.torn or None,
        "made_of": msgspec.to_builtins(story.made_of),
    }


def _next(view: RunView, run: str) -> str:
    if view.status == "running":
        return f"hooke logs --follow {run}"
    if view.begun is not None and view.begun.kind == "imported":
        return f"hooke sync {run}"
    if view.begun is not None and view.begun.kind == "script":
        return f"hooke compare {run} RUN, or hooke reproduce {run}"
    if view.status == "finished":
        return f"hooke logs {run}, or hooke cache why {run} TASK"
    return view.resume_command
