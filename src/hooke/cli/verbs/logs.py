"""`hooke logs`: the output of a run's tasks, each line with its task and try."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import click

from hooke.base.formats import readable
from hooke.cli.in_cluster import look_in_cluster, run_in_cluster
from hooke.cli.options import complete_run, in_project, run_and_task
from hooke.cli.screens import command
from hooke.journal.reader import SegmentReader
from hooke.journal.run_folders import DRIVER, LogLine, Transcript
from hooke.project.folder import Project

__all__ = ["logs"]

POLL_S = 0.2
"""The polling interval."""


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option("--follow", "-f", is_flag=True, help="Continue until the run ends, like `tail -f`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@in_project
def logs(*, run: str, task: str, follow: bool, as_json: bool, project: Project) -> int:
    """Print the stdout and stderr of the tasks of RUN (by default the last run), or of TASK only.

    Each line starts with the task, the item of a map, the attempt, and which try it is, if not the first.
    """
    if (there := run_in_cluster(project, run)) is not None:
        options = [*(["--follow"] if follow else []), *(["--json"] if as_json else [])]
        return look_in_cluster(project, there, ["logs", there, *([task] if task else []), *options])
    name, only = run_and_task(project, run, task, verb="logs")
    transcript = Transcript(project.runs.folder(name) / "logs", only=only)
    count = 0
    for line in _following(project, name, transcript) if follow else _so_far(project, name, transcript):
        count += 1
        click.echo(json.dumps(asdict(line)) if as_json else _told(line))
    if not count:
        what = f"task {only} of run {name}" if only else f"run {name}"
        click.echo(f"{what} printed nothing\n  next: {command(f'hooke show {name}', project)}", err=True)
    return 0


def _told(line: LogLine) -> str:
    return click.style(f"{line.whose} | ", fg="cyan") + readable(line.text)


def _so_far(project: Project, run: str, transcript: Transcript) -> Iterator[LogLine]:
    for event in project.runs.events(run):
        yield from transcript.event(event)
    yield from transcript.unfinished()


def _following(project: Project, run: str, transcript: Transcript) -> Iterator[LogLine]:
    """Like `_so_far`, until the run has no driver."""
    with SegmentReader(project.runs.folder(run) / f"{DRIVER}.journal") as reader:
        while True:
            alive = project.runs.alive(run)
            for event in reader:
                yield from transcript.event(event)
            yield from transcript.unfinished()
            if not alive:
                return
            time.sleep(POLL_S)
