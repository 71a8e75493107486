"""`hooke schedule`: prints what starts `hooke run` at given times: a line for cron, units for systemd, a CronJob for Kubernetes."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from hooke.base.errors import UsageError
from hooke.base.yaml_text import write_yaml
from hooke.cli.drive import load_pipeline
from hooke.cli.options import debug_option
from hooke.cli.parameters import Parameters
from hooke.cli.screens import CommandSession, say_next
from hooke.cli.verbs.run import run
from hooke.exporters.pod_settings import options_of_place
from hooke.exporters.schedules import (
    OVERLAPS,
    TARGETS,
    Overlap,
    Schedule,
    Target,
    check_expressible,
    check_zone,
    crontab,
    parse_catch_up,
    parse_cron,
    systemd_units,
    trigger,
)
from hooke.images.contents import CODE
from hooke.kubernetes.driver_job import PLACE_OPTIONS, DriverOptions, DriverPaths, driver_cron_job
from hooke.kubernetes.pods import PodOptions
from hooke.processes.start import python_module
from hooke.project.backends import find_backend
from hooke.project.folder import Project
from hooke.project.settings import FILE

__all__ = ["schedule"]

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")
"""A name that Kubernetes takes for a CronJob: it has 52 characters at most."""
NEXT: Mapping[Target, str] = {
    "cron": "(crontab -l; cat {file}) | crontab -",
    "systemd": "cp {files} ~/.config/systemd/user/ && systemctl --user daemon-reload && systemctl --user enable --now {name}.timer",
    "k8s": "kubectl apply -f {file}",
}


@click.command()
@click.argument("target", metavar="FILE.py[:PIPELINE]|MODULE[:PIPELINE]")
@click.option("--render", type=click.Choice(TARGETS), required=True, help="What is to start the runs.")
@click.option(
    "--at",
    metavar="CRON",
    required=True,
    help="When: '30 6 * * 1-5', or @hourly, @daily, @weekly, @monthly, @yearly.",
)
@click.option(
    "--overlap",
    type=click.Choice(OVERLAPS),
    default="skip",
    show_default=True,
    help="What a run does that is due while the one before goes on: none starts, it waits, or it takes its place.",
)
@click.option(
    "--catch-up",
    metavar="never|always|TIME",
    default="never",
    show_default=True,
    help="Whether one run makes up for missed times; with TIME (30m, 2h), how late at most.",
)
@click.option(
    "--time-zone",
    "zone",
    metavar="ZONE",
    default="",
    help="The time zone of --at: Europe/Berlin.  [default: the machine's; on Kubernetes UTC]",
)
@click.option(
    "--name",
    default="",
    metavar="NAME",
    help="The name of the units, the CronJob or the lock.  [default: the pipeline's name]",
)
@click.option(
    "--place",
    default="",
    metavar="PLACE",
    help="For k8s: the place in hooke.toml that the runs are of, and whose image, claim and account the CronJob has.",
)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write files into FOLDER.  [default: print them]",
)
@debug_option
@click.argument("words", nargs=-1, metavar="[-- OPTIONS OF hooke run ...]", type=click.UNPROCESSED)
@click.pass_obj
def schedule(  # noqa: PLR0913 - one parameter for each option of the command
    session: CommandSession,
    *,
    target: str,
    render: Target,
    at: str,
    overlap: Overlap,
    catch_up: str,
    zone: str,
    name: str,
    place: str,
    output: Path | None,
    words: tuple[str, ...],
) -> int:
    """Print what starts `hooke run FILE` at given times: a line for cron, units for systemd, or a CronJob for Kubernetes.

    Options of `hooke run` and parameters of the pipeline follow after --. They are checked now. What the target cannot
    express is refused, with the reason. Hooke has no scheduler of its own.
    """
    pipeline, project, backend = _check_run(session, target, words)
    check_zone(zone)
    if place and render != "k8s":
        raise UsageError(
            "--place is for --render k8s", fix="leave it out; the run's own place is -- --on PLACE"
        )
    wanted = Schedule(
        name=_name(name or re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-")),
        times=parse_cron(at),
        command=() if render == "k8s" else (*_program(), "run", target, *words),
        folder=os.getcwd(),
        overlap=overlap,
        catch_up_s=parse_catch_up(catch_up),
        zone=zone,
    )
    check_expressible(render, wanted)
    files = _files(render, wanted, project, place=place, backend=backend, words=(target, *words))
    _write(render, wanted.name, files, folder=output, project=project)
    return 0


def _check_run(session: CommandSession, target: str, words: Sequence[str]) -> tuple[str, Project, str]:
    """The name of the pipeline, its project, and the backend if one is given. Raises UsageError for what `hooke run` would refuse before its first task."""
    pipeline, path = load_pipeline(target)
    context = run.make_context("hooke run", [target, *words], obj=session)
    with context:
        if context.params["detach"]:
            raise UsageError(
                "a scheduled run cannot be detached",
                why="it would count as ended when it has started, so the next one could overlap with it",
                fix="leave --detach out",
            )
        parameters = Parameters(pipeline, target=target)
        parameters.parse(context.params["parameters"], context.params["params"])
        parameters.refuse_shared(context)
    session.project = Project.find(path)
    backend = context.params["backend"]
    find_backend(backend, workers=None, places=session.project.settings.places)
    given = context.get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT
    return pipeline.name, session.project, backend if given else ""


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise UsageError(
            f"--name {text!r} cannot name a schedule", fix="use at most 52 lower-case letters, digits and -"
        )
    return text


def _program() -> list[str]:
    """The command of this very installation: cron and systemd do not know the shell's path."""
    script = Path(sys.executable).parent / "hooke"
    return [str(script)] if script.is_file() else python_module("hooke")


