"""`hooke plan`: what a pipeline would take of time and money, and how a run turned out against it."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError, TraceError, UsageError
from hooke.base.formats import format_seconds
from hooke.cli.drive import user_code
from hooke.cli.groups import FileOrVerbs
from hooke.cli.options import in_project, json_option, the_project
from hooke.cli.parameters import Parameters
from hooke.cli.screens import CommandSession, command, error_facts, error_screen, exit_code
from hooke.journal.events import PlanChecked
from hooke.journal.reader import read
from hooke.journal.run_table import aligned
from hooke.pipeline.pipeline import Pipeline
from hooke.planning.pipeline_plan import Plan, make_plan
from hooke.planning.question import Question, parsed_wish
from hooke.project.folder import Project
from hooke.project.loading import load_entry
from hooke.services.serve_file import load_service
from hooke.serving.slo import parse_slo

__all__ = ["pairs", "plan", "plans"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="FILE.py[:PIPELINE]", required=False)
@click.option("--deadline", metavar="TIME", help="When it must be done: 30m, 2h.")
@click.option("--budget", metavar="USD", help="What it may cost: 20, or '$20'.")
@click.option(
    "--catalog",
    "catalogs",
    multiple=True,
    metavar="LIST|FILE.csv",
    help="Price lists.  [default: all that are shipped]",
)
@click.option(
    "--workers",
    metavar="N,N,...",
    help="Numbers of workers considered here.  [default: 1,2,4,... up to the cpus]",
)
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="TYPE=RATIO|@HOST",
    help="How many times as fast as the machine measured: lambda:gpu_1x_a10=1.3, or 1.2-1.5, or =@HOST by its runs.",
)
@click.option(
    "--startup",
    "startups",
    multiple=True,
    metavar="LIST=TIME",
    help="Until an instance works: digitalocean=1m-2m.",
)
@click.option(
    "--times",
    "factors",
    multiple=True,
    metavar="TASK=N",
    help="For N times the items that TASK is mapped over.",
)
@click.option("--check", "run", metavar="RUN", help="How RUN turned out against the plan made for it.")
@json_option
@in_project
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
@click.pass_context
def plan(  # noqa: PLR0913 - one parameter for each option of the command
    ctx: click.Context,
    *,
    target: str | None,
    deadline: str | None,
    budget: str | None,
    catalogs: tuple[str, ...],
    workers: str | None,
    speeds: tuple[str, ...],
    startups: tuple[str, ...],
    factors: tuple[str, ...],
    run: str | None,
    as_json: bool,
    project: Path | None,
    parameters: tuple[str, ...],
) -> int:
    """Predict time, money and efficiency of the pipeline in FILE.py, here and on the instance types of price lists.

    Nothing runs. Durations and laws of scaling are read from earlier runs and studies of the project; stored results are
    left out; what nobody measured is said, with the command that would measure it. Every figure has an interval. Shown
    are this machine and the configurations that no other beats in time or money; --json has all. The pipeline's
    parameters are options, as for `hooke run`. Exit codes: 0 a configuration is recommended, or nothing is left to do;
    1 none can be; 2 wrong usage.
    """
    session = ctx.ensure_object(CommandSession)
    if run is not None:
        return _check(session, run, target, project, as_json=as_json)
    if target is None:
        raise UsageError("which pipeline?", fix="name its file", next="hooke plan FILE.py")
    try:
        pipeline, path = _load(target)
        args, params = Parameters(pipeline, target=target, verb="plan").parse(parameters)
        session.project = where = Project.find(path) if project is None else the_project(session, project)
        question = Question(
            pipeline=pipeline,
            args=args,
            params=params,
            wish=parsed_wish(deadline, budget),
            workers=_numbers(workers),
            times={name: _factor(name, text) for name, text in pairs("--times", factors).items()},
            catalog=catalogs or None,
            speed=pairs("--speed", speeds),
            startup=pairs("--startup", startups),
        )
        return _told(user_code(lambda: make_plan(question, where), pipeline), session, as_json=as_json)
    except HookeError as error:
        error.next = error.next or _again(error, target, parameters)
        if as_json:
            click.echo(json.dumps({"plan": None, "error": error_facts(error, session)}, indent=2))
        click.echo(error_screen(error, session), err=True)
        return exit_code(error)


def _again(error: HookeError, target: str, tokens: Sequence[str]) -> str:
    """The command itself, where it is the file that is to be fixed; else what there is to choose from."""
    mends_file = isinstance(error, TraceError) or error.__cause__ is not None
    return shlex.join(["hooke", "plan", *((target, *tokens) if mends_file else ("--help",))])


def _told(made: Plan, session: CommandSession, *, as_json: bool) -> int:
    click.echo(json.dumps(made.facts(), indent=2) if as_json else str(made))
    sys.stdout.flush()
    if made.next:
        click.echo(f"next: {command(made.next, session.project)}", err=True)
    return 0 if made.recommended is not None or not any(each.left != 0 for each in made.tasks) else 1


def _check(
    session: CommandSession, run: str, target: str | None, project: Path | None, *, as_json: bool
) -> int:
    if target is not None:
        raise UsageError(f"--check {run} is about a run, and {target} is a file", fix="leave one of them out")
    where = the_project(session, project)
    name = where.runs.find(run)
    found = [
        event
        for segment in read(where.runs.folder(name), "driver")
        for event in segment.events
        if isinstance(event, PlanChecked)
    ]
    if not found:
        raise UsageError(
            f"nothing was planned for run {name}",
            why="a run is checked where it is local, was not resumed, and a plan with its parameters and its number "
            "of workers was made before it",
            next="hooke plan FILE.py",
        )
    click.echo(json.dumps(msgspec.to_builtins(found[-1]), indent=2) if as_json else _checked(name, found[-1]))
    return 0


def _checked(run: str, event: PlanChecked) -> str:
    rows = [
        (
            "all of it",
            "",
            _interval(event.predicted_s),
            format_seconds(event.seconds),
            _verdict(event.predicted_s, event.seconds),
        )
    ]
    for each in event.tasks:
        items = (
            f"{each.ran}"
            if each.planned == each.ran
            else f"{each.ran}, and {each.planned if each.planned is not None else '?'} were planned"
        )
        rows.append(
            (
                each.task,
                items,
                "not counted" if each.predicted_s is None else _interval(each.predicted_s),
                format_seconds(each.seconds),
                "" if each.predicted_s is None else _verdict(each.predicted_s, each.seconds),
            )
        )
    head = f"run {run} on {event.configuration}, against plan {event.plan}"
    return "\n".join(
        [
            head,
            "",
            *aligned(("", "ran", "predicted", "took", ""), rows),
            "",
            "all of it is wall time; a task's seconds are the work of all its calls",
        ]
    )


def _interval(ends: tuple[float, float, float]) -> str:
    low, value, high = map(format_seconds, ends)
    return f"{value} ({low} to {high})"


def _verdict(ends: tuple[float, float, float], seconds: float) -> str:
    low, _, high = ends
    return "inside" if low <= seconds <= high else "faster" if seconds < low else "slower"


def _load(target: str) -> tuple[Pipeline[..., Any], Path]:
    """The pipeline and its file; what the file prints while it is imported is no result."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return load_entry(target)
        except UsageError as error:
            with contextlib.suppress(UsageError):  # it is the first error that counts
                declared, _ = load_service(target)
                error.fix = (
                    f"{declared.name} is a service: hooke plan service {shlex.quote(target)} --rate 100"
                )
            raise


