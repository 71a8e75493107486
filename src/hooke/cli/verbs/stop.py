"""`hooke stop`: stops a run cleanly from another terminal."""

from __future__ import annotations

import json
import os
import signal
import time

import click

from hooke.base.errors import UsageError
from hooke.cli.options import complete_run, in_project, json_option
from hooke.cli.screens import EXIT_FAILED, say_next
from hooke.journal.run_view import view_of
from hooke.project.folder import Project

__all__ = ["stop"]

PATIENCE_S = 60.0
"""A task of the backend `serial` cannot be interrupted; others end within a second."""


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@json_option
@in_project
def stop(*, run: str, as_json: bool, project: Project) -> int:
    """Stop RUN (by default the running one) like Ctrl-C in its terminal. A service drains; other runs can be resumed."""
    name = project.runs.find(run) if run else _running(project)
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
