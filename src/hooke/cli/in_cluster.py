"""Commands on runs whose driver is in a Kubernetes cluster: what is not known here is asked there, by a pod with the runs' claim."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hooke.base.errors import UsageError
from hooke.cli.screens import EXIT_FAILED, EXIT_STOPPED, say_next
from hooke.journal.run_folders import RunElsewhere
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.running.cluster_driver_client import ClusterDrivers

__all__ = [
    "attach_in_cluster",
    "look_in_cluster",
    "resume_in_cluster",
    "run_in_cluster",
    "start_in_cluster",
    "stop_in_cluster",
]


def run_in_cluster(project: Project, prefix: str) -> str | None:
    """The run that the word means (by default the last), if it is in a cluster; else None, also where the word is no run's."""
    names = project.runs.names()
    fitting = [name for name in names if name.startswith(prefix)] if prefix not in names else [prefix]
    if not fitting or (prefix and len(fitting) > 1):
        return None
    return fitting[0] if project.runs.elsewhere(fitting[0]) is not None else None


def start_in_cluster(
    project: Project, run: str, words: Sequence[str], *, record: RunElsewhere, as_json: bool
) -> int:
    """Have a pod drive the run, and return when it has begun. If it ends before, what it printed is printed here.

    `words` follow `hooke`; a file among them is named as from the working directory.
    """
    drivers = _drivers(project, record.place)
    folder, there = _from_project(project, words)
    lines: list[str] = []
    again = ["resume", run, *(["--json"] if as_json else [])]
    job = drivers.start(run, there, again, folder=folder, record=record)
    try:
        code = job.follow(lines.append, until_begun=True)
    except BaseException:
        job.delete()
        project.runs.forget_elsewhere(run)
        raise
    if code is not None:
        for line in lines:
            _show(line)
        job.delete()
        project.runs.forget_elsewhere(run)
        return code or EXIT_FAILED
    if as_json:
        facts = {"run": run, "status": "running", "namespace": drivers.namespace, "job": job.name}
        click.echo(json.dumps(facts, indent=2))
        return 0
    click.echo(run)
    click.echo(f"run {run} goes on in the cluster (job {job.name}, namespace {drivers.namespace})", err=True)
    say_next(f"hooke attach {run}", project)
    return 0


def attach_in_cluster(project: Project, run: str, *, as_json: bool) -> int:
    """Show what the driver prints until it ends; of a driver that is gone, how its run ended. Returns the run's exit code."""
    drivers = _of_run(project, run)
    job = drivers.job_of(run)
    words = ["attach", run, *(["--json"] if as_json else [])]
    if job.found() is None:
        return _look(drivers, words)
    try:
        code = job.follow(_skip if as_json else _show)
    except KeyboardInterrupt:
        click.echo(f"run {run} goes on in the cluster", err=True)
        say_next(f"hooke attach {run}, or hooke stop {run}", project)
        return EXIT_STOPPED
    return _look(drivers, words) if code is None or as_json else code


def stop_in_cluster(project: Project, run: str, *, as_json: bool) -> int:
    """Have the driver stop cleanly, and remove its job."""
    drivers = _of_run(project, run)
    job = drivers.job_of(run)
    if not job.is_active():
        raise UsageError(f"run {run} is not running", next=f"hooke show {run}")
    code = job.end()
    status = {0: "finished", None: "stopped"}.get(code, "stopped" if code and code > 2 else "failed")
    if as_json:
        click.echo(json.dumps({"run": run, "status": status}))
        return 0
    click.echo(f"run {run}: {status}")
    if status != "finished":
        say_next(f"hooke resume {run}", project)
    return 0


def resume_in_cluster(project: Project, run: str, options: Sequence[str], *, as_json: bool) -> int:
    """Have another driver continue the run with the current code, and show what it prints. Returns the run's exit code."""
    drivers = _of_run(project, run)
    record = project.runs.elsewhere(run)
    assert record is not None
    drivers.job_of(run).replace()
    words = ["resume", run, *options, *(["--json"] if as_json else [])]
    drivers.start(run, words, words, folder=".", record=record)
    return attach_in_cluster(project, run, as_json=as_json)


def look_in_cluster(project: Project, run: str, words: Sequence[str]) -> int:
    """Run a command of Hooke in the cluster, where the run's folder is, and print what it prints. Returns its exit code."""
    return _look(_of_run(project, run), words)


def _look(drivers: ClusterDrivers, words: Sequence[str]) -> int:
    job = drivers.look(words)
    try:
        code = job.follow(_show)
    finally:
        job.delete()
    return EXIT_FAILED if code is None else code


def _drivers(project: Project, place: str) -> ClusterDrivers:
    from hooke.running.cluster_driver_client import ClusterDrivers

    return ClusterDrivers(project, place)


def _of_run(project: Project, run: str) -> ClusterDrivers:
    record = project.runs.elsewhere(run)
    assert record is not None
    if record.place not in project.settings.places:
        raise UsageError(
            f"run {run} is in a cluster, at the place {record.place!r}, which hooke.toml does not have any more",
            where=f"job {record.job}, namespace {record.namespace}",
            fix=f"write [places.{record.place}] into hooke.toml again",
        )
    return _drivers(project, record.place)


def _from_project(project: Project, words: Sequence[str]) -> tuple[str, list[str]]:
    """The working directory from the project's folder, and the words with their files as from there."""
    here = Path.cwd()
    inside = here.is_relative_to(project.root)
    base = here if inside else project.root
    moved: list[str] = []
    for word in words:
        file, colon, name = word.partition(":")
        path = here / file
        if file.endswith(".py") and path.is_file() and path.resolve().is_relative_to(project.root):
            word = f"{os.path.relpath(path.resolve(), base)}{colon}{name}"  # noqa: PLW2901 - the same word, as from there
        moved.append(word)
    return (os.path.relpath(here, project.root) if inside else "."), moved


def _skip(_line: str) -> None:
    return None


def _show(line: str) -> None:
    from hooke.running.cluster_driver_process import STDOUT

    is_result = line.startswith(STDOUT)
    click.echo(line.removeprefix(STDOUT), err=not is_result)
