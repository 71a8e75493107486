"""`hooke run`: runs a pipeline, with its parameters as options."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click

from hooke.base.errors import HookeError, TraceError
from hooke.cli.drive import DrivenRun, load_pipeline, user_code
from hooke.cli.options import backend_options, debug_option, json_option, worker_range
from hooke.cli.parameters import Parameters
from hooke.cli.screens import CommandSession
from hooke.fleets.elastic import parse_wanted
from hooke.project.backends import find_backend
from hooke.project.folder import Project
from hooke.running.driver import Driver, RunOrder, prepare

__all__ = ["run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options as typed: backend, workers, deadline, budget."""

    on: str
    workers: str | None
    deadline: str | None
    budget: str | None
    allow_mismatch: tuple[str, ...]
    force: tuple[str, ...]


ALL = "*"
"""The value of `--force` without a task."""


class _RunCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, but the word after `--force` is not its value: `hooke run --force job.py`."""
        end = args.index("--") if "--" in args else len(args)
        args[:end] = [f"--force={ALL}" if word == "--force" else word for word in args[:end]]
        return super().parse_args(ctx, args)


@click.command(
    cls=_RunCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("target", metavar="FILE.py[:PIPELINE]", required=False)
@backend_options(default="local")
@click.option("--deadline", metavar="TIME", help="The deadline: 30m, 2h. Needs --workers LOW-HIGH.")
@click.option(
    "--budget",
    metavar="USD",
    help="The budget: 20, or '$20'. Needs --workers LOW-HIGH and a price in hooke.toml.",
)
@click.option(
    "--allow-mismatch",
    metavar="NAME",
    multiple=True,
    help="A distribution, or python, whose version may differ on remote workers. Can be repeated.",
)
@click.option(
    "--force",
    metavar="[=TASK]",
    multiple=True,
    help="Run TASK (all tasks without =TASK) although its result is stored, and all that uses it. Can be repeated.",
)
@json_option
@debug_option
@click.option("--help", "asked_help", is_flag=True, help="Show this help, and with a FILE its parameters.")
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
@click.pass_context
def run(  # noqa: PLR0913 - one parameter for each option of the command
    ctx: click.Context,
    *,
    target: str | None,
    backend: str,
    workers: str | None,
    deadline: str | None,
    budget: str | None,
    allow_mismatch: tuple[str, ...],
    force: tuple[str, ...],
    as_json: bool,
    asked_help: bool,
    parameters: tuple[str, ...],
) -> int:
    """Run the only pipeline of FILE.py, or the named one.

    The pipeline's parameters are options: `def delays(months: int, fast: bool = False)` takes --months 3 --fast. Pass
    parameters with the name of a Hooke option after --. The result goes to stdout, everything else to stderr.
    Exit codes: 0 finished, 1 a task failed or the run finished with failures, 2 wrong usage, 130 stopped
    (Ctrl-C, hooke stop).
    """
    if target is None or asked_help:
        return _help(ctx, target)
    session = ctx.ensure_object(CommandSession)
    refused = DrivenRun(session=session, as_json=True) if as_json else None
    try:
        asked = _Asked(
            on=backend,
            workers=workers,
            deadline=deadline,
            budget=budget,
            allow_mismatch=allow_mismatch,
            force=force,
        )
        conduct, driver = _driver(session, target, parameters, asked=asked, as_json=as_json)
    except HookeError as error:
        error.next = error.next or _again(error, target, parameters)
        if refused is None:
            raise
        return refused.refused(error)
    return conduct.drive(driver)


def _driver(
    session: CommandSession, target: str, tokens: Sequence[str], *, asked: _Asked, as_json: bool
) -> tuple[DrivenRun, Driver]:
    pipeline, path = load_pipeline(target)
    args, params = Parameters(pipeline, target=target).parse(tokens)
    session.project = project = Project.find(path)
    counts = worker_range(asked.workers)
    found = find_backend(asked.on, workers=None, places=project.settings.places)
    conduct = DrivenRun(
        session=session,
        as_json=as_json,
        typed=shlex.join(["hooke", "run", target, *tokens]),
        in_this_process=found.engine == "serial",
    )
    order = RunOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        on=asked.on,
        workers=counts,
        wanted=parse_wanted(asked.deadline, asked.budget, now=time.time()),
        allow_mismatch=asked.allow_mismatch,
        force=ALL in asked.force or asked.force,
        observers=(conduct.progress.observe,),
    )
    return conduct, user_code(lambda: prepare(order, project), pipeline)


def _again(error: HookeError, target: str, tokens: Sequence[str]) -> str:
    """The command itself if the file needs a fix."""
    if isinstance(error, TraceError) or error.__cause__ is not None:
        return shlex.join(["hooke", "run", target, *tokens])
    return ""


def _help(ctx: click.Context, target: str | None) -> int:
    click.echo(ctx.command.get_help(ctx))
    if target is None:
        return 0
    parameters = Parameters(load_pipeline(target)[0], target=target)
    formatter = ctx.make_formatter()
    formatter.write_paragraph()
    with formatter.section(f"Parameters of {parameters.pipeline.name!r}"):
        formatter.write_dl(parameters.rows() or [("(none)", "")])
    click.echo(formatter.getvalue().rstrip())
    return 0