def _files(
    render: Target, wanted: Schedule, project: Project, *, place: str, backend: str, words: Sequence[str]
) -> dict[str, str]:
    """File name -> text."""
    if render == "cron":
        return {f"{wanted.name}.cron": crontab(wanted)}
    if render == "systemd":
        return systemd_units(wanted)
    return {f"{wanted.name}.yaml": _cron_job(wanted, project, place, backend, words)}


def _cron_job(wanted: Schedule, project: Project, place: str, backend: str, words: Sequence[str]) -> str:
    """Its tasks run where `backend` says, by default in pods of the place. The driver's pod is as large if they run there."""
    if not place:
        raise UsageError(
            "a CronJob needs --place",
            why="it says the image, the claim and the account of the pods",
            where=str(project.root / FILE),
            fix='name a place of hooke.toml with engine = "kubernetes"',
        )
    options = options_of_place(project, place)
    here = Path.cwd()
    if not here.is_relative_to(project.root):
        raise UsageError(
            f"{here} is not in the project", where=str(project.root), fix="change into the project"
        )
    own = DriverOptions.parse(options)
    pods = PodOptions.parse(options, more=PLACE_OPTIONS)
    root = Path("/", CODE)
    target, *more = words
    where = [] if backend else ["--on", place]
    found = find_backend(backend or place, workers=None, places=project.settings.places)
    made = driver_cron_job(
        wanted.name,
        ["python", "-P", "-m", "hooke", "run", target, *where, *more],
        trigger(wanted),
        paths=DriverPaths(project=str(root), folder=str(root / here.relative_to(project.root))),
        options=pods,
        own=replace(own, works=found.engine != "kubernetes" and found.at is None),
    )
    if pods.namespace:
        made["metadata"]["namespace"] = pods.namespace
    missed = (
        "A time is made up for by one run, however late."
        if wanted.catch_up_s == float("inf")
        else f"A run starts at most {trigger(wanted)['startingDeadlineSeconds']} s late."
    )
    return f"# {missed}\n{write_yaml(made)}"


def _write(
    render: Target, name: str, files: Mapping[str, str], *, folder: Path | None, project: Project
) -> None:
    """The files into the folder, or to stdout."""
    if folder is None:
        for file, text in files.items():
            click.echo(f"# {file}\n{text}" if len(files) > 1 else text, nl=len(files) > 1)
        return
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / file for file in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text, "utf-8")
        click.echo(str(path))
    shown = shlex.join(map(str, paths))
    say_next(NEXT[render].format(file=shown, files=shown, name=name), project)
