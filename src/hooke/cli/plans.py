"""`hooke plan FILE.py` for a pipeline, and `hooke plan service FILE.py` for a service."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import HookeError, UsageError
from hooke.cli.commands import FileOrVerbs
from hooke.cli.options import in_project, json_option, the_project
from hooke.cli.plan import pairs, plan
from hooke.cli.screens import Session, command, error_facts
from hooke.project.folder import Project
from hooke.project.serving import load_service
from hooke.serving.slo import parse_slo

__all__ = ["plans"]

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
    session: Session, *, target: str, rate: float, as_json: bool, project: Path | None, **asked: Any
) -> int:
    """Say which configuration bears a rate of arrivals within the promise, here and on the instance types of price lists.

    Nothing runs. Safe rates, and the laws of replicas and of threads, are read from what `hooke bench` kept of the service of
    FILE.py; what nobody measured, and what lies past the knee, has no figure, and the next measurement is named. A figure's low
    end is to be counted on. Shown are this machine and the configurations that no other beats in what they bear or cost;
    --json has all. Exit codes: 0 a configuration is recommended; 1 none can be; 2 wrong usage.
    """
    from hooke.project.planning.service import ServiceQuestion, plan_service  # SciPy takes half a second
    from hooke.project.planning.service_text import service_plan_facts, service_plan_text
    from hooke.scaling.provision import Promise

    if not 0 < rate < float("inf"):
        raise UsageError(f"--rate {rate:g} is no rate", mend="requests a second: --rate 500")
    promised = parse_slo(asked["slo"]) if asked["slo"] else None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            declared, file = load_service(target)
        session.project = where = Project.find(file) if project is None else the_project(session, project)
        question = ServiceQuestion(
            declared=declared,
            file=file,
            rate=rate,
            promise=Promise(promised.percent, promised.limit_s) if promised else None,
            method=asked["path"].lstrip("/"),
            replicas=_numbers(asked["replicas"]),
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


def _numbers(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    found = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(found) < len(parts) or not all(1 <= each <= MOST_REPLICAS for each in found):
        raise UsageError(f"--replicas {text} is no list of numbers", mend="--replicas 2, or --replicas 1,2,4")
    return found