def _numbers(text: str | None) -> Sequence[int] | None:
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--workers {text!r} is no list of whole numbers", fix="write --workers 1,2,4"
        ) from None


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE`, several, as a dict. Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text!r} is no pair", fix=f"write {option} NAME=VALUE")
        pairs[name] = value
    return pairs


def _factor(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--times {name}={text}: {text!r} is no number", fix=f"write --times {name}=100"
        ) from None


# --- `hooke plan FILE.py` for a pipeline, and `hooke plan service FILE.py` for a service.

MOST_REPLICAS = 10_000


@click.group(cls=FileOrVerbs, file_command=plan, name="plan", no_args_is_help=False)
def plans() -> None:
    """Plan for a pipeline of a file; or for a service."""


@plans.command()
@click.argument("target", metavar="FILE.py[:CLASS]")
@click.option(
    "--rate", required=True, type=float, metavar="R", help="Requests a second that are to be borne."
)
@click.option("--slo", metavar="PROMISE", help='"p99 < 50ms"; by default the service\'s own.')
@click.option("--path", default="", metavar="/METHOD", help="[default: the one that was measured last]")
@click.option(
    "--replicas",
    metavar="N,N,...",
    help="Numbers of replicas considered here.  [default: as many as there are cores for]",
)
@click.option(
    "--catalog",
    "catalogs",
    multiple=True,
    metavar="LIST|FILE.csv",
    help="Price lists.  [default: all that are shipped]",
)
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="TYPE=RATIO",
    help="How many times as fast as the machine measured: lambda:cpu_4x_general=1.3, or 1.2-1.5.",
)
@json_option
@in_project
@click.pass_obj
def service(
    session: CommandSession, *, target: str, rate: float, as_json: bool, project: Path | None, **asked: Any
) -> int:
    """Say which configuration bears a rate of arrivals within the promise, here and on the instance types of price lists.

    Nothing runs. Safe rates, and the laws of replicas and of threads, are read from what `hooke bench` kept of the service of
    FILE.py; what nobody measured, and what lies past the knee, has no figure, and the next measurement is named. A figure's low
    end is to be counted on. Shown are this machine and the configurations that no other beats in what they bear or cost;
    --json has all. Exit codes: 0 a configuration is recommended; 1 none can be; 2 wrong usage.
    """
    from hooke.planning.service_plan import (
        ServiceQuestion,
        plan_service,
        service_plan_facts,
        service_plan_text,
    )
    from hooke.scaling.provision import LatencyGoal

    if not 0 < rate < float("inf"):
        raise UsageError(f"--rate {rate:g} is no rate", fix="requests a second: --rate 500")
    promised = parse_slo(asked["slo"]) if asked["slo"] else None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            declared, file = load_service(target)
        session.project = where = Project.find(file) if project is None else the_project(session, project)
        question = ServiceQuestion(
            declared=declared,
            file=file,
            rate=rate,
            promise=LatencyGoal(promised.percent, promised.limit_s) if promised else None,
            method=asked["path"].lstrip("/"),
            replicas=_replica_numbers(asked["replicas"]),
            catalog=asked["catalogs"] or None,
            speed=pairs("--speed", asked["speeds"]),
        )
        made = plan_service(question, where)
    except HookeError as error:
        if as_json:
            click.echo(json.dumps({"plan": None, "error": error_facts(error, session)}, indent=2))
        raise
    click.echo(json.dumps(service_plan_facts(made), indent=2) if as_json else service_plan_text(made))
    sys.stdout.flush()
    if made.next:
        click.echo(f"next: {command(made.next, session.project)}", err=True)
    return 0 if made.choice.offer is not None else 1


def _replica_numbers(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    found = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(found) < len(parts) or not all(1 <= each <= MOST_REPLICAS for each in found):
        raise UsageError(f"--replicas {text} is no list of numbers", fix="--replicas 2, or --replicas 1,2,4")
    return found
