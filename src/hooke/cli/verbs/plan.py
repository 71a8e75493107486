"""`hooke plan`: predicted time and price of a pipeline or a service, and the check of a prediction."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError, TraceError, UsageError
from hooke.base.formats import aligned
from hooke.base.units import parse_seconds
from hooke.cli.drive import load_pipeline, user_code
from hooke.cli.entry import FileOrVerbs
from hooke.cli.options import json_option, lengths_options, number_list, project_option, the_project
from hooke.cli.parameters import Parameters
from hooke.cli.screens import CommandSession, refuse, say_next
from hooke.journal.events import PlanChecked
from hooke.pipeline.pipeline import Pipeline
from hooke.planning.pipeline_plan import Plan, PlanQuestion, make_plan, plan_limits
from hooke.planning.prediction import against
from hooke.project.folder import Project
from hooke.project.token_lengths import asked_lengths
from hooke.services.serve_file import load_service
from hooke.serving.service import Service
from hooke.serving.slo import OF_TOKENS, parse_slo

__all__ = ["pairs", "plan", "plans"]


_catalogs = click.option(
    "--catalog",
    "catalogs",
    multiple=True,
    metavar="LIST|FILE.csv",
    help="Price lists.  [default: all included lists]",
)


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="FILE.py[:PIPELINE]", required=False)
@click.option("--deadline", metavar="TIME", help="The deadline: 30m, 2h.")
@click.option("--budget", metavar="USD", help="The maximum price: 20, or '$20'.")
@_catalogs
@click.option(
    "--workers",
    metavar="N,N,...",
    help="Numbers of workers on this machine.  [default: 1,2,4,... up to the cpus]",
)
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="TYPE=RATIO|@HOST",
    help="Speed relative to the measured machine: lambda:gpu_1x_a10=1.3, or 1.2-1.5, or =@HOST from its runs.",
)
@click.option(
    "--startup",
    "startups",
    multiple=True,
    metavar="LIST=TIME",
    help="Start-up time of instances: digitalocean=1m-2m.",
)
@click.option(
    "--times", "factors", multiple=True, metavar="TASK=N", help="Plan for N times the items of TASK."
)
@click.option(
    "--scale", metavar="N", help="Plan for N times the data: each call reads N times the bytes of its files."
)
@click.option("--check", "run", metavar="RUN", help="Compare RUN with its plan.")
@json_option
@project_option
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
    scale: str | None,
    run: str | None,
    as_json: bool,
    project: Path | None,
    parameters: tuple[str, ...],
) -> int:
    """Predict time, price and efficiency of the pipeline in FILE.py, here and on the instance types of price lists.

    Nothing runs. Durations and scaling laws come from earlier runs and studies of the project. Stored results do not count.
    Missing measurements are listed with the command to make them. Every prediction has an interval. The table has this
    machine and the configurations that no other beats in both time and price; --json has all. The pipeline's parameters
    are options, as for `hooke run`. Exit codes: 0 recommendation, or nothing left to do; 1 no recommendation possible;
    2 wrong usage.
    """
    session = ctx.ensure_object(CommandSession)
    if run is not None:
        return _check(session, run, target, project, as_json=as_json)
    if target is None:
        raise UsageError("missing FILE.py", fix="pass the file of the pipeline", next="hooke plan FILE.py")
    try:
        pipeline, path = _load(target)
        args, params = Parameters(pipeline, target=target, verb="plan").parse(parameters)
        session.project = where = Project.find(path) if project is None else the_project(session, project)
        question = PlanQuestion(
            pipeline=pipeline,
            args=args,
            params=params,
            wish=plan_limits(deadline, budget),
            workers=number_list("--workers", workers),
            times={name: _factor(name, text) for name, text in pairs("--times", factors).items()},
            scale=None if scale is None else _scale(scale),
            catalog=catalogs or None,
            speed=pairs("--speed", speeds),
            startup=pairs("--startup", startups),
        )
        return _told(user_code(lambda: make_plan(question, where), pipeline), session, as_json=as_json)
    except HookeError as error:
        error.next = error.next or _again(error, target, parameters)
        return refuse(error, session, as_json=as_json, plan=None)


def _again(error: HookeError, target: str, tokens: Sequence[str]) -> str:
    """The command itself if the file needs a fix, else its help."""
    in_file = isinstance(error, TraceError) or error.__cause__ is not None
    return shlex.join(["hooke", "plan", *((target, *tokens) if in_file else ("--help",))])


def _told(made: Plan, session: CommandSession, *, as_json: bool) -> int:
    click.echo(json.dumps(made.facts(), indent=2) if as_json else str(made))
    sys.stdout.flush()
    if made.next:
        say_next(made.next, session.project)
    return 0 if made.recommended is not None or not any(each.left != 0 for each in made.tasks) else 1


def _check(
    session: CommandSession, run: str, target: str | None, project: Path | None, *, as_json: bool
) -> int:
    if target is not None:
        raise UsageError(f"--check {run} takes no file, but {target} was passed", fix="omit one of them")
    where = the_project(session, project)
    name = where.runs.find(run)
    found = [event for event in where.runs.events(name) if isinstance(event, PlanChecked)]
    if not found:
        raise UsageError(
            f"run {name} has no plan",
            why="a run is compared if it is local, was not resumed, and was planned before with the same parameters and "
            "number of workers",
            next="hooke plan FILE.py",
        )
    click.echo(json.dumps(msgspec.to_builtins(found[-1]), indent=2) if as_json else _checked(name, found[-1]))
    return 0


def _checked(run: str, event: PlanChecked) -> str:
    rows = [("total", "", *against(event.predicted_s, event.seconds))]
    for each in event.tasks:
        planned = "?" if each.planned is None else str(each.planned)
        items = f"{each.ran}" if each.planned == each.ran else f"{each.ran}, planned {planned}"
        rows.append((each.task, items, *against(each.predicted_s, each.seconds)))
    lines = [f"run {run} on {event.configuration}, against plan {event.plan}", ""]
    lines += aligned(("", "ran", "predicted", "took", ""), rows)
    return "\n".join([*lines, "", "the total is wall time; a task's seconds are the work of all its calls"])


def _load(target: str) -> tuple[Pipeline[..., Any], Path]:
    """`load_pipeline`, with the right verb for a service."""
    try:
        return load_pipeline(target)
    except UsageError as error:
        with contextlib.suppress(UsageError):  # the first error counts
            declared, _ = load_service(target)
            error.fix = f"{declared.name} is a service: hooke plan service {shlex.quote(target)} --rate 100"
        raise


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Several `NAME=VALUE` as a dict. Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text!r} is not a pair", fix=f"write {option} NAME=VALUE")
        pairs[name] = value
    return pairs


def _scale(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--scale {text!r} is not a number", fix="write --scale 10") from None


def _factor(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--times {name}={text}: {text!r} is not a number", fix=f"write --times {name}=100"
        ) from None


# --- `hooke plan service FILE.py`.

MOST_REPLICAS = 10_000


@click.group(cls=FileOrVerbs, file_command=plan, name="plan", no_args_is_help=False)
def plans() -> None:
    """Plan a pipeline of a file, or a service."""


@plans.command()
@click.argument("target", metavar="FILE.py[:CLASS]")
@click.option("--rate", type=float, metavar="R", help="Requests per second to sustain.")
@click.option(
    "--slo",
    metavar="SLO",
    help='Such as "p99 < 50ms"; of a language model "p95 first < 2s, each < 100ms".  [default: the SLO of the service]',
)
@click.option(
    "--path", default="", metavar="/METHOD", help="The path to plan for.  [default: the one measured last]"
)
@click.option(
    "--replicas", metavar="N,N,...", help="Numbers of replicas on this machine.  [default: up to the cores]"
)
@_catalogs
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="TYPE=RATIO",
    help="Speed relative to the measured machine: lambda:cpu_4x_general=1.3, or 1.2-1.5.",
)
@click.option("--users", type=float, metavar="N", help="Instead of --rate: so many users ...")
@click.option("--every", metavar="TIME", help="... each of whom sends a request every TIME on average.")
@lengths_options("Of a language model", default="the mean of the last run")
@json_option
@project_option
@click.pass_obj
def service(
    session: CommandSession,
    *,
    target: str,
    rate: float | None,
    as_json: bool,
    project: Path | None,
    **asked: Any,
) -> int:
    """Find the configuration that sustains a rate within the SLO, here and on the instance types of price lists.

    Nothing runs. Safe rates, and the laws over replicas and threads, come from `hooke bench` results of the service in
    FILE.py. Unmeasured configurations and those past the knee have no prediction; the next measurement is suggested.
    Count on the low end of a prediction. The table has this machine and the configurations that no other beats in both
    rate and price; --json has all. For a language model with protocol="openai", the answer is how many replicas keep the SLO, and the price of a million tokens, cheapest first; it comes from the law of a step in the service's newest run.
    Exit codes: 0 recommendation; 1 no recommendation possible; 2 wrong usage.
    """
    rate, users = _rate_of(rate, asked.pop("users"), asked.pop("every"))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            declared, file = load_service(target)
        session.project = where = Project.find(file) if project is None else the_project(session, project)
        if declared.protocol == "openai":
            return _plan_tokens(declared, where, rate=rate, users=users, as_json=as_json, **asked)
        return _plan_requests(session, declared, file, where, rate=rate, as_json=as_json, **asked)
    except HookeError as error:
        return refuse(error, session, as_json=as_json, plan=None)


def _rate_of(rate: float | None, users: float | None, every: str | None) -> tuple[float, str]:
    """Requests a second, and whose they are in words. Raises UsageError."""
    example = "--rate 500, or --users 1000 --every 2m"
    if (rate is None) == (users is None) or (users is None) != (every is None):
        raise UsageError("missing what to sustain", fix=f"give {example}")
    said = ""
    if users is not None and every is not None:
        pause_s = parse_seconds(every, name="--every")
        rate, said = (
            users / pause_s if pause_s else math.inf,
            f"{users:,.10g} users, a request every {every} each",
        )
    if rate is None or not 0 < rate < math.inf:
        raise UsageError(f"{said or f'--rate {rate:g}'} is not a rate", fix=f"use {example}")
    return rate, said


def _plan_tokens(
    declared: Service, where: Project, *, rate: float, users: str, as_json: bool, **asked: Any
) -> int:
    from hooke.planning.token_plan import (
        TokenQuestion,
        plan_tokens,
        token_plan_facts,
        token_plan_text,
    )

    for name in ("path", "replicas"):
        if asked[name]:
            raise UsageError(
                f"--{name} is not for language models, and {declared.name} is one", fix=f"omit --{name}"
            )
    slo = parse_slo(asked["slo"], of_tokens=True) if asked["slo"] else declared.slo
    if slo is None:
        raise UsageError(
            f"{declared.name} has no SLO",
            fix=f'give one: --slo "{OF_TOKENS}", or @service(slo=...) in the class',
        )
    lengths = asked_lengths(asked["lengths"], asked["length_scale"])
    question = TokenQuestion(
        declared=declared,
        rate=rate,
        users=users,
        slo=slo,
        lengths=lengths,
        catalog=asked["catalogs"] or None,
        speed=pairs("--speed", asked["speeds"]),
    )
    made = plan_tokens(question, where)
    click.echo(json.dumps(token_plan_facts(made), indent=2) if as_json else token_plan_text(made))
    return 0 if any(not each.refused for each in made.offers) else 1


def _plan_requests(
    session: CommandSession,
    declared: Service,
    file: Path,
    where: Project,
    *,
    rate: float,
    as_json: bool,
    **asked: Any,
) -> int:
    from hooke.planning.service_plan import (
        ServiceQuestion,
        plan_service,
        service_plan_facts,
        service_plan_text,
    )
    from hooke.scaling.provision import LatencyGoal

    used = ["--lengths"] * bool(asked["lengths"]) + ["--length-scale"] * (asked["length_scale"] != 1)
    if used:
        raise UsageError(
            f"{used[0]} is for language models; {declared.name} is not one", fix=f"omit {used[0]}"
        )
    promised = parse_slo(asked["slo"], of_tokens=False) if asked["slo"] else None
    question = ServiceQuestion(
        declared=declared,
        file=file,
        rate=rate,
        promise=LatencyGoal(promised.percent, promised.limit_s) if promised else None,
        method=asked["path"].lstrip("/"),
        replicas=number_list("--replicas", asked["replicas"], most=MOST_REPLICAS) or (),
        catalog=asked["catalogs"] or None,
        speed=pairs("--speed", asked["speeds"]),
    )
    made = plan_service(question, where)
    click.echo(json.dumps(service_plan_facts(made), indent=2) if as_json else service_plan_text(made))
    sys.stdout.flush()
    if made.next:
        say_next(made.next, session.project)
    return 0 if made.choice.offer is not None else 1
